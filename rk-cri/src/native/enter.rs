//! Running a further command in a container, in a process of its own that the shim forks for it.
//!
//! The helper joins the container's cgroup and namespaces, forks once more (a pid namespace holds
//! for children only) and ends; the command becomes the shim's child. Before it enters, it closes
//! everything it inherited and turns undumpable, so that nothing in the container can reach the
//! host through it.

use std::{
    ffi::CString,
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use libcontainer::{
    capabilities::{drop_privileges, reset_effective},
    oci_spec::runtime::Spec,
    syscall::{Syscall, syscall::create_syscall},
};
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    process::{DumpableBehavior, Pid, set_dumpable_behavior},
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    thread::{
        Gid, ThreadNameSpaceType, Uid, move_into_thread_name_spaces, set_no_new_privs,
        set_thread_groups,
    },
};

use super::{
    cgroup::Cgroup,
    create::{Outcome, execute, pipe},
    seccomp::{Filter, confine},
    sys::{self, Fork},
    wire::Channel,
};

/// What the shim hands to a command.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) command: &'a [String],
    pub(super) tty: bool,
    /// Standard input, output and error; none with a terminal.
    pub(super) stdio: Vec<OwnedFd>,
    /// The container's first process, and its descriptor.
    pub(super) pid: Pid,
    pub(super) pidfd: BorrowedFd<'a>,
    pub(super) cgroup: &'a Cgroup,
    /// The container's directory, with its configuration.
    pub(super) directory: &'a Path,
}

/// Runs the command and tells `outcome`. Runs in the helper process, which then ends.
pub(super) fn enter(entry: Entry<'_>, outcome: &Channel) {
    let mut keep = vec![outcome.as_fd(), entry.pidfd];
    keep.extend(entry.stdio.iter().map(AsFd::as_fd));
    sys::close_others(&keep);
    let result = match start(entry) {
        Ok((pid, None)) => outcome.send(&Outcome::Running { pid }, &[]),
        Ok((pid, Some(terminal))) => outcome.send(&Outcome::Running { pid }, &[terminal.as_fd()]),
        Err(message) => outcome.send(&Outcome::Failed { message }, &[]),
    };
    let _ = result;
}

fn start(entry: Entry<'_>) -> Result<(i32, Option<OwnedFd>), String> {
    let text = |what: &str| {
        let what = what.to_owned();
        move |error: io::Error| format!("{what}: {error}")
    };
    sys::default_signals();
    let spec =
        Spec::load(entry.directory.join("config.json")).map_err(|error| error.to_string())?;
    let filter = Filter::read(entry.directory)
        .map_err(text("cannot read the container's seccomp profile"))?;
    let (error_in, error_out) = pipe().map_err(text("cannot make a pipe"))?;
    let (terminal_in, terminal_out) = Channel::pair().map_err(text("cannot make a socket"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| text("cannot turn undumpable")(error.into()))?;
    entry.cgroup.join().map_err(text("cannot join the container's cgroup"))?;
    join(&entry).map_err(text("cannot join the container's namespaces"))?;
    match sys::fork_sibling().map_err(text("cannot fork"))? {
        Fork::Child => {
            let message = match prepare(&entry, &spec, filter.as_ref(), terminal_out) {
                Ok(environment) => execute(entry.command, &environment),
                Err(error) => error.to_string(),
            };
            let _ = rustix::io::write(&error_out, message.as_bytes());
            sys::exit(126)
        }
        Fork::Parent(pid) => {
            drop((error_out, terminal_out));
            let mut message = String::new();
            io::Read::read_to_string(&mut fs::File::from(error_in), &mut message)
                .map_err(text("cannot read the outcome"))?;
            if !message.is_empty() {
                return Err(message);
            }
            let terminal = match entry.tty {
                true => {
                    let received = terminal_in.receive::<()>().map_err(text("no terminal came"))?;
                    received.and_then(|(_, mut fds)| fds.pop())
                }
                false => None,
            };
            Ok((pid.as_raw_nonzero().get(), terminal))
        }
    }
}

/// Joins the namespaces of the container's first process.
fn join(entry: &Entry<'_>) -> io::Result<()> {
    let mut types = ThreadNameSpaceType::MOUNT;
    // A namespace that is already this process's own must not be listed: joining one's own pid
    // namespace is fine, but the shim is in the sandbox's network, IPC and UTS namespaces anyway.
    let own = fs::read_link("/proc/self/ns/pid")?;
    if fs::read_link(format!("/proc/{}/ns/pid", entry.pid.as_raw_nonzero()))? != own {
        types |= ThreadNameSpaceType::PROCESS_ID;
    }
    Ok(move_into_thread_name_spaces(entry.pidfd, types)?)
}

/// Becomes what the container's configuration says, and returns the environment.
fn prepare(
    entry: &Entry<'_>,
    spec: &Spec,
    filter: Option<&Filter>,
    terminal: Channel,
) -> io::Result<Vec<CString>> {
    let missing = || io::Error::other("the container's configuration has no process");
    let process = spec.process().as_ref().ok_or_else(missing)?;
    rustix::process::setsid()?;
    if entry.tty {
        open_terminal(&terminal)?;
    } else {
        for (number, fd) in entry.stdio.iter().enumerate() {
            // SAFETY: the numbers are those of this process's standard streams, which nothing owns.
            if unsafe { libc::dup2(fd.as_raw_fd(), number as i32) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    drop(terminal);
    let syscall = create_syscall();
    // All but the standard streams close when the program is executed.
    syscall.close_range(0).map_err(io::Error::other)?;
    let denied = std::env::set_current_dir(process.cwd()).err();
    become_user(spec, syscall.as_ref())?;
    if denied.is_some() {
        std::env::set_current_dir(process.cwd())?;
    }
    let mut environment: Vec<CString> = process
        .env()
        .iter()
        .flatten()
        .filter_map(|variable| CString::new(variable.as_bytes()).ok())
        .collect();
    if entry.tty && !environment.iter().any(|variable| variable.to_bytes().starts_with(b"TERM=")) {
        environment.push(c"TERM=xterm".to_owned());
    }
    confine(filter, process)?;
    Ok(environment)
}

/// Takes on the user, the groups and the capabilities, in the one order that works.
fn become_user(spec: &Spec, syscall: &dyn Syscall) -> io::Result<()> {
    let missing = || io::Error::other("the container's configuration has no process");
    let process = spec.process().as_ref().ok_or_else(missing)?;
    let user = process.user();
    let groups: Vec<Gid> =
        user.additional_gids().iter().flatten().map(|gid| Gid::from_raw(*gid)).collect();
    set_thread_groups(&groups)?;
    rustix::thread::set_keep_capabilities(true)?;
    let gid = Gid::from_raw(user.gid());
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    let uid = Uid::from_raw(user.uid());
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    reset_effective(syscall).map_err(io::Error::other)?;
    rustix::thread::set_keep_capabilities(false)?;
    if let Some(capabilities) = process.capabilities() {
        drop_privileges(capabilities, syscall).map_err(io::Error::other)?;
    }
    if process.no_new_privileges().unwrap_or(false) {
        set_no_new_privs(true)?;
    }
    Ok(())
}

/// Opens a terminal of the container's own devpts, makes it this session's, and sends its other
/// side back.
fn open_terminal(other: &Channel) -> io::Result<()> {
    // Never through a link that the container could have put there.
    let ptmx = openat(
        CWD,
        "/dev/pts/ptmx",
        OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    if rustix::fs::fstatfs(&ptmx)?.f_type as u64 != 0x1cd1 {
        return Err(io::Error::other("/dev/pts is not a devpts"));
    }
    unlockpt(&ptmx)?;
    let terminal = ioctl_tiocgptpeer(&ptmx, OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    rustix::process::ioctl_tiocsctty(&terminal)?;
    other.send(&(), &[ptmx.as_fd()])?;
    for number in 0..3 {
        // SAFETY: the numbers are those of this process's standard streams, which nothing owns.
        if unsafe { libc::dup2(terminal.as_raw_fd(), number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
