//! Keys that verify JSON Web Tokens (RFC 7519, RFC 7518), and their forms: PEM and JWK (RFC 7517).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, EcdsaKeyPair, KeyPair,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RsaKeyPair,
    RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls::pki_types::pem::{PemObject, SectionKind};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::{
    prelude::{FromDer, X509Certificate},
    public_key::PublicKey,
    x509::SubjectPublicKeyInfo,
};

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VerifyingKey {
    /// How tokens name it: the digest of its DER form, as in Kubernetes, or what a JWK says.
    pub(super) id: String,
    form: Form,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// The uncompressed point.
    P256(Vec<u8>),
    P384(Vec<u8>),
    /// Modulus and exponent, big endian, without leading zeros.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

/// The head of a token.
#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

/// A token taken apart, before anything of it is believed.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    header: Header,
    signed: &'a str,
    claims: Vec<u8>,
    signature: Vec<u8>,
}

impl<'a> Parts<'a> {
    /// Takes a token apart.
    pub(super) fn read(token: &'a str) -> Result<Self, String> {
        let (signed, signature) = token.rsplit_once('.').ok_or("it has no signature")?;
        let (header, claims) = signed.split_once('.').ok_or("it has no claims")?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|error| error.to_string());
        let header = serde_json::from_slice(&decode(header)?).map_err(|error| error.to_string())?;
        Ok(Self { header, signed, claims: decode(claims)?, signature: decode(signature)? })
    }

    /// The claims, if one of these keys signed them.
    pub(super) fn verified<T: DeserializeOwned>(&self, keys: &[VerifyingKey]) -> Result<T, String> {
        let id = self.header.kid.as_str();
        let named = keys.iter().any(|key| key.id == id);
        let mut tried = keys.iter().filter(|key| !named || key.id == id);
        if !tried.any(|key| key.signed(&self.header.alg, self.signed, &self.signature)) {
            return Err("its signature is not of a known key".to_owned());
        }
        self.claims()
    }

    /// The claims as they are, whoever signed them.
    pub(super) fn claims<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_slice(&self.claims).map_err(|error| error.to_string())
    }
}

impl VerifyingKey {
    fn new(form: Form) -> Self {
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(form.der()));
        Self { id, form }
    }

    /// The public half of a P-256 key.
    pub(super) fn of_p256(key: &EcdsaKeyPair) -> Self {
        Self::new(Form::P256(key.public_key().as_ref().to_vec()))
    }

    /// The public half of an RSA key.
    pub(super) fn of_rsa(key: &RsaKeyPair) -> Self {
        let parts: RsaPublicKeyComponents<Vec<u8>> = key.public().into();
        Self::new(Form::Rsa { n: parts.n, e: parts.e })
    }

    /// The keys of a PEM text: public keys and certificates, and the public halves of private keys
    /// are for the caller.
    pub(super) fn from_pem(pem: &str) -> Result<Vec<Self>, String> {
        let mut keys = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes()) {
            let (kind, der) = section.map_err(|error| error.to_string())?;
            match kind {
                SectionKind::PublicKey => {
                    let (_, info) =
                        SubjectPublicKeyInfo::from_der(&der).map_err(|error| error.to_string())?;
                    keys.push(Self::from_info(&info)?);
                }
                SectionKind::Certificate => {
                    let (_, certificate) =
                        X509Certificate::from_der(&der).map_err(|error| error.to_string())?;
                    keys.push(Self::from_info(certificate.public_key())?);
                }
                _ => {}
            }
        }
        Ok(keys)
    }

    fn from_info(info: &SubjectPublicKeyInfo<'_>) -> Result<Self, String> {
        let form = match info.parsed().map_err(|error| error.to_string())? {
            PublicKey::RSA(key) => {
                Form::Rsa { n: stripped(key.modulus).to_vec(), e: stripped(key.exponent).to_vec() }
            }
            PublicKey::EC(point) => match point.data().len() {
                65 => Form::P256(point.data().to_vec()),
                97 => Form::P384(point.data().to_vec()),
                _ => return Err("its curve is neither P-256 nor P-384".to_owned()),
            },
            _ => return Err("it is neither an RSA nor an elliptic curve key".to_owned()),
        };
        Ok(Self::new(form))
    }

    /// A key of a JWK set; `None` for keys of other uses and kinds.
    pub(super) fn from_jwk(jwk: &Value) -> Option<Self> {
        let text = |key: &str| jwk.get(key).and_then(Value::as_str);
        let bytes = |key: &str| URL_SAFE_NO_PAD.decode(text(key)?).ok();
        if text("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        let point = |length: usize| {
            let (x, y) = (bytes("x")?, bytes("y")?);
            (x.len() == length && y.len() == length).then(|| [vec![4], x, y].concat())
        };
        let form = match (text("kty")?, text("crv")) {
            ("RSA", _) => Form::Rsa { n: bytes("n")?, e: bytes("e")? },
            ("EC", Some("P-256")) => Form::P256(point(32)?),
            ("EC", Some("P-384")) => Form::P384(point(48)?),
            _ => return None,
        };
        let mut key = Self::new(form);
        if let Some(id) = text("kid") {
            id.clone_into(&mut key.id);
        }
        Some(key)
    }

    /// The key as a member of a JWK set.
    pub(super) fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let curve = |name: &str, point: &[u8]| {
            let (x, y) = point[1..].split_at((point.len() - 1) / 2);
            json!({
                "use": "sig", "kty": "EC", "kid": self.id, "crv": name, "alg": self.algorithm(),
                "x": encode(x), "y": encode(y),
            })
        };
        match &self.form {
            Form::P256(point) => curve("P-256", point),
            Form::P384(point) => curve("P-384", point),
            Form::Rsa { n, e } => json!({
                "use": "sig", "kty": "RSA", "kid": self.id, "alg": self.algorithm(),
                "n": encode(n), "e": encode(e),
            }),
        }
    }

    /// The algorithm that it is used with, unless a token of an RSA key names another.
    pub(super) fn algorithm(&self) -> &'static str {
        match self.form {
            Form::P256(_) => "ES256",
            Form::P384(_) => "ES384",
            Form::Rsa { .. } => "RS256",
        }
    }

    /// Whether the key made this signature. Which algorithms fit is the key's to say, not the
    /// token's.
    fn signed(&self, algorithm: &str, signed: &str, signature: &[u8]) -> bool {
        let check = |by: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(by, key).verify(signed.as_bytes(), signature).is_ok()
        };
        match (&self.form, algorithm) {
            (Form::P256(point), "ES256") => check(&ECDSA_P256_SHA256_FIXED, point),
            (Form::P384(point), "ES384") => check(&ECDSA_P384_SHA384_FIXED, point),
            (Form::Rsa { n, e }, "RS256" | "RS384" | "RS512") => {
                let by = match algorithm {
                    "RS256" => &RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &RSA_PKCS1_2048_8192_SHA384,
                    _ => &RSA_PKCS1_2048_8192_SHA512,
                };
                RsaPublicKeyComponents { n, e }.verify(by, signed.as_bytes(), signature).is_ok()
            }
            _ => false,
        }
    }
}

impl Form {
    /// The SubjectPublicKeyInfo (RFC 5280).
    fn der(&self) -> Vec<u8> {
        // OIDs: id-ecPublicKey with its curve, rsaEncryption with NULL.
        const EC: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
        const P256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
        const P384: &[u8] = &[6, 5, 0x2b, 0x81, 4, 0, 0x22];
        const RSA: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
        let info = |algorithm: &[u8], key: &[u8]| {
            let bits = [&[0], key].concat();
            tagged(0x30, &[tagged(0x30, algorithm), tagged(3, &bits)].concat())
        };
        match self {
            Form::P256(point) => info(&[EC, P256].concat(), point),
            Form::P384(point) => info(&[EC, P384].concat(), point),
            Form::Rsa { n, e } => info(RSA, &tagged(0x30, &[integer(n), integer(e)].concat())),
        }
    }
}

/// A DER value.
fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let bytes = stripped(&bytes);
        out.push(0x80 | bytes.len() as u8);
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(content);
    out
}

/// A DER INTEGER that is not negative.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let mut content = stripped(bytes).to_vec();
    if content.first().is_none_or(|first| first & 0x80 != 0) {
        content.insert(0, 0);
    }
    tagged(2, &content)
}

fn stripped(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}
