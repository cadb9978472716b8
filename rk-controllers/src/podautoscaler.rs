//! Horizontal Pod autoscaling: as many replicas as the load needs (autoscaling/v2).
//!
//! # What it promises
//! - Each metric asks for a number of replicas, the largest counts. A metric that cannot be read
//!   holds off steps down; if none can be read nothing is done, and a condition says why.
//! - No step while what is measured is within the tolerance of its target.
//! - Steps are stabilized, limited in rate and kept in bounds, as the behaviour says or as
//!   Kubernetes does without one.
//! - Whatever has a `scale` subresource is scaled, custom kinds too; what stands at zero is left
//!   alone.
//! - Two autoscalers with Pods in common do nothing but say so.
//!
//! An autoscaler is looked at when it appears or is changed, and every sync period after that.
//!
//! # Where to start
//! - `calculator.rs`: measurements to replicas. Pure.
//! - `behavior.rs`: how much of that is done now. Pure but for a memory of its own.
//! - `evaluate.rs`: a metric of each type. `metrics.rs`: where measurements come from.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::SignedDuration;
use k8s_openapi::api::{
    autoscaling::{v1::Scale, v2::HorizontalPodAutoscaler},
    core::v1::Pod,
};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use rk_api::{
    client::{Change, EventRecorder, EventType, Informer, RateLimit, object_ref},
    clock,
    meta::selectors::LabelQuery,
};

use crate::{
    controller::{Action, Controller, Reconciler},
    discovery::ServedKind,
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
    write::{self, Part},
};

mod api_metrics;
mod behavior;
mod calculator;
mod evaluate;
mod metrics;
mod status;
mod target;

pub use metrics::{MetricsClient, MetricsError, PodMetric, PodMetrics};

use behavior::{History, Question};
use calculator::Readiness;
use evaluate::{Subject, evaluate};
use status::{ABLE, ACTIVE, LIMITED, Report};
use target::Targets;

/// Settings of the HorizontalPodAutoscaler controller, with kube-controller-manager's defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoscalerOptions {
    /// How often each autoscaler is looked at (`--horizontal-pod-autoscaler-sync-period`). 15 s.
    pub sync_period: Duration,
    /// How long a higher recommendation holds off a step down
    /// (`--horizontal-pod-autoscaler-downscale-stabilization`). 5 min.
    pub downscale_stabilization: Duration,
    /// How far from its target a metric may be (`--horizontal-pod-autoscaler-tolerance`). 0.1.
    pub tolerance: f64,
    /// For how long after its start only measurements of a ready Pod count, for CPU
    /// (`--horizontal-pod-autoscaler-cpu-initialization-period`). 5 min.
    pub cpu_initialization_period: Duration,
    /// A Pod that turned unready within this time after its start never was ready
    /// (`--horizontal-pod-autoscaler-initial-readiness-delay`). 30 s.
    pub initial_readiness_delay: Duration,
}

impl Default for AutoscalerOptions {
    fn default() -> Self {
        Self {
            sync_period: Duration::from_secs(15),
            downscale_stabilization: Duration::from_secs(300),
            tolerance: 0.1,
            cpu_initialization_period: Duration::from_secs(300),
            initial_readiness_delay: Duration::from_secs(30),
        }
    }
}

struct Autoscalers {
    client: Client,
    recorder: EventRecorder,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    metrics: Arc<dyn MetricsClient>,
    targets: Targets,
    options: AutoscalerOptions,
    memory: Mutex<HashMap<ObjectKey, Memory>>,
}

/// What is remembered of an autoscaler from one look to the next.
#[derive(Default)]
struct Memory {
    history: History,
    /// Of the Pods of its target; unknown before the first look.
    selector: Option<LabelQuery>,
}

/// A metric that decided, or why none did.
struct Wanted {
    replicas: i32,
    metric: String,
}

#[async_trait]
impl Reconciler for Autoscalers {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(autoscaler) = self.autoscalers.get(&key.namespace, &key.name) else {
            self.memory.lock().remove(key);
            return Ok(Action::Wait);
        };
        let mut report = Report::of(&autoscaler, clock::now());
        let outcome = self.autoscale(key, &autoscaler, &mut report).await;
        self.write(&autoscaler, report).await?;
        outcome.map_err(Error::NotYet)?;
        Ok(Action::RequeueAfter(self.options.sync_period))
    }
}

impl Autoscalers {
    async fn autoscale(
        &self,
        key: &ObjectKey,
        autoscaler: &HorizontalPodAutoscaler,
        report: &mut Report,
    ) -> Result<(), String> {
        let spec = &autoscaler.spec;
        let target = &spec.scale_target_ref;
        let (kind, scale) = match self.scale_of(key, autoscaler).await {
            Ok(found) => found,
            Err(why) => {
                self.event(autoscaler, EventType::Warning, "FailedGetScale", why.clone());
                let message = format!(
                    "the HPA controller was unable to get the target's current scale: {why}"
                );
                report.say(ABLE, false, "FailedGetScale", message);
                return Err(why);
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        report.say(ABLE, true, "SucceededGetScale", message);
        let current = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let now = clock::now();
        self.memory.lock().entry(key.clone()).or_default().history.begin(current, now);

        let (min, max) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
        let mut statuses = Vec::new();
        let mut partly = Ok(());
        let (desired, why) = if current == 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            report.say(ACTIVE, false, "ScalingDisabled", message);
            (0, String::new())
        } else if current > max {
            (max, "Current number of replicas above Spec.MaxReplicas".to_owned())
        } else if current < min {
            (min, "Current number of replicas below Spec.MinReplicas".to_owned())
        } else {
            let wanted = self.wanted(key, autoscaler, &scale, &mut statuses, report).await;
            let (wanted, failure) = match wanted {
                Ok(wanted) => wanted,
                Err(why) => {
                    report.count(current, None, statuses);
                    let reason = "FailedComputeMetricsReplicas";
                    self.event(autoscaler, EventType::Warning, reason, why.clone());
                    return Err(why);
                }
            };
            partly = failure.map_or(Ok(()), Err);
            let why = match wanted.replicas.cmp(&current) {
                std::cmp::Ordering::Greater => format!("{} above target", wanted.metric),
                std::cmp::Ordering::Less => "All metrics below target".to_owned(),
                std::cmp::Ordering::Equal => String::new(),
            };
            let window = SignedDuration::try_from(self.options.downscale_stabilization);
            let question = Question {
                current,
                desired: wanted.replicas,
                min,
                max,
                behavior: spec.behavior.as_ref(),
                down_window: window.unwrap_or(SignedDuration::MAX),
                now: clock::now(),
            };
            let mut memory = self.memory.lock();
            let decision = memory.entry(key.clone()).or_default().history.decide(&question);
            report.say(ABLE, true, decision.able.0, decision.able.1);
            report.say(LIMITED, decision.limited, decision.limit.0, decision.limit.1);
            (decision.replicas, why)
        };

        if desired == current {
            report.count(current, Some(current), statuses);
            return partly;
        }
        if let Err(refused) = self.targets.resize(&kind, &key.namespace, scale, desired).await {
            let error = error::message(&refused);
            let message = format!("New size: {desired}; reason: {why}; error: {error}");
            self.event(autoscaler, EventType::Warning, "FailedRescale", message);
            let message =
                format!("the HPA controller was unable to update the target scale: {error}");
            report.say(ABLE, false, "FailedUpdateScale", message);
            report.count(current, None, statuses);
            return Err(format!("failed to rescale {}/{}: {error}", target.kind, target.name));
        }
        let message =
            format!("the HPA controller was able to update the target scale to {desired}");
        report.say(ABLE, true, "SucceededRescale", message);
        let message = format!("New size: {desired}; reason: {why}");
        self.event(autoscaler, EventType::Normal, "SuccessfulRescale", message);
        if let Some(memory) = self.memory.lock().get_mut(key) {
            memory.history.stepped(spec.behavior.as_ref(), current, desired, clock::now());
        }
        report.count(current, Some(desired), statuses);
        report.scaled();
        partly
    }

    async fn scale_of(
        &self,
        key: &ObjectKey,
        autoscaler: &HorizontalPodAutoscaler,
    ) -> Result<(ServedKind, Scale), String> {
        let target = &autoscaler.spec.scale_target_ref;
        let api_version = target.api_version.as_deref().unwrap_or_default();
        let kind = self.targets.kind(api_version, &target.kind).await?;
        let scale = self.targets.scale(&kind, &key.namespace, &target.name).await;
        Ok((kind, scale.map_err(|error| error::message(&error))?))
    }

    /// What the metrics ask for. With some of them failing it comes with an error, and only if they
    /// could not stand against it: not on the way down.
    async fn wanted(
        &self,
        key: &ObjectKey,
        autoscaler: &HorizontalPodAutoscaler,
        scale: &Scale,
        statuses: &mut Vec<k8s_openapi::api::autoscaling::v2::MetricStatus>,
        report: &mut Report,
    ) -> Result<(Wanted, Option<String>), String> {
        let scaled = scale.status.as_ref();
        let selector = scaled.and_then(|status| status.selector.as_deref()).unwrap_or_default();
        let pods = self.pods_of(key, autoscaler, selector, report)?;
        let subject = Subject {
            namespace: &key.namespace,
            wanted: scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0),
            reported: scaled.map_or(0, |status| status.replicas),
            selector,
            pods: &pods,
            tolerances: evaluate::tolerances(autoscaler, self.options.tolerance),
            readiness: Readiness {
                cpu_initialization: self.options.cpu_initialization_period,
                initial_delay: self.options.initial_readiness_delay,
                now: clock::now(),
            },
        };
        let specs = autoscaler.spec.metrics.as_deref().unwrap_or_default();
        let mut best: Option<Wanted> = None;
        let mut failures = Vec::new();
        for spec in specs {
            match evaluate(self.metrics.as_ref(), spec, &subject).await {
                Ok(found) => {
                    statuses.push(found.status);
                    if best
                        .as_ref()
                        .is_none_or(|best| best.replicas == 0 || found.replicas > best.replicas)
                    {
                        best = Some(Wanted { replicas: found.replicas, metric: found.name });
                    }
                }
                Err(failure) => {
                    // An empty place: what follows must stay beside its metric.
                    statuses.push(Default::default());
                    self.event(autoscaler, EventType::Warning, failure.reason, failure.why.clone());
                    failures.push(failure);
                }
            }
        }
        let error = failures.first().map(|first| {
            let (failed, all) = (failures.len(), specs.len());
            let first = &first.error;
            format!("invalid metrics ({failed} invalid out of {all}), first error is: {first}")
        });
        match (best, failures.first()) {
            (Some(best), None) => Ok(self.found(best, None, report)),
            (Some(best), Some(_)) if best.replicas >= subject.wanted => {
                Ok(self.found(best, error, report))
            }
            (_, Some(first)) => {
                let why = &first.why;
                let message = format!("the HPA was unable to compute the replica count: {why}");
                report.say(ACTIVE, false, first.reason, message);
                Err(error.unwrap_or_default())
            }
            (None, None) => Err("invalid metrics (0 invalid out of 0)".to_owned()),
        }
    }

    fn found(
        &self,
        best: Wanted,
        error: Option<String>,
        report: &mut Report,
    ) -> (Wanted, Option<String>) {
        let metric = &best.metric;
        let message =
            format!("the HPA was able to successfully calculate a replica count from {metric}");
        report.say(ACTIVE, true, "ValidMetricFound", message);
        (best, error)
    }

    /// The Pods that a scale's selector finds, if they are this autoscaler's alone.
    fn pods_of(
        &self,
        key: &ObjectKey,
        autoscaler: &HorizontalPodAutoscaler,
        selector: &str,
        report: &mut Report,
    ) -> Result<Vec<Arc<Pod>>, String> {
        let mut refuse = |event: &str, reason: &str, why: String, message: String| {
            self.event(autoscaler, EventType::Warning, event, why.clone());
            report.say(ACTIVE, false, reason, message);
            why
        };
        if selector.is_empty() {
            let message = "the HPA target's scale is missing a selector".to_owned();
            let why = "selector is required".to_owned();
            return Err(refuse("SelectorRequired", "InvalidSelector", why, message));
        }
        let query = LabelQuery::parse(selector).map_err(|error| {
            let why = format!(
                "couldn't convert selector into a corresponding internal selector object: {error}"
            );
            refuse("InvalidSelector", "InvalidSelector", why.clone(), why)
        })?;
        let mut pods = self.pods.list_in(&key.namespace);
        pods.retain(|pod| query.matches(pod.labels()));
        let mut rivals = self.rivals(key, &query, &pods);
        if rivals.len() > 1 {
            rivals.truncate(2);
            let shown: Vec<String> =
                rivals.iter().map(|key| format!("{{{} {}}}", key.name, key.namespace)).collect();
            let why = format!(
                "pods by selector {selector} are controlled by more than one HPA (e.g. [{}])",
                shown.join(" ")
            );
            return Err(refuse("AmbiguousSelector", "AmbiguousSelector", why.clone(), why));
        }
        Ok(pods)
    }

    /// The autoscalers that have one of these Pods, this one among them if it has any.
    fn rivals(&self, key: &ObjectKey, query: &LabelQuery, pods: &[Arc<Pod>]) -> Vec<ObjectKey> {
        let mut memory = self.memory.lock();
        memory.entry(key.clone()).or_default().selector = Some(query.clone());
        let has_one = |memory: &Memory| {
            let selector = memory.selector.as_ref();
            selector.is_some_and(|query| pods.iter().any(|pod| query.matches(pod.labels())))
        };
        let mut rivals: Vec<ObjectKey> = memory
            .iter()
            .filter(|(other, memory)| other.namespace == key.namespace && has_one(memory))
            .map(|(other, _)| other.clone())
            .collect();
        rivals.sort();
        rivals
    }

    async fn write(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        report: Report,
    ) -> Result<(), Error> {
        let namespace = autoscaler.namespace().unwrap_or_default();
        let api = Api::<HorizontalPodAutoscaler>::namespaced(self.client.clone(), &namespace);
        let after = HorizontalPodAutoscaler { status: Some(report.status), ..autoscaler.clone() };
        match write::update(&api, autoscaler, &after, Part::Status).await {
            Err(gone) if error::is_not_found(&gone) => Ok(()),
            Err(refused) => {
                if !error::is_conflict(&refused) {
                    let message = error::message(&refused);
                    self.event(autoscaler, EventType::Warning, "FailedUpdateStatus", message);
                }
                Err(refused.into())
            }
            Ok(_) => Ok(()),
        }
    }

    fn event(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        kind: EventType,
        reason: &str,
        message: String,
    ) {
        self.recorder.event(&object_ref(autoscaler), kind, reason, message);
    }
}

/// Whether there is something to decide anew at once: not after a change of nothing but the status.
fn is_news(change: &Change<HorizontalPodAutoscaler>) -> bool {
    match change {
        Change::Added(_) | Change::Deleted(_) => true,
        Change::Updated { old, new } => old.spec != new.spec || old.uid() != new.uid(),
    }
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let autoscalers = context.informers.of::<HorizontalPodAutoscaler>();
    let pods = context.informers.of::<Pod>();
    let settings = &context.settings;
    let options = settings.autoscaler.clone();
    let metrics = settings.metrics_client.clone();
    let reconciler = Autoscalers {
        client: context.client.clone(),
        recorder: context.recorder("horizontal-pod-autoscaler"),
        autoscalers: autoscalers.clone(),
        pods: pods.clone(),
        metrics: metrics
            .unwrap_or_else(|| Arc::new(api_metrics::ApiMetrics::new(context.client.clone()))),
        targets: Targets::new(context.client.clone()),
        memory: Mutex::default(),
        options: options.clone(),
    };
    Controller::new(name, reconciler)
        .rate_limit(RateLimit { min: options.sync_period, max: options.sync_period })
        .reconciles_if(&autoscalers, is_news)
        .reads(&pods)
        .workers(settings.workers)
}
