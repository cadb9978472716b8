//! Whether the certificate and the key of a TLS Secret belong together. It is no error if they do
//! not: one may be written before the other.

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::{
    crypto::ring::sign::any_supported_type,
    pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer},
};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};

const CERTIFICATE: &str = "CERTIFICATE";

/// What is wrong with them, in the words of Go's `tls.X509KeyPair`; nothing for algorithms that this
/// server does not know.
pub(super) fn mismatch(certificate: &[u8], key: &[u8]) -> Option<String> {
    let certificate = match first(certificate, |label| label == CERTIFICATE) {
        Ok(found) => found,
        Err(skipped) => return Some(no_certificate(&skipped)),
    };
    let key = match first(key, |label| label.ends_with("PRIVATE KEY")) {
        Ok(found) => found,
        Err(skipped) => return Some(no_key(&skipped)),
    };
    let Ok((_, certificate)) = X509Certificate::from_der(&certificate.der) else {
        return Some("x509: malformed certificate".to_owned());
    };
    if !is_sequence(&key.der) {
        return Some("tls: failed to parse private key".to_owned());
    }
    let key = match key.label.as_str() {
        "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(key.der)),
        "EC PRIVATE KEY" => PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(key.der)),
        _ => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.der)),
    };
    let signer = any_supported_type(&key).ok()?;
    let public = signer.public_key()?;
    let (_, public) = SubjectPublicKeyInfo::from_der(&public).ok()?;
    let certified = certificate.public_key();
    if certified.algorithm.algorithm != public.algorithm.algorithm {
        return Some("tls: private key type does not match public key type".to_owned());
    }
    (certified.subject_public_key.data != public.subject_public_key.data)
        .then(|| "tls: private key does not match public key".to_owned())
}

fn no_certificate(skipped: &[String]) -> String {
    match skipped {
        [] => "tls: failed to find any PEM data in certificate input".to_owned(),
        [one] if one.ends_with("PRIVATE KEY") => {
            "tls: failed to find certificate PEM data in certificate input, but did find a private \
             key; PEM inputs may have been switched"
                .to_owned()
        }
        _ => format!(
            "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM \
             blocks of the following types: [{}]",
            skipped.join(" ")
        ),
    }
}

fn no_key(skipped: &[String]) -> String {
    match skipped {
        [] => "tls: failed to find any PEM data in key input".to_owned(),
        [one] if one == CERTIFICATE => {
            "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
        }
        _ => format!(
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after \
             skipping PEM blocks of the following types: [{}]",
            skipped.join(" ")
        ),
    }
}

/// A block of PEM (RFC 7468).
struct Block {
    label: String,
    der: Vec<u8>,
}

/// The first block of a kind, or the labels of all others.
fn first(text: &[u8], is_wanted: impl Fn(&str) -> bool) -> Result<Block, Vec<String>> {
    let text = String::from_utf8_lossy(text);
    let mut skipped = Vec::new();
    let mut rest = text.as_ref();
    while let Some((_, begun)) = rest.split_once("-----BEGIN ") {
        let Some((label, body)) = begun.split_once("-----") else { break };
        let Some((body, after)) = body.split_once(&format!("-----END {label}-----")) else {
            rest = begun;
            continue;
        };
        rest = after;
        // Old keys have headers, which have a colon, and an empty line after them.
        let lines = body.lines().filter(|line| !line.contains(':'));
        let base64: String = lines.flat_map(str::split_whitespace).collect();
        let Ok(der) = STANDARD.decode(base64) else { continue };
        if is_wanted(label) {
            return Ok(Block { label: label.to_owned(), der });
        }
        skipped.push(label.to_owned());
    }
    Err(skipped)
}

/// Whether this begins as every key does.
fn is_sequence(der: &[u8]) -> bool {
    const SEQUENCE: u8 = 0x30;
    der.first() == Some(&SEQUENCE)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};

    use super::*;

    fn certificate(key: &KeyPair) -> String {
        let params = CertificateParams::new(vec!["example.com".to_owned()]).unwrap();
        params.self_signed(key).unwrap().pem()
    }

    #[track_caller]
    fn check(certificate: &str, key: &str, wrong: Option<&str>) {
        assert_eq!(mismatch(certificate.as_bytes(), key.as_bytes()).as_deref(), wrong);
    }

    #[test]
    fn a_certificate_belongs_to_its_key() {
        let (own, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let (certificate, key) = (certificate(&own), own.serialize_pem());
        check(&certificate, &key, None);
        check(&format!("text\n{certificate}{}", self::certificate(&other)), &key, None);
        let wrong = Some("tls: private key does not match public key");
        check(&certificate, &other.serialize_pem(), wrong);
        let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_pem();
        check(&certificate, &ed25519, Some("tls: private key type does not match public key type"));
    }

    #[test]
    fn what_is_missing_or_switched_is_named() {
        let own = KeyPair::generate().unwrap();
        let (certificate, key) = (certificate(&own), own.serialize_pem());
        check("", &key, Some("tls: failed to find any PEM data in certificate input"));
        check(&certificate, "none", Some("tls: failed to find any PEM data in key input"));
        check(
            &key,
            &certificate,
            Some(
                "tls: failed to find certificate PEM data in certificate input, but did find a \
                 private key; PEM inputs may have been switched",
            ),
        );
        check(
            &certificate,
            &certificate,
            Some("tls: found a certificate rather than a key in the PEM for the private key"),
        );
        let odd = "-----BEGIN X-----\nAAAA\n-----END X-----\n";
        check(
            odd,
            &key,
            Some(
                "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping \
                 PEM blocks of the following types: [X]",
            ),
        );
        let torn = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        check(&certificate, torn, Some("tls: failed to parse private key"));
        let torn = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        check(torn, &key, Some("x509: malformed certificate"));
    }
}
