//! ServiceAccount: a Pod runs as a service account of its namespace, and finds that account's token
//! where clients look for it.

use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath,
    ObjectFieldSelector, Pod, PodSpec, ProjectedVolumeSource, ServiceAccount,
    ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};

use super::{Admission, AdmissionRequest, Operation};
use crate::{
    rng,
    server::{reader::Reader, status::Result},
};

/// The account of Pods that name none.
const DEFAULT: &str = "default";

/// A namespace's default account is made by a controller, soon after the namespace: how often and
/// at which intervals it is waited for.
const TRIES: u32 = 10;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(150);

/// Where clients in a container look for the token, the cluster's CA and the namespace.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What the name of the token's volume begins with; five letters follow.
const VOLUME_PREFIX: &str = "kube-api-access-";

/// An hour and a little more, by which kube-apiserver tells these tokens from ones that were asked for.
const TOKEN_SECONDS: i64 = crate::server::token::SECONDS_IN_PODS;

/// See the module's documentation.
///
/// A server without controllers has nobody who makes default accounts; unless they are `required`,
/// Pods may then be created without. Any other account must always exist.
#[derive(Debug)]
pub(super) struct ServiceAccounts {
    pub(super) reader: Reader,
    pub(super) required: bool,
}

impl ServiceAccounts {
    async fn account(&self, namespace: &str, name: &str) -> Result<Option<ServiceAccount>> {
        let tries = if self.required && name == DEFAULT { TRIES } else { 1 };
        for left in (0..tries).rev() {
            let found = self.reader.get::<ServiceAccount>(Some(namespace), name).await?;
            if found.is_some() {
                return Ok(found);
            }
            if left > 0 {
                tokio::time::sleep(TRY_AGAIN_AFTER).await;
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl Admission for ServiceAccounts {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.operation == Operation::Create && request.is_about("pods")
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        let namespace = request.namespace.unwrap_or_default();
        let Some(pod) = request.object_as::<Pod>() else { return Ok(()) };
        // The mirror of a static Pod runs as nobody.
        let annotations = pod.metadata.annotations.as_ref();
        if annotations.is_some_and(|all| all.contains_key("kubernetes.io/config.mirror")) {
            return Ok(());
        }
        let Some(spec) = pod.spec.as_mut() else { return Ok(()) };
        let name = spec.service_account_name.get_or_insert_default();
        if name.is_empty() {
            DEFAULT.clone_into(name);
        }
        let name = name.clone();
        spec.service_account = Some(name.clone());
        let account = self.account(namespace, &name).await?;
        let Some(account) = account else {
            if name == DEFAULT && !self.required {
                return Ok(());
            }
            return Err(request.forbidden(&format!(
                "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
            )));
        };
        let Some(spec) = request.object_as::<Pod>().and_then(|pod| pod.spec.as_mut()) else {
            return Ok(());
        };
        let asked = spec.automount_service_account_token;
        if asked.or(account.automount_service_account_token).unwrap_or(true) {
            mount_token(spec);
        }
        if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
            spec.image_pull_secrets = account.image_pull_secrets;
        }
        Ok(())
    }
}

/// Mounts the account's token in every container that mounts nothing else in its place.
fn mount_token(spec: &mut PodSpec) {
    let mut volumes = spec.volumes.iter().flatten();
    let there = volumes.find(|volume| volume.name.starts_with(VOLUME_PREFIX));
    let there = there.map(|volume| volume.name.clone());
    let name = there.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", rng::suffix(5)));
    let mut is_needed = false;
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        is_needed |= mount(container, &name);
    }
    if is_needed && there.is_none() {
        spec.volumes.get_or_insert_default().push(token_volume(name));
    }
}

/// `false` when the container has something else there.
fn mount(container: &mut Container, volume: &str) -> bool {
    let mounts = container.volume_mounts.get_or_insert_default();
    if mounts.iter().any(|mount| mount.mount_path == MOUNT_PATH) {
        return false;
    }
    mounts.push(VolumeMount {
        name: volume.to_owned(),
        mount_path: MOUNT_PATH.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    });
    true
}

fn token_volume(name: String) -> Volume {
    let token = ServiceAccountTokenProjection {
        path: "token".to_owned(),
        expiration_seconds: Some(TOKEN_SECONDS),
        ..ServiceAccountTokenProjection::default()
    };
    let key =
        KeyToPath { key: "ca.crt".to_owned(), path: "ca.crt".to_owned(), ..KeyToPath::default() };
    let ca = ConfigMapProjection {
        name: "kube-root-ca.crt".to_owned(),
        items: Some(vec![key]),
        optional: None,
    };
    let field = ObjectFieldSelector {
        api_version: Some("v1".to_owned()),
        field_path: "metadata.namespace".to_owned(),
    };
    let namespace = DownwardAPIVolumeFile {
        path: "namespace".to_owned(),
        field_ref: Some(field),
        ..DownwardAPIVolumeFile::default()
    };
    let namespace = DownwardAPIProjection { items: Some(vec![namespace]) };
    let projected = ProjectedVolumeSource {
        default_mode: Some(0o644),
        sources: Some(vec![
            VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
            VolumeProjection { config_map: Some(ca), ..VolumeProjection::default() },
            VolumeProjection { downward_api: Some(namespace), ..VolumeProjection::default() },
        ]),
        ..ProjectedVolumeSource::default()
    };
    Volume { name, projected: Some(projected), ..Volume::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mounted(spec: serde_json::Value) -> PodSpec {
        let mut spec: PodSpec = serde_json::from_value(spec).unwrap();
        mount_token(&mut spec);
        spec
    }

    #[test]
    fn every_container_gets_the_token_once() {
        let spec = mounted(json!({
            "initContainers": [{"name": "i"}],
            "containers": [
                {"name": "a"},
                {"name": "b", "volumeMounts": [{"name": "own", "mountPath": MOUNT_PATH}]},
            ],
        }));
        let volumes = spec.volumes.clone().unwrap();
        assert_eq!(volumes.len(), 1);
        let name = &volumes[0].name;
        assert!(name.starts_with(VOLUME_PREFIX) && name.len() == VOLUME_PREFIX.len() + 5);
        let mounts = |container: &Container| {
            let mounts = container.volume_mounts.clone().unwrap();
            mounts.into_iter().map(|mount| mount.name).collect::<Vec<_>>()
        };
        assert_eq!(mounts(&spec.init_containers.as_ref().unwrap()[0]), [name.as_str()]);
        assert_eq!(mounts(&spec.containers[0]), [name.as_str()]);
        assert_eq!(mounts(&spec.containers[1]), ["own"]);

        let again = mounted(serde_json::to_value(&spec).unwrap());
        assert_eq!(again, spec);

        let own = json!([{"name": "own", "mountPath": MOUNT_PATH}]);
        let spec = mounted(json!({"containers": [{"name": "a", "volumeMounts": own}]}));
        assert_eq!(spec.volumes, None);
    }
}
