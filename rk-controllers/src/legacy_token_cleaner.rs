//! Tokens in Secrets that nobody uses any more (KEP-2799).
//!
//! # What it promises
//! - Of the Secrets of type `kubernetes.io/service-account-token` only those are looked at that were
//!   generated for their ServiceAccount, which lists them, and that no Pod of the namespace names.
//! - One that is older than the period and was not used for that long gets the label
//!   `kubernetes.io/legacy-token-invalid-since`: the API server refuses its token from then on, and
//!   accepts it again for who takes the label off.
//! - One that has been invalid for the period as well is deleted.
//! - Nothing is done before the API server has noted the use of tokens for the period, nor to a
//!   Secret whose day of last use cannot be read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use rk_api::{client::Informer, clock};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{error, manager::Context};

/// How often Secrets are looked through.
const PERIOD: Duration = Duration::from_secs(24 * 60 * 60);
const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Says in kube-system since which day the API server notes the use of tokens.
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";

/// Works until `shutdown`.
pub(crate) async fn run(context: Context, shutdown: CancellationToken) {
    let cleaner = Cleaner {
        period: context.settings.legacy_token_clean_up_period,
        accounts: context.informers.of(),
        secrets: context.informers.of(),
        pods: context.informers.of(),
        client: context.client,
    };
    let work = async {
        tokio::join!(cleaner.accounts.synced(), cleaner.secrets.synced(), cleaner.pods.synced());
        loop {
            if let Err(error) = cleaner.clean().await {
                tracing::warn!(%error, "tokens in Secrets are not cleaned up today");
            }
            tokio::time::sleep(PERIOD).await;
        }
    };
    shutdown.run_until_cancelled(work).await;
}

struct Cleaner {
    client: Client,
    period: Duration,
    accounts: Informer<ServiceAccount>,
    secrets: Informer<Secret>,
    pods: Informer<Pod>,
}

/// What is done with a Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is marked as invalid since today.
    Mark,
    Delete,
}

impl Cleaner {
    async fn clean(&self) -> Result<(), kube::Error> {
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), "kube-system");
        let tracking = maps.get(TRACKING).await?;
        let since = tracking.data.as_ref().and_then(|data| data.get("since"));
        let now = clock::now();
        if !since.and_then(|since| day(since)).is_some_and(|day| is_past(day, self.period, now)) {
            return Ok(());
        }
        let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for secret in self.secrets.list() {
            let Some(step) = step(&secret, now, self.period) else { continue };
            let namespace = secret.namespace().unwrap_or_default();
            let in_use = named
                .entry(namespace.clone())
                .or_insert_with(|| secrets_of(&self.pods.list_in(&namespace)));
            if self.is_generated(&namespace, &secret) && !in_use.contains(&secret.name_any()) {
                self.take(step, &namespace, &secret, now).await;
            }
        }
        Ok(())
    }

    /// Whether its ServiceAccount is there and lists it.
    fn is_generated(&self, namespace: &str, secret: &Secret) -> bool {
        let annotations = secret.annotations();
        let account = annotations.get(ACCOUNT_NAME);
        let account = account.and_then(|name| self.accounts.get(namespace, name));
        let uid = annotations.get(ACCOUNT_UID).filter(|uid| !uid.is_empty());
        account.is_some_and(|account| {
            let mut listed = account.secrets.iter().flatten();
            uid.is_none_or(|uid| account.uid().as_ref() == Some(uid))
                && listed.any(|it| it.name == secret.metadata.name)
        })
    }

    async fn take(&self, step: Step, namespace: &str, secret: &Arc<Secret>, now: Timestamp) {
        let api = Api::<Secret>::namespaced(self.client.clone(), namespace);
        let name = secret.name_any();
        let result = match step {
            Step::Mark => {
                let labels = json!({INVALID_SINCE: today(now).to_string()});
                let mark = json!({"metadata": {"uid": secret.uid(), "labels": labels}});
                let mark = Patch::Merge(mark);
                api.patch(&name, &PatchParams::default(), &mark).await.map(drop)
            }
            Step::Delete => {
                // Whoever changes it in the meantime, by using it or by taking the mark off, saves it.
                let exactly_this =
                    Preconditions { uid: None, resource_version: secret.resource_version() };
                let params =
                    DeleteParams { preconditions: Some(exactly_this), ..DeleteParams::default() };
                api.delete(&name, &params).await.map(drop)
            }
        };
        if let Err(error) = error::unless_gone(result) {
            tracing::warn!(secret = name, %error, "a token in a Secret is not cleaned up");
        }
    }
}

/// What a Secret is due for, if nobody keeps it. Pure.
fn step(secret: &Secret, now: Timestamp, period: Duration) -> Option<Step> {
    let limit = now.checked_sub(period).ok()?;
    let is_old = secret.metadata.creation_timestamp.as_ref().is_some_and(|time| time.0 < limit);
    let deleting = secret.metadata.deletion_timestamp.is_some();
    if secret.type_.as_deref() != Some(TYPE) || !is_old || deleting {
        return None;
    }
    let kept_from = today(limit);
    let labels = secret.labels();
    if let Some(used) = labels.get(LAST_USED)
        && day(used)? >= kept_from
    {
        return None;
    }
    match labels.get(INVALID_SINCE).and_then(|since| day(since)) {
        None => Some(Step::Mark),
        Some(since) => (since < kept_from).then_some(Step::Delete),
    }
}

/// Whether a period has gone by since the end of a day.
fn is_past(day: Date, period: Duration, now: Timestamp) -> bool {
    let end = day.checked_add(1.day()).and_then(|next| next.to_zoned(TimeZone::UTC));
    let until = end.and_then(|end| end.timestamp().checked_add(period));
    until.is_ok_and(|until| until <= now)
}

fn day(text: &str) -> Option<Date> {
    text.parse().ok()
}

fn today(now: Timestamp) -> Date {
    now.to_zoned(TimeZone::UTC).date()
}

/// The Secrets that some Pods name: in volumes, variables and for their images.
fn secrets_of(pods: &[Arc<Pod>]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for spec in pods.iter().filter_map(|pod| serde_json::to_value(pod.spec.as_ref()?).ok()) {
        let pulling = spec["imagePullSecrets"].as_array().into_iter().flatten();
        names.extend(pulling.filter_map(|it| it["name"].as_str()).map(str::to_owned));
        collect(&spec, &mut names);
    }
    names
}

/// The fields that refer to Secrets have telling names, wherever in a Pod they are.
fn collect(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let name = match field.as_str() {
                    "secretName" => value.as_str(),
                    "secret" | "secretRef" | "secretKeyRef" | "nodePublishSecretRef" => {
                        value["name"].as_str()
                    }
                    _ => None,
                };
                names.extend(name.map(str::to_owned));
                collect(value, names);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use rk_api::testing::pod;

    use super::*;

    const DAY: u64 = 24 * 60 * 60;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[track_caller]
    fn check(name: &str, created: &str, labels: Value, expected: Option<Step>) {
        let secret = json!({"type": TYPE, "metadata": {"labels": labels,
            "creationTimestamp": format!("{created}T00:00:00Z")}});
        let secret: Secret = serde_json::from_value(secret).unwrap();
        let found = step(&secret, time("2026-03-31T12:00:00Z"), Duration::from_secs(30 * DAY));
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn a_token_is_marked_when_it_is_not_used_and_deleted_when_nobody_minds() {
        let used = |day: &str| json!({LAST_USED: day});
        let marked = |day: &str| json!({LAST_USED: "2026-01-01", INVALID_SINCE: day});
        check("new", "2026-03-02", json!({}), None);
        check("never used", "2026-03-01", json!({}), Some(Step::Mark));
        check("used in the period", "2026-01-01", used("2026-03-01"), None);
        check("used before", "2026-01-01", used("2026-02-28"), Some(Step::Mark));
        check("used when", "2026-01-01", used("lately"), None);
        check("marked in the period", "2026-01-01", marked("2026-03-01"), None);
        check("marked before", "2026-01-01", marked("2026-02-28"), Some(Step::Delete));
        check("marked when", "2026-01-01", marked("lately"), Some(Step::Mark));
        let again = json!({LAST_USED: "2026-03-20", INVALID_SINCE: "2026-02-01"});
        check("used in spite of the mark", "2026-01-01", again, None);
    }

    #[test]
    fn other_secrets_and_those_that_go_are_left_alone() {
        let now = time("2026-03-31T12:00:00Z");
        let old = "2020-01-01T00:00:00Z";
        for fields in [
            json!({"type": "Opaque", "metadata": {"creationTimestamp": old}}),
            json!({"type": TYPE, "metadata": {"creationTimestamp": old, "deletionTimestamp": old}}),
        ] {
            let secret: Secret = serde_json::from_value(fields).unwrap();
            assert_eq!(step(&secret, now, Duration::from_secs(DAY)), None);
        }
    }

    #[test]
    fn nothing_is_cleaned_up_before_uses_were_noted_for_the_period() {
        let began = day("2026-03-01").unwrap();
        let past = |now: &str| is_past(began, Duration::from_secs(30 * DAY), time(now));
        assert!(!past("2026-03-31T23:59:59Z"));
        assert!(past("2026-04-01T00:00:00Z"));
    }

    #[test]
    fn pods_name_secrets_in_many_places() {
        let spec = json!({
            "imagePullSecrets": [{"name": "pull"}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "volume"}},
                {"name": "b", "projected": {"sources": [{"secret": {"name": "projected"}}]}},
                {"name": "c", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "csi"}}},
                {"name": "d", "configMap": {"name": "map"}},
            ],
            "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "all"}}], "env": [
                {"name": "X", "valueFrom": {"secretKeyRef": {"name": "one", "key": "k"}}}]}],
        });
        let pod = pod("p").with(|pod| pod.spec = Some(serde_json::from_value(spec).unwrap()));
        let names = secrets_of(&[Arc::new(pod.build())]);
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        assert_eq!(names, ["all", "csi", "one", "projected", "pull", "volume"]);
    }
}
