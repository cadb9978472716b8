//! Binding Pods to nodes.

use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use k8s_openapi::api::core::v1::{Binding, Pod, PodCondition};

use super::Call;
use crate::{
    clock,
    field::{ErrorList, FieldError, Path},
    meta::conditions,
    resources::{Object, Resource},
    server::{
        admission::Operation,
        body::{self, ResponseBody},
        decode,
        query::WriteOptions,
        registry::Target,
        status::{self, ApiError, Result},
    },
};

impl<'a> Call<'a> {
    /// `pods/x/binding`, and `bindings` where the Binding itself names the Pod.
    pub(super) async fn bind(
        self,
        resource: &'a Arc<Resource>,
        body: Bytes,
    ) -> Result<Response<ResponseBody>> {
        let output = self.output(false)?;
        let options = WriteOptions::read(self.context.query(), "CreateOptions")?;
        let mut binding: Binding = self.read_body(body, "Binding")?;
        let pods = self.kinds.resources.get("", "v1", "pods").unwrap_or(resource);
        let named = binding.metadata.name.clone().unwrap_or_default();
        let target = self.target(pods, options.dry_run);
        let name = if target.name.is_empty() { named.as_str() } else { target.name };
        if !named.is_empty() && named != name {
            return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
        }
        let errors = validate_binding(&binding);
        if let Some(error) = errors.first() {
            // kube-apiserver returns these without a reason.
            return Err(ApiError::plain(error.to_string()));
        }
        let asked = Target { resource, name, ..target };
        binding = self.admitted(&asked, Operation::Create, binding).await?;
        let target = Target { name, subresource: "binding", ..target };
        self.server.registry.modify(&target, |object| bind(object, &binding, &target)).await?;
        let status = status::success(Some(201), None);
        Ok(body::answer_value(&self.context.headers, 201, output.format, &status))
    }

    /// What is not stored, as admission lets it in.
    pub(super) async fn admitted<T: Object + Clone>(
        self,
        target: &Target<'_>,
        operation: Operation,
        object: T,
    ) -> Result<T> {
        let mut object: Box<dyn Object> = Box::new(object);
        self.server.registry.admit(target, operation, &mut object).await?;
        let admitted = object.as_any().downcast_ref::<T>().cloned();
        admitted.ok_or_else(|| ApiError::internal("admission changed the kind of an object"))
    }

    /// A body of a type that is not stored.
    pub(super) fn read_body<T: serde::de::DeserializeOwned>(
        self,
        body: Bytes,
        kind: &str,
    ) -> Result<T> {
        let json = decode::json(&self.context.headers, body)?;
        crate::json::from_slice(&json).map_err(|error| unfit(kind, &error))
    }
}

pub(super) fn unfit(kind: &str, error: &serde_json::Error) -> ApiError {
    ApiError::bad_request(format!(
        "{kind} in version \"v1\" cannot be handled as a {kind}: {error}"
    ))
}

fn validate_binding(binding: &Binding) -> ErrorList {
    let mut errors = ErrorList::new();
    let kind = binding.target.kind.as_deref().unwrap_or_default();
    if !["", "Node"].contains(&kind) {
        let path = Path::new("target.kind");
        errors.push(FieldError::not_supported(&path, kind, &["Node", "<empty>"]));
    }
    if binding.target.name.as_deref().unwrap_or_default().is_empty() {
        errors.push(FieldError::required(&Path::new("target.name"), ""));
    }
    errors
}

/// Gives the Pod to the node.
fn bind(object: &mut dyn Object, binding: &Binding, target: &Target<'_>) -> Result<()> {
    let Some(pod) = object.as_any_mut().downcast_mut::<Pod>() else { return Ok(()) };
    let conflict = |why: String| Err(ApiError::conflict(&target.subject(), target.name, &why));
    let name = target.name;
    let wanted = binding.metadata.uid.as_deref().unwrap_or_default();
    let found = pod.metadata.uid.as_deref().unwrap_or_default();
    if !wanted.is_empty() && wanted != found {
        return conflict(format!(
            "Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
        ));
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let spec = pod.spec.get_or_insert_default();
    if let Some(node) = spec.node_name.as_deref().filter(|node| !node.is_empty()) {
        return conflict(format!("pod {name} is already assigned to node {node:?}"));
    }
    if spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    spec.node_name.clone_from(&binding.target.name);
    if let Some(annotations) = &binding.metadata.annotations {
        pod.metadata.annotations.get_or_insert_default().extend(annotations.clone());
    }
    if let Some(labels) = &binding.metadata.labels {
        let own = pod.metadata.labels.get_or_insert_default();
        for (key, value) in labels {
            // What the Pod says of itself stays.
            own.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    let scheduled = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(clock::now_seconds()),
        ..PodCondition::default()
    };
    let status = pod.status.get_or_insert_default();
    conditions::set(status.conditions.get_or_insert_default(), scheduled);
    Ok(())
}
