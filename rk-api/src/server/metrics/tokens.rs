//! Which tokens of service accounts are used.

use prometheus_client::{metrics::counter::Counter, registry::Registry};

/// What is counted, each time that a token is shown.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct TokenMetrics {
    /// Those that were to be replaced by then.
    pub stale: Counter,
    /// Those that will be taken for longer than was asked for, and were used in time.
    pub valid: Counter,
    /// Those in Secrets.
    pub legacy: Counter,
    /// Of these, those in Secrets that a controller made.
    pub generated_secret: Counter,
    /// Those in Secrets that somebody made.
    pub manual_secret: Counter,
    /// Those that somebody marked.
    pub invalid_secret: Counter,
}

impl TokenMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for (name, help, counter) in [
            ("stale_tokens", "Tokens of Pods that were to be replaced by then", &metrics.stale),
            ("valid_tokens", "Tokens of Pods that were used in time", &metrics.valid),
            ("legacy_tokens", "Tokens in Secrets", &metrics.legacy),
            (
                "legacy_auto_token_uses",
                "Tokens in Secrets that a controller made",
                &metrics.generated_secret,
            ),
            (
                "legacy_manual_token_uses",
                "Tokens in Secrets that somebody made",
                &metrics.manual_secret,
            ),
            (
                "invalid_legacy_auto_token_uses",
                "Tokens in Secrets that are marked as invalid",
                &metrics.invalid_secret,
            ),
        ] {
            registry.register(format!("serviceaccount_{name}"), help, counter.clone());
        }
        metrics
    }
}
