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
//! - **Use** of CPU and memory is what the annotations `sim.rk.dev/cpu` and `sim.rk.dev/memory` say,
//!   which may change while the pod runs; 1m and 8Mi by default.
//! - **Logs** are kept in memory, the newest 64 KiB of each container by default.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use rk_api::clock;
use tokio::{sync::Notify, time::Instant};

pub use self::{
    behaviour::{Behaviour, BehaviourFn, ExecFn, ImageFn, SimContainer},
    builder::SimRuntimeBuilder,
    program::{OnTerm, Program},
};
use self::{events::Events, pool::Pool, program::Step, usage::Usage};
use crate::{
    runtime::*,
    timers::{Alarm, Timers},
};

mod behaviour;
mod builder;
mod events;
mod pool;
mod program;
mod runtime;
mod streams;
mod usage;

/// A simulated node's runtime. Clones are handles to the same one.
#[derive(Clone)]
pub struct SimRuntime {
    node: Arc<Node>,
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
    /// The node's, its overhead included.
    used: Usage,
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
    used: Usage,
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
        pinned: false,
    }
}

fn state_error(what: &'static str, id: &str, state: ContainerState) -> RuntimeError {
    let state = format!("{state:?}").to_lowercase();
    RuntimeError::State { what, id: id.into(), state }
}
