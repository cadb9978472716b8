//! Network namespaces: making them under a name, and doing things inside them.
//!
//! A namespace is a path: `/run/x/netns/node`, or `/proc/<pid>/ns/net`. A socket belongs for good
//! to the namespace it was made in, so that code enters one only to make sockets: on a thread of
//! its own, which ends right after.

use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use tokio::sync::oneshot;

/// Makes a network namespace that lasts until [`delete`], and mounts it at `path`. One that is
/// there already is kept.
///
/// # Errors
/// What the kernel says; `EPERM` without `CAP_SYS_ADMIN`.
pub fn create(path: &Path) -> io::Result<()> {
    if is_namespace(path) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match File::create_new(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let target = path.to_owned();
    let made = on_thread(move || {
        // SAFETY: only this thread leaves the network namespace; no descriptor table is split.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
        mount_bind("/proc/thread-self/ns/net", &target)?;
        // Copies of this mount in other mount namespaces must not keep it from going away here.
        mount_change(&target, MountPropagationFlags::PRIVATE)?;
        Ok(())
    });
    if made.is_err() {
        let _ = fs::remove_file(path);
    }
    made
}

/// Unmounts the namespace at `path` and removes the file. One that is not there is no error. The
/// kernel ends the namespace when nothing else holds it.
pub fn delete(path: &Path) -> io::Result<()> {
    while is_namespace(path) {
        unmount(path, UnmountFlags::DETACH)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a namespace, rather than nothing or a mere file, is at `path`.
pub fn is_namespace(path: &Path) -> bool {
    const NSFS_MAGIC: u64 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type as u64 == NSFS_MAGIC)
}

/// Runs `work` in the namespace at `path`, or in this process's own for `None`, on a thread of its
/// own. Blocks.
///
/// # Errors
/// `NotFound` when there is no such namespace; whatever `work` returns.
pub fn run<T: Send + 'static>(
    path: Option<&Path>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let namespace = path.map(File::open).transpose()?;
    on_thread(move || {
        enter(namespace)?;
        work()
    })
}

/// [`run`] without blocking. `work` runs with the tokio runtime entered, so that it can make
/// tokio's sockets.
pub async fn run_async<T: Send + 'static>(
    path: Option<PathBuf>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (send, receive) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new().name("netns".to_owned()).spawn(move || {
        let _entered = runtime.enter();
        let result =
            path.as_deref().map(File::open).transpose().and_then(enter).and_then(|()| work());
        let _ = send.send(result);
    })?;
    receive.await.map_err(|_| io::Error::other("the thread in the network namespace died"))?
}

/// Connects to a TCP address as it is seen in the namespace at `path`.
pub async fn connect(
    path: Option<PathBuf>,
    address: SocketAddr,
    timeout: Duration,
) -> io::Result<tokio::net::TcpStream> {
    // Made there, and connected here: the thread in the namespace does not wait for the peer.
    let socket = run_async(path, move || match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
    })
    .await?;
    match tokio::time::timeout(timeout, socket.connect(address)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
    }
}

/// Listens on a TCP address in the namespace at `path`.
pub async fn listen(
    path: Option<PathBuf>,
    address: SocketAddr,
) -> io::Result<tokio::net::TcpListener> {
    run_async(path, move || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    })
    .await
}

fn enter(namespace: Option<File>) -> io::Result<()> {
    if let Some(namespace) = namespace {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    }
    Ok(())
}

fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let thread = std::thread::Builder::new().name("netns".to_owned()).spawn(work)?;
    thread.join().map_err(|_| io::Error::other("the thread in the network namespace died"))?
}
