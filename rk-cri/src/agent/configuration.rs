//! The kubelet's configuration file: `KubeletConfiguration` of `kubelet.config.k8s.io/v1beta1`.
//!
//! All fields of the kind are known, and what is not a field is refused, as the kubelet does. A field
//! that nothing here hangs on is accepted, and named by [`Loaded::idle`].

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::images::gc::ImageGc;

pub use self::duration::GoDuration;

mod duration;
mod idle;
mod validation;

/// Why a configuration is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigurationError {
    /// It is no YAML and no JSON, or no object.
    #[error("unable to decode: {0}")]
    Malformed(String),
    /// It is of another kind.
    #[error("no kind {kind:?} is registered for version {version:?}")]
    Kind {
        /// The kind that it says.
        kind: String,
        /// The version that it says.
        version: String,
    },
    /// There are no such fields.
    #[error("strict decoding error: {}", .0.iter().map(|field| format!("unknown field {field:?}")).collect::<Vec<_>>().join(", "))]
    Unknown(
        /// The fields, by their paths.
        Vec<String>,
    ),
    /// A field has a value that it cannot have.
    #[error("invalid configuration: {field}: {reason}")]
    Invalid {
        /// The field.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A configuration, and what of it has no effect.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// What was read, with the defaults of what was not there.
    pub configuration: KubeletConfiguration,
    /// Fields that were given and that nothing hangs on here.
    pub idle: Vec<String>,
}

/// How a kubelet is to be. The names, meanings and defaults of fields are those of
/// `kubelet.config.k8s.io/v1beta1`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the fields are documented where the kind is defined")]
pub struct KubeletConfiguration {
    pub enable_server: bool,
    pub static_pod_path: PathBuf,
    pub file_check_frequency: GoDuration,
    pub pod_logs_dir: PathBuf,
    pub address: IpAddr,
    pub port: u16,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tls_cert_file: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tls_private_key_file: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tls_min_version: String,
    pub rotate_certificates: bool,
    #[serde(rename = "serverTLSBootstrap")]
    pub server_tls_bootstrap: bool,
    pub authentication: Authentication,
    pub authorization: Authorization,
    pub enable_debugging_handlers: bool,
    pub enable_system_log_handler: bool,
    pub healthz_port: u16,
    pub healthz_bind_address: IpAddr,
    pub cluster_domain: String,
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<IpAddr>,
    pub resolv_conf: Option<PathBuf>,
    pub node_status_report_frequency: GoDuration,
    pub node_lease_duration_seconds: u32,
    pub node_status_max_images: i32,
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: u8,
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: u8,
    #[serde(rename = "imageMinimumGCAge")]
    pub image_minimum_gc_age: GoDuration,
    #[serde(rename = "imageMaximumGCAge")]
    pub image_maximum_gc_age: GoDuration,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serialize_image_pulls: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_parallel_image_pulls: Option<u32>,
    pub max_pods: u32,
    pub pods_per_core: u32,
    #[serde(rename = "podCIDR", skip_serializing_if = "String::is_empty")]
    pub pod_cidr: String,
    #[serde(rename = "providerID", skip_serializing_if = "String::is_empty")]
    pub provider_id: String,
    pub register_node: bool,
    pub register_with_taints: Vec<Taint>,
    pub container_runtime_endpoint: String,
    pub kube_reserved: BTreeMap<String, String>,
    pub system_reserved: BTreeMap<String, String>,
    pub eviction_hard: BTreeMap<String, String>,
    pub eviction_soft: BTreeMap<String, String>,
    pub eviction_soft_grace_period: BTreeMap<String, GoDuration>,
    pub eviction_minimum_reclaim: BTreeMap<String, String>,
    pub eviction_pressure_transition_period: GoDuration,
    pub eviction_max_pod_grace_period: u32,
    pub merge_default_eviction_settings: bool,
    pub allowed_unsafe_sysctls: Vec<String>,
    pub seccomp_default: bool,
    pub image_pull_credentials_verification_policy: String,
    pub preloaded_images_verification_allowlist: Vec<String>,
    pub container_log_max_size: String,
    pub container_log_max_files: u32,
    pub container_log_monitor_interval: GoDuration,
    pub crash_loop_back_off: CrashLoopBackOff,
    pub shutdown_grace_period: GoDuration,
    pub shutdown_grace_period_critical_pods: GoDuration,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shutdown_grace_period_by_pod_priority: Vec<ShutdownGrace>,
}

/// Who may ask the kubelet's API, by how they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Authentication {
    /// By certificates.
    pub x509: X509,
    /// By tokens, of which the API server is asked.
    pub webhook: WebhookAuthentication,
    /// Those who do not say who they are.
    pub anonymous: Anonymous,
}

/// Certificates of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct X509 {
    /// The authority's certificates, in PEM.
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: String,
}

/// TokenReviews.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WebhookAuthentication {
    /// Whether the API server is asked about tokens; by default so.
    pub enabled: bool,
    /// How long an answer is good; by default 2 min.
    #[serde(rename = "cacheTTL")]
    pub cache_ttl: GoDuration,
}

impl Default for WebhookAuthentication {
    fn default() -> Self {
        Self { enabled: true, cache_ttl: GoDuration::seconds(120) }
    }
}

/// Requests without credentials.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Anonymous {
    /// Whether they are the user `system:anonymous`; by default they are refused.
    pub enabled: bool,
}

/// What who asks may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Authorization {
    /// Who decides.
    pub mode: AuthorizationMode,
    /// SubjectAccessReviews.
    pub webhook: WebhookAuthorization,
}

/// Which images on the node a Pod may use without having shown that it could pull them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImageVerification {
    /// All.
    NeverVerify,
    /// Those that were not pulled by this node's agent.
    NeverVerifyPreloadedImages,
    /// Of those, the ones that are listed.
    NeverVerifyAllowlistedImages(Vec<String>),
    /// None.
    AlwaysVerify,
}

/// Who decides what somebody may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthorizationMode {
    /// The API server, by SubjectAccessReviews.
    #[default]
    Webhook,
    /// Nobody: whoever is known may do all.
    AlwaysAllow,
}

/// How long the API server's decisions are good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WebhookAuthorization {
    /// Those that allow something; by default 5 min.
    #[serde(rename = "cacheAuthorizedTTL")]
    pub cache_authorized_ttl: GoDuration,
    /// Those that do not; by default 30 s.
    #[serde(rename = "cacheUnauthorizedTTL")]
    pub cache_unauthorized_ttl: GoDuration,
}

impl Default for WebhookAuthorization {
    fn default() -> Self {
        Self {
            cache_authorized_ttl: GoDuration::seconds(300),
            cache_unauthorized_ttl: GoDuration::seconds(30),
        }
    }
}

/// The pauses between restarts of what fails.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CrashLoopBackOff {
    /// The longest, from 1 s to 5 min; by default that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_container_restart_period: Option<GoDuration>,
}

/// How long Pods of at least a priority have to end when the node shuts down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShutdownGrace {
    /// The least priority of these Pods.
    pub priority: i32,
    /// How long they have.
    pub shutdown_grace_period_seconds: u32,
}

/// The thresholds of hard eviction when none is set, on Linux.
pub(crate) const EVICTION_HARD: [(&str, &str); 5] = [
    ("memory.available", "100Mi"),
    ("nodefs.available", "10%"),
    ("nodefs.inodesFree", "5%"),
    ("imagefs.available", "15%"),
    ("imagefs.inodesFree", "5%"),
];

impl Default for KubeletConfiguration {
    fn default() -> Self {
        Self {
            enable_server: true,
            static_pod_path: PathBuf::new(),
            file_check_frequency: GoDuration::seconds(20),
            pod_logs_dir: "/var/log/pods".into(),
            address: std::net::Ipv4Addr::UNSPECIFIED.into(),
            port: 10250,
            tls_cert_file: String::new(),
            tls_private_key_file: String::new(),
            tls_min_version: String::new(),
            rotate_certificates: false,
            server_tls_bootstrap: false,
            authentication: Authentication::default(),
            authorization: Authorization::default(),
            enable_debugging_handlers: true,
            enable_system_log_handler: true,
            healthz_port: 10248,
            healthz_bind_address: std::net::Ipv4Addr::LOCALHOST.into(),
            cluster_domain: String::new(),
            cluster_dns: Vec::new(),
            resolv_conf: Some("/etc/resolv.conf".into()),
            node_status_report_frequency: GoDuration::seconds(300),
            node_lease_duration_seconds: 40,
            node_status_max_images: 50,
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            image_minimum_gc_age: GoDuration::seconds(120),
            image_maximum_gc_age: GoDuration::default(),
            serialize_image_pulls: None,
            max_parallel_image_pulls: None,
            max_pods: 110,
            pods_per_core: 0,
            pod_cidr: String::new(),
            provider_id: String::new(),
            register_node: true,
            register_with_taints: Vec::new(),
            container_runtime_endpoint: String::new(),
            kube_reserved: BTreeMap::new(),
            system_reserved: BTreeMap::new(),
            eviction_hard: EVICTION_HARD.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            eviction_soft: BTreeMap::new(),
            eviction_soft_grace_period: BTreeMap::new(),
            eviction_minimum_reclaim: BTreeMap::new(),
            eviction_pressure_transition_period: GoDuration::seconds(300),
            eviction_max_pod_grace_period: 0,
            merge_default_eviction_settings: false,
            allowed_unsafe_sysctls: Vec::new(),
            seccomp_default: false,
            image_pull_credentials_verification_policy: "NeverVerifyPreloadedImages".to_owned(),
            preloaded_images_verification_allowlist: Vec::new(),
            container_log_max_size: "10Mi".to_owned(),
            container_log_max_files: 5,
            container_log_monitor_interval: GoDuration::seconds(10),
            crash_loop_back_off: CrashLoopBackOff::default(),
            shutdown_grace_period: GoDuration::default(),
            shutdown_grace_period_critical_pods: GoDuration::default(),
            shutdown_grace_period_by_pod_priority: Vec::new(),
        }
    }
}

impl KubeletConfiguration {
    /// Reads YAML or JSON.
    ///
    /// # Errors
    /// What is wrong with it, and the field.
    pub fn parse(text: &str) -> Result<Loaded, ConfigurationError> {
        let malformed = |reason: String| ConfigurationError::Malformed(reason);
        let value: Value =
            serde_saphyr::from_str(text).map_err(|error| malformed(error.to_string()))?;
        let Value::Object(mut fields) = value else {
            return Err(malformed("it is no object".to_owned()));
        };
        let mut take = |name: &str| {
            let text = fields.remove(name).and_then(|value| value.as_str().map(str::to_owned));
            text.unwrap_or_default()
        };
        let (version, kind) = (take("apiVersion"), take("kind"));
        if (version.as_str(), kind.as_str())
            != ("kubelet.config.k8s.io/v1beta1", "KubeletConfiguration")
        {
            return Err(ConfigurationError::Kind { kind, version });
        }
        let idle = take_idle(&mut fields);
        let mut configuration = decode(fields)?;
        configuration.settle();
        configuration.validate()?;
        Ok(Loaded { configuration, idle })
    }

    /// When images are removed that no container uses.
    pub fn image_gc(&self) -> ImageGc {
        ImageGc {
            high_threshold_percent: self.image_gc_high_threshold_percent,
            low_threshold_percent: self.image_gc_low_threshold_percent,
            min_age: self.image_minimum_gc_age.0,
            max_age: self.image_maximum_gc_age.0,
            ..ImageGc::default()
        }
    }

    /// Which images on the node a Pod may use without having shown that it could pull them (KEP-2535);
    /// `None` where the policy is unknown.
    pub(crate) fn image_verification(&self) -> Option<ImageVerification> {
        Some(match self.image_pull_credentials_verification_policy.as_str() {
            "NeverVerify" => ImageVerification::NeverVerify,
            "" | "NeverVerifyPreloadedImages" => ImageVerification::NeverVerifyPreloadedImages,
            "NeverVerifyAllowlistedImages" => ImageVerification::NeverVerifyAllowlistedImages(
                self.preloaded_images_verification_allowlist.clone(),
            ),
            "AlwaysVerify" => ImageVerification::AlwaysVerify,
            _ => return None,
        })
    }

    /// How many images are fetched at the same time; `None` is any number. One, unless it is said
    /// otherwise.
    pub fn image_pulls_at_once(&self) -> Option<u32> {
        match (self.max_parallel_image_pulls, self.serialize_image_pulls) {
            (Some(pulls), _) => Some(pulls),
            (None, Some(false)) => None,
            (None, _) => Some(1),
        }
    }

    /// Thresholds that are not set are the default ones only where none is, unless they are to be
    /// merged.
    fn settle(&mut self) {
        if self.merge_default_eviction_settings {
            for (signal, threshold) in EVICTION_HARD {
                self.eviction_hard.entry(signal.to_owned()).or_insert_with(|| threshold.to_owned());
            }
        }
    }
}

/// Takes out what is known and without effect; the rest is decoded.
fn take_idle(fields: &mut Map<String, Value>) -> Vec<String> {
    let known = idle::FIELDS.iter().filter(|name| fields.remove(**name).is_some());
    known.map(|name| (*name).to_owned()).collect()
}

/// Decodes field by field, so that an error can name the one that is wrong.
fn decode(fields: Map<String, Value>) -> Result<KubeletConfiguration, ConfigurationError> {
    let mut unknown = Vec::new();
    // null is what is not there.
    let fields: Map<String, Value> =
        fields.into_iter().filter(|(_, value)| !value.is_null()).collect();
    for (name, value) in &fields {
        let alone = Value::Object([(name.clone(), value.clone())].into_iter().collect());
        let note = |path: serde_ignored::Path<'_>| unknown.push(path.to_string());
        let decoded: Result<KubeletConfiguration, _> = serde_ignored::deserialize(alone, note);
        decoded.map_err(|error| ConfigurationError::Invalid {
            field: name.clone(),
            reason: error.to_string(),
        })?;
    }
    if !unknown.is_empty() {
        return Err(ConfigurationError::Unknown(unknown));
    }
    serde_json::from_value(Value::Object(fields))
        .map_err(|error| ConfigurationError::Malformed(error.to_string()))
}

/// How long a Pod of a priority has when the node shuts down.
impl KubeletConfiguration {
    /// The times that Pods have to end when the node shuts down, by their least priority, in
    /// ascending order (KEP-2000, KEP-2712). Empty when there is no graceful shutdown.
    pub fn shutdown_graces(&self) -> Vec<ShutdownGrace> {
        let mut graces = self.shutdown_grace_period_by_pod_priority.clone();
        if graces.is_empty() && !self.shutdown_grace_period.0.is_zero() {
            let (all, critical) =
                (self.shutdown_grace_period.0, self.shutdown_grace_period_critical_pods.0);
            let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
            graces = vec![
                ShutdownGrace {
                    priority: 0,
                    shutdown_grace_period_seconds: seconds(all.saturating_sub(critical)),
                },
                ShutdownGrace {
                    priority: SYSTEM_CRITICAL_PRIORITY,
                    shutdown_grace_period_seconds: seconds(critical),
                },
            ];
        }
        graces.sort_by_key(|grace| grace.priority);
        graces
    }
}

/// From this priority on a Pod is critical to the system (`system-cluster-critical`).
pub(crate) const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(fields: &str) -> Result<Loaded, ConfigurationError> {
        let text = format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n{fields}"
        );
        KubeletConfiguration::parse(&text)
    }

    #[track_caller]
    fn refused(fields: &str, expected: &str) {
        let error = parse(fields).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn what_is_not_there_has_its_default() {
        let loaded = parse("maxPods: 12\nauthentication:\n  anonymous: {enabled: true}\n").unwrap();
        let expected = KubeletConfiguration {
            max_pods: 12,
            authentication: Authentication {
                anonymous: Anonymous { enabled: true },
                ..Authentication::default()
            },
            ..KubeletConfiguration::default()
        };
        assert_eq!(loaded.configuration, expected);
        assert!(loaded.idle.is_empty());
    }

    #[test]
    fn the_file_that_kubeadm_writes_is_understood() {
        let loaded = parse(
            "authentication:\n  anonymous:\n    enabled: false\n  webhook:\n    cacheTTL: 0s\n    \
             enabled: true\n  x509:\n    clientCAFile: /etc/kubernetes/pki/ca.crt\nauthorization:\n  \
             mode: Webhook\n  webhook:\n    cacheAuthorizedTTL: 0s\n    cacheUnauthorizedTTL: 0s\n\
             cgroupDriver: systemd\nclusterDNS:\n- 10.96.0.10\nclusterDomain: cluster.local\n\
             containerRuntimeEndpoint: \"\"\ncpuManagerReconcilePeriod: 0s\ncrashLoopBackOff: {}\n\
             evictionPressureTransitionPeriod: 0s\nfileCheckFrequency: 0s\n\
             healthzBindAddress: 127.0.0.1\nhealthzPort: 10248\nhttpCheckFrequency: 0s\n\
             imageMaximumGCAge: 0s\nimageMinimumGCAge: 0s\nlogging:\n  flushFrequency: 0\n\
             memorySwap: {}\nnodeStatusReportFrequency: 0s\nnodeStatusUpdateFrequency: 0s\n\
             rotateCertificates: true\nruntimeRequestTimeout: 0s\nshutdownGracePeriod: 0s\n\
             shutdownGracePeriodCriticalPods: 0s\nstaticPodPath: /etc/kubernetes/manifests\n\
             streamingConnectionIdleTimeout: 0s\nsyncFrequency: 0s\nvolumeStatsAggPeriod: 0s\n",
        )
        .unwrap();
        let configuration = loaded.configuration;
        assert!(configuration.rotate_certificates);
        assert_eq!(configuration.cluster_dns, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
        // Times of nothing are those that are not set.
        assert_eq!(configuration.authentication.webhook.cache_ttl, GoDuration::seconds(120));
        assert_eq!(configuration.node_status_report_frequency, GoDuration::seconds(300));
        assert_eq!(configuration.shutdown_grace_period, GoDuration::default());
        assert!(loaded.idle.iter().any(|field| field == "cgroupDriver"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        refused("maxPodz: 1\n", "strict decoding error: unknown field \"maxPodz\"");
        refused(
            "authentication: {x509: {caFile: a}}\n",
            "unknown field \"authentication.x509.caFile\"",
        );
        refused("maxPods: many\n", "invalid configuration: maxPods: ");
        refused("clusterDNS: [dns]\n", "invalid configuration: clusterDNS: ");
        refused("evictionPressureTransitionPeriod: 5\n", "evictionPressureTransitionPeriod");
        refused(
            "evictionHard: {memory.free: 1Gi}\n",
            "evictionHard: unknown eviction signal memory.free",
        );
        refused(
            "evictionSoft: {memory.available: 1Gi}\n",
            "evictionSoft: grace period must be specified for the soft eviction threshold memory.available",
        );
        refused("kubeReserved: {gpu: 1}\n", "kubeReserved");
        refused("shutdownGracePeriodCriticalPods: 10s\n", "shutdownGracePeriodCriticalPods");
        refused("imageGCLowThresholdPercent: 90\n", "imageGCLowThresholdPercent");
        refused("imageGCHighThresholdPercent: 101\n", "imageGCHighThresholdPercent");
        refused("imageMaximumGCAge: 1m\n", "imageMaximumGCAge");
        refused("maxParallelImagePulls: 0\n", "maxParallelImagePulls");
        refused("serializeImagePulls: true\nmaxParallelImagePulls: 2\n", "maxParallelImagePulls");
        let other = KubeletConfiguration::parse("apiVersion: v1\nkind: Pod\n").unwrap_err();
        assert_eq!(other.to_string(), "no kind \"Pod\" is registered for version \"v1\"");
    }

    #[test]
    fn images_are_pulled_one_by_one_unless_it_is_said_otherwise() {
        for (fields, expected) in [
            ("{}", Some(1)),
            ("serializeImagePulls: true", Some(1)),
            ("serializeImagePulls: false", None),
            ("maxParallelImagePulls: 4", Some(4)),
            ("serializeImagePulls: false\nmaxParallelImagePulls: 2", Some(2)),
        ] {
            let fields = if fields == "{}" { "" } else { fields };
            let configuration = parse(fields).unwrap().configuration;
            assert_eq!(configuration.image_pulls_at_once(), expected, "{fields}");
        }
        let fields = "imageGCHighThresholdPercent: 70\nimageGCLowThresholdPercent: 60\n\
                      imageMinimumGCAge: 0s\nimageMaximumGCAge: 1h\n";
        let expected = ImageGc {
            high_threshold_percent: 70,
            low_threshold_percent: 60,
            max_age: std::time::Duration::from_secs(3600),
            ..ImageGc::default()
        };
        assert_eq!(parse(fields).unwrap().configuration.image_gc(), expected);
    }

    #[test]
    fn a_shutdown_leaves_the_last_part_to_critical_pods() {
        let loaded =
            parse("shutdownGracePeriod: 30s\nshutdownGracePeriodCriticalPods: 10s\n").unwrap();
        let graces = loaded.configuration.shutdown_graces();
        let pairs: Vec<_> =
            graces.iter().map(|g| (g.priority, g.shutdown_grace_period_seconds)).collect();
        assert_eq!(pairs, [(0, 20), (SYSTEM_CRITICAL_PRIORITY, 10)]);
    }
}
