//! The webhook sink: lists of events, posted to a service of somebody else.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::Serialize;

use super::{AuditError, AuditSink, event::Event};
use crate::{
    rng,
    server::webhook::{Webhook, WebhookError},
};

/// How often a list is sent before it is given up, and how the pause between grows, as in
/// kube-apiserver.
const TRIES: u32 = 5;
const PAUSE_FACTOR: f64 = 1.5;
const PAUSE_JITTER: f64 = 0.2;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct WebhookSink {
    webhook: Webhook,
    first_pause: Duration,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventList<'a> {
    kind: &'static str,
    api_version: &'static str,
    metadata: serde_json::Map<String, serde_json::Value>,
    items: Vec<&'a Event>,
}

impl WebhookSink {
    /// The service that a kubeconfig names.
    pub(super) async fn new(kubeconfig: &str, first_pause: Duration) -> Result<Self, WebhookError> {
        Ok(Self { webhook: Webhook::new(kubeconfig).await?, first_pause })
    }
}

#[async_trait]
impl AuditSink for WebhookSink {
    async fn process(&self, events: &[Arc<Event>]) -> Result<(), AuditError> {
        let list = EventList {
            kind: "EventList",
            api_version: "audit.k8s.io/v1",
            metadata: Default::default(),
            items: events.iter().map(AsRef::as_ref).collect(),
        };
        let failed = |error: &dyn std::fmt::Display| AuditError::Webhook(error.to_string());
        let body = serde_json::to_vec(&list).map_err(|error| failed(&error))?;
        let mut pause = self.first_pause;
        let mut tries = 1;
        // Whatever went wrong, it may be right again next time: a lost event is worse than a late
        // one.
        while let Err(error) = self.webhook.post(&body).await {
            if tries == TRIES {
                return Err(failed(&error));
            }
            tries += 1;
            tokio::time::sleep(rng::jitter(pause, PAUSE_JITTER)).await;
            pause = pause.mul_f64(PAUSE_FACTOR);
        }
        Ok(())
    }
}
