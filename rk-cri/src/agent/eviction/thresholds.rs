//! Signals, thresholds and when they are met (`evictionHard`, `evictionSoft`).

use std::{collections::BTreeMap, time::Duration};

use rk_api::meta::quantity::Quantity;

use crate::agent::configuration::KubeletConfiguration;

/// Something of which a node can run short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Memory that programs can still get, in bytes.
    MemoryAvailable,
    /// Memory that Pods can still get of what is allocatable, in bytes.
    AllocatableMemoryAvailable,
    /// Process ids that are left.
    PidAvailable,
    /// Free bytes where Pods' volumes and logs are.
    NodefsAvailable,
    /// Free inodes there.
    NodefsInodesFree,
    /// Free bytes where images and containers' layers are.
    ImagefsAvailable,
    /// Free inodes there.
    ImagefsInodesFree,
    /// Free bytes where containers' layers are, when that is apart from the images.
    ContainerfsAvailable,
    /// Free inodes there.
    ContainerfsInodesFree,
}

/// What Pods are ranked by when a signal asks for one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Memory,
    Pids,
    EphemeralStorage,
    Inodes,
}

impl Resource {
    /// As messages name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Resource::Memory => "memory",
            Resource::Pids => "pids",
            Resource::EphemeralStorage => "ephemeral-storage",
            Resource::Inodes => "inodes",
        }
    }
}

/// A condition of the node that says that it runs short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    Memory,
    Disk,
    Pid,
}

impl Pressure {
    /// The type of the node's condition.
    pub(crate) fn condition(self) -> &'static str {
        match self {
            Pressure::Memory => "MemoryPressure",
            Pressure::Disk => "DiskPressure",
            Pressure::Pid => "PIDPressure",
        }
    }
}

const SIGNALS: [(Signal, &str); 9] = [
    (Signal::MemoryAvailable, "memory.available"),
    (Signal::AllocatableMemoryAvailable, "allocatableMemory.available"),
    (Signal::PidAvailable, "pid.available"),
    (Signal::NodefsAvailable, "nodefs.available"),
    (Signal::NodefsInodesFree, "nodefs.inodesFree"),
    (Signal::ImagefsAvailable, "imagefs.available"),
    (Signal::ImagefsInodesFree, "imagefs.inodesFree"),
    (Signal::ContainerfsAvailable, "containerfs.available"),
    (Signal::ContainerfsInodesFree, "containerfs.inodesFree"),
];

impl Signal {
    /// The signal of a name such as `memory.available`.
    pub fn parse(name: &str) -> Option<Self> {
        SIGNALS.iter().find(|(_, known)| *known == name).map(|(signal, _)| *signal)
    }

    pub(crate) fn resource(self) -> Resource {
        match self {
            Signal::MemoryAvailable | Signal::AllocatableMemoryAvailable => Resource::Memory,
            Signal::PidAvailable => Resource::Pids,
            Signal::NodefsAvailable | Signal::ImagefsAvailable | Signal::ContainerfsAvailable => {
                Resource::EphemeralStorage
            }
            Signal::NodefsInodesFree
            | Signal::ImagefsInodesFree
            | Signal::ContainerfsInodesFree => Resource::Inodes,
        }
    }

    pub(crate) fn pressure(self) -> Pressure {
        match self.resource() {
            Resource::Memory => Pressure::Memory,
            Resource::Pids => Pressure::Pid,
            Resource::EphemeralStorage | Resource::Inodes => Pressure::Disk,
        }
    }
}

/// How much, absolutely or of what there is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Amount {
    Absolute(i64),
    /// From 0 to 1.
    Share(f64),
}

impl Amount {
    /// Reads `100Mi` or `10%`; negative ones and those above 100 % are none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Some(percent) = text.strip_suffix('%') {
            let share = percent.parse::<f64>().ok()? / 100.0;
            return (0.0..=1.0).contains(&share).then_some(Self::Share(share));
        }
        let amount = Quantity::parse(text).ok()?.value();
        (amount >= 0).then_some(Self::Absolute(amount))
    }

    /// In units, of a whole of `capacity`.
    pub(crate) fn of(self, capacity: i64) -> i64 {
        match self {
            Self::Absolute(amount) => amount,
            Self::Share(share) => (capacity as f64 * share) as i64,
        }
    }
}

/// When a node has too little of something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Threshold {
    pub(crate) signal: Signal,
    pub(crate) least: Amount,
    /// How long it has to be met before anything is done; none for a hard one.
    pub(crate) grace: Duration,
    /// How much more than the threshold has to be there for it to be met no more.
    pub(crate) reclaim: Option<Amount>,
}

/// What there is of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What is left.
    pub available: i64,
    /// The whole.
    pub capacity: i64,
}

/// What there is, as far as it is known.
pub type Observations = BTreeMap<Signal, Observation>;

impl Threshold {
    /// Whether there is too little; `recovering` asks for what is to be reclaimed on top.
    pub(crate) fn is_met(&self, seen: &Observations, recovering: bool) -> bool {
        let Some(seen) = seen.get(&self.signal) else { return false };
        let more = self.reclaim.filter(|_| recovering).map_or(0, |more| more.of(seen.capacity));
        seen.available < self.least.of(seen.capacity).saturating_add(more)
    }

    pub(crate) fn is_hard(&self) -> bool {
        self.grace.is_zero()
    }
}

/// The thresholds of a configuration, which has been validated.
pub(crate) fn of_configuration(configuration: &KubeletConfiguration) -> Vec<Threshold> {
    let reclaim = |name: &str| {
        configuration.eviction_minimum_reclaim.get(name).and_then(|text| Amount::parse(text))
    };
    let threshold = |name: &str, text: &str, grace: Duration| {
        let least = Amount::parse(text)?;
        // None at all is how a threshold is turned off.
        let off = matches!(least, Amount::Share(share) if share <= 0.0)
            || matches!(least, Amount::Share(share) if share >= 1.0);
        let signal = Signal::parse(name).filter(|_| !off)?;
        Some(Threshold { signal, least, grace, reclaim: reclaim(name) })
    };
    let hard = configuration.eviction_hard.iter();
    let hard = hard.filter_map(|(name, text)| threshold(name, text, Duration::ZERO));
    let soft = configuration.eviction_soft.iter().filter_map(|(name, text)| {
        let grace = configuration.eviction_soft_grace_period.get(name)?;
        threshold(name, text, grace.0)
    });
    hard.chain(soft).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_amounts_or_shares() {
        assert_eq!(Amount::parse("100Mi"), Some(Amount::Absolute(100 << 20)));
        assert_eq!(Amount::parse("10%"), Some(Amount::Share(0.1)));
        assert_eq!(Amount::parse("10%").unwrap().of(2000), 200);
        for text in ["", "-1", "-5%", "101%", "x", "x%"] {
            assert_eq!(Amount::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_threshold_that_was_met_asks_for_more() {
        let threshold = Threshold {
            signal: Signal::NodefsAvailable,
            least: Amount::Absolute(100),
            grace: Duration::ZERO,
            reclaim: Some(Amount::Absolute(50)),
        };
        let seen = |available| {
            Observations::from([(
                Signal::NodefsAvailable,
                Observation { available, capacity: 1000 },
            )])
        };
        assert!(threshold.is_met(&seen(99), false) && !threshold.is_met(&seen(100), false));
        assert!(threshold.is_met(&seen(149), true) && !threshold.is_met(&seen(150), true));
        assert!(!threshold.is_met(&Observations::new(), true), "what is not known is no shortage");
    }

    #[test]
    fn the_default_thresholds_are_hard() {
        let thresholds = of_configuration(&KubeletConfiguration::default());
        assert_eq!(thresholds.len(), 5);
        assert!(thresholds.iter().all(Threshold::is_hard));
    }
}
