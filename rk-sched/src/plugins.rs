//! The plugins, one file each, and the registry of them by name.

use std::sync::Arc;

use serde_json::Value;

use crate::{framework::Plugin, profile::Weighted};

pub mod default_binder;
pub mod default_preemption;
pub mod image_locality;
pub mod inter_pod_affinity;
pub mod node_affinity;
pub mod node_name;
pub mod node_ports;
pub mod node_resources_balanced_allocation;
pub mod node_resources_fit;
pub mod node_unschedulable;
pub mod node_volume_limits;
pub mod pod_topology_spread;
pub mod priority_sort;
pub mod scheduling_gates;
pub mod taint_toleration;
pub mod volume_binding;
pub mod volume_restrictions;
pub mod volume_zone;

pub use default_binder::DefaultBinder;
pub use default_preemption::DefaultPreemption;
pub use image_locality::ImageLocality;
pub use inter_pod_affinity::InterPodAffinity;
pub use node_affinity::NodeAffinity;
pub use node_name::NodeName;
pub use node_ports::NodePorts;
pub use node_resources_balanced_allocation::NodeResourcesBalancedAllocation;
pub use node_resources_fit::NodeResourcesFit;
pub use node_unschedulable::NodeUnschedulable;
pub use node_volume_limits::NodeVolumeLimits;
pub use pod_topology_spread::PodTopologySpread;
pub use priority_sort::PrioritySort;
pub use scheduling_gates::SchedulingGates;
pub use taint_toleration::TaintToleration;
pub use volume_binding::VolumeBinding;
pub use volume_restrictions::VolumeRestrictions;
pub use volume_zone::VolumeZone;

/// Makes a plugin from the arguments of its `pluginConfig`, if there are any.
type New = fn(Option<Value>) -> Result<Arc<dyn Plugin>, serde_json::Error>;

/// A plugin by name, with its weight in the default profile.
struct Entry {
    name: &'static str,
    weight: i64,
    new: New,
}

/// The plugins of the default profile, in its order.
const REGISTRY: [Entry; 18] = [
    entry::<SchedulingGates>(scheduling_gates::NAME, 1),
    entry::<PrioritySort>(priority_sort::NAME, 1),
    entry::<NodeUnschedulable>(node_unschedulable::NAME, 1),
    entry::<NodeName>(node_name::NAME, 1),
    entry::<TaintToleration>(taint_toleration::NAME, 3),
    entry::<NodeAffinity>(node_affinity::NAME, 2),
    entry::<NodePorts>(node_ports::NAME, 1),
    entry::<NodeResourcesFit>(node_resources_fit::NAME, 1),
    entry::<VolumeRestrictions>(volume_restrictions::NAME, 1),
    entry::<NodeVolumeLimits>(node_volume_limits::NAME, 1),
    entry::<VolumeBinding>(volume_binding::NAME, 1),
    entry::<VolumeZone>(volume_zone::NAME, 1),
    entry::<PodTopologySpread>(pod_topology_spread::NAME, 2),
    entry::<InterPodAffinity>(inter_pod_affinity::NAME, 2),
    entry::<DefaultPreemption>(default_preemption::NAME, 1),
    entry::<NodeResourcesBalancedAllocation>(node_resources_balanced_allocation::NAME, 1),
    entry::<ImageLocality>(image_locality::NAME, 1),
    entry::<DefaultBinder>(default_binder::NAME, 1),
];

/// Plugins of upstream's default profile that this crate does not have: a configuration may turn
/// them off, and give them arguments, but not on.
pub const ABSENT: [&str; 1] = ["DynamicResources"];

const fn entry<P: FromArgs>(name: &'static str, weight: i64) -> Entry {
    Entry { name, weight, new: P::make }
}

/// A plugin that a configuration can make.
trait FromArgs: Plugin + Sized {
    fn from_args(args: Option<Value>) -> Result<Self, serde_json::Error>;

    fn make(args: Option<Value>) -> Result<Arc<dyn Plugin>, serde_json::Error> {
        Ok(Arc::new(Self::from_args(args)?))
    }
}

/// For plugins without arguments.
macro_rules! no_args {
    ($plugin:ty) => {
        impl crate::plugins::FromArgs for $plugin {
            fn from_args(args: Option<serde_json::Value>) -> Result<Self, serde_json::Error> {
                match args {
                    None => Ok(Self::default()),
                    Some(_) => Err(serde::de::Error::custom("the plugin takes no arguments")),
                }
            }
        }
    };
}
use no_args;

/// The plugins of the default profile with their weights.
pub(crate) fn defaults() -> Vec<Weighted> {
    let make = |it: &Entry| Some(Weighted { plugin: (it.new)(None).ok()?, weight: it.weight });
    REGISTRY.iter().filter_map(make).collect()
}

/// Makes the plugin of this name; `None` if there is none.
pub fn by_name(
    name: &str,
    args: Option<Value>,
) -> Option<Result<Arc<dyn Plugin>, serde_json::Error>> {
    REGISTRY.iter().find(|it| it.name == name).map(|it| (it.new)(args))
}

/// The weight that a plugin has in the default profile.
pub fn default_weight(name: &str) -> i64 {
    REGISTRY.iter().find(|it| it.name == name).map_or(1, |it| it.weight)
}

/// Appends a part to a signature so that no two different sequences of parts are alike.
fn sign_part(signature: &mut Vec<u8>, part: &str) {
    signature.extend_from_slice(&(part.len() as u32).to_le_bytes());
    signature.extend_from_slice(part.as_bytes());
}

/// The same for an optional part.
fn sign_option(signature: &mut Vec<u8>, part: Option<&str>) {
    signature.push(u8::from(part.is_some()));
    sign_part(signature, part.unwrap_or_default());
}

/// The same for how many parts follow.
fn sign_count(signature: &mut Vec<u8>, count: usize) {
    signature.extend_from_slice(&(count as u32).to_le_bytes());
}

#[cfg(test)]
mod tests;
