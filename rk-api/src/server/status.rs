//! Failures as clients see them: the one place where an error becomes a Kubernetes `Status`.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    ListMeta, Status, StatusCause, StatusDetails,
};
use rk_store::StoreError;

use crate::{field::ErrorList, resources::Resource};

/// A request's failure, with everything its answer needs.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status code.
    pub code: u16,
    /// The machine-readable reason, for example `NotFound`; empty when there is none.
    pub reason: Cow<'static, str>,
    /// What went wrong, for a person.
    pub message: String,
    /// What the failure is about.
    pub details: Option<Box<StatusDetails>>,
    /// How a list can go on whose token has expired.
    pub continue_token: Option<Box<str>>,
}

/// What every handler returns.
pub(super) type Result<T, E = ApiError> = std::result::Result<T, E>;

/// A kind as messages and details name it: its group and its plural (or kind).
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// The group; empty for core.
    pub group: Cow<'static, str>,
    /// The plural with a subresource if there is one, `pods` or `deployments/scale`, or a kind.
    pub kind: Cow<'static, str>,
}

impl Subject {
    /// `kind.group`, or `kind` in the core group.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.kind.clone().into_owned()
        } else {
            format!("{}.{}", self.kind, self.group)
        }
    }

    /// The resource as paths name it.
    pub fn plural(resource: &Resource) -> Self {
        Self { group: resource.group.clone(), kind: resource.plural.clone() }
    }

    /// The resource's kind, as messages about invalid objects name it.
    pub fn kind(resource: &Resource) -> Self {
        Self { group: resource.group.clone(), kind: resource.kind.clone() }
    }

    /// A kind that has no row of its own, for example `meta.k8s.io` and `ListOptions`.
    pub const fn of(group: &'static str, kind: &'static str) -> Self {
        Self { group: Cow::Borrowed(group), kind: Cow::Borrowed(kind) }
    }

    fn details(&self, name: &str) -> Box<StatusDetails> {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Box::new(StatusDetails {
            name: text(name),
            group: text(&self.group),
            kind: text(&self.kind),
            ..StatusDetails::default()
        })
    }
}

impl ApiError {
    /// A failure without details.
    pub fn new(
        code: u16,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            code,
            reason: reason.into(),
            message: message.into(),
            details: None,
            continue_token: None,
        }
    }

    fn about(mut self, subject: &Subject, name: &str) -> Self {
        self.details = Some(subject.details(name));
        self
    }

    /// The same failure with one more cause.
    #[must_use]
    pub fn cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        self.details.get_or_insert_default().causes.get_or_insert_default().push(StatusCause {
            reason: text(reason),
            message: text(message),
            field: text(field),
        });
        self
    }

    /// The same failure, telling the client when to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: i32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = Some(seconds);
        self
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: nobody knows who is asking.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403: not allowed, by policy or by admission.
    pub fn forbidden(subject: &Subject, name: &str, why: &str) -> Self {
        let message = match (subject.kind.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{} is forbidden: {why}", subject.qualified()),
            (false, false) => format!("{} {name:?} is forbidden: {why}", subject.qualified()),
        };
        Self::new(403, "Forbidden", message).about(subject, name)
    }

    /// 404: no such object.
    pub fn not_found(subject: &Subject, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} {name:?} not found", subject.qualified()))
            .about(subject, name)
    }

    /// 404: no such path.
    pub fn no_such_path() -> Self {
        let mut error =
            Self::new(404, "NotFound", "the server could not find the requested resource");
        error.details = Some(Box::default());
        error
    }

    /// 405: the path does not have this verb.
    pub fn method_not_allowed() -> Self {
        let mut error = Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        );
        error.details = Some(Box::default());
        error
    }

    /// 406: none of the media types asked for is served.
    pub fn not_acceptable(served: &str) -> Self {
        let message = format!("only the following media types are accepted: {served}");
        Self::new(406, "NotAcceptable", message)
    }

    /// 409: the name is taken.
    pub fn already_exists(subject: &Subject, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {name:?} already exists", subject.qualified()))
            .about(subject, name)
    }

    /// 409: the object is not in the state that the request needs.
    pub fn conflict(subject: &Subject, name: &str, why: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", subject.qualified());
        Self::new(409, "Conflict", message).about(subject, name)
    }

    /// 409: somebody else changed the object first.
    pub fn modified(subject: &Subject, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version \
                   and try again";
        Self::conflict(subject, name, why)
    }

    /// 410: that version is no longer kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 413: the body is too long.
    pub fn body_too_large(limit_bytes: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit_bytes}");
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 415: the body is in a format that is not read here.
    pub fn unsupported_media_type(served: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {served}"
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 422: the object is refused field by field.
    pub fn invalid(subject: &Subject, name: &str, errors: &ErrorList) -> Self {
        let mut texts: Vec<String> = Vec::new();
        for error in errors {
            let text = error.to_string();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let list = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} {name:?} is invalid: {list}", subject.qualified());
        let mut error = Self::new(422, "Invalid", message).about(subject, name);
        for field in errors {
            error = error.cause(field.reason.as_str(), &field.message(), &field.path.to_string());
        }
        error
    }

    /// 429: not now.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i32) -> Self {
        Self::new(429, "TooManyRequests", message).retry_after(retry_after_seconds)
    }

    /// 500: our fault.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let message = message.to_string();
        let error = Self::new(500, "InternalError", format!("Internal error occurred: {message}"));
        error.cause("", &message, "")
    }

    /// 500 with only a message, as kube-apiserver answers errors that it has no reason for.
    pub fn plain(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    /// 503: somebody we depend on does not answer.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 504: it took too long.
    pub fn timeout(message: impl std::fmt::Display) -> Self {
        let mut error = Self::new(504, "Timeout", format!("Timeout: {message}"));
        error.details = Some(Box::default());
        error
    }

    /// 504: the client has seen a newer version than we have.
    pub fn version_ahead(asked: u64, current: u64) -> Self {
        Self::timeout(format!("Too large resource version: {asked}, current: {current}"))
            .cause("ResourceVersionTooLarge", "Too large resource version", "")
            .retry_after(1)
    }

    /// The same failure, telling the client how the list can go on.
    #[must_use]
    pub(super) fn or_continue(mut self, token: String) -> Self {
        self.continue_token = Some(token.into());
        self
    }

    /// Whether trying again with a fresh copy may help.
    pub fn is_conflict(&self) -> bool {
        self.code == 409 && self.reason == "Conflict"
    }

    /// The body that tells the client.
    pub fn status(&self) -> Status {
        Status {
            code: Some(i32::from(self.code)),
            details: self.details.as_deref().cloned(),
            message: Some(self.message.clone()),
            reason: (!self.reason.is_empty()).then(|| self.reason.clone().into_owned()),
            status: Some("Failure".to_owned()),
            metadata: ListMeta {
                continue_: self.continue_token.as_deref().map(ToOwned::to_owned),
                ..ListMeta::default()
            },
        }
    }

    /// What a store's failure means to the client that wrote or read `name`.
    pub fn from_store(error: StoreError, subject: &Subject, name: &str) -> Self {
        match error {
            StoreError::Conflict { found: None, .. } => Self::not_found(subject, name),
            StoreError::Conflict { found: Some(_), .. } => Self::modified(subject, name),
            other => Self::from(other),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { key, .. } => {
                Self::conflict(&Subject::default(), &key, "the object has been modified")
            }
            StoreError::Compacted { asked, oldest } => {
                Self::expired(format!("too old resource version: {asked} ({oldest})"))
            }
            StoreError::Future { asked, latest } => Self::version_ahead(asked.0, latest.0),
            StoreError::TooLarge { .. } => Self::new(
                413,
                "RequestEntityTooLarge",
                "etcdserver: request is too large: limit is 1.5 MiB",
            ),
            StoreError::Unavailable { reason } => Self::unavailable(reason),
            other => Self::internal(other),
        }
    }
}

/// The answer to a request that succeeded without an object to show.
pub(super) fn success(code: Option<i32>, details: Option<StatusDetails>) -> Status {
    Status { code, details, status: Some("Success".to_owned()), ..Status::default() }
}

/// The details of a successful deletion.
pub(super) fn deleted_details(
    resource: &Resource,
    name: &str,
    uid: Option<String>,
) -> StatusDetails {
    StatusDetails { uid, ..*Subject::plural(resource).details(name) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{FieldError, Path};

    #[test]
    fn messages_read_as_in_kubernetes() {
        let deployments = Subject::of("apps", "deployments");
        let missing = ApiError::not_found(&deployments, "x");
        assert_eq!(missing.message, "deployments.apps \"x\" not found");

        let required = FieldError::required(&Path::new("spec"), "");
        let one = ApiError::invalid(&Subject::of("", "Pod"), "p", &vec![required.clone()]);
        assert_eq!(one.message, "Pod \"p\" is invalid: spec: Required value");
        assert_eq!(one.details.unwrap().causes.unwrap()[0].field.as_deref(), Some("spec"));
    }
}
