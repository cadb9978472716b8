//! EventRateLimit: how many Events may be written, by the whole server, a namespace, a user, or from
//! one source about one object.
//!
//! Each limit is a set of token buckets, one for each key, of which those used last are kept.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use async_trait::async_trait;
use foldhash::fast::RandomState;
use k8s_openapi::api::core::v1::Event;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::Instant;

use super::{Admission, AdmissionRequest, PluginError};
use crate::server::status::{ApiError, Result};

/// The name of the plug-in.
pub(super) const NAME: &str = "EventRateLimit";

/// How many buckets a limit keeps that does not say.
const CACHE_SIZE: usize = 4096;

/// What the plug-in EventRateLimit is told (`eventratelimit.admission.k8s.io/v1alpha1`,
/// Configuration).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EventRateLimits {
    /// The limits; an Event must be within all of them.
    pub limits: Vec<EventLimit>,
}

/// A limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EventLimit {
    /// What Events are counted together.
    #[serde(rename = "type")]
    pub scope: EventLimitScope,
    /// How many a second, in the long run.
    pub qps: i32,
    /// How many at once.
    pub burst: i32,
    /// How many namespaces, users or sources are remembered; 0 for 4096. Those that are forgotten
    /// begin anew.
    pub cache_size: i32,
}

/// What Events are counted together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub enum EventLimitScope {
    /// All.
    #[default]
    Server,
    /// Those of a namespace.
    Namespace,
    /// Those that a user writes.
    User,
    /// Those of one source about one object.
    SourceAndObject,
}

impl fmt::Display for EventLimitScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl EventRateLimits {
    /// # Errors
    /// When the limits make no sense.
    pub(super) fn validate(&self) -> std::result::Result<(), PluginError> {
        match self.wrong() {
            Some(why) => Err(PluginError::Misconfigured { plugin: NAME, why }),
            None => Ok(()),
        }
    }

    /// What is wrong with the limits, in kube-apiserver's words.
    fn wrong(&self) -> Option<String> {
        if self.limits.is_empty() {
            return Some("limits: Invalid value: []: must not be empty".to_owned());
        }
        self.limits.iter().enumerate().find_map(|(index, limit)| {
            let wrong = |field: &str, value: i32, why: &str| {
                Some(format!("limits[{index}].{field}: Invalid value: {value}: must {why}"))
            };
            match limit {
                EventLimit { burst: ..=0, .. } => wrong("burst", limit.burst, "be positive"),
                EventLimit { qps: ..=0, .. } => wrong("qps", limit.qps, "be positive"),
                EventLimit { cache_size: ..0, scope, .. } if *scope != EventLimitScope::Server => {
                    wrong("cacheSize", limit.cache_size, "not be negative")
                }
                _ => None,
            }
        })
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct EventRateLimit(Vec<Limit>);

impl EventRateLimit {
    pub(super) fn new(config: &EventRateLimits) -> Self {
        Self(config.limits.iter().map(Limit::new).collect())
    }
}

#[async_trait]
impl Admission for EventRateLimit {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        // Those of the group events.k8s.io are not counted, as in Kubernetes; nor is what is not
        // stored.
        request.is_about("events") && request.is_write() && !request.dry_run
    }

    async fn validate(&self, request: &AdmissionRequest<'_>) -> Result<()> {
        let now = Instant::now();
        // Each limit counts the Event, also if another refuses it. The last one that does says so.
        let refused = self.0.iter().filter_map(|limit| limit.refuse(request, now)).last();
        refused.map_or(Ok(()), Err)
    }
}

/// The buckets of a limit.
#[derive(Debug)]
struct Limit {
    scope: EventLimitScope,
    rate: Rate,
    buckets: Mutex<Buckets>,
}

impl Limit {
    fn new(config: &EventLimit) -> Self {
        let kept = match (config.scope, usize::try_from(config.cache_size)) {
            (EventLimitScope::Server, _) => 1,
            (_, Ok(0) | Err(_)) => CACHE_SIZE,
            (_, Ok(size)) => size,
        };
        let rate = Rate { per_second: config.qps.into(), burst: config.burst.into() };
        Self { scope: config.scope, rate, buckets: Mutex::new(Buckets::new(kept)) }
    }

    fn refuse(&self, request: &AdmissionRequest<'_>, now: Instant) -> Option<ApiError> {
        let key = self.key(request);
        let taken = self.buckets.lock().take(&key, self.rate, now);
        (!taken).then(|| {
            let why =
                format!("Too many requests: limit reached on type {} for key {key}", self.scope);
            ApiError::new(429, "TooManyRequests", why)
        })
    }

    fn key(&self, request: &AdmissionRequest<'_>) -> String {
        match self.scope {
            EventLimitScope::Server => String::new(),
            EventLimitScope::Namespace => request.namespace.unwrap_or_default().to_owned(),
            EventLimitScope::User => request.user.name.clone(),
            EventLimitScope::SourceAndObject => {
                request.new_as::<Event>().map(source_and_object).unwrap_or_default()
            }
        }
    }
}

fn source_and_object(event: &Event) -> String {
    let (source, object) = (event.source.as_ref(), &event.involved_object);
    let parts = [
        source.and_then(|source| source.component.as_deref()),
        source.and_then(|source| source.host.as_deref()),
        object.kind.as_deref(),
        object.namespace.as_deref(),
        object.name.as_deref(),
        object.uid.as_deref(),
        object.api_version.as_deref(),
    ];
    parts.into_iter().flatten().collect()
}

/// How fast a bucket fills, and how much it holds, in tokens.
#[derive(Clone, Copy, Debug)]
struct Rate {
    per_second: f64,
    burst: f64,
}

/// The buckets that were used last.
#[derive(Debug)]
struct Buckets {
    kept: usize,
    by_key: HashMap<String, Bucket, RandomState>,
    /// Keys by when they were used, in steps of `clock`.
    by_use: BTreeMap<u64, String>,
    clock: u64,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
    used: u64,
}

impl Buckets {
    fn new(kept: usize) -> Self {
        let kept = kept.max(1);
        Self { kept, by_key: HashMap::default(), by_use: BTreeMap::new(), clock: 0 }
    }

    /// Takes a token for `key`; whether there was one.
    fn take(&mut self, key: &str, rate: Rate, now: Instant) -> bool {
        self.clock += 1;
        if let Some(bucket) = self.by_key.get_mut(key) {
            self.by_use.remove(&bucket.used);
            self.by_use.insert(self.clock, key.to_owned());
            bucket.used = self.clock;
            return bucket.take(rate, now);
        }
        while self.by_key.len() >= self.kept {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.by_key.remove(&oldest);
        }
        let mut bucket = Bucket { tokens: rate.burst, filled: now, used: self.clock };
        let taken = bucket.take(rate, now);
        self.by_key.insert(key.to_owned(), bucket);
        self.by_use.insert(self.clock, key.to_owned());
        taken
    }
}

impl Bucket {
    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + since * rate.per_second).min(rate.burst);
        self.filled = self.filled.max(now);
        let taken = self.tokens >= 1.0;
        if taken {
            self.tokens -= 1.0;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { per_second: 2.0, burst: 3.0 };

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let (mut buckets, start) = (Buckets::new(10), Instant::now());
        let mut take =
            |seconds: f64| buckets.take("a", RATE, start + Duration::from_secs_f64(seconds));
        assert_eq!([take(0.0), take(0.0), take(0.0), take(0.0)], [true, true, true, false]);
        assert_eq!([take(0.4), take(0.5), take(0.6)], [false, true, false]);
        // A long pause fills it, and no more.
        assert_eq!([take(99.0), take(99.0), take(99.0), take(99.0)], [true, true, true, false]);
    }

    #[test]
    fn only_what_was_used_last_is_remembered() {
        let (mut buckets, now) = (Buckets::new(2), Instant::now());
        let once = Rate { per_second: 1.0, burst: 1.0 };
        let mut take = |key: &str| buckets.take(key, once, now);
        assert!(take("a") && take("b") && !take("a"));
        // "b" is forgotten for "c", and begins anew for "a".
        assert!(take("c") && !take("a") && take("b"));
    }

    proptest! {
        /// Within any window no more pass than the burst and what flows in meanwhile.
        #[test]
        fn no_window_lets_more_through_than_its_rate(pauses in proptest::collection::vec(0_u64..900, 1..60)) {
            let (mut buckets, start) = (Buckets::new(1), Instant::now());
            let mut at = 0;
            let mut passed = Vec::new();
            for pause in pauses {
                at += pause;
                if buckets.take("", RATE, start + Duration::from_millis(at)) {
                    passed.push(at);
                }
            }
            for (i, first) in passed.iter().enumerate() {
                for (j, last) in passed.iter().enumerate().skip(i) {
                    let flowed = (last - first) as f64 / 1000.0 * RATE.per_second;
                    prop_assert!((j - i + 1) as f64 <= RATE.burst + flowed + 1e-6);
                }
            }
        }
    }

    #[test]
    fn limits_that_make_no_sense_are_named() {
        let wrong = |limits: &str| {
            let limits = serde_json::from_str(limits).unwrap();
            EventRateLimits { limits }.wrong().unwrap_or_default()
        };
        assert_eq!(wrong("[]"), "limits: Invalid value: []: must not be empty");
        assert_eq!(
            wrong(r#"[{"type": "User", "qps": 1}]"#),
            "limits[0].burst: Invalid value: 0: must be positive"
        );
        let negative = r#"[{"type": "User", "qps": 1, "burst": 1, "cacheSize": -1}]"#;
        assert_eq!(wrong(negative), "limits[0].cacheSize: Invalid value: -1: must not be negative");
        assert_eq!(wrong(&negative.replace("User", "Server")), "");
    }
}
