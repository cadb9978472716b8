//! Where the cluster keeps its files: the data directory, or a temporary one that goes with it.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::options::Options;

/// The directory of a run. A durable one is the user's, a temporary one is removed at the end.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    durable: bool,
}

impl StateDir {
    /// Makes the directory. What a former run on the same port left of a temporary one, because it
    /// was killed, is taken over: the node cleans it up when it starts.
    pub(crate) fn open(options: &Options) -> Result<Self, String> {
        let state = match &options.data_dir {
            Some(directory) => Self { path: absolute(directory)?, durable: true },
            None => Self { path: temporary(options.port), durable: false },
        };
        make_private(&state.path).map_err(|error| match options.data_dir {
            Some(_) => format!(
                "--data-dir {} cannot be used ({error}): choose a directory that you may write",
                state.path.display()
            ),
            None => format!("cannot make the directory {}: {error}", state.path.display()),
        })?;
        Ok(state)
    }

    /// The data directory, if state is to be kept.
    pub(crate) fn durable(&self) -> Option<&Path> {
        self.durable.then_some(&*self.path)
    }

    /// Where the node keeps its containers and images.
    pub(crate) fn node(&self) -> PathBuf {
        self.path.join("node")
    }

    /// Where the kubeconfig goes.
    pub(crate) fn kubeconfig(&self, options: &Options) -> PathBuf {
        options.kubeconfig.clone().unwrap_or_else(|| self.path.join("kubeconfig"))
    }

    /// Removes a temporary directory.
    pub(crate) fn remove(&self) {
        if !self.durable
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            eprintln!("{} is left behind: {error}", self.path.display());
        }
    }
}

fn temporary(port: u16) -> PathBuf {
    // With a port of its own a cluster has a directory of its own; a free port is not known yet.
    let name = match port {
        0 => format!("rk-{}", std::process::id()),
        port => format!("rk-{port}"),
    };
    std::env::temp_dir().join(name)
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Makes a directory that only its owner may read: it holds keys.
fn make_private(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => mine(path),
        made => made,
    }
}

/// Whether an existing directory can be used: in a place that all may write to, it could be
/// somebody else's.
fn mine(path: &Path) -> io::Result<()> {
    let found = fs::metadata(path)?;
    if !found.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory));
    }
    if found.uid() != fs::metadata("/proc/self")?.uid() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it belongs to another user"));
    }
    // Found out now rather than when the store opens.
    fs::read_dir(path).map(|_| ())
}

/// Writes a file that only its owner may read, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let _ = fs::remove_file(&temporary);
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    io::Write::write_all(&mut file, text.as_bytes())?;
    fs::rename(&temporary, path)
}
