//! `/metrics/resource`: what the node, its pods and their containers use, in Prometheus' text
//! format (KEP-727). Names and labels are the kubelet's; so is that counters are seconds and that
//! each value has its own time.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use http::Response;
use k8s_openapi::jiff::Timestamp;

use super::{KubeletApi, KubeletBody, metrics_page};
use crate::runtime::{ContainerStats, NodeStats};

impl KubeletApi {
    pub(super) async fn resource_metrics(&self) -> Response<KubeletBody> {
        let runtime = &self.core.runtime;
        let node = runtime.node_stats().await;
        let containers = runtime.list_container_stats().await;
        let failed = node.is_err() || containers.is_err();
        let node = node.ok().flatten();
        let page = render(node.as_ref(), &containers.unwrap_or_default(), failed);
        metrics_page(page)
    }
}

/// The page, with families in alphabetical order.
fn render(node: Option<&NodeStats>, containers: &[ContainerStats], failed: bool) -> String {
    let mut page = Page::default();
    let labels = |stats: &ContainerStats| {
        let pod = &stats.pod;
        format!(
            "{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}}",
            stats.name, pod.namespace, pod.name
        )
    };
    let of_each = |value: fn(&ContainerStats) -> f64| {
        containers.iter().map(move |stats| (labels(stats), value(stats), stats.at))
    };
    page.family(
        "container_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        "counter",
        of_each(|stats| stats.cpu_time.as_secs_f64()),
    );
    page.family(
        "container_memory_working_set_bytes",
        "[STABLE] Current working set of the container in bytes",
        "gauge",
        of_each(|stats| stats.memory_working_set_bytes as f64),
    );
    page.family(
        "container_start_time_seconds",
        "[STABLE] Start time of the container since unix epoch in seconds",
        "gauge",
        of_each(|stats| stats.started_at.as_millisecond() as f64 / 1000.0),
    );
    let whole = |value: fn(&NodeStats) -> f64| {
        node.map(|node| (String::new(), value(node), node.at)).into_iter()
    };
    page.family(
        "node_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
        "counter",
        whole(|node| node.cpu_time.as_secs_f64()),
    );
    page.family(
        "node_memory_working_set_bytes",
        "[STABLE] Current working set of the node in bytes",
        "gauge",
        whole(|node| node.memory_working_set_bytes as f64),
    );
    let pods = by_pod(containers);
    page.family(
        "pod_cpu_usage_seconds_total",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
        "counter",
        pods.iter().map(|(labels, pod)| (labels.clone(), pod.cpu_time.as_secs_f64(), pod.at)),
    );
    page.family(
        "pod_memory_working_set_bytes",
        "[STABLE] Current working set of the pod in bytes",
        "gauge",
        pods.iter().map(|(labels, pod)| (labels.clone(), pod.memory_bytes as f64, pod.at)),
    );
    page.head(
        "resource_scrape_error",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
        "gauge",
    );
    let _ = writeln!(page.0, "resource_scrape_error {}", u8::from(failed));
    page.0
}

struct OfPod {
    cpu_time: Duration,
    memory_bytes: u64,
    at: Timestamp,
}

/// A pod uses what its containers use.
fn by_pod(containers: &[ContainerStats]) -> BTreeMap<String, OfPod> {
    let mut pods = BTreeMap::new();
    for stats in containers {
        let labels =
            format!("{{namespace=\"{}\",pod=\"{}\"}}", stats.pod.namespace, stats.pod.name);
        let pod = pods.entry(labels).or_insert(OfPod {
            cpu_time: Duration::ZERO,
            memory_bytes: 0,
            at: stats.at,
        });
        pod.cpu_time += stats.cpu_time;
        pod.memory_bytes += stats.memory_working_set_bytes;
        pod.at = pod.at.max(stats.at);
    }
    pods
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// A family; one without a sample is left out.
    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: &str,
        samples: impl Iterator<Item = (String, f64, Timestamp)>,
    ) {
        for (index, (labels, value, at)) in samples.enumerate() {
            if index == 0 {
                self.head(name, help, kind);
            }
            let _ = writeln!(self.0, "{name}{labels} {value} {}", at.as_millisecond());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::PodRef;

    #[test]
    fn the_page_is_what_a_metrics_server_reads() {
        let at = Timestamp::from_millisecond(1_633_253_812_125).unwrap();
        let stats = |name: &str, millis| ContainerStats {
            pod: PodRef { namespace: "ns".into(), name: "web".into(), uid: "u".into() },
            name: name.into(),
            started_at: Timestamp::from_second(1_633_253_000).unwrap(),
            at,
            cpu_time: Duration::from_millis(millis),
            memory_working_set_bytes: 1024,
        };
        let node =
            NodeStats { at, cpu_time: Duration::from_secs(7), memory_working_set_bytes: 4096 };
        let page = render(Some(&node), &[stats("a", 1500), stats("b", 250)], false);
        let samples: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "container_cpu_usage_seconds_total{container=\"a\",namespace=\"ns\",pod=\"web\"} 1.5 1633253812125",
                "container_cpu_usage_seconds_total{container=\"b\",namespace=\"ns\",pod=\"web\"} 0.25 1633253812125",
                "container_memory_working_set_bytes{container=\"a\",namespace=\"ns\",pod=\"web\"} 1024 1633253812125",
                "container_memory_working_set_bytes{container=\"b\",namespace=\"ns\",pod=\"web\"} 1024 1633253812125",
                "container_start_time_seconds{container=\"a\",namespace=\"ns\",pod=\"web\"} 1633253000 1633253812125",
                "container_start_time_seconds{container=\"b\",namespace=\"ns\",pod=\"web\"} 1633253000 1633253812125",
                "node_cpu_usage_seconds_total 7 1633253812125",
                "node_memory_working_set_bytes 4096 1633253812125",
                "pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"web\"} 1.75 1633253812125",
                "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"web\"} 2048 1633253812125",
                "resource_scrape_error 0",
            ]
        );
        assert_eq!(render(None, &[], true).lines().last(), Some("resource_scrape_error 1"));
    }
}
