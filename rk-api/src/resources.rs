//! What the server knows of every kind, in one table.
//!
//! A kind is a [`Resource`] row, which says where it is served and how it is shown, and a
//! [`Kind`], which says how it is defaulted, validated and updated. The server's handlers are
//! generic over this table: adding a kind adds no handler.

pub(crate) mod admission;
mod api_service;
mod binding;
mod builtin;
mod certificate_signing_request;
mod check;
mod cluster_trust_bundle;
mod component_status;
mod config_map;
mod controller_revision;
mod cron_job;
mod csi_driver;
mod csi_node;
mod csi_storage_capacity;
pub(crate) mod custom;
mod daemon_set;
mod decode;
mod deployment;
mod devices;
mod endpoint_slice;
mod endpoints;
mod event;
mod flow_schema;
mod horizontal_pod_autoscaler;
mod ingress;
mod ingress_class;
mod ip_address;
mod job;
mod lease;
mod limit_range;
mod namespace;
mod network_policy;
mod node;
mod persistent_volume;
mod persistent_volume_claim;
mod pod;
mod pod_certificate_request;
mod pod_disruption_budget;
pub(crate) mod pod_preset;
mod pod_template;
mod priority_class;
mod priority_level_configuration;
mod rbac;
mod replica_set;
mod replication_controller;
mod resource_quota;
mod reviews;
mod row;
mod runtime_class;
mod secret;
mod service;
mod service_account;
mod service_cidr;
mod stateful_set;
mod storage_class;
mod typed;
mod versions;
mod volume_attachment;
mod volume_attributes_class;
mod workload;

use std::{any::Any, borrow::Cow, fmt, sync::Arc};

use k8s_openapi::{
    api::autoscaling::v1::Scale,
    apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta},
    jiff::Timestamp,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

pub use self::{builtin::Resources, pod::qos_class, typed::Typed};
use crate::{
    apply::{FieldSet, Schema, TypeRef, owned_by_creator},
    field::{ErrorList, FieldError},
};

/// A kind that the server serves, at one group and version.
#[derive(Clone, Debug)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub group: Cow<'static, str>,
    /// The version within the group, for example `v1`.
    pub version: Cow<'static, str>,
    /// The kind, for example `Pod`.
    pub kind: Cow<'static, str>,
    /// The plural, as in paths: `pods`.
    pub plural: Cow<'static, str>,
    /// The singular, as kubectl accepts it: `pod`.
    pub singular: Cow<'static, str>,
    /// Abbreviations that kubectl accepts: `po`.
    pub short_names: Vec<Cow<'static, str>>,
    /// Groups of kinds such as `all`.
    pub categories: Vec<Cow<'static, str>>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// The verbs it supports, sorted.
    pub verbs: Vec<Cow<'static, str>>,
    /// Subresources, in the order in which discovery lists them.
    pub subresources: Vec<Subresource>,
    /// Where its objects are kept, for example `/registry/pods/`: keys are this, the namespace and
    /// a slash if there is one, and the name. It is the layout of kube-apiserver.
    pub key_prefix: Cow<'static, str>,
    /// The name of its schema, which also keys the merge facts: `io.k8s.api.core.v1.Pod`.
    pub schema: Cow<'static, str>,
    /// The columns of its Table, in order, beginning with Name.
    pub columns: Vec<Column>,
    /// How its objects are decoded, defaulted, validated and changed.
    pub strategy: Arc<dyn Strategy>,
}

impl Resource {
    /// `group/version`, or just the version for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone().into_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The name with its group, as messages write it: `pods`, `deployments.apps`.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone().into_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// What to answer (400) for a body that [`Strategy::decode`] refuses.
    pub fn undecodable(&self, error: &serde_json::Error) -> String {
        let (kind, version) = (&self.kind, &self.version);
        format!("{kind} in version {version:?} cannot be handled as a {kind}: {error}")
    }

    /// What to answer (400) for a field selector with a field that is not selectable; `None` when
    /// it is.
    pub fn refused_field(&self, field: &str) -> Option<String> {
        let known = self.strategy.field_names();
        if field == "metadata.name" || self.strategy.selects_by(field) {
            return None;
        }
        if field == "metadata.namespace" && (self.namespaced || known.is_empty()) {
            return None;
        }
        Some(match (self.group.as_ref(), self.kind.as_ref()) {
            _ if self.strategy.custom().is_some() => format!("field label not supported: {field}"),
            _ if known.is_empty() => format!(
                "\"{field}\" is not a known field selector: only \"metadata.name\", \
                 \"metadata.namespace\""
            ),
            ("batch", kind) => {
                format!("field label \"{field}\" not supported for batchv1.{kind}")
            }
            _ => format!("field label not supported: {field}"),
        })
    }

    /// The kind of lists of these objects.
    pub fn list_kind(&self) -> Cow<'_, str> {
        match self.strategy.custom() {
            Some(custom) => Cow::Borrowed(&custom.list_kind),
            None => Cow::Owned(format!("{}List", self.kind)),
        }
    }

    /// The key of an object of this kind.
    pub fn key(&self, namespace: Option<&str>, name: &str) -> String {
        match namespace {
            Some(namespace) => format!("{}{namespace}/{name}", self.key_prefix),
            None => format!("{}{name}", self.key_prefix),
        }
    }
}

/// A path below an object, such as `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Its name in the path.
    pub name: Cow<'static, str>,
    /// The kind that it takes and returns.
    pub kind: Cow<'static, str>,
    /// The group and version of that kind when they differ from the parent's.
    pub group_version: Option<(Cow<'static, str>, Cow<'static, str>)>,
    /// Its verbs, sorted.
    pub verbs: Vec<Cow<'static, str>>,
}

/// A column of a Table answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The heading, for example `Ready`.
    pub name: Cow<'static, str>,
    /// The type: `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: Cow<'static, str>,
    /// The OpenAPI format; `name` marks the column that names the object.
    pub format: Cow<'static, str>,
    /// What the column shows.
    pub description: Cow<'static, str>,
    /// 0 is always shown, 1 and up only by `-o wide`.
    pub priority: i32,
}

/// An object of any kind, decoded.
pub trait Object: Any + fmt::Debug + Send + Sync {
    /// Its metadata.
    fn meta(&self) -> &ObjectMeta;
    /// Its metadata, to change.
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    /// A copy.
    fn boxed_clone(&self) -> Box<dyn Object>;
    /// As JSON, as it is stored. It starts with `apiVersion` and `kind`.
    fn encode(&self) -> Result<Vec<u8>, serde_json::Error>;
    /// As a JSON tree.
    fn to_value(&self) -> Result<Value, serde_json::Error>;
    /// What its creator owns of it: [`owned_by_creator`].
    fn owned_by_creator(
        &self,
        schema: &Schema,
        kind: TypeRef,
        excluded: &FieldSet,
    ) -> Option<Vec<u8>> {
        owned_by_creator(schema, kind, &self.to_value().ok()?, excluded)
    }
    /// For downcasts.
    fn as_any(&self) -> &dyn Any;
    /// For downcasts.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

/// A built-in type of the API.
pub trait BuiltIn:
    k8s_openapi::Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + Clone
    + fmt::Debug
    + Send
    + Sync
    + 'static
{
}

impl<T> BuiltIn for T where
    T: k8s_openapi::Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Clone
        + fmt::Debug
        + Send
        + Sync
        + 'static
{
}

impl<T: BuiltIn> Object for T {
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }
    fn boxed_clone(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }
    fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        // Most objects fit in without a copy into something larger.
        let mut json = Vec::with_capacity(2048);
        serde_json::to_writer(&mut json, self)?;
        json.shrink_to_fit();
        Ok(json)
    }
    fn to_value(&self) -> Result<Value, serde_json::Error> {
        serde_json::to_value(self)
    }
    fn owned_by_creator(
        &self,
        schema: &Schema,
        kind: TypeRef,
        excluded: &FieldSet,
    ) -> Option<Vec<u8>> {
        owned_by_creator(schema, kind, self, excluded)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// Which part of an object an update is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The object itself: everything but its status.
    Main,
    /// The `status` subresource: the status alone.
    Status,
    /// A Pod's `ephemeralcontainers` subresource: its ephemeral containers alone.
    EphemeralContainers,
    /// A Pod's `resize` subresource: its resources alone.
    Resize,
    /// A Namespace's `finalize` subresource: `spec.finalizers` alone.
    Finalize,
    /// A CertificateSigningRequest's `approval` subresource: its conditions alone.
    Approval,
}

/// Fields that a field selector can name, with their values: `("spec.nodeName", "n1")`.
/// `metadata.name` and `metadata.namespace` are known for every kind and not repeated here.
pub type Fields = smallvec::SmallVec<[(&'static str, String); 4]>;

/// A JSON body decoded to an object, and what was odd about it.
#[derive(Debug)]
pub struct Decoded {
    /// The object.
    pub object: Box<dyn Object>,
    /// What strict validation refuses: `unknown field "spec.foo"` for a field that the kind does not
    /// have, `duplicate field "spec.foo"` for one that is there twice.
    pub strict_errors: Vec<String>,
}

/// How objects of one built-in kind behave. Every method has the default of a plain kind, one
/// without status or generation.
///
/// Order on create: decode, [`default`](Kind::default), [`prepare_create`](Kind::prepare_create),
/// [`validate`](Kind::validate), [`validate_create`](Kind::validate_create). On update: decode, `default`,
/// [`prepare_update`](Kind::prepare_update), `validate`,
/// [`validate_update`](Kind::validate_update). Metadata that all kinds share is handled by the
/// server: names, UIDs, timestamps, labels, owner references, finalizers.
pub trait Kind: fmt::Debug + Default + Send + Sync + 'static {
    /// The API type.
    type Object: BuiltIn;

    /// Fills in what the client left out.
    fn default(_object: &mut Self::Object) {}

    /// Drops what a client may not set on create (the status), sets the first generation. The
    /// name, namespace and uid are set by then.
    fn prepare_create(_object: &mut Self::Object) {}

    /// Puts back what this part may not change, and raises the generation when the spec changed.
    fn prepare_update(_new: &mut Self::Object, _old: &Self::Object, _part: Part) {}

    /// What is wrong with the object as it stands (metadata excepted). An update of its status is
    /// not asked about: [`validate_update`](Kind::validate_update) says all that is wrong with that.
    fn validate(_object: &Self::Object) -> ErrorList {
        ErrorList::new()
    }

    /// What is wrong with creating the object, besides what [`validate`](Kind::validate) finds:
    /// what only an update may set.
    fn validate_create(_object: &Self::Object) -> ErrorList {
        ErrorList::new()
    }

    /// What is wrong with this change: immutable fields.
    fn validate_update(_new: &Self::Object, _old: &Self::Object, _part: Part) -> ErrorList {
        ErrorList::new()
    }

    /// What is wrong with `name` for this kind; a DNS subdomain by default.
    fn validate_name(name: &str, generate_prefix: bool) -> Vec<String> {
        crate::meta::names::dns_subdomain(name, generate_prefix)
    }

    /// Selectable fields besides `metadata.name` and `metadata.namespace`.
    fn fields(_object: &Self::Object) -> Fields {
        Fields::new()
    }

    /// Names of the selectable fields, for refusing unknown ones.
    const FIELDS: &'static [&'static str] = &[];

    /// Cells of a Table row, one for each of the resource's columns.
    fn cells(object: &Self::Object, now: Timestamp) -> Vec<Value> {
        crate::meta::table::name_and_age(Object::meta(object), now)
    }

    /// Warnings for the client that wrote this.
    fn warnings(_object: &Self::Object) -> Vec<String> {
        Vec::new()
    }

    /// What clients are told who use this kind at all: that it is deprecated.
    const DEPRECATION: Option<&'static str> = None;

    /// Seconds between the deletion request and the object's removal; `None` deletes at once.
    /// Only Pods wait.
    fn grace_period_seconds(_object: &Self::Object, _options: &DeleteOptions) -> Option<i64> {
        None
    }

    /// The object's scale, for kinds with a `scale` subresource.
    fn scale(_object: &Self::Object) -> Option<Scale> {
        None
    }

    /// Sets the replicas that a scale asks for.
    fn set_replicas(_object: &mut Self::Object, _replicas: i32) {}

    /// Whether deletion without a propagation policy orphans dependents, as ReplicationController
    /// does.
    const ORPHAN_BY_DEFAULT: bool = false;

    /// Whether a PUT may create the object (Kubernetes: `AllowCreateOnUpdate`), and whether an
    /// update may leave out the resourceVersion (`AllowUnconditionalUpdate`).
    const CREATE_ON_UPDATE: bool = false;
    /// See [`Self::CREATE_ON_UPDATE`].
    const UNCONDITIONAL_UPDATE: bool = true;
}

/// [`Kind`] without its type: what the generic handlers call. [`Typed`] makes one from a `Kind`.
///
/// The objects handed in are of this strategy's own kind; for any other object every method
/// behaves as for a plain kind.
pub trait Strategy: fmt::Debug + Send + Sync {
    /// Decodes a JSON object of this kind, noting fields that it does not have.
    fn decode(&self, json: &[u8]) -> Result<Decoded, serde_json::Error>;
    /// Decodes an object that this server has stored: nothing in it is left to be made canonical, or
    /// to be found fault with.
    fn decode_stored(&self, json: &[u8]) -> Result<Box<dyn Object>, serde_json::Error> {
        self.decode(json).map(|decoded| decoded.object)
    }
    /// A stored object as this version of its kind shows it. The bytes differ only for a kind whose
    /// objects are stored in the form of another version: its [`decode`](Self::decode) takes both
    /// forms, [`Object::encode`] gives the stored one, and [`Object::to_value`] the one shown.
    fn shown<'a>(&self, stored: &'a [u8]) -> Result<Cow<'a, [u8]>, serde_json::Error> {
        Ok(Cow::Borrowed(stored))
    }
    /// Whether [`shown`](Self::shown) changes nothing, so that stored bytes can be sent as they are.
    fn is_shown_as_stored(&self) -> bool {
        true
    }
    /// What a custom kind is made of; `None` for a built-in one.
    #[doc(hidden)]
    fn custom(&self) -> Option<&custom::Version> {
        None
    }
    /// How the fields of this kind merge in server-side apply, for a kind that is not in
    /// [`crate::apply::builtin`].
    fn apply_schema(&self) -> Option<&(Schema, TypeRef)> {
        None
    }
    /// What clients are told who use this version: that it is deprecated, in Kubernetes' words.
    fn deprecation(&self) -> Option<&str> {
        None
    }
    /// The name that the stored version gives to one of [`field_names`](Self::field_names).
    fn stored_field<'a>(&self, field: &'a str) -> &'a str {
        field
    }
    /// See [`Kind::default`].
    fn default(&self, object: &mut dyn Object);
    /// See [`Kind::prepare_create`].
    fn prepare_create(&self, object: &mut dyn Object);
    /// See [`Kind::prepare_update`].
    fn prepare_update(&self, new: &mut dyn Object, old: &dyn Object, part: Part);
    /// See [`Kind::validate`].
    fn validate(&self, object: &dyn Object) -> ErrorList;
    /// See [`Kind::validate_create`].
    fn validate_create(&self, _object: &dyn Object) -> ErrorList {
        ErrorList::new()
    }
    /// See [`Kind::validate_update`].
    fn validate_update(&self, new: &dyn Object, old: &dyn Object, part: Part) -> ErrorList;
    /// The same, and what is wrong but was so before: clients are warned of that.
    fn judge_update(
        &self,
        new: &dyn Object,
        old: &dyn Object,
        part: Part,
    ) -> (ErrorList, Vec<FieldError>) {
        (self.validate_update(new, old, part), Vec::new())
    }
    /// See [`Kind::validate_name`].
    fn validate_name(&self, name: &str, generate_prefix: bool) -> Vec<String>;
    /// See [`Kind::fields`]. Named as the stored version does.
    fn fields(&self, object: &dyn Object) -> Fields;
    /// See [`Kind::FIELDS`].
    fn field_names(&self) -> &'static [&'static str];
    /// Selectable fields whose names are not known beforehand, and their values.
    fn more_fields(&self, _object: &dyn Object) -> Box<[(Arc<str>, String)]> {
        Box::default()
    }
    /// Whether objects can be selected by this field, besides those of their metadata.
    fn selects_by(&self, field: &str) -> bool {
        self.field_names().contains(&field)
    }
    /// See [`Kind::cells`].
    fn cells(&self, object: &dyn Object, now: Timestamp) -> Vec<Value>;
    /// See [`Kind::warnings`].
    fn warnings(&self, object: &dyn Object) -> Vec<String>;
    /// See [`Kind::grace_period_seconds`].
    fn grace_period_seconds(&self, object: &dyn Object, options: &DeleteOptions) -> Option<i64>;
    /// See [`Kind::scale`].
    fn scale(&self, object: &dyn Object) -> Option<Scale>;
    /// See [`Kind::set_replicas`].
    fn set_replicas(&self, object: &mut dyn Object, replicas: i32);
    /// See [`Kind::ORPHAN_BY_DEFAULT`].
    fn orphan_by_default(&self) -> bool;
    /// See [`Kind::CREATE_ON_UPDATE`].
    fn create_on_update(&self) -> bool;
    /// See [`Kind::UNCONDITIONAL_UPDATE`].
    fn unconditional_update(&self) -> bool;
}
