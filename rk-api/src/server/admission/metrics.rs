//! What admission counts, under kube-apiserver's names.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Upper bounds of the buckets for webhooks, in seconds.
const WEBHOOK_BUCKETS: [f64; 9] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 15.0, 25.0];
/// And for policies, which are evaluated here.
const POLICY_BUCKETS: [f64; 5] = [0.000_000_5, 0.001, 0.01, 0.1, 1.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Latency {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    rejected: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    code: u16,
    rejected: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rejection {
    name: String,
    r#type: &'static str,
    operation: &'static str,
    error_type: &'static str,
    rejection_code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailOpen {
    name: String,
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Excluded {
    name: String,
    kind: &'static str,
    r#type: &'static str,
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Check {
    policy: String,
    policy_binding: String,
    error_type: &'static str,
    enforcement_action: &'static str,
}

/// See the module's documentation. Cloning shares the counts.
#[derive(Clone, Debug)]
pub(in crate::server) struct AdmissionMetrics {
    duration: Family<Latency, Histogram>,
    requests: Family<Request, Counter>,
    /// These two are counters whose names lack the `_total` that the library gives to counters.
    rejections: Family<Rejection, Gauge>,
    fail_open: Family<FailOpen, Gauge>,
    excluded: Family<Excluded, Counter>,
    validating: Family<Check, Counter>,
    validating_seconds: Family<Check, Histogram>,
    mutating: Family<Check, Counter>,
}

/// How the call of a webhook ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub webhook: &'a str,
    /// `admit` for mutating ones, else `validating`.
    pub kind: &'static str,
    pub operation: &'static str,
    pub took: Duration,
    /// The code of the answer, or what stands for its absence.
    pub code: u16,
    /// Why the request was refused: `no_error`, `calling_webhook_error` or
    /// `apiserver_internal_error`.
    pub rejected: Option<&'static str>,
}

/// How a policy was evaluated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evaluation<'a> {
    pub policy: &'a str,
    pub binding: &'a str,
    /// `no_error`, `compile_error`, `invalid_error` or `out_of_budget`.
    pub error: &'static str,
    /// `allow`, `deny`, `warn` or `audit`.
    pub action: &'static str,
}

impl AdmissionMetrics {
    pub(in crate::server) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            duration: Family::new_with_constructor(|| Histogram::new(WEBHOOK_BUCKETS)),
            requests: Family::default(),
            rejections: Family::default(),
            fail_open: Family::default(),
            excluded: Family::default(),
            validating: Family::default(),
            validating_seconds: Family::new_with_constructor(|| Histogram::new(POLICY_BUCKETS)),
            mutating: Family::default(),
        };
        let name = "apiserver_admission_webhook_admission_duration_seconds";
        registry.register(name, "Seconds a webhook took", metrics.duration.clone());
        let name = "apiserver_admission_webhook_request";
        registry.register(name, "Calls of webhooks", metrics.requests.clone());
        let name = "apiserver_admission_webhook_rejection_count";
        registry.register(name, "Requests that webhooks refused", metrics.rejections.clone());
        let name = "apiserver_admission_webhook_fail_open_count";
        registry.register(name, "Failures that were overlooked", metrics.fail_open.clone());
        let name = "apiserver_admission_match_condition_exclusions";
        registry.register(name, "Requests that conditions left out", metrics.excluded.clone());
        let name = "apiserver_validating_admission_policy_check";
        registry.register(name, "Evaluations of policies", metrics.validating.clone());
        let name = "apiserver_validating_admission_policy_check_duration_seconds";
        registry.register(name, "Seconds a policy took", metrics.validating_seconds.clone());
        let name = "apiserver_mutating_admission_policy_check";
        registry.register(name, "Evaluations of mutating policies", metrics.mutating.clone());
        metrics
    }

    /// A webhook was called.
    pub(super) fn called(&self, call: Call<'_>) {
        let Call { kind, operation, code, .. } = call;
        let name = call.webhook.to_owned();
        let rejected = if call.rejected.is_some() { "true" } else { "false" };
        let labels = Latency { name: name.clone(), r#type: kind, operation, rejected };
        self.duration.get_or_create(&labels).observe(call.took.as_secs_f64());
        let labels = Request { name: name.clone(), r#type: kind, operation, code, rejected };
        self.requests.get_or_create(&labels).inc();
        if let Some(error_type) = call.rejected {
            let rejection_code = code;
            let labels = Rejection { name, r#type: kind, operation, error_type, rejection_code };
            self.rejections.get_or_create(&labels).inc();
        }
    }

    /// A webhook failed, and the request went on.
    pub(super) fn failed_open(&self, webhook: &str, kind: &'static str) {
        let labels = FailOpen { name: webhook.to_owned(), r#type: kind };
        self.fail_open.get_or_create(&labels).inc();
    }

    /// Conditions left a request out. `kind` is `webhook` or `policy`.
    pub(super) fn excluded(
        &self,
        name: &str,
        kind: &'static str,
        type_: &'static str,
        operation: &'static str,
    ) {
        let labels = Excluded { name: name.to_owned(), kind, r#type: type_, operation };
        self.excluded.get_or_create(&labels).inc();
    }

    /// A ValidatingAdmissionPolicy was evaluated.
    pub(super) fn validated(&self, evaluation: Evaluation<'_>, took: Duration) {
        let labels = Check::from(evaluation);
        self.validating.get_or_create(&labels).inc();
        self.validating_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// A MutatingAdmissionPolicy was evaluated.
    pub(super) fn mutated(&self, evaluation: Evaluation<'_>) {
        self.mutating.get_or_create(&Check::from(evaluation)).inc();
    }
}

impl From<Evaluation<'_>> for Check {
    fn from(evaluation: Evaluation<'_>) -> Self {
        Self {
            policy: evaluation.policy.to_owned(),
            policy_binding: evaluation.binding.to_owned(),
            error_type: evaluation.error,
            enforcement_action: evaluation.action,
        }
    }
}
