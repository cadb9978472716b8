//! What a [`KubeletConfiguration`] says, in the form that the agent's parts use.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use rk_api::meta::quantity::Quantity;

use super::{
    configuration::{ImageVerification, KubeletConfiguration, ShutdownGrace},
    eviction::{
        NodeSignals,
        thresholds::{Signal, Threshold, of_configuration},
    },
    images::providers::Providers,
};
use crate::runtime::Seccomp;

/// How an agent does its duties beside running Pods. By default it reserves nothing and evicts
/// nothing, as an agent inside a test wants it.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The configuration that these were made from.
    pub(crate) configuration: Option<Arc<KubeletConfiguration>>,
    /// Whether it makes the node's object.
    pub(crate) register: bool,
    pub(crate) provider_id: Option<String>,
    /// How many images the node's status lists; -1 is all.
    pub(crate) images_max: i32,
    /// Kept from Pods, by resource: millicores, else units.
    pub(crate) reserved: BTreeMap<String, i64>,
    pub(crate) thresholds: Vec<Threshold>,
    pub(crate) transition: Duration,
    pub(crate) eviction_max_pod_grace: u32,
    pub(crate) signals: Option<Arc<dyn NodeSignals>>,
    pub(crate) allowed_unsafe_sysctls: Vec<String>,
    pub(crate) image_verification: ImageVerification,
    /// Programs that know credentials for images.
    pub(crate) credential_providers: Option<Arc<Providers>>,
    /// The system calls of containers that say nothing about them.
    pub(crate) seccomp: Seccomp,
    pub(crate) log_size_max: u64,
    pub(crate) log_files_max: u32,
    pub(crate) log_look_every: Duration,
    /// The longest pause between restarts.
    pub(crate) longest_back_off: Duration,
    pub(crate) shutdown_graces: Vec<ShutdownGrace>,
    /// Where static Pods are.
    pub(crate) static_pods: Option<PathBuf>,
    pub(crate) look_for_static_pods_every: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let none = KubeletConfiguration {
            eviction_hard: BTreeMap::new(),
            ..KubeletConfiguration::default()
        };
        Self { configuration: None, ..Self::of(&none) }
    }
}

impl Settings {
    /// What a configuration, which has been validated, says.
    pub(crate) fn of(configuration: &KubeletConfiguration) -> Self {
        let mut reserved = BTreeMap::new();
        for (name, amount) in
            configuration.kube_reserved.iter().chain(&configuration.system_reserved)
        {
            if let Ok(amount) = Quantity::parse(amount) {
                let amount = if name == "cpu" { amount.millis() } else { amount.value() };
                *reserved.entry(name.clone()).or_default() += amount;
            }
        }
        let size = Quantity::parse(&configuration.container_log_max_size);
        let path = &configuration.static_pod_path;
        Self {
            configuration: Some(Arc::new(configuration.clone())),
            register: configuration.register_node,
            provider_id: Some(configuration.provider_id.clone()).filter(|id| !id.is_empty()),
            images_max: configuration.node_status_max_images,
            reserved,
            thresholds: of_configuration(configuration),
            transition: configuration.eviction_pressure_transition_period.0,
            eviction_max_pod_grace: configuration.eviction_max_pod_grace_period,
            signals: None,
            image_verification: configuration
                .image_verification()
                .unwrap_or(ImageVerification::NeverVerifyPreloadedImages),
            credential_providers: None,
            allowed_unsafe_sysctls: configuration.allowed_unsafe_sysctls.clone(),
            seccomp: match configuration.seccomp_default {
                true => Seccomp::RuntimeDefault,
                false => Seccomp::Unconfined,
            },
            log_size_max: size.map_or(10 << 20, |size| u64::try_from(size.value()).unwrap_or(0)),
            log_files_max: configuration.container_log_max_files,
            log_look_every: configuration.container_log_monitor_interval.0,
            longest_back_off: configuration
                .crash_loop_back_off
                .max_container_restart_period
                .map_or(Duration::from_secs(300), |longest| longest.0),
            shutdown_graces: configuration.shutdown_graces(),
            static_pods: Some(path.clone()).filter(|path| !path.as_os_str().is_empty()),
            look_for_static_pods_every: configuration.file_check_frequency.0,
        }
    }

    /// What is left to Pods of a capacity: what is reserved goes off, and what hard eviction would
    /// take back (the node allocatable feature).
    pub(crate) fn allocatable(&self, name: &str, capacity: Quantity) -> Quantity {
        let units = if name == "cpu" { capacity.millis() } else { capacity.value() };
        let mut kept = self.reserved.get(name).copied().unwrap_or(0);
        let signal = match name {
            "memory" => Some(Signal::MemoryAvailable),
            "ephemeral-storage" => Some(Signal::NodefsAvailable),
            _ => None,
        };
        let hard = self.thresholds.iter().find(|t| t.is_hard() && Some(t.signal) == signal);
        kept += hard.map_or(0, |threshold| threshold.least.of(units));
        if kept == 0 {
            return capacity;
        }
        let left = units.saturating_sub(kept).max(0);
        let left = if name == "cpu" { Quantity::from_millis(left) } else { Quantity::new(left, 0) };
        left.with_format(capacity.format())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_cannot_be_allocated() {
        let reserve = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, amount)| ((*name).to_owned(), (*amount).to_owned())).collect()
        };
        let settings = Settings::of(&KubeletConfiguration {
            kube_reserved: reserve(&[("cpu", "200m"), ("memory", "256Mi")]),
            system_reserved: reserve(&[("cpu", "300m"), ("ephemeral-storage", "1Gi")]),
            eviction_hard: reserve(&[("memory.available", "256Mi"), ("nodefs.available", "10%")]),
            ..KubeletConfiguration::default()
        });
        let left = |name: &str, capacity: &str| {
            settings.allocatable(name, Quantity::parse(capacity).unwrap()).to_string()
        };
        assert_eq!(left("cpu", "4"), "3500m");
        assert_eq!(left("memory", "4Gi"), "3584Mi");
        assert_eq!(left("ephemeral-storage", "10Gi"), "8Gi");
        assert_eq!(left("pods", "110"), "110");
        assert_eq!(left("memory", "1Mi"), "0");
        let plain = Settings::default();
        assert_eq!(plain.allocatable("memory", Quantity::parse("4Gi").unwrap()).to_string(), "4Gi");
    }
}
