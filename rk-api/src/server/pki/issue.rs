//! Certificates for signing requests: RFC 2986 in, RFC 5280 out.
//!
//! Subject, public key and alternative names are taken over byte for byte, so nothing that a
//! request says is lost on the way, such as the second of several groups.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::jiff::{Timestamp, tz::TimeZone};
use rcgen::{SignatureAlgorithm, SigningKey};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{
    certificate::X509Certificate,
    certification_request::X509CertificationRequest,
    cri_attributes::ParsedCriAttribute,
    extensions::ParsedExtension,
    oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME,
    pem::{Pem, parse_x509_pem},
    prelude::FromDer,
};

use super::{Authority, Pki};
use crate::clock;

/// Certificates count from a little before they are issued, because clocks differ.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// A certificate that lives no longer than this lives as long as was asked for; others lose at
/// their end what they are dated back.
const SHORT: Duration = Duration::from_secs(8 * 60 * 60);

/// Why a request gets no certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SigningError {
    /// It is no request, or not signed by the key that it is for.
    #[error("not a signing request: {0}")]
    Request(String),
    /// No extension stands for a usage.
    #[error("unrecognized usage {0:?}")]
    Usage(String),
    /// The authority cannot sign.
    #[error("the authority cannot sign: {0}")]
    Authority(String),
}

impl Pki {
    /// Issues a certificate for a signing request (PEM), for usages by the names that
    /// `spec.usages` of a CertificateSigningRequest has. It begins five minutes ago and ends after
    /// `lifetime`, or when the authority's own certificate does. The answer is PEM.
    ///
    /// # Errors
    /// When the request is none, or was not signed by the key that it asks for; when a usage is
    /// unknown; when the authority's key is of a kind that cannot sign.
    pub fn sign_request(
        &self,
        request: &[u8],
        usages: &[impl AsRef<str>],
        lifetime: Duration,
    ) -> Result<String, SigningError> {
        let pem = pem_of(request)?;
        let asked = read_request(&pem)?;
        let der = self.0.certificate(&asked, &Usages::read(usages)?, lifetime)?;
        Ok(armour("CERTIFICATE", &der))
    }
}

/// PEM, RFC 7468.
fn armour(label: &str, der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for (at, letter) in base64.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(letter);
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}

fn pem_of(request: &[u8]) -> Result<Pem, SigningError> {
    match parse_x509_pem(request) {
        Ok((_, pem)) if pem.label == "CERTIFICATE REQUEST" => Ok(pem),
        _ => Err(SigningError::Request("PEM block type must be CERTIFICATE REQUEST".to_owned())),
    }
}

/// A request whose signature is that of the key that it is for.
fn read_request(pem: &Pem) -> Result<X509CertificationRequest<'_>, SigningError> {
    let wrong = |error: &dyn std::fmt::Display| SigningError::Request(error.to_string());
    let (_, request) =
        X509CertificationRequest::from_der(&pem.contents).map_err(|error| wrong(&error))?;
    request.verify_signature().map_err(|error| wrong(&error))?;
    Ok(request)
}

/// What a certificate is for, as its two extensions say it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Usages {
    /// Bit 0 of KeyUsage is the highest here (RFC 5280, section 4.2.1.3).
    key: u16,
    /// Object identifiers of ExtendedKeyUsage, encoded.
    extended: Vec<&'static [u8]>,
}

impl Usages {
    fn read(names: &[impl AsRef<str>]) -> Result<Self, SigningError> {
        let mut usages = Self::default();
        for name in names {
            let name = name.as_ref();
            let bit = match name {
                "signing" | "digital signature" => 0,
                "content commitment" => 1,
                "key encipherment" => 2,
                "data encipherment" => 3,
                "key agreement" => 4,
                "cert sign" => 5,
                "crl sign" => 6,
                "encipher only" => 7,
                "decipher only" => 8,
                other => {
                    let oid = extended_usage(other)
                        .ok_or_else(|| SigningError::Usage(other.to_owned()))?;
                    if !usages.extended.contains(&oid) {
                        usages.extended.push(oid);
                    }
                    continue;
                }
            };
            usages.key |= 0x8000 >> bit;
        }
        Ok(usages)
    }

    /// The named bits, without trailing zeros (X.690, section 11.2.2).
    fn bit_string(&self) -> Vec<u8> {
        let unused = self.key.trailing_zeros() as u8 % 8;
        let [high, low] = self.key.to_be_bytes();
        let bits: &[u8] = if low == 0 { &[high] } else { &[high, low] };
        der(0x03, &[&[unused], bits])
    }
}

fn extended_usage(name: &str) -> Option<&'static [u8]> {
    /// 1.3.6.1.5.5.7.3, id-kp.
    macro_rules! id_kp {
        ($last:literal) => {
            &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, $last]
        };
    }
    Some(match name {
        "any" => &[0x55, 0x1d, 0x25, 0x00],
        "server auth" => id_kp!(1),
        "client auth" => id_kp!(2),
        "code signing" => id_kp!(3),
        "email protection" | "s/mime" => id_kp!(4),
        "ipsec end system" => id_kp!(5),
        "ipsec tunnel" => id_kp!(6),
        "ipsec user" => id_kp!(7),
        "timestamping" => id_kp!(8),
        "ocsp signing" => id_kp!(9),
        "microsoft sgc" => &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x0a, 0x03, 0x03],
        "netscape sgc" => &[0x60, 0x86, 0x48, 0x01, 0x86, 0xf8, 0x42, 0x04, 0x01],
        _ => return None,
    })
}

impl Authority {
    fn certificate(
        self: &Arc<Self>,
        request: &X509CertificationRequest<'_>,
        usages: &Usages,
        lifetime: Duration,
    ) -> Result<Vec<u8>, SigningError> {
        let failed = |error: &dyn std::fmt::Display| SigningError::Authority(error.to_string());
        let own = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes())
            .map_err(|error| failed(&error))?;
        let (_, own) = X509Certificate::from_der(&own).map_err(|error| failed(&error))?;
        let key = self.issuer.key();
        let algorithm = algorithm(key.algorithm())
            .ok_or_else(|| failed(&"its key is of a kind that cannot sign certificates"))?;

        let mut serial = [0; 16];
        SystemRandom::new().fill(&mut serial).map_err(|_| failed(&"there is no randomness"))?;
        // Positive, and of one length.
        serial[0] = serial[0] & 0x7f | 0x40;
        let ends = Timestamp::from_second(own.validity().not_after.timestamp()).ok();
        let (from, until) = validity(clock::now(), lifetime, ends);
        let asked = &request.certification_request_info;
        let to_sign = der(
            0x30,
            &[
                // Version 3.
                &der(0xa0, &[&der(0x02, &[&[2]])]),
                &der(0x02, &[&serial]),
                algorithm,
                own.subject().as_raw(),
                &der(0x30, &[&time(from), &time(until)]),
                asked.subject.as_raw(),
                asked.subject_pki.raw,
                &der(0xa3, &[&der(0x30, &[&extensions(request, usages, &own).concat()])]),
            ],
        );
        let signature = key.sign(&to_sign).map_err(|error| failed(&error))?;
        Ok(der(0x30, &[&to_sign, algorithm, &der(0x03, &[&[0], &signature])]))
    }
}

/// From when until when a certificate counts.
fn validity(
    now: Timestamp,
    lifetime: Duration,
    authority_ends: Option<Timestamp>,
) -> (Timestamp, Timestamp) {
    let lost = if lifetime < SHORT { Duration::ZERO } else { BACKDATE };
    let until = now.saturating_add(lifetime.saturating_sub(lost)).unwrap_or(Timestamp::MAX);
    let until = authority_ends.map_or(until, |ends| until.min(ends));
    (now.saturating_sub(BACKDATE).unwrap_or(now), until)
}

fn extensions(
    request: &X509CertificationRequest<'_>,
    usages: &Usages,
    authority: &X509Certificate<'_>,
) -> Vec<Vec<u8>> {
    // id-ce, 2.5.29.
    let extension = |last: u8, critical: bool, value: &[u8]| {
        let critical = if critical { der(0x01, &[&[0xff]]) } else { Vec::new() };
        der(0x30, &[&der(0x06, &[&[0x55, 0x1d, last]]), &critical, &der(0x04, &[value])])
    };
    let mut extensions = Vec::new();
    if usages.key != 0 {
        extensions.push(extension(15, true, &usages.bit_string()));
    }
    if !usages.extended.is_empty() {
        let oids: Vec<u8> = usages.extended.iter().flat_map(|oid| der(0x06, &[oid])).collect();
        extensions.push(extension(37, false, &der(0x30, &[&oids])));
    }
    // It is no authority itself.
    extensions.push(extension(19, true, &der(0x30, &[])));
    let own_key = authority.extensions().iter().find_map(|it| match it.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    });
    if let Some(id) = own_key {
        extensions.push(extension(35, false, &der(0x30, &[&der(0x80, &[id])])));
    }
    let asked = &request.certification_request_info;
    let names = asked.iter_attributes().find_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(asked) => {
            asked.extensions.iter().find(|it| it.oid == OID_X509_EXT_SUBJECT_ALT_NAME)
        }
        _ => None,
    });
    if let Some(names) = names {
        // Who has no other name is known by these (RFC 5280, section 4.2.1.6).
        let nameless = asked.subject.iter().next().is_none();
        extensions.push(extension(17, nameless, names.value));
    }
    extensions
}

/// The AlgorithmIdentifier of signatures with a key.
fn algorithm(algorithm: &SignatureAlgorithm) -> Option<&'static [u8]> {
    macro_rules! rsa {
        ($last:literal) => {
            &[
                0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, $last,
                0x05, 0x00,
            ]
        };
    }
    macro_rules! ecdsa {
        ($last:literal) => {
            &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, $last]
        };
    }
    let known: [(&SignatureAlgorithm, &'static [u8]); 6] = [
        (&rcgen::PKCS_ECDSA_P256_SHA256, ecdsa!(0x02)),
        (&rcgen::PKCS_ECDSA_P384_SHA384, ecdsa!(0x03)),
        (&rcgen::PKCS_RSA_SHA256, rsa!(0x0b)),
        (&rcgen::PKCS_RSA_SHA384, rsa!(0x0c)),
        (&rcgen::PKCS_RSA_SHA512, rsa!(0x0d)),
        (&rcgen::PKCS_ED25519, &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70]),
    ];
    known.into_iter().find_map(|(it, der)| (it == algorithm).then_some(der))
}

/// UTCTime until 2049, GeneralizedTime from then on (RFC 5280, section 4.1.2.5).
fn time(at: Timestamp) -> Vec<u8> {
    let zoned = at.to_zoned(TimeZone::UTC);
    let (tag, year) = match zoned.year() {
        year @ 1950..2050 => (0x17, format!("{:02}", year % 100)),
        year => (0x18, format!("{:04}", year.clamp(0, 9999))),
    };
    let rest = zoned.strftime("%m%d%H%M%SZ");
    der(tag, &[format!("{year}{rest}").as_bytes()])
}

/// An RSA key in PKCS #1 as PKCS #8 has it (RFC 5208, section 5).
pub(super) fn pkcs8_of_rsa(key: &[u8]) -> Vec<u8> {
    // rsaEncryption, without parameters (RFC 8017, appendix A.1).
    const RSA: &[u8] =
        &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    der(0x30, &[&der(0x02, &[&[0]]), RSA, &der(0x04, &[key])])
}

/// One value of the distinguished encoding rules (X.690).
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut value = vec![tag];
    match u8::try_from(length) {
        Ok(short @ 0..0x80) => value.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let skip = bytes.iter().take_while(|byte| **byte == 0).count();
            value.push(0x80 | (bytes.len() - skip) as u8);
            value.extend(&bytes[skip..]);
        }
    }
    parts.iter().for_each(|part| value.extend(*part));
    value
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};
    use rustls::pki_types::UnixTime;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn request(params: &CertificateParams) -> Vec<u8> {
        let key = KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().pem().unwrap().into_bytes()
    }

    fn node() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, "system:node:a");
        params
    }

    #[test]
    fn a_certificate_is_what_was_asked_for_and_the_authoritys() {
        let pki = Pki::generate().unwrap();
        let mut params = node();
        params.subject_alt_names = vec![
            SanType::DnsName("a.example".try_into().unwrap()),
            SanType::IpAddress([10, 0, 0, 1].into()),
        ];
        let usages = ["digital signature", "key encipherment", "client auth", "server auth"];
        let pem = pki.sign_request(&request(&params), &usages, DAY).unwrap();

        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let seconds = u64::try_from(clock::now().as_second()).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let tls = super::super::verifier(pki.ca_pem()).unwrap();
        tls.verify_client_cert(&der, &[], now).unwrap();

        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(certificate.subject().to_string(), "O=system:nodes, CN=system:node:a");
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names.len(), 2);
        let key_usage = certificate.key_usage().unwrap().unwrap();
        assert!(key_usage.critical && key_usage.value.digital_signature());
        assert!(key_usage.value.key_encipherment() && !key_usage.value.key_cert_sign());
        let extended = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && extended.server_auth && !extended.code_signing);
        assert!(!certificate.is_ca());
        let seconds = certificate.validity().not_after.timestamp()
            - certificate.validity().not_before.timestamp();
        assert_eq!(seconds, DAY.as_secs() as i64);
    }

    #[test]
    fn a_request_that_its_key_did_not_sign_is_refused() {
        let pki = Pki::generate().unwrap();
        let mut pem = pem_of(&request(&node())).unwrap();
        let last = pem.contents.len() - 1;
        pem.contents[last] ^= 1;
        let refused =
            pki.sign_request(armour(&pem.label, &pem.contents).as_bytes(), &["client auth"], DAY);
        assert!(matches!(refused, Err(SigningError::Request(_))), "{refused:?}");
        let refused = pki.sign_request(pki.ca_pem().as_bytes(), &["client auth"], DAY);
        let words = refused.unwrap_err().to_string();
        assert_eq!(words, "not a signing request: PEM block type must be CERTIFICATE REQUEST");
    }

    #[test]
    fn an_unknown_usage_is_refused() {
        let pki = Pki::generate().unwrap();
        let refused = pki.sign_request(&request(&node()), &["flying"], DAY);
        assert_eq!(refused.unwrap_err().to_string(), "unrecognized usage \"flying\"");
    }

    #[test]
    fn the_bits_of_a_usage_have_no_trailing_zeros() {
        let bits = |names: &[&str]| Usages::read(names).unwrap().bit_string();
        assert_eq!(bits(&["digital signature"]), [3, 2, 7, 0x80]);
        assert_eq!(bits(&["signing", "key encipherment"]), [3, 2, 5, 0xa0]);
        assert_eq!(bits(&["decipher only"]), [3, 3, 7, 0, 0x80]);
    }

    #[test]
    fn a_certificate_ends_with_its_authority_at_the_latest() {
        let now: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let hour = Duration::from_secs(3600);
        assert_eq!(
            validity(now, hour, None),
            (at("2029-12-31T23:55:00Z"), at("2030-01-01T01:00:00Z"))
        );
        assert_eq!(validity(now, DAY, None).1, at("2030-01-01T23:55:00Z"));
        let ends = at("2030-01-01T00:30:00Z");
        assert_eq!(validity(now, DAY, Some(ends)).1, ends);
    }

    #[test]
    fn times_are_written_as_their_year_asks() {
        let text = |at: &str| String::from_utf8(time(at.parse().unwrap())[2..].to_vec()).unwrap();
        assert_eq!(text("2049-12-31T23:59:58Z"), "491231235958Z");
        assert_eq!(text("2050-01-01T00:00:00Z"), "20500101000000Z");
    }
}
