//! What the example prints: what was started, and what happens in it.

use std::{collections::BTreeMap, io::IsTerminal, path::Path, time::Duration};

use futures::StreamExt;
use rk::{
    Cluster,
    api::client::{Change, Informers},
    k8s_openapi::api::core::v1::{Node, Pod},
    kube,
};

use crate::options::{Component, Options};

/// A duration for people: `85 ms`, `1.4 s`.
pub(crate) fn millis(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms < 1_000 => format!("{ms} ms"),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}

/// Says what runs, how to reach it, and what to try.
pub(crate) fn banner(
    options: &Options,
    cluster: &Cluster,
    kubeconfig: &Path,
    native: bool,
    took: Duration,
) {
    let parts = options.parts();
    let address = cluster.address().map(|address| address.to_string()).unwrap_or_default();
    let store = match &options.data_dir {
        Some(directory) => format!("durable, in {}", directory.display()),
        None => "in memory, gone at the end (--data-dir keeps it)".to_owned(),
    };
    eprintln!("rk {}, the API of Kubernetes 1.37\n", env!("CARGO_PKG_VERSION"));
    eprintln!("  store        {store}");
    eprintln!("  API server   https://{address}");
    if parts.contains(&Component::Scheduler) {
        eprintln!("  scheduler    default-scheduler");
    }
    if parts.contains(&Component::Controllers) {
        eprintln!("  controllers  {}", cluster.controllers().len());
    }
    if parts.contains(&Component::Node) {
        match (native, options.host_network) {
            (false, _) => eprintln!("  nodes        {}, simulated", options.nodes),
            (true, false) => {
                eprintln!("  node         real containers, in a network namespace of the cluster");
            }
            (true, true) => eprintln!("  node         real containers, on this machine's network"),
        }
    }
    eprintln!("  ready in     {}", millis(took));
    if !options.command.is_empty() {
        eprintln!();
        return;
    }
    let image = if native { "busybox" } else { "nginx" };
    eprintln!("\nIn another terminal:\n");
    eprintln!("  export KUBECONFIG={}", kubeconfig.display());
    eprintln!("  kubectl get nodes");
    eprintln!("  kubectl create deployment hello --image={image} --replicas=3 -- sleep 1d");
    eprintln!("  kubectl get pods -w");
    if native && options.load_image.is_empty() {
        eprintln!(
            "\nThe node has no images yet. For busybox, run `cargo run --release --example images`\n\
             and start again with `-- --load-image images.tar`."
        );
    }
    eprintln!("\nCtrl-C ends it.\n");
}

/// Prints what happens to Pods and Nodes, a line each, until dropped.
pub(crate) async fn follow(client: kube::Client, quiet: bool) {
    if quiet {
        return std::future::pending().await;
    }
    let informers = Informers::new(client);
    let mut pods = informers.of::<Pod>().subscribe();
    let mut nodes = informers.of::<Node>().subscribe();
    let mut shown = BTreeMap::new();
    let mut lines = Lines::new();
    loop {
        let (key, line) = tokio::select! {
            biased;
            Some(change) = nodes.next() => node_line(change),
            Some(change) = pods.next() => pod_line(change),
            else => return,
        };
        match line {
            Some(line) if shown.get(&key) != Some(&line) => {
                lines.print(&format!("{key:<44} {line}"));
                shown.insert(key, line);
            }
            Some(_) => {}
            None => {
                if shown.remove(&key).is_some() {
                    lines.print(&format!("{key:<44} deleted"));
                }
            }
        }
    }
}

/// Lines on a terminal or in a file; more than a screen of them in one second are counted instead,
/// so that a cluster of thousands of Pods stays readable.
struct Lines {
    second: tokio::time::Instant,
    printed: usize,
    left_out: usize,
    limit: usize,
}

impl Lines {
    fn new() -> Self {
        let limit = if std::io::stderr().is_terminal() { 40 } else { 400 };
        Self { second: tokio::time::Instant::now(), printed: 0, left_out: 0, limit }
    }

    fn print(&mut self, line: &str) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            if self.left_out > 0 {
                eprintln!("… and {} more changes", self.left_out);
            }
            (self.second, self.printed, self.left_out) = (tokio::time::Instant::now(), 0, 0);
        }
        if self.printed < self.limit {
            self.printed += 1;
            eprintln!("{line}");
        } else {
            self.left_out += 1;
        }
    }
}

fn pod_line(change: Change<Pod>) -> (String, Option<String>) {
    let (pod, present) = parts(change);
    let key = format!(
        "pod/{}/{}",
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.name.as_deref().unwrap_or_default()
    );
    if !present {
        return (key, None);
    }
    let spec = pod.spec.as_ref();
    let node = spec.and_then(|spec| spec.node_name.as_deref());
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    let waiting = status
        .and_then(|status| status.container_statuses.as_deref())
        .unwrap_or_default()
        .iter()
        .find_map(|container| container.state.as_ref()?.waiting.as_ref()?.reason.clone());
    let state = match (&pod.metadata.deletion_timestamp, waiting) {
        (Some(_), _) => "Terminating".to_owned(),
        (None, Some(reason)) => reason,
        (None, None) => phase.to_owned(),
    };
    let place = node.map(|node| format!(" on {node}")).unwrap_or_default();
    (key, Some(format!("{state}{place}")))
}

fn node_line(change: Change<Node>) -> (String, Option<String>) {
    let (node, present) = parts(change);
    let key = format!("node/{}", node.metadata.name.as_deref().unwrap_or_default());
    if !present {
        return (key, None);
    }
    let ready = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    (key, Some(if ready { "Ready" } else { "NotReady" }.to_owned()))
}

/// The object of a change, and whether it still exists.
fn parts<K>(change: Change<K>) -> (std::sync::Arc<K>, bool) {
    match change {
        Change::Added(object) | Change::Updated { new: object, .. } => (object, true),
        Change::Deleted(object) => (object, false),
    }
}
