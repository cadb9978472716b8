//! Audit: a record of who asked what of the server, and what became of it (audit.k8s.io/v1).
//!
//! A [`Policy`] decides of each request at which [`Level`] it is recorded. Its events go to
//! [`AuditSink`]s: a [log](AuditLog) of lines, a [webhook](AuditWebhook), or your own.
//!
//! As in kube-apiserver (since 1.23), nothing is recorded without a policy, whatever sinks there are.
//!
//! # Where to start
//! - `policy.rs`: the policy, its validation, and which rule a request falls under.
//! - `recorder.rs`: a request's event while it is handled, and how the server adds to it.
//! - `layers/audit.rs`: when events are made.
//! - `log.rs`, `webhook.rs`: where they go; `batch.rs` and `truncate.rs` stand in between.

mod batch;
mod config;
mod event;
mod log;
mod policy;
mod recorder;
mod rotate;
#[cfg(test)]
mod testing;
mod truncate;
mod webhook;

use std::{fmt, sync::Arc};

use async_trait::async_trait;

pub use self::{
    batch::BatchConfig,
    config::{AuditConfig, AuditConfigError, AuditLog, AuditMode, AuditWebhook, LogFormat},
    event::{
        AuditUser, AuthenticationMetadata, Event, Level, ObjectReference, ResponseStatus, Stage,
    },
    policy::{Policy, PolicyError},
    truncate::TruncateConfig,
};
pub(super) use self::{
    config::Audit,
    recorder::{
        Recorder, annotate, annotate_detail, hold, impersonated, is_recorded, request_object,
        request_patch, response, scope,
    },
};

/// The header that names a request's events, in the request if the client chose it, and in the
/// answer.
pub(super) const AUDIT_ID: http::HeaderName = http::HeaderName::from_static("audit-id");

/// The name of a request's events; a request extension of requests from the network.
#[derive(Clone, Debug)]
pub(super) struct AuditId(pub Arc<str>);

/// The address of a request's client; a request extension of requests from the network.
#[derive(Clone, Copy, Debug)]
pub(super) struct RemoteAddress(pub std::net::SocketAddr);

/// Takes audit events.
///
/// # Contract
/// - Events come in the order in which their stages are reached; those of one request have the same
///   [`Event::audit_id`].
/// - A request waits for [`process`](Self::process): whoever takes long should queue events and
///   return. An error fails the request only where the sink is said to be
///   [strict](AuditMode::BlockingStrict), and then only at the stage `RequestReceived`.
/// - Events are shared between sinks and not changed.
#[async_trait]
pub trait AuditSink: fmt::Debug + Send + Sync + 'static {
    /// Takes these events.
    ///
    /// # Errors
    /// When at least one of them is lost.
    async fn process(&self, events: &[Arc<Event>]) -> Result<(), AuditError>;

    /// Returns once everything that was taken is where it belongs; called when the server stops.
    async fn flush(&self) {}
}

/// Why audit events are lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The log could not be written.
    #[error("cannot write the audit log")]
    Io(#[from] std::io::Error),
    /// The queue of a batching sink is full.
    #[error("audit buffer queue blocked")]
    QueueFull,
    /// The sink is stopped.
    #[error("audit backend shut down")]
    Stopped,
    /// An event is larger than allowed, even without its objects.
    #[error("event is too large even after truncating")]
    TooLarge,
    /// The webhook did not take them.
    #[error("the audit webhook failed: {0}")]
    Webhook(String),
}

/// Tells of events that are lost: there is nobody else to tell.
fn report_lost(plugin: &str, error: &AuditError, events: usize) {
    tracing::error!(plugin, events, %error, "audit events are lost");
}
