//! Pages about the node: `/runningpods`, `/configz`, `/logs`, `/metrics`, `/metrics/cadvisor`,
//! `/metrics/probes`, and `/run`, which runs a command without a session.

use std::{
    fmt::Write,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use http::{Response, StatusCode};
use k8s_openapi::{
    List,
    api::core::v1::{Container, Pod, PodSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::json;

use super::{KubeletApi, KubeletBody, Query, Refusal, json_answer, metrics_page, text};
use crate::{
    agent::{handler::describe, probes::ProbeCount},
    runtime::{ContainerState, ContainerStats},
};

/// How long a command of `/run` may take.
const RUN_WITHIN: Duration = Duration::from_secs(60);
/// Where the machine's logs are.
const LOGS: &str = "/var/log";
/// A log file that is longer is shown from there on.
const LOG_BYTES_MAX: u64 = 16 << 20;

fn internal(error: impl std::fmt::Display) -> Refusal {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

impl KubeletApi {
    /// The Pods that the runtime has, whether or not the API knows of them.
    pub(super) async fn running_pods(&self) -> Result<Response<KubeletBody>, Refusal> {
        let failed = |error| internal(describe(&error));
        let sandboxes = self.core.runtime.list_pod_sandboxes().await.map_err(failed)?;
        let containers = self.core.runtime.list_containers().await.map_err(failed)?;
        let items = sandboxes.iter().filter(|sandbox| sandbox.ready).map(|sandbox| {
            let own = containers.iter().filter(|container| {
                container.sandbox_id == sandbox.id && container.state == ContainerState::Running
            });
            let own = own.map(|container| Container {
                name: container.config.name.clone(),
                image: Some(container.config.image.clone()),
                ..Container::default()
            });
            let pod = &sandbox.config.pod;
            Pod {
                metadata: ObjectMeta {
                    name: Some(pod.name.clone()),
                    namespace: Some(pod.namespace.clone()),
                    uid: Some(pod.uid.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(PodSpec { containers: own.collect(), ..PodSpec::default() }),
                status: None,
            }
        });
        let list: List<Pod> = List { items: items.collect(), ..List::default() };
        Ok(json_answer(&serde_json::to_value(&list).map_err(internal)?))
    }

    /// The configuration that the agent was made from.
    pub(super) fn configz(&self) -> Result<Response<KubeletBody>, Refusal> {
        let configuration = self.core.config.settings.configuration.as_deref();
        let mut shown = match configuration {
            Some(configuration) => serde_json::to_value(configuration).map_err(internal)?,
            None => json!({}),
        };
        shown["apiVersion"] = "kubelet.config.k8s.io/v1beta1".into();
        shown["kind"] = "KubeletConfiguration".into();
        Ok(json_answer(&json!({"kubeletconfig": shown})))
    }

    /// A file or a folder of the machine's logs.
    pub(super) async fn node_logs(&self, path: &str) -> Result<Response<KubeletBody>, Refusal> {
        let configuration = self.core.config.settings.configuration.as_deref();
        if !configuration.is_some_and(|configuration| configuration.enable_system_log_handler) {
            return Err((StatusCode::NOT_FOUND, "404 page not found".into()));
        }
        let path = path.to_owned();
        let read = tokio::task::spawn_blocking(move || read_log(Path::new(LOGS), &path)).await;
        let page = read.map_err(internal)?.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => (StatusCode::NOT_FOUND, "404 page not found".into()),
            std::io::ErrorKind::PermissionDenied => (StatusCode::FORBIDDEN, "403 Forbidden".into()),
            _ => internal(error),
        })?;
        Ok(text(StatusCode::OK, page))
    }

    /// Runs a command, and answers what it printed.
    pub(super) async fn run(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<KubeletBody>, Refusal> {
        let id = self.running(namespace, pod, container).await?.id;
        let command = query.get("cmd").unwrap_or_default().split_whitespace();
        let command = command.map(ToOwned::to_owned).collect();
        let output = self.core.runtime.exec_sync(&id, command, RUN_WITHIN).await;
        let output = output.map_err(|error| internal(describe(&error)))?;
        let mut page = output.stdout.to_vec();
        page.extend_from_slice(&output.stderr);
        match output.exit_code {
            0 => Ok(text(StatusCode::OK, page)),
            code => Err(internal(format!(
                "command terminated with exit code {code}: {}",
                String::from_utf8_lossy(&page)
            ))),
        }
    }

    /// The agent's own metrics.
    pub(super) async fn metrics(&self) -> Response<KubeletBody> {
        let pods = self.core.pods();
        let containers = self.core.runtime.list_containers().await.unwrap_or_default();
        let sandboxes = self.core.runtime.list_pod_sandboxes().await.unwrap_or_default();
        let count = |state| containers.iter().filter(|c| c.state == state).count();
        let mut page = String::new();
        let mut family = |name: &str, help: &str, samples: &[(&str, usize)]| {
            let _ = write!(page, "# HELP {name} [ALPHA] {help}\n# TYPE {name} gauge\n");
            for (labels, value) in samples {
                let _ = writeln!(page, "{name}{labels} {value}");
            }
        };
        family(
            "kubelet_desired_pods",
            "The number of pods the kubelet is being instructed to run.",
            &[("", pods.len())],
        );
        family(
            "kubelet_node_name",
            "The node's name. The count is always 1.",
            &[(&format!("{{node=\"{}\"}}", self.core.config.name), 1)],
        );
        family(
            "kubelet_running_containers",
            "Number of containers currently running",
            &[
                ("{container_state=\"created\"}", count(ContainerState::Created)),
                ("{container_state=\"exited\"}", count(ContainerState::Exited)),
                ("{container_state=\"running\"}", count(ContainerState::Running)),
            ],
        );
        family(
            "kubelet_running_pods",
            "Number of pods that have a running pod sandbox",
            &[("", sandboxes.iter().filter(|sandbox| sandbox.ready).count())],
        );
        metrics_page(page)
    }

    /// How probes went.
    pub(super) fn probe_metrics(&self) -> Response<KubeletBody> {
        let mut page = String::from(
            "# HELP prober_probe_total [BETA] Cumulative number of a liveness, readiness or startup \
             probe for a container by result.\n# TYPE prober_probe_total counter\n",
        );
        for ProbeCount { namespace, pod, uid, container, kind, result, count } in
            self.core.probe_counts()
        {
            let _ = writeln!(
                page,
                "prober_probe_total{{container=\"{container}\",namespace=\"{namespace}\",\
                 pod=\"{pod}\",pod_uid=\"{uid}\",probe_type=\"{kind}\",result=\"{result}\"}} {count}"
            );
        }
        metrics_page(page)
    }

    /// What containers use, by the names that cAdvisor has for it.
    pub(super) async fn cadvisor(&self) -> Response<KubeletBody> {
        let stats = self.core.runtime.list_container_stats().await.unwrap_or_default();
        let containers = self.core.runtime.list_containers().await.unwrap_or_default();
        let image = |stats: &ContainerStats| {
            let found = containers.iter().find(|container| {
                container.state == ContainerState::Running
                    && container.config.name == stats.name
                    && container.config.labels.get("io.kubernetes.pod.uid") == Some(&stats.pod.uid)
            });
            found.map(|found| (found.id.clone(), found.config.image.clone())).unwrap_or_default()
        };
        let known: Vec<_> = stats.iter().map(|stats| (stats, image(stats))).collect();
        let mut page = String::new();
        let mut family = |name: &str, help: &str, kind: &str, value: fn(&ContainerStats) -> f64| {
            let _ = write!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            for (stats, (id, image)) in &known {
                let pod = &stats.pod;
                let _ = writeln!(
                    page,
                    "{name}{{container=\"{}\",id=\"{id}\",image=\"{image}\",name=\"{id}\",\
                     namespace=\"{}\",pod=\"{}\"}} {} {}",
                    stats.name,
                    pod.namespace,
                    pod.name,
                    value(stats),
                    stats.at.as_millisecond()
                );
            }
        };
        family(
            "container_cpu_usage_seconds_total",
            "Cumulative cpu time consumed in seconds.",
            "counter",
            |stats| stats.cpu_time.as_secs_f64(),
        );
        family(
            "container_memory_working_set_bytes",
            "Current working set in bytes.",
            "gauge",
            |stats| stats.memory_working_set_bytes as f64,
        );
        family(
            "container_start_time_seconds",
            "Start time of the container since unix epoch in seconds.",
            "gauge",
            |stats| stats.started_at.as_millisecond() as f64 / 1000.0,
        );
        metrics_page(page)
    }
}

/// A file below `root`, or what is in a folder, one name a line. Links do not lead out.
fn read_log(root: &Path, path: &str) -> std::io::Result<Vec<u8>> {
    use std::io::{Error, ErrorKind, Read, Seek, SeekFrom};
    let mut below = PathBuf::new();
    for part in Path::new(path.trim_start_matches('/')).components() {
        match part {
            Component::Normal(part) => below.push(part),
            Component::CurDir => {}
            _ => return Err(Error::from(ErrorKind::PermissionDenied)),
        }
    }
    let root = root.canonicalize()?;
    let found = root.join(below).canonicalize()?;
    if !found.starts_with(&root) {
        return Err(Error::from(ErrorKind::PermissionDenied));
    }
    if found.is_dir() {
        let mut names: Vec<String> = std::fs::read_dir(found)?
            .flatten()
            .map(|entry| {
                let slash = if entry.path().is_dir() { "/" } else { "" };
                format!("{}{slash}\n", entry.file_name().to_string_lossy())
            })
            .collect();
        names.sort();
        return Ok(names.concat().into_bytes());
    }
    let mut file = std::fs::File::open(found)?;
    if !file.metadata()?.is_file() {
        return Err(Error::from(ErrorKind::PermissionDenied));
    }
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_read_below_their_folder_only() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("log");
        std::fs::create_dir_all(root.join("apt")).unwrap();
        std::fs::write(root.join("syslog"), "a line\n").unwrap();
        std::fs::write(directory.path().join("secret"), "no").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
        std::os::unix::fs::symlink("syslog", root.join("inner")).unwrap();
        let read = |path: &str| read_log(&root, path).map(|b| String::from_utf8(b).unwrap());
        assert_eq!(read("/syslog").unwrap(), "a line\n");
        assert_eq!(read("inner").unwrap(), "a line\n");
        assert_eq!(read("").unwrap(), "apt/\ninner\nlink\nsyslog\n");
        for path in ["../secret", "link", "/apt/../../secret"] {
            assert_eq!(
                read(path).unwrap_err().kind(),
                std::io::ErrorKind::PermissionDenied,
                "{path}"
            );
        }
        assert_eq!(read("none").unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }
}
