//! The node's own object, its status and its lease.

use std::{collections::BTreeMap, net::IpAddr, path::Path, sync::Arc};

use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{
            ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
            NodeSpec, NodeStatus, NodeSystemInfo, Taint,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time},
    },
};
use serde_json::{Map, Value, json};

use super::{
    eviction::thresholds::Pressure, housekeeping::NodeState, hugepages, settings::Settings,
};
use crate::runtime::Image;

/// Leaves it to the controllers to attach volumes to the node.
const ATTACHED_BY_CONTROLLER: &str = "volumes.kubernetes.io/controller-managed-attach-detach";

/// The field of volumes that are not to be detached.
const IN_USE: &str = "volumesInUse";

/// What a node is, apart from what changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) taints: Vec<Taint>,
    pub(crate) pod_cidr: Option<String>,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) capacity: BTreeMap<String, String>,
    pub(crate) kubelet_port: u16,
    pub(crate) info: NodeSystemInfo,
    pub(crate) settings: Arc<Settings>,
}

/// The node's object as it is registered.
pub(crate) fn node(identity: &Identity, now: &Time) -> Node {
    let mut labels: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", identity.name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture()),
    ]
    .map(|(key, value)| (key.to_string(), value.to_string()))
    .into();
    labels.extend(identity.labels.clone());
    let mut annotations: BTreeMap<String, String> =
        [(ATTACHED_BY_CONTROLLER.to_owned(), "true".to_owned())].into();
    annotations.extend(identity.annotations.clone());
    Node {
        metadata: ObjectMeta {
            name: Some(identity.name.clone()),
            labels: Some(labels),
            annotations: Some(annotations),
            ..Default::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: identity.pod_cidr.clone(),
            pod_cidrs: identity.pod_cidr.clone().map(|range| vec![range]),
            taints: Some(identity.taints.clone()).filter(|taints| !taints.is_empty()),
            provider_id: identity.settings.provider_id.clone(),
            ..Default::default()
        }),
        status: Some(status(identity, &[], &NodeState::default(), None, now)),
    }
}

/// What a node here can follow and an older one may not, sorted (KEP-5328): no CPU is a container's
/// alone, so that those of guaranteed Pods can change too.
const DECLARED_FEATURES: [&str; 1] = ["GuaranteedQoSPodCPUResize"];

/// The node's status; conditions keep their transition times from `old`.
pub(crate) fn status(
    identity: &Identity,
    images: &[Image],
    state: &NodeState,
    old: Option<&NodeStatus>,
    now: &Time,
) -> NodeStatus {
    let mut capacity: BTreeMap<String, Quantity> = identity
        .capacity
        .iter()
        .map(|(name, amount)| (name.clone(), Quantity(amount.clone())))
        .collect();
    for (name, amount) in advertised(old) {
        capacity.entry(name.clone()).or_insert_with(|| amount.clone());
    }
    let address = |type_: &str, address: String| NodeAddress { type_: type_.into(), address };
    let mut addresses: Vec<NodeAddress> =
        identity.addresses.iter().map(|ip| address("InternalIP", ip.to_string())).collect();
    addresses.push(address("Hostname", identity.name.clone()));
    NodeStatus {
        addresses: Some(addresses),
        allocatable: Some(allocatable(&identity.settings, &capacity)),
        capacity: Some(capacity),
        conditions: Some(conditions(state, old, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(identity.kubelet_port) }),
        }),
        images: Some(image_list(images, identity.settings.images_max))
            .filter(|images| !images.is_empty()),
        node_info: Some(identity.info.clone()),
        // That is for the attach/detach controller to say.
        volumes_attached: old.and_then(|old| old.volumes_attached.clone()),
        volumes_in_use: Some(state.volumes_in_use.iter().cloned().collect())
            .filter(|volumes: &Vec<String>| !volumes.is_empty()),
        declared_features: Some(DECLARED_FEATURES.map(str::to_owned).into()),
        ..Default::default()
    }
}

/// Extended resources that somebody else advertised for this node, by a patch of its capacity: they
/// stay, and can be allocated.
fn advertised(old: Option<&NodeStatus>) -> impl Iterator<Item = (&String, &Quantity)> {
    let capacity = old.and_then(|old| old.capacity.as_ref());
    capacity.into_iter().flatten().filter(|(name, _)| is_extended(name))
}

/// Whether a resource is of a domain other than Kubernetes' own.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// What Pods may have of a capacity.
fn allocatable(
    settings: &Settings,
    capacity: &BTreeMap<String, Quantity>,
) -> BTreeMap<String, Quantity> {
    let parse = |amount: &Quantity| rk_api::meta::quantity::Quantity::parse(&amount.0);
    // Memory that is set aside for huge pages is none that others can have.
    let huge = capacity.iter().filter(|(name, _)| name.starts_with(hugepages::PREFIX));
    let huge: i64 = huge.filter_map(|(_, amount)| Some(parse(amount).ok()?.value())).sum();
    let left = |(name, amount): (&String, &Quantity)| {
        let parsed = parse(amount).map(|parsed| match name.as_str() {
            "memory" if huge > 0 => {
                let value = parsed.value().saturating_sub(huge).max(0);
                rk_api::meta::quantity::Quantity::new(value, 0).with_format(parsed.format())
            }
            _ => parsed,
        });
        let left = parsed.map(|parsed| settings.allocatable(name, parsed).into());
        (name.clone(), left.unwrap_or_else(|_| amount.clone()))
    };
    capacity.iter().map(left).collect()
}

/// Whether something holds, by the condition's type, with the reason and the message for each.
type Condition = (&'static str, bool, &'static str, String);

fn verdicts(state: &NodeState) -> [Condition; 4] {
    let pressure = |pressure: Pressure, yes: [&'static str; 2], no: [&'static str; 2]| {
        let holds = state.pressures.contains(&pressure);
        let [reason, message] = if holds { yes } else { no };
        (pressure.condition(), holds, reason, message.to_owned())
    };
    let not_ready = match (&state.runtime_down, state.shutting_down) {
        (_, true) => Some("node is shutting down".to_owned()),
        (down, false) => down.clone(),
    };
    let ready = match not_ready {
        Some(why) => ("Ready", false, "KubeletNotReady", why),
        None => ("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned()),
    };
    [
        pressure(
            Pressure::Memory,
            ["KubeletHasInsufficientMemory", "kubelet has insufficient memory available"],
            ["KubeletHasSufficientMemory", "kubelet has sufficient memory available"],
        ),
        pressure(
            Pressure::Disk,
            ["KubeletHasDiskPressure", "kubelet has disk pressure"],
            ["KubeletHasNoDiskPressure", "kubelet has no disk pressure"],
        ),
        pressure(
            Pressure::Pid,
            ["KubeletHasInsufficientPID", "kubelet has insufficient PID available"],
            ["KubeletHasSufficientPID", "kubelet has sufficient PID available"],
        ),
        ready,
    ]
}

/// The reasons of events about conditions that are another than before. One that is new is none,
/// unless it is bad.
pub(crate) fn changes_of_conditions(old: &NodeStatus, new: &NodeStatus) -> Vec<&'static str> {
    let of = |status: &NodeStatus, kind: &str| {
        let found = status.conditions.iter().flatten().find(|c| c.type_ == kind)?;
        Some(found.status == "True")
    };
    let words = [
        ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
        ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
        ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
        ("Ready", "NodeReady", "NodeNotReady"),
    ];
    let changed = words.into_iter().filter_map(|(kind, yes, no)| {
        let (before, now) = (of(old, kind)?, of(new, kind)?);
        (before != now).then_some(if now { yes } else { no })
    });
    changed.collect()
}

fn conditions(state: &NodeState, old: Option<&NodeStatus>, now: &Time) -> Vec<NodeCondition> {
    let before = |type_: &str, status: &str| {
        let old =
            old?.conditions.as_ref()?.iter().find(|c| c.type_ == type_ && c.status == status)?;
        old.last_transition_time.clone()
    };
    verdicts(state)
        .into_iter()
        .map(|(type_, holds, reason, message)| {
            let status = if holds { "True" } else { "False" };
            NodeCondition {
                type_: type_.into(),
                status: status.into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_heartbeat_time: Some(now.clone()),
                last_transition_time: Some(before(type_, status).unwrap_or_else(|| now.clone())),
            }
        })
        .collect()
}

/// The images that a status lists: the largest ones, or all when `most` is negative.
fn image_list(images: &[Image], most: i32) -> Vec<ContainerImage> {
    let mut images: Vec<&Image> = images.iter().collect();
    images.sort_by(|a, b| (b.size_bytes, &a.id).cmp(&(a.size_bytes, &b.id)));
    let list = images.into_iter().take(usize::try_from(most).unwrap_or(usize::MAX)).map(|image| {
        ContainerImage {
            names: Some(image.digests.iter().chain(&image.tags).cloned().collect()),
            size_bytes: i64::try_from(image.size_bytes).ok(),
        }
    });
    list.collect()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What `nodeInfo` shows of this machine and the runtime.
pub(crate) fn system_info(runtime_version: &str) -> NodeSystemInfo {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_string();
    let os_release = read("/etc/os-release");
    let os_image = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map(|name| name.trim_matches('"').to_string());
    let version = format!("v1.37.0-rk.{}", env!("CARGO_PKG_VERSION"));
    NodeSystemInfo {
        architecture: architecture().into(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: runtime_version.into(),
        kernel_version: read("/proc/sys/kernel/osrelease"),
        kube_proxy_version: String::new(),
        kubelet_version: version,
        machine_id: read("/etc/machine-id"),
        operating_system: "linux".into(),
        os_image: os_image.unwrap_or_default(),
        system_uuid: read("/etc/machine-id"),
        ..Default::default()
    }
}

/// What this machine has; `root` is on the file system whose size counts as ephemeral storage.
pub(crate) fn machine_capacity(root: &Path) -> BTreeMap<String, String> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut capacity = BTreeMap::from([("cpu".to_string(), cpus.to_string())]);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = meminfo.lines().find_map(|line| {
        let kib = line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?;
        kib.trim().parse::<u64>().ok()
    });
    capacity.insert("memory".into(), format!("{}Ki", memory.unwrap_or(1 << 20)));
    capacity
        .extend(file_system_kib(root).map(|kib| ("ephemeral-storage".into(), format!("{kib}Ki"))));
    capacity.extend(hugepages::capacity(Path::new(hugepages::POOLS)));
    capacity
}

#[cfg(target_os = "linux")]
fn file_system_kib(root: &Path) -> Option<u64> {
    let existing = root.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    Some(stat.f_blocks * stat.f_frsize / 1024)
}

#[cfg(not(target_os = "linux"))]
fn file_system_kib(_: &Path) -> Option<u64> {
    None
}

/// What a simulated node has unless it is said otherwise.
pub(crate) fn simulated_capacity() -> BTreeMap<String, String> {
    [("cpu", "32"), ("memory", "256Gi"), ("ephemeral-storage", "1Ti")]
        .map(|(name, amount)| (name.to_string(), amount.to_string()))
        .into()
}

/// The strategic merge patch that takes a node's status from `old` to `new`; `None` if only
/// heartbeats differ and `heartbeat` does not ask for them.
pub(crate) fn status_patch(old: &NodeStatus, new: &NodeStatus, heartbeat: bool) -> Option<Value> {
    if !heartbeat && differs_by_heartbeats(old, new) {
        return None;
    }
    let (Ok(Value::Object(old)), Ok(Value::Object(mut new))) =
        (serde_json::to_value(old), serde_json::to_value(new))
    else {
        return None;
    };
    let mut changed = Map::new();
    let told_in_use = new.contains_key(IN_USE);
    if let Some(conditions) = new.remove("conditions")
        && (heartbeat || without_heartbeats(old.get("conditions"), &conditions))
    {
        changed.insert("conditions".into(), conditions);
    }
    for (key, value) in new {
        if old.get(&key) == Some(&value) {
            continue;
        }
        // Addresses merge by type, of which there may be two; so the list is replaced. Amounts
        // merge by name: one that is no more has to be said so.
        let value = match value {
            Value::Object(mut amounts) if matches!(key.as_str(), "capacity" | "allocatable") => {
                let before = old.get(&key).and_then(Value::as_object);
                for (name, _) in before.into_iter().flatten() {
                    amounts.entry(name.clone()).or_insert(Value::Null);
                }
                Value::Object(amounts)
            }
            Value::Array(mut list) if key == "addresses" => {
                list.push(json!({"$patch": "replace"}));
                Value::Array(list)
            }
            value => value,
        };
        changed.insert(key, value);
    }
    if old.contains_key(IN_USE) && !told_in_use {
        changed.insert(IN_USE.into(), Value::Null);
    }
    (!changed.is_empty()).then(|| json!({ "status": changed }))
}

/// Whether nothing but heartbeats differs, as mostly: found out without making trees of both.
fn differs_by_heartbeats(old: &NodeStatus, new: &NodeStatus) -> bool {
    let conditions = |status: &NodeStatus| {
        let mut conditions = status.conditions.clone();
        conditions.iter_mut().flatten().for_each(|condition| condition.last_heartbeat_time = None);
        conditions
    };
    let apart = |status: &NodeStatus| NodeStatus { conditions: None, ..status.clone() };
    conditions(old) == conditions(new) && apart(old) == apart(new)
}

/// Whether a condition changed in more than its heartbeat.
fn without_heartbeats(old: Option<&Value>, new: &Value) -> bool {
    let strip = |list: Option<&Value>| -> Vec<Value> {
        let list = list.and_then(Value::as_array).cloned().unwrap_or_default();
        let strip = |mut item: Value| {
            item.as_object_mut().map(|item| item.remove("lastHeartbeatTime"));
            item
        };
        list.into_iter().map(strip).collect()
    };
    let (old, new) = (strip(old), strip(Some(new)));
    new.iter().any(|item| !old.contains(item))
}

/// The node's lease, renewed now.
pub(crate) fn lease(name: &str, uid: Option<String>, seconds: i32, now: MicroTime) -> Lease {
    let owner = uid.map(|uid| OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.into(),
        uid,
        ..Default::default()
    });
    Lease {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some("kube-node-lease".into()),
            owner_references: owner.map(|owner| vec![owner]),
            ..Default::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.into()),
            lease_duration_seconds: Some(seconds),
            renew_time: Some(now),
            ..Default::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
    }

    fn identity() -> Identity {
        Identity {
            name: "n1".into(),
            capacity: [("cpu".to_string(), "2".to_string())].into(),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            ..Default::default()
        }
    }

    #[test]
    fn a_heartbeat_alone_is_no_change() {
        let old = status(&identity(), &[], &NodeState::default(), None, &at(100));
        let new = status(&identity(), &[], &NodeState::default(), Some(&old), &at(110));
        assert_eq!(status_patch(&old, &new, false), None);
        let patch = status_patch(&old, &new, true).unwrap();
        let ready = &patch["status"]["conditions"][3];
        assert_eq!(ready["lastTransitionTime"], "1970-01-01T00:01:40Z");
        assert_eq!(ready["lastHeartbeatTime"], "1970-01-01T00:01:50Z");
    }

    #[test]
    fn extended_resources_that_others_advertise_can_be_allocated_until_they_are_taken_back() {
        let amount = |amount: &str| Quantity(amount.to_owned());
        let mut old = status(&identity(), &[], &NodeState::default(), None, &at(100));
        let capacity = old.capacity.as_mut().unwrap();
        capacity.insert("example.com/foo".into(), amount("3"));
        capacity.insert("node.kubernetes.io/bar".into(), amount("3"));
        let new = status(&identity(), &[], &NodeState::default(), Some(&old), &at(100));
        let patch = status_patch(&old, &new, false).unwrap();
        assert_eq!(
            patch["status"],
            json!({
                "allocatable": {"cpu": "2", "example.com/foo": "3"},
                "capacity": {"cpu": "2", "example.com/foo": "3", "node.kubernetes.io/bar": null},
            })
        );

        let mut old = new;
        old.capacity.as_mut().unwrap().remove("example.com/foo");
        let new = status(&identity(), &[], &NodeState::default(), Some(&old), &at(100));
        let patch = status_patch(&old, &new, false).unwrap();
        let taken_back = json!({"allocatable": {"cpu": "2", "example.com/foo": null}});
        assert_eq!(patch["status"], taken_back);
    }

    #[test]
    fn a_condition_tells_what_is_short_and_since_when() {
        let calm = NodeState::default();
        let pressed = NodeState { pressures: [Pressure::Memory].into(), ..NodeState::default() };
        let old = status(&identity(), &[], &calm, None, &at(100));
        let new = status(&identity(), &[], &pressed, Some(&old), &at(110));
        let condition = &new.conditions.as_ref().unwrap()[0];
        assert_eq!(
            (condition.type_.as_str(), condition.status.as_str()),
            ("MemoryPressure", "True")
        );
        assert_eq!(condition.reason.as_deref(), Some("KubeletHasInsufficientMemory"));
        assert_eq!(condition.last_transition_time, Some(at(110)));
        assert_eq!(changes_of_conditions(&old, &new), ["NodeHasInsufficientMemory"]);
        assert_eq!(changes_of_conditions(&new, &old), ["NodeHasSufficientMemory"]);
        assert!(status_patch(&old, &new, false).is_some());

        let stopping = NodeState { shutting_down: true, ..NodeState::default() };
        let new = status(&identity(), &[], &stopping, Some(&old), &at(110));
        let ready = &new.conditions.as_ref().unwrap()[3];
        assert_eq!(ready.message.as_deref(), Some("node is shutting down"));
        assert_eq!(changes_of_conditions(&old, &new), ["NodeNotReady"]);
    }

    #[test]
    fn the_last_volume_in_use_is_taken_back() {
        let calm = NodeState::default();
        let using = NodeState { volumes_in_use: ["a".to_owned()].into(), ..calm.clone() };
        let old = status(&identity(), &[], &calm, None, &at(100));
        let new = status(&identity(), &[], &using, Some(&old), &at(110));
        let patch = status_patch(&old, &new, false).unwrap();
        assert_eq!(patch, json!({"status": {"volumesInUse": ["a"]}}));
        assert_eq!(status_patch(&new, &new, false), None);
        let patch = status_patch(&new, &old, false).unwrap();
        assert_eq!(patch, json!({"status": {"volumesInUse": null}}));
    }

    #[test]
    fn a_new_image_is_a_change() {
        let old = status(&identity(), &[], &NodeState::default(), None, &at(100));
        let image = Image {
            id: "i".into(),
            tags: vec!["a:v1".into()],
            size_bytes: 7,
            ..Default::default()
        };
        let new = status(&identity(), &[image], &NodeState::default(), Some(&old), &at(110));
        let patch = status_patch(&old, &new, false).unwrap();
        assert_eq!(patch["status"]["images"], json!([{"names": ["a:v1"], "sizeBytes": 7}]));
        assert_eq!(patch["status"].as_object().unwrap().len(), 1);
    }
}
