//! Service-account tokens: JSON Web Tokens (RFC 7519) signed with ES256 or RS256.

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use rustls::pki_types::pem::{PemObject, SectionKind};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::jwt::{Parts, VerifyingKey};

/// Who issues the tokens of a cluster, unless it says otherwise.
const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Who issues the tokens that are kept in Secrets, in every cluster.
const SECRETS_ISSUER: &str = "kubernetes/serviceaccount";

/// How long the tokens last that are put into each Pod. Nobody else asks for just this.
pub(super) const SECONDS_IN_PODS: i64 = 3607;

/// How long these are taken when they are extended.
const SECONDS_EXTENDED: i64 = 365 * 24 * 3600;

/// A key that signs service-account tokens, and the keys whose tokens are taken. Cloning shares it.
///
/// To change keys without refusing the tokens that are out there, sign with the new one and
/// [verify](Self::also_verifying) with the old one too until those have expired.
#[derive(Clone)]
pub struct TokenKey {
    key: Arc<Signer>,
    /// The signing key's public half.
    public: VerifyingKey,
    issuer: String,
    /// Issuers whose tokens are taken besides.
    former_issuers: Vec<String>,
    /// Whom tokens are for that do not say; the issuer when empty.
    audiences: Vec<String>,
    /// Where others find the keys, if not at this server.
    jwks_uri: Option<String>,
    /// How many seconds a token lasts at most.
    seconds_max: Option<i64>,
    /// Whether the tokens of Pods outlast what was asked for.
    extends: bool,
    verifying: Vec<VerifyingKey>,
}

enum Signer {
    P256(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").field("verifying", &self.verifying).finish_non_exhaustive()
    }
}

/// Why a key is not usable.
#[derive(Debug, thiserror::Error)]
#[error("the service-account key is neither a P-256 nor an RSA key: {0}")]
pub struct TokenKeyError(String);

/// What a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    #[serde(rename = "aud")]
    pub(super) audiences: Vec<String>,
    #[serde(rename = "exp")]
    pub(super) expires: i64,
    #[serde(rename = "iat")]
    pub(super) issued: i64,
    #[serde(rename = "iss")]
    pub(super) issuer: String,
    #[serde(rename = "jti")]
    pub(super) id: String,
    #[serde(rename = "kubernetes.io")]
    pub(super) kubernetes: Kubernetes,
    #[serde(rename = "nbf")]
    pub(super) not_before: i64,
    #[serde(rename = "sub")]
    pub(super) subject: String,
}

/// What a token is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kubernetes {
    pub(super) namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<Bound>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pod: Option<Bound>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<Bound>,
    pub(super) serviceaccount: Bound,
    /// When it should have been replaced: it lasts longer than was asked for.
    #[serde(default, rename = "warnafter", skip_serializing_if = "Option::is_none")]
    pub(super) warn_after: Option<i64>,
}

/// An object without which the token is worth nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bound {
    pub(super) name: String,
    /// Empty when only the name is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) uid: String,
}

/// What a token says that is kept in a Secret: it has neither audience nor end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct SecretClaims {
    #[serde(rename = "iss")]
    issuer: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    pub(super) namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    pub(super) secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub(super) account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub(super) account_uid: String,
    #[serde(rename = "sub")]
    pub(super) subject: String,
}

impl SecretClaims {
    /// # Errors
    /// When something is missing, or the subject is not the account.
    pub(super) fn check(&self) -> Result<(), String> {
        for (name, claim) in [
            ("sub", &self.subject),
            ("namespace", &self.namespace),
            ("secretName", &self.secret),
            ("serviceAccountName", &self.account),
            ("serviceAccountUID", &self.account_uid),
        ] {
            if claim.is_empty() {
                return Err(format!("{name} claim is missing"));
            }
        }
        match self.subject == subject(&self.namespace, &self.account) {
            true => Ok(()),
            false => Err("sub claim is invalid".to_owned()),
        }
    }
}

/// A token that one of the cluster's keys signed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verified {
    /// One that was asked for by a TokenRequest.
    Bound(Box<Claims>),
    /// One that is kept in a Secret.
    OfSecret(SecretClaims),
}

/// The subject of an account's tokens.
pub(super) fn subject(namespace: &str, account: &str) -> String {
    format!("system:serviceaccount:{namespace}:{account}")
}

impl TokenKey {
    /// A key from its PKCS #8 form.
    ///
    /// # Errors
    /// When it is neither a P-256 nor an RSA key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, TokenKeyError> {
        let p256 =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new());
        let signer = match p256 {
            Ok(key) => Signer::P256(key),
            Err(_) => {
                let key = RsaKeyPair::from_pkcs8(der);
                Signer::Rsa(key.map_err(|error| TokenKeyError(error.to_string()))?)
            }
        };
        Ok(Self::of(signer))
    }

    /// A private key from PEM, in PKCS #8 or, for RSA, PKCS #1.
    ///
    /// # Errors
    /// When there is none, or it is neither a P-256 nor an RSA key.
    pub fn from_pem(pem: &str) -> Result<Self, TokenKeyError> {
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes()) {
            let (kind, der) = section.map_err(|error| TokenKeyError(error.to_string()))?;
            match kind {
                SectionKind::PrivateKey => return Self::from_pkcs8(&der),
                SectionKind::RsaPrivateKey => {
                    let key = RsaKeyPair::from_der(&der);
                    let key = key.map_err(|error| TokenKeyError(error.to_string()))?;
                    return Ok(Self::of(Signer::Rsa(key)));
                }
                _ => {}
            }
        }
        Err(TokenKeyError("there is no private key in PKCS #8 or PKCS #1".to_owned()))
    }

    fn of(signer: Signer) -> Self {
        let public = match &signer {
            Signer::P256(key) => VerifyingKey::of_p256(key),
            Signer::Rsa(key) => VerifyingKey::of_rsa(key),
        };
        Self {
            key: Arc::new(signer),
            issuer: DEFAULT_ISSUER.to_owned(),
            former_issuers: Vec::new(),
            audiences: Vec::new(),
            jwks_uri: None,
            seconds_max: None,
            extends: true,
            verifying: vec![public.clone()],
            public,
        }
    }

    /// The same key in the name of another issuer (`--service-account-issuer`).
    #[must_use]
    pub fn with_issuer(mut self, issuer: &str) -> Self {
        issuer.clone_into(&mut self.issuer);
        self
    }

    /// The same key, with the tokens of this issuer taken too (a further
    /// `--service-account-issuer`).
    #[must_use]
    pub fn also_issued_by(mut self, issuer: &str) -> Self {
        self.former_issuers.push(issuer.to_owned());
        self
    }

    /// Whom tokens are for that do not say, and who this server is to them (`--api-audiences`); the
    /// issuer unless set.
    #[must_use]
    pub fn with_audiences(mut self, audiences: Vec<String>) -> Self {
        self.audiences = audiences;
        self
    }

    /// Where others find the keys (`--service-account-jwks-uri`); at this server unless set.
    #[must_use]
    pub fn with_jwks_uri(mut self, uri: &str) -> Self {
        self.jwks_uri = Some(uri.to_owned());
        self
    }

    /// How long a token lasts at most, whatever is asked for
    /// (`--service-account-max-token-expiration`); not limited unless set.
    #[must_use]
    pub fn with_max_expiration(mut self, longest: Duration) -> Self {
        self.seconds_max = i64::try_from(longest.as_secs()).ok().filter(|seconds| *seconds > 0);
        self
    }

    /// Whether the tokens that kubelets put into Pods are taken for a year, for programs that read
    /// them only once (`--service-account-extend-token-expiration`); they are unless this is `false`.
    #[must_use]
    pub fn extending_expiration(mut self, extends: bool) -> Self {
        self.extends = extends;
        self
    }

    /// The same key, with the tokens of these taken, and of no others
    /// (`--service-account-key-file`). Its own are not, unless it is among them.
    ///
    /// # Errors
    /// As [`Self::also_verifying`].
    pub fn only_verifying<'a>(
        mut self,
        pems: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, TokenKeyError> {
        self.verifying.clear();
        pems.into_iter().try_fold(self, TokenKey::also_verifying)
    }

    /// The same key, with the tokens of these taken too (`--service-account-key-file`): public
    /// keys, certificates or private keys in PEM.
    ///
    /// # Errors
    /// When there is no key in the text, or one of an unknown kind.
    pub fn also_verifying(mut self, pem: &str) -> Result<Self, TokenKeyError> {
        let mut keys = VerifyingKey::from_pem(pem).map_err(TokenKeyError)?;
        if keys.is_empty() {
            keys = Self::from_pem(pem)?.verifying;
        }
        for key in keys {
            if !self.verifying.contains(&key) {
                self.verifying.push(key);
            }
        }
        Ok(self)
    }

    /// A new key.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn generate() -> Result<Self, TokenKeyError> {
        let der =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .map_err(|error| TokenKeyError(error.to_string()))?;
        Self::from_pkcs8(der.as_ref())
    }

    /// Who issues its tokens.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whom tokens are for that do not say.
    pub fn audiences(&self) -> &[String] {
        if self.audiences.is_empty() { std::slice::from_ref(&self.issuer) } else { &self.audiences }
    }

    /// How many seconds a token lasts at most.
    pub(super) fn seconds_max(&self) -> Option<i64> {
        self.seconds_max
    }

    /// How many seconds the token of a Pod is taken that is to last so long and is for these
    /// audiences, if that is longer.
    pub(super) fn extended(&self, seconds: i64, audiences: &[String]) -> Option<i64> {
        let own = audiences.iter().all(|audience| self.audiences().contains(audience));
        (self.extends && own && seconds == SECONDS_IN_PODS).then_some(SECONDS_EXTENDED)
    }

    /// A token of a service account that is kept in a Secret. It is good for as long as the Secret of
    /// this name holds it and the account with this UID exists; `None` when the system has no
    /// randomness.
    pub fn sign_for_secret(
        &self,
        namespace: &str,
        account: (&str, &str),
        secret: &str,
    ) -> Option<String> {
        let (name, uid) = account;
        self.sign(&SecretClaims {
            issuer: SECRETS_ISSUER.to_owned(),
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            account: name.to_owned(),
            account_uid: uid.to_owned(),
            subject: subject(namespace, name),
        })
    }

    /// The keys whose tokens are taken, as a JWK set (RFC 7517).
    pub(super) fn jwks(&self) -> Value {
        json!({ "keys": self.verifying.iter().map(VerifyingKey::jwk).collect::<Vec<_>>() })
    }

    /// What tells others how to verify tokens (OpenID Connect Discovery 1.0), given where the keys
    /// are found.
    pub(super) fn discovery(&self, jwks_uri: &str) -> Value {
        let mut algorithms: Vec<&str> =
            self.verifying.iter().map(VerifyingKey::algorithm).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        json!({
            "issuer": self.issuer,
            "jwks_uri": self.jwks_uri.as_deref().unwrap_or(jwks_uri),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }

    /// A token of these claims; `None` when the system has no randomness.
    pub(super) fn sign(&self, claims: &impl Serialize) -> Option<String> {
        let public = &self.public;
        let header = json!({ "alg": public.algorithm(), "kid": public.id });
        let claims = serde_json::to_vec(claims).ok()?;
        let mut token = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let random = SystemRandom::new();
        let signature = match &*self.key {
            Signer::P256(key) => {
                URL_SAFE_NO_PAD.encode(key.sign(&random, token.as_bytes()).ok()?.as_ref())
            }
            Signer::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, token.as_bytes(), &mut signature).ok()?;
                URL_SAFE_NO_PAD.encode(signature)
            }
        };
        token.push('.');
        token.push_str(&signature);
        Some(token)
    }

    /// Whether a token says that it is of this issuer: others are none of ours.
    pub(super) fn issued(&self, token: &str) -> bool {
        let claims = Parts::read(token).and_then(|parts| parts.claims::<Issued>());
        claims.is_ok_and(|claims| self.is_issuer(&claims.issuer))
    }

    fn is_issuer(&self, issuer: &str) -> bool {
        issuer == SECRETS_ISSUER || self.is_own_issuer(issuer)
    }

    fn is_own_issuer(&self, issuer: &str) -> bool {
        issuer == self.issuer || self.former_issuers.iter().any(|former| former == issuer)
    }

    /// What a token says, if one of our keys signed it and its issuer is ours. Whether it has
    /// expired, and whether what it is bound to still exists, is for the caller to see.
    pub(super) fn verify(&self, token: &str) -> Result<Verified, String> {
        let parts = Parts::read(token)?;
        let Issued { issuer } = parts.verified(&self.verifying)?;
        if issuer == SECRETS_ISSUER {
            return parts.claims().map(Verified::OfSecret);
        }
        if !self.is_own_issuer(&issuer) {
            return Err(format!("its issuer is {issuer}"));
        }
        parts.claims().map(Box::new).map(Verified::Bound)
    }
}

/// Who a token says that issued it.
#[derive(Deserialize)]
struct Issued {
    #[serde(rename = "iss", default)]
    issuer: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tokens_that_the_key_signed_are_taken() {
        let key = TokenKey::generate().unwrap();
        let claims = Claims { issuer: key.issuer().to_owned(), expires: 7, ..Claims::default() };
        let token = key.sign(&claims).unwrap();
        assert_eq!(key.verify(&token), Ok(Verified::Bound(Box::new(claims))));

        assert!(TokenKey::generate().unwrap().verify(&token).is_err());
        let (head, signature) = token.rsplit_once('.').unwrap();
        let forged = format!("{}x.{signature}", &head[..head.len() - 1]);
        assert!(key.verify(&forged).is_err());
        for text in ["", ".", "..", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
            assert!(key.verify(text).is_err(), "{text}");
        }
    }

    #[test]
    fn tokens_of_a_former_key_are_taken_while_it_is_known() {
        let (old, new) = (rcgen::KeyPair::generate().unwrap(), TokenKey::generate().unwrap());
        let former = TokenKey::from_pem(&old.serialize_pem()).unwrap();
        let claims = Claims { issuer: new.issuer().to_owned(), ..Claims::default() };
        let token = former.sign(&claims).unwrap();
        assert!(new.verify(&token).is_err());
        for pem in [old.public_key_pem(), old.serialize_pem()] {
            let both = new.clone().also_verifying(&pem).unwrap();
            assert_eq!(both.verify(&token), Ok(Verified::Bound(Box::new(claims.clone()))));
            assert_eq!(
                both.verify(&new.sign(&claims).unwrap()),
                Ok(Verified::Bound(Box::new(claims.clone())))
            );
            assert_eq!(both.jwks()["keys"].as_array().unwrap().len(), 2);
        }
        assert!(new.clone().also_verifying("nothing").is_err());
    }

    #[test]
    fn a_key_is_the_same_in_all_its_forms() {
        let pair = rcgen::KeyPair::generate().unwrap();
        let key = TokenKey::from_pem(&pair.serialize_pem()).unwrap();
        let [pem] = VerifyingKey::from_pem(&pair.public_key_pem()).unwrap().try_into().unwrap();
        assert_eq!(key.verifying[0], pem);
        assert_eq!(VerifyingKey::from_jwk(&pem.jwk()).unwrap(), pem);
    }

    #[test]
    fn a_key_that_is_not_listed_signs_tokens_that_are_not_taken() {
        let (signing, listed) =
            (TokenKey::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
        let pem = listed.serialize_pem();
        let key = signing.only_verifying([pem.as_str()]).unwrap();
        let claims = Claims { issuer: key.issuer().to_owned(), ..Claims::default() };
        assert!(key.verify(&key.sign(&claims).unwrap()).is_err());
        let theirs = TokenKey::from_pem(&pem).unwrap().sign(&claims).unwrap();
        assert_eq!(key.verify(&theirs), Ok(Verified::Bound(Box::new(claims))));
    }

    #[test]
    fn tokens_of_a_former_issuer_are_taken_while_it_is_named() {
        let old = TokenKey::generate().unwrap().with_issuer("old");
        let new = old.clone().with_issuer("new");
        let token = old.sign(&Claims { issuer: "old".into(), ..Claims::default() }).unwrap();
        assert!(!new.issued(&token) && new.verify(&token).is_err());
        let both = new.also_issued_by("old");
        assert!(both.issued(&token) && both.verify(&token).is_ok());
    }

    #[test]
    fn another_issuer_is_another_cluster() {
        let key = TokenKey::generate().unwrap();
        let other = key.clone().with_issuer("api");
        let token = other.sign(&Claims { issuer: "api".into(), ..Claims::default() }).unwrap();
        assert!(other.issued(&token) && !key.issued(&token));
        assert!(other.verify(&token).is_ok() && key.verify(&token).is_err());
    }
}
