//! What is done to Pods through subresources: binding them to nodes, evicting them.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::Response;
use k8s_openapi::{
    api::{
        core::v1::{Binding, Pod, PodCondition},
        policy::v1::{Eviction, PodDisruptionBudget},
    },
    apimachinery::pkg::apis::meta::v1::DeleteOptions,
};
use serde_json::Value;

use super::Call;
use crate::{
    clock,
    field::{ErrorList, FieldError, Path},
    meta::{conditions, selectors::LabelQuery},
    resources::{Object, Resource},
    server::{
        admission::Operation,
        body::{self, ResponseBody},
        decode,
        query::{WriteOptions, dry_run},
        registry::Target,
        status::{self, ApiError, Result, Subject},
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

    /// `pods/x/eviction`.
    pub(super) async fn evict(
        self,
        resource: &'a Arc<Resource>,
        body: Bytes,
    ) -> Result<Response<ResponseBody>> {
        let output = self.output(false)?;
        let query = WriteOptions::read(self.context.query(), "CreateOptions")?;
        let mut eviction = self.read_eviction(body)?;
        let target = self.target(resource, query.dry_run);
        let named = eviction.metadata.name.as_deref().unwrap_or_default();
        if !named.is_empty() && named != target.name {
            return Err(ApiError::bad_request(
                "name in URL does not match name in Eviction object",
            ));
        }
        let asked = Target { subresource: "eviction", ..target };
        eviction = self.admitted(&asked, Operation::Create, eviction).await?;
        let options = eviction.delete_options.unwrap_or_default();
        let mut errors = ErrorList::new();
        let dry = dry_run(options.dry_run.iter().flatten().map(String::as_str), &mut errors);
        if !errors.is_empty() {
            return Err(ApiError::invalid(
                &Subject::of("meta.k8s.io", "DeleteOptions"),
                "",
                &errors,
            ));
        }
        let target = Target { dry_run: dry || query.dry_run, subresource: "", ..target };
        let pod = self.server.registry.read(&target).await?.ok_or_else(|| target.not_found())?;
        if let Some(pod) = pod.object.as_any().downcast_ref::<Pod>() {
            self.take_from_budget(&target, pod, &options).await?;
        }
        self.server.registry.delete(&target, &options).await?;
        let status = status::success(Some(201), None);
        Ok(body::answer_value(&self.context.headers, 201, output.format, &status))
    }

    /// Asks the Pod's disruption budget, if it has one, and takes one disruption from it.
    async fn take_from_budget(
        self,
        target: &Target<'_>,
        pod: &Pod,
        _options: &DeleteOptions,
    ) -> Result<()> {
        if can_ignore_budget(pod) {
            return Ok(());
        }
        let empty = BTreeMap::new();
        let labels = pod.metadata.labels.as_ref().unwrap_or(&empty);
        self.server.registry.cache.fresh().await?;
        let budgets: Vec<_> = self
            .server
            .reader
            .list::<PodDisruptionBudget>(target.namespace)?
            .into_iter()
            .filter(|budget| covers(budget, labels))
            .collect();
        let budget = match budgets.as_slice() {
            [] => return Ok(()),
            [budget] => budget,
            _ => {
                return Err(ApiError::plain(
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource \
                     does not support.",
                ));
            }
        };
        let Some(resource) = self.server.reader.resource::<PodDisruptionBudget>() else {
            return Ok(());
        };
        let name = budget.metadata.name.clone().unwrap_or_default();
        let budget_target = Target { resource, subresource: "status", name: &name, ..*target };
        let change = |object: &mut dyn Object| match object.as_any_mut().downcast_mut() {
            Some(budget) => take_one(budget, pod, target.dry_run),
            None => Ok(()),
        };
        self.server.registry.modify(&budget_target, change).await.map(drop)
    }

    /// An Eviction of policy/v1, or of v1beta1, which is the same by an older name.
    fn read_eviction(self, body: Bytes) -> Result<Eviction> {
        let mut eviction: Value = self.read_body(body, "Eviction")?;
        if eviction["apiVersion"] == "policy/v1beta1" {
            eviction["apiVersion"] = "policy/v1".into();
        }
        serde_json::from_value(eviction).map_err(|error| unfit("Eviction", &error))
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
        serde_json::from_slice(&json).map_err(|error| unfit(kind, &error))
    }
}

fn unfit(kind: &str, error: &serde_json::Error) -> ApiError {
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

/// A Pod that is over, on its way out or not started disturbs nobody when it goes.
fn can_ignore_budget(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_some()
        || matches!(phase, Some("Succeeded" | "Failed" | "Pending"))
}

fn covers(budget: &PodDisruptionBudget, labels: &BTreeMap<String, String>) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| LabelQuery::from_selector(selector).matches(labels))
}

/// The disruption controller forgets these Pods after two minutes; this bounds what is stored.
const DISRUPTED_PODS_MAX: usize = 2000;

/// Takes one disruption from a budget, or says why there is none.
fn take_one(budget: &mut PodDisruptionBudget, pod: &Pod, dry_run: bool) -> Result<()> {
    let name = budget.metadata.name.clone().unwrap_or_default();
    let generation = budget.metadata.generation.unwrap_or(0);
    let status = budget.status.get_or_insert_default();
    if status.observed_generation.unwrap_or(0) < generation {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        let text = "Cannot evict pod as it would violate the pod's disruption budget.";
        return Err(ApiError::too_many_requests(text, 10).cause("DisruptionBudget", &why, ""));
    }
    let ready = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    let ready = conditions::is_true(ready.unwrap_or_default(), "Ready");
    let policy =
        budget.spec.as_ref().and_then(|spec| spec.unhealthy_pod_eviction_policy.as_deref());
    let (healthy, desired) =
        (status.current_healthy.unwrap_or(0), status.desired_healthy.unwrap_or(0));
    let allowed = status.disruptions_allowed.unwrap_or(0);
    let enough = healthy >= desired && desired > 0;
    if !ready && (policy == Some("AlwaysAllow") || enough) {
        return Ok(());
    }
    if allowed <= 0 {
        let why = format!(
            "The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
        );
        let text = "Cannot evict pod as it would violate the pod's disruption budget.";
        return Err(ApiError::too_many_requests(text, 0).cause("DisruptionBudget", &why, ""));
    }
    let disrupted = status.disrupted_pods.get_or_insert_default();
    if disrupted.len() > DISRUPTED_PODS_MAX {
        return Err(ApiError::forbidden(
            &Subject::of("policy", "poddisruptionbudgets"),
            &name,
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if !dry_run {
        status.disruptions_allowed = Some(allowed - 1);
        disrupted.insert(pod.metadata.name.clone().unwrap_or_default(), clock::now_seconds());
    }
    Ok(())
}
