//! What asks for a certificate, and how long one lasts.

use std::net::IpAddr;

use k8s_openapi::jiff::Timestamp;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use x509_parser::pem::Pem;

use super::{Identity, PkiError};

/// A new key, and a request for a certificate of it (RFC 2986).
#[derive(Clone, Debug)]
pub struct SigningRequest {
    /// The request, in PEM.
    pub pem: String,
    /// The key, in PEM (PKCS #8); P-256.
    pub key_pem: String,
}

impl SigningRequest {
    /// For `user` in `group`, with these DNS names and addresses.
    ///
    /// # Errors
    /// When a name cannot be in a certificate, or there is no randomness for a key.
    pub fn new(
        user: &str,
        group: &str,
        dns: &[String],
        addresses: &[IpAddr],
    ) -> Result<Self, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.distinguished_name.push(DnType::CommonName, user);
        for name in dns {
            params.subject_alt_names.push(SanType::DnsName(name.clone().try_into()?));
        }
        params.subject_alt_names.extend(addresses.iter().map(|ip| SanType::IpAddress(*ip)));
        let key = KeyPair::generate()?;
        let request = params.serialize_request(&key)?;
        Ok(Self { pem: request.pem()?, key_pem: key.serialize_pem() })
    }
}

/// From when until when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From then on.
    pub from: Timestamp,
    /// Until then.
    pub until: Timestamp,
}

impl Identity {
    /// How long its first certificate is good.
    ///
    /// # Errors
    /// When it is none.
    pub fn validity(&self) -> Result<Validity, PkiError> {
        let wrong = |error: &dyn std::fmt::Display| PkiError::Tls(error.to_string());
        let pem = Pem::iter_from_buffer(self.certificate_pem.as_bytes())
            .next()
            .ok_or_else(|| PkiError::Tls("there is no certificate in PEM".to_owned()))?
            .map_err(|error| wrong(&error))?;
        let validity = pem.parse_x509().map_err(|error| wrong(&error))?.validity.clone();
        let time = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp());
        Ok(Validity {
            from: time(validity.not_before).map_err(|error| wrong(&error))?,
            until: time(validity.not_after).map_err(|error| wrong(&error))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{clock, server::Pki};

    #[test]
    fn a_request_gets_a_certificate_for_its_own_key() {
        let pki = Pki::generate().unwrap();
        let names = ["worker".to_owned()];
        let address = ["10.0.0.1".parse().unwrap()];
        let request =
            SigningRequest::new("system:node:worker", "system:nodes", &names, &address).unwrap();
        let hour = Duration::from_secs(3600);
        let usages = ["digital signature", "server auth"];
        let certificate_pem = pki.sign_request(request.pem.as_bytes(), &usages, hour).unwrap();
        let identity = Identity { certificate_pem, key_pem: request.key_pem };
        super::super::ServerCertificate::new(&identity).unwrap();
        let validity = identity.validity().unwrap();
        assert!(validity.from < clock::now() && clock::now() < validity.until);
        let other = SigningRequest::new("x", "y", &[], &[]).unwrap();
        let mixed = Identity { key_pem: other.key_pem, ..identity };
        super::super::ServerCertificate::new(&mixed).unwrap_err();
    }
}
