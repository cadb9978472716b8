//! Webhook configurations v1beta1: more may be left unsaid, and what is unsaid means the laxer.

use serde_json::{Value, json};

use super::{Conversion, Rules, tree};

/// v1beta1, of both kinds.
pub(super) const V1BETA1: Conversion = Conversion { read, write: |_| {} };

/// Side effects that are unknown, and versions of reviews that only the webhook knows.
pub(super) const V1BETA1_RULES: Rules = Rules {
    fields: &[],
    judge: None,
    judge_change: None,
    tolerates: |error| {
        let path = error.path.to_string();
        path.ends_with(".sideEffects")
            && error.value.as_ref().is_some_and(|value| value == "Unknown" || value == "Some")
    },
};

fn read(configuration: &mut Value, _: &mut Vec<String>) {
    for (_, webhook) in tree::items(configuration.get_mut("webhooks")) {
        let Some(webhook) = webhook.as_object_mut() else { continue };
        tree::default(webhook, "failurePolicy", "Ignore");
        tree::default(webhook, "matchPolicy", "Exact");
        tree::default(webhook, "sideEffects", "Unknown");
        tree::default(webhook, "timeoutSeconds", 30);
        if webhook.get("admissionReviewVersions").is_some_and(|all| *all == json!([])) {
            webhook.remove("admissionReviewVersions");
        }
        tree::default(webhook, "admissionReviewVersions", json!(["v1beta1"]));
    }
}
