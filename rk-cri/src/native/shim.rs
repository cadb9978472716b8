//! The shim: one small process for each sandbox, which outlives the agent.
//!
//! It holds the sandbox's network, IPC and UTS namespaces (it lives in them itself), is the parent
//! of its containers' processes, writes their logs, keeps their standard input and terminals, and
//! records how they ended. It has one thread, and does nothing that may block: what could, starting
//! containers and commands, it forks helper processes for.
//!
//! # Invariants
//! - A container's log is complete before its exit is recorded, and its exit is recorded before
//!   anybody is told.
//! - A command ends when the connection that asked for it does; a container does not.
//! - When the shim ends, its namespaces end with it; nothing of it is mounted or named in the host.

mod container;
mod sandbox;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, WaitOptions, WaitStatus, wait},
};

use self::container::Container;
use super::{
    create::{Creation, Outcome, create},
    disk::{self, ContainerRecord, Exit, SandboxRecord},
    enter::{Entry, enter},
    sys::{self, Fork},
    wire::{Channel, Reply, Request, accept},
};

/// How long a shim that was told to end waits for its containers before it goes anyway.
const SHUTDOWN_SECONDS_MAX: i64 = 10;

/// Runs the shim of the sandbox in `directory`; `first` is the connection of who asked for it.
pub(super) fn run(directory: &Path, first: Channel) -> ! {
    let code = match Shim::set_up(directory, first) {
        Ok(mut shim) => {
            shim.serve();
            0
        }
        Err((first, error)) => {
            let _ = first.send(&Reply::Failed { message: error.to_string() }, &[]);
            1
        }
    };
    sys::exit(code)
}

type ConnectionId = u64;

struct Connection {
    channel: Channel,
    role: Role,
}

/// What a connection is for, once it asked.
#[derive(Debug, PartialEq, Eq)]
enum Role {
    /// Nothing yet, or waits for an answer.
    Asking,
    /// Hears of every container that ends.
    Watching,
    /// Runs a command.
    Command(Pid),
    /// Is attached to a container.
    Attached(String),
}

/// A child process, by what it is.
struct Child {
    pidfd: OwnedFd,
    kind: Kind,
}

enum Kind {
    /// Starts a container.
    Creator {
        container: String,
        outcome: Channel,
    },
    /// Starts a command.
    Entrant {
        connection: ConnectionId,
        outcome: Channel,
    },
    Container(String),
    Command(ConnectionId),
    /// First process of a pid namespace that all containers share.
    Pause,
}

struct Shim {
    listener: OwnedFd,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: ConnectionId,
    first: Option<ConnectionId>,
    /// Stays when the first connection ends.
    committed: bool,
    /// Asked to watch while a container was being started, and have no answer yet.
    watchers: Vec<ConnectionId>,
    containers: BTreeMap<String, Container>,
    children: HashMap<Pid, Child>,
    /// How children ended that no helper has told of yet.
    unclaimed: HashMap<Pid, WaitStatus>,
    shm: Option<OwnedFd>,
    pause: Option<i32>,
    /// Told to end by this connection, to be done at this time of the monotonic clock.
    closing: Option<(ConnectionId, i64)>,
}

/// What a polled descriptor belongs to.
enum Source {
    Listener,
    Connection(ConnectionId),
    Container(String, container::Port),
    Child,
}

impl Shim {
    fn set_up(directory: &Path, first: Channel) -> Result<Self, (Channel, io::Error)> {
        let made = || -> io::Result<Self> {
            let record: SandboxRecord = disk::read(&directory.join(disk::SANDBOX))?
                .ok_or_else(|| io::Error::other("the sandbox has no record"))?;
            let sandbox = sandbox::set_up(&record, directory)?;
            let mut children = HashMap::new();
            if let Some((pid, pidfd)) = sandbox.pause.as_ref().map(|pid| (*pid, sys::watch(*pid))) {
                children.insert(pid, Child { pidfd: pidfd?, kind: Kind::Pause });
            }
            Ok(Self {
                listener: sandbox.listener,
                connections: BTreeMap::new(),
                next_connection: 0,
                first: None,
                committed: false,
                watchers: Vec::new(),
                containers: BTreeMap::new(),
                children,
                unclaimed: HashMap::new(),
                shm: sandbox.shm,
                pause: sandbox.pause.map(|pid| pid.as_raw_nonzero().get()),
                closing: None,
            })
        };
        let mut shim = match made() {
            Ok(shim) => shim,
            Err(error) => return Err((first, error)),
        };
        let _ = first.send(&Reply::Ready { pid: std::process::id() as i32 }, &[]);
        let id = shim.connect(first);
        shim.first = Some(id);
        if let Some(connection) = shim.connections.get_mut(&id) {
            connection.role = Role::Watching;
        }
        Ok(shim)
    }

    /// Serves until told to end.
    fn serve(&mut self) {
        while !self.done() {
            let (sources, ready) = self.poll();
            for (source, flags) in sources.into_iter().zip(ready) {
                if flags.is_empty() {
                    continue;
                }
                match source {
                    Source::Listener => self.accept(),
                    Source::Connection(id) => self.hear(id),
                    Source::Container(id, port) => self.move_data(&id, port),
                    Source::Child => {}
                }
            }
            self.reap();
        }
        if let Some((id, _)) = self.closing {
            self.answer(id, &Reply::Done, &[]);
        }
    }

    fn done(&self) -> bool {
        let Some((_, deadline)) = self.closing else { return false };
        let busy = self.children.values().any(|child| !matches!(child.kind, Kind::Pause));
        !busy || monotonic_seconds() > deadline
    }

    /// Waits until something can be done, and says what.
    fn poll(&self) -> (Vec<Source>, Vec<PollFlags>) {
        let mut sources = vec![Source::Listener];
        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN)];
        for (id, connection) in &self.connections {
            sources.push(Source::Connection(*id));
            fds.push(PollFd::from_borrowed_fd(connection.channel.as_fd(), PollFlags::IN));
        }
        for (id, container) in &self.containers {
            for (port, fd, flags) in container.ports() {
                sources.push(Source::Container(id.clone(), port));
                fds.push(PollFd::from_borrowed_fd(fd, flags));
            }
        }
        for child in self.children.values() {
            sources.push(Source::Child);
            fds.push(PollFd::new(&child.pidfd, PollFlags::IN));
        }
        let timeout = self.closing.map(|_| Timespec { tv_sec: 1, tv_nsec: 0 });
        let _ = poll(&mut fds, timeout.as_ref());
        let ready = fds.iter().map(PollFd::revents).collect();
        (sources, ready)
    }

    fn connect(&mut self, channel: Channel) -> ConnectionId {
        let id = self.next_connection;
        self.next_connection += 1;
        let _ = channel.set_nonblocking();
        self.connections.insert(id, Connection { channel, role: Role::Asking });
        id
    }

    fn accept(&mut self) {
        if let Ok(fd) = accept(&self.listener) {
            self.connect(Channel::from_fd(fd));
        }
    }

    /// Reads a request, or notices that the connection ended.
    fn hear(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else { return };
        match connection.channel.receive::<Request>() {
            Ok(Some((request, fds))) => self.act(id, request, fds),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.fail(id, error.to_string())
            }
            Ok(None) | Err(_) => self.disconnect(id),
        }
    }

    fn disconnect(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.remove(&id) else { return };
        match connection.role {
            Role::Command(pid) if self.children.contains_key(&pid) => {
                sys::kill_group(pid, libc::SIGKILL);
                let _ = sys::kill(pid, libc::SIGKILL);
            }
            Role::Attached(container) => {
                if let Some(container) = self.containers.get_mut(&container) {
                    container.detach(id);
                }
            }
            _ => {}
        }
        // Whoever made this sandbox died before it was complete.
        if self.first == Some(id) && !self.committed {
            self.shut_down(id);
        }
    }

    fn answer(&mut self, id: ConnectionId, reply: &Reply, fds: &[BorrowedFd<'_>]) {
        if let Some(connection) = self.connections.get(&id)
            && connection.channel.send(reply, fds).is_err()
        {
            // It is gone, or so slow that it must look at the records itself.
            self.disconnect(id);
        }
    }

    fn fail(&mut self, id: ConnectionId, message: String) {
        self.answer(id, &Reply::Failed { message }, &[]);
    }

    fn act(&mut self, id: ConnectionId, request: Request, fds: Vec<OwnedFd>) {
        match request {
            Request::Commit => self.committed = true,
            Request::Watch => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.role = Role::Watching;
                }
                self.watchers.push(id);
                self.admit_watchers();
            }
            Request::Start { directory } => {
                if let Err(error) = self.start(id, &directory) {
                    self.fail(id, error.to_string());
                }
            }
            Request::Signal { container, signal } => {
                if let Some(pid) = self.pid_of(&container) {
                    let _ = sys::kill(pid, signal);
                }
                self.answer(id, &Reply::Done, &[]);
            }
            Request::Kill { container } => {
                self.kill(&container);
                self.answer(id, &Reply::Done, &[]);
            }
            Request::Exec { container, command, tty } => {
                if let Err(error) = self.execute(id, &container, &command, tty, fds) {
                    self.fail(id, error.to_string());
                }
            }
            Request::Attach { container, stdin } => self.attach(id, container, stdin, fds),
            Request::Resize { container, columns, rows } => {
                if let Some(container) = self.containers.get(&container) {
                    container.resize(columns, rows);
                }
                self.answer(id, &Reply::Done, &[]);
            }
            Request::ReopenLog { container } => {
                // One that has ended writes no more.
                let reopened =
                    self.containers.get_mut(&container).map_or(Ok(()), |c| c.reopen_log());
                match reopened {
                    Ok(()) => self.answer(id, &Reply::Done, &[]),
                    Err(error) => self.fail(id, error.to_string()),
                }
            }
            Request::Shutdown => self.shut_down(id),
        }
    }

    /// Whose process namespace a new container joins; `None` is one of its own, or the host's.
    fn pid_namespace_for(&self, record: &ContainerRecord) -> io::Result<Option<i32>> {
        let target = &record.config.process_namespace_of;
        if record.host_pid {
            return Ok(None);
        }
        if record.share_pid || target.is_empty() {
            return Ok(self.pause.filter(|_| record.share_pid));
        }
        let pid = self.pid_of(target).map(Pid::as_raw_nonzero).map(i32::from);
        pid.map(Some).ok_or_else(|| io::Error::other(format!("container {target} does not run")))
    }

    fn pid_of(&self, container: &str) -> Option<Pid> {
        self.containers.get(container)?.pid
    }

    /// Forks the helper that starts a container. The answer comes when the helper has ended.
    fn start(&mut self, id: ConnectionId, directory: &Path) -> io::Result<()> {
        let record: ContainerRecord = disk::read(&directory.join(disk::CONTAINER))?
            .ok_or_else(|| io::Error::other("the container has no record"))?;
        if self.closing.is_some() {
            return Err(io::Error::other("the sandbox is being stopped"));
        }
        if self.containers.contains_key(&record.id) {
            return Err(io::Error::other("the container was started before"));
        }
        let (container, stdio) = Container::prepare(&record, directory, id)?;
        let pid_namespace_of = self.pid_namespace_for(&record)?;
        let (mine, theirs) = Channel::pair()?;
        let child = match sys::fork()? {
            Fork::Child => {
                let creation = Creation {
                    record: &record,
                    directory,
                    stdio,
                    shm: self.shm.as_ref().map(|fd| fd.as_fd()),
                    pid_namespace_of,
                };
                create(creation, &theirs);
                sys::exit(0)
            }
            Fork::Parent(pid) => pid,
        };
        mine.set_nonblocking()?;
        let kind = Kind::Creator { container: record.id.clone(), outcome: mine };
        self.children.insert(child, Child { pidfd: sys::watch(child)?, kind });
        self.containers.insert(record.id, container);
        Ok(())
    }

    /// Forks the helper that starts a command. The answer comes when the helper has ended.
    fn execute(
        &mut self,
        id: ConnectionId,
        container: &str,
        command: &[String],
        tty: bool,
        stdio: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let not_running = || io::Error::other("the container is not running");
        let running = self.containers.get(container).ok_or_else(not_running)?;
        let pid = running.pid.ok_or_else(not_running)?;
        let child = self.children.get(&pid).ok_or_else(not_running)?;
        let (mine, theirs) = Channel::pair()?;
        let helper = match sys::fork()? {
            Fork::Child => {
                let entry = Entry {
                    command,
                    tty,
                    stdio,
                    pid,
                    pidfd: child.pidfd.as_fd(),
                    cgroup: &running.cgroup,
                    directory: &running.directory,
                };
                enter(entry, &theirs);
                sys::exit(0)
            }
            Fork::Parent(pid) => pid,
        };
        mine.set_nonblocking()?;
        let kind = Kind::Entrant { connection: id, outcome: mine };
        self.children.insert(helper, Child { pidfd: sys::watch(helper)?, kind });
        Ok(())
    }

    fn attach(&mut self, id: ConnectionId, name: String, stdin: bool, fds: Vec<OwnedFd>) {
        let Some(container) = self.containers.get_mut(&name).filter(|found| found.pid.is_some())
        else {
            return self.fail(id, "the container is not running".to_owned());
        };
        container.attach(id, stdin, fds);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.role = Role::Attached(name);
        }
        self.answer(id, &Reply::Done, &[]);
    }

    fn kill(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.killed = true;
        match container.pid {
            Some(pid) => {
                let _ = sys::kill(pid, libc::SIGKILL);
            }
            None => {
                container.cgroup.kill_all();
                for child in self.children.values() {
                    if matches!(&child.kind, Kind::Creator { container, .. } if container == id) {
                        sys::kill_watched(&child.pidfd);
                    }
                }
            }
        }
    }

    fn shut_down(&mut self, id: ConnectionId) {
        self.closing.get_or_insert((id, monotonic_seconds() + SHUTDOWN_SECONDS_MAX));
        let all: Vec<String> = self.containers.keys().cloned().collect();
        for container in all {
            self.kill(&container);
        }
    }

    fn move_data(&mut self, id: &str, port: container::Port) {
        if let Some(container) = self.containers.get_mut(id) {
            container.move_data(port);
        }
    }

    /// Buries the children that ended.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            match self.children.remove(&pid) {
                Some(child) => self.ended(pid, child.kind, status),
                // A helper's own helper, or a process that the helper is about to tell of.
                None => {
                    self.unclaimed.insert(pid, status);
                }
            }
        }
        let helping = self
            .children
            .values()
            .any(|child| matches!(child.kind, Kind::Creator { .. } | Kind::Entrant { .. }));
        if !helping {
            self.unclaimed.clear();
        }
    }

    fn ended(&mut self, _: Pid, kind: Kind, status: WaitStatus) {
        match kind {
            Kind::Creator { container, outcome } => {
                let (outcome, _) = told(&outcome);
                self.created(&container, outcome);
                self.admit_watchers();
            }
            Kind::Entrant { connection, outcome } => {
                let (outcome, terminal) = told(&outcome);
                self.entered(connection, outcome, terminal);
            }
            Kind::Container(id) => self.finish(&id, exit_code(status)),
            Kind::Command(connection) => {
                self.answer(connection, &Reply::Ended { code: exit_code(status) }, &[]);
                self.connections.remove(&connection);
            }
            // Without its first process a shared pid namespace starts nothing more.
            Kind::Pause => self.pause = None,
        }
    }

    /// Answers new watchers once no start is under way: what an agent before them began is either
    /// recorded then, or did not happen.
    fn admit_watchers(&mut self) {
        let starting =
            self.children.values().any(|child| matches!(child.kind, Kind::Creator { .. }));
        if !starting {
            for id in std::mem::take(&mut self.watchers) {
                self.answer(id, &Reply::Done, &[]);
            }
        }
    }

    fn created(&mut self, id: &str, outcome: Outcome) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let waiting = container.starter.take();
        match outcome {
            Outcome::Running { pid } => {
                let Ok(pid) = sys::pid_of(pid) else { return };
                container.started(pid);
                if let Some(waiting) = waiting {
                    self.answer(waiting, &Reply::Started { pid: pid.as_raw_nonzero().get() }, &[]);
                }
                if let Some(status) = self.unclaimed.remove(&pid) {
                    return self.finish(id, exit_code(status));
                }
                match sys::watch(pid) {
                    Ok(pidfd) => {
                        let kind = Kind::Container(id.to_owned());
                        self.children.insert(pid, Child { pidfd, kind });
                    }
                    Err(_) => self.finish(id, 255),
                }
            }
            Outcome::Failed { message } => {
                let exit = Exit {
                    code: 128,
                    at: sys::now(),
                    reason: "StartError".to_owned(),
                    message: format!("failed to start the container: {message}"),
                };
                if let Some(container) = self.containers.remove(id) {
                    container.end(&exit);
                }
                if let Some(waiting) = waiting {
                    self.fail(waiting, exit.message.clone());
                }
                self.announce(id, exit);
            }
        }
    }

    fn entered(&mut self, id: ConnectionId, outcome: Outcome, terminal: Option<OwnedFd>) {
        match outcome {
            Outcome::Running { pid } => {
                let Ok(pid) = sys::pid_of(pid) else { return };
                let raw = pid.as_raw_nonzero().get();
                let fds: Vec<BorrowedFd<'_>> = terminal.iter().map(|fd| fd.as_fd()).collect();
                self.answer(id, &Reply::Started { pid: raw }, &fds);
                if let Some(status) = self.unclaimed.remove(&pid) {
                    self.answer(id, &Reply::Ended { code: exit_code(status) }, &[]);
                    self.connections.remove(&id);
                    return;
                }
                if let Ok(pidfd) = sys::watch(pid) {
                    self.children.insert(pid, Child { pidfd, kind: Kind::Command(id) });
                }
                match self.connections.get_mut(&id) {
                    Some(connection) => connection.role = Role::Command(pid),
                    // Nobody wants it any more.
                    None => sys::kill_group(pid, libc::SIGKILL),
                }
            }
            Outcome::Failed { message } => {
                self.fail(id, message);
                self.connections.remove(&id);
            }
        }
    }

    /// A container's first process ended.
    fn finish(&mut self, id: &str, code: i32) {
        let Some(container) = self.containers.remove(id) else { return };
        let exit = container.finish(code);
        for attached in self.attached_to(id) {
            self.answer(attached, &Reply::Ended { code }, &[]);
            self.connections.remove(&attached);
        }
        self.announce(id, exit);
    }

    fn attached_to(&self, id: &str) -> Vec<ConnectionId> {
        let wanted = Role::Attached(id.to_owned());
        self.connections
            .iter()
            .filter(|(_, connection)| connection.role == wanted)
            .map(|(id, _)| *id)
            .collect()
    }

    fn announce(&mut self, container: &str, exit: Exit) {
        let watching: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.role == Role::Watching)
            .map(|(id, _)| *id)
            .collect();
        let reply = Reply::Exited { container: container.to_owned(), exit };
        for id in watching {
            self.answer(id, &reply, &[]);
        }
    }
}

/// What a helper that ended had to say.
fn told(outcome: &Channel) -> (Outcome, Option<OwnedFd>) {
    match outcome.receive() {
        Ok(Some((outcome, mut fds))) => (outcome, fds.pop()),
        _ => (Outcome::Failed { message: "the helper process was killed".to_owned() }, None),
    }
}

/// The exit code, or 128 plus the signal's number.
fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    }
}

fn monotonic_seconds() -> i64 {
    rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec
}
