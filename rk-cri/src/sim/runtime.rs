//! What CRI's verbs do to simulated sandboxes and containers.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use rk_api::clock;
use tokio::time::Instant;

use super::{
    Container, Life, Run, STOPPING, Sandbox, SimContainer, SimRuntime, State,
    behaviour::Behaviour,
    image, image_id,
    program::{OnTerm, Program},
    state_error, streams,
    usage::Usage,
};
use crate::runtime::*;

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
                used: Usage::begin(),
            }));
            node.announce(sandboxes, number, container);
            node.go_on(sandboxes, number, container);
            Ok(())
        })
    }

    async fn update_container_resources(
        &self,
        id: &str,
        resources: Resources,
    ) -> Result<(), RuntimeError> {
        self.node.with_container(id, |_, _, container| {
            if matches!(container.life, Life::Exited(_)) {
                return Err(state_error("container", id, container.state()));
            }
            container.config.resources.change(&resources);
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

    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>, RuntimeError> {
        Ok(self.node.container_stats())
    }

    async fn node_stats(&self) -> Result<Option<NodeStats>, RuntimeError> {
        Ok(Some(self.node.node_stats()))
    }

    fn pod_annotated(&self, uid: &str, annotations: &BTreeMap<String, String>) {
        self.node.annotate(uid, annotations);
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

    async fn pull_image(&self, request: PullImage) -> Result<String, RuntimeError> {
        let name = &request.image;
        if !self.node.options.pull_delay.is_zero() {
            tokio::time::sleep(self.node.options.pull_delay).await;
        }
        if let Some(reason) = self.node.refuse_image(name) {
            let kind = PullFailure::Failed;
            return Err(RuntimeError::ImagePull { image: name.clone(), reason, kind });
        }
        self.node.state.lock().images.insert(name.as_str().into(), ());
        Ok(image_id(name))
    }

    async fn list_images(&self) -> Result<Vec<Image>, RuntimeError> {
        Ok(self.node.state.lock().images.keys().map(|name| image(name)).collect())
    }

    async fn remove_image(&self, name: &str) -> Result<(), RuntimeError> {
        let mut state = self.node.state.lock();
        state.images.retain(|known, ()| known != name && image_id(known) != name);
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
