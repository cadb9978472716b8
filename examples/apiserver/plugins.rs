//! `--admission-control-config-file`: what admission plug-ins are told (an AdmissionConfiguration).

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use rk::api::server::admission::{
    EventRateLimits, ImagePolicy, PodSecurityDefaults, PodSecurityExemptions, ResourceQuotaLimits,
};
use serde::{Deserialize, de::DeserializeOwned};

/// What the file says, as the server takes it.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) pod_security: (PodSecurityDefaults, PodSecurityExemptions),
    pub(crate) event_rate_limits: Option<EventRateLimits>,
    pub(crate) resource_quota_limits: ResourceQuotaLimits,
    pub(crate) image_policy: Option<ImagePolicy>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AdmissionConfiguration {
    plugins: Vec<Plugin>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Plugin {
    name: String,
    /// Where its configuration is, beside the file; it counts before what is in the file itself.
    path: PathBuf,
    configuration: Option<serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodSecurityConfiguration {
    defaults: Defaults,
    exemptions: Exemptions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Defaults {
    enforce: String,
    enforce_version: String,
    audit: String,
    audit_version: String,
    warn: String,
    warn_version: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Exemptions {
    usernames: Vec<String>,
    namespaces: Vec<String>,
    runtime_classes: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ImagePolicyConfiguration {
    image_policy: ImagePolicyWebhook,
}

/// Times are in seconds, the pause in milliseconds; 0 is the default and -1 none.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ImagePolicyWebhook {
    #[serde(rename = "kubeConfigFile")]
    kubeconfig: PathBuf,
    #[serde(rename = "allowTTL")]
    allow_ttl: i64,
    #[serde(rename = "denyTTL")]
    deny_ttl: i64,
    #[serde(rename = "retryBackoff")]
    retry_backoff: i64,
    #[serde(rename = "defaultAllow")]
    default_allow: bool,
}

/// What a file says. `read` gives the text of another one that it names.
pub(crate) fn told(
    text: &str,
    read: impl Fn(&Path) -> Result<String, String>,
) -> Result<Told, String> {
    let all: AdmissionConfiguration =
        serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let mut told = Told::default();
    for plugin in &all.plugins {
        match plugin.name.as_str() {
            "PodSecurity" => told.pod_security = pod_security(plugin.told(&read)?),
            "EventRateLimit" => told.event_rate_limits = Some(plugin.told(&read)?),
            "ResourceQuota" => told.resource_quota_limits = plugin.told(&read)?,
            "ImagePolicyWebhook" => {
                let asked: ImagePolicyConfiguration = plugin.told(&read)?;
                told.image_policy = Some(image_policy(&asked.image_policy, &read)?);
            }
            other => return Err(format!("the plug-in {other:?} takes no configuration")),
        }
    }
    Ok(told)
}

impl Plugin {
    fn told<T: DeserializeOwned + Default>(
        &self,
        read: impl Fn(&Path) -> Result<String, String>,
    ) -> Result<T, String> {
        let name = &self.name;
        if !self.path.as_os_str().is_empty() {
            let text = read(&self.path)?;
            return serde_saphyr::from_str(&text)
                .map_err(|error| format!("{name}: {}: {error}", self.path.display()));
        }
        match &self.configuration {
            Some(found) => T::deserialize(found).map_err(|error| format!("{name}: {error}")),
            None => Ok(T::default()),
        }
    }
}

fn pod_security(
    configuration: PodSecurityConfiguration,
) -> (PodSecurityDefaults, PodSecurityExemptions) {
    let PodSecurityConfiguration { defaults, exemptions } = configuration;
    let defaults = PodSecurityDefaults {
        enforce: defaults.enforce,
        enforce_version: defaults.enforce_version,
        audit: defaults.audit,
        audit_version: defaults.audit_version,
        warn: defaults.warn,
        warn_version: defaults.warn_version,
    };
    let Exemptions { usernames, namespaces, runtime_classes } = exemptions;
    (defaults, PodSecurityExemptions { usernames, namespaces, runtime_classes })
}

fn image_policy(
    asked: &ImagePolicyWebhook,
    read: impl Fn(&Path) -> Result<String, String>,
) -> Result<ImagePolicy, String> {
    let plain = ImagePolicy::new(read(&asked.kubeconfig)?);
    let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
    let kept = second..=30 * minute;
    let paused = Duration::from_nanos(1)..=5 * minute;
    Ok(ImagePolicy {
        allow_ttl: time(asked.allow_ttl, second, &kept, plain.allow_ttl)?,
        deny_ttl: time(asked.deny_ttl, second, &kept, plain.deny_ttl)?,
        retry_backoff: time(
            asked.retry_backoff,
            Duration::from_millis(1),
            &paused,
            plain.retry_backoff,
        )?,
        default_allow: asked.default_allow,
        ..plain
    })
}

/// A number of `unit`, which must be above the begin of `range` and may be its end.
fn time(
    number: i64,
    unit: Duration,
    range: &RangeInclusive<Duration>,
    default: Duration,
) -> Result<Duration, String> {
    let found = match u32::try_from(number) {
        Ok(0) => return Ok(default),
        Ok(number) => unit.checked_mul(number),
        Err(_) if number == -1 => return Ok(Duration::ZERO),
        Err(_) => None,
    };
    found.filter(|found| found > range.start() && found <= range.end()).ok_or_else(|| {
        format!(
            "ImagePolicyWebhook: valid value is between {:?} and {:?}, got {number} times {unit:?}",
            range.start(),
            range.end()
        )
    })
}

#[cfg(test)]
mod tests {
    use rk::api::server::admission::EventLimitScope;

    use super::*;

    fn ask(text: &str) -> Result<Told, String> {
        let there = "exemptions: {usernames: [ann]}";
        let hook = "imagePolicy: {kubeConfigFile: /kubeconfig, allowTTL: 60, denyTTL: -1}";
        told(text, |path| match path.to_str() {
            Some("/there") => Ok(there.to_owned()),
            Some("/hook") => Ok(hook.to_owned()),
            Some("/kubeconfig") => Ok("the kubeconfig".to_owned()),
            _ => Err(format!("{}: it is not there", path.display())),
        })
    }

    #[test]
    fn pod_security_is_told_what_to_ask_for_and_whom_not_to_judge() {
        let text = "
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline, enforce-version: latest}
    exemptions: {usernames: [], namespaces: [kube-system], runtimeClasses: [kata]}
";
        let (defaults, exemptions) = ask(text).unwrap().pod_security;
        assert_eq!(
            (defaults.enforce.as_str(), defaults.enforce_version.as_str()),
            ("baseline", "latest")
        );
        assert_eq!(
            (exemptions.namespaces, exemptions.runtime_classes),
            (vec!["kube-system".into()], vec!["kata".into()])
        );
        let found = ask("plugins: [{name: PodSecurity, path: /there}]").unwrap();
        assert_eq!(found.pod_security.1.usernames, ["ann"]);
    }

    #[test]
    fn events_and_images_have_their_own_configurations() {
        let text = "
plugins:
- name: EventRateLimit
  configuration:
    apiVersion: eventratelimit.admission.k8s.io/v1alpha1
    kind: Configuration
    limits: [{type: Namespace, qps: 50, burst: 100, cacheSize: 2000}, {type: User, qps: 1, burst: 2}]
- {name: ImagePolicyWebhook, path: /hook}
";
        let found = ask(text).unwrap();
        let limits = found.event_rate_limits.unwrap().limits;
        assert_eq!((limits[0].scope, limits[0].cache_size), (EventLimitScope::Namespace, 2000));
        assert_eq!((limits[1].scope, limits[1].burst), (EventLimitScope::User, 2));
        let policy = found.image_policy.unwrap();
        assert_eq!(policy.kubeconfig, "the kubeconfig");
        assert_eq!(policy.allow_ttl, Duration::from_secs(60));
        assert_eq!(policy.deny_ttl, Duration::ZERO);
        assert_eq!(policy.retry_backoff, Duration::from_millis(500));
    }

    #[test]
    fn quotas_are_told_what_is_limited_without_them() {
        let text = "
plugins:
- name: ResourceQuota
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: ResourceQuotaConfiguration
    limitedResources:
    - resource: pods
      matchScopes: [{scopeName: PriorityClass, operator: In, values: [high]}]
    - {resource: persistentvolumeclaims, matchContains: [requests.storage]}
";
        let limited = ask(text).unwrap().resource_quota_limits.limited_resources;
        assert_eq!((limited[0].resource.as_str(), limited[0].api_group.as_str()), ("pods", ""));
        assert_eq!(limited[0].match_scopes[0].values, ["high"]);
        assert_eq!(limited[1].match_contains, ["requests.storage"]);
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for text in [
            "plugins: [{name: Nope}]",
            "plugins: [{name: PodSecurity, path: /nowhere}]",
            "plugins: [{name: EventRateLimit, configuration: {limits: [{type: Moon}]}}]",
            "plugins: [{name: ImagePolicyWebhook}]",
            "plugins: 7",
        ] {
            assert!(ask(text).is_err(), "{text}");
        }
        let second = Duration::from_secs(1);
        let range = second..=10 * second;
        assert_eq!(time(10, second, &range, second), Ok(10 * second));
        for wrong in [1, 11, -2] {
            assert!(time(wrong, second, &range, second).is_err(), "{wrong}");
        }
    }
}
