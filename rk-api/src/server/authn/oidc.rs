//! Identity tokens of an OpenID Connect provider (OpenID Connect Core 1.0, section 2).

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::{Request, Uri, request::Parts};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{AuthenticationError, Authenticator, bearer_token};
use crate::{
    clock,
    server::{
        jwt::{self, VerifyingKey},
        user::UserInfo,
    },
};

/// How long the provider may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The shortest time between two looks at the provider's keys.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Seconds by which clocks may differ.
const LEEWAY: i64 = 10;

/// A provider, and how its claims become users (`--oidc-*`).
#[derive(Clone, Debug, Default)]
pub struct OidcConfig {
    /// The issuer's URL, as tokens name it: `https://…`. Required.
    pub issuer_url: String,
    /// The client for which tokens must be. Required.
    pub client_id: String,
    /// The claim with the user's name; `sub` when empty.
    pub username_claim: String,
    /// What goes before names: the issuer's URL and `#` when `None`, except for the claim `email`.
    pub username_prefix: Option<String>,
    /// The claim with the groups: a text or a list; none when empty.
    pub groups_claim: String,
    /// What goes before groups.
    pub groups_prefix: String,
    /// Claims that must have these values.
    pub required_claims: BTreeMap<String, String>,
    /// The authority that signed the provider's certificate, in PEM; the system's when `None`.
    pub ca_pem: Option<String>,
}

/// Why a provider cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the OpenID Connect provider is not usable: {0}")]
pub struct OidcError(String);

/// Takes users from the tokens of a provider. Its keys are looked up when the first token comes, and
/// again when a token is of a key that is not known.
pub struct Oidc {
    config: OidcConfig,
    keys: ArcSwap<Vec<VerifyingKey>>,
    looked: tokio::sync::Mutex<Option<Instant>>,
}

impl fmt::Debug for Oidc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Oidc").field("issuer", &self.config.issuer_url).finish_non_exhaustive()
    }
}

impl Oidc {
    /// A provider that is asked when it is needed.
    ///
    /// # Errors
    /// When the issuer's URL is not one of HTTPS or the client is missing.
    pub fn new(config: OidcConfig) -> Result<Self, OidcError> {
        if !config.issuer_url.starts_with("https://") {
            return Err(OidcError("issuer_url must begin with https://".to_owned()));
        }
        if config.client_id.is_empty() {
            return Err(OidcError("client_id must not be empty".to_owned()));
        }
        Ok(Self { config, keys: ArcSwap::default(), looked: tokio::sync::Mutex::default() })
    }

    /// The claims of a token that the provider signed.
    async fn claims(&self, parts: &jwt::Parts<'_>) -> Result<Map<String, Value>, String> {
        let known = self.keys.load_full();
        if let Ok(claims) = parts.verified(&known) {
            return Ok(claims);
        }
        let mut looked = self.looked.lock().await;
        if looked.is_none_or(|at| at.elapsed() > LOOK_AGAIN_AFTER) {
            *looked = Some(Instant::now());
            self.keys.store(Arc::new(self.fetch().await?));
        }
        parts.verified(&self.keys.load())
    }

    async fn fetch(&self) -> Result<Vec<VerifyingKey>, String> {
        let issuer = self.config.issuer_url.trim_end_matches('/');
        let discovery = self.get(&format!("{issuer}/.well-known/openid-configuration")).await?;
        let text = |key: &str| discovery.get(key).and_then(Value::as_str).unwrap_or_default();
        if text("issuer") != self.config.issuer_url {
            return Err(format!("the provider calls itself {:?}", text("issuer")));
        }
        let keys = self.get(text("jwks_uri")).await?;
        let keys = keys.get("keys").and_then(Value::as_array);
        Ok(keys.into_iter().flatten().filter_map(VerifyingKey::from_jwk).collect())
    }

    async fn get(&self, url: &str) -> Result<Value, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url:?}: {error}"))?;
        let path = uri.path_and_query().map_or("/".to_owned(), ToString::to_string);
        let mut root = uri.into_parts();
        root.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        let root = Uri::from_parts(root).map_err(|error| error.to_string())?;
        let mut config = kube::Config::new(root);
        config.read_timeout = Some(ANSWER_WITHIN);
        config.root_cert = self.config.ca_pem.as_deref().map(authorities).transpose()?;
        let client = kube::Client::try_from(config).map_err(|error| error.to_string())?;
        let request = Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
        let answer = tokio::time::timeout(ANSWER_WITHIN, client.request::<Value>(request)).await;
        let answer = answer.map_err(|_| format!("{url} does not answer"))?;
        answer.map_err(|error| format!("{url}: {error}"))
    }
}

fn authorities(pem: &str) -> Result<Vec<Vec<u8>>, String> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let found = CertificateDer::pem_slice_iter(pem.as_bytes());
    found
        .map(|found| found.map(|der| der.as_ref().to_vec()).map_err(|error| error.to_string()))
        .collect()
}

#[async_trait]
impl Authenticator for Oidc {
    async fn authenticate(&self, request: &Parts) -> Result<Option<UserInfo>, AuthenticationError> {
        #[derive(Deserialize)]
        struct Issued {
            #[serde(rename = "iss", default)]
            issuer: String,
        }
        let Some(token) = bearer_token(request) else { return Ok(None) };
        let Ok(parts) = jwt::Parts::read(&token) else { return Ok(None) };
        // Tokens of others are not for this provider to judge.
        if !parts.claims::<Issued>().is_ok_and(|claims| claims.issuer == self.config.issuer_url) {
            return Ok(None);
        }
        let claims = self.claims(&parts).await.map_err(AuthenticationError)?;
        let now = clock::now().as_second();
        user(&self.config, &claims, now).map(Some).map_err(AuthenticationError)
    }
}

/// Whom verified claims name.
fn user(config: &OidcConfig, claims: &Map<String, Value>, now: i64) -> Result<UserInfo, String> {
    let texts = |claim: &str| -> Option<Vec<String>> {
        match claims.get(claim)? {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(list) => {
                list.iter().map(|text| text.as_str().map(ToOwned::to_owned)).collect()
            }
            _ => None,
        }
    };
    let time = |claim: &str| claims.get(claim).and_then(Value::as_f64).map(|time| time as i64);
    let expires = time("exp").ok_or("oidc: the token does not say when it expires")?;
    if expires + LEEWAY < now || time("nbf").is_some_and(|from| from - LEEWAY > now) {
        return Err("oidc: the token is not valid at this time".to_owned());
    }
    let audiences = texts("aud").unwrap_or_default();
    if !audiences.contains(&config.client_id) {
        return Err(format!("oidc: expected audience {:?} got {audiences:?}", config.client_id));
    }
    for (claim, value) in &config.required_claims {
        if texts(claim).as_deref() != Some(std::slice::from_ref(value)) {
            return Err(format!("oidc: claim {claim} must be {value}"));
        }
    }
    let claim = match config.username_claim.as_str() {
        "" => "sub",
        claim => claim,
    };
    if claim == "email" && claims.get("email_verified").is_some_and(|v| v != &Value::Bool(true)) {
        return Err("oidc: email not verified".to_owned());
    }
    let name = claims.get(claim).and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| format!("oidc: the claim {claim:?} is not a name"))?;
    let prefix = match &config.username_prefix {
        Some(prefix) => prefix.clone(),
        None if claim == "email" => String::new(),
        None => format!("{}#", config.issuer_url),
    };
    let mut groups = Vec::new();
    if !config.groups_claim.is_empty() && claims.contains_key(&config.groups_claim) {
        let found = texts(&config.groups_claim);
        groups = found.ok_or_else(|| {
            format!("oidc: the claim {:?} is no list of groups", config.groups_claim)
        })?;
    }
    let groups: Vec<String> =
        groups.into_iter().map(|group| format!("{}{group}", config.groups_prefix)).collect();
    Ok(UserInfo::new(&format!("{prefix}{name}"), groups.iter().map(String::as_str)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config() -> OidcConfig {
        OidcConfig {
            issuer_url: "https://issuer".into(),
            client_id: "rk".into(),
            groups_claim: "groups".into(),
            groups_prefix: "oidc:".into(),
            ..OidcConfig::default()
        }
    }

    fn ask(config: &OidcConfig, changes: Value) -> Result<UserInfo, String> {
        let mut claims = json!({ "sub": "ann", "aud": ["rk"], "exp": 1000, "groups": ["devs"] });
        for (claim, value) in changes.as_object().unwrap() {
            claims[claim] = value.clone();
        }
        user(config, claims.as_object().unwrap(), 900)
    }

    #[test]
    fn claims_become_user_and_groups_with_their_prefixes() {
        let found = ask(&config(), json!({})).unwrap();
        assert_eq!(found.name, "https://issuer#ann");
        assert_eq!(found.groups, ["oidc:devs", "system:authenticated"]);
        let by_mail = OidcConfig { username_claim: "email".into(), ..config() };
        let verified = json!({ "email": "a@b", "email_verified": true });
        assert_eq!(ask(&by_mail, verified).unwrap().name, "a@b");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for changes in [
            json!({ "exp": 800 }),
            json!({ "nbf": 950 }),
            json!({ "aud": "other" }),
            json!({ "sub": "" }),
            json!({ "sub": 7 }),
            json!({ "groups": 7 }),
        ] {
            assert!(ask(&config(), changes.clone()).is_err(), "{changes}");
        }
        let by_mail = OidcConfig { username_claim: "email".into(), ..config() };
        assert!(ask(&by_mail, json!({ "email": "a@b", "email_verified": false })).is_err());
        let required = [("hd".to_owned(), "x".to_owned())].into();
        let strict = OidcConfig { required_claims: required, ..config() };
        assert!(ask(&strict, json!({})).is_err() && ask(&strict, json!({ "hd": "x" })).is_ok());
    }
}
