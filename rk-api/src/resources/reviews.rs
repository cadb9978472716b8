//! Reviews: questions about who somebody is and what they may do. They are answered, not kept.

use k8s_openapi::api::{
    authentication::v1::{SelfSubjectReview, TokenReview},
    authorization::v1::{
        LocalSubjectAccessReview, ResourceAttributes, SelfSubjectAccessReview,
        SelfSubjectRulesReview, SubjectAccessReview, SubjectAccessReviewSpec,
    },
};
use serde_json::json;

use super::{Kind, Resource, check::Errors, row::Row};
use crate::{
    field::{ErrorList, Path},
    meta::names,
};

/// The rows of all reviews.
pub(super) fn rows() -> [Resource; 6] {
    fn row<K: Kind>() -> Resource
    where
        K::Object: k8s_openapi::Resource + schemars::JsonSchema,
        <K::Object as k8s_openapi::Resource>::Scope: 'static,
    {
        Row::of::<K>().verbs(&["create"]).done()
    }
    [
        row::<SelfSubjectReviews>(),
        row::<TokenReviews>(),
        row::<LocalSubjectAccessReviews>(),
        row::<SelfSubjectAccessReviews>(),
        row::<SelfSubjectRulesReviews>(),
        row::<SubjectAccessReviews>(),
    ]
}

/// How a TokenReview behaves.
#[derive(Debug, Default)]
pub(super) struct TokenReviews;

impl Kind for TokenReviews {
    type Object = TokenReview;
}

/// How a SelfSubjectReview behaves.
#[derive(Debug, Default)]
pub(super) struct SelfSubjectReviews;

impl Kind for SelfSubjectReviews {
    type Object = SelfSubjectReview;
}

/// How a SelfSubjectRulesReview behaves.
#[derive(Debug, Default)]
pub(super) struct SelfSubjectRulesReviews;

impl Kind for SelfSubjectRulesReviews {
    type Object = SelfSubjectRulesReview;
}

/// How a SelfSubjectAccessReview behaves.
#[derive(Debug, Default)]
pub(super) struct SelfSubjectAccessReviews;

impl Kind for SelfSubjectAccessReviews {
    type Object = SelfSubjectAccessReview;

    fn validate(review: &SelfSubjectAccessReview) -> ErrorList {
        let mut errors = Errors::default();
        let spec = SubjectAccessReviewSpec {
            resource_attributes: review.spec.resource_attributes.clone(),
            non_resource_attributes: review.spec.non_resource_attributes.clone(),
            ..SubjectAccessReviewSpec::default()
        };
        attributes(&mut errors, &spec);
        errors.0
    }
}

/// How a SubjectAccessReview behaves.
#[derive(Debug, Default)]
pub(super) struct SubjectAccessReviews;

impl Kind for SubjectAccessReviews {
    type Object = SubjectAccessReview;

    fn validate(review: &SubjectAccessReview) -> ErrorList {
        let mut errors = Errors::default();
        attributes(&mut errors, &review.spec);
        subject(&mut errors, &review.spec);
        errors.0
    }
}

/// How a LocalSubjectAccessReview behaves.
#[derive(Debug, Default)]
pub(super) struct LocalSubjectAccessReviews;

impl Kind for LocalSubjectAccessReviews {
    type Object = LocalSubjectAccessReview;

    fn validate(review: &LocalSubjectAccessReview) -> ErrorList {
        let mut errors = Errors::default();
        attributes(&mut errors, &review.spec);
        subject(&mut errors, &review.spec);
        let namespace = |attributes: &ResourceAttributes| attributes.namespace.clone();
        let asked = review.spec.resource_attributes.as_ref().map(namespace);
        if let Some(asked) = asked
            && asked != review.metadata.namespace
        {
            let at = Path::new("spec.resourceAttributes.namespace");
            errors.invalid(&at, asked.unwrap_or_default(), "must match metadata.namespace");
        }
        if let Some(asked) = &review.spec.non_resource_attributes {
            let at = Path::new("spec.nonResourceAttributes");
            errors.invalid(&at, json!(asked), "disallowed on this kind of request");
        }
        errors.0
    }

    fn validate_name(name: &str, generate_prefix: bool) -> Vec<String> {
        names::path_segment(name, generate_prefix)
    }
}

/// What is asked about: either objects or a path.
fn attributes(errors: &mut Errors, spec: &SubjectAccessReviewSpec) {
    match (&spec.resource_attributes, &spec.non_resource_attributes) {
        (Some(_), Some(paths)) => {
            let at = Path::new("spec.nonResourceAttributes");
            let wrong = "cannot be specified in combination with resourceAttributes";
            errors.invalid(&at, json!(paths), wrong);
        }
        (None, None) => {
            let at = Path::new("spec.resourceAttributes");
            let wrong =
                "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.invalid(&at, json!(null), wrong);
        }
        _ => {}
    }
}

fn subject(errors: &mut Errors, spec: &SubjectAccessReviewSpec) {
    let user = spec.user.as_deref().unwrap_or_default();
    if user.is_empty() && spec.groups.as_ref().is_none_or(Vec::is_empty) {
        let wrong = "at least one of user or group must be specified";
        errors.invalid(&Path::new("spec.user"), user, wrong);
    }
}
