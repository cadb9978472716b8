//! The few system calls that need `unsafe`, and small helpers around file descriptors.
//!
//! Processes that use [`fork`] have one thread: the zygote, the shims and their helpers. None of it
//! runs in the agent.

use std::{
    fs, io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use k8s_openapi::jiff::Timestamp;
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// Which side of a fork this is.
#[derive(Debug)]
pub(super) enum Fork {
    /// The new process.
    Child,
    /// The old one, and the new one's id.
    Parent(Pid),
}

/// Duplicates this process, which must have one thread.
pub(super) fn fork() -> io::Result<Fork> {
    // SAFETY: the callers are single-threaded, so that no lock is held by a thread that the child
    // does not have.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid_of(pid)?)),
    }
}

/// Like [`fork`], but the child's parent is this process's parent.
pub(super) fn fork_sibling() -> io::Result<Fork> {
    // SAFETY: as for `fork`; without CLONE_VM and with a null stack, clone behaves as fork does.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            libc::CLONE_PARENT | libc::SIGCHLD,
            0usize,
            0usize,
            0usize,
            0usize,
        )
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid_of(pid as i32)?)),
    }
}

/// A process id as rustix has it.
pub(super) fn pid_of(pid: i32) -> io::Result<Pid> {
    Pid::from_raw(pid).ok_or_else(|| io::Error::other("no process has id 0"))
}

/// Ends this process at once, without running what the parent registered for its own end.
pub(super) fn exit(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Gives every signal its default meaning and unblocks all: what a container's process expects.
/// Rust's runtime ignores SIGPIPE, and the shim ignores more.
pub(super) fn default_signals() {
    // SAFETY: SIG_DFL is valid for every signal, and an empty set is a valid mask.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

/// Ignores the signals that a terminal or an operator may send to a whole group.
pub(super) fn ignore_signals() {
    for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGTERM, libc::SIGQUIT, libc::SIGPIPE] {
        // SAFETY: SIG_IGN is valid for these signals.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Lets the kernel reap children of this process.
pub(super) fn ignore_children() {
    // SAFETY: SIG_IGN is valid for SIGCHLD.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Undoes [`ignore_children`].
pub(super) fn heed_children() {
    // SAFETY: SIG_DFL is valid for SIGCHLD.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Closes all descriptors from 3 up except `keep`. Only right after [`fork`], in the child.
pub(super) fn close_others(keep: &[BorrowedFd<'_>]) {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if fd > first {
            let last = if fd == u32::MAX { fd } else { fd - 1 };
            // SAFETY: the callers do this right after fork, before they open descriptors of their
            // own. The values that own the inherited ones are the parent's: a child never drops
            // them, because it ends by `exit` or by executing a program.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
        first = fd.saturating_add(1).max(first);
    }
}

/// Makes a mount that is attached nowhere refuse writes.
pub(super) fn make_read_only(mount: &OwnedFd) -> io::Result<()> {
    set_attributes(mount, libc::MOUNT_ATTR_RDONLY, 0, 0)
}

/// Sets the propagation (`MS_PRIVATE`, `MS_SLAVE`) of a mount that is attached nowhere, and of those
/// below it.
pub(super) fn set_propagation(mount: &OwnedFd, propagation: libc::c_ulong) -> io::Result<()> {
    set_attributes(mount, 0, propagation, libc::AT_RECURSIVE)
}

fn set_attributes(
    mount: &OwnedFd,
    set: u64,
    propagation: u64,
    flags: libc::c_int,
) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation, userns_fd: 0 };
    // SAFETY: the path is an empty string, and the attributes are as long as said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sends a signal to the process group led by `pid`.
pub(super) fn kill_group(pid: Pid, signal: i32) {
    // SAFETY: kill has no memory effects.
    unsafe { libc::kill(-pid.as_raw_nonzero().get(), signal) };
}

/// Sends a signal, whatever its number, to a process.
pub(super) fn kill(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: kill has no memory effects.
    match unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The wall clock. Read from the kernel each time: a shim lives for months, so that an anchored
/// clock would miss corrections, and it never runs on paused time.
pub(super) fn now() -> Timestamp {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Timestamp::new(time.tv_sec, time.tv_nsec as i32).unwrap_or_default()
}

/// A process to watch. Gone already is an error.
pub(super) fn watch(pid: Pid) -> io::Result<OwnedFd> {
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Kills a watched process.
pub(super) fn kill_watched(pidfd: &OwnedFd) {
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
}

/// Writes a file in one go, replacing it as a whole. Does not wait for the disk: these files matter
/// to processes that outlive the writer, none of which outlives the machine.
pub(super) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temp = path.as_os_str().to_owned();
    temp.push(format!(".{}", std::process::id()));
    fs::write(&temp, bytes)?;
    fs::rename(&temp, path)
}

/// Opens a path inside `root` as a process chrooted there would see it: links and `..` cannot
/// leave it.
pub(super) fn open_in_root(root: &OwnedFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)?)
}

/// Opens a directory for [`open_in_root`].
pub(super) fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Makes a directory and its parents inside `root`, never outside it.
pub(super) fn make_dirs_in_root(root: &OwnedFd, path: &Path) -> io::Result<()> {
    let mut so_far = std::path::PathBuf::new();
    for part in path.components() {
        let std::path::Component::Normal(part) = part else { continue };
        let parent = match so_far.as_os_str().is_empty() {
            true => Path::new("/"),
            false => so_far.as_path(),
        };
        let directory = open_in_root(root, parent, OFlags::PATH | OFlags::DIRECTORY)?;
        match mkdirat(&directory, part, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        so_far.push(part);
    }
    Ok(())
}
