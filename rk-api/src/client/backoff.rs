use std::time::Duration;

use tokio::time::Instant;

use crate::rng;

/// Growing pauses between retries: each `factor` times the one before, up to `max`, lengthened by
/// jitter so that many clients do not come back at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    jitter: f64,
    reset_after: Duration,
    next: Duration,
    last: Option<Instant>,
}

impl Backoff {
    /// Pauses doubling from `min` to `max`, with jitter of up to the pause itself; back at `min`
    /// after two minutes without a retry.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, jitter: 1.0, reset_after: Duration::from_secs(120), next: min, last: None }
    }

    /// The pauses of client-go's reflectors: 0.8 s to 30 s.
    pub fn for_watches() -> Self {
        Self::new(Duration::from_millis(800), Duration::from_secs(30))
    }

    /// With jitter of up to `factor` of a pause; 0 for none.
    #[must_use]
    pub fn with_jitter(mut self, factor: f64) -> Self {
        self.jitter = factor;
        self
    }

    /// How long to wait before the next try.
    pub fn pause(&mut self) -> Duration {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) >= self.reset_after) {
            self.next = self.min;
        }
        self.last = Some(now);
        let pause = self.next;
        self.next = (self.next * 2).min(self.max);
        if self.jitter > 0.0 { rng::jitter(pause, self.jitter) } else { pause }
    }

    /// Something worked: the next pause is the shortest again.
    pub fn reset(&mut self) {
        self.next = self.min;
        self.last = None;
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.pause())
    }
}

/// For streams of [`kube::runtime`], whose own back-off takes chance from elsewhere.
impl kube::runtime::utils::Backoff for Backoff {
    fn reset(&mut self) {
        Self::reset(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_the_limit_and_start_over_after_a_calm() {
        let mut backoff =
            Backoff::new(Duration::from_secs(1), Duration::from_secs(5)).with_jitter(0.0);
        let pauses: Vec<_> = (0..4).map(|_| backoff.pause().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 5]);

        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(backoff.pause().as_secs(), 1);
        backoff.pause();
        backoff.reset();
        assert_eq!(backoff.pause().as_secs(), 1);
    }
}
