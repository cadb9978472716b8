//! Defaults and allowed values that OpenAPI documents state.
//!
//! Only what clients act on is here: keys of map lists that may be left out (server-side apply
//! compares items with the default filled in), and the choices that `kubectl explain` lists. What
//! the server defaults and validates is in [`crate::resources`].

use serde_json::Value;

/// The default of a field whose absence means that value.
pub(super) fn default(definition: &str, field: &str) -> Option<Value> {
    let value = match (short(definition)?, field) {
        ("core.v1.ContainerPort" | "core.v1.ServicePort", "protocol") => "TCP",
        _ => return None,
    };
    Some(value.into())
}

/// The values that a string field can have.
pub(super) fn values(definition: &str, field: &str) -> Option<&'static [&'static str]> {
    Some(match (short(definition)?, field) {
        ("apps.v1.DaemonSetUpdateStrategy", "type") => &["OnDelete", "RollingUpdate"],
        ("apps.v1.DeploymentStrategy", "type") => &["Recreate", "RollingUpdate"],
        ("apps.v1.StatefulSetSpec", "podManagementPolicy") => &["OrderedReady", "Parallel"],
        ("apps.v1.StatefulSetUpdateStrategy", "type") => &["OnDelete", "RollingUpdate"],
        ("batch.v1.CronJobSpec", "concurrencyPolicy") => &["Allow", "Forbid", "Replace"],
        ("batch.v1.JobSpec", "completionMode") => &["Indexed", "NonIndexed"],
        ("batch.v1.JobSpec", "podReplacementPolicy") => &["Failed", "TerminatingOrFailed"],
        ("core.v1.Container" | "core.v1.EphemeralContainer", "imagePullPolicy") => {
            &["Always", "IfNotPresent", "Never"]
        }
        ("core.v1.Container" | "core.v1.EphemeralContainer", "terminationMessagePolicy") => {
            &["FallbackToLogsOnError", "File"]
        }
        (
            "core.v1.ContainerPort"
            | "core.v1.ServicePort"
            | "core.v1.EndpointPort"
            | "core.v1.PortStatus",
            "protocol",
        ) => &["SCTP", "TCP", "UDP"],
        ("core.v1.HTTPGetAction", "scheme") => &["HTTP", "HTTPS"],
        ("core.v1.HostPathVolumeSource", "type") => &[
            "",
            "BlockDevice",
            "CharDevice",
            "Directory",
            "DirectoryOrCreate",
            "File",
            "FileOrCreate",
            "Socket",
        ],
        ("core.v1.NamespaceStatus", "phase") => &["Active", "Terminating"],
        ("core.v1.NodeSelectorRequirement", "operator") => {
            &["DoesNotExist", "Exists", "Gt", "In", "Lt", "NotIn"]
        }
        ("core.v1.PersistentVolumeClaimSpec", "volumeMode")
        | ("core.v1.PersistentVolumeSpec", "volumeMode") => &["Block", "Filesystem"],
        ("core.v1.PersistentVolumeClaimStatus", "phase") => &["Bound", "Lost", "Pending"],
        ("core.v1.PersistentVolumeSpec", "persistentVolumeReclaimPolicy") => {
            &["Delete", "Recycle", "Retain"]
        }
        ("core.v1.PersistentVolumeStatus", "phase") => {
            &["Available", "Bound", "Failed", "Pending", "Released"]
        }
        ("core.v1.PodSpec", "dnsPolicy") => {
            &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"]
        }
        ("core.v1.PodSpec", "preemptionPolicy")
        | ("scheduling.v1.PriorityClass", "preemptionPolicy") => &["Never", "PreemptLowerPriority"],
        ("core.v1.PodSpec", "restartPolicy") => &["Always", "Never", "OnFailure"],
        ("core.v1.PodStatus", "phase") => &["Failed", "Pending", "Running", "Succeeded", "Unknown"],
        ("core.v1.PodStatus", "qosClass") => &["BestEffort", "Burstable", "Guaranteed"],
        ("core.v1.SeccompProfile", "type") => &["Localhost", "RuntimeDefault", "Unconfined"],
        ("core.v1.ServiceSpec", "externalTrafficPolicy")
        | ("core.v1.ServiceSpec", "internalTrafficPolicy") => &["Cluster", "Local"],
        ("core.v1.ServiceSpec", "ipFamilyPolicy") => {
            &["PreferDualStack", "RequireDualStack", "SingleStack"]
        }
        ("core.v1.ServiceSpec", "sessionAffinity") => &["ClientIP", "None"],
        ("core.v1.ServiceSpec", "type") => {
            &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]
        }
        ("core.v1.Taint", "effect") | ("core.v1.Toleration", "effect") => {
            &["NoExecute", "NoSchedule", "PreferNoSchedule"]
        }
        ("core.v1.TopologySpreadConstraint", "whenUnsatisfiable") => {
            &["DoNotSchedule", "ScheduleAnyway"]
        }
        ("core.v1.TopologySpreadConstraint", "nodeAffinityPolicy")
        | ("core.v1.TopologySpreadConstraint", "nodeTaintsPolicy") => &["Honor", "Ignore"],
        ("discovery.v1.EndpointSlice", "addressType") => &["FQDN", "IPv4", "IPv6"],
        ("networking.v1.HTTPIngressPath", "pathType") => {
            &["Exact", "ImplementationSpecific", "Prefix"]
        }
        _ => return None,
    })
}

/// `core.v1.Pod` for `io.k8s.api.core.v1.Pod`.
fn short(definition: &str) -> Option<&str> {
    definition.strip_prefix("io.k8s.api.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_sorted() {
        let choices = values("io.k8s.api.core.v1.HostPathVolumeSource", "type").unwrap();
        assert!(choices.is_sorted());
    }

    #[test]
    fn a_port_is_tcp_by_default() {
        assert_eq!(default("io.k8s.api.core.v1.ServicePort", "protocol"), Some("TCP".into()));
        assert_eq!(default("io.k8s.api.core.v1.ServicePort", "port"), None);
    }
}
