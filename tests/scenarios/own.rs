//! A cluster of a test's own.

use std::sync::Arc;

use rk::{
    Cluster,
    cri::{SimRuntime, agent::Agent},
};
use tokio_util::sync::CancellationToken;

use crate::harness::{Shell, rows};

/// A cluster of the test's own, whose nodes it may taint and lose, on the shell's files.
pub(crate) struct Own<'a> {
    t: &'a Shell,
    runtime: tokio::runtime::Runtime,
    cluster: Cluster,
}

impl<'a> Own<'a> {
    pub(crate) fn start(t: &'a Shell, nodes: usize) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let builder = Cluster::builder()
            .nodes(nodes)
            .missing_images(["missing/httpd:3"])
            .listen(([127, 0, 0, 1], 0));
        let cluster = runtime.block_on(builder.start()).expect("it starts");
        t.write("own.conf", cluster.kubeconfig().expect("it listens"));
        let own = Self { t, runtime, cluster };
        own.until("get serviceaccount default -o name", "an account", |out| !out.is_empty());
        own
    }

    pub(crate) fn line(command: &str) -> String {
        format!("KUBECONFIG=own.conf kubectl {command}")
    }

    #[track_caller]
    pub(crate) fn ok(&self, command: &str) -> String {
        self.t.ok(&Self::line(command))
    }

    #[track_caller]
    pub(crate) fn until(&self, command: &str, what: &str, so: impl Fn(&str) -> bool) -> String {
        self.t.until(&Self::line(command), what, so)
    }

    /// Waits until exactly these nodes have a running Pod of this label, and there are no others.
    #[track_caller]
    pub(crate) fn daemons(&self, label: &str, nodes: &[&str]) {
        let columns =
            "custom-columns=N:.spec.nodeName,P:.status.phase,D:.metadata.deletionTimestamp";
        let command = format!("get pods -A -l {label} --no-headers -o {columns}");
        self.until(&command, &format!("running on {nodes:?}"), |out| {
            let mut there = rows(out);
            there.sort();
            there.len() == nodes.len()
                && there
                    .iter()
                    .zip(nodes)
                    .all(|(row, node)| row[..] == [*node, "Running", "<none>"])
        });
    }

    /// Adds a node that runs until the token is cancelled.
    pub(crate) fn join(&self, name: &str) -> CancellationToken {
        self.join_with(name, &[], &[])
    }

    /// Adds a node of this capacity, with these labels.
    pub(crate) fn join_with(
        &self,
        name: &str,
        capacity: &[(&str, &str)],
        labels: &[(&str, &str)],
    ) -> CancellationToken {
        let _context = self.runtime.enter();
        let runtime = Arc::new(SimRuntime::new());
        let agent = Agent::builder(self.cluster.client(), runtime)
            .node_name(name)
            .capacity(capacity.iter().copied())
            .labels(labels.iter().copied())
            .build();
        let token = CancellationToken::new();
        self.runtime.spawn(agent.expect("an agent").run(token.clone()));
        token
    }

    /// Waits until there are so many nodes, all of them ready.
    #[track_caller]
    pub(crate) fn ready(&self, nodes: usize) {
        self.until("get nodes --no-headers", "all nodes ready", |out| {
            let rows = rows(out);
            rows.len() == nodes && rows.iter().all(|row| row[1] == "Ready")
        });
    }

    /// Ends the agent of a node that the cluster began with; its containers stay.
    pub(crate) fn kill_node(&self, name: &str) {
        assert!(self.cluster.kill_node(name), "{name} ran");
    }

    /// Starts it again.
    pub(crate) fn start_node(&self, name: &str) {
        let _context = self.runtime.enter();
        assert!(self.cluster.start_node(name, false).expect("it starts"), "{name} is there");
    }

    pub(crate) fn stop(self) {
        self.runtime.block_on(self.cluster.shutdown());
    }
}
