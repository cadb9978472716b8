//! Service-account tokens: JSON Web Tokens (RFC 7519) signed with ES256.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
        UnparsedPublicKey,
    },
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Who issues the tokens of a cluster, unless it says otherwise.
const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A key that signs service-account tokens. Cloning shares it.
#[derive(Clone)]
pub struct TokenKey(Arc<Inner>);

struct Inner {
    key: EcdsaKeyPair,
    id: String,
    issuer: String,
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey").field("id", &self.0.id).finish_non_exhaustive()
    }
}

/// Why a key is not usable.
#[derive(Debug, thiserror::Error)]
#[error("the service-account key is no P-256 key in PKCS #8: {0}")]
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
}

/// An object without which the token is worth nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bound {
    pub(super) name: String,
    pub(super) uid: String,
}

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
}

impl TokenKey {
    /// A key from its PKCS #8 form.
    ///
    /// # Errors
    /// When it is no P-256 key.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, TokenKeyError> {
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new())
                .map_err(|error| TokenKeyError(error.to_string()))?;
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(key.public_key().as_ref()));
        Ok(Self(Arc::new(Inner { key, id, issuer: DEFAULT_ISSUER.to_owned() })))
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
        &self.0.issuer
    }

    /// A token of a service account that is kept in a Secret. It is good for as long as the account
    /// with this UID and a Secret of this name exist, ten years at most; `None` when the system has
    /// no randomness.
    pub fn sign_for_secret(
        &self,
        namespace: &str,
        account: (&str, &str),
        secret: &str,
    ) -> Option<String> {
        const TEN_YEARS: i64 = 10 * 365 * 24 * 3600;
        let (name, uid) = account;
        let now = crate::clock::now().as_second();
        self.sign(&Claims {
            audiences: vec![self.issuer().to_owned()],
            expires: now + TEN_YEARS,
            issued: now,
            issuer: self.issuer().to_owned(),
            id: crate::rng::uuid(),
            kubernetes: Kubernetes {
                namespace: namespace.to_owned(),
                // The Secret is written with the token in it, so its UID is not known yet.
                secret: Some(Bound { name: secret.to_owned(), uid: String::new() }),
                serviceaccount: Bound { name: name.to_owned(), uid: uid.to_owned() },
                ..Kubernetes::default()
            },
            not_before: now,
            subject: format!("system:serviceaccount:{namespace}:{name}"),
        })
    }

    /// A token of these claims; `None` when the system has no randomness.
    pub(super) fn sign(&self, claims: &Claims) -> Option<String> {
        let header = serde_json::json!({ "alg": "ES256", "kid": self.0.id });
        let claims = serde_json::to_vec(claims).ok()?;
        let mut token = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let signature = self.0.key.sign(&SystemRandom::new(), token.as_bytes()).ok()?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature.as_ref()));
        Some(token)
    }

    /// What a token says, if this key signed it and its issuer is ours. Whether it has expired, and
    /// whether what it is bound to still exists, is for the caller to see.
    pub(super) fn verify(&self, token: &str) -> Result<Claims, String> {
        let (signed, signature) = token.rsplit_once('.').ok_or("it has no signature")?;
        let (header, claims) = signed.split_once('.').ok_or("it has no claims")?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|error| error.to_string());
        let header: Header =
            serde_json::from_slice(&decode(header)?).map_err(|error| error.to_string())?;
        // The algorithm is ours to choose, not the token's.
        if header.alg != "ES256" {
            return Err(format!("its algorithm is {}", header.alg));
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.0.key.public_key().as_ref())
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| "its signature is wrong")?;
        let claims: Claims =
            serde_json::from_slice(&decode(claims)?).map_err(|error| error.to_string())?;
        if claims.issuer != self.0.issuer {
            return Err(format!("its issuer is {}", claims.issuer));
        }
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tokens_that_the_key_signed_are_taken() {
        let key = TokenKey::generate().unwrap();
        let claims = Claims { issuer: key.issuer().to_owned(), expires: 7, ..Claims::default() };
        let token = key.sign(&claims).unwrap();
        assert_eq!(key.verify(&token), Ok(claims));

        assert!(TokenKey::generate().unwrap().verify(&token).is_err());
        let (head, signature) = token.rsplit_once('.').unwrap();
        let forged = format!("{}x.{signature}", &head[..head.len() - 1]);
        assert!(key.verify(&forged).is_err());
        for text in ["", ".", "..", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
            assert!(key.verify(text).is_err(), "{text}");
        }
    }
}
