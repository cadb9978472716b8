//! How fast nodes may be given up, by the state of their zone. Pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use super::health::Readiness;

/// A zone is partly disrupted from this share of nodes that are not ready, in percent.
const UNHEALTHY_PERCENT: usize = 55;
/// Up to so many nodes a partly disrupted zone evicts nobody.
const LARGE_ZONE: usize = 50;
/// One node in so many seconds, normally and in a large zone that is partly disrupted.
const NORMAL_INTERVAL: SignedDuration = SignedDuration::from_secs(10);
const SLOW_INTERVAL: SignedDuration = SignedDuration::from_secs(100);

/// The nodes of a zone, counted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Zone {
    ready: usize,
    not_ready: usize,
}

impl Zone {
    /// No node of it is ready.
    pub(super) fn is_fully_disrupted(&self) -> bool {
        self.ready == 0 && self.not_ready > 0
    }

    fn is_partly_disrupted(&self) -> bool {
        self.not_ready > 2
            && self.not_ready * 100 >= UNHEALTHY_PERCENT * (self.ready + self.not_ready)
    }

    /// The time between two evictions; `None` for no eviction at all.
    fn interval(&self) -> Option<SignedDuration> {
        if self.is_fully_disrupted() || !self.is_partly_disrupted() {
            return Some(NORMAL_INTERVAL);
        }
        (self.ready + self.not_ready > LARGE_ZONE).then_some(SLOW_INTERVAL)
    }
}

/// Region and zone of a node; nodes without labels share one.
pub(super) fn zone_name(node: &Node) -> String {
    let label = |name: &str| node.labels().get(name).map_or("", String::as_str);
    format!("{}/{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

/// All zones.
pub(super) fn zones<'a>(
    nodes: impl Iterator<Item = (&'a Node, Readiness)>,
) -> BTreeMap<String, Zone> {
    let mut zones: BTreeMap<String, Zone> = BTreeMap::new();
    for (node, readiness) in nodes {
        let zone = zones.entry(zone_name(node)).or_default();
        match readiness {
            Readiness::Ready => zone.ready += 1,
            Readiness::NotReady | Readiness::Unreachable => zone.not_ready += 1,
        }
    }
    zones
}

/// When each zone last gave up a node.
#[derive(Debug, Default)]
pub(super) struct EvictionLimiter(BTreeMap<String, Timestamp>);

impl EvictionLimiter {
    /// Whether a node of the zone may be given up now; if so, that is noted.
    pub(super) fn allows(&mut self, name: &str, zone: &Zone, now: Timestamp) -> bool {
        let Some(interval) = zone.interval() else { return false };
        let allowed = self.0.get(name).is_none_or(|last| now.duration_since(*last) >= interval);
        if allowed {
            self.0.insert(name.to_owned(), now);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn nodes_are_given_up_one_in_ten_seconds() {
        let zone = Zone { ready: 9, not_ready: 2 };
        let mut limiter = EvictionLimiter::default();
        let allowed: Vec<i64> =
            (0..30).filter(|second| limiter.allows("z", &zone, at(*second))).collect();
        assert_eq!(allowed, [0, 10, 20]);
    }

    #[test]
    fn a_small_zone_that_is_mostly_down_gives_up_nobody_and_a_large_one_slowly() {
        let mut limiter = EvictionLimiter::default();
        assert!(!limiter.allows("small", &Zone { ready: 4, not_ready: 6 }, at(0)));
        let large = Zone { ready: 40, not_ready: 60 };
        let allowed: Vec<i64> =
            (0..200).filter(|second| limiter.allows("large", &large, at(*second))).collect();
        assert_eq!(allowed, [0, 100]);
    }

    proptest! {
        /// Whatever happens to the nodes of a zone, between two that it gives up there are ten
        /// seconds, and more in a large zone that is mostly down; a small one gives up none then.
        #[test]
        fn evictions_are_apart(
            moments in prop::collection::vec((0..15i64, 0..60usize, 0..60usize), 0..80),
        ) {
            let mut limiter = EvictionLimiter::default();
            let (mut now, mut last) = (0, None);
            for (pause, ready, not_ready) in moments {
                now += pause;
                let zone = Zone { ready, not_ready };
                let allowed = limiter.allows("z", &zone, at(now));
                let mostly_down = not_ready > 2 && not_ready * 100 >= 55 * (ready + not_ready);
                let slowed = mostly_down && ready > 0;
                let needed = match (slowed, ready + not_ready > 50) {
                    (true, false) => None,
                    (true, true) => Some(100),
                    (false, _) => Some(10),
                };
                let due = needed.is_some_and(|needed| last.is_none_or(|last| now - last >= needed));
                prop_assert_eq!(allowed, due, "{} of {} at {}", not_ready, ready + not_ready, now);
                if allowed {
                    last = Some(now);
                }
            }
        }
    }
}
