use k8s_openapi::{
    api::{
        apps::v1::{
            Deployment, DeploymentSpec, DeploymentStrategy, ReplicaSet, ReplicaSetSpec,
            RollingUpdateDeployment,
        },
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, OwnerReference},
        util::intstr::IntOrString,
    },
};

use super::{metadata, metadata_methods, pod};

fn template(name: &str) -> (LabelSelector, PodTemplateSpec) {
    let pod = pod(name).label("app", name).build();
    let selector =
        LabelSelector { match_labels: pod.metadata.labels.clone(), match_expressions: None };
    let metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
        labels: pod.metadata.labels,
        ..Default::default()
    };
    (selector, PodTemplateSpec { metadata: Some(metadata), spec: pod.spec })
}

/// A ReplicaSet of one Pod with the label `app` of the set's own name.
pub fn replica_set(name: &str) -> ReplicaSetBuilder {
    let (selector, template) = template(name);
    let spec = ReplicaSetSpec {
        replicas: Some(1),
        selector,
        template: Some(template),
        min_ready_seconds: None,
    };
    ReplicaSetBuilder(ReplicaSet { metadata: metadata(Some("default"), name), spec, status: None })
}

/// See [`replica_set`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ReplicaSetBuilder(ReplicaSet);

metadata_methods!(ReplicaSetBuilder, ReplicaSet);

impl ReplicaSetBuilder {
    /// With this many replicas.
    pub fn replicas(self, replicas: i32) -> Self {
        self.with(|set| set.spec.replicas = Some(replicas))
    }

    /// Of this image.
    pub fn image(self, image: &str) -> Self {
        self.with(|set| set_image(set.spec.template.as_mut(), image))
    }

    /// Controlled by the Deployment of this name and UID.
    pub fn controlled_by(self, deployment: &str, uid: &str) -> Self {
        let owner = OwnerReference {
            api_version: "apps/v1".to_owned(),
            kind: "Deployment".to_owned(),
            name: deployment.to_owned(),
            uid: uid.to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        };
        self.with(|set| set.metadata.owner_references.get_or_insert_default().push(owner))
    }
}

/// A Deployment of one Pod with the label `app` of the deployment's own name.
pub fn deployment(name: &str) -> DeploymentBuilder {
    let (selector, template) = template(name);
    let spec =
        DeploymentSpec { replicas: Some(1), selector, template, ..DeploymentSpec::default() };
    DeploymentBuilder(Deployment { metadata: metadata(Some("default"), name), spec, status: None })
}

/// See [`deployment`].
#[derive(Clone, Debug)]
#[must_use]
pub struct DeploymentBuilder(Deployment);

metadata_methods!(DeploymentBuilder, Deployment);

impl DeploymentBuilder {
    /// With this many replicas.
    pub fn replicas(self, replicas: i32) -> Self {
        self.with(|it| it.spec.replicas = Some(replicas))
    }

    /// Of this image.
    pub fn image(self, image: &str) -> Self {
        self.with(|it| set_image(Some(&mut it.spec.template), image))
    }

    /// Updated with at most this many Pods more, and this many fewer, than wanted.
    pub fn rolling(self, max_surge: i32, max_unavailable: i32) -> Self {
        let rolling = RollingUpdateDeployment {
            max_surge: Some(IntOrString::Int(max_surge)),
            max_unavailable: Some(IntOrString::Int(max_unavailable)),
        };
        self.with(|it| {
            it.spec.strategy = Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(rolling),
            });
        })
    }

    /// Updated by stopping all old Pods first.
    pub fn recreate(self) -> Self {
        self.with(|it| {
            it.spec.strategy = Some(DeploymentStrategy {
                type_: Some("Recreate".to_owned()),
                rolling_update: None,
            });
        })
    }
}

fn set_image(template: Option<&mut PodTemplateSpec>, image: &str) {
    let spec = template.and_then(|template| template.spec.as_mut());
    if let Some(container) = spec.and_then(|spec| spec.containers.first_mut()) {
        container.image = Some(image.to_owned());
    }
}
