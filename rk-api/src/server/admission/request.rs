//! What admission is asked about.

use std::{borrow::Cow, fmt, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use serde_json::{Map, Value, json};

use super::rounds::Rounds;
use crate::{
    resources::{Object, Resource},
    server::{
        audit,
        context::Context,
        status::{ApiError, Subject},
        user::UserInfo,
    },
};

/// What a request does to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It makes a new one.
    Create,
    /// It changes one.
    Update,
    /// It deletes one.
    Delete,
    /// It opens a stream to one.
    Connect,
}

impl Operation {
    /// The name that rules and reviews have for it: `CREATE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A kind at a version of its group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupVersionKind {
    /// The group; empty for the core group.
    pub group: Cow<'static, str>,
    /// The version.
    pub version: Cow<'static, str>,
    /// The kind.
    pub kind: Cow<'static, str>,
}

impl GroupVersionKind {
    /// The kind of what a resource, or one of its subresources, takes.
    pub fn of(resource: &Resource, subresource: &str) -> Self {
        let found = resource.subresources.iter().find(|found| found.name == subresource);
        let own = (resource.group.clone(), resource.version.clone());
        let (kind, (group, version)) = match found {
            Some(found) => (found.kind.clone(), found.group_version.clone().unwrap_or(own)),
            None => (resource.kind.clone(), own),
        };
        Self { group, version, kind }
    }

    /// As reviews write it.
    pub(super) fn to_value(&self) -> Value {
        json!({ "group": self.group, "version": self.version, "kind": self.kind })
    }
}

/// A write, or a connection, that asks to be admitted.
#[derive(Debug)]
#[non_exhaustive]
pub struct AdmissionRequest<'a> {
    /// What it does.
    pub operation: Operation,
    /// To which kind.
    pub resource: &'a Arc<Resource>,
    /// The subresource; empty for the object itself.
    pub subresource: &'a str,
    /// The namespace; `None` for cluster scope.
    pub namespace: Option<&'a str>,
    /// The name; empty while it is to be generated.
    pub name: &'a str,
    /// The object as it is to be; `None` when it is deleted. For a subresource with a kind of its
    /// own, such as `scale`, an object of that kind; for a connection its options.
    pub object: Option<&'a mut Box<dyn Object>>,
    /// The object as it is; `None` when it is created.
    pub old: Option<&'a dyn Object>,
    /// Who asks.
    pub user: &'a UserInfo,
    /// Whether nothing is stored: side effects are forbidden.
    pub dry_run: bool,
    /// The managed fields of `object`, which it does not have itself (JSON; empty for none).
    pub(in crate::server) managed: Cow<'a, [u8]>,
    /// The managed fields of `old`.
    pub(in crate::server) old_managed: &'a [u8],
    /// The options of a deletion.
    pub(in crate::server) deletion: Option<&'a DeleteOptions>,
    /// The request; `None` for what the server itself writes.
    pub(in crate::server) context: Option<&'a Context>,
    /// How often mutation has gone round, and who is to be asked again.
    pub(in crate::server) rounds: Rounds,
}

impl<'a> AdmissionRequest<'a> {
    /// The object as it is to be.
    pub fn object(&self) -> Option<&dyn Object> {
        self.object.as_deref().map(AsRef::as_ref)
    }

    /// Whether it is about objects of this core resource themselves, and not about a subresource.
    pub fn is_about(&self, plural: &str) -> bool {
        self.resource.group.is_empty()
            && self.resource.plural == plural
            && self.subresource.is_empty()
    }

    /// Whether it creates or updates.
    pub fn is_write(&self) -> bool {
        matches!(self.operation, Operation::Create | Operation::Update)
    }

    /// The kind of its object.
    pub fn kind(&self) -> GroupVersionKind {
        GroupVersionKind::of(self.resource, self.subresource)
    }

    /// A 403 that says why the object is refused.
    pub fn forbidden(&self, why: &str) -> ApiError {
        let name = if self.name.is_empty() { self.given_name() } else { self.name };
        ApiError::forbidden(&Subject::plural(self.resource), name, why)
    }

    /// Tells the client something besides the answer.
    pub fn warn(&self, text: impl Into<String>) {
        if let Some(context) = self.context {
            context.warnings.add(text);
        }
    }

    /// Notes something in the request's audit event.
    pub fn annotate(&self, key: &str, value: impl Into<String>) {
        audit::annotate(key, value);
    }

    /// The new object, if it is of this type.
    pub fn object_as<T: 'static>(&mut self) -> Option<&mut T> {
        self.object.as_deref_mut()?.as_any_mut().downcast_mut()
    }

    /// The new object, to look at, if it is of this type.
    pub fn new_as<T: 'static>(&self) -> Option<&T> {
        self.object()?.as_any().downcast_ref()
    }

    /// The object as it is, if it is of this type.
    pub fn old_as<T: 'static>(&self) -> Option<&'a T> {
        self.old?.as_any().downcast_ref()
    }

    /// The name as rules and reviews see it; a generated one is known once it has been generated.
    pub(super) fn given_name(&self) -> &str {
        match (self.name, self.object()) {
            ("", Some(object)) => object.meta().name.as_deref().unwrap_or_default(),
            (name, _) => name,
        }
    }

    /// The namespace as rules and reviews see it: a Namespace is in itself.
    pub(super) fn seen_namespace(&self) -> &str {
        match self.namespace {
            Some(namespace) => namespace,
            None if self.is_namespace() => self.given_name(),
            None => "",
        }
    }

    /// Whether it is about a Namespace, or a subresource of one.
    pub(super) fn is_namespace(&self) -> bool {
        self.resource.group.is_empty() && self.resource.plural == "namespaces"
    }

    /// The request's options as reviews show them.
    pub(super) fn options(&self) -> Value {
        let (kind, mut options) = match self.operation {
            Operation::Create => ("CreateOptions", self.write_options()),
            Operation::Update => ("UpdateOptions", self.write_options()),
            Operation::Delete => {
                let options = self.deletion.and_then(|options| serde_json::to_value(options).ok());
                match options {
                    Some(Value::Object(options)) => ("DeleteOptions", options),
                    _ => ("DeleteOptions", Map::new()),
                }
            }
            Operation::Connect => return Value::Null,
        };
        if options.get("dryRun").is_some_and(|list| *list == json!([])) {
            options.remove("dryRun");
        }
        options.insert("kind".to_owned(), kind.into());
        options.insert("apiVersion".to_owned(), "meta.k8s.io/v1".into());
        Value::Object(options)
    }

    fn write_options(&self) -> Map<String, Value> {
        let mut options = Map::new();
        let Some(context) = self.context else { return options };
        for key in ["fieldManager", "fieldValidation"] {
            if let Some(value) = context.query().get(key).filter(|value| !value.is_empty()) {
                options.insert(key.to_owned(), value.into());
            }
        }
        if self.dry_run {
            options.insert("dryRun".to_owned(), json!(["All"]));
        }
        options
    }
}
