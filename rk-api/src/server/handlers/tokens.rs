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
        audit,
        authz::node::identity,
        body::{self, ResponseBody},
        query::WriteOptions,
        status::{ApiError, Result, Subject},
        token::{self, Bound, Claims, Kubernetes},
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
        let errors = misnamed(&request, namespace, target.name);
        if !errors.is_empty() {
            return Err(ApiError::invalid(&subject(), target.name, &errors));
        }
        if let Some(node) = identity(&self.context.user) {
            self.of_own_pod(node, namespace, target.name, &request).await?;
        }
        request = self.admitted(&target, Operation::Create, request).await?;
        let spec = request.spec.get_or_insert_default();
        let seconds = *spec.expiration_seconds.get_or_insert(DEFAULT_SECONDS);
        let errors = validate(seconds);
        if !errors.is_empty() {
            return Err(ApiError::invalid(&subject(), "", &errors));
        }
        let bound = spec.bound_object_ref.as_ref();
        let mut kubernetes = self.bound(namespace, target.name, bound).await?;
        kubernetes.serviceaccount = bound_to(target.name, &account);
        let key = &self.server.token_key;
        let seconds = match key.seconds_max() {
            Some(longest) if seconds > longest => {
                self.context.warnings.add(format!(
                    "requested expiration of {seconds} seconds shortened to {longest} seconds"
                ));
                *spec.expiration_seconds.insert(longest)
            }
            _ => seconds,
        };
        let now = clock::now().as_second();
        let audiences = spec.audiences.clone().filter(|audiences| !audiences.is_empty());
        let audiences = audiences.unwrap_or_else(|| key.audiences().to_vec());
        spec.audiences = Some(audiences.clone());
        // Whoever reads it only once is warned, not refused, when it should have been replaced.
        let extended = match kubernetes.pod {
            Some(_) => key.extended(seconds, &audiences),
            None => None,
        };
        kubernetes.warn_after = extended.map(|_| now + seconds);
        let claims = Claims {
            audiences,
            expires: now + extended.unwrap_or(seconds),
            issued: now,
            issuer: key.issuer().to_owned(),
            id: rng::uuid(),
            kubernetes,
            not_before: now,
            subject: token::subject(namespace, target.name),
        };
        let token = key.sign(&claims).ok_or_else(|| ApiError::internal("cannot sign"))?;
        audit::annotate(
            "authentication.kubernetes.io/issued-credential-id",
            format!("JTI={}", claims.id),
        );
        // It is to be replaced by then, extended or not.
        let expires = Timestamp::from_second(now + seconds).map_err(ApiError::internal)?;
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
        let api_version = text(&reference.api_version);
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let found = match (group, kind.as_str()) {
            ("", "Pod") => {
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
                    // The name tells something, also of a node that is not there.
                    bound.node = Some(match found {
                        Some(found) => bound_to(&node, &found),
                        None => Bound { name: node, uid: String::new() },
                    });
                }
                bound.pod.insert(bound_to(&name, &pod)).clone()
            }
            ("", "Secret") => {
                let secret = self.existing::<Secret>("secrets", Some(namespace), &name).await?;
                bound.secret.insert(bound_to(&name, &secret)).clone()
            }
            ("", "Node") => {
                let node = self.existing::<Node>("nodes", None, &name).await?;
                bound.node.insert(bound_to(&name, &node)).clone()
            }
            _ => {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token to object of type {group}/{version}, Kind={kind}"
                )));
            }
        };
        if !uid.is_empty() && uid != found.uid {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. \
                 The object might have been deleted and then recreated"
            );
            let subject = Subject { group: "".into(), kind: kind.into() };
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

fn subject() -> Subject {
    Subject::of("authentication.k8s.io", "TokenRequest")
}

/// What of a request's metadata, which it need not have, is another account's.
fn misnamed(request: &TokenRequest, namespace: &str, name: &str) -> ErrorList {
    let meta = &request.metadata;
    let wrong = [("name", &meta.name, name), ("namespace", &meta.namespace, namespace)];
    let wrong = wrong.into_iter().filter_map(|(field, given, own)| {
        let given = given.as_deref().filter(|given| !given.is_empty() && *given != own)?;
        let why = format!("must match the service account {field} if specified");
        Some(FieldError::invalid(&Path::new("metadata").child(field), given, why))
    });
    // As kube-apiserver, which looks no further.
    wrong.take(1).collect()
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
