//! Reviews: who somebody is, and what they may do.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, header};
use k8s_openapi::api::{
    authentication::v1::{
        SelfSubjectReview, SelfSubjectReviewStatus, TokenReview, TokenReviewStatus,
        UserInfo as ApiUser,
    },
    authorization::v1::{
        LocalSubjectAccessReview, NonResourceAttributes, ResourceAttributes,
        SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
        SubjectAccessReviewSpec, SubjectAccessReviewStatus, SubjectRulesReviewStatus,
    },
};

use super::Call;
use crate::{
    resources::{Object, Resource},
    server::{
        Inner,
        admission::{AdmissionRequest, Operation},
        authz::Decision,
        body::{self, ResponseBody},
        decode,
        info::RequestInfo,
        negotiate::{self, Shape},
        query::WriteOptions,
        status::{ApiError, Result, Subject},
        user::{MASTERS, UserInfo},
    },
};

const GROUPS: [&str; 2] = ["authentication.k8s.io", "authorization.k8s.io"];

/// Whether objects of this kind are questions that are answered and not kept.
pub(super) fn is_review(resource: &Resource) -> bool {
    GROUPS.contains(&resource.group.as_ref())
}

impl<'a> Call<'a> {
    pub(super) async fn review(
        self,
        resource: &'a Arc<Resource>,
        body: Bytes,
    ) -> Result<Response<ResponseBody>> {
        let output = self.output(false)?;
        // An answer is no row of a table.
        if matches!(output.shape, Shape::Table(_)) {
            return Err(ApiError::not_acceptable(negotiate::SERVED));
        }
        let options = WriteOptions::read(self.context.query(), "CreateOptions")?;
        let json = decode::json(&self.context.headers, body)?;
        let warnings = &self.context.warnings;
        let mut review = decode::object(resource, &json, options.field_validation, warnings)?;
        super::write::check_namespace(review.as_mut(), self.namespace(resource))?;
        let target = self.target(resource, options.dry_run);
        let admission = &self.server.registry.admission;
        let asked = || target.admission(Operation::Create);
        admission.mutate(&mut AdmissionRequest { object: Some(&mut review), ..asked() }).await?;
        let errors = resource.strategy.validate(review.as_ref());
        if !errors.is_empty() {
            // Kubernetes names no kind here.
            let subject = Subject { group: resource.group.clone(), kind: "".into() };
            return Err(ApiError::invalid(&subject, "", &errors));
        }
        admission.validate(&AdmissionRequest { object: Some(&mut review), ..asked() }).await?;
        self.answer_review(review.as_mut()).await?;
        review.meta_mut().creation_timestamp = None;
        let value = review.to_value().map_err(ApiError::internal)?;
        Ok(body::answer_value(&self.context.headers, 201, output.format, &value))
    }

    async fn answer_review(self, review: &mut dyn Object) -> Result<()> {
        let (server, user) = (self.server, &*self.context.user);
        let review = review.as_any_mut();
        if let Some(review) = review.downcast_mut::<SubjectAccessReview>() {
            review.status = Some(access_of(server, &review.spec).await);
        } else if let Some(review) = review.downcast_mut::<LocalSubjectAccessReview>() {
            review.status = Some(access_of(server, &review.spec).await);
        } else if let Some(review) = review.downcast_mut::<SelfSubjectAccessReview>() {
            let resource = review.spec.resource_attributes.as_ref();
            let asked = asked(resource, review.spec.non_resource_attributes.as_ref());
            review.status = Some(access(server, user, &asked).await);
        } else if let Some(review) = review.downcast_mut::<SelfSubjectRulesReview>() {
            let namespace = review.spec.namespace.as_deref().unwrap_or_default();
            if namespace.is_empty() {
                return Err(ApiError::bad_request("no namespace on request"));
            }
            review.status = Some(rules(server, user, namespace));
        } else if let Some(review) = review.downcast_mut::<SelfSubjectReview>() {
            review.status = Some(SelfSubjectReviewStatus { user_info: Some(shown(user)) });
        } else if let Some(review) = review.downcast_mut::<TokenReview>() {
            let token = review.spec.token.clone();
            if token.is_empty() {
                let why = "token is required for TokenReview in authentication";
                return Err(ApiError::bad_request(why));
            }
            let audiences = review.spec.audiences.clone().unwrap_or_default();
            review.status = Some(token_review(server, &token, audiences).await);
        } else {
            return Err(ApiError::method_not_allowed());
        }
        Ok(())
    }
}

/// What an authorizer says about a request, as reviews show it.
async fn access(server: &Inner, user: &UserInfo, asked: &RequestInfo) -> SubjectAccessReviewStatus {
    let status = |allowed, denied: bool, reason: String| SubjectAccessReviewStatus {
        allowed,
        denied: denied.then_some(true),
        reason: (!reason.is_empty()).then_some(reason),
        evaluation_error: None,
    };
    if user.is_in(MASTERS) {
        return status(true, false, String::new());
    }
    match server.authorizer.authorize(user, asked).await {
        Decision::Allow => status(true, false, server.authorizer.reason(user, asked)),
        Decision::Deny(reason) => status(false, true, reason),
        Decision::NoOpinion(reason) => status(false, false, reason),
    }
}

async fn access_of(server: &Inner, spec: &SubjectAccessReviewSpec) -> SubjectAccessReviewStatus {
    let user = UserInfo {
        name: spec.user.clone().unwrap_or_default(),
        uid: spec.uid.clone().unwrap_or_default(),
        groups: spec.groups.clone().unwrap_or_default(),
        extra: spec.extra.clone().unwrap_or_default(),
    };
    let asked = asked(spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref());
    access(server, &user, &asked).await
}

/// The request that a review asks about.
fn asked(
    resource: Option<&ResourceAttributes>,
    path: Option<&NonResourceAttributes>,
) -> RequestInfo {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    match (resource, path) {
        (Some(asked), _) => RequestInfo {
            is_resource: true,
            verb: text(&asked.verb).into(),
            group: text(&asked.group),
            version: asked.version.clone().filter(|v| !v.is_empty()).unwrap_or("*".to_owned()),
            resource: text(&asked.resource),
            subresource: text(&asked.subresource),
            namespace: text(&asked.namespace),
            name: text(&asked.name),
            field_selector: field_selector(asked),
            ..RequestInfo::default()
        },
        (None, Some(asked)) => RequestInfo {
            verb: text(&asked.verb).into(),
            path: text(&asked.path),
            ..RequestInfo::default()
        },
        (None, None) => RequestInfo::default(),
    }
}

/// The field selector of a review, in a query's form. What cannot be said in it is left out: that
/// asks about more objects, never about fewer.
fn field_selector(asked: &ResourceAttributes) -> String {
    let Some(selector) = &asked.field_selector else { return String::new() };
    if let Some(raw) = &selector.raw_selector {
        return raw.clone();
    }
    let requirements = selector.requirements.iter().flatten();
    let terms = requirements.filter_map(|wanted| match wanted.values.as_deref() {
        Some([value]) if wanted.operator == "In" => Some(format!("{}={value}", wanted.key)),
        Some([value]) if wanted.operator == "NotIn" => Some(format!("{}!={value}", wanted.key)),
        _ => None,
    });
    terms.collect::<Vec<_>>().join(",")
}

fn rules(server: &Inner, user: &UserInfo, namespace: &str) -> SubjectRulesReviewStatus {
    let rules = server.authorizer.rules(user, namespace);
    SubjectRulesReviewStatus {
        incomplete: !rules.incomplete.is_empty(),
        evaluation_error: (!rules.incomplete.is_empty()).then_some(rules.incomplete),
        resource_rules: rules.resources,
        non_resource_rules: rules.paths,
    }
}

fn shown(user: &UserInfo) -> ApiUser {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let extra: BTreeMap<_, _> = user.extra.clone();
    ApiUser {
        username: text(&user.name),
        uid: text(&user.uid),
        groups: (!user.groups.is_empty()).then(|| user.groups.clone()),
        extra: (!extra.is_empty()).then_some(extra),
    }
}

/// Whose token it is.
async fn token_review(server: &Inner, token: &str, audiences: Vec<String>) -> TokenReviewStatus {
    let own = server.token_key.audiences().to_vec();
    let wanted = if audiences.is_empty() { own.clone() } else { audiences };
    let found = match server.service_accounts.review(token, &wanted).await {
        Ok(found) => Ok(found),
        // Other tokens have no audience: they are for the API server.
        Err(_) if wanted.iter().any(|audience| own.contains(audience)) => {
            let request =
                Request::get("/").header(header::AUTHORIZATION, format!("Bearer {token}"));
            match request.body(()) {
                Ok(request) => {
                    let parts = request.into_parts().0;
                    let user = server.authenticator.authenticate(&parts).await;
                    match user {
                        Ok(Some(user)) => Ok((user, own)),
                        Ok(None) => Err("invalid bearer token".to_owned()),
                        Err(error) => Err(error.to_string()),
                    }
                }
                Err(error) => Err(error.to_string()),
            }
        }
        Err(error) => Err(error),
    };
    match found {
        Ok((user, audiences)) => TokenReviewStatus {
            authenticated: Some(true),
            user: Some(shown(&user)),
            audiences: Some(audiences),
            error: None,
        },
        Err(error) => TokenReviewStatus {
            user: Some(ApiUser::default()),
            error: Some(error),
            ..TokenReviewStatus::default()
        },
    }
}
