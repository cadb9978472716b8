//! Attaches CSI volumes to the nodes whose Pods use them, by VolumeAttachment objects.
//!
//! # What it promises
//! - A volume is attached to a node when a Pod with it is bound there, and detached when no Pod
//!   there uses it any more and the node says that it is not mounted (`status.volumesInUse`).
//! - A node that does not say so keeps it, unless it is not Ready and six minutes have passed, or it
//!   is marked `node.kubernetes.io/out-of-service`.
//! - A volume that only one node may have is attached to no second one.
//! - `status.volumesAttached` of a node lists what is attached, and a volume is struck off that list
//!   before it is detached, so that the node does not mount it in between.
//!
//! It serves nodes that leave this to it, which they say by the annotation
//! `volumes.kubernetes.io/controller-managed-attach-detach`, and drivers that want it, which are all
//! but those whose CSIDriver has `attachRequired: false`. A CSI driver's attacher does the work and
//! reports in the status of the VolumeAttachment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use k8s_openapi::api::{
    core::v1::{Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::{CSIDriver, VolumeAttachment},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams},
};
use parking_lot::Mutex;
use rk_api::{
    client::{Change, EventRecorder, EventType, Informer, object_ref},
    volumes::{claim_of, is_bound, is_reserved_for, volume_name},
};
use tokio::time::Instant;

use crate::{
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
    pods::{self, USED_CLAIM, index_by_claim},
    write::{self, Part},
};

mod plan;

use plan::{Attachment, Observed, Wanted};

/// Says on a node that attaching is left to this controller.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
/// How long a node that is not Ready may keep a volume that nobody uses any more.
const UNMOUNT_TIMEOUT: Duration = Duration::from_secs(6 * 60);

/// Index of Pods with claims by their node.
const BY_NODE: &str = "node-of-pod-with-claims";
/// Index of VolumeAttachments by their node.
const ATTACHED_TO: &str = "attached-to";
/// Index of VolumeAttachments by their volume.
const ATTACHMENT_OF: &str = "attachment-of";

struct AttachDetach {
    client: Client,
    recorder: EventRecorder,
    caches: Caches,
    memory: Mutex<Memory>,
}

/// What a restart forgets, at the price of waiting longer or saying something twice.
#[derive(Default)]
struct Memory {
    /// Since when an attachment is not wanted, by its name.
    unwanted: BTreeMap<String, Instant>,
    /// Of what events told, by Pod and what they said.
    told: BTreeSet<(String, String)>,
}

#[derive(Clone)]
struct Caches {
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    drivers: Informer<CSIDriver>,
    attachments: Informer<VolumeAttachment>,
}

/// Keys are nodes.
#[async_trait]
impl Reconciler for Arc<AttachDetach> {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let observed = self.observe(&key.name);
        let plan = plan::plan(&key.name, &observed);
        for (pod, volume) in &plan.blocked {
            let message = plan::multi_attach_message(&volume.name, &volume.used_by_others);
            self.tell(pod, EventType::Warning, "FailedAttachVolume", message);
        }
        for (pod, volume, error) in &plan.failed {
            let message = format!("AttachVolume.Attach failed for volume {volume:?} : {error}");
            self.tell(pod, EventType::Warning, "FailedAttachVolume", message);
        }
        for (pod, volume) in &plan.succeeded {
            let message = format!("AttachVolume.Attach succeeded for volume {volume:?} ");
            self.tell(pod, EventType::Normal, "SuccessfulAttachVolume", message);
        }

        // What the node is told comes before anything is taken from it.
        if let Some(node) = &observed.node {
            let after = plan::with_attached(node, plan.report);
            let api = Api::<Node>::all(self.client.clone());
            match write::update(&api, &**node, &after, Part::Status).await {
                Err(gone) if error::is_not_found(&gone) => {}
                result => drop(result?),
            }
        }
        let api = Api::<VolumeAttachment>::all(self.client.clone());
        for name in &plan.detach {
            match api.delete(name, &DeleteParams::default()).await {
                Err(gone) if error::is_not_found(&gone) => {}
                result => drop(result?),
            }
        }
        for attachment in &plan.attach {
            match api.create(&PostParams::default(), attachment).await {
                Err(there) if error::is_already_exists(&there) => {}
                result => drop(result?),
            }
        }
        Ok(Action::after(plan.again))
    }
}

impl AttachDetach {
    fn observe(&self, name: &str) -> Observed {
        let node = self.caches.nodes.get("", name);
        let managed = node.as_ref().is_some_and(|node| {
            node.annotations().get(MANAGED).is_some_and(|value| value == "true")
        });
        let wanted = if managed { self.wanted_on(name) } else { Vec::new() };
        let attachments = self.caches.attachments.by_index(ATTACHED_TO, name);
        let now = Instant::now();
        let mut memory = self.memory.lock();
        let attached: Vec<Attachment> = attachments
            .into_iter()
            .filter_map(|object| {
                let volume = plan::volume_of(&object)?.to_owned();
                let wanted = wanted.iter().any(|wanted| wanted.name == volume);
                let name = object.name_any();
                let unwanted_for = if wanted {
                    memory.unwanted.remove(&name);
                    Duration::ZERO
                } else {
                    memory.unwanted.entry(name).or_insert(now).elapsed()
                };
                let handle = self.caches.volumes.get("", &volume);
                let unique_name = handle.as_deref().and_then(plan::unique_name);
                Some(Attachment { object, volume, unique_name, unwanted_for })
            })
            .collect();
        let known = |name: &String| attached.iter().any(|it| it.object.name_any() == *name);
        memory.unwanted.retain(|attachment, _| {
            known(attachment) || self.caches.attachments.get("", attachment).is_some()
        });
        Observed { node, managed, wanted, attached }
    }

    /// The volumes that Pods on a node use, each once.
    fn wanted_on(&self, node: &str) -> Vec<Wanted> {
        let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
        for pod in self.caches.pods.by_index(BY_NODE, node) {
            if pods::is_terminal(&pod) {
                continue;
            }
            let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
            for volume in volumes.filter_map(|volume| claim_of(&pod, volume)) {
                let Some(found) = self.caches.volume_of(&pod, &volume) else { continue };
                let Some(csi) = found.spec.as_ref().and_then(|spec| spec.csi.as_ref()) else {
                    continue;
                };
                if !self.caches.must_attach(&csi.driver) {
                    continue;
                }
                let entry = wanted.entry(found.name_any()).or_insert_with(|| {
                    let others = self.caches.attachments.by_index(ATTACHMENT_OF, &found.name_any());
                    Wanted {
                        name: found.name_any(),
                        driver: csi.driver.clone(),
                        handle: csi.volume_handle.clone(),
                        shared: plan::is_shared(&found),
                        elsewhere: others.iter().any(|other| other.spec.node_name != node),
                        used_by_others: self.caches.users_elsewhere(&found, node),
                        pods: Vec::new(),
                    }
                });
                entry.pods.push(object_ref(&*pod));
            }
        }
        wanted.into_values().collect()
    }

    /// Records an event about a Pod, once for each text.
    fn tell(&self, pod: &ObjectReference, kind: EventType, reason: &str, message: String) {
        let uid = pod.uid.clone().unwrap_or_default();
        let mut memory = self.memory.lock();
        if memory.told.insert((uid, message.clone())) {
            self.recorder.event(pod, kind, reason, message);
        }
    }

    fn forget(&self, uid: &str) {
        let from = (uid.to_owned(), String::new());
        let mut memory = self.memory.lock();
        let told: Vec<_> =
            memory.told.range(from..).take_while(|(pod, _)| pod == uid).cloned().collect();
        for entry in &told {
            memory.told.remove(entry);
        }
    }
}

impl Caches {
    /// The volume behind a claim of a Pod.
    fn volume_of(&self, pod: &Pod, claim: &str) -> Option<Arc<PersistentVolume>> {
        let claim = self.claims.get(&pod.namespace().unwrap_or_default(), claim)?;
        let name = volume_name(&claim).filter(|_| is_bound(&claim))?;
        self.volumes.get("", name).filter(|volume| is_reserved_for(volume, &claim))
    }

    fn must_attach(&self, driver: &str) -> bool {
        let driver = self.drivers.get("", driver);
        driver.is_none_or(|driver| driver.spec.attach_required != Some(false))
    }

    fn users(&self, volume: &PersistentVolume) -> Vec<Arc<Pod>> {
        let claimant = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let Some(claimant) = claimant else { return Vec::new() };
        let namespace = claimant.namespace.as_deref().unwrap_or_default();
        let name = claimant.name.as_deref().unwrap_or_default();
        self.pods.by_index(USED_CLAIM, &format!("{namespace}/{name}"))
    }

    /// The names of Pods on other nodes that use a volume.
    fn users_elsewhere(&self, volume: &PersistentVolume, node: &str) -> Vec<String> {
        let users = self.users(volume);
        let others = users.iter().filter(|pod| {
            !pods::is_terminal(pod) && pods::node_name(pod).is_some_and(|name| name != node)
        });
        others.map(|pod| pod.name_any()).collect()
    }

    fn nodes_with(&self, volume: &str) -> Vec<ObjectKey> {
        let Some(volume) = self.volumes.get("", volume) else { return Vec::new() };
        self.users(&volume).iter().filter_map(|pod| node_key(pod)).collect()
    }

    /// The node of an attachment, and when it goes, all nodes that wait for its volume.
    fn attachment_changed(&self, change: &Change<VolumeAttachment>) -> Vec<ObjectKey> {
        let attachment = change.object();
        let mut keys = vec![ObjectKey::cluster(attachment.spec.node_name.clone())];
        if let (Change::Deleted(_), Some(volume)) = (change, plan::volume_of(attachment)) {
            keys.extend(self.nodes_with(volume));
        }
        keys
    }

    /// The nodes of the Pods that use a claim.
    fn claim_changed(&self, change: &Change<PersistentVolumeClaim>) -> Vec<ObjectKey> {
        let key = ObjectKey::of(&**change.object()).to_string();
        let users = self.pods.by_index(USED_CLAIM, &key);
        users.iter().filter_map(|pod| node_key(pod)).collect()
    }

    fn volume_changed(&self, change: &Change<PersistentVolume>) -> Vec<ObjectKey> {
        self.users(change.object()).iter().filter_map(|pod| node_key(pod)).collect()
    }
}

fn node_key(pod: &Pod) -> Option<ObjectKey> {
    pods::node_name(pod).map(ObjectKey::cluster)
}

/// A Pod concerns its node if it has claims.
fn pod_changed(change: &Change<Pod>) -> Vec<ObjectKey> {
    let pod = change.object();
    if rk_api::volumes::claims_of(pod).next().is_none() {
        return Vec::new();
    }
    let unchanged = matches!(change, Change::Updated { old, new }
        if pods::node_name(old) == pods::node_name(new)
            && pods::is_terminal(old) == pods::is_terminal(new));
    if unchanged { Vec::new() } else { node_key(pod).into_iter().collect() }
}

/// Heartbeats do not matter.
fn node_changed(change: &Change<Node>) -> bool {
    let Change::Updated { old, new } = change else { return true };
    let looked_at = |node: &Node| {
        let status = node.status.as_ref();
        (
            plan::is_ready(node),
            plan::is_out_of_service(node),
            node.annotations().get(MANAGED).cloned(),
            status.and_then(|status| status.volumes_in_use.clone()),
            status.and_then(|status| status.volumes_attached.clone()),
        )
    };
    looked_at(old) != looked_at(new)
}

fn index_by_node(pod: &Pod) -> Vec<String> {
    match rk_api::volumes::claims_of(pod).next() {
        Some(_) => pods::node_name(pod).map(str::to_owned).into_iter().collect(),
        None => Vec::new(),
    }
}

fn index_by_volume(attachment: &VolumeAttachment) -> Vec<String> {
    plan::volume_of(attachment).map(str::to_owned).into_iter().collect()
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let caches = Caches {
        nodes: context.informers.of(),
        pods: context.informers.of(),
        claims: context.informers.of(),
        volumes: context.informers.of(),
        drivers: context.informers.of(),
        attachments: context.informers.of(),
    };
    caches.pods.add_index(BY_NODE, index_by_node);
    caches.pods.add_index(USED_CLAIM, index_by_claim);
    caches.attachments.add_index(ATTACHED_TO, |attachment| vec![attachment.spec.node_name.clone()]);
    caches.attachments.add_index(ATTACHMENT_OF, index_by_volume);
    let worker = Arc::new(AttachDetach {
        client: context.client.clone(),
        recorder: context.recorder("attachdetach-controller"),
        caches: caches.clone(),
        memory: Mutex::default(),
    });
    let (of_attachments, of_claims, of_volumes) = (caches.clone(), caches.clone(), caches.clone());
    let told = worker.clone();
    Controller::new(name, worker)
        .reconciles_if(&caches.nodes, node_changed)
        .watches(&caches.pods, move |change| {
            if let Change::Deleted(pod) = change {
                told.forget(&pod.uid().unwrap_or_default());
            }
            pod_changed(change)
        })
        .watches(&caches.attachments, move |change| of_attachments.attachment_changed(change))
        .watches(&caches.claims, move |change| of_claims.claim_changed(change))
        .watches(&caches.volumes, move |change| of_volumes.volume_changed(change))
        .reads(&caches.drivers)
        .workers(context.settings.workers)
}
