//! What is attached to a node, and what is taken from it.

use std::{collections::BTreeSet, fmt::Write as _, sync::Arc, time::Duration};

use k8s_openapi::api::{
    core::v1::{AttachedVolume, Node, ObjectReference, PersistentVolume},
    storage::v1::{VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec},
};
use kube::api::ObjectMeta;
use sha2::{Digest, Sha256};

use super::UNMOUNT_TIMEOUT;

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// A node, what it should have and what it has.
pub(super) struct Observed {
    pub node: Option<Arc<Node>>,
    /// Whether attaching to it is up to us.
    pub managed: bool,
    pub wanted: Vec<Wanted>,
    pub attached: Vec<Attachment>,
}

/// A volume that Pods on the node use.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// The PersistentVolume's name.
    pub name: String,
    pub driver: String,
    pub handle: String,
    /// Whether several nodes may have it.
    pub shared: bool,
    /// Whether another node has it.
    pub elsewhere: bool,
    /// Pods on other nodes that use it.
    pub used_by_others: Vec<String>,
    /// Pods on this node that use it.
    pub pods: Vec<ObjectReference>,
}

/// A volume that was attached to the node.
pub(super) struct Attachment {
    pub object: Arc<VolumeAttachment>,
    /// The PersistentVolume's name.
    pub volume: String,
    /// What nodes call it; not known once the PersistentVolume is gone.
    pub unique_name: Option<String>,
    /// How long no Pod on the node has used it.
    pub unwanted_for: Duration,
}

/// What to do, in this order, and what to say.
#[derive(Default)]
pub(super) struct Plan {
    /// What the node is told to be attached.
    pub report: Vec<AttachedVolume>,
    /// Names of VolumeAttachments to delete.
    pub detach: Vec<String>,
    pub attach: Vec<VolumeAttachment>,
    /// After this time it looks different even if nothing changes.
    pub again: Option<Duration>,
    /// Pods that wait for another node to let go of a volume.
    pub blocked: Vec<(ObjectReference, Wanted)>,
    /// Pods, volumes, and why these could not be attached.
    pub failed: Vec<(ObjectReference, String, String)>,
    /// Pods and volumes that are attached.
    pub succeeded: Vec<(ObjectReference, String)>,
}

pub(super) fn plan(node: &str, observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    let in_use = in_use(observed.node.as_deref());
    // A node that is gone may come back with its mounts.
    let ready = observed.node.as_deref().is_some_and(is_ready);
    let out_of_service = observed.node.as_deref().is_some_and(is_out_of_service);

    for attachment in &observed.attached {
        let going = attachment.object.metadata.deletion_timestamp.is_some();
        let wanted = observed.wanted.iter().any(|wanted| wanted.name == attachment.volume);
        if !wanted && !going {
            let mounted = attachment.unique_name.as_ref().is_some_and(|it| in_use.contains(it))
                || observed.node.is_none();
            let overdue = !ready && attachment.unwanted_for >= UNMOUNT_TIMEOUT;
            if !mounted || out_of_service || overdue {
                plan.detach.push(attachment.object.metadata.name.clone().unwrap_or_default());
                continue;
            }
            if !ready {
                let left = UNMOUNT_TIMEOUT.saturating_sub(attachment.unwanted_for);
                plan.again = Some(plan.again.map_or(left, |before| before.min(left)));
            }
        }
        let attached = attachment.object.status.as_ref().is_some_and(|status| status.attached);
        if attached
            && !going
            && let Some(name) = &attachment.unique_name
        {
            plan.report.push(AttachedVolume { name: name.clone(), device_path: String::new() });
        }
    }
    for wanted in &observed.wanted {
        let here = observed.attached.iter().find(|there| there.volume == wanted.name);
        match here {
            Some(there) => say(&mut plan, wanted, &there.object),
            None if wanted.elsewhere && !wanted.shared => {
                let pods = wanted.pods.iter().cloned();
                plan.blocked.extend(pods.map(|pod| (pod, wanted.clone())));
            }
            None => plan.attach.push(attachment(wanted, node)),
        }
    }
    plan.report.sort_by(|a, b| a.name.cmp(&b.name));
    if !observed.managed && observed.attached.is_empty() {
        // What the node has there it wrote itself.
        plan.report = reported(observed.node.as_deref());
    }
    plan
}

fn say(plan: &mut Plan, wanted: &Wanted, attachment: &VolumeAttachment) {
    let Some(status) = &attachment.status else { return };
    let pods = wanted.pods.iter().cloned();
    if status.attached {
        plan.succeeded.extend(pods.map(|pod| (pod, wanted.name.clone())));
    } else if let Some(error) = &status.attach_error {
        let why = error.message.clone().unwrap_or_default();
        plan.failed.extend(pods.map(|pod| (pod, wanted.name.clone(), why.clone())));
    }
}

/// The object that asks a driver to attach a volume. Its name follows from what it is for, so that
/// there is never a second one.
fn attachment(wanted: &Wanted, node: &str) -> VolumeAttachment {
    let digest = Sha256::digest(format!("{}{}{node}", wanted.handle, wanted.driver));
    let mut name = String::from("csi-");
    for byte in digest {
        let _ = write!(name, "{byte:02x}");
    }
    VolumeAttachment {
        metadata: ObjectMeta { name: Some(name), ..ObjectMeta::default() },
        spec: VolumeAttachmentSpec {
            attacher: wanted.driver.clone(),
            node_name: node.to_owned(),
            source: VolumeAttachmentSource {
                persistent_volume_name: Some(wanted.name.clone()),
                inline_volume_spec: None,
            },
        },
        status: None,
    }
}

/// The PersistentVolume of an attachment.
pub(super) fn volume_of(attachment: &VolumeAttachment) -> Option<&str> {
    attachment.spec.source.persistent_volume_name.as_deref()
}

/// What nodes call a CSI volume in their status.
pub(super) fn unique_name(volume: &PersistentVolume) -> Option<String> {
    let csi = volume.spec.as_ref()?.csi.as_ref()?;
    Some(format!("kubernetes.io/csi/{}^{}", csi.driver, csi.volume_handle))
}

/// Whether several nodes may have a volume at the same time.
pub(super) fn is_shared(volume: &PersistentVolume) -> bool {
    let modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref());
    modes.unwrap_or_default().iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany")
}

pub(super) fn multi_attach_message(volume: &str, users: &[String]) -> String {
    let why = match users {
        [] => "Volume is already exclusively attached to one node and can't be attached to another"
            .to_owned(),
        users => format!("Volume is already used by pod(s) {}", users.join(", ")),
    };
    format!("Multi-Attach error for volume {volume:?} {why}")
}

pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
    let mut conditions = conditions.unwrap_or_default().iter();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub(super) fn is_out_of_service(node: &Node) -> bool {
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.any(|taint| taint.key == OUT_OF_SERVICE)
}

fn in_use(node: Option<&Node>) -> BTreeSet<String> {
    let names = node.and_then(|node| node.status.as_ref()?.volumes_in_use.clone());
    names.unwrap_or_default().into_iter().collect()
}

fn reported(node: Option<&Node>) -> Vec<AttachedVolume> {
    node.and_then(|node| node.status.as_ref()?.volumes_attached.clone()).unwrap_or_default()
}

/// The node, told what is attached to it.
pub(super) fn with_attached(node: &Node, attached: Vec<AttachedVolume>) -> Node {
    let mut after = node.clone();
    after.status.get_or_insert_default().volumes_attached =
        Some(attached).filter(|attached| !attached.is_empty());
    after
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, from_value, json};

    use super::*;

    const UNIQUE: &str = "kubernetes.io/csi/d^h";

    fn node(ready: bool, in_use: Value, taints: Value) -> Option<Arc<Node>> {
        let ready = json!([{"type": "Ready", "status": if ready { "True" } else { "False" }}]);
        let status = json!({"conditions": ready, "volumesInUse": in_use});
        Some(Arc::new(from_value(json!({"spec": {"taints": taints}, "status": status})).unwrap()))
    }

    fn wanted() -> Wanted {
        Wanted {
            name: "v".into(),
            driver: "d".into(),
            handle: "h".into(),
            shared: false,
            elsewhere: false,
            used_by_others: Vec::new(),
            pods: vec![ObjectReference::default()],
        }
    }

    fn attached(done: bool, unwanted_for: u64) -> Attachment {
        let mut object = attachment(&wanted(), "n");
        object.status = Some(from_value(json!({"attached": done})).unwrap());
        Attachment {
            object: Arc::new(object),
            volume: "v".into(),
            unique_name: Some(UNIQUE.into()),
            unwanted_for: Duration::from_secs(unwanted_for),
        }
    }

    fn observed(
        node: Option<Arc<Node>>,
        wanted: Vec<Wanted>,
        attached: Vec<Attachment>,
    ) -> Observed {
        Observed { node, managed: true, wanted, attached }
    }

    #[test]
    fn a_volume_is_attached_where_a_pod_uses_it_and_reported_once_it_is() {
        let idle = || node(true, json!([]), json!([]));
        let first = plan("n", &observed(idle(), vec![wanted()], vec![]));
        assert_eq!(first.attach.len(), 1);
        assert_eq!(first.attach[0].spec.attacher, "d");
        let waiting = plan("n", &observed(idle(), vec![wanted()], vec![attached(false, 0)]));
        assert!(waiting.attach.is_empty() && waiting.report.is_empty());
        let done = plan("n", &observed(idle(), vec![wanted()], vec![attached(true, 0)]));
        assert_eq!(done.report[0].name, UNIQUE);
        assert_eq!(done.succeeded.len(), 1);
    }

    #[test]
    fn a_volume_that_one_node_has_is_attached_to_no_other() {
        let idle = || node(true, json!([]), json!([]));
        let there = Wanted { elsewhere: true, ..wanted() };
        let plan_ = plan("n", &observed(idle(), vec![there.clone()], vec![]));
        assert!(plan_.attach.is_empty() && plan_.blocked.len() == 1);
        let shared = Wanted { shared: true, ..there };
        assert_eq!(plan("n", &observed(idle(), vec![shared], vec![])).attach.len(), 1);
    }

    #[test]
    fn a_volume_is_detached_when_it_is_not_mounted_or_will_never_be_unmounted() {
        let check = |what: &str, node, seconds, detached: bool| {
            let plan = plan("n", &observed(node, vec![], vec![attached(true, seconds)]));
            assert_eq!(!plan.detach.is_empty(), detached, "{what}");
            assert_eq!(plan.report.is_empty(), detached, "{what}: struck off first");
            plan.again
        };
        let used = || json!([UNIQUE]);
        check("not mounted", node(true, json!([]), json!([])), 0, true);
        check("mounted", node(true, used(), json!([])), 1000, false);
        let again = check("not ready", node(false, used(), json!([])), 60, false);
        assert_eq!(again, Some(Duration::from_secs(300)));
        check("not ready for long", node(false, used(), json!([])), 360, true);
        let taint = json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]);
        check("out of service", node(false, used(), taint), 0, true);
        check("gone", None, 60, false);
        check("gone for long", None, 360, true);
    }

    proptest! {
        /// Each wanted volume is attached, about to be, or told to wait, one of the three; nothing
        /// that is wanted or mounted on a healthy node is taken away; and what is taken away is
        /// not reported.
        #[test]
        fn wanted_volumes_come_and_mounted_ones_stay(
            volumes in prop::collection::vec(
                (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), 0..500u64), 1..6),
            ready in any::<bool>(),
        ) {
            let name = |n: usize| format!("v{n}");
            let unique = |n: usize| format!("kubernetes.io/csi/d^h{n}");
            let mut seen = Observed { node: None, managed: true, wanted: vec![], attached: vec![] };
            let mut mounted = Vec::new();
            for (n, (is_wanted, is_there, is_mounted, elsewhere, shared, idle)) in volumes.iter().enumerate() {
                let volume = Wanted {
                    name: name(n), handle: format!("h{n}"), elsewhere: *elsewhere, shared: *shared, ..wanted()
                };
                if *is_there {
                    let mut object = attachment(&volume, "n");
                    object.status = Some(from_value(json!({"attached": true})).unwrap());
                    seen.attached.push(Attachment {
                        object: Arc::new(object), volume: name(n), unique_name: Some(unique(n)),
                        unwanted_for: Duration::from_secs(*idle),
                    });
                }
                if *is_wanted {
                    seen.wanted.push(volume);
                }
                if *is_mounted {
                    mounted.push(unique(n));
                }
            }
            seen.node = node(ready, json!(mounted), json!([]));
            let planned = plan("n", &seen);

            for volume in &seen.wanted {
                let there = seen.attached.iter().any(|it| it.volume == volume.name);
                let comes = planned.attach.iter().any(|it| volume_of(it) == Some(&volume.name));
                let waits = planned.blocked.iter().any(|(_, it)| it.name == volume.name);
                prop_assert_eq!(u8::from(there) + u8::from(comes) + u8::from(waits), 1, "{}", volume.name);
                prop_assert!(!comes || !volume.elsewhere || volume.shared);
            }
            for there in &seen.attached {
                let goes = planned.detach.contains(there.object.metadata.name.as_ref().unwrap());
                let name = there.unique_name.as_ref().unwrap();
                let is_wanted = seen.wanted.iter().any(|it| it.name == there.volume);
                prop_assert!(!goes || !is_wanted);
                prop_assert!(!goes || !ready || !mounted.contains(name));
                prop_assert_eq!(planned.report.iter().any(|it| it.name == *name), !goes);
            }
        }
    }
}
