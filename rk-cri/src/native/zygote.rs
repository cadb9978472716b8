//! The zygote: a copy of this program that has just started, to fork shims from.
//!
//! Forking the agent itself would be wrong (it has threads) and dear (it is large). The zygote is
//! the agent's executable, run once; forks of it share its memory until they write, so that a shim
//! costs little more than what it itself allocates. It ends when the agent does; the shims do not.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::CWD,
    mount::{OpenTreeFlags, open_tree},
};

use super::{
    cgroup::Cgroup,
    shim,
    sys::{self, Fork},
    wire::{Channel, Spawn},
};

/// In the environment of the zygote: the cgroup of the shims.
const MARKER: &str = "RK_NATIVE_ZYGOTE";
/// In its environment once it runs from a read-only view of its program.
const SEALED: &str = "RK_NATIVE_SEALED";
const NAME: &str = "rk-shim";

static INITIALISED: AtomicBool = AtomicBool::new(false);

/// To be called first in `main` of a program that uses
/// [`NativeRuntime`](super::NativeRuntime), before any thread is started.
///
/// The runtime runs this same program again for the processes that supervise containers. In such a
/// process this function does that work and never returns; elsewhere it returns at once.
/// [`NativeRuntimeBuilder::shim_path`](super::NativeRuntimeBuilder::shim_path) names another program
/// for this instead.
pub fn init() {
    INITIALISED.store(true, Ordering::Relaxed);
    let is_zygote = std::env::args_os().next().is_some_and(|name| name == NAME);
    if !is_zygote {
        return;
    }
    if let Some(cgroup) = std::env::var_os(MARKER) {
        if std::env::var_os(SEALED).is_none() {
            // Older kernels cannot: there, only the check of programs' paths protects the file.
            let error = seal();
            eprintln!("the supervisor runs from a writable file: {error}");
        }
        let cgroup = cgroup.to_str().and_then(|json| serde_json::from_str(json).ok());
        run(cgroup)
    }
}

/// Whether this program called [`init`].
pub(super) fn initialised() -> bool {
    INITIALISED.load(Ordering::Relaxed)
}

/// Starts a zygote from `program`. Shims run in `cgroup`; what goes wrong in them is written to
/// `log`.
pub(super) fn spawn(program: &Path, cgroup: &Cgroup, log: &Path) -> io::Result<(Child, Channel)> {
    let (mine, theirs) = Channel::pair()?;
    let log = std::fs::File::options().create(true).append(true).open(log)?;
    let child = Command::new(program)
        .arg0(NAME)
        .env_clear()
        .env(MARKER, serde_json::to_string(cgroup)?)
        .current_dir("/")
        .stdin(Stdio::from(theirs.into_fd()))
        .stdout(Stdio::null())
        .stderr(Stdio::from(log))
        .spawn()?;
    Ok((child, mine))
}

/// Asks the zygote for a shim; `first` becomes the shim's first connection.
pub(super) fn ask(zygote: &Channel, directory: &Path, first: Channel) -> io::Result<()> {
    zygote.send(&Spawn { directory: directory.to_owned() }, &[first.as_fd()])
}

/// Executes this program again from a mount of its own that is read-only and attached nowhere.
/// Returns only to say why it could not.
///
/// A process that is about to become a container's is still this program while it enters the
/// container. What runs there could get hold of it through `/proc` and, once nobody executes the
/// file any more, overwrite the program that the host will run next (CVE-2019-5736).
fn seal() -> io::Error {
    let sealed = || -> io::Result<std::convert::Infallible> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let program = open_tree(CWD, "/proc/self/exe", flags)?;
        sys::make_read_only(&program)?;
        // Through the descriptor: the mount has no path.
        Err(Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .arg0(NAME)
            .env(SEALED, "1")
            .exec())
    };
    match sealed() {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

fn run(cgroup: Option<Cgroup>) -> ! {
    let _ = rustix::thread::set_name(c"rk-shim");
    // Away from the terminal's signals and from clean-ups that look for the agent's children.
    let _ = rustix::process::setsid();
    sys::ignore_signals();
    sys::ignore_children();
    if let Some(cgroup) = cgroup {
        cgroup.move_into();
    }
    let control = match rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3) {
        Ok(control) => Channel::from_fd(control),
        Err(_) => sys::exit(1),
    };
    replace_stdin();
    while let Ok(Some((Spawn { directory }, mut fds))) = control.receive::<Spawn>() {
        let Some(first) = fds.pop() else { continue };
        match sys::fork() {
            Ok(Fork::Child) => become_shim(&directory, control, first),
            Ok(Fork::Parent(_)) | Err(_) => {}
        }
    }
    sys::exit(0)
}

fn become_shim(directory: &Path, control: Channel, first: OwnedFd) -> ! {
    drop(control);
    let _ = rustix::process::setsid();
    sys::heed_children();
    sys::close_others(&[first.as_fd()]);
    shim::run(directory, Channel::from_fd(first))
}

fn replace_stdin() {
    let flags = rustix::fs::OFlags::RDONLY;
    if let Ok(null) = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty()) {
        let _ = rustix::stdio::dup2_stdin(null);
    }
}
