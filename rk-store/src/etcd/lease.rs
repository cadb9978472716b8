//! Leases for times to live: many keys share one, as kube-apiserver has them share.
//!
//! A lease costs etcd a write and a timer. Keys that are written within moments of each other, for
//! about the same time, expire together; none expires early.

use std::time::Duration;

use tokio::time::Instant;

/// The longest that keys live on for the sake of sharing.
const LATER_SECONDS_MAX: u64 = 60;

/// So many keys share a lease at most: etcd deletes them in one transaction.
const KEYS_MAX: usize = 1000;

/// What a write may take to get from here into etcd without its key expiring early.
const ON_THE_WAY: Duration = Duration::from_secs(1);

/// The lease that was granted last.
#[derive(Debug, Default)]
pub(super) struct Leases {
    last: Option<Lease>,
}

#[derive(Debug)]
struct Lease {
    id: i64,
    /// It does not expire before this.
    expires: Instant,
    keys: usize,
}

impl Leases {
    /// A lease for a key that is written now and lives for `ttl`, if the last one can be shared.
    pub(super) fn share(&mut self, now: Instant, ttl: Duration) -> Option<i64> {
        let last = self.last.as_mut()?;
        let earliest = now + ttl + ON_THE_WAY;
        let latest = now + Duration::from_secs(seconds(ttl));
        if last.keys >= KEYS_MAX || last.expires < earliest || last.expires > latest {
            return None;
        }
        last.keys += 1;
        Some(last.id)
    }

    /// Notes a lease that was asked for at `asked`, for [`seconds`].
    pub(super) fn granted(&mut self, id: i64, asked: Instant, seconds: u64) {
        self.last = Some(Lease { id, expires: asked + Duration::from_secs(seconds), keys: 1 });
    }

    /// A lease turned out to be gone.
    pub(super) fn forget(&mut self, id: i64) {
        self.last.take_if(|last| last.id == id);
    }
}

/// How long a lease to ask for, for keys that live for `ttl`: 5 % longer, to be shared.
pub(super) fn seconds(ttl: Duration) -> u64 {
    let whole = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    whole + ON_THE_WAY.as_secs() + (whole / 20).min(LATER_SECONDS_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn keys_of_the_same_minute_share_a_lease() {
        let mut leases = Leases::default();
        let start = Instant::now();
        assert_eq!(leases.share(start, HOUR), None);
        leases.granted(7, start, seconds(HOUR));

        assert_eq!(leases.share(start + Duration::from_secs(60), HOUR), Some(7));
        assert_eq!(leases.share(start + Duration::from_secs(61), HOUR), None, "it would be early");
        assert_eq!(leases.share(start, HOUR / 2), None, "it would be half an hour late");
    }

    #[test]
    fn a_lease_has_a_thousand_keys_at_most() {
        let mut leases = Leases::default();
        let start = Instant::now();
        leases.granted(7, start, seconds(HOUR));
        let shared = (0..2000).filter(|_| leases.share(start, HOUR).is_some()).count();
        assert_eq!(shared, KEYS_MAX - 1);
    }

    #[test]
    fn a_lease_that_is_gone_is_not_shared() {
        let mut leases = Leases::default();
        let start = Instant::now();
        leases.granted(7, start, seconds(HOUR));
        leases.forget(6);
        assert_eq!(leases.share(start, HOUR), Some(7));
        leases.forget(7);
        assert_eq!(leases.share(start, HOUR), None);
    }

    proptest! {
        #[test]
        fn no_key_expires_early_or_much_too_late(
            writes in proptest::collection::vec((0u64..5_000, 1u64..100_000), 1..100),
        ) {
            let mut leases = Leases::default();
            let (mut now, mut id, mut expiry) = (Instant::now(), 0, std::collections::HashMap::new());
            for (pause, ttl) in writes {
                now += Duration::from_millis(pause);
                let ttl = Duration::from_millis(ttl);
                let used = leases.share(now, ttl).unwrap_or_else(|| {
                    id += 1;
                    leases.granted(id, now, seconds(ttl));
                    expiry.insert(id, now + Duration::from_secs(seconds(ttl)));
                    id
                });
                let lives = expiry[&used] - now;
                prop_assert!(lives >= ttl + ON_THE_WAY);
                // Leases last whole seconds, and a part of one counts as a whole one.
                let whole = ttl + Duration::from_secs(1);
                prop_assert!(lives <= whole + whole / 20 + ON_THE_WAY);
            }
        }
    }
}
