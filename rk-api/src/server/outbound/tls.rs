//! TLS towards others: whom to trust, and what to show.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{Cause, Trust};
use crate::server::pki::Identity;

/// The configuration for an endpoint; the error says what of it is not usable.
pub(in crate::server) fn config(
    trust: &Trust,
    identity: Option<&Identity>,
) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(verifier(trust, &provider)?);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = certificates(identity.certificate_pem.as_bytes())?;
            let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())
                .map_err(|error| error.to_string())?;
            builder.with_client_auth_cert(chain, key).map_err(|error| error.to_string())?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    read.map_err(|error| error.to_string())
}

fn verifier(trust: &Trust, provider: &Arc<CryptoProvider>) -> Result<Verifier, String> {
    let (roots, known) = match trust {
        Trust::Anybody => (None, Vec::new()),
        Trust::System => (Some(system_roots()), Vec::new()),
        Trust::Authorities(pem) => {
            let known = certificates(pem)?;
            let mut roots = RootCertStore::empty();
            // As in Go, what is no authority is passed over.
            let (added, _) = roots.add_parsable_certificates(known.iter().cloned());
            if added == 0 {
                return Err("unable to load root certificates: unable to parse bytes as PEM block"
                    .to_owned());
            }
            (Some(Arc::new(roots)), known)
        }
    };
    let chains = roots.map(|roots| {
        WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|error| error.to_string())
    });
    Ok(Verifier { chains: chains.transpose()?, known, provider: provider.clone() })
}

/// What the system trusts, read once.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let load = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    };
    ROOTS.get_or_init(load).clone()
}

/// Verifies as Go does: a certificate that is itself in the bundle needs no authority.
#[derive(Debug)]
struct Verifier {
    /// `None` takes everybody.
    chains: Option<Arc<WebPkiServerVerifier>>,
    known: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chains) = &self.chains else { return Ok(ServerCertVerified::assertion()) };
        let verified = chains.verify_server_cert(certificate, intermediates, name, ocsp, now);
        if !matches!(&verified, Err(error) if is_about_the_chain(error))
            || !self.known.iter().any(|known| known.as_ref() == certificate.as_ref())
        {
            return verified;
        }
        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        let parsed = X509Certificate::from_der(certificate);
        let (_, parsed) =
            parsed.map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let validity = parsed.validity();
        if now < validity.not_before.timestamp() {
            return Err(CertificateError::NotValidYet.into());
        }
        if now > validity.not_after.timestamp() {
            return Err(CertificateError::Expired.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether a certificate failed because nobody known vouches for it.
fn is_about_the_chain(error: &Error) -> bool {
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => true,
        // An authority that is a server's own certificate.
        Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => {
            other.to_string().contains("CaUsedAsEndEntity")
        }
        _ => false,
    }
}

/// Why a handshake failed, in Go's words where there are some.
pub(super) fn cause(error: &io::Error) -> Cause {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let Some(Error::InvalidCertificate(why)) = tls else {
        return match (tls, error.kind()) {
            (None, io::ErrorKind::UnexpectedEof) => Cause::Tls("EOF".to_owned()),
            (Some(Error::InvalidMessage(_)), _) => {
                Cause::Tls("tls: first record does not look like a TLS handshake".to_owned())
            }
            _ => Cause::Tls(format!("tls: {error}")),
        };
    };
    let why = match why {
        // An authority of the same name and another key is unknown, too.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "x509: certificate signed by unknown authority".to_owned()
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            "x509: certificate has expired or is not yet valid".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<_> = presented.iter().map(|name| plain_name(name)).collect();
            let expected = expected.to_str();
            match names.is_empty() {
                true => format!(
                    "x509: certificate is not valid for any names, but wanted to match {expected}"
                ),
                false => {
                    format!("x509: certificate is valid for {}, not {expected}", names.join(", "))
                }
            }
        }
        other => format!("x509: {other}"),
    };
    Cause::Tls(format!("tls: failed to verify certificate: {why}"))
}

/// `DnsName("a.b")` as `a.b`.
fn plain_name(name: &str) -> &str {
    let quoted = name.split_once("(\"").and_then(|(_, rest)| rest.strip_suffix("\")"));
    quoted.or_else(|| name.split_once('(')?.1.strip_suffix(')')).unwrap_or(name)
}
