//! `KubeSchedulerConfiguration` (`kubescheduler.config.k8s.io/v1`), as kube-scheduler's `--config`
//! takes it.
//!
//! Fields that this scheduler does not have are refused, so that a file never promises what is not
//! done. Some of a stock file are about the stock binary (how it reaches the API server, where it
//! is profiled): they are accepted and left to the caller.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_json::Value;

use crate::{Backoff, Point, Profile, ProfileError, plugins};

/// The only version there is.
const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";

/// Why a configuration is not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It is not YAML or JSON of the right form.
    #[error("reading the scheduler configuration: {0}")]
    Malformed(String),
    /// It is of another kind or version.
    #[error("expected a KubeSchedulerConfiguration of {API_VERSION}, found {0}")]
    Kind(String),
    /// A plugin is enabled that does not exist.
    #[error("profile {profile:?}: no plugin {plugin:?}")]
    UnknownPlugin {
        /// The scheduler name.
        profile: String,
        /// The plugin.
        plugin: String,
    },
    /// The arguments of a plugin are not right.
    #[error("profile {profile:?}: arguments of plugin {plugin:?}: {message}")]
    Args {
        /// The scheduler name.
        profile: String,
        /// The plugin.
        plugin: String,
        /// What is wrong.
        message: String,
    },
    /// A profile is incomplete.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// Two profiles are for the same Pods.
    #[error("two profiles have the scheduler name {0:?}")]
    DuplicateProfile(String),
    /// A number is out of its range.
    #[error("{field}: {value} is not in the range {range}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// Its value.
        value: i64,
        /// What would be right.
        range: &'static str,
    },
}

/// A configuration that was checked: what a scheduler is built from.
#[derive(Clone, Debug)]
pub struct Config {
    /// One profile for each scheduler name.
    pub profiles: Vec<Profile>,
    /// How long Pods rest after a failed try.
    pub backoff: Backoff,
    /// Whether to elect a leader; on unless the file turns it off.
    pub leader_elect: bool,
}

impl Config {
    /// Reads YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let malformed = |error: String| ConfigError::Malformed(error);
        let file: File = serde_saphyr::from_str(text).map_err(|it| malformed(it.to_string()))?;
        file.check()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    percentage_of_nodes_to_score: Option<i64>,
    pod_initial_backoff_seconds: Option<i64>,
    pod_max_backoff_seconds: Option<i64>,
    #[serde(default)]
    profiles: Vec<FileProfile>,
    #[serde(default)]
    leader_election: FileLeaderElection,
    // For the stock binary.
    #[serde(rename = "parallelism")]
    _parallelism: Option<i64>,
    #[serde(rename = "clientConnection")]
    _client_connection: Option<Value>,
    #[serde(rename = "enableProfiling")]
    _enable_profiling: Option<bool>,
    #[serde(rename = "enableContentionProfiling")]
    _enable_contention_profiling: Option<bool>,
    #[serde(rename = "delayCacheUntilActive")]
    _delay_cache_until_active: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileLeaderElection {
    leader_elect: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileProfile {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<i64>,
    #[serde(default)]
    plugins: FilePlugins,
    #[serde(default)]
    plugin_config: Vec<FileArgs>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct FilePlugins {
    multi_point: FileSet,
    pre_enqueue: FileSet,
    queue_sort: FileSet,
    pre_filter: FileSet,
    filter: FileSet,
    post_filter: FileSet,
    pre_score: FileSet,
    score: FileSet,
    reserve: FileSet,
    permit: FileSet,
    pre_bind: FileSet,
    bind: FileSet,
    post_bind: FileSet,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileSet {
    enabled: Vec<FilePlugin>,
    disabled: Vec<FilePlugin>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePlugin {
    name: String,
    weight: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileArgs {
    name: String,
    args: Option<Value>,
}

impl File {
    fn check(self) -> Result<Config, ConfigError> {
        if self.kind != "KubeSchedulerConfiguration" || self.api_version != API_VERSION {
            return Err(ConfigError::Kind(format!("{} of {}", self.kind, self.api_version)));
        }
        let initial = seconds("podInitialBackoffSeconds", self.pod_initial_backoff_seconds, 1)?;
        let max = seconds("podMaxBackoffSeconds", self.pod_max_backoff_seconds, 10)?;
        if max < initial {
            let value = max.as_secs() as i64;
            let range = "podInitialBackoffSeconds and up";
            return Err(ConfigError::OutOfRange { field: "podMaxBackoffSeconds", value, range });
        }
        let percentage = self.percentage_of_nodes_to_score;
        let files = match self.profiles.is_empty() {
            true => vec![FileProfile::default()],
            false => self.profiles,
        };
        let mut profiles: Vec<Profile> = Vec::new();
        for file in files {
            let profile = file.check(percentage)?;
            if profiles.iter().any(|it| it.scheduler_name() == profile.scheduler_name()) {
                return Err(ConfigError::DuplicateProfile(profile.scheduler_name().to_owned()));
            }
            profiles.push(profile);
        }
        Ok(Config {
            profiles,
            backoff: Backoff { initial, max },
            leader_elect: self.leader_election.leader_elect.unwrap_or(true),
        })
    }
}

fn seconds(field: &'static str, value: Option<i64>, default: u64) -> Result<Duration, ConfigError> {
    match value {
        None => Ok(Duration::from_secs(default)),
        Some(value @ 1..) => Ok(Duration::from_secs(value.unsigned_abs())),
        Some(value) => Err(ConfigError::OutOfRange { field, value, range: "1 and up" }),
    }
}

impl FileProfile {
    fn check(self, percentage: Option<i64>) -> Result<Profile, ConfigError> {
        let profile = self.scheduler_name.unwrap_or_else(|| crate::DEFAULT_SCHEDULER_NAME.into());
        let percentage = self.percentage_of_nodes_to_score.or(percentage).unwrap_or(0);
        let field = "percentageOfNodesToScore";
        let percentage = u32::try_from(percentage)
            .ok()
            .filter(|it| *it <= 100)
            .ok_or(ConfigError::OutOfRange { field, value: percentage, range: "0 to 100" })?;

        let mut args: BTreeMap<String, Value> = BTreeMap::new();
        for FileArgs { name, args: of_plugin } in self.plugin_config {
            let known =
                plugins::by_name(&name, None).is_some() || plugins::ABSENT.contains(&name.as_str());
            if !known {
                return Err(ConfigError::UnknownPlugin { profile, plugin: name });
            }
            args.extend(of_plugin.map(|value| (name, value)));
        }
        let make = |name: &str| match plugins::by_name(name, args.get(name).cloned()) {
            Some(Ok(plugin)) => Ok(plugin),
            Some(Err(error)) => Err(ConfigError::Args {
                profile: profile.clone(),
                plugin: name.to_owned(),
                message: error.to_string(),
            }),
            None => Err(ConfigError::UnknownPlugin {
                profile: profile.clone(),
                plugin: name.to_owned(),
            }),
        };

        let mut builder =
            Profile::builder().scheduler_name(&profile).percentage_of_nodes_to_score(percentage);
        let multi = &self.plugins.multi_point;
        for FilePlugin { name, .. } in &multi.disabled {
            builder = builder.without(name);
        }
        for name in args.keys().filter(|name| !plugins::ABSENT.contains(&name.as_str())) {
            let off = |it: &FilePlugin| it.name == *name || it.name == "*";
            if !multi.disabled.iter().any(off) {
                builder = builder.with(make(name)?, plugins::default_weight(name));
            }
        }
        for FilePlugin { name, weight } in &multi.enabled {
            let weight = weight.unwrap_or_else(|| plugins::default_weight(name));
            builder = builder.with(make(name)?, weight);
        }
        for (point, set) in self.plugins.by_point() {
            for FilePlugin { name, .. } in &set.disabled {
                builder = builder.without_at(point, name);
            }
            for FilePlugin { name, weight } in &set.enabled {
                let weight = weight.unwrap_or_else(|| plugins::default_weight(name));
                builder = builder.at(point, make(name)?, weight);
            }
        }
        Ok(builder.build()?)
    }
}

impl FilePlugins {
    fn by_point(&self) -> [(Point, &FileSet); 12] {
        [
            (Point::PreEnqueue, &self.pre_enqueue),
            (Point::QueueSort, &self.queue_sort),
            (Point::PreFilter, &self.pre_filter),
            (Point::Filter, &self.filter),
            (Point::PostFilter, &self.post_filter),
            (Point::PreScore, &self.pre_score),
            (Point::Score, &self.score),
            (Point::Reserve, &self.reserve),
            (Point::Permit, &self.permit),
            (Point::PreBind, &self.pre_bind),
            (Point::Bind, &self.bind),
            (Point::PostBind, &self.post_bind),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

    fn parse(rest: &str) -> Result<Config, ConfigError> {
        Config::parse(&format!("{HEAD}{rest}"))
    }

    #[track_caller]
    fn refused(rest: &str, part: &str) {
        let message = parse(rest).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }

    #[test]
    fn an_empty_configuration_is_the_default_profile() {
        let config = parse("").unwrap();
        assert_eq!(config.profiles.len(), 1);
        assert_eq!(config.profiles[0].scheduler_name(), "default-scheduler");
        assert_eq!(config.backoff, Backoff::default());
        let default = Profile::default();
        for point in [Point::Filter, Point::Score, Point::Bind] {
            assert_eq!(config.profiles[0].plugins_at(point), default.plugins_at(point));
        }
    }

    #[test]
    fn profiles_choose_plugins_weights_and_arguments() {
        let config = parse(
            "podInitialBackoffSeconds: 2
leaderElection: {leaderElect: false, resourceName: kube-scheduler}
clientConnection: {kubeconfig: /etc/kubernetes/scheduler.conf}
profiles:
- schedulerName: packing
  percentageOfNodesToScore: 70
  plugins:
    multiPoint:
      disabled: [{name: ImageLocality}]
    score:
      disabled: [{name: TaintToleration}, {name: PodTopologySpread}, {name: InterPodAffinity}]
      enabled: [{name: NodeAffinity, weight: 9}]
  pluginConfig:
  - name: NodeResourcesFit
    args:
      scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 1}]}
- schedulerName: plain
",
        )
        .unwrap();
        assert!(!config.leader_elect);
        assert_eq!(config.backoff.initial, Duration::from_secs(2));
        let packing = &config.profiles[0];
        assert_eq!(packing.percentage_of_nodes_to_score, 70);
        let scores = packing.plugins_at(Point::Score);
        let expected =
            [("NodeAffinity", 9), ("NodeResourcesFit", 1), ("NodeResourcesBalancedAllocation", 1)];
        assert_eq!(scores, expected);
        let fit = packing.plugin("NodeResourcesFit").unwrap();
        assert!(format!("{fit:?}").contains("MostAllocated"));
        assert_eq!(config.profiles[1].scheduler_name(), "plain");
    }

    #[test]
    fn json_is_read_too() {
        let text = format!(
            r#"{{"apiVersion": "{API_VERSION}", "kind": "KubeSchedulerConfiguration",
                "profiles": [{{"schedulerName": "a"}}]}}"#
        );
        assert_eq!(Config::parse(&text).unwrap().profiles[0].scheduler_name(), "a");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        refused("profile: []", "unknown field");
        refused("extenders: [{urlPrefix: http://x}]", "unknown field");
        refused("profiles: [{plugins: {filters: {}}}]", "unknown field");
        refused("profiles: [{pluginConfig: [{name: Nope}]}]", "no plugin \"Nope\"");
        refused(
            "profiles: [{plugins: {multiPoint: {enabled: [{name: DynamicResources}]}}}]",
            "no plugin \"DynamicResources\"",
        );
        refused(
            "profiles: [{pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 101}}]}]",
            "not in valid range [0, 100]",
        );
        refused("profiles: [{plugins: {filter: {enabled: [{name: PrioritySort}]}}}]", "does not");
        refused(
            "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {what: 1}}]}]",
            "unknown field",
        );
        refused("profiles: [{schedulerName: a}, {schedulerName: a}]", "two profiles");
        refused("percentageOfNodesToScore: 101", "0 to 100");
        refused("podMaxBackoffSeconds: 0", "1 and up");
        refused("profiles: [{plugins: {bind: {disabled: [{name: '*'}]}}}]", "bind plugin");
        let other = "apiVersion: v1\nkind: Pod\n";
        assert!(matches!(Config::parse(other), Err(ConfigError::Kind(_))));
    }
}
