//! The three kinds of patch, applied to JSON trees.
//!
//! Patching is the middle of an update: the server reads the object, applies the patch to its
//! JSON here, and then decodes, defaults and validates the result as for any update.
//!
//! - [JSON patch](https://www.rfc-editor.org/rfc/rfc6902): a list of operations.
//! - [JSON merge patch](https://www.rfc-editor.org/rfc/rfc7396): a tree laid over the object.
//! - Strategic merge patch: a merge patch that knows the schema, so that lists of containers or
//!   of finalizers merge too; see [`strategic`].

mod json;
mod merge;
pub mod strategic;
pub mod wording;

use serde_json::Value;

use crate::schema;

/// The most operations that a JSON patch may have, as in kube-apiserver.
pub const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;

/// A kind of patch. (Server-side apply is none of these.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// `application/json-patch+json`
    Json,
    /// `application/merge-patch+json`
    Merge,
    /// `application/strategic-merge-patch+json`
    Strategic,
}

/// Why a patch was not applied. The text is the one that kube-apiserver puts in its Status.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatchError {
    /// The patch is no such patch. Status 400, reason `BadRequest`.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object: a path is missing, a test failed. Status 422, reason
    /// `Invalid`. Clients are not told what is inside.
    #[error("the server rejected our request due to an error in our request")]
    CannotApply(String),
    /// The patch has too many operations. Status 413, reason `RequestEntityTooLarge`.
    #[error("Request entity is too large: {0}")]
    TooLarge(String),
    /// The kind has no schema to merge by. Status 415, reason `UnsupportedMediaType`.
    #[error(
        "the body of the request was in an unknown format - accepted media types include: \
         application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    )]
    Unsupported,
    /// A strategic merge patch contradicts the schema: an item lacks its key, for example.
    /// Status 500 without a reason, strange as that is.
    #[error("{0}")]
    Unmergeable(String),
}

/// What the failure of a test says of itself.
const FAILED_TEST: &str = "value did not match";

// === impl PatchKind ===

impl PatchKind {
    /// The kind that a media type (without parameters) asks for.
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        match media_type {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            _ => None,
        }
    }
}

// === impl PatchError ===

impl PatchError {
    /// What is wrong, also where clients are not told.
    pub fn detail(&self) -> String {
        match self {
            Self::CannotApply(why) => why.clone(),
            other => other.to_string(),
        }
    }

    /// Whether the patch tests something that is not so.
    pub fn is_failed_test(&self) -> bool {
        matches!(self, Self::CannotApply(why) if why.contains(FAILED_TEST))
    }

    /// The HTTP status.
    pub fn code(&self) -> u16 {
        match self {
            Self::Malformed(_) => 400,
            Self::CannotApply(_) => 422,
            Self::TooLarge(_) => 413,
            Self::Unsupported => 415,
            Self::Unmergeable(_) => 500,
        }
    }

    /// The reason of the Status; empty where Kubernetes gives none.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "BadRequest",
            Self::CannotApply(_) => "Invalid",
            Self::TooLarge(_) => "RequestEntityTooLarge",
            Self::Unsupported => "UnsupportedMediaType",
            Self::Unmergeable(_) => "",
        }
    }
}

/// Applies `patch`, a request body, to `object`.
///
/// `schema` is [`Resource::schema`](crate::resources::Resource::schema), by which strategic merge
/// patches merge. After an error `object` may be partly patched: throw it away.
///
/// ```
/// use rk_api::patch::{PatchKind, apply};
/// use serde_json::json;
///
/// let mut pod = json!({"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b"}]}});
/// let patch = br#"{"spec": {"containers": [{"name": "a", "image": "x:2"}]}}"#;
/// apply(PatchKind::Strategic, "io.k8s.api.core.v1.Pod", &mut pod, patch)?;
/// assert_eq!(pod["spec"]["containers"], json!([{"name": "a", "image": "x:2"}, {"name": "b"}]));
/// # Ok::<(), rk_api::patch::PatchError>(())
/// ```
pub fn apply(
    kind: PatchKind,
    schema: &str,
    object: &mut Value,
    patch: &[u8],
) -> Result<(), PatchError> {
    match kind {
        PatchKind::Json => json::apply(object, patch),
        PatchKind::Merge => merge::apply(object, patch),
        PatchKind::Strategic => {
            let graph = schema::graph();
            let schema = graph.get(schema).ok_or(PatchError::Unsupported)?;
            strategic::apply(graph, schema, object, patch)
        }
    }
}

#[cfg(test)]
mod tests;
