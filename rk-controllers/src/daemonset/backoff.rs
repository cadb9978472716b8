//! How long a failed Pod stays before it is made anew: longer each time, for each node.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::key::ObjectKey;

/// The first delay; each further one is twice as long.
const FIRST: Duration = Duration::from_secs(1);
/// The longest delay.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// The delays in force. Those that have not been used for twice the longest are forgotten, so there
/// are never more than Pods failed in that time.
#[derive(Debug, Default)]
pub(super) struct Backoff(Mutex<HashMap<ObjectKey, HashMap<String, Delay>>>);

#[derive(Clone, Copy, Debug)]
struct Delay {
    length: Duration,
    since: Instant,
}

impl Delay {
    fn is_over_for_good(&self) -> bool {
        self.since.elapsed() > LONGEST * 2
    }
}

impl Backoff {
    /// How long the failed Pod of a node must stay yet; `None` if it may go.
    pub(super) fn left(&self, set: &ObjectKey, node: &str) -> Option<Duration> {
        let delays = self.0.lock();
        let delay = delays.get(set)?.get(node).filter(|delay| !delay.is_over_for_good())?;
        delay.length.checked_sub(delay.since.elapsed()).filter(|left| !left.is_zero())
    }

    /// A failed Pod of the node was deleted; the next one has to stay longer.
    pub(super) fn lengthen(&self, set: &ObjectKey, node: &str) {
        let mut delays = self.0.lock();
        let of_set = delays.entry(set.clone()).or_default();
        of_set.retain(|_, delay| !delay.is_over_for_good());
        let length = of_set.get(node).map_or(FIRST, |delay| (delay.length * 2).min(LONGEST));
        of_set.insert(node.to_owned(), Delay { length, since: Instant::now() });
    }

    /// The set is gone or has changed: what failed may not fail again.
    pub(super) fn forget(&self, set: &ObjectKey) {
        self.0.lock().remove(set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_failure_doubles_the_delay_until_it_is_long_ago() {
        let (backoff, set) = (Backoff::default(), ObjectKey::new("default", "log"));
        assert_eq!(backoff.left(&set, "n1"), None);
        backoff.lengthen(&set, "n1");
        assert_eq!(backoff.left(&set, "n1"), Some(Duration::from_secs(1)));
        assert_eq!(backoff.left(&set, "n2"), None);

        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(backoff.left(&set, "n1"), None);
        backoff.lengthen(&set, "n1");
        assert_eq!(backoff.left(&set, "n1"), Some(Duration::from_secs(2)));
        for _ in 0..20 {
            backoff.lengthen(&set, "n1");
        }
        assert_eq!(backoff.left(&set, "n1"), Some(LONGEST));

        tokio::time::advance(LONGEST * 2 + Duration::from_secs(1)).await;
        backoff.lengthen(&set, "n1");
        assert_eq!(backoff.left(&set, "n1"), Some(FIRST));
        backoff.forget(&set);
        assert_eq!(backoff.left(&set, "n1"), None);
    }
}
