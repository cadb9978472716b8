//! The options of a simulated node.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    Node, SimContainer, SimRuntime, State,
    behaviour::{Behaviour, BehaviourFn, ExecFn, ImageFn},
    events::Events,
    pool::Pool,
    usage::Usage,
};
use crate::{
    runtime::{ExecOutput, RuntimeError},
    timers::Timers,
};

/// Options of a [`SimRuntime`].
#[derive(Clone)]
pub struct SimRuntimeBuilder {
    pub(super) pod_cidr: String,
    pub(super) node_ip: IpAddr,
    pub(super) timers: Timers,
    pub(super) behaviour: Option<Arc<BehaviourFn>>,
    pub(super) exec: Option<Arc<ExecFn>>,
    pub(super) images: Option<Arc<ImageFn>>,
    pub(super) missing: Vec<String>,
    pub(super) pull_delay: Duration,
    pub(super) log_bytes_max: usize,
    pub(super) lean: bool,
}

impl SimRuntimeBuilder {
    /// The range that pod addresses come from; by default `10.244.0.0/24`. IPv4, /8 to /30.
    pub fn pod_cidr(mut self, range: impl Into<String>) -> Self {
        self.pod_cidr = range.into();
        self
    }

    /// The address of pods in the host's network; by default `127.0.0.1`.
    pub fn node_ip(mut self, address: IpAddr) -> Self {
        self.node_ip = address;
        self
    }

    /// Timers to share with other nodes of this process; by default its own.
    pub fn timers(mut self, timers: &Timers) -> Self {
        self.timers = timers.clone();
        self
    }

    /// Decides how each container behaves; [`SimContainer::behaviour`] is the default to build on.
    pub fn behaviour(
        mut self,
        choose: impl Fn(&SimContainer<'_>) -> Behaviour + Send + Sync + 'static,
    ) -> Self {
        self.behaviour = Some(Arc::new(choose));
        self
    }

    /// Answers commands run in containers; `None` leaves one to the default.
    pub fn exec(
        mut self,
        answer: impl Fn(&SimContainer<'_>, &[String]) -> Option<ExecOutput> + Send + Sync + 'static,
    ) -> Self {
        self.exec = Some(Arc::new(answer));
        self
    }

    /// Decides which images can be pulled, and says why one cannot.
    pub fn images(
        mut self,
        pull: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.images = Some(Arc::new(pull));
        self
    }

    /// Images that cannot be pulled, by their full names.
    pub fn missing_images<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.missing.extend(names.into_iter().map(Into::into));
        self
    }

    /// How long a pull takes; by default nothing.
    pub fn pull_delay(mut self, delay: Duration) -> Self {
        self.pull_delay = delay;
        self
    }

    /// How much of a container's log is kept; by default 64 KiB.
    pub fn log_bytes_max(mut self, bytes: usize) -> Self {
        self.log_bytes_max = bytes;
        self
    }

    /// Forgets of each pod what only a real one needs (environment, mounts, labels), so that many
    /// fit in memory; by default off.
    pub fn lean(mut self, lean: bool) -> Self {
        self.lean = lean;
        self
    }

    /// Makes the runtime. Fails if the range of pod addresses is not one.
    pub fn build(self) -> Result<SimRuntime, RuntimeError> {
        let pool = Pool::new(&self.pod_cidr).ok_or_else(|| {
            RuntimeError::Invalid(format!("{} is not an IPv4 range of /8 to /30", self.pod_cidr))
        })?;
        // The range is the node's alone, so ids that begin with it are unique in the cluster.
        let id_prefix = pool.first();
        let state = State {
            pool,
            next: 1,
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            images: BTreeMap::new(),
            used: Usage::begin(),
        };
        let node = Arc::new_cyclic(|this: &Weak<Node>| Node {
            this: this.clone(),
            options: self,
            id_prefix,
            state: Mutex::new(state),
            changed: Notify::new(),
            events: Events::default(),
        });
        Ok(SimRuntime { node })
    }
}
