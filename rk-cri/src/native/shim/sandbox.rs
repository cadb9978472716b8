//! Setting a sandbox up: the namespaces that its containers share.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::Mode,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    net::SocketType,
    process::{
        Pid, Signal, WaitOptions, pivot_root, set_parent_process_death_signal, wait, waitpid,
    },
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use super::super::{
    disk::{SOCKET, SandboxRecord},
    sys::{self, Fork},
    wire::{Channel, listen_here},
};

/// A sandbox that is set up.
pub(super) struct Sandbox {
    pub(super) listener: OwnedFd,
    /// A mount namespace whose root is the sandbox's shared memory.
    pub(super) shm: Option<OwnedFd>,
    pub(super) pause: Option<Pid>,
}

/// Makes the namespaces and moves this process into them.
pub(super) fn set_up(record: &SandboxRecord, directory: &Path) -> io::Result<Sandbox> {
    let config = &record.config;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    std::env::set_current_dir(directory)?;
    let listener = listen_here(SOCKET, SocketType::SEQPACKET)?;
    let mut own = UnshareFlags::NEWUTS;
    if !config.host_ipc {
        own |= UnshareFlags::NEWIPC;
    }
    match &record.netns {
        Some(path) => {
            let namespace = fs::File::open(path)?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        }
        None if config.host_network => {}
        None => own |= UnshareFlags::NEWNET,
    }
    // SAFETY: this process has one thread.
    unsafe { unshare_unsafe(own) }?;
    if !config.hostname.is_empty() {
        rustix::system::sethostname(config.hostname.as_bytes())?;
    }
    for (name, value) in &config.sysctls {
        set_sysctl(name, value)?;
    }
    Ok(Sandbox {
        listener,
        shm: Some(shared_memory(directory)?),
        pause: match config.share_process_namespace && !config.host_pid {
            true => Some(pause()?),
            false => None,
        },
    })
}

/// Sets a kernel parameter. The kernel keeps these per namespace; others the agent must not pass.
fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    let namespaced = ["net.", "kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
    let dotted = name.replace('/', ".");
    if !namespaced.iter().any(|prefix| dotted.starts_with(prefix)) || dotted.contains("..") {
        return Err(io::Error::other(format!("sysctl {name} is not namespaced")));
    }
    let path = Path::new("/proc/sys").join(dotted.replace('.', "/"));
    fs::write(path, value)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot set sysctl {name}: {error}")))
}

/// Makes the sandbox's shared memory, as the root of a mount namespace that nobody is in. The
/// descriptor holds it, so that it ends with this process and is mounted nowhere in the host.
fn shared_memory(directory: &Path) -> io::Result<OwnedFd> {
    let (mine, theirs) = Channel::pair()?;
    let target = directory.join("shm");
    fs::create_dir_all(&target)?;
    let child = match sys::fork()? {
        Fork::Child => {
            let made = make_shared_memory(&target);
            let sent = match &made {
                Ok(namespace) => theirs.send(&None::<String>, &[namespace.as_fd()]),
                Err(error) => theirs.send(&Some(error.to_string()), &[]),
            };
            sys::exit(i32::from(sent.is_err()))
        }
        Fork::Parent(child) => child,
    };
    drop(theirs);
    let answer = mine.receive::<Option<String>>();
    let _ = waitpid(Some(child), WaitOptions::empty());
    match answer? {
        Some((None, mut fds)) if !fds.is_empty() => Ok(fds.remove(0)),
        Some((Some(error), _)) => Err(io::Error::other(format!("cannot make /dev/shm: {error}"))),
        _ => Err(io::Error::other("cannot make /dev/shm")),
    }
}

fn make_shared_memory(target: &Path) -> io::Result<fs::File> {
    // SAFETY: this process has one thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    // Opened now: there is no /proc in the namespace later.
    let namespace = fs::File::open("/proc/self/ns/mnt")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("shm", target, "tmpfs", flags, Some(c"mode=1777,size=67108864"))?;
    std::env::set_current_dir(target)?;
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(namespace)
}

/// Forks the first process of a pid namespace that the containers share. It only buries orphans,
/// and dies with this process.
fn pause() -> io::Result<Pid> {
    let (mine, theirs) = Channel::pair()?;
    let helper = match sys::fork()? {
        Fork::Child => {
            // A pid namespace is for children. Only this helper's: the shim's own stay outside.
            // SAFETY: this process has one thread.
            let forked = unsafe { unshare_unsafe(UnshareFlags::NEWPID) }
                .map_err(io::Error::from)
                .and_then(|()| sys::fork_sibling());
            match forked {
                Ok(Fork::Child) => bury_orphans(),
                Ok(Fork::Parent(pid)) => {
                    let _ = theirs.send(&pid.as_raw_nonzero().get(), &[]);
                    sys::exit(0)
                }
                Err(_) => sys::exit(1),
            }
        }
        Fork::Parent(helper) => helper,
    };
    drop(theirs);
    let _ = waitpid(Some(helper), WaitOptions::empty());
    match mine.receive::<i32>()? {
        Some((pid, _)) => sys::pid_of(pid),
        None => Err(io::Error::other("cannot make a pid namespace")),
    }
}

fn bury_orphans() -> ! {
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let _ = rustix::thread::set_name(c"pause");
    sys::close_others(&[]);
    loop {
        if wait(WaitOptions::empty()).is_err() {
            // No child yet. Orphans announce themselves by SIGCHLD, which pause(2) returns for
            // only with a handler; a second's sleep does as well for processes already dead.
            let time = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
            let _ = rustix::event::poll(&mut [], Some(&time));
        }
    }
}
