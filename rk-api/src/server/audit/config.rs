//! What is recorded, and where it goes: plain data, field for field the `--audit-*` flags of
//! kube-apiserver, and what is made of it when the server starts.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use http::request::Parts;

use super::{
    AuditError, AuditSink, Event, Policy, Recorder, ResponseStatus, Stage,
    batch::{BatchConfig, Batching},
    log::LogSink,
    report_lost,
    truncate::{TruncateConfig, Truncating},
    webhook::WebhookSink,
};
use crate::server::{info::RequestInfo, user::UserInfo, webhook::WebhookError};

/// Audit, as [`Builder::audit`](crate::server::Builder::audit) takes it.
#[derive(Clone, Debug, Default)]
pub struct AuditConfig {
    /// What is recorded (`--audit-policy-file`). Without it nothing is, as in kube-apiserver since
    /// 1.23, even if there is a log.
    pub policy: Option<Policy>,
    /// The log.
    pub log: Option<AuditLog>,
    /// The webhook.
    pub webhook: Option<AuditWebhook>,
    /// Sinks of your own. An error of theirs fails requests.
    pub sinks: Vec<Arc<dyn AuditSink>>,
}

/// A log (`--audit-log-*`).
#[derive(Clone, Debug)]
pub struct AuditLog {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// How long old files are kept, in days; 0 for as long as may be. 366 by default.
    pub max_age_days: u32,
    /// How many old files are kept; 0 for as many as there are. 100 by default.
    pub max_backups: usize,
    /// How large a file becomes before it is put aside, in MiB. 100 by default.
    pub max_size_mb: u64,
    /// The form of its lines; JSON by default.
    pub format: LogFormat,
    /// Whether old files are compressed; not so by default.
    pub compress: bool,
    /// Who waits for it; the request by default.
    pub mode: AuditMode,
    /// How events are gathered, in batch mode.
    pub batch: BatchConfig,
    /// The bounds of events; none by default.
    pub truncate: Option<TruncateConfig>,
}

impl AuditLog {
    /// A log at `path` with the defaults of everything else.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            max_age_days: 366,
            max_backups: 100,
            max_size_mb: 100,
            format: LogFormat::Json,
            compress: false,
            mode: AuditMode::Blocking,
            batch: BatchConfig::for_log(),
            truncate: None,
        }
    }
}

/// The form of a log's lines (`--audit-log-format`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// The event as JSON.
    #[default]
    Json,
    /// The most important of it as text.
    Legacy,
}

/// A webhook (`--audit-webhook-*`).
#[derive(Clone, Debug)]
pub struct AuditWebhook {
    /// The service and how to reach it: the text of a kubeconfig.
    pub kubeconfig: String,
    /// The pause before a list is sent again; 10 seconds by default.
    pub initial_backoff: Duration,
    /// Who waits for it; nobody by default.
    pub mode: AuditMode,
    /// How events are gathered, in batch mode.
    pub batch: BatchConfig,
    /// The bounds of events; none by default.
    pub truncate: Option<TruncateConfig>,
}

impl AuditWebhook {
    /// The service of a kubeconfig with the defaults of everything else.
    pub fn new(kubeconfig: impl Into<String>) -> Self {
        Self {
            kubeconfig: kubeconfig.into(),
            initial_backoff: Duration::from_secs(10),
            mode: AuditMode::Batch,
            batch: BatchConfig::for_webhook(),
            truncate: None,
        }
    }
}

/// Who waits for a sink (`--audit-log-mode`, `--audit-webhook-mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditMode {
    /// Nobody: events are queued.
    Batch,
    /// The request; it goes on when the sink fails.
    Blocking,
    /// The request; it is refused when the sink does not take its first event.
    BlockingStrict,
}

/// Why audit cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditConfigError {
    /// The log cannot be opened.
    #[error("cannot open the audit log {}", .path.display())]
    Log {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The webhook's kubeconfig is not usable.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// A number makes no sense.
    #[error("{0}")]
    Invalid(String),
}

/// What the server does of audit.
#[derive(Debug)]
pub(in crate::server) struct Audit {
    policy: Policy,
    sink: Arc<dyn AuditSink>,
}

impl AuditConfig {
    /// Opens the sinks; `None` when there is nothing to record, or nowhere.
    pub(in crate::server) async fn start(self) -> Result<Option<Arc<Audit>>, AuditConfigError> {
        self.validate()?;
        let Some(policy) = self.policy else {
            if self.log.is_some() || self.webhook.is_some() || !self.sinks.is_empty() {
                tracing::warn!("there is no audit policy, so nothing is recorded");
            }
            return Ok(None);
        };
        let mut sinks = self.sinks;
        if let Some(log) = self.log {
            let sink = LogSink::open(&log)
                .map_err(|source| AuditConfigError::Log { path: log.path.clone(), source })?;
            let sink = truncated(Arc::new(sink), log.truncate);
            sinks.push(awaited("log", sink, log.mode, log.batch));
        }
        if let Some(webhook) = self.webhook {
            let sink = WebhookSink::new(&webhook.kubeconfig, webhook.initial_backoff).await?;
            let sink = truncated(Arc::new(sink), webhook.truncate);
            sinks.push(awaited("webhook", sink, webhook.mode, webhook.batch));
        }
        let sink: Arc<dyn AuditSink> = match sinks.len() {
            0 => return Ok(None),
            1 => sinks.remove(0),
            _ => Arc::new(Union(sinks)),
        };
        Ok(Some(Arc::new(Audit { policy, sink })))
    }

    fn validate(&self) -> Result<(), AuditConfigError> {
        let log = self.log.as_ref().map(|log| ("log", log.mode, &log.batch, &log.truncate));
        let webhook = self.webhook.as_ref();
        let webhook = webhook.map(|hook| ("webhook", hook.mode, &hook.batch, &hook.truncate));
        for (plugin, mode, batch, truncate) in log.into_iter().chain(webhook) {
            let batch = (mode == AuditMode::Batch).then_some(batch);
            if let Some(wrong) = wrong_batch(plugin, batch).or(wrong_truncate(plugin, truncate)) {
                return Err(AuditConfigError::Invalid(wrong));
            }
        }
        Ok(())
    }
}

fn wrong_batch(plugin: &str, batch: Option<&BatchConfig>) -> Option<String> {
    let batch = batch?;
    let (qps, burst) = batch.throttle.unwrap_or((1.0, 1));
    let wrong = |what: &str, found: &dyn fmt::Display| {
        Some(format!("invalid audit batch {plugin} {what} {found}, must be a positive number"))
    };
    match () {
        () if batch.buffer_size == 0 => wrong("buffer size", &batch.buffer_size),
        () if batch.max_batch_size == 0 => wrong("max batch size", &batch.max_batch_size),
        () if qps.is_nan() || qps <= 0.0 => wrong("throttle QPS", &qps),
        () if burst == 0 => wrong("throttle burst", &burst),
        () => None,
    }
}

fn wrong_truncate(plugin: &str, truncate: &Option<TruncateConfig>) -> Option<String> {
    let TruncateConfig { max_event_size, max_batch_size } = truncate.as_ref()?;
    if *max_event_size == 0 {
        return Some(format!(
            "invalid audit truncate {plugin} max event size 0, must be a positive number"
        ));
    }
    (max_batch_size < max_event_size).then(|| {
        format!(
            "invalid audit truncate {plugin} max batch size {max_batch_size}, must be greater than \
             max event size ({max_event_size})"
        )
    })
}

fn truncated(sink: Arc<dyn AuditSink>, config: Option<TruncateConfig>) -> Arc<dyn AuditSink> {
    match config {
        Some(config) => Arc::new(Truncating { sink, config }),
        None => sink,
    }
}

fn awaited(
    plugin: &'static str,
    sink: Arc<dyn AuditSink>,
    mode: AuditMode,
    batch: BatchConfig,
) -> Arc<dyn AuditSink> {
    match mode {
        AuditMode::Batch => Arc::new(Batching::start(sink, batch)),
        AuditMode::Blocking => Arc::new(Reporting { plugin, sink, is_strict: false }),
        AuditMode::BlockingStrict => Arc::new(Reporting { plugin, sink, is_strict: true }),
    }
}

/// Tells of lost events, and forgives them unless it is strict.
#[derive(Debug)]
struct Reporting {
    plugin: &'static str,
    sink: Arc<dyn AuditSink>,
    is_strict: bool,
}

#[async_trait]
impl AuditSink for Reporting {
    async fn process(&self, events: &[Arc<Event>]) -> Result<(), AuditError> {
        match self.sink.process(events).await {
            Ok(()) => Ok(()),
            Err(error) => {
                report_lost(self.plugin, &error, events.len());
                if self.is_strict { Err(error) } else { Ok(()) }
            }
        }
    }

    async fn flush(&self) {
        self.sink.flush().await;
    }
}

/// Several sinks: each gets all events.
#[derive(Debug)]
struct Union(Vec<Arc<dyn AuditSink>>);

#[async_trait]
impl AuditSink for Union {
    async fn process(&self, events: &[Arc<Event>]) -> Result<(), AuditError> {
        let mut result = Ok(());
        for sink in &self.0 {
            result = result.and(sink.process(events).await);
        }
        result
    }

    async fn flush(&self) {
        for sink in &self.0 {
            sink.flush().await;
        }
    }
}

impl Audit {
    /// The recorder of a request; `None` when it is not recorded.
    pub(in crate::server) fn recorder(
        &self,
        parts: &Parts,
        user: &UserInfo,
        info: &RequestInfo,
    ) -> Option<Arc<Recorder>> {
        let verdict = self.policy.evaluate(Some(user), info)?;
        Some(Arc::new(Recorder::new(verdict, self.sink.clone(), parts, Some(user), info)))
    }

    /// Records a request whose user is not known.
    pub(in crate::server) async fn authentication_failed(&self, parts: &Parts, info: &RequestInfo) {
        let Some(verdict) = self.policy.evaluate(None, info) else { return };
        let recorder = Recorder::new(verdict, self.sink.clone(), parts, None, info);
        recorder.set_status(ResponseStatus {
            status: Some("Failure".to_owned()),
            reason: Some("Unauthorized".to_owned()),
            message: Some(format!("Authentication failed, attempted: {}", attempted(parts))),
            code: Some(401),
            ..ResponseStatus::default()
        });
        // The client is refused in any case.
        let _ = recorder.reach(Stage::ResponseStarted).await;
        recorder.close();
    }

    /// See [`AuditSink::flush`].
    pub(in crate::server) async fn flush(&self) {
        self.sink.flush().await;
    }
}

/// With which credentials somebody tried.
fn attempted(parts: &Parts) -> String {
    let authorization = parts.headers.get(http::header::AUTHORIZATION);
    let scheme = authorization
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(' ').next())
        .unwrap_or_default();
    let query = parts.uri.query().unwrap_or_default();
    let mut found = Vec::new();
    if scheme.eq_ignore_ascii_case("basic") {
        found.push("basic");
    }
    if scheme.eq_ignore_ascii_case("bearer") {
        found.push("bearer");
    }
    if query.split('&').any(|part| part.starts_with("access_token=")) {
        found.push("access_token");
    }
    if parts.extensions.get::<crate::server::authn::UntrustedCertificate>().is_some() {
        found.push("x509");
    }
    if found.is_empty() { "no credentials".to_owned() } else { found.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn numbers_that_make_no_sense_are_refused_in_kubernetes_words() {
        let mut log = AuditLog::new("-");
        log.mode = AuditMode::Batch;
        log.batch.throttle = Some((0.0, 1));
        let config = AuditConfig { log: Some(log.clone()), ..AuditConfig::default() };
        let wrong = config.start().await.unwrap_err().to_string();
        assert_eq!(wrong, "invalid audit batch log throttle QPS 0, must be a positive number");

        log.mode = AuditMode::Blocking;
        log.truncate = Some(TruncateConfig { max_event_size: 10, max_batch_size: 9 });
        let config = AuditConfig { log: Some(log), ..AuditConfig::default() };
        let wrong = config.start().await.unwrap_err().to_string();
        let expected = "invalid audit truncate log max batch size 9, must be greater than max \
                        event size (10)";
        assert_eq!(wrong, expected);
    }

    #[tokio::test]
    async fn nothing_is_recorded_without_a_policy() {
        let config = AuditConfig { log: Some(AuditLog::new("-")), ..AuditConfig::default() };
        assert!(config.start().await.unwrap().is_none());
    }
}
