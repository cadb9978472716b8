//! Groups that are Kubernetes' own: who defines a kind there says who approved it.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use crate::field::{ErrorList, FieldError, Path};

const ANNOTATION: &str = "api-approved.kubernetes.io";
const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

/// What the annotation says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Approval {
    Missing,
    Invalid,
    /// That it is not approved.
    Bypassed,
    /// By whom it was.
    Approved,
}

/// Whether kinds of the group must say who approved them.
pub(super) fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].into_iter().any(|domain| {
        group.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

fn annotation(definition: &CustomResourceDefinition) -> &str {
    let annotations = definition.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(ANNOTATION)).map_or("", String::as_str)
}

/// What a definition says of its approval, and why that is so.
pub(super) fn of(definition: &CustomResourceDefinition) -> (Approval, String) {
    let text = annotation(definition);
    let is_url = text.split_once("://").is_some_and(|(scheme, rest)| {
        !scheme.is_empty() && rest.split('/').next().is_some_and(|host| !host.is_empty())
    });
    match text {
        "" => (
            Approval::Missing,
            format!("protected groups must have approval annotation {ANNOTATION:?}, {SEE}"),
        ),
        text if text.starts_with("unapproved") => {
            (Approval::Bypassed, format!("not approved: {text:?}"))
        }
        text if is_url => (Approval::Approved, format!("approved in {text}")),
        _ => (
            Approval::Invalid,
            format!(
                "protected groups must have approval annotation {ANNOTATION:?} with either a URL \
                 or a reason starting with \"unapproved\", {SEE}"
            ),
        ),
    }
}

/// What is wrong with the approval. One that was wrong before may stay so.
pub(super) fn validate(
    new: &CustomResourceDefinition,
    old: Option<&CustomResourceDefinition>,
) -> ErrorList {
    if !is_protected(&new.spec.group) {
        return ErrorList::new();
    }
    let (approval, why) = of(new);
    if old.is_some_and(|old| of(old).0 == approval) {
        return ErrorList::new();
    }
    let path = Path::new("metadata.annotations").key(ANNOTATION);
    match approval {
        Approval::Approved | Approval::Bypassed => ErrorList::new(),
        Approval::Missing => vec![FieldError::required(&path, why)],
        Approval::Invalid => vec![FieldError::invalid(&path, annotation(new), why)],
    }
}
