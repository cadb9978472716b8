//! Evictions: deletions of Pods that ask the Pod's disruption budget first (KEP-85, KEP-3017).

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::Response;
use k8s_openapi::{
    api::{
        core::v1::{Pod, PodCondition},
        policy::v1::{Eviction, PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::apis::meta::v1::{DeleteOptions, Preconditions},
};
use serde_json::Value;

use super::{Call, pods::unfit};
use crate::{
    clock,
    field::ErrorList,
    meta::{conditions, selectors::LabelQuery},
    resources::{Object, Resource},
    server::{
        admission::Operation,
        body::{self, ResponseBody},
        query::{WriteOptions, dry_run},
        registry::Target,
        status::{self, ApiError, Result, Subject},
    },
};

/// How often an eviction is tried again whose Pod changes meanwhile.
const TRIES: usize = 20;

/// On what an eviction is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grant {
    /// The budget gave one disruption, or there is no budget.
    Taken,
    /// The Pod needs no disruption as it is: it must not have changed when it goes.
    AsItIs,
}

impl<'a> Call<'a> {
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
        self.evict_pod(&target, &options).await?;
        let status = status::success(Some(201), None);
        Ok(body::answer_value(&self.context.headers, 201, output.format, &status))
    }

    /// Evicts the Pod as the latest version of it allows.
    async fn evict_pod(self, target: &Target<'_>, options: &DeleteOptions) -> Result<()> {
        let asked = options.preconditions.as_ref();
        let pinned = asked.is_some_and(|asked| asked.resource_version.is_some());
        for last in (0..TRIES).map(|tried| tried + 1 == TRIES) {
            let found = self.server.registry.read(target).await?;
            let found = found.ok_or_else(|| target.not_found())?;
            let Some(pod) = found.object.as_any().downcast_ref::<Pod>() else { return Ok(()) };
            let mut options = options.clone();
            let as_it_is = self.ask_budget(target, pod).await? == Grant::AsItIs && !pinned;
            if as_it_is {
                let preconditions = options.preconditions.get_or_insert_default();
                preconditions.resource_version = pod.metadata.resource_version.clone();
            }
            match self.mark_and_delete(target, options).await {
                // It changed: what was granted was granted for another state of it.
                Err(error) if error.code == 409 && as_it_is && !last => {}
                result => return result,
            }
        }
        Ok(())
    }

    /// Tells the Pod that it is being disrupted, and deletes it.
    async fn mark_and_delete(self, target: &Target<'_>, mut options: DeleteOptions) -> Result<()> {
        if !target.dry_run {
            let marked = Target { subresource: "status", ..*target };
            let change = |object: &mut dyn Object| {
                check_preconditions(target, object, options.preconditions.as_ref())?;
                if let Some(pod) = object.as_any_mut().downcast_mut::<Pod>() {
                    mark(pod);
                }
                Ok(())
            };
            let written = self.server.registry.modify(&marked, change).await?;
            // Our own write is no change.
            let pinned = options.preconditions.as_mut();
            if let Some(pinned) = pinned.and_then(|asked| asked.resource_version.as_mut()) {
                *pinned = written.revision.to_string();
            }
        }
        self.server.registry.delete(target, &options).await.map(drop)
    }

    /// Asks the Pod's disruption budget, if it has one, and takes one disruption from it where one
    /// is needed.
    async fn ask_budget(self, target: &Target<'_>, pod: &Pod) -> Result<Grant> {
        if can_ignore_budget(pod) {
            let waiting = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            // It could start at any moment.
            let may_start = waiting == Some("Pending");
            return Ok(if may_start { Grant::AsItIs } else { Grant::Taken });
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
            [] => return Ok(Grant::Taken),
            [budget] => budget,
            _ => {
                return Err(ApiError::plain(
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource \
                     does not support.",
                ));
            }
        };
        if may_go_unready(budget, pod) {
            return Ok(Grant::AsItIs);
        }
        let Some(resource) = self.server.reader.resource::<PodDisruptionBudget>() else {
            return Ok(Grant::Taken);
        };
        let name = budget.metadata.name.clone().unwrap_or_default();
        let budget_target = Target { resource, subresource: "status", name: &name, ..*target };
        let change = |object: &mut dyn Object| match object.as_any_mut().downcast_mut() {
            Some(budget) => take_one(budget, pod, target.dry_run),
            None => Ok(()),
        };
        self.server.registry.modify(&budget_target, change).await?;
        Ok(Grant::Taken)
    }

    /// An Eviction of policy/v1, or of v1beta1, which is the same by an older name.
    fn read_eviction(self, body: Bytes) -> Result<Eviction> {
        let mut eviction: Value = self.read_body(body, "Eviction")?;
        if eviction["apiVersion"] == "policy/v1beta1" {
            eviction["apiVersion"] = "policy/v1".into();
        }
        crate::json::from_value(&eviction).map_err(|error| unfit("Eviction", &error))
    }
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

/// Whether the Pod is of no use to the budget as it is, and may go without a disruption.
fn may_go_unready(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
    if conditions::is_true(conditions.unwrap_or_default(), "Ready") {
        return false;
    }
    let policy =
        budget.spec.as_ref().and_then(|spec| spec.unhealthy_pod_eviction_policy.as_deref());
    let status = budget.status.clone().unwrap_or_default();
    let (healthy, desired) =
        (status.current_healthy.unwrap_or(0), status.desired_healthy.unwrap_or(0));
    policy == Some("AlwaysAllow") || (healthy >= desired && desired > 0)
}

const REFUSAL: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// Takes one disruption from a budget, or says why there is none.
fn take_one(budget: &mut PodDisruptionBudget, pod: &Pod, dry_run: bool) -> Result<()> {
    let name = budget.metadata.name.clone().unwrap_or_default();
    let generation = budget.metadata.generation.unwrap_or(0);
    let status = budget.status.get_or_insert_default();
    if status.observed_generation.unwrap_or(0) < generation {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(ApiError::too_many_requests(REFUSAL, 10).cause("DisruptionBudget", &why, ""));
    }
    let allowed = status.disruptions_allowed.unwrap_or(0);
    let forbidden = |why| {
        let subject = Subject::of("policy", "poddisruptionbudget");
        Err(ApiError::forbidden(&subject, &name, why))
    };
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if status.disrupted_pods.as_ref().is_some_and(|pods| pods.len() > DISRUPTED_PODS_MAX) {
        return forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        );
    }
    if allowed == 0 {
        let why = refusal(&name, status);
        return Err(ApiError::too_many_requests(REFUSAL, 0).cause("DisruptionBudget", &why, ""));
    }
    if !dry_run {
        status.disruptions_allowed = Some(allowed - 1);
        if allowed == 1 {
            deny(status);
        }
        let disrupted = status.disrupted_pods.get_or_insert_default();
        disrupted.insert(pod.metadata.name.clone().unwrap_or_default(), clock::now_seconds());
    }
    Ok(())
}

/// The last disruption was taken.
fn deny(status: &mut PodDisruptionBudgetStatus) {
    let conditions = status.conditions.iter_mut().flatten();
    for condition in
        conditions.filter(|one| one.type_ == "DisruptionAllowed" && one.status == "True")
    {
        condition.status = "False".to_owned();
        condition.reason = "InsufficientPods".to_owned();
        condition.last_transition_time = clock::now_seconds();
    }
}

/// Why a budget allows no disruption.
fn refusal(name: &str, status: &PodDisruptionBudgetStatus) -> String {
    let conditions = status.conditions.iter().flatten();
    let denied = conditions.into_iter().find(|one| {
        one.type_ == "DisruptionAllowed" && one.status == "False" && !one.message.is_empty()
    });
    let (healthy, desired) =
        (status.current_healthy.unwrap_or(0), status.desired_healthy.unwrap_or(0));
    let refuses = format!("The disruption budget {name} does not allow evicting pods currently");
    match denied {
        // First: the counts of a budget that could not be worked out say nothing.
        Some(denied) if denied.reason == "SyncFailed" => {
            format!("{refuses} because it failed sync: {}", denied.message)
        }
        _ if healthy <= desired => {
            format!(
                "The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
            )
        }
        Some(denied) => format!("{refuses} ({}): {}", denied.reason, denied.message),
        None => refuses,
    }
}

/// Tells the Pod why it goes.
fn mark(pod: &mut Pod) {
    let target = PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("EvictionByEvictionAPI".to_owned()),
        message: Some("Eviction API: evicting".to_owned()),
        observed_generation: pod.metadata.generation,
        last_transition_time: Some(clock::now_seconds()),
        ..PodCondition::default()
    };
    let status = pod.status.get_or_insert_default();
    conditions::set(status.conditions.get_or_insert_default(), target);
}

fn check_preconditions(
    target: &Target<'_>,
    object: &dyn Object,
    asked: Option<&Preconditions>,
) -> Result<()> {
    let (Some(asked), meta) = (asked, object.meta()) else { return Ok(()) };
    for (what, asked, found) in [
        ("UID", &asked.uid, &meta.uid),
        ("ResourceVersion", &asked.resource_version, &meta.resource_version),
    ] {
        let found = found.as_deref().unwrap_or_default();
        if let Some(asked) = asked.as_deref().filter(|asked| *asked != found) {
            let why = format!(
                "Precondition failed: {what} in precondition: {asked}, {what} in object meta: {found}"
            );
            return Err(ApiError::conflict(&target.subject(), target.name, &why));
        }
    }
    Ok(())
}
