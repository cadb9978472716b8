//! What the standards look at, and how violations name it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ContainerPort, Lifecycle, LifecycleHandler, PodSpec, Probe, SecurityContext,
};

/// A Pod's annotations.
pub(super) type Annotations<'a> = Option<&'a BTreeMap<String, String>>;

/// A container of any sort.
pub(super) struct Any<'a> {
    pub(super) name: &'a str,
    pub(super) image: Option<&'a String>,
    pub(super) context: Option<&'a SecurityContext>,
    pub(super) ports: &'a [ContainerPort],
    probes: [Option<&'a Probe>; 3],
    lifecycle: Option<&'a Lifecycle>,
}

/// All containers: init containers, containers, ephemeral containers.
pub(super) fn containers(spec: &PodSpec) -> impl Iterator<Item = Any<'_>> {
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let all = all.map(|container| Any {
        name: &container.name,
        image: container.image.as_ref(),
        context: container.security_context.as_ref(),
        ports: container.ports.as_deref().unwrap_or_default(),
        probes: [
            container.liveness_probe.as_ref(),
            container.readiness_probe.as_ref(),
            container.startup_probe.as_ref(),
        ],
        lifecycle: container.lifecycle.as_ref(),
    });
    all.chain(spec.ephemeral_containers.iter().flatten().map(|container| Any {
        name: &container.name,
        image: container.image.as_ref(),
        context: container.security_context.as_ref(),
        ports: &[],
        probes: [None; 3],
        lifecycle: None,
    }))
}

impl<'a> Any<'a> {
    /// Hosts that the kubelet is told to reach for the container.
    pub(super) fn hosts(&self) -> Vec<&'a str> {
        let of_handler = |handler: &'a LifecycleHandler| {
            [
                handler.http_get.as_ref().and_then(|get| get.host.as_deref()),
                handler.tcp_socket.as_ref().and_then(|socket| socket.host.as_deref()),
            ]
        };
        let probes = self.probes.into_iter().flatten().flat_map(|probe| {
            [
                probe.http_get.as_ref().and_then(|get| get.host.as_deref()),
                probe.tcp_socket.as_ref().and_then(|socket| socket.host.as_deref()),
            ]
        });
        let handlers = self
            .lifecycle
            .into_iter()
            .flat_map(|lifecycle| [lifecycle.post_start.as_ref(), lifecycle.pre_stop.as_ref()]);
        let found = probes.chain(handlers.flatten().flat_map(of_handler));
        found.flatten().filter(|host| !host.is_empty()).collect()
    }
}

/// `"a", "b"`.
pub(super) fn quoted<S: AsRef<str>>(items: &[S]) -> String {
    let items: Vec<_> = items.iter().map(|item| format!("{:?}", item.as_ref())).collect();
    items.join(", ")
}

/// One word or the other, by how many there are.
pub(super) fn plural<'a, T>(items: &[T], one: &'a str, many: &'a str) -> &'a str {
    if items.len() == 1 { one } else { many }
}

/// `container "a"` or `containers "a", "b"`.
pub(super) fn named(containers: &[&str]) -> String {
    format!("{} {}", plural(containers, "container", "containers"), quoted(containers))
}

/// `pod`, containers, or both joined by a word.
pub(super) fn setters(pod: bool, containers: &[&str], word: &str) -> String {
    match (pod, containers) {
        (true, []) => "pod".to_owned(),
        (true, containers) => format!("pod {word} {}", named(containers)),
        (false, containers) => named(containers),
    }
}

/// Adds what is not there yet, in order.
pub(super) fn insert<T: Ord>(sorted: &mut Vec<T>, item: T) {
    if let Err(at) = sorted.binary_search(&item) {
        sorted.insert(at, item);
    }
}
