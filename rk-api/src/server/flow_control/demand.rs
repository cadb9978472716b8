//! How many seats a priority level could use over time.

use std::time::Duration;

use tokio::time::Instant;

/// How slowly what is smoothed follows a demand that falls: about five minutes for most of it, at an
/// adjustment each ten seconds.
const SMOOTHING: f64 = 0.977;

/// The integral of a demand since the last adjustment.
#[derive(Clone, Debug)]
pub(super) struct Integrator {
    at: Instant,
    demand: f64,
    max: f64,
    elapsed: f64,
    first: f64,
    second: f64,
}

/// What an adjustment looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Demand {
    /// The time-weighted average over the last period.
    pub average: f64,
    /// Its standard deviation.
    pub deviation: f64,
    /// The highest of the last period.
    pub high_watermark: u32,
    /// What is a little above the average, quick to rise and slow to fall.
    pub smoothed: f64,
}

impl Integrator {
    /// No demand, from now on.
    pub(super) fn new(now: Instant) -> Self {
        Self { at: now, demand: 0.0, max: 0.0, elapsed: 0.0, first: 0.0, second: 0.0 }
    }

    /// The demand from now on.
    pub(super) fn set(&mut self, now: Instant, demand: u32) {
        self.advance(now);
        self.demand = f64::from(demand);
        self.max = self.max.max(self.demand);
    }

    /// Ends a period and begins the next.
    pub(super) fn end_period(&mut self, now: Instant, known: &mut Demand) {
        self.advance(now);
        known.high_watermark = self.max as u32;
        if self.elapsed > 0.0 {
            let average = self.first / self.elapsed;
            let variance = self.second / self.elapsed - average * average;
            known.average = average;
            // Rounding can make it negative.
            known.deviation = variance.max(0.0).sqrt();
            let envelope = known.average + known.deviation;
            let falling = SMOOTHING * known.smoothed + (1.0 - SMOOTHING) * envelope;
            known.smoothed = envelope.max(falling);
        }
        *self = Self { demand: self.demand, max: self.demand, ..Self::new(now) };
    }

    fn advance(&mut self, now: Instant) {
        let elapsed: Duration = now.saturating_duration_since(self.at);
        let elapsed = elapsed.as_secs_f64();
        self.at = now;
        self.elapsed += elapsed;
        self.first += elapsed * self.demand;
        self.second += elapsed * self.demand * self.demand;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demand_is_weighted_by_time() {
        let start = Instant::now();
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        let mut integrator = Integrator::new(start);
        let mut demand = Demand::default();
        integrator.set(start, 10);
        integrator.set(after(5), 0);
        integrator.end_period(after(10), &mut demand);
        assert_eq!((demand.average, demand.deviation, demand.high_watermark), (5.0, 5.0, 10));
        assert_eq!(demand.smoothed, 10.0, "it rises at once");

        integrator.end_period(after(20), &mut demand);
        assert_eq!((demand.average, demand.high_watermark), (0.0, 0));
        assert!((demand.smoothed - 9.77).abs() < 1e-9, "it falls slowly");
    }
}
