//! What a Pod or a volume refers to.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVar, PersistentVolume, Pod, PodSpec, Volume,
};

/// What marks a Pod that a kubelet made for a manifest of its own: its references give no rights.
pub(in crate::server) const MIRROR: &str = "kubernetes.io/config.mirror";

/// Names of what a Pod refers to, all in its own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::server) struct References {
    /// Secrets.
    pub(in crate::server) secrets: HashSet<String>,
    /// ConfigMaps.
    pub(in crate::server) config_maps: HashSet<String>,
    /// PersistentVolumeClaims.
    pub(in crate::server) claims: HashSet<String>,
    /// ResourceClaims.
    pub(in crate::server) resource_claims: HashSet<String>,
    /// The service account; empty for none.
    pub(in crate::server) service_account: String,
}

impl References {
    /// What a Pod refers to; nothing for a mirror Pod.
    pub(in crate::server) fn of_pod(pod: &Pod) -> Self {
        let annotations = pod.metadata.annotations.as_ref();
        if annotations.is_some_and(|annotations| annotations.contains_key(MIRROR)) {
            return Self::default();
        }
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let mut references = Self::default();
        let Some(spec) = &pod.spec else { return references };
        references.read(name, spec);
        let statuses =
            pod.status.iter().filter_map(|status| status.resource_claim_statuses.as_ref());
        let made = statuses.flatten().filter_map(|status| status.resource_claim_name.clone());
        references.resource_claims.extend(made);
        references
    }

    /// What a Pod's specification refers to, mirror or not.
    pub(in crate::server) fn read(&mut self, pod: &str, spec: &PodSpec) {
        self.service_account = spec.service_account_name.clone().unwrap_or_default();
        let pull = spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone());
        self.secrets.extend(pull.filter(|name| !name.is_empty()));
        let init = spec.init_containers.iter().flatten();
        for container in init.chain(&spec.containers) {
            self.container(container);
        }
        for container in spec.ephemeral_containers.iter().flatten() {
            self.environment(container.env.as_deref(), container.env_from.as_deref());
        }
        for volume in spec.volumes.iter().flatten() {
            self.volume(pod, volume);
        }
        let claims = spec.resource_claims.iter().flatten();
        self.resource_claims.extend(claims.filter_map(|claim| claim.resource_claim_name.clone()));
    }

    fn container(&mut self, container: &Container) {
        self.environment(container.env.as_deref(), container.env_from.as_deref());
    }

    fn environment(&mut self, env: Option<&[EnvVar]>, from: Option<&[EnvFromSource]>) {
        for source in from.unwrap_or_default() {
            self.secrets.extend(source.secret_ref.as_ref().map(|secret| secret.name.clone()));
            self.config_maps.extend(source.config_map_ref.as_ref().map(|map| map.name.clone()));
        }
        for source in env.unwrap_or_default().iter().filter_map(|env| env.value_from.as_ref()) {
            self.secrets.extend(source.secret_key_ref.as_ref().map(|key| key.name.clone()));
            self.config_maps.extend(source.config_map_key_ref.as_ref().map(|key| key.name.clone()));
        }
    }

    fn volume(&mut self, pod: &str, volume: &Volume) {
        self.secrets.extend(volume.secret.as_ref().and_then(|found| found.secret_name.clone()));
        self.config_maps.extend(volume.config_map.as_ref().map(|found| found.name.clone()));
        let claim = volume.persistent_volume_claim.as_ref();
        self.claims.extend(claim.map(|claim| claim.claim_name.clone()));
        // The claim of an ephemeral volume is named after the Pod and the volume.
        self.claims.extend(volume.ephemeral.as_ref().map(|_| format!("{pod}-{}", volume.name)));
        let projected = volume.projected.as_ref().and_then(|found| found.sources.as_ref());
        for source in projected.into_iter().flatten() {
            self.secrets.extend(source.secret.as_ref().map(|found| found.name.clone()));
            self.config_maps.extend(source.config_map.as_ref().map(|found| found.name.clone()));
        }
        let drivers = [
            volume.flex_volume.as_ref().and_then(|found| found.secret_ref.as_ref()),
            volume.cephfs.as_ref().and_then(|found| found.secret_ref.as_ref()),
            volume.iscsi.as_ref().and_then(|found| found.secret_ref.as_ref()),
            volume.rbd.as_ref().and_then(|found| found.secret_ref.as_ref()),
            volume.scale_io.as_ref().map(|found| &found.secret_ref),
            volume.storageos.as_ref().and_then(|found| found.secret_ref.as_ref()),
            volume.csi.as_ref().and_then(|found| found.node_publish_secret_ref.as_ref()),
        ];
        self.secrets.extend(drivers.into_iter().flatten().map(|secret| secret.name.clone()));
        self.secrets.extend(volume.azure_file.as_ref().map(|found| found.secret_name.clone()));
    }

    /// The Secrets that mounting a volume takes: namespace and name.
    pub(in crate::server) fn of_volume(volume: &PersistentVolume) -> HashSet<(String, String)> {
        let Some(spec) = &volume.spec else { return HashSet::new() };
        let claim = spec.claim_ref.as_ref().and_then(|claim| claim.namespace.clone());
        let csi = spec.csi.as_ref();
        let references = [
            spec.cephfs.as_ref().and_then(|found| found.secret_ref.as_ref()),
            spec.flex_volume.as_ref().and_then(|found| found.secret_ref.as_ref()),
            spec.iscsi.as_ref().and_then(|found| found.secret_ref.as_ref()),
            spec.rbd.as_ref().and_then(|found| found.secret_ref.as_ref()),
            spec.scale_io.as_ref().map(|found| &found.secret_ref),
            csi.and_then(|found| found.node_publish_secret_ref.as_ref()),
            csi.and_then(|found| found.node_stage_secret_ref.as_ref()),
            csi.and_then(|found| found.node_expand_secret_ref.as_ref()),
        ];
        let mut secrets = HashSet::new();
        for reference in references.into_iter().flatten() {
            let namespace = reference.namespace.clone().or_else(|| claim.clone());
            secrets.extend(namespace.zip(reference.name.clone()));
        }
        if let Some(file) = &spec.azure_file {
            let namespace = file.secret_namespace.clone().or_else(|| claim.clone());
            secrets.extend(namespace.map(|namespace| (namespace, file.secret_name.clone())));
        }
        if let Some(found) = spec.storageos.as_ref().and_then(|found| found.secret_ref.as_ref()) {
            secrets.extend(found.namespace.clone().zip(found.name.clone()));
        }
        secrets
    }
}
