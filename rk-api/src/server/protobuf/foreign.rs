//! The bytes of every kind against types that nobody here made: those of the crate `k8s-pb`, which
//! are generated from Kubernetes' own `.proto` files of 1.35.

use std::collections::BTreeSet;

use k8s_pb::{
    api, apiextensions_apiserver::pkg::apis::apiextensions, apimachinery::pkg::runtime::Unknown,
    kube_aggregator,
};
use proptest::{collection::vec, prelude::*};
use prost::Message;
use serde_json::Value;

use super::{MAGIC, from_json, round_trips::kept, to_json};
use crate::{
    resources::{Resource, Resources},
    testing::arbitrary,
};

/// Fields that are newer than `k8s-pb`, as ends of paths through JSON.
const NEWER: &[&str] = &[
    "CSINode.status",
    "clusterTrustBundle.user",
    "conditions.observedGeneration",
    "configMap.defaultUser",
    "consumesCounters.compatibilityGroups",
    "devices.nodeAllocatableResources",
    "downwardAPI.defaultUser",
    "emptyDir.mode",
    ".derivedAttributes",
    "grpc.mode",
    "httpGet.protocol",
    "items.user",
    ".bools",
    ".ints",
    ".strings",
    ".versions",
    "nodeInfo.runningInUserNamespace",
    "podCertificate.user",
    "projected.defaultUser",
    "resources.message",
    ".skipNodeOperations",
    "secret.defaultUser",
    "serviceAccountToken.user",
    ".evictionResponders",
    "spec.partitionTypeAttribute",
    "spec.podPreemptionPolicy",
    "spec.preventPodSchedulingIfMissing",
    "spec.scheduling",
    "spec.schedulingGroup",
    "status.healthStatus",
    "status.nodeAllocatableResourceClaimStatuses",
    "status.volumeHealth",
    "volumeMounts.bindMountOptions",
    "volumeMounts.volumeStatus",
];

/// Decodes and encodes the bytes of an object.
type Through = fn(&[u8]) -> Result<Vec<u8>, prost::DecodeError>;

macro_rules! kinds {
    ($($module:path: $($kind:ident)+;)+) => {
        /// What `k8s-pb` knows, by API version and kind.
        const KINDS: &[(&str, &str, Through)] = &[$($({
            use $module as module;
            type Kind = module::$kind;
            (
                <Kind as k8s_pb::Resource>::API_VERSION,
                <Kind as k8s_pb::Resource>::KIND,
                |bytes| Kind::decode(bytes).map(|object| object.encode_to_vec()),
            )
        }),+),+];
    };
}

kinds! {
    api::admissionregistration::v1:
        MutatingWebhookConfiguration ValidatingWebhookConfiguration
        ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding;
    api::apps::v1: ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet;
    api::authentication::v1: SelfSubjectReview TokenReview;
    api::authorization::v1:
        LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview;
    api::autoscaling::v1: HorizontalPodAutoscaler;
    api::autoscaling::v2: HorizontalPodAutoscaler;
    api::batch::v1: CronJob Job;
    api::certificates::v1: CertificateSigningRequest;
    api::coordination::v1: Lease;
    api::core::v1:
        Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume
        PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret Service
        ServiceAccount;
    api::discovery::v1: EndpointSlice;
    api::events::v1: Event;
    api::flowcontrol::v1: FlowSchema PriorityLevelConfiguration;
    api::networking::v1: IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR;
    api::node::v1: RuntimeClass;
    api::policy::v1: PodDisruptionBudget;
    api::rbac::v1: ClusterRole ClusterRoleBinding Role RoleBinding;
    api::resource::v1: DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice;
    api::scheduling::v1: PriorityClass;
    api::storage::v1:
        CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass;
    apiextensions::v1: CustomResourceDefinition;
    kube_aggregator::pkg::apis::apiregistration::v1: APIService;
}

/// A whole body, its object decoded and encoded by others.
fn through(body: &[u8], object: Through) -> Result<Vec<u8>, prost::DecodeError> {
    let body = body.strip_prefix(MAGIC).unwrap_or(body);
    let mut unknown = Unknown::decode(body)?;
    unknown.raw = Some(object(unknown.raw.as_deref().unwrap_or_default())?);
    Ok([MAGIC, &unknown.encode_to_vec()].concat())
}

/// Checks that `back` has nothing that `object` has not, and nothing else in its place. Notes what
/// it lacks.
fn compare(object: &Value, back: &Value, path: &str, lacking: &mut BTreeSet<String>) -> bool {
    match (object, back) {
        (Value::Object(object), Value::Object(back)) => {
            for key in object.keys().filter(|key| !back.contains_key(*key)) {
                lacking.insert(format!("{path}.{key}"));
            }
            back.iter().all(|(key, value)| {
                let same = object.get(key);
                same.is_some_and(|same| compare(same, value, &format!("{path}.{key}"), lacking))
            })
        }
        (Value::Array(object), Value::Array(back)) => {
            object.len() == back.len()
                && object.iter().zip(back).all(|(one, other)| compare(one, other, path, lacking))
        }
        (object, back) => object == back,
    }
}

fn survives(row: &Resource, through_kind: Through, choices: &[u8]) -> Result<(), TestCaseError> {
    let fail = |error: String| TestCaseError::fail(format!("{}: {error}", row.qualified()));
    let mut object = arbitrary(&row.schema, choices);
    object["apiVersion"] = row.api_version().into();
    object["kind"] = row.kind.as_ref().into();
    let object = kept(row, object.to_string().as_bytes())?;

    let ours = from_json(object.to_string().as_bytes()).ok_or_else(|| fail("no form".into()))?;
    let theirs = through(&ours, through_kind).map_err(|error| fail(error.to_string()))?;
    let json = to_json(&theirs).map_err(fail)?;
    let back = kept(row, &json)?;

    let mut lacking = BTreeSet::new();
    prop_assert!(compare(&object, &back, &row.kind, &mut lacking), "{object} became {back}");
    lacking.retain(|path| !NEWER.iter().any(|newer| path.ends_with(newer)));
    prop_assert_eq!(lacking, BTreeSet::new(), "lost");

    // What both know is encoded alike: they read the same from either.
    let again = from_json(back.to_string().as_bytes()).ok_or_else(|| fail("no form".into()))?;
    let again = through(&again, through_kind).map_err(|error| fail(error.to_string()))?;
    let json = to_json(&again).map_err(fail)?;
    prop_assert_eq!(kept(row, &json)?, back);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn others_read_and_write_every_kind_as_we_do(choices in vec(any::<u8>(), 0..600)) {
        let resources = Resources::builtin();
        for (api_version, kind, through) in KINDS {
            let row = resources.iter().find(|row| row.api_version() == *api_version && row.kind == *kind);
            let row = row.ok_or_else(|| TestCaseError::fail(format!("{api_version} {kind}")))?;
            survives(row, *through, &choices)?;
        }
    }
}
