//! Whom a host must show itself to be.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{Error as PemError, PemObject},
    },
};

use super::{
    PullError,
    config::{ClientCertificate, HostConfig},
};

/// The TLS settings of a host.
pub(super) fn client_config(host: &HostConfig) -> Result<ClientConfig, PullError> {
    let invalid =
        |why: String| PullError::Configuration { what: format!("TLS for {}", host.url), why };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| invalid(error.to_string()))?;
    let builder = if host.skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
    } else {
        builder.with_root_certificates(roots(host)?)
    };
    match host.client.as_slice().first() {
        None => Ok(builder.with_no_client_auth()),
        Some(certificate) => {
            let (chain, key) = match certificate {
                ClientCertificate::Together(file) => (file, file),
                ClientCertificate::Apart([certificate, key]) => (certificate, key),
            };
            let private = PrivateKeyDer::from_pem_slice(&read(key)?)
                .map_err(|error| invalid(format!("{}: {error}", key.display())))?;
            builder
                .with_client_auth_cert(certificates(chain)?, private)
                .map_err(|error| invalid(format!("{}: {error}", chain.display())))
        }
    }
}

/// The CAs that are named, or the machine's.
fn roots(host: &HostConfig) -> Result<RootCertStore, PullError> {
    let mut roots = RootCertStore::empty();
    if host.ca.as_slice().is_empty() {
        // A machine may have none, and an old one among many is no reason to fail.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    for file in host.ca.as_slice() {
        for certificate in certificates(file)? {
            roots.add(certificate).map_err(|error| wrong(file, error.to_string()))?;
        }
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, PullError> {
    let found: Result<Vec<_>, PemError> = CertificateDer::pem_slice_iter(&read(file)?).collect();
    let found = found.map_err(|error| wrong(file, error.to_string()))?;
    if found.is_empty() {
        return Err(wrong(file, "there is no certificate in it".to_owned()));
    }
    Ok(found)
}

fn read(file: &Path) -> Result<Vec<u8>, PullError> {
    fs::read(file).map_err(|error| wrong(file, error.to_string()))
}

fn wrong(file: &Path, why: String) -> PullError {
    PullError::Configuration { what: file.display().to_string(), why }
}

/// Takes any certificate, as `skip_verify` asks for. What is sent is still encrypted for its holder.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
