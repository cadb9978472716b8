//! A provisioner of volumes that are directories of the machine.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
};
use rk_api::{
    client::{EventRecorder, EventType, Informer, object_ref},
    volumes::{
        PROVISIONED_BY, STORAGE_PROVISIONER, annotation, capacity, claim_class, is_bound, request,
        volume_name,
    },
};

use crate::{
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
    volume_expand::wants_more,
    write::{self, Part},
};

mod plan;

/// Makes, grows and deletes volumes of classes whose `provisioner` is [`HostPathProvisioner::NAME`]:
/// directories below one directory of the machine. It works as an external provisioner does, through
/// the marks that the PersistentVolume controller puts on claims.
///
/// - The volume of a claim is called `pvc-<UID of the claim>`, and so is its directory.
/// - With the policy Delete the directory goes with the volume, and a finalizer keeps the volume until
///   it has gone. With Retain both stay.
/// - A directory has no size of its own: a claim that asks for more gets it at once, if its class
///   allows that (`allowVolumeExpansion`).
/// - All nodes must see the directory, as those of an [`rk::Cluster`](https://docs.rs/rk) do: volumes
///   have no node affinity. For clusters of several machines a CSI driver is the better choice.
///
/// ```no_run
/// # async fn example(client: kube::Client) -> Result<(), rk_controllers::ManagerError> {
/// use rk_controllers::{HostPathProvisioner, Manager};
///
/// let provisioner = HostPathProvisioner::new("/var/lib/volumes");
/// let manager = Manager::builder(client).with(|context| provisioner.controller(context)).build()?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct HostPathProvisioner {
    directory: PathBuf,
    objects_only: bool,
}

/// Keeps a volume until its directory is gone.
const FINALIZER: &str = "rk.dev/host-path";

impl HostPathProvisioner {
    /// What the `provisioner` of a StorageClass says to mean this one.
    pub const NAME: &str = "rk.dev/host-path";

    /// Volumes are made below this directory, which is made when the first one is.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), objects_only: false }
    }

    /// Touches no directory, for nodes that are only simulated.
    #[must_use]
    pub fn objects_only(mut self) -> Self {
        self.objects_only = true;
        self
    }

    /// The controller, for [`ManagerBuilder::with`](crate::ManagerBuilder::with).
    pub fn controller(self, context: &Context) -> Controller {
        let claims = context.informers.of::<PersistentVolumeClaim>();
        let volumes = context.informers.of::<PersistentVolume>();
        let classes = context.informers.of::<StorageClass>();
        let reconciler = Provisioner {
            client: context.client.clone(),
            recorder: context.recorder(Self::NAME),
            directory: self.directory,
            objects_only: self.objects_only,
            claims: claims.clone(),
            volumes: volumes.clone(),
            classes: classes.clone(),
        };
        Controller::new("host-path-provisioner", reconciler)
            .reconciles(&claims)
            .reconciles_if(&volumes, |change| is_ours(change.object()))
            .reads(&classes)
    }
}

struct Provisioner {
    client: Client,
    recorder: EventRecorder,
    directory: PathBuf,
    objects_only: bool,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
}

/// Keys with a namespace are claims, keys without are volumes.
#[async_trait]
impl Reconciler for Provisioner {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        if key.namespace.is_empty() {
            if let Some(volume) = self.volumes.get("", &key.name).filter(|volume| is_ours(volume)) {
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
            && annotation(&claim.metadata, STORAGE_PROVISIONER) == Some(HostPathProvisioner::NAME)
        {
            self.provision(&claim).await?;
        }
        Ok(Action::Wait)
    }
}

fn is_ours(volume: &PersistentVolume) -> bool {
    annotation(&volume.metadata, PROVISIONED_BY) == Some(HostPathProvisioner::NAME)
}

impl Provisioner {
    async fn provision(&self, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        let Some(name) = plan::volume_name_for(claim) else { return Ok(()) };
        // The class may have gone since the claim was marked.
        let class = claim_class(claim).and_then(|class| self.classes.get("", class));
        let Some(class) = class else { return Ok(()) };
        if self.volumes.get("", &name).is_some() || claim.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let about = object_ref(claim);
        let begun = format!(
            "External provisioner is provisioning volume for claim \"{}/{}\"",
            claim.namespace().unwrap_or_default(),
            claim.name_any()
        );
        self.recorder.event(&about, EventType::Normal, "Provisioning", begun);
        let path = self.directory.join(&name);
        let failed = |why: String| {
            let message = format!(
                "failed to provision volume with StorageClass {:?}: {why}",
                class.name_any()
            );
            self.recorder.event(&about, EventType::Warning, "ProvisioningFailed", &*message);
            Error::NotYet(message)
        };
        let volume = plan::volume(claim, &class, &name, &path).map_err(|why| failed(why.into()))?;
        if !self.objects_only {
            make(&path).await.map_err(|error| failed(error.to_string()))?;
        }
        let api = Api::<PersistentVolume>::all(self.client.clone());
        match api.create(&PostParams::default(), &volume).await {
            // Made by an earlier try that did not hear of it.
            Err(there) if error::is_already_exists(&there) => return Ok(()),
            result => result.map_err(|error| failed(error::message(&error)))?,
        };
        let message = format!("Successfully provisioned volume {name}");
        self.recorder.event(&about, EventType::Normal, "ProvisioningSucceeded", message);
        Ok(())
    }

    /// The volume first: what a claim is said to have must be there.
    async fn grow(&self, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        if !wants_more(claim) {
            return Ok(());
        }
        let volume = volume_name(claim).and_then(|name| self.volumes.get("", name));
        let Some(volume) = volume.filter(|volume| is_ours(volume)) else { return Ok(()) };
        let class = claim_class(claim).and_then(|class| self.classes.get("", class));
        if class.is_none_or(|class| class.allow_volume_expansion != Some(true)) {
            return Ok(());
        }
        let about = object_ref(claim);
        if capacity(&volume) < request(claim) {
            let begun = format!("External resizer is resizing volume {}", volume.name_any());
            self.recorder.event(&about, EventType::Normal, "Resizing", begun);
            let api = Api::<PersistentVolume>::all(self.client.clone());
            let larger = plan::grown_volume(&volume, claim);
            write::update(&api, &*volume, &larger, Part::Main).await?;
        }
        let namespace = claim.namespace().unwrap_or_default();
        let api = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), &namespace);
        write::update(&api, claim, &plan::grown_claim(claim), Part::Status).await?;
        let message = "Resize volume succeeded";
        self.recorder.event(&about, EventType::Normal, "VolumeResizeSuccessful", message);
        Ok(())
    }

    /// The directory goes before the volume does, and the volume before its finalizer.
    async fn reclaim(&self, volume: &Arc<PersistentVolume>) -> Result<(), Error> {
        let api = Api::<PersistentVolume>::all(self.client.clone());
        match plan::reclaim(volume) {
            plan::Reclaim::Keep => Ok(()),
            plan::Reclaim::Delete => {
                let params = DeleteParams {
                    preconditions: Some(Preconditions {
                        uid: volume.uid(),
                        resource_version: volume.resource_version(),
                    }),
                    ..DeleteParams::default()
                };
                match api.delete(&volume.name_any(), &params).await {
                    Err(gone) if error::is_not_found(&gone) => Ok(()),
                    result => result.map(drop).map_err(Into::into),
                }
            }
            plan::Reclaim::Remove { directory } => {
                if directory
                    && !self.objects_only
                    && let Some(path) = plan::path(volume, &self.directory)
                    && let Err(error) = remove(&path).await
                {
                    let message = error.to_string();
                    let about = object_ref(&**volume);
                    self.recorder.event(&about, EventType::Warning, "VolumeFailedDelete", message);
                    return Err(Error::NotYet(format!("{}: {error}", path.display())));
                }
                match write::update(&api, &**volume, &plan::let_go(volume), Part::Main).await {
                    Err(gone) if error::is_not_found(&gone) => Ok(()),
                    result => result.map(drop).map_err(Into::into),
                }
            }
        }
    }
}

/// Anybody in a container may write there, as into an emptyDir.
async fn make(path: &Path) -> io::Result<()> {
    tokio::fs::create_dir_all(path).await?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        tokio::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).await?;
    }
    Ok(())
}

async fn remove(path: &Path) -> io::Result<()> {
    match tokio::fs::remove_dir_all(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
