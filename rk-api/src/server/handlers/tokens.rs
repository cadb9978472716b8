//! `serviceaccounts/x/token`: tokens for a service account (TokenRequest).

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use k8s_openapi::{
    api::{
        authentication::v1::{BoundObjectReference, TokenRequest},
        core::v1::{Node, Pod, Secret, ServiceAccount},
    },
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::Call;
use crate::{
    clock,
    field::{ErrorList, FieldError, Path},
    resources::{BuiltIn, Resource},
    rng,
    server::{
        admission::Operation,
        authz::node::identity,
        body::{self, ResponseBody},
        query::WriteOptions,
        status::{ApiError, Result, Subject},
        token::{Bound, Claims, Kubernetes},
    },
};

/// How long a token lasts that does not say.
const DEFAULT_SECONDS: i64 = 3600;
const SECONDS_MIN: i64 = 600;
const SECONDS_MAX: i64 = 1 << 32;

impl<'a> Call<'a> {
    pub(super) async fn token(
        self,
        resource: &'a Arc<Resource>,
        body: Bytes,
    ) -> Result<Response<ResponseBody>> {
        let output = self.output(false)?;
        let options = WriteOptions::read(self.context.query(), "CreateOptions")?;
        let target = self.target(resource, options.dry_run);
        let namespace = target.namespace.unwrap_or_default();
        let account = self
            .existing::<ServiceAccount>("serviceaccounts", Some(namespace), target.name)
            .await?;
        let mut request: TokenRequest = self.read_body(body, "TokenRequest")?;
        if let Some(node) = identity(&self.context.user) {
            self.of_own_pod(node, namespace, target.name, &request).await?;
        }
        request = self.admitted(&target, Operation::Create, request).await?;
        let spec = request.spec.get_or_insert_default();
        let seconds = *spec.expiration_seconds.get_or_insert(DEFAULT_SECONDS);
        let errors = validate(seconds);
        if !errors.is_empty() {
            let subject = Subject::of("authentication.k8s.io", "TokenRequest");
            return Err(ApiError::invalid(&subject, "", &errors));
        }
        let bound = spec.bound_object_ref.as_ref();
        let mut kubernetes = self.bound(namespace, target.name, bound).await?;
        kubernetes.serviceaccount = bound_to(target.name, &account);
        let key = &self.server.token_key;
        let now = clock::now().as_second();
        let audiences = spec.audiences.clone().filter(|audiences| !audiences.is_empty());
        let audiences = audiences.unwrap_or_else(|| key.audiences().to_vec());
        spec.audiences = Some(audiences.clone());
        let claims = Claims {
            audiences,
            expires: now + seconds,
            issued: now,
            issuer: key.issuer().to_owned(),
            id: rng::uuid(),
            kubernetes,
            not_before: now,
            subject: format!("system:serviceaccount:{namespace}:{}", target.name),
        };
        let token = key.sign(&claims).ok_or_else(|| ApiError::internal("cannot sign"))?;
        let expires = Timestamp::from_second(claims.expires).map_err(ApiError::internal)?;
        let mut answer: Value = serde_json::to_value(&request).map_err(ApiError::internal)?;
        answer["metadata"] = json!({
            "name": target.name,
            "namespace": namespace,
            "creationTimestamp": clock::now_seconds(),
        });
        // The one field that Kubernetes writes as null.
        if answer["spec"].get("boundObjectRef").is_none() {
            answer["spec"]["boundObjectRef"] = Value::Null;
        }
        answer["status"] = json!({ "token": token, "expirationTimestamp": Time(expires) });
        Ok(body::answer_value(&self.context.headers, 201, output.format, &answer))
    }

    /// A node gets tokens for its own Pods only (NodeRestriction).
    async fn of_own_pod(
        self,
        node: &str,
        namespace: &str,
        account: &str,
        request: &TokenRequest,
    ) -> Result<()> {
        let refused =
            |why: &str| Err(ApiError::forbidden(&Subject::of("", "serviceaccounts"), account, why));
        let spec = request.spec.as_ref();
        let bound = spec.and_then(|spec| spec.bound_object_ref.as_ref());
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let Some(bound) = bound.filter(|bound| {
            text(&bound.api_version) == "v1" && text(&bound.kind) == "Pod" && bound.name.is_some()
        }) else {
            return refused("node requested token not bound to a pod");
        };
        let (name, uid) = (text(&bound.name), text(&bound.uid));
        if uid.is_empty() {
            return refused("node requested token with a pod binding without a uid");
        }
        let pod = self.existing::<Pod>("pods", Some(namespace), &name).await?;
        if pod.metadata.uid.as_deref() != Some(uid.as_str()) {
            return refused(&format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. \
                 The object might have been deleted and then recreated"
            ));
        }
        let placed = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        if placed != Some(node) {
            return refused("node requested token bound to a pod scheduled on a different node");
        }
        Ok(())
    }

    /// What the token is bound to besides its account.
    async fn bound(
        self,
        namespace: &str,
        account: &str,
        reference: Option<&BoundObjectReference>,
    ) -> Result<Kubernetes> {
        let mut bound = Kubernetes { namespace: namespace.to_owned(), ..Kubernetes::default() };
        let Some(reference) = reference else { return Ok(bound) };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (kind, name, uid) =
            (text(&reference.kind), text(&reference.name), text(&reference.uid));
        let found = match (text(&reference.api_version).as_str(), kind.as_str()) {
            ("v1", "Pod") => {
                let pod = self.existing::<Pod>("pods", Some(namespace), &name).await?;
                let spec = pod.spec.as_ref();
                let runs_as = spec.and_then(|spec| spec.service_account_name.as_deref());
                if runs_as != Some(account) {
                    return Err(ApiError::bad_request(format!(
                        "cannot bind token for serviceaccount {account:?} to pod running with \
                         different serviceaccount name."
                    )));
                }
                let node =
                    spec.and_then(|spec| spec.node_name.clone()).filter(|name| !name.is_empty());
                if let Some(node) = node {
                    let found = self.server.reader.get::<Node>(None, &node).await?;
                    bound.node = found.map(|found| bound_to(&node, &found));
                }
                bound.pod.insert(bound_to(&name, &pod)).clone()
            }
            ("v1", "Secret") => {
                let secret = self.existing::<Secret>("secrets", Some(namespace), &name).await?;
                bound.secret.insert(bound_to(&name, &secret)).clone()
            }
            ("v1", "Node") => {
                let node = self.existing::<Node>("nodes", None, &name).await?;
                bound.node.insert(bound_to(&name, &node)).clone()
            }
            (api_version, _) => {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token to object of type {api_version}, Kind={kind}"
                )));
            }
        };
        if !uid.is_empty() && uid != found.uid {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. \
                 The object might have been deleted and then recreated"
            );
            let plural = format!("{}s", kind.to_lowercase());
            let subject = Subject { group: "".into(), kind: plural.into() };
            return Err(ApiError::conflict(&subject, &name, &why));
        }
        Ok(bound)
    }

    async fn existing<T: BuiltIn + k8s_openapi::Resource>(
        self,
        plural: &'static str,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<T> {
        let found = self.server.reader.get::<T>(namespace, name).await?;
        found.ok_or_else(|| ApiError::not_found(&Subject::of("", plural), name))
    }
}

fn bound_to(name: &str, object: &impl BuiltIn) -> Bound {
    let meta = k8s_openapi::Metadata::metadata(object);
    Bound { name: name.to_owned(), uid: meta.uid.clone().unwrap_or_default() }
}

fn validate(seconds: i64) -> ErrorList {
    let path = Path::new("spec.expirationSeconds");
    let mut errors = ErrorList::new();
    if seconds < SECONDS_MIN {
        errors.push(FieldError::invalid(
            &path,
            seconds,
            "may not specify a duration less than 10 minutes",
        ));
    }
    if seconds > SECONDS_MAX {
        errors.push(FieldError::invalid(
            &path,
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        ));
    }
    errors
}
