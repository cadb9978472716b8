//! What becomes of thresholds over time: which are met for long enough, and under which pressure
//! the node says it is. Pure: the time is an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::thresholds::{Observations, Pressure, Threshold};

/// Thresholds, and since when they are met.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    thresholds: Vec<Threshold>,
    /// How long a pressure is shown after it was last seen, so that it does not come and go.
    transition: Duration,
    /// By the threshold's place.
    met_since: BTreeMap<usize, Instant>,
    pressed_at: BTreeMap<Pressure, Instant>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// What the node's conditions say.
    pub(crate) pressures: BTreeSet<Pressure>,
    /// What there is too little of, for long enough: the worst.
    pub(crate) starved: Option<Threshold>,
}

impl Watch {
    pub(crate) fn new(thresholds: Vec<Threshold>, transition: Duration) -> Self {
        Self { thresholds, transition, ..Self::default() }
    }

    /// Whether there is anything to watch.
    pub(crate) fn is_idle(&self) -> bool {
        self.thresholds.is_empty()
    }

    /// Takes in what there is now.
    pub(crate) fn look(&mut self, seen: &Observations, now: Instant) -> Verdict {
        let mut starved: Option<Threshold> = None;
        for (at, threshold) in self.thresholds.iter().enumerate() {
            // A threshold that was met stays so until enough is reclaimed.
            let was_met = self.met_since.contains_key(&at);
            if !threshold.is_met(seen, was_met) {
                self.met_since.remove(&at);
                continue;
            }
            let since = *self.met_since.entry(at).or_insert(now);
            // The pressure is shown at once; a soft threshold only acts later.
            self.pressed_at.insert(threshold.signal.pressure(), now);
            let due = now.duration_since(since) >= threshold.grace;
            // Memory first, and hard before soft: nothing can be done about memory but to end Pods.
            let rank = |threshold: &Threshold| (threshold.signal, !threshold.is_hard());
            if due && starved.is_none_or(|worst| rank(threshold) < rank(&worst)) {
                starved = Some(*threshold);
            }
        }
        let transition = self.transition;
        self.pressed_at.retain(|_, at| *at == now || now.duration_since(*at) < transition);
        Verdict { pressures: self.pressed_at.keys().copied().collect(), starved }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::agent::eviction::thresholds::{Amount, Observation, Signal};

    fn memory(least: i64, grace: u64, reclaim: i64) -> Threshold {
        Threshold {
            signal: Signal::MemoryAvailable,
            least: Amount::Absolute(least),
            grace: Duration::from_secs(grace),
            reclaim: Some(Amount::Absolute(reclaim)),
        }
    }

    fn available(amount: i64) -> Observations {
        [(Signal::MemoryAvailable, Observation { available: amount, capacity: 1000 })].into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_soft_threshold_shows_its_pressure_and_acts_after_its_grace_period() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut watch = Watch::new(vec![memory(100, 30, 0)], Duration::from_secs(300));
        assert!(watch.look(&available(200), at(0)).pressures.is_empty());
        let verdict = watch.look(&available(50), at(10));
        assert_eq!((verdict.pressures.len(), verdict.starved), (1, None));
        assert!(watch.look(&available(50), at(39)).starved.is_none());
        assert!(watch.look(&available(50), at(40)).starved.is_some());
        // It recovers: it does not act, and the pressure is shown for a while.
        let verdict = watch.look(&available(200), at(50));
        assert_eq!((verdict.pressures.len(), verdict.starved), (1, None));
        assert!(!watch.look(&available(200), at(339)).pressures.is_empty());
        assert!(watch.look(&available(200), at(340)).pressures.is_empty());
        // Its grace period begins anew.
        assert!(watch.look(&available(50), at(400)).starved.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn memory_comes_before_disks() {
        let now = Instant::now();
        let disk = Threshold {
            signal: Signal::NodefsAvailable,
            least: Amount::Share(0.1),
            grace: Duration::ZERO,
            reclaim: None,
        };
        let mut watch = Watch::new(vec![disk, memory(100, 0, 0)], Duration::ZERO);
        let mut seen = available(50);
        seen.insert(Signal::NodefsAvailable, Observation { available: 1, capacity: 1000 });
        let verdict = watch.look(&seen, now);
        assert_eq!(verdict.starved.unwrap().signal, Signal::MemoryAvailable);
        assert_eq!(verdict.pressures, [Pressure::Memory, Pressure::Disk].into());
    }

    proptest! {
        /// The slow model: replay all that was seen, each time from the beginning.
        #[test]
        fn a_threshold_acts_when_it_was_met_all_along_its_grace_period(
            amounts in proptest::collection::vec(0i64..300, 1..60),
            grace in 0u64..8, reclaim in 0i64..60,
        ) {
            let begin = Instant::now();
            let threshold = memory(100, grace, reclaim);
            let mut watch = Watch::new(vec![threshold], Duration::from_secs(5));
            for step in 0..amounts.len() {
                let now = begin + Duration::from_secs(step as u64);
                let verdict = watch.look(&available(amounts[step]), now);
                let (mut since, mut pressed) = (None, None);
                for (second, amount) in amounts[..=step].iter().enumerate() {
                    let least = if since.is_some() { 100 + reclaim } else { 100 };
                    if *amount < least {
                        since.get_or_insert(second);
                        pressed = Some(second);
                    } else {
                        since = None;
                    }
                }
                let due = since.is_some_and(|since| (step - since) as u64 >= grace);
                prop_assert_eq!(verdict.starved.is_some(), due);
                let shown = pressed.is_some_and(|at| step - at < 5 || at == step);
                prop_assert_eq!(!verdict.pressures.is_empty(), shown);
            }
        }
    }
}
