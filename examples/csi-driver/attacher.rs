//! Has the driver attach and detach volumes, as VolumeAttachments ask for it.

use async_trait::async_trait;
use k8s_openapi::api::{
    core::v1::PersistentVolume,
    storage::v1::{CSINode, VolumeAttachment, VolumeAttachmentStatus, VolumeError},
};
use kube::{Api, Client, ResourceExt};
use rk::{
    api::client::{Informer, Informers},
    controllers::{Action, Controller, Error, ObjectKey, Reconciler, finalizers, update},
    cri::csi::{
        self, Status,
        v1::{ControllerPublishVolumeRequest, ControllerUnpublishVolumeRequest},
    },
};

use crate::provisioner;

struct Attacher {
    driver_name: String,
    finalizer: String,
    client: Client,
    driver: csi::Client,
    attachments: Informer<VolumeAttachment>,
    volumes: Informer<PersistentVolume>,
    nodes: Informer<CSINode>,
}

/// The controller, wired up.
pub fn controller(
    name: &str,
    client: &Client,
    informers: &Informers,
    driver: csi::Client,
) -> Controller {
    let attachments = informers.of::<VolumeAttachment>();
    let (volumes, nodes) = (informers.of::<PersistentVolume>(), informers.of::<CSINode>());
    let attacher = Attacher {
        driver_name: name.to_owned(),
        finalizer: format!("external-attacher/{}", name.replace('.', "-")),
        client: client.clone(),
        driver,
        attachments: attachments.clone(),
        volumes: volumes.clone(),
        nodes: nodes.clone(),
    };
    Controller::new("attacher", attacher).reconciles(&attachments).reads(&volumes).reads(&nodes)
}

#[async_trait]
impl Reconciler for Attacher {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(attachment) = self.attachments.get("", &key.name) else {
            return Ok(Action::Wait);
        };
        if attachment.spec.attacher != self.driver_name {
            return Ok(Action::Wait);
        }
        let api = Api::<VolumeAttachment>::all(self.client.clone());
        if finalizers::is_deleting(&*attachment) {
            if finalizers::has(&*attachment, &self.finalizer) {
                self.detach(&attachment).await.map_err(not_yet)?;
                finalizers::remove(&api, &*attachment, &self.finalizer).await?;
            }
            return Ok(Action::Wait);
        }
        if attachment.status.as_ref().is_some_and(|status| status.attached) {
            return Ok(Action::Wait);
        }
        // Before it is attached: it has to be detached then, whatever happens.
        let attachment = finalizers::add(&api, &*attachment, &self.finalizer).await?;
        let result = self.attach(&attachment).await;
        let mut after = attachment.clone();
        after.status = Some(match &result {
            Ok(metadata) => VolumeAttachmentStatus {
                attached: true,
                attachment_metadata: Some(metadata.clone()).filter(|it| !it.is_empty()),
                ..Default::default()
            },
            Err(status) => VolumeAttachmentStatus {
                attach_error: Some(VolumeError {
                    message: Some(status.message().to_owned()),
                    ..Default::default()
                }),
                ..Default::default()
            },
        });
        update::status(&api, &attachment, &after).await?;
        result.map(|_| Action::Wait).map_err(not_yet)
    }
}

fn not_yet(status: Status) -> Error {
    Error::NotYet(status.message().to_owned())
}

impl Attacher {
    /// The volume and the node of an attachment, as the driver calls them.
    fn what_and_where(&self, attachment: &VolumeAttachment) -> Result<(String, String), Status> {
        let name = attachment.spec.source.persistent_volume_name.as_deref().unwrap_or_default();
        let volume = self.volumes.get("", name);
        let handle = volume
            .and_then(|volume| Some(volume.spec.as_ref()?.csi.as_ref()?.volume_handle.clone()));
        let handle = handle.ok_or_else(|| Status::not_found(format!("no volume {name}")))?;
        let node = self.nodes.get("", &attachment.spec.node_name);
        let id = node.and_then(|node| {
            let driver = node.spec.drivers.iter().find(|it| it.name == self.driver_name)?;
            Some(driver.node_id.clone())
        });
        let unknown = || Status::not_found(format!("no driver on {}", attachment.spec.node_name));
        Ok((handle, id.ok_or_else(unknown)?))
    }

    async fn attach(
        &self,
        attachment: &VolumeAttachment,
    ) -> Result<std::collections::BTreeMap<String, String>, Status> {
        let (volume_id, node_id) = self.what_and_where(attachment)?;
        let name = attachment.spec.source.persistent_volume_name.as_deref().unwrap_or_default();
        let volume = self.volumes.get("", name);
        let modes = volume.and_then(|volume| volume.spec.as_ref()?.access_modes.clone());
        let request = ControllerPublishVolumeRequest {
            volume_id,
            node_id,
            volume_capability: Some(provisioner::capability(&modes.unwrap_or_default())),
            ..Default::default()
        };
        Ok(self.driver.call(request).await?.publish_context)
    }

    async fn detach(&self, attachment: &VolumeAttachment) -> Result<(), Status> {
        let (volume_id, node_id) = match self.what_and_where(attachment) {
            Ok(found) => found,
            Err(gone) => {
                // What the driver calls them is not known any more: it has nothing to detach.
                tracing::warn!(attachment = attachment.name_any(), why = gone.message());
                return Ok(());
            }
        };
        let request = ControllerUnpublishVolumeRequest { volume_id, node_id, ..Default::default() };
        self.driver.call(request).await.map(drop)
    }
}
