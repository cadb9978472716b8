//! A runtime that only pretends: pods that cost a few hundred bytes and do as they are told.
//!
//! A [`SimRuntime`] is one node's runtime. It starts nothing and touches no file; containers run
//! programs that are lists of steps ([`Program`]), advanced by one timer structure that many nodes
//! may share ([`SimRuntimeBuilder::timers`]). It follows tokio's clock, so on a paused runtime a
//! simulated day takes as long as its work.
//!
//! # What a container does
//! What its pod's annotations say ([`SimContainer::behaviour`] lists them), else what its command
//! line says if it is one of a few ([`Program::parse`]), else it runs until it is stopped. Code can
//! decide instead, with [`SimRuntimeBuilder::behaviour`].
//!
//! # What else is simulated
//! - **Images**: every image can be pulled, except those of a registry whose host ends in
//!   `.invalid` (RFC 2606), those tagged `missing`, those named by
//!   [`SimRuntimeBuilder::missing_images`] or refused by [`SimRuntimeBuilder::images`], and those
//!   that the annotation `sim.rk.dev/image-missing` of a pod on the node names (separated by commas).
//! - **Addresses** come from the node's range ([`SimRuntimeBuilder::pod_cidr`]).
//! - **Ports**: every port of a pod with a container that is ready accepts connections and answers
//!   an HTTP request with 200; of any other pod it refuses.
//! - **Commands** ([`Runtime::exec_sync`], [`Runtime::exec`]) are programs too; one that is not
//!   known prints nothing and ends with 0. In a container that is not ready every command ends with 1.
//! - **Logs** are kept in memory, the newest 64 KiB of each container by default.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use rk_api::clock;
use tokio::{sync::Notify, time::Instant};

pub use self::{
    behaviour::{Behaviour, BehaviourFn, ExecFn, ImageFn, SimContainer},
    program::{OnTerm, Program},
};
use self::{events::Events, pool::Pool, program::Step};
use crate::{
    runtime::*,
    timers::{Alarm, Timers},
};

mod behaviour;
mod events;
mod pool;
mod program;
mod streams;

/// A simulated node's runtime. Clones are handles to the same one.
#[derive(Clone)]
pub struct SimRuntime {
    node: Arc<Node>,
}

/// Options of a [`SimRuntime`].
#[derive(Clone)]
pub struct SimRuntimeBuilder {
    pod_cidr: String,
    node_ip: IpAddr,
    timers: Timers,
    behaviour: Option<Arc<BehaviourFn>>,
    exec: Option<Arc<ExecFn>>,
    images: Option<Arc<ImageFn>>,
    missing: Vec<String>,
    pull_delay: Duration,
    log_bytes_max: usize,
    lean: bool,
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

struct Node {
    this: Weak<Node>,
    options: SimRuntimeBuilder,
    id_prefix: u32,
    state: Mutex<State>,
    /// A container printed something or ended.
    changed: Notify,
    events: Events,
}

struct State {
    pool: Pool,
    /// The next number, from which an id is made.
    next: u32,
    sandboxes: BTreeMap<u32, Sandbox>,
    containers: BTreeMap<u32, Container>,
    images: BTreeMap<String, ()>,
}

struct Sandbox {
    config: Box<SandboxConfig>,
    created_at: Timestamp,
    ready: bool,
    address: Option<u32>,
}

struct Container {
    sandbox: u32,
    config: Box<ContainerConfig>,
    created_at: Timestamp,
    life: Life,
    log: VecDeque<u8>,
}

enum Life {
    Created,
    Running(Box<Run>),
    Exited(Box<End>),
}

struct Run {
    started_at: Timestamp,
    behaviour: Behaviour,
    /// The step to do next.
    cursor: usize,
    /// When to do it; `None` is never.
    resume_at: Option<Instant>,
    ready_at: Option<Instant>,
    term: OnTerm,
}

struct End {
    started_at: Option<Timestamp>,
    finished_at: Timestamp,
    exit_code: i32,
    reason: String,
    message: String,
}

/// Set in an alarm's key when it is about the time that a container takes to stop.
const STOPPING: u64 = 1 << 32;

impl Default for SimRuntime {
    fn default() -> Self {
        Self::new()
    }
}

impl SimRuntime {
    /// A node with the defaults of [`SimRuntime::builder`].
    pub fn new() -> Self {
        match Self::builder().build() {
            Ok(runtime) => runtime,
            Err(_) => unreachable!("the default range is a range"),
        }
    }

    /// Options to make one with.
    pub fn builder() -> SimRuntimeBuilder {
        SimRuntimeBuilder {
            pod_cidr: "10.244.0.0/24".into(),
            node_ip: Ipv4Addr::LOCALHOST.into(),
            timers: Timers::new(),
            behaviour: None,
            exec: None,
            images: None,
            missing: Vec::new(),
            pull_delay: Duration::ZERO,
            log_bytes_max: 64 * 1024,
            lean: false,
        }
    }

    /// Ends the running container `name` of a pod with `exit_code`, as a crash would. Whether there
    /// was one.
    pub fn crash(&self, pod_uid: &str, name: &str, exit_code: i32) -> bool {
        let node = &self.node;
        let mut state = node.state.lock();
        let State { sandboxes, containers, .. } = &mut *state;
        let found = containers.iter_mut().find(|(_, container)| {
            container.config.name == name
                && matches!(container.life, Life::Running(_))
                && sandboxes.get(&container.sandbox).is_some_and(|s| s.config.pod.uid == pod_uid)
        });
        let Some((&number, container)) = found else { return false };
        container.end(exit_code, None);
        node.announce(sandboxes, number, container);
        true
    }
}

impl std::fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.node.state.lock();
        f.debug_struct("SimRuntime")
            .field("pod_cidr", &self.node.options.pod_cidr)
            .field("sandboxes", &state.sandboxes.len())
            .field("containers", &state.containers.len())
            .finish()
    }
}

// === impl Container ===

impl Container {
    fn state(&self) -> ContainerState {
        match self.life {
            Life::Created => ContainerState::Created,
            Life::Running(_) => ContainerState::Running,
            Life::Exited(_) => ContainerState::Exited,
        }
    }

    fn ready(&self) -> bool {
        match &self.life {
            Life::Running(run) => run.ready_at.is_some_and(|at| at <= Instant::now()),
            _ => false,
        }
    }

    /// Lets the program go on until it waits or ends, and says when to go on again.
    fn advance(&mut self, log_bytes_max: usize) -> Option<Instant> {
        loop {
            let Life::Running(run) = &mut self.life else { return None };
            let step =
                run.behaviour.program.steps.get(run.cursor).cloned().unwrap_or(Step::Forever);
            run.cursor += 1;
            match step {
                Step::Print { error, text } => self.print(error, &text, log_bytes_max),
                Step::Sleep(time) if time.is_zero() => {}
                Step::Sleep(time) => {
                    run.resume_at = Some(Instant::now() + time);
                    return run.resume_at;
                }
                Step::Loop(to) => run.cursor = to,
                Step::Trap(term) => run.term = term,
                // A container's standard input is open or empty, never anything.
                Step::Cat if !self.config.stdin => {}
                Step::Cat | Step::Forever => {
                    run.resume_at = None;
                    return None;
                }
                Step::Exit(code) => {
                    let reason = run.behaviour.exit_reason.take();
                    self.end(code, reason);
                    return None;
                }
            }
        }
    }

    fn print(&mut self, error: bool, text: &str, bytes_max: usize) {
        let stream = if error && !self.config.tty { "stderr" } else { "stdout" };
        for line in text.split_inclusive('\n') {
            let tag = if line.ends_with('\n') { 'F' } else { 'P' };
            let line = line.trim_end_matches('\n');
            self.log.extend(format!("{:.9} {stream} {tag} {line}\n", clock::now()).as_bytes());
        }
        while self.log.len() > bytes_max {
            match self.log.iter().position(|byte| *byte == b'\n') {
                Some(end) => drop(self.log.drain(..=end)),
                None => self.log.clear(),
            }
        }
    }

    fn end(&mut self, exit_code: i32, reason: Option<String>) {
        let started_at = match &self.life {
            Life::Running(run) => Some(run.started_at),
            _ => None,
        };
        let usual = if exit_code == 0 { "Completed" } else { "Error" };
        self.life = Life::Exited(Box::new(End {
            started_at,
            finished_at: clock::now(),
            exit_code,
            reason: reason.unwrap_or_else(|| usual.to_string()),
            message: String::new(),
        }));
    }

    fn kill(&mut self) -> bool {
        let alive = matches!(self.life, Life::Running(_));
        if alive {
            self.end(137, None);
        }
        alive
    }
}

// === impl Node ===

impl Alarm for Node {
    fn ring(self: Arc<Self>, key: u64) {
        let number = key as u32;
        let mut state = self.state.lock();
        let State { sandboxes, containers, .. } = &mut *state;
        let Some(container) = containers.get_mut(&number) else { return };
        let Life::Running(run) = &container.life else { return };
        if key & STOPPING != 0 {
            container.end(0, None);
        } else if run.resume_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.go_on(sandboxes, number, container);
    }
}

impl Node {
    fn id(&self, number: u32) -> String {
        format!("{:08x}{number:08x}", self.id_prefix)
    }

    fn number(&self, id: &str) -> Option<u32> {
        let (prefix, number) = id.split_at_checked(8)?;
        let own = u32::from_str_radix(prefix, 16).ok()? == self.id_prefix;
        u32::from_str_radix(number, 16).ok().filter(|_| own && number.len() == 8)
    }

    /// Lets a container go on, sets its next alarm, and says so if it ended.
    fn go_on(&self, sandboxes: &BTreeMap<u32, Sandbox>, number: u32, container: &mut Container) {
        let next = container.advance(self.options.log_bytes_max);
        if let Some(at) = next {
            self.options.timers.set(at, self.this.clone(), u64::from(number));
        }
        if matches!(container.life, Life::Exited(_)) {
            self.announce(sandboxes, number, container);
        }
        self.changed.notify_waiters();
    }

    fn announce(&self, sandboxes: &BTreeMap<u32, Sandbox>, number: u32, container: &Container) {
        if let Some(sandbox) = sandboxes.get(&container.sandbox) {
            self.events.send(RuntimeEvent {
                pod: sandbox.config.pod.clone(),
                container_id: Some(self.id(number)),
            });
        }
        self.changed.notify_waiters();
    }

    fn sandbox_status(&self, number: u32, sandbox: &Sandbox) -> SandboxStatus {
        let ips = match sandbox.address {
            Some(address) => vec![IpAddr::V4(address.into())],
            None if sandbox.config.host_network && sandbox.ready => vec![self.options.node_ip],
            None => Vec::new(),
        };
        SandboxStatus {
            id: self.id(number),
            config: (*sandbox.config).clone(),
            ready: sandbox.ready,
            created_at: sandbox.created_at,
            ips,
        }
    }

    fn container_status(&self, number: u32, container: &Container) -> ContainerStatus {
        let (started_at, end) = match &container.life {
            Life::Created => (None, None),
            Life::Running(run) => (Some(run.started_at), None),
            Life::Exited(end) => (end.started_at, Some(end)),
        };
        ContainerStatus {
            id: self.id(number),
            sandbox_id: self.id(container.sandbox),
            config: (*container.config).clone(),
            state: container.state(),
            created_at: container.created_at,
            started_at,
            finished_at: end.map(|end| end.finished_at),
            exit_code: end.map(|end| end.exit_code),
            reason: end.map(|end| end.reason.clone()).unwrap_or_default(),
            message: end.map(|end| end.message.clone()).unwrap_or_default(),
            image_id: image_id(&container.config.image),
            log_path: Default::default(),
        }
    }

    fn with_container<T>(
        &self,
        id: &str,
        f: impl FnOnce(&mut BTreeMap<u32, Sandbox>, u32, &mut Container) -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        let mut state = self.state.lock();
        let State { sandboxes, containers, .. } = &mut *state;
        let number = self.number(id).unwrap_or_default();
        let container = containers
            .get_mut(&number)
            .ok_or_else(|| RuntimeError::NotFound { what: "container", id: id.into() })?;
        f(sandboxes, number, container)
    }

    /// The program of a command in a running container, or its ready-made answer.
    fn command(
        &self,
        id: &str,
        command: &[String],
    ) -> Result<Result<Program, ExecOutput>, RuntimeError> {
        self.with_container(id, |sandboxes, _, container| {
            if !matches!(container.life, Life::Running(_)) {
                return Err(state_error("container", id, container.state()));
            }
            let stderr = Bytes::from_static(b"the container is not ready\n");
            if !container.ready() {
                return Ok(Err(ExecOutput { stderr, exit_code: 1, ..Default::default() }));
            }
            let Some(sandbox) = sandboxes.get(&container.sandbox) else {
                return Ok(Ok(Program::exit_after(Duration::ZERO, 0)));
            };
            let subject = SimContainer { sandbox: &sandbox.config, config: &container.config };
            if let Some(output) =
                self.options.exec.as_ref().and_then(|answer| answer(&subject, command))
            {
                return Ok(Err(output));
            }
            let program = Program::parse(command, &container.config.env);
            Ok(Ok(program.unwrap_or_else(|| Program::exit_after(Duration::ZERO, 0))))
        })
    }

    /// Whether a pod's ports accept connections.
    fn serves(&self, state: &State, sandbox: u32) -> bool {
        state.containers.values().any(|container| container.sandbox == sandbox && container.ready())
    }

    fn refuse_image(&self, image: &str) -> Option<String> {
        let name = image.split('@').next().unwrap_or(image);
        let host = name.split('/').next().unwrap_or_default();
        let host = host.split(':').next().unwrap_or_default();
        let not_found =
            || Some(format!("failed to resolve reference \"{image}\": {image}: not found"));
        if name.contains('/') && host.ends_with(".invalid") {
            return Some(format!(
                "failed to resolve reference \"{image}\": dial tcp: lookup {host}: no such host"
            ));
        }
        if name.ends_with(":missing") || self.options.missing.iter().any(|missing| missing == image)
        {
            return not_found();
        }
        if let Some(pull) = &self.options.images
            && let Err(reason) = pull(image)
        {
            return Some(reason);
        }
        let state = self.state.lock();
        let named = state
            .sandboxes
            .values()
            .filter(|sandbox| sandbox.ready)
            .filter_map(|sandbox| sandbox.config.annotations.get("sim.rk.dev/image-missing"))
            .any(|names| names.split(',').any(|name| name.trim() == image));
        if named { not_found() } else { None }
    }
}

fn image_id(name: &str) -> String {
    // FNV-1a, four times with different seeds: any 64 digits that hang on the name alone will do.
    let digits: String = (0..4u64)
        .map(|seed| {
            let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
            format!("{hash:016x}")
        })
        .collect();
    format!("sha256:{digits}")
}

fn image(name: &str) -> Image {
    Image {
        id: image_id(name),
        tags: vec![name.to_string()],
        digests: Vec::new(),
        size_bytes: 1024 * 1024,
        user: String::new(),
    }
}

fn state_error(what: &'static str, id: &str, state: ContainerState) -> RuntimeError {
    let state = format!("{state:?}").to_lowercase();
    RuntimeError::State { what, id: id.into(), state }
}

// === impl Runtime ===

#[async_trait]
impl Runtime for SimRuntime {
    fn version(&self) -> String {
        format!("rk-sim://{}", env!("CARGO_PKG_VERSION"))
    }

    fn simulated(&self) -> bool {
        true
    }

    async fn run_pod_sandbox(&self, mut config: SandboxConfig) -> Result<String, RuntimeError> {
        let node = &self.node;
        let mut state = node.state.lock();
        let address = if config.host_network {
            None
        } else {
            let taken = state.pool.take();
            let full = || RuntimeError::Io {
                what: format!("no address is free in {}", node.options.pod_cidr),
                source: std::io::ErrorKind::AddrNotAvailable.into(),
            };
            Some(taken.ok_or_else(full)?)
        };
        if node.options.lean {
            config.dns = DnsConfig::default();
            config.port_mappings = Vec::new();
            config.labels.clear();
        }
        let number = state.next;
        state.next += 1;
        let pod = config.pod.clone();
        let sandbox =
            Sandbox { config: Box::new(config), created_at: clock::now(), ready: true, address };
        state.sandboxes.insert(number, sandbox);
        node.events.send(RuntimeEvent { pod, container_id: None });
        Ok(node.id(number))
    }

    async fn stop_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let node = &self.node;
        let mut state = node.state.lock();
        let State { sandboxes, containers, pool, .. } = &mut *state;
        let Some(number) = node.number(id) else { return Ok(()) };
        for (&number, container) in containers.iter_mut().filter(|(_, c)| c.sandbox == number) {
            if container.kill() {
                node.announce(sandboxes, number, container);
            }
        }
        let Some(sandbox) = sandboxes.get_mut(&number) else { return Ok(()) };
        if let Some(address) = sandbox.address.take() {
            pool.give_back(address);
        }
        if std::mem::replace(&mut sandbox.ready, false) {
            node.events.send(RuntimeEvent { pod: sandbox.config.pod.clone(), container_id: None });
        }
        Ok(())
    }

    async fn remove_pod_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        self.stop_pod_sandbox(id).await?;
        let mut state = self.node.state.lock();
        if let Some(number) = self.node.number(id) {
            state.containers.retain(|_, container| container.sandbox != number);
            state.sandboxes.remove(&number);
        }
        Ok(())
    }

    async fn list_pod_sandboxes(&self) -> Result<Vec<SandboxStatus>, RuntimeError> {
        let state = self.node.state.lock();
        Ok(state.sandboxes.iter().map(|(number, s)| self.node.sandbox_status(*number, s)).collect())
    }

    async fn pod_status(&self, uid: &str) -> Result<PodRuntimeStatus, RuntimeError> {
        let state = self.node.state.lock();
        let mut status = PodRuntimeStatus::default();
        for (&number, sandbox) in &state.sandboxes {
            if sandbox.config.pod.uid == uid {
                status.sandboxes.push(self.node.sandbox_status(number, sandbox));
            }
        }
        for (&number, container) in &state.containers {
            let sandbox = state.sandboxes.get(&container.sandbox);
            if sandbox.is_some_and(|sandbox| sandbox.config.pod.uid == uid) {
                status.containers.push(self.node.container_status(number, container));
            }
        }
        Ok(status)
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        mut config: ContainerConfig,
    ) -> Result<String, RuntimeError> {
        let node = &self.node;
        let mut state = node.state.lock();
        let sandbox = node.number(sandbox_id).unwrap_or_default();
        match state.sandboxes.get(&sandbox) {
            None => return Err(RuntimeError::NotFound { what: "sandbox", id: sandbox_id.into() }),
            Some(sandbox) if !sandbox.ready => {
                let state = "not ready".into();
                return Err(RuntimeError::State { what: "sandbox", id: sandbox_id.into(), state });
            }
            Some(_) => {}
        }
        if !state.images.contains_key(&config.image) {
            return Err(RuntimeError::NotFound { what: "image", id: config.image });
        }
        if node.options.lean {
            config.mounts = Vec::new();
            config.env = Vec::new();
            config.labels.clear();
        }
        let number = state.next;
        state.next += 1;
        let container = Container {
            sandbox,
            config: Box::new(config),
            created_at: clock::now(),
            life: Life::Created,
            log: VecDeque::new(),
        };
        node.announce(&state.sandboxes, number, &container);
        state.containers.insert(number, container);
        Ok(node.id(number))
    }

    async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let node = &self.node;
        let mut behaviour = node.with_container(id, |sandboxes, _, container| {
            if !matches!(container.life, Life::Created) {
                return Err(state_error("container", id, container.state()));
            }
            let Some(sandbox) = sandboxes.get(&container.sandbox) else {
                return Ok(Behaviour::default());
            };
            let subject = SimContainer { sandbox: &sandbox.config, config: &container.config };
            Ok(match &node.options.behaviour {
                Some(choose) => choose(&subject),
                None => subject.behaviour(),
            })
        })?;
        if !behaviour.start_delay.is_zero() {
            tokio::time::sleep(behaviour.start_delay).await;
        }
        node.with_container(id, |sandboxes, number, container| {
            if !matches!(container.life, Life::Created) {
                return Err(state_error("container", id, container.state()));
            }
            if let Some(message) = behaviour.start_error.take() {
                container.end(128, Some("StartError".into()));
                if let Life::Exited(end) = &mut container.life {
                    end.message.clone_from(&message);
                }
                node.announce(sandboxes, number, container);
                return Err(RuntimeError::Start(message));
            }
            let ready_at = (!behaviour.unready).then(|| Instant::now() + behaviour.ready_after);
            let term = behaviour.program.term;
            container.life = Life::Running(Box::new(Run {
                started_at: clock::now(),
                behaviour,
                cursor: 0,
                resume_at: None,
                ready_at,
                term,
            }));
            node.announce(sandboxes, number, container);
            node.go_on(sandboxes, number, container);
            Ok(())
        })
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let node = &self.node;
        let asked = node.with_container(id, |sandboxes, number, container| {
            let Life::Running(run) = &container.life else { return Ok(()) };
            match run.term {
                _ if grace.is_zero() => {}
                OnTerm::Quit => container.end(0, None),
                OnTerm::Exit(code) => container.end(code, None),
                OnTerm::Ignore => {}
                OnTerm::QuitAfter(delay) => {
                    let key = u64::from(number) | STOPPING;
                    node.options.timers.set(Instant::now() + delay, node.this.clone(), key);
                }
            }
            if matches!(container.life, Life::Exited(_)) {
                node.announce(sandboxes, number, container);
            }
            Ok(())
        });
        match asked {
            Err(RuntimeError::NotFound { .. }) => return Ok(()),
            other => other?,
        }
        let deadline = Instant::now() + grace;
        loop {
            let changed = node.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match node.with_container(id, |_, _, container| Ok(container.state())) {
                Ok(ContainerState::Running) => {}
                _ => return Ok(()),
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                break;
            }
        }
        let killed = node.with_container(id, |sandboxes, number, container| {
            if container.kill() {
                node.announce(sandboxes, number, container);
            }
            Ok(())
        });
        match killed {
            Err(RuntimeError::NotFound { .. }) => Ok(()),
            other => other,
        }
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let node = &self.node;
        let mut state = node.state.lock();
        let State { sandboxes, containers, .. } = &mut *state;
        if let Some(number) = node.number(id)
            && let Some(mut container) = containers.remove(&number)
        {
            container.kill();
            node.announce(sandboxes, number, &container);
        }
        Ok(())
    }

    async fn list_containers(&self) -> Result<Vec<ContainerStatus>, RuntimeError> {
        let state = self.node.state.lock();
        Ok(state
            .containers
            .iter()
            .map(|(number, container)| self.node.container_status(*number, container))
            .collect())
    }

    async fn container_status(&self, id: &str) -> Result<ContainerStatus, RuntimeError> {
        self.node.with_container(id, |_, number, container| {
            Ok(self.node.container_status(number, container))
        })
    }

    async fn container_log(&self, id: &str) -> Result<LogSource, RuntimeError> {
        self.node.with_container(id, |_, _, container| {
            Ok(LogSource::Memory(container.log.iter().copied().collect()))
        })
    }

    async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        let program = match self.node.command(id, &command)? {
            Ok(program) => program,
            Err(output) => return Ok(output),
        };
        let session = streams::session(program, &ExecRequest::default());
        let output = async {
            let (stdout, stderr, exit) = tokio::join!(
                streams::read_all(session.stdout),
                streams::read_all(session.stderr),
                session.exit
            );
            Ok(ExecOutput { stdout, stderr, exit_code: exit? })
        };
        tokio::time::timeout(timeout, output).await.map_err(|_| RuntimeError::Timeout(timeout))?
    }

    async fn exec(&self, id: &str, request: ExecRequest) -> Result<Session, RuntimeError> {
        let program = match self.node.command(id, &request.command)? {
            Ok(program) => program,
            Err(output) => Program::answer(&output),
        };
        Ok(streams::session(program, &request))
    }

    async fn attach(&self, id: &str) -> Result<Session, RuntimeError> {
        let tty = self.node.with_container(id, |_, _, container| match container.life {
            Life::Running(_) => Ok(container.config.tty),
            _ => Err(state_error("container", id, container.state())),
        })?;
        Ok(streams::attach(self.clone(), id.to_string(), tty))
    }

    async fn port_forward(
        &self,
        sandbox_id: &str,
        _port: u16,
    ) -> Result<Box<dyn Io>, RuntimeError> {
        let node = &self.node;
        let state = node.state.lock();
        let number = node.number(sandbox_id).unwrap_or_default();
        if !state.sandboxes.contains_key(&number) {
            return Err(RuntimeError::NotFound { what: "sandbox", id: sandbox_id.into() });
        }
        if node.serves(&state, number) {
            Ok(Box::new(streams::Port::default()))
        } else {
            Err(refused())
        }
    }

    async fn dial(&self, address: SocketAddr) -> Result<Box<dyn Io>, RuntimeError> {
        let node = &self.node;
        let state = node.state.lock();
        let own = |sandbox: &Sandbox| match (sandbox.address, address.ip()) {
            (Some(own), IpAddr::V4(asked)) => Ipv4Addr::from(own) == asked,
            (None, asked) => sandbox.config.host_network && asked == node.options.node_ip,
            _ => false,
        };
        let mut found = state.sandboxes.iter().filter(|(_, sandbox)| sandbox.ready && own(sandbox));
        let serves = found.any(|(number, _)| node.serves(&state, *number));
        if serves { Ok(Box::new(streams::Port::default())) } else { Err(refused()) }
    }

    async fn image_status(&self, name: &str) -> Result<Option<Image>, RuntimeError> {
        Ok(self.node.state.lock().images.contains_key(name).then(|| image(name)))
    }

    async fn pull_image(&self, name: &str) -> Result<String, RuntimeError> {
        if !self.node.options.pull_delay.is_zero() {
            tokio::time::sleep(self.node.options.pull_delay).await;
        }
        if let Some(reason) = self.node.refuse_image(name) {
            return Err(RuntimeError::ImagePull { image: name.into(), reason });
        }
        self.node.state.lock().images.insert(name.into(), ());
        Ok(image_id(name))
    }

    async fn list_images(&self) -> Result<Vec<Image>, RuntimeError> {
        Ok(self.node.state.lock().images.keys().map(|name| image(name)).collect())
    }

    async fn remove_image(&self, name: &str) -> Result<(), RuntimeError> {
        self.node.state.lock().images.remove(name);
        Ok(())
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        self.node.events.subscribe()
    }
}

fn refused() -> RuntimeError {
    RuntimeError::Io {
        what: "connect: connection refused".into(),
        source: std::io::ErrorKind::ConnectionRefused.into(),
    }
}
