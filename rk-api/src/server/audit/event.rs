//! Events as they are written.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{MicroTime, StatusDetails},
    serde::{Deserialize, Serialize, Serializer},
};
use serde_json::value::RawValue;

use crate::server::{info::RequestInfo, user::UserInfo};

/// How much of a request is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(crate = "k8s_openapi::serde")]
pub enum Level {
    /// Nothing.
    None,
    /// Who asked what and how it ended.
    Metadata,
    /// And the object of the request.
    Request,
    /// And the object of the answer.
    RequestResponse,
}

/// How far a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "k8s_openapi::serde")]
pub enum Stage {
    /// It has arrived.
    RequestReceived,
    /// The head of the answer is sent, its body is still to come: only for requests that last.
    ResponseStarted,
    /// The answer is complete.
    ResponseComplete,
    /// Its handler panicked.
    Panic,
}

impl Stage {
    /// As policies and events write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// An audit event (audit.k8s.io/v1 `Event`).
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase", crate = "k8s_openapi::serde")]
pub struct Event {
    /// Always `Event`.
    pub kind: &'static str,
    /// Always `audit.k8s.io/v1`.
    pub api_version: &'static str,
    /// How much is recorded.
    pub level: Level,
    /// The same for all events of a request.
    #[serde(rename = "auditID", serialize_with = "shared")]
    pub audit_id: Arc<str>,
    /// How far the request has come.
    pub stage: Stage,
    /// The path and query, as the client sent them.
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    /// The verb; for paths that are no resources the method in lower case.
    pub verb: String,
    /// Who asked.
    pub user: AuditUser,
    /// As whom they act.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impersonated_user: Option<AuditUser>,
    /// More about how it is known who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_metadata: Option<AuthenticationMetadata>,
    /// Where the request comes from, and by way of which proxies.
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    pub source_ips: Vec<String>,
    /// What the client calls itself; it may say anything.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_agent: String,
    /// What the request is about; `None` for paths that are no resources.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_ref: Option<ObjectReference>,
    /// How it ended, as soon as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_status: Option<ResponseStatus>,
    /// The object that the client sent, as it sent it; at level `Request`.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shared_if_any")]
    pub request_object: Option<Arc<RawValue>>,
    /// The object that was answered; at level `RequestResponse`.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "shared_if_any")]
    pub response_object: Option<Arc<RawValue>>,
    /// When the request arrived.
    pub request_received_timestamp: MicroTime,
    /// When it came to this stage.
    pub stage_timestamp: MicroTime,
    /// What authorization and admission say about it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// More about how it is known who asks.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthenticationMetadata {
    /// The verb of the right by which the user acts as another, where it is a constrained one.
    pub impersonation_constraint: String,
}

fn shared<T, S>(value: &Arc<T>, serializer: S) -> Result<S::Ok, S::Error>
where
    T: Serialize + ?Sized,
    S: Serializer,
{
    value.as_ref().serialize(serializer)
}

fn shared_if_any<T, S>(value: &Option<Arc<T>>, serializer: S) -> Result<S::Ok, S::Error>
where
    T: Serialize + ?Sized,
    S: Serializer,
{
    value.as_deref().serialize(serializer)
}

/// A user, as events name them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(crate = "k8s_openapi::serde")]
pub struct AuditUser {
    /// The name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// A lasting identifier.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// What else is known.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl From<&UserInfo> for AuditUser {
    fn from(user: &UserInfo) -> Self {
        Self {
            username: user.name.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
        }
    }
}

/// What a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", crate = "k8s_openapi::serde")]
pub struct ObjectReference {
    /// The plural.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// The namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The UID that the client named.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The group; empty for core.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    /// The version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// The version of the object that the client named.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// The subresource.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subresource: String,
}

impl ObjectReference {
    /// What a request is about; `None` for a path that is no resource.
    pub(super) fn of(info: &RequestInfo) -> Option<Self> {
        info.is_resource.then(|| Self {
            resource: info.resource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            api_group: info.group.clone(),
            api_version: info.version.clone(),
            subresource: info.subresource.clone(),
            ..Self::default()
        })
    }
}

/// How a request ended: of a `Status`, what is bounded in size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, crate = "k8s_openapi::serde")]
pub struct ResponseStatus {
    /// Always empty, and always there.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// `Success` or `Failure`, if the answer says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The same for machines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// About which object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<StatusDetails>,
    /// The HTTP status code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
}

impl Event {
    /// One line of text, for the format `legacy`.
    pub(super) fn legacy_line(&self) -> String {
        let list = |groups: &[String]| {
            groups.iter().map(|group| format!("{group:?}")).collect::<Vec<_>>().join(",")
        };
        let or = |text: &str, none: &str| if text.is_empty() { none } else { text }.to_owned();
        let groups = list(&self.user.groups);
        let (as_user, as_groups) = match &self.impersonated_user {
            Some(user) => (user.username.clone(), list(&user.groups)),
            None => ("<self>".to_owned(), "<lookup>".to_owned()),
        };
        let namespace = self.object_ref.as_ref().map_or("", |object| &object.namespace);
        let code = self.response_status.as_ref().and_then(|status| status.code);
        format!(
            "{} AUDIT: id={:?} stage={:?} ip={:?} method={:?} user={:?} groups={:?} as={:?} \
             asgroups={:?} user-agent={:?} namespace={:?} uri={:?} response=\"{}\"",
            self.request_received_timestamp.0,
            self.audit_id,
            self.stage.as_str(),
            self.source_ips.first().map_or("<unknown>", String::as_str),
            self.verb,
            or(&self.user.username, "<none>"),
            or(&groups, "<none>"),
            as_user,
            as_groups,
            self.user_agent,
            or(namespace, "<none>"),
            self.request_uri,
            code.map_or("<deferred>".to_owned(), |code| code.to_string()),
        )
    }
}
