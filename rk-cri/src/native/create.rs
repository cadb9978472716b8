//! Starting a container, in a process of its own that the shim forks for it.
//!
//! That process makes a mount namespace, mounts the container's root in it and lets libcontainer do
//! the rest. The container's first process becomes the shim's child (`as_sibling`); this one ends,
//! and with it everything that libcontainer allocated or mounted outside the container. So a crash
//! leaves no mount behind: none was ever made in the host's namespace.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use libcontainer::{
    container::builder::ContainerBuilder,
    oci_spec::runtime::Spec,
    syscall::syscall::SyscallType,
    workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError},
};
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change,
        move_mount, open_tree,
    },
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use serde::{Deserialize, Serialize};

use super::{
    devices,
    disk::ContainerRecord,
    propagation,
    seccomp::{Filter, confine},
    spec::{Facts, spec, working_dir},
    sys,
    user::Accounts,
    wire::Channel,
};

/// How a helper process of the shim did.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Outcome {
    /// The program runs, as this child of the shim. Beside it: its terminal, if it has a new one.
    Running { pid: i32 },
    /// It does not, and why.
    Failed { message: String },
}

/// The ends of a container's standard streams that it gets itself. None of them with a terminal.
#[derive(Debug, Default)]
pub(super) struct Stdio {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

/// What the shim hands to the start of a container.
#[derive(Debug)]
pub(super) struct Creation<'a> {
    pub(super) record: &'a ContainerRecord,
    pub(super) directory: &'a Path,
    pub(super) stdio: Stdio,
    /// A mount namespace whose root is the sandbox's shared memory.
    pub(super) shm: Option<BorrowedFd<'a>>,
    pub(super) pid_namespace_of: Option<i32>,
}

/// Starts the container and tells `outcome`. Runs in the helper process, which then ends.
pub(super) fn create(creation: Creation<'_>, outcome: &Channel) {
    // What the shim has open is none of the container's business, not even on its way there.
    let Stdio { stdin, stdout, stderr } = &creation.stdio;
    let mut keep = vec![outcome.as_fd()];
    keep.extend(creation.shm);
    keep.extend([stdin, stdout, stderr].into_iter().flatten().map(AsFd::as_fd));
    sys::close_others(&keep);
    let result = match start(creation) {
        Ok(pid) => Outcome::Running { pid },
        Err(message) => Outcome::Failed { message },
    };
    let _ = outcome.send(&result, &[]);
}

fn start(creation: Creation<'_>) -> Result<i32, String> {
    let Creation { record, directory, stdio, shm, pid_namespace_of } = creation;
    sys::default_signals();
    let rootfs = directory.join("rootfs");
    let volumes = propagation::take(&record.config.mounts)
        .map_err(|error| format!("failed to mount the container's volumes: {error}"))?;
    mount_root(record, directory, &rootfs, shm)
        .map_err(|error| format!("failed to mount the container's root: {error}"))?;
    let mut record = record.clone();
    propagation::attach(volumes, &mut record.config.mounts, &directory.join("volumes"))
        .map_err(|error| format!("failed to mount the container's volumes: {error}"))?;
    let record = &record;
    let root = sys::open_dir(&rootfs).map_err(|error| error.to_string())?;
    let user = Accounts::read(&root).resolve(&record.config.security, &record.image.user)?;
    let cwd = working_dir(&record.config, &record.image);
    sys::make_dirs_in_root(&root, &cwd).map_err(|error| {
        format!("failed to make the working directory {}: {error}", cwd.display())
    })?;
    let asked = record.config.devices.iter().map(devices::of_host);
    let (in_dev, elsewhere): (Vec<_>, Vec<_>) =
        asked.collect::<Result<Vec<_>, _>>()?.into_iter().partition(devices::is_in_dev);
    for device in &elsewhere {
        devices::make(&root, device)
            .map_err(|error| format!("failed to make the device {}: {error}", device["path"]))?;
    }
    drop(root);
    let filter = Filter::read(directory)
        .map_err(|error| format!("cannot read the container's seccomp profile: {error}"))?;
    let facts = Facts {
        user,
        filtered: filter.is_some(),
        capabilities: bounding_capabilities(),
        limits_swap: record.cgroup.limits_swap(),
        limits_huge_pages: record.cgroup.limits_huge_pages(),
        pid_namespace_of,
        shm: directory.join("shm"),
        device_rules: in_dev.iter().chain(&elsewhere).map(devices::rule).collect(),
        devices: match record.config.security.privileged {
            true => {
                let mut all = devices::all_below(Path::new("/dev"));
                all.retain(|device| in_dev.iter().all(|asked| asked["path"] != device["path"]));
                all.into_iter().chain(in_dev).collect()
            }
            false => in_dev,
        },
    };
    let spec = spec(record, &facts)?;
    let bytes = serde_json::to_vec(&spec).map_err(|error| error.to_string())?;
    fs::write(directory.join("config.json"), bytes).map_err(|error| error.to_string())?;

    // The program's end of this pipe closes when it is executed; before, an error comes through.
    let (error_in, error_out) = pipe().map_err(|error| error.to_string())?;
    let environment = spec["process"]["env"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|value| CString::new(value.as_str()?).ok())
        .collect();
    let mut builder = ContainerBuilder::new(record.id.clone(), SyscallType::default())
        .with_executor(Program { environment, filter, error: error_out.as_raw_fd() })
        .with_root_path(&record.libcontainer_dir)
        .map_err(chain)?;
    if record.config.tty {
        builder = builder.with_console_socket(Some(directory.join("console.sock")));
    }
    if let Some(stdin) = stdio.stdin {
        builder = builder.with_stdin(stdin);
    }
    if let Some(stdout) = stdio.stdout {
        builder = builder.with_stdout(stdout);
    }
    if let Some(stderr) = stdio.stderr {
        builder = builder.with_stderr(stderr);
    }
    let mut container = builder
        .as_init(directory)
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()
        .map_err(chain)?;
    let pid = container.pid().map(|pid| pid.as_raw()).ok_or("the container has no process")?;
    container.start().map_err(chain)?;
    drop(error_out);
    let mut message = String::new();
    io::Read::read_to_string(&mut fs::File::from(error_in), &mut message)
        .map_err(|error| error.to_string())?;
    match message.is_empty() {
        true => Ok(pid),
        false => Err(message),
    }
}

/// An error with everything below it, which libcontainer's errors do not print themselves.
fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    text
}

/// Moves into a mount namespace of this process's own, and mounts root and shared memory there.
fn mount_root(
    record: &ContainerRecord,
    directory: &Path,
    rootfs: &Path,
    shm: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let shm = shm.map(|namespace| take_root_of(namespace)).transpose()?;
    // SAFETY: this process has one thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    // Mounts that the host makes later still come in; none goes out.
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM)?;
    if let Some(shm) = shm {
        let target = directory.join("shm");
        fs::create_dir_all(&target)?;
        move_mount(shm, "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    }
    // Layers by their short names, relative to their directory: the options fill one page at most.
    std::env::set_current_dir(&record.layers_dir)?;
    let empty = directory.join("empty");
    let lower = match record.layers.is_empty() {
        true => {
            fs::create_dir_all(&empty)?;
            empty.to_string_lossy().into_owned()
        }
        false => record.layers.iter().rev().map(String::as_str).collect::<Vec<_>>().join(":"),
    };
    let options = format!(
        "lowerdir={lower},upperdir={},workdir={}",
        directory.join("upper").display(),
        directory.join("work").display()
    );
    let options = CString::new(options)?;
    let mounted =
        mount("overlay", rootfs, "overlay", MountFlags::empty(), Some(options.as_c_str()));
    std::env::set_current_dir("/")?;
    Ok(mounted?)
}

/// A copy of the mount that is the root of another mount namespace, attached nowhere yet.
fn take_root_of(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let here = fs::File::open("/proc/self/ns/mnt")?;
    move_into_link_name_space(namespace, Some(LinkNameSpaceType::Mount))?;
    let tree =
        open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC);
    move_into_link_name_space(here.as_fd(), Some(LinkNameSpaceType::Mount))?;
    Ok(tree?)
}

/// The capabilities this process may hand on.
pub(super) fn bounding_capabilities() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapBnd:")?.trim(), 16).ok())
        .unwrap_or(0)
}

/// A pipe whose ends no executed program inherits.
pub(super) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// Executes the container's program, and says why when it cannot.
#[derive(Clone, Debug)]
struct Program {
    environment: Vec<CString>,
    filter: Option<Filter>,
    /// Where an error goes. Belongs to the helper process and, by the fork, to the container's.
    error: RawFd,
}

impl Executor for Program {
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        // `exec` says it better, and at the same moment as far as anybody outside can tell.
        Ok(())
    }

    fn setup_envs(
        &self,
        _: std::collections::HashMap<String, String>,
    ) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let process = spec.process().as_ref();
        let arguments = process.and_then(|process| process.args().clone()).unwrap_or_default();
        let message = match process.map(|process| confine(self.filter.as_ref(), process)) {
            Some(Err(error)) => error.to_string(),
            _ => execute(&arguments, &self.environment),
        };
        // SAFETY: the descriptor is open until this process executes a program or ends.
        let error = unsafe { OwnedFd::from_raw_fd(self.error) };
        let _ = rustix::io::write(&error, message.as_bytes());
        sys::exit(128)
    }
}

/// Executes a program with this environment, found as a shell would. Returns only to say why it
/// could not, in runc's words.
pub(super) fn execute(arguments: &[String], environment: &[CString]) -> String {
    let Some(name) = arguments.first() else { return "no command specified".to_owned() };
    let program = match find_program(name, environment) {
        Ok(program) => program,
        Err(why) => return format!("exec: {name:?}: {why}"),
    };
    let c_arguments: Result<Vec<CString>, _> =
        arguments.iter().map(|argument| CString::new(argument.as_bytes())).collect();
    let (Ok(c_arguments), Ok(c_program)) =
        (c_arguments, CString::new(program.as_os_str().as_bytes()))
    else {
        return format!("exec: {name:?}: invalid argument");
    };
    let pointers = |strings: &[CString]| {
        let mut all: Vec<*const libc::c_char> =
            strings.iter().map(|string| string.as_ptr()).collect();
        all.push(std::ptr::null());
        all
    };
    let (argv, envp) = (pointers(&c_arguments), pointers(environment));
    // SAFETY: both lists end with a null pointer and live until the call returns.
    unsafe { libc::execve(c_program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    format!("exec: {name:?}: {}", words(&io::Error::last_os_error()))
}

fn find_program(name: &str, environment: &[CString]) -> Result<std::path::PathBuf, String> {
    let executable = |path: &Path| -> io::Result<()> {
        // Not through a magic link of /proc: `/proc/self/exe` is this program, which is the host's.
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS);
        let meta = match found {
            Ok(found) => fs::File::from(found).metadata()?,
            Err(rustix::io::Errno::LOOP) => {
                return Err(io::Error::from_raw_os_error(libc::EACCES));
            }
            Err(error) => return Err(error.into()),
        };
        if meta.is_dir() {
            return Err(io::Error::from_raw_os_error(libc::EISDIR));
        }
        let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions());
        match mode & 0o111 {
            0 => Err(io::Error::from_raw_os_error(libc::EACCES)),
            _ => Ok(()),
        }
    };
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => Ok(name.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(format!("stat {name}: no such file or directory"))
            }
            Err(error) => Err(words(&error)),
        };
    }
    let path = environment.iter().find_map(|variable| variable.to_bytes().strip_prefix(b"PATH="));
    let path = String::from_utf8_lossy(path.unwrap_or_default()).into_owned();
    let mut denied = false;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = Path::new(directory).join(name);
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) => denied |= error.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    Err(match denied {
        true => "permission denied".to_owned(),
        false => "executable file not found in $PATH".to_owned(),
    })
}

/// An error as the C library and runc word it, without Rust's `(os error 2)`.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    text.to_lowercase()
}
