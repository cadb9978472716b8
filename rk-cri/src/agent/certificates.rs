//! The node's certificates: asked for by signing requests, kept on the disk, and renewed in time
//! (TLS bootstrapping and certificate rotation, KEP-266, KEP-267).
//!
//! They are where the kubelet has them: `NAME-current.pem` is a link to the newest of
//! `NAME-TIME.pem`, each with the certificate and its key.

use std::{
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::PostParams, client::Body};
use parking_lot::RwLock;
use rk_api::{
    clock, rng,
    server::{
        Identity,
        pki::{PkiError, SigningRequest, Validity},
    },
};
use tokio::time::sleep;

/// How often it is looked whether a request was decided.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A request that nobody decided for so long is made anew, as in the kubelet.
const DECIDED_WITHIN: Duration = Duration::from_secs(15 * 60);
/// Pauses between failures.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(128));
/// The longest time that is slept at once: a clock that was set is noticed by then.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// No request could be made, or what came back is of no use.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The API server did not take the request, or did not show it.
    #[error("the signing request failed")]
    Api(#[from] kube::Error),
    /// Somebody denied it, or it could not be signed.
    #[error(
        "certificate signing request {name} is {condition}, reason: {reason}, message: {message}"
    )]
    Refused {
        /// The request.
        name: String,
        /// `Denied` or `Failed`.
        condition: String,
        /// The reason.
        reason: String,
        /// The message.
        message: String,
    },
    /// Nobody decided about it.
    #[error("certificate signing request {0} was not decided in time")]
    Undecided(String),
    /// The folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
}

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be known as the node by the API server.
    Client,
    /// To serve the kubelet's API, at these names and addresses.
    Serving {
        /// DNS names.
        names: Vec<String>,
        /// Addresses.
        addresses: Vec<IpAddr>,
    },
}

/// One certificate of a node, and where it is kept.
#[derive(Clone, Debug)]
pub struct NodeCertificate {
    node: String,
    directory: PathBuf,
    purpose: Purpose,
}

impl NodeCertificate {
    /// That of a node, kept in a folder.
    pub fn new(node: &str, directory: impl Into<PathBuf>, purpose: Purpose) -> Self {
        Self { node: node.to_owned(), directory: directory.into(), purpose }
    }

    /// The file with the newest certificate and its key: `kubelet-client-current.pem` or
    /// `kubelet-server-current.pem`.
    pub fn path(&self) -> PathBuf {
        self.directory.join(format!("{}-current.pem", self.prefix()))
    }

    fn prefix(&self) -> &'static str {
        match self.purpose {
            Purpose::Client => "kubelet-client",
            Purpose::Serving { .. } => "kubelet-server",
        }
    }

    /// The certificate that is kept; `None` when there is none that is still good.
    pub fn load(&self) -> Option<Identity> {
        let text = std::fs::read_to_string(self.path()).ok()?;
        let identity = Identity { certificate_pem: text.clone(), key_pem: text };
        let validity = identity.validity().ok()?;
        (clock::now() < validity.until).then_some(identity)
    }

    /// Asks for a certificate, waits until there is one, and keeps it.
    ///
    /// # Errors
    /// When it is denied, not decided within a quarter of an hour, or cannot be kept.
    pub async fn request(&self, client: &Client) -> Result<Identity, CertificateError> {
        let none = (Vec::new(), Vec::new());
        let (signer, usage, (names, addresses)) = match &self.purpose {
            Purpose::Client => ("kube-apiserver-client-kubelet", "client auth", none),
            Purpose::Serving { names, addresses } => {
                ("kubelet-serving", "server auth", (names.clone(), addresses.clone()))
            }
        };
        let user = format!("system:node:{}", self.node);
        let asked = SigningRequest::new(&user, "system:nodes", &names, &addresses)?;
        let request = CertificateSigningRequest {
            metadata: ObjectMeta { generate_name: Some("csr-".to_owned()), ..Default::default() },
            spec: CertificateSigningRequestSpec {
                request: ByteString(asked.pem.into_bytes()),
                signer_name: format!("kubernetes.io/{signer}"),
                usages: Some(vec!["digital signature".to_owned(), usage.to_owned()]),
                ..Default::default()
            },
            ..Default::default()
        };
        let api = Api::<CertificateSigningRequest>::all(client.clone());
        let made = api.create(&PostParams::default(), &request).await?;
        let name = made.metadata.name.unwrap_or_default();
        let decided = tokio::time::timeout(DECIDED_WITHIN, decided(&api, &name)).await;
        let certificate = decided.map_err(|_| CertificateError::Undecided(name))??;
        let identity = Identity {
            certificate_pem: String::from_utf8_lossy(&certificate).into_owned(),
            key_pem: asked.key_pem,
        };
        // Nothing is kept that would not be understood.
        identity.validity()?;
        self.keep(&identity)?;
        Ok(identity)
    }

    /// Waits until a certificate has to be renewed, and asks for another, until there is one.
    pub async fn renewed(&self, current: Option<&Identity>, client: &Client) -> Identity {
        let due = current.and_then(|current| current.validity().ok()).map(renew_at);
        while let Some(left) = due.map(|due| due.duration_since(clock::now()))
            && left.is_positive()
        {
            sleep(left.unsigned_abs().min(SLEEP_MAX)).await;
        }
        let mut pause = PAUSES.0;
        loop {
            match self.request(client).await {
                Ok(identity) => return identity,
                Err(error) => {
                    let (error, what) = (in_words(&error), self.prefix());
                    tracing::warn!(node = self.node, error, "no certificate {what} yet");
                    sleep(rng::jitter(pause, 0.1)).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }

    fn keep(&self, identity: &Identity) -> Result<(), CertificateError> {
        let time = clock::now().strftime("%Y-%m-%d-%H-%M-%S").to_string();
        let name = format!("{}-{time}-{}.pem", self.prefix(), rng::suffix(5));
        let text = format!("{}{}", identity.certificate_pem, identity.key_pem);
        let target = self.directory.join(&name);
        let disk = |path: &Path| {
            let path = path.to_owned();
            move |source| CertificateError::Disk { path, source }
        };
        std::fs::create_dir_all(&self.directory).map_err(disk(&self.directory))?;
        write_private(&target, &text).map_err(disk(&target))?;
        // Whoever reads meanwhile has the old one or the new one.
        let link = self.directory.join(format!(".{name}"));
        std::os::unix::fs::symlink(&name, &link).map_err(disk(&link))?;
        std::fs::rename(&link, self.path()).map_err(disk(&link))?;
        Ok(())
    }
}

/// What went wrong, and why.
fn in_words(error: &CertificateError) -> String {
    let mut words = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        words.push_str(&format!(": {error}"));
        source = error.source();
    }
    words
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::File::options().create_new(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// At which moment a certificate is renewed: after 70 to 90 % of its time.
fn renew_at(validity: Validity) -> k8s_openapi::jiff::Timestamp {
    let whole = validity.until.duration_since(validity.from).unsigned_abs();
    let at = rng::jitter(whole.mul_f64(0.7), 0.2 / 0.7);
    let at = k8s_openapi::jiff::SignedDuration::try_from(at).unwrap_or_default();
    validity.from.saturating_add(at).unwrap_or(validity.until)
}

/// The certificate of a request, once there is one.
async fn decided(
    api: &Api<CertificateSigningRequest>,
    name: &str,
) -> Result<Vec<u8>, CertificateError> {
    loop {
        let request = api.get(name).await?;
        let status = request.status.unwrap_or_default();
        for condition in status.conditions.into_iter().flatten() {
            if matches!(condition.type_.as_str(), "Denied" | "Failed") {
                return Err(CertificateError::Refused {
                    name: name.to_owned(),
                    condition: condition.type_,
                    reason: condition.reason.unwrap_or_default(),
                    message: condition.message.unwrap_or_default(),
                });
            }
        }
        if let Some(certificate) = status.certificate.filter(|found| !found.0.is_empty()) {
            return Ok(certificate.0);
        }
        sleep(LOOK_EVERY).await;
    }
}

/// A client that can be replaced while others use it: requests go through the one of their moment,
/// those under way and watches end with the one that they began with.
#[derive(Clone)]
pub struct ClientSlot(Arc<RwLock<Client>>);

impl std::fmt::Debug for ClientSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientSlot").finish_non_exhaustive()
    }
}

impl ClientSlot {
    /// With this one, for now.
    pub fn new(client: Client) -> Self {
        Self(Arc::new(RwLock::new(client)))
    }

    /// From now on this one.
    pub fn replace(&self, client: Client) {
        *self.0.write() = client;
    }

    /// A client that is always the present one.
    pub fn client(&self) -> Client {
        let namespace = self.0.read().default_namespace().to_owned();
        Client::new(self.clone(), namespace)
    }
}

impl tower::Service<http::Request<Body>> for ClientSlot {
    type Response = http::Response<Body>;
    type Error = kube::Error;
    type Future = BoxFuture<'static, kube::Result<Self::Response>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let client = self.0.read().clone();
        Box::pin(async move { client.send(request).await })
    }
}

#[cfg(test)]
mod tests {
    use rk_api::server::Pki;

    use super::*;

    #[test]
    fn a_certificate_is_renewed_in_the_last_third_of_its_time() {
        let at = |second| k8s_openapi::jiff::Timestamp::from_second(second).unwrap();
        for _ in 0..100 {
            let due = renew_at(Validity { from: at(1000), until: at(2000) });
            assert!((at(1700)..=at(1900)).contains(&due), "{due}");
        }
    }

    #[test]
    fn the_newest_certificate_is_kept_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let certificate = NodeCertificate::new("n1", directory.path(), Purpose::Client);
        assert!(certificate.load().is_none());
        let pki = Pki::generate().unwrap();
        for _ in 0..2 {
            let identity = pki.client("system:node:n1", &["system:nodes"]).unwrap();
            certificate.keep(&identity).unwrap();
            let kept = certificate.load().unwrap();
            assert!(kept.certificate_pem.contains(&identity.certificate_pem));
            rk_api::server::ServerCertificate::new(&kept).unwrap();
        }
        let mode = std::fs::metadata(certificate.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(certificate.path(), "no certificate").unwrap();
        assert!(certificate.load().is_none());
    }
}
