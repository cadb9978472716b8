//! One container in its shim: its streams, its log, who is attached, and its end.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    event::PollFlags,
    fs::{Mode, OFlags},
    io::{ioctl_fionbio, read, write},
    net::SocketType,
    process::Pid,
    termios::{Winsize, tcsetwinsize},
};

use super::{
    super::{
        cgroup::Cgroup,
        create::{Stdio, pipe},
        disk::{self, ContainerRecord, EXIT, Exit, START, Start},
        log::{self, Entries, Stream},
        sys,
        wire::{accept, listen_here, receive_descriptor},
    },
    ConnectionId,
};

/// The most output kept for one attached reader. One that is slower is cut off: the container must
/// not wait for it.
const BACKLOG_BYTES_MAX: usize = 1 << 20;
/// The most input taken from attached writers before the container has read it.
const INPUT_BYTES_MAX: usize = 64 << 10;

/// A descriptor of a container that poll watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// The container's output.
    Output(Stream),
    /// The container's input, which takes more.
    Input,
    /// An attached writer.
    From(ConnectionId),
    /// An attached reader, which takes more.
    To(ConnectionId, Stream),
}

/// A started container, or one that is being started.
pub(super) struct Container {
    pub(super) directory: PathBuf,
    pub(super) cgroup: Cgroup,
    /// Its first process, once it runs.
    pub(super) pid: Option<Pid>,
    /// Waits for the start.
    pub(super) starter: Option<ConnectionId>,
    /// It was asked to be killed.
    pub(super) killed: bool,
    libcontainer: PathBuf,
    log: Option<File>,
    log_path: PathBuf,
    /// Where its terminal will come from.
    console: Option<OwnedFd>,
    /// Its terminal's other side, for input and output.
    terminal: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    stdin_once: bool,
    /// Its input ends once it has read what is pending.
    stdin_closing: bool,
    pending_input: Vec<u8>,
    stdout: Option<Output>,
    stderr: Option<Output>,
    clients: Vec<Client>,
}

/// One output of the container; without a descriptor of its own when it comes from the terminal.
struct Output {
    fd: Option<OwnedFd>,
    entries: Entries,
}

/// Who is attached.
struct Client {
    id: ConnectionId,
    stdin: Option<OwnedFd>,
    stdout: Option<Sink>,
    stderr: Option<Sink>,
}

struct Sink {
    fd: OwnedFd,
    backlog: Vec<u8>,
}

impl Container {
    /// Opens the log and the streams of a container that is about to start, and returns the ends
    /// that the container gets.
    pub(super) fn prepare(
        record: &ContainerRecord,
        directory: &Path,
        starter: ConnectionId,
    ) -> io::Result<(Self, Stdio)> {
        let config = &record.config;
        let mut container = Self {
            directory: directory.to_owned(),
            cgroup: record.cgroup.clone(),
            pid: None,
            starter: Some(starter),
            killed: false,
            libcontainer: record.libcontainer_dir.join(&record.id),
            log: match record.log_path.as_os_str().is_empty() {
                true => None,
                false => Some(log::open(&record.log_path)?),
            },
            log_path: record.log_path.clone(),
            console: None,
            terminal: None,
            stdin: None,
            stdin_once: config.stdin_once,
            stdin_closing: false,
            pending_input: Vec::new(),
            stdout: None,
            stderr: None,
            clients: Vec::new(),
        };
        if config.tty {
            std::env::set_current_dir(directory)?;
            let listener = listen_here("console.sock", SocketType::STREAM);
            std::env::set_current_dir("/")?;
            container.console = Some(listener?);
            container.stdout = Some(Output { fd: None, entries: Entries::new(Stream::Stdout) });
            return Ok((container, Stdio::default()));
        }
        let stdin = match config.stdin {
            true => {
                let (theirs, mine) = pipe()?;
                ioctl_fionbio(&mine, true)?;
                container.stdin = Some(mine);
                theirs
            }
            false => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                rustix::fs::open("/dev/null", flags, Mode::empty())?
            }
        };
        let output = |stream| -> io::Result<(OwnedFd, Output)> {
            let (mine, theirs) = pipe()?;
            ioctl_fionbio(&mine, true)?;
            Ok((theirs, Output { fd: Some(mine), entries: Entries::new(stream) }))
        };
        let (stdout, mine) = output(Stream::Stdout)?;
        container.stdout = Some(mine);
        let (stderr, mine) = output(Stream::Stderr)?;
        container.stderr = Some(mine);
        let stdio = Stdio { stdin: Some(stdin), stdout: Some(stdout), stderr: Some(stderr) };
        Ok((container, stdio))
    }

    /// It runs: takes its terminal and records it.
    pub(super) fn started(&mut self, pid: Pid) {
        self.pid = Some(pid);
        if let Some(console) = self.console.take() {
            self.terminal = accept(&console).and_then(|socket| receive_descriptor(&socket)).ok();
            if let Some(terminal) = &self.terminal {
                let _ = ioctl_fionbio(terminal, true);
            }
            let _ = fs::remove_file(self.directory.join("console.sock"));
        }
        let start = Start { pid: pid.as_raw_nonzero().get(), at: sys::now() };
        let _ = disk::write(&self.directory.join(START), &start);
    }

    /// What to wait for.
    pub(super) fn ports(&self) -> Vec<(Port, BorrowedFd<'_>, PollFlags)> {
        let mut ports = Vec::new();
        for (stream, output) in [(Stream::Stdout, &self.stdout), (Stream::Stderr, &self.stderr)] {
            if let Some(fd) = output.as_ref().and_then(|output| output.fd.as_ref()) {
                ports.push((Port::Output(stream), fd.as_fd(), PollFlags::IN));
            }
        }
        if let Some(terminal) = &self.terminal {
            ports.push((Port::Output(Stream::Stdout), terminal.as_fd(), PollFlags::IN));
        }
        let input = self.terminal.as_ref().or(self.stdin.as_ref());
        if let Some(input) = input.filter(|_| !self.pending_input.is_empty()) {
            ports.push((Port::Input, input.as_fd(), PollFlags::OUT));
        }
        for client in &self.clients {
            if let Some(stdin) = &client.stdin
                && self.pending_input.len() < INPUT_BYTES_MAX
            {
                ports.push((Port::From(client.id), stdin.as_fd(), PollFlags::IN));
            }
            for (stream, sink) in
                [(Stream::Stdout, &client.stdout), (Stream::Stderr, &client.stderr)]
            {
                if let Some(sink) = sink.as_ref().filter(|sink| !sink.backlog.is_empty()) {
                    ports.push((Port::To(client.id, stream), sink.fd.as_fd(), PollFlags::OUT));
                }
            }
        }
        ports
    }

    /// Moves data at a port that is ready.
    pub(super) fn move_data(&mut self, port: Port) {
        match port {
            Port::Output(stream) => {
                self.read_output(stream);
            }
            Port::Input => self.write_input(),
            Port::From(id) => self.read_client(id),
            Port::To(id, stream) => {
                if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
                    client.flush(stream);
                }
            }
        }
    }

    /// Reads one piece of output, logs it and passes it on. Whether more may come.
    fn read_output(&mut self, stream: Stream) -> bool {
        let output = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let Some(output) = output else { return false };
        let Some(fd) = output.fd.as_ref().or(self.terminal.as_ref()) else { return false };
        let mut buffer = [0; 32 << 10];
        match read(fd, &mut buffer) {
            Err(rustix::io::Errno::AGAIN) => false,
            Err(rustix::io::Errno::INTR) => true,
            // A terminal's other side reports its end as an error.
            Ok(0) | Err(_) => {
                match output.fd.is_some() {
                    true => output.fd = None,
                    false => self.terminal = None,
                }
                false
            }
            Ok(length) => {
                let mut entries = Vec::new();
                output.entries.add(&buffer[..length], sys::now(), &mut entries);
                self.write_log(&entries);
                for client in &mut self.clients {
                    client.give(stream, &buffer[..length]);
                }
                true
            }
        }
    }

    /// Writes the log to a new file of its name; the old file is complete then.
    pub(super) fn reopen_log(&mut self) -> io::Result<()> {
        if self.log.is_some() {
            self.log = Some(log::open(&self.log_path)?);
        }
        Ok(())
    }

    fn write_log(&mut self, entries: &[u8]) {
        // A full disk costs log lines, not the container.
        if let Some(log) = &mut self.log
            && !entries.is_empty()
        {
            let _ = log.write_all(entries);
        }
    }

    fn write_input(&mut self) {
        let Some(fd) = self.terminal.as_ref().or(self.stdin.as_ref()) else {
            self.pending_input.clear();
            return;
        };
        match write(fd, &self.pending_input) {
            Ok(length) => {
                self.pending_input.drain(..length);
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => {
                self.pending_input.clear();
                self.stdin = None;
            }
        }
        self.close_input_if_done();
    }

    fn read_client(&mut self, id: ConnectionId) {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else { return };
        let Some(fd) = &client.stdin else { return };
        let mut buffer = [0; 8 << 10];
        match read(fd, &mut buffer) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Ok(0) | Err(_) => {
                client.stdin = None;
                self.writer_left();
            }
            Ok(length) => {
                self.pending_input.extend_from_slice(&buffer[..length]);
                self.write_input();
            }
        }
    }

    /// The first writer's end closes the input of a container that takes one only.
    fn writer_left(&mut self) {
        if self.stdin_once && !self.clients.iter().any(|client| client.stdin.is_some()) {
            self.stdin_once = false;
            self.closing_input();
        }
    }

    fn closing_input(&mut self) {
        self.stdin_closing = true;
        self.close_input_if_done();
    }

    fn close_input_if_done(&mut self) {
        if self.stdin_closing && self.pending_input.is_empty() {
            self.stdin = None;
        }
    }

    /// Sets the size of its terminal, if it has one.
    pub(super) fn resize(&self, columns: u16, rows: u16) {
        if let Some(terminal) = &self.terminal {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            let _ = tcsetwinsize(terminal, size);
        }
    }

    /// Starts to copy output to a client, and its input here. The descriptors are standard output,
    /// standard error, then standard input if it has one.
    pub(super) fn attach(&mut self, id: ConnectionId, stdin: bool, fds: Vec<OwnedFd>) {
        let mut fds = fds.into_iter();
        let mut sink = || {
            let fd = fds.next()?;
            ioctl_fionbio(&fd, true).ok()?;
            Some(Sink { fd, backlog: Vec::new() })
        };
        let (stdout, stderr) = (sink(), sink());
        let has_input = self.stdin.is_some() || self.terminal.is_some();
        let stdin = fds.next().filter(|_| stdin && has_input);
        if let Some(stdin) = &stdin {
            let _ = ioctl_fionbio(stdin, true);
        }
        // A terminal's output is one stream.
        let stderr = stderr.filter(|_| self.terminal.is_none());
        self.clients.push(Client { id, stdin, stdout, stderr });
    }

    /// A client left.
    pub(super) fn detach(&mut self, id: ConnectionId) {
        let wrote = self.clients.iter().any(|client| client.id == id && client.stdin.is_some());
        self.clients.retain(|client| client.id != id);
        if wrote {
            self.writer_left();
        }
    }

    /// Its first process ended: takes what output is left, cleans up and records the end.
    pub(super) fn finish(mut self, code: i32) -> Exit {
        // With a private pid namespace nothing is left. Otherwise, what is left belongs to it.
        self.cgroup.kill_all();
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.read_output(stream) {}
        }
        let mut entries = Vec::new();
        for output in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            output.entries.finish(sys::now(), &mut entries);
        }
        self.write_log(&entries);
        let oom = code != 0 && self.cgroup.oom_kills() > 0;
        let reason = match code {
            0 => "Completed",
            _ if oom => "OOMKilled",
            _ => "Error",
        };
        let exit = Exit { code, at: sys::now(), reason: reason.to_owned(), message: String::new() };
        self.end(&exit);
        exit
    }

    /// Cleans up and records how it ended.
    pub(super) fn end(self, exit: &Exit) {
        self.cgroup.kill_all();
        let _ = self.cgroup.remove();
        let _ = fs::remove_dir_all(&self.libcontainer);
        let _ = disk::write(&self.directory.join(EXIT), exit);
    }
}

impl Client {
    fn sink(&mut self, stream: Stream) -> &mut Option<Sink> {
        match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        }
    }

    fn give(&mut self, stream: Stream, data: &[u8]) {
        if let Some(sink) = self.sink(stream) {
            sink.backlog.extend_from_slice(data);
        }
        self.flush(stream);
    }

    fn flush(&mut self, stream: Stream) {
        let slot = self.sink(stream);
        let Some(sink) = slot else { return };
        while !sink.backlog.is_empty() {
            match write(&sink.fd, &sink.backlog) {
                Ok(length) => {
                    sink.backlog.drain(..length);
                }
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => {
                    *slot = None;
                    return;
                }
            }
        }
        if sink.backlog.len() > BACKLOG_BYTES_MAX {
            *slot = None;
        }
    }
}
