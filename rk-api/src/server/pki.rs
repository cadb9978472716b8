//! The certificates of a cluster: its authority, what it issues, and kubeconfig files with it.

mod issue;
mod request;

use std::{
    fs,
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{
        ClientHello, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};

pub use self::{
    issue::SigningError,
    request::{SigningRequest, Validity},
};
use super::token::{TokenKey, TokenKeyError};
use crate::clock;

/// How long certificates last, in years: the authority's, and those that it issues at each start.
const AUTHORITY_YEARS: i32 = 10;
const ISSUED_YEARS: i32 = 1;

/// A cluster's certificate authority and its service-account key. Cloning shares them.
#[derive(Clone)]
pub struct Pki(Arc<Authority>);

struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
    token_key: TokenKey,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki").finish_non_exhaustive()
    }
}

/// A certificate and its key, both in PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate_pem: String,
    /// The private key, in PKCS #8.
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// How a kubeconfig proves who its user is.
#[derive(Clone, Debug)]
pub enum Credentials<'a> {
    /// By a certificate that is issued for it.
    Certificate {
        /// The user.
        user: &'a str,
        /// The groups.
        groups: &'a [&'a str],
    },
    /// By a bearer token.
    Token(&'a str),
}

/// Why certificates cannot be read or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// One of a pair of files is missing: a new one would not fit the other.
    #[error("{} is there but {} is not: restore it, or remove both", found.display(), missing.display())]
    Half {
        /// The file that is there.
        found: PathBuf,
        /// The file that is not.
        missing: PathBuf,
    },
    /// A certificate or key is not usable.
    #[error("a certificate or key is not usable: {0}")]
    Certificate(#[from] rcgen::Error),
    /// Certificates made here name one group.
    #[error("a client certificate can name one group here, not {0}: issue it with another tool")]
    Groups(usize),
    /// The service-account key is not usable.
    #[error(transparent)]
    TokenKey(#[from] TokenKeyError),
    /// TLS does not take them.
    #[error("the TLS configuration is not usable: {0}")]
    Tls(String),
}

impl Pki {
    /// A new authority, in memory only.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<Self, PkiError> {
        let (certificate_pem, key) = new_authority()?;
        Self::from_parts(certificate_pem, key, &KeyPair::generate()?)
    }

    /// The authority in a directory: `ca.crt` and `ca.key`, and `sa.key`, which signs
    /// service-account tokens. What is missing is made; keys are readable by their owner only.
    ///
    /// # Errors
    /// When a file cannot be read or written or holds something else, or when `ca.crt` is there
    /// without `ca.key` or the other way round.
    pub fn load_or_create(directory: &Path) -> Result<Self, PkiError> {
        fs::create_dir_all(directory).map_err(|source| file_error(directory, source))?;
        let (certificate, key) = (directory.join("ca.crt"), directory.join("ca.key"));
        let (certificate_pem, ca_key) = match (certificate.exists(), key.exists()) {
            (true, true) => (read(&certificate)?, KeyPair::from_pem(&read(&key)?)?),
            (false, false) => {
                let (pem, pair) = new_authority()?;
                // The key first: a certificate alone would be in the way of the next start.
                write_secret(&key, &pair.serialize_pem())?;
                write(&certificate, &pem)?;
                (pem, pair)
            }
            (true, false) => return Err(PkiError::Half { found: certificate, missing: key }),
            (false, true) => return Err(PkiError::Half { found: key, missing: certificate }),
        };
        let path = directory.join("sa.key");
        let token_key = if path.exists() {
            KeyPair::from_pem(&read(&path)?)?
        } else {
            let pair = KeyPair::generate()?;
            write_secret(&path, &pair.serialize_pem())?;
            pair
        };
        Self::from_parts(certificate_pem, ca_key, &token_key)
    }

    /// An authority from PEM: its certificate, and its key in PKCS #8, or for RSA in PKCS #1, as
    /// kubeadm writes it. Its service-account key is a new one.
    ///
    /// # Errors
    /// When they are of no known kind.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(tls_error)?;
        let key = match &key {
            PrivateKeyDer::Pkcs1(rsa) => issue::pkcs8_of_rsa(rsa.secret_pkcs1_der()),
            other => other.secret_der().to_vec(),
        };
        let key = KeyPair::try_from(key.as_slice())?;
        Self::from_parts(certificate_pem.to_owned(), key, &KeyPair::generate()?)
    }

    fn from_parts(
        certificate_pem: String,
        key: KeyPair,
        token_key: &KeyPair,
    ) -> Result<Self, PkiError> {
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key)?;
        let token_key = TokenKey::from_pkcs8(&token_key.serialize_der())?;
        Ok(Self(Arc::new(Authority { certificate_pem, issuer, token_key })))
    }

    /// The authority's certificate.
    pub fn ca_pem(&self) -> &str {
        &self.0.certificate_pem
    }

    /// The key that signs service-account tokens.
    pub fn token_key(&self) -> TokenKey {
        self.0.token_key.clone()
    }

    /// Issues a certificate for a client: `user` is its common name, the group its organization.
    ///
    /// # Errors
    /// When a name cannot be in a certificate, or when there are several groups.
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<Identity, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        // The library keeps one name of each type: others would be lost without a word.
        if groups.len() > 1 {
            return Err(PkiError::Groups(groups.len()));
        }
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.distinguished_name.push(DnType::CommonName, user);
        self.issue(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// Issues a certificate for a server that is reached at these DNS names and IP addresses.
    ///
    /// # Errors
    /// When a name cannot be in a certificate.
    pub fn server(&self, common_name: &str, names: &[String]) -> Result<Identity, PkiError> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        self.issue(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Identity, PkiError> {
        let (from, until) = validity(ISSUED_YEARS);
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0.issuer)?;
        Ok(Identity { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }

    /// TLS for an API server that is reached at `names` and at the names it has inside a cluster.
    /// Clients may show certificates of this authority.
    ///
    /// # Errors
    /// When a name cannot be in a certificate.
    pub fn server_tls(&self, names: &[String]) -> Result<ServerTls, PkiError> {
        let mut all: Vec<String> = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "127.0.0.1",
            "::1",
        ]
        .map(ToOwned::to_owned)
        .into();
        all.extend(names.iter().filter(|name| !name.is_empty()).cloned());
        all.sort();
        all.dedup();
        let identity = self.server("kube-apiserver", &all)?;
        ServerTls::new(&identity, self.ca_pem())
    }

    /// A kubeconfig for the server at `url`.
    ///
    /// # Errors
    /// When a name cannot be in a certificate.
    pub fn kubeconfig(&self, url: &str, credentials: &Credentials<'_>) -> Result<String, PkiError> {
        let user = match credentials {
            Credentials::Certificate { user, groups } => {
                let identity = self.client(user, groups)?;
                format!(
                    "    client-certificate-data: {}\n    client-key-data: {}\n",
                    STANDARD.encode(identity.certificate_pem),
                    STANDARD.encode(identity.key_pem)
                )
            }
            Credentials::Token(token) => format!("    token: {}\n", serde_json::json!(token)),
        };
        let ca = STANDARD.encode(self.ca_pem());
        Ok(format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: rk\nclusters:\n- name: rk\n  cluster:\n    \
             server: {url}\n    certificate-authority-data: {ca}\ncontexts:\n- name: rk\n  context:\n    \
             cluster: rk\n    user: rk\nusers:\n- name: rk\n  user:\n{user}"
        ))
    }
}

/// TLS of a server. Cloning shares it.
///
/// Every client may show a certificate. Whose it is, is found out once for each connection: of a
/// client's authority, of a proxy's, or of none. A request with the last is refused with a 401, as
/// in kube-apiserver, and not the connection.
#[derive(Clone, Debug)]
pub struct ServerTls {
    pub(super) config: Arc<ServerConfig>,
    pub(super) clients: Arc<dyn ClientCertVerifier>,
    pub(super) proxies: Option<Arc<dyn ClientCertVerifier>>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2, RFC 5246.
    #[default]
    Tls12,
    /// 1.3, RFC 8446.
    Tls13,
}

impl ServerTls {
    /// TLS with this certificate; clients may show certificates of the authority `client_ca_pem`.
    ///
    /// # Errors
    /// When they are not usable.
    pub fn new(identity: &Identity, client_ca_pem: &str) -> Result<Self, PkiError> {
        Self::from_version(TlsVersion::default(), identity, Some(client_ca_pem))
    }

    /// TLS of at least a version; clients may show certificates of the authority `client_ca_pem`,
    /// if there is one.
    ///
    /// # Errors
    /// When they are not usable.
    pub fn from_version(
        least: TlsVersion,
        identity: &Identity,
        client_ca_pem: Option<&str>,
    ) -> Result<Self, PkiError> {
        Self::rotating(least, Arc::new(ServerCertificate::new(identity)?), client_ca_pem)
    }

    /// The same with a certificate that can be replaced while the server runs: each handshake shows
    /// the one of its moment.
    ///
    /// # Errors
    /// When the authority is not usable.
    pub fn rotating(
        least: TlsVersion,
        certificate: Arc<ServerCertificate>,
        client_ca_pem: Option<&str>,
    ) -> Result<Self, PkiError> {
        let versions: &[_] = match least {
            TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            TlsVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let clients = match client_ca_pem {
            Some(pem) => verifier(pem)?,
            // An authority that nobody has the key of.
            None => verifier(&new_authority()?.0)?,
        };
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .map_err(tls_error)?
            .with_client_cert_verifier(Arc::new(AnyCertificate(clients.clone())))
            .with_cert_resolver(certificate);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), clients, proxies: None })
    }

    /// Also takes certificates of proxies, whose authority this is
    /// (`--requestheader-client-ca-file`).
    ///
    /// # Errors
    /// When it is not usable.
    pub fn with_proxies(mut self, ca_pem: &str) -> Result<Self, PkiError> {
        self.proxies = Some(verifier(ca_pem)?);
        Ok(self)
    }
}

/// The certificate that a server shows, which may be another one later.
#[derive(Debug)]
pub struct ServerCertificate(ArcSwap<CertifiedKey>);

impl ServerCertificate {
    /// This one, for now.
    ///
    /// # Errors
    /// When it is not usable, or the key is not its own.
    pub fn new(identity: &Identity) -> Result<Self, PkiError> {
        Ok(Self(ArcSwap::from_pointee(certified(identity)?)))
    }

    /// From now on this one.
    ///
    /// # Errors
    /// When it is not usable, or the key is not its own; the old one stays then.
    pub fn replace(&self, identity: &Identity) -> Result<(), PkiError> {
        self.0.store(Arc::new(certified(identity)?));
        Ok(())
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn certified(identity: &Identity) -> Result<CertifiedKey, PkiError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(tls_error)?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(tls_error)?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(tls_error)
}

fn tls_error(error: impl std::fmt::Display) -> PkiError {
    PkiError::Tls(error.to_string())
}

/// Who verifies the certificates of an authority's clients.
fn verifier(ca_pem: &str) -> Result<Arc<dyn ClientCertVerifier>, PkiError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate.map_err(tls_error)?).map_err(tls_error)?;
    }
    let provider = Arc::new(ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(tls_error)
}

/// Takes every certificate whose key the client has; who signed it is looked at afterwards.
#[derive(Debug)]
struct AnyCertificate(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    // No hints: a client may have a certificate of any of several authorities.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The names under which a listener on this address is reached.
pub fn names_of(address: IpAddr) -> Vec<String> {
    if address.is_unspecified() { Vec::new() } else { vec![address.to_string()] }
}

fn new_authority() -> Result<(String, KeyPair), PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "kubernetes");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    let (from, until) = validity(AUTHORITY_YEARS);
    params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
    params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key))
}

/// From yesterday, because clocks differ, and for some years.
fn validity(years: i32) -> ((i32, u8, u8), (i32, u8, u8)) {
    let today = clock::now().to_zoned(k8s_openapi::jiff::tz::TimeZone::UTC).date();
    let yesterday = today.yesterday().unwrap_or(today);
    let day = |date: k8s_openapi::jiff::civil::Date, years: i32| {
        // The 28th is in every month of every year.
        let (year, month, day) = (date.year(), date.month(), date.day().min(28));
        (i32::from(year) + years, month.unsigned_abs(), day.unsigned_abs())
    };
    (day(yesterday, 0), day(today, years))
}

fn file_error(path: &Path, source: std::io::Error) -> PkiError {
    PkiError::File { path: path.to_owned(), source }
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| file_error(path, source))
}

fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    fs::write(path, text).map_err(|source| file_error(path, source))
}

fn write_secret(path: &Path, text: &str) -> Result<(), PkiError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| file_error(path, source))
}
