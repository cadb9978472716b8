//! Pulling images from registries (OCI distribution specification 1.1, Docker Registry HTTP API V2).
//!
//! # Where to start
//! - [`Registries`]: which registries there are, and [`Registries::pull`].
//! - `registry/pull.rs`: the steps of a pull, in order. `endpoint.rs`: one request, with its login.
//! - [`RegistryConfig`]: mirrors, CAs and the like, as containerd's `hosts.toml` has them.
//!
//! # Invariants
//! - Nothing a registry sends is believed. A document that is asked for by digest has it, a blob has
//!   the digest and size that its manifest says, a layer unpacks to what the configuration says.
//! - Credentials go to the registry that the image's name names and to its token service, never to a
//!   mirror and never over a redirect to another host.
//! - What is read has a limit, known before it is read.

mod blob;
mod challenge;
mod config;
mod endpoint;
mod pull;
mod tls;
mod token;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

pub use self::config::{Capability, ClientCertificate, HostConfig, OneOrMany, RegistryConfig};
use self::endpoint::Endpoint;
use super::{ImageError, ImageName, ImageStore};
use crate::runtime::{Image, PullFailure, RegistryAuth};

/// Which registries images are pulled from, and how they are reached. Clones share connections and
/// tokens.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use rk_cri::images::{ImageStore, registry::Registries};
///
/// let store = std::sync::Arc::new(ImageStore::open("/var/lib/images")?);
/// let registries = Registries::new().directory("/etc/containerd/certs.d");
/// let image = registries.pull(&store, &"busybox".parse()?, None).await?;
/// println!("{} {}", image.id, image.digests[0]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Registries {
    directory: Option<PathBuf>,
    configured: HashMap<String, RegistryConfig>,
    only_configured: bool,
    layers_at_once: usize,
    idle_timeout: Duration,
    endpoints: Arc<Mutex<HashMap<String, Cached>>>,
}

/// Registries whose connections and tokens are kept.
const REGISTRIES_MAX: usize = 100;

/// The endpoints of a registry, and the configuration that they were made from.
#[derive(Debug)]
struct Cached {
    config: RegistryConfig,
    endpoints: Vec<Arc<Endpoint>>,
}

impl Default for Registries {
    fn default() -> Self {
        Self {
            directory: None,
            configured: HashMap::new(),
            only_configured: false,
            layers_at_once: 3,
            idle_timeout: Duration::from_secs(60),
            endpoints: Arc::default(),
        }
    }
}

impl Registries {
    /// All registries, over HTTPS with the machine's CAs; those on the loopback interface over HTTP.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks for the configuration of registry `HOST` in `directory/HOST/hosts.toml`, and of those
    /// that have none in `directory/_default/hosts.toml`. Files are read for each pull.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// How to reach the registry `host`, for example `docker.io` or `registry.local:5000`.
    #[must_use]
    pub fn registry(mut self, host: impl Into<String>, config: RegistryConfig) -> Self {
        self.configured.insert(host.into(), config);
        self
    }

    /// Asks no registry that has no configuration.
    #[must_use]
    pub fn only_configured(mut self) -> Self {
        self.only_configured = true;
        self
    }

    /// How many layers of an image are fetched at the same time; by default 3.
    #[must_use]
    pub fn layers_at_once(mut self, layers: usize) -> Self {
        self.layers_at_once = layers.max(1);
        self
    }

    /// How long a registry may send nothing before the connection is given up; by default 60 s.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Whether this registry may be asked at all.
    pub fn may_ask(&self, name: &ImageName) -> bool {
        !self.only_configured || matches!(self.config(name.registry()), Ok(Some(_)) | Err(_))
    }

    /// Brings an image into the store, and returns it. Layers that are there are not fetched again;
    /// an image that is there costs one request, which says whether it is still the one meant.
    ///
    /// Dropping the future leaves what was fetched for the next pull.
    ///
    /// # Errors
    /// Any [`PullError`]; the store then lists what it listed before.
    pub async fn pull(
        &self,
        store: &Arc<ImageStore>,
        name: &ImageName,
        auth: Option<&RegistryAuth>,
    ) -> Result<Image, PullError> {
        let endpoints = self.endpoints(name.registry())?;
        pull::Pull { registries: self, store, name, auth, endpoints: &endpoints }.run().await
    }

    /// A registry's configuration; `None` when it has none.
    fn config(&self, host: &str) -> Result<Option<RegistryConfig>, PullError> {
        if let Some(config) = self.configured.get(host) {
            return Ok(Some(config.clone()));
        }
        let Some(directory) = &self.directory else { return Ok(None) };
        let spellings =
            [host.to_owned(), format!("{}_", host.replace(':', "_")), "_default".into()];
        for folder in &spellings {
            if let Some(config) = read_config(&directory.join(folder).join("hosts.toml"))? {
                return Ok(Some(config));
            }
        }
        Ok(None)
    }

    /// The endpoints of a registry in the order in which they are asked: mirrors, then itself.
    fn endpoints(&self, host: &str) -> Result<Vec<Arc<Endpoint>>, PullError> {
        let config = self.config(host)?;
        if config.is_none() && self.only_configured {
            return Err(PullError::NotConfigured { host: host.to_owned() });
        }
        let config = config.unwrap_or_default();
        if let Some(cached) = self.endpoints.lock().get(host)
            && cached.config == config
        {
            return Ok(cached.endpoints.clone());
        }
        let hosts = config.hosts_of(host);
        let last = hosts.len() - 1;
        let made: Vec<Arc<Endpoint>> = hosts
            .into_iter()
            .enumerate()
            .map(|(at, config)| {
                Endpoint::new(host, config, at == last, self.idle_timeout).map(Arc::new)
            })
            .collect::<Result<_, _>>()?;
        let cached = Cached { config, endpoints: made.clone() };
        let mut endpoints = self.endpoints.lock();
        // Names of images may name any number of hosts.
        if endpoints.len() >= REGISTRIES_MAX {
            endpoints.clear();
        }
        endpoints.insert(host.to_owned(), cached);
        Ok(made)
    }
}

fn read_config(path: &Path) -> Result<Option<RegistryConfig>, PullError> {
    let fail = |why: String| PullError::Configuration { what: path.display().to_string(), why };
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let mut config: RegistryConfig = text.parse().map_err(&fail)?;
            config.resolve_paths(path.parent().unwrap_or(Path::new("/")));
            Ok(Some(config))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fail(error.to_string())),
    }
}

/// Why an image could not be pulled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// The registry does not answer, or says that it cannot now.
    #[error("failed to do request: {what}: {why}")]
    Unavailable {
        /// What was asked for.
        what: String,
        /// What came back.
        why: String,
    },
    /// The registry wants other credentials, or any.
    #[error(
        "pull access denied, repository does not exist or may require authorization: {what}: {why}"
    )]
    Denied {
        /// What was asked for.
        what: String,
        /// What the registry said.
        why: String,
    },
    /// The registry has no such image, or blob.
    #[error("{what}: not found")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// The registry answers what it may not.
    #[error("unexpected answer to {what}: {why}")]
    Answer {
        /// What was asked for.
        what: String,
        /// What came back.
        why: String,
    },
    /// A registry that is not on the list of those that may be asked.
    #[error("pulling from {host} is not configured on this node")]
    NotConfigured {
        /// The registry.
        host: String,
    },
    /// The configuration of a registry makes no sense.
    #[error("{what}: {why}")]
    Configuration {
        /// The file or setting.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// What came is not an image, or not the one it should be.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl PullError {
    /// How a Pod's status calls it.
    pub fn kind(&self) -> PullFailure {
        match self {
            Self::Unavailable { .. } => PullFailure::RegistryUnavailable,
            _ => PullFailure::Failed,
        }
    }
}
