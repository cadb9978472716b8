//! The flags of the `cluster` example, and what they come to.

use std::{collections::BTreeSet, path::PathBuf};

use clap::{Parser, ValueEnum};

/// Kubernetes in one process: API server, store, scheduler, controllers and a node.
///
/// As root on Linux the node runs real containers; elsewhere it simulates them. Everything is torn
/// down on Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "cluster", version, max_term_width = 100)]
pub(crate) struct Options {
    /// Keep the cluster's state in this directory; without it everything is in memory and gone at
    /// the end.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// How many nodes to run; more than one needs the `sim` runtime.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) nodes: usize,

    /// What runs containers: `native` (Linux namespaces, needs root) or `sim`. Default: native
    /// where it can work, else sim.
    #[arg(long, value_enum)]
    pub(crate) runtime: Option<RuntimeKind>,

    /// The port the API server listens on, at 127.0.0.1; 0 takes a free one.
    #[arg(long, value_name = "P", default_value_t = 6443)]
    pub(crate) port: u16,

    /// Where to write the kubeconfig. Default: below the data directory, else below the
    /// directory for temporary files.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// Which parts to run.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        value_enum,
        default_value = "apiserver,scheduler,controllers,node,dns"
    )]
    pub(crate) components: Vec<Component>,

    /// The domain that the names of Services and Pods end in.
    #[arg(long, value_name = "D", default_value = "cluster.local")]
    pub(crate) cluster_domain: String,

    /// Also accept this bearer token as an administrator's, and write it into the kubeconfig
    /// instead of a client certificate.
    #[arg(long, value_name = "T")]
    pub(crate) token: Option<String>,

    /// Load an image from an OCI layout (a directory or a tar archive) or a `docker save` archive.
    /// May be given more than once.
    #[arg(long, value_name = "FILE")]
    pub(crate) load_image: Vec<PathBuf>,

    /// Pull images from registries, by this directory of HOST/hosts.toml files as containerd has
    /// them; it may be empty. Without it the node has what was loaded.
    #[arg(long, value_name = "DIR")]
    pub(crate) registry_config: Option<PathBuf>,

    /// Put the pods' bridge into the machine's own network namespace, as a real node would,
    /// instead of into one made for the cluster.
    #[arg(long)]
    pub(crate) host_network: bool,

    /// Print only errors, and nothing while running.
    #[arg(long, short)]
    pub(crate) quiet: bool,

    /// Run this command with KUBECONFIG set once the cluster is ready, then tear down and exit with
    /// its exit code.
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// A part of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Component {
    /// API server and store.
    Apiserver,
    /// Scheduler.
    Scheduler,
    /// Controllers.
    Controllers,
    /// Node agents and their runtime.
    Node,
    /// The DNS server beside a node with real containers. Without it their Pods still ask
    /// 10.96.0.10, for a server that you run there.
    Dns,
}

/// What runs containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RuntimeKind {
    /// Linux namespaces and cgroups, in process.
    Native,
    /// Nothing: containers are simulated.
    Sim,
}

impl Options {
    /// The parts to run, without repetition.
    pub(crate) fn parts(&self) -> BTreeSet<Component> {
        self.components.iter().copied().collect()
    }

    /// What contradicts itself in the flags, in words that say what to do.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.nodes == 0 {
            return Err("--nodes 0: leave `node` out of --components to run without nodes".into());
        }
        if self.nodes > 1 && self.runtime == Some(RuntimeKind::Native) {
            return Err(format!(
                "--nodes {} with --runtime native: this machine is one node; use --runtime sim",
                self.nodes
            ));
        }
        if self.token.as_deref().is_some_and(|token| {
            token.is_empty() || token.chars().any(|c| c.is_whitespace() || c.is_control())
        }) {
            return Err("--token must not be empty and must not hold spaces".into());
        }
        if !self.parts().contains(&Component::Apiserver) {
            return Err("--components without apiserver: there is nothing to connect to; keep \
                        `apiserver` in the list"
                .into());
        }
        Ok(())
    }
}
