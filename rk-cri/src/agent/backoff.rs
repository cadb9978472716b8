//! Pauses that grow: 10 s, doubled with each failure, 5 min at most, forgotten after 10 min of quiet.

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

const FIRST: Duration = Duration::from_secs(10);
/// The longest pause, unless the node has a shorter one.
pub(crate) const LONGEST: Duration = Duration::from_secs(300);
/// After an event this long after the last try, counting begins anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// The pause after failures of one thing (a container's restarts, an image's pulls).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BackOff {
    last: Option<(Timestamp, Duration)>,
}

impl BackOff {
    /// Nothing was tried yet.
    #[cfg(test)]
    pub(crate) const NEW: Self = Self { last: None };

    /// How long to wait still, if something that failed at `failed_at` may not be tried again yet.
    pub(crate) fn remaining(&self, failed_at: Timestamp, now: Timestamp) -> Option<Duration> {
        let (tried_at, pause) = self.last?;
        if since(tried_at, failed_at) > FORGOTTEN_AFTER {
            return None;
        }
        pause.checked_sub(since(failed_at, now)).filter(|left| !left.is_zero())
    }

    /// How long to wait still after the last try.
    pub(crate) fn remaining_since_try(&self, now: Timestamp) -> Option<Duration> {
        self.remaining(self.last?.0, now)
    }

    /// The pause that applies now.
    pub(crate) fn pause(&self) -> Duration {
        self.last.map_or(FIRST, |(_, pause)| pause)
    }

    /// Notes a try at `now` of what failed at `failed_at`; no pause is longer than `longest`.
    pub(crate) fn tried(&mut self, failed_at: Timestamp, now: Timestamp, longest: Duration) {
        let pause = match self.last {
            Some((tried_at, pause)) if since(tried_at, failed_at) <= FORGOTTEN_AFTER => {
                (pause * 2).min(longest)
            }
            _ => FIRST.min(longest),
        };
        self.last = Some((now, pause));
    }
}

fn since(earlier: Timestamp, later: Timestamp) -> Duration {
    later.duration_since(earlier).max(SignedDuration::ZERO).unsigned_abs()
}

/// A pause as Go prints it: `10s`, `2m40s`, `5m0s`.
pub(crate) fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let mut back_off = BackOff::default();
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            // It fails one second after each try, and is tried again as soon as it may be.
            let failed = now + 1;
            let wait = back_off.remaining(at(failed), at(failed)).unwrap_or_default();
            pauses.push(wait.as_secs());
            now = failed + wait.as_secs() as i64;
            assert_eq!(back_off.remaining(at(failed), at(now)), None);
            back_off.tried(at(failed), at(now), LONGEST);
        }
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_minutes_of_running_forgive() {
        let mut back_off = BackOff::default();
        back_off.tried(at(0), at(0), LONGEST);
        back_off.tried(at(5), at(10), LONGEST);
        assert_eq!(back_off.pause(), Duration::from_secs(20));
        assert_eq!(back_off.remaining(at(611), at(611)), None);
        back_off.tried(at(611), at(611), LONGEST);
        assert_eq!(back_off.pause(), FIRST);
    }

    #[test]
    fn pauses_print_as_go_prints_them() {
        for (seconds, text) in [(10, "10s"), (160, "2m40s"), (300, "5m0s"), (3600, "1h0m0s")] {
            assert_eq!(go_duration(Duration::from_secs(seconds)), text);
        }
    }
}
