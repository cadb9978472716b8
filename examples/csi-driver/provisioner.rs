//! Has the driver make, grow and delete volumes, as claims and volumes ask for it.

use async_trait::async_trait;
use k8s_openapi::{
    api::{
        core::v1::{
            CSIPersistentVolumeSource, PersistentVolume, PersistentVolumeClaim,
            PersistentVolumeClaimCondition, PersistentVolumeSpec,
        },
        storage::v1::{StorageClass, VolumeAttachment},
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use rk::{
    api::{
        client::{Change, EventRecorder, EventType, Informer, Informers, object_ref},
        volumes::{
            PROVISIONED_BY, STORAGE_PROVISIONER, annotation, capacity, claim_class, is_bound,
            request, volume_name,
        },
    },
    controllers::{Action, Controller, Error, ObjectKey, Reconciler, finalizers, update},
    cri::csi::{
        self, Status,
        v1::{
            AccessMode, AccessType, CapacityRange, ControllerExpandVolumeRequest,
            CreateVolumeRequest, DeleteVolumeRequest, Mode, MountVolume, VolumeCapability,
        },
    },
};

/// Keeps a volume until the driver has deleted it.
const FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";

struct Provisioner {
    driver_name: String,
    client: Client,
    driver: csi::Client,
    recorder: EventRecorder,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    attachments: Informer<VolumeAttachment>,
}

/// The controller, wired up.
pub fn controller(
    name: &str,
    client: &Client,
    informers: &Informers,
    driver: csi::Client,
) -> Controller {
    let (claims, volumes) = (informers.of(), informers.of::<PersistentVolume>());
    let (classes, attachments) = (informers.of(), informers.of::<VolumeAttachment>());
    let provisioner = Provisioner {
        driver_name: name.to_owned(),
        client: client.clone(),
        driver,
        recorder: EventRecorder::new(client.clone(), name),
        claims: claims.clone(),
        volumes: volumes.clone(),
        classes: classes.clone(),
        attachments: attachments.clone(),
    };
    Controller::new("provisioner", provisioner)
        .reconciles(&claims)
        .reconciles(&volumes)
        // A volume is deleted when it is attached nowhere any more.
        .watches(&attachments, |change| match change {
            Change::Deleted(gone) => {
                let volume = gone.spec.source.persistent_volume_name.clone();
                volume.map(ObjectKey::cluster).into_iter().collect()
            }
            _ => Vec::new(),
        })
        .reads(&classes)
}

/// Keys with a namespace are claims, keys without are volumes.
#[async_trait]
impl Reconciler for Provisioner {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        if key.namespace.is_empty() {
            if let Some(volume) = self.volumes.get("", &key.name).filter(|it| self.is_ours(it)) {
                self.reclaim(&volume).await?;
            }
            return Ok(Action::Wait);
        }
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else {
            return Ok(Action::Wait);
        };
        if is_bound(&claim) {
            self.grow(&claim).await?;
        } else if volume_name(&claim).is_none()
            && annotation(&claim.metadata, STORAGE_PROVISIONER) == Some(&*self.driver_name)
            && !finalizers::is_deleting(&*claim)
        {
            self.provision(&claim).await?;
        }
        Ok(Action::Wait)
    }
}

/// How a driver is asked to make and attach what a claim with these access modes is for.
pub fn capability(access_modes: &[String]) -> VolumeCapability {
    let mode = match access_modes.first().map(String::as_str) {
        Some("ReadWriteMany") => Mode::MultiNodeMultiWriter,
        Some("ReadOnlyMany") => Mode::MultiNodeReaderOnly,
        _ => Mode::SingleNodeWriter,
    };
    VolumeCapability {
        access_type: Some(AccessType::Mount(MountVolume::default())),
        access_mode: Some(AccessMode { mode: mode.into() }),
    }
}

fn bytes(claim: &PersistentVolumeClaim) -> Option<CapacityRange> {
    request(claim).map(|size| CapacityRange { required_bytes: size.value(), limit_bytes: 0 })
}

/// The size that a claim's status reports.
fn told(claim: &PersistentVolumeClaim) -> Option<rk::api::meta::quantity::Quantity> {
    let size = claim.status.as_ref()?.capacity.as_ref()?.get("storage")?;
    rk::api::meta::quantity::Quantity::parse(&size.0).ok()
}

fn quantity(bytes: i64) -> Quantity {
    let text = match bytes % (1 << 20) {
        0 => format!("{}Mi", bytes >> 20),
        _ => bytes.to_string(),
    };
    Quantity(text)
}

impl Provisioner {
    fn is_ours(&self, volume: &PersistentVolume) -> bool {
        annotation(&volume.metadata, PROVISIONED_BY) == Some(&*self.driver_name)
    }

    fn failed(&self, claim: &PersistentVolumeClaim, reason: &str, status: &Status) -> Error {
        let about = object_ref(claim);
        self.recorder.event(&about, EventType::Warning, reason, status.message().to_owned());
        Error::NotYet(status.message().to_owned())
    }

    async fn provision(&self, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        let class = claim_class(claim).and_then(|class| self.classes.get("", class));
        let (Some(class), Some(uid)) = (class, claim.uid()) else { return Ok(()) };
        // No other claim ever has this name, and a repeat finds what an earlier try made.
        let name = format!("pvc-{uid}");
        if self.volumes.get("", &name).is_some() {
            return Ok(());
        }
        let spec = claim.spec.clone().unwrap_or_default();
        let wanted = CreateVolumeRequest {
            name: name.clone(),
            capacity_range: bytes(claim),
            volume_capabilities: vec![capability(&spec.access_modes.clone().unwrap_or_default())],
            parameters: class.parameters.clone().unwrap_or_default(),
            ..Default::default()
        };
        let made = self.driver.call(wanted).await;
        let made = made.map_err(|status| self.failed(claim, "ProvisioningFailed", &status))?;
        let made = made.volume.unwrap_or_default();
        let mut claim_ref = object_ref(claim);
        claim_ref.resource_version = None;
        let provisioned_by = (PROVISIONED_BY.to_owned(), self.driver_name.clone());
        let volume = PersistentVolume {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                annotations: Some([provisioned_by].into()),
                finalizers: Some(vec![FINALIZER.to_owned()]),
                ..ObjectMeta::default()
            },
            spec: Some(PersistentVolumeSpec {
                access_modes: spec.access_modes,
                capacity: Some([("storage".to_owned(), quantity(made.capacity_bytes))].into()),
                claim_ref: Some(claim_ref),
                csi: Some(CSIPersistentVolumeSource {
                    driver: self.driver_name.clone(),
                    volume_handle: made.volume_id,
                    volume_attributes: Some(made.volume_context).filter(|it| !it.is_empty()),
                    ..Default::default()
                }),
                mount_options: class.mount_options.clone(),
                persistent_volume_reclaim_policy: class.reclaim_policy.clone(),
                storage_class_name: Some(class.name_any()),
                volume_mode: spec.volume_mode,
                ..PersistentVolumeSpec::default()
            }),
            status: None,
        };
        let api = Api::<PersistentVolume>::all(self.client.clone());
        match api.create(&PostParams::default(), &volume).await {
            Err(kube::Error::Api(there)) if there.code == 409 => return Ok(()),
            result => drop(result?),
        }
        let message = format!("Successfully provisioned volume {name}");
        let about = object_ref(claim);
        self.recorder.event(&about, EventType::Normal, "ProvisioningSucceeded", message);
        Ok(())
    }

    /// The volume, then its object; the claim only waits for the node then, which makes the file
    /// system larger and says so.
    async fn grow(&self, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        let volume = volume_name(claim).and_then(|name| self.volumes.get("", name));
        let Some(volume) = volume.filter(|volume| self.is_ours(volume)) else { return Ok(()) };
        // The caches may be of different ages: the claim's status is never ahead of its volume.
        if capacity(&volume) >= request(claim) || told(claim) >= request(claim) {
            return Ok(());
        }
        let handle =
            volume.spec.as_ref().and_then(|spec| Some(spec.csi.as_ref()?.volume_handle.clone()));
        let wanted = ControllerExpandVolumeRequest {
            volume_id: handle.unwrap_or_default(),
            capacity_range: bytes(claim),
            ..Default::default()
        };
        let grown = self.driver.call(wanted).await;
        let grown = grown.map_err(|status| self.failed(claim, "VolumeResizeFailed", &status))?;

        let namespace = claim.namespace().unwrap_or_default();
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &namespace);
        let mut waiting = claim.clone();
        let status = waiting.status.get_or_insert_default();
        let size = quantity(grown.capacity_bytes);
        if grown.node_expansion_required {
            let conditions = status.conditions.get_or_insert_default();
            conditions.retain(|condition| condition.type_ != "FileSystemResizePending");
            conditions.push(PersistentVolumeClaimCondition {
                type_: "FileSystemResizePending".to_owned(),
                status: "True".to_owned(),
                message: Some(
                    "Waiting for user to (re-)start a pod to finish file system resize of volume \
                     on node."
                        .to_owned(),
                ),
                ..Default::default()
            });
        } else {
            status.capacity.get_or_insert_default().insert("storage".to_owned(), size.clone());
        }
        update::status(&claims, claim, &waiting).await?;
        let mut larger = (*volume).clone();
        if let Some(spec) = &mut larger.spec {
            spec.capacity.get_or_insert_default().insert("storage".to_owned(), size);
        }
        let api = Api::<PersistentVolume>::all(self.client.clone());
        update::object(&api, &*volume, &larger).await?;
        Ok(())
    }

    /// The folder goes before the volume's object does.
    async fn reclaim(&self, volume: &PersistentVolume) -> Result<(), Error> {
        let api = Api::<PersistentVolume>::all(self.client.clone());
        let spec = volume.spec.clone().unwrap_or_default();
        let delete = spec.persistent_volume_reclaim_policy.as_deref() == Some("Delete");
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        if !finalizers::is_deleting(volume) {
            if delete && phase == Some("Released") {
                let params = DeleteParams {
                    preconditions: Some(Preconditions {
                        uid: volume.uid(),
                        resource_version: None,
                    }),
                    ..DeleteParams::default()
                };
                match api.delete(&volume.name_any(), &params).await {
                    Err(kube::Error::Api(gone)) if gone.code == 404 => {}
                    result => drop(result?),
                }
            }
            return Ok(());
        }
        if !finalizers::has(volume, FINALIZER) || phase == Some("Bound") {
            return Ok(());
        }
        let name = volume.name_any();
        let attached = self.attachments.list().into_iter().any(|attachment| {
            attachment.spec.source.persistent_volume_name.as_ref() == Some(&name)
        });
        // The end of the attachment wakes us.
        if attached {
            return Ok(());
        }
        if delete {
            let volume_id = spec.csi.map(|csi| csi.volume_handle).unwrap_or_default();
            let wanted = DeleteVolumeRequest { volume_id, ..Default::default() };
            self.driver
                .call(wanted)
                .await
                .map_err(|status| Error::NotYet(status.message().to_owned()))?;
        }
        finalizers::remove(&api, volume, FINALIZER).await
    }
}
