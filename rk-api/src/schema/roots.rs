//! The API types whose schemas can be asked for.

use std::borrow::Cow;

use k8s_openapi::{
    api, apiextensions_apiserver::pkg::apis::apiextensions, apimachinery::pkg::apis::meta,
    kube_aggregator::pkg::apis::apiregistration,
};
use schemars::{JsonSchema, SchemaGenerator};

use crate::resources::pod_preset::PodPreset;

/// A type with a schema: its name, and what adds the schema, with all it refers to, to a generator.
pub(super) struct Root {
    pub(super) name: fn() -> Cow<'static, str>,
    pub(super) generate: fn(&mut SchemaGenerator),
}

const fn root<T: JsonSchema>() -> Root {
    Root { name: T::schema_name, generate: generate::<T> }
}

fn generate<T: JsonSchema>(generator: &mut SchemaGenerator) {
    generator.subschema_for::<T>();
}

/// Kinds that are served, bodies of their subresources, and what every endpoint speaks.
pub(super) const ROOTS: &[Root] = &[
    root::<api::admissionregistration::v1::MutatingAdmissionPolicy>(),
    root::<api::admissionregistration::v1::MutatingAdmissionPolicyBinding>(),
    root::<api::admissionregistration::v1::MutatingWebhookConfiguration>(),
    root::<api::admissionregistration::v1::ValidatingAdmissionPolicy>(),
    root::<api::admissionregistration::v1::ValidatingAdmissionPolicyBinding>(),
    root::<api::admissionregistration::v1::ValidatingWebhookConfiguration>(),
    root::<api::apps::v1::ControllerRevision>(),
    root::<api::apps::v1::DaemonSet>(),
    root::<api::apps::v1::Deployment>(),
    root::<api::apps::v1::ReplicaSet>(),
    root::<api::apps::v1::StatefulSet>(),
    root::<api::authentication::v1::SelfSubjectReview>(),
    root::<api::authentication::v1::TokenRequest>(),
    root::<api::authentication::v1::TokenReview>(),
    root::<api::authorization::v1::LocalSubjectAccessReview>(),
    root::<api::authorization::v1::SelfSubjectAccessReview>(),
    root::<api::authorization::v1::SelfSubjectRulesReview>(),
    root::<api::authorization::v1::SubjectAccessReview>(),
    root::<api::autoscaling::v1::HorizontalPodAutoscaler>(),
    root::<api::autoscaling::v1::Scale>(),
    root::<api::autoscaling::v2::HorizontalPodAutoscaler>(),
    root::<api::batch::v1::CronJob>(),
    root::<api::batch::v1::Job>(),
    root::<api::certificates::v1::CertificateSigningRequest>(),
    root::<api::certificates::v1::ClusterTrustBundle>(),
    root::<api::certificates::v1::PodCertificateRequest>(),
    root::<api::coordination::v1::Lease>(),
    root::<api::core::v1::Binding>(),
    root::<api::core::v1::ComponentStatus>(),
    root::<api::core::v1::ConfigMap>(),
    root::<api::core::v1::Endpoints>(),
    root::<api::core::v1::Event>(),
    root::<api::core::v1::LimitRange>(),
    root::<api::core::v1::Namespace>(),
    root::<api::core::v1::Node>(),
    root::<api::core::v1::PersistentVolume>(),
    root::<api::core::v1::PersistentVolumeClaim>(),
    root::<api::core::v1::Pod>(),
    root::<api::core::v1::PodTemplate>(),
    root::<api::core::v1::ReplicationController>(),
    root::<api::core::v1::ResourceQuota>(),
    root::<api::core::v1::Secret>(),
    root::<api::core::v1::Service>(),
    root::<api::core::v1::ServiceAccount>(),
    root::<api::discovery::v1::EndpointSlice>(),
    root::<api::events::v1::Event>(),
    root::<api::flowcontrol::v1::FlowSchema>(),
    root::<api::flowcontrol::v1::PriorityLevelConfiguration>(),
    root::<api::networking::v1::IPAddress>(),
    root::<api::networking::v1::Ingress>(),
    root::<api::networking::v1::IngressClass>(),
    root::<api::networking::v1::NetworkPolicy>(),
    root::<api::networking::v1::ServiceCIDR>(),
    root::<api::node::v1::RuntimeClass>(),
    root::<api::policy::v1::Eviction>(),
    root::<api::policy::v1::PodDisruptionBudget>(),
    root::<api::rbac::v1::ClusterRole>(),
    root::<api::rbac::v1::ClusterRoleBinding>(),
    root::<api::rbac::v1::Role>(),
    root::<api::rbac::v1::RoleBinding>(),
    root::<api::resource::v1::DeviceClass>(),
    root::<api::resource::v1::DeviceTaintRule>(),
    root::<api::resource::v1::ResourceClaim>(),
    root::<api::resource::v1::ResourceClaimTemplate>(),
    root::<api::resource::v1::ResourceSlice>(),
    root::<api::scheduling::v1::PriorityClass>(),
    root::<api::storage::v1::CSIDriver>(),
    root::<api::storage::v1::CSINode>(),
    root::<api::storage::v1::CSIStorageCapacity>(),
    root::<api::storage::v1::StorageClass>(),
    root::<api::storage::v1::VolumeAttachment>(),
    root::<api::storage::v1::VolumeAttributesClass>(),
    root::<api::storagemigration::v1::StorageVersionMigration>(),
    root::<apiextensions::v1::CustomResourceDefinition>(),
    root::<apiregistration::v1::APIService>(),
    root::<meta::v1::APIGroup>(),
    root::<meta::v1::APIGroupList>(),
    root::<meta::v1::APIResourceList>(),
    root::<meta::v1::APIVersions>(),
    root::<meta::v1::DeleteOptions>(),
    root::<meta::v1::ListMeta>(),
    root::<meta::v1::ObjectMeta>(),
    root::<meta::v1::Patch>(),
    root::<meta::v1::Status>(),
    root::<meta::v1::WatchEvent<serde_json::Value>>(),
    root::<PodPreset>(),
];
