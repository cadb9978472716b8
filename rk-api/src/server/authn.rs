//! Authentication: who is asking.

mod bootstrap_token;
mod client_certificate;
mod notes;
mod oidc;
mod request_header;
mod service_account;
mod token_list;
mod webhook;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, header, request::Parts};

pub(super) use self::{
    bootstrap_token::BootstrapTokens, notes::Notes, service_account::ServiceAccountTokens,
};
pub use self::{
    client_certificate::{ClientCertificates, PeerCertificate, UntrustedCertificate},
    oidc::{Oidc, OidcConfig, OidcError},
    request_header::{ProxyCertificate, RequestHeaders},
    token_list::TokenList,
    webhook::WebhookTokens,
};
use super::user::UserInfo;
pub use super::webhook::WebhookError;

/// Tells who makes a request.
///
/// # Contract
/// - `Ok(None)`: the request has no credentials of this kind; the next authenticator is asked.
/// - `Err`: it has some, and they are wrong; others are still asked, since a bearer token that is
///   nothing to one may be right for another.
/// - It looks at the request's head only and changes nothing.
#[async_trait]
pub trait Authenticator: fmt::Debug + Send + Sync + 'static {
    /// The user whose credentials these are.
    async fn authenticate(&self, request: &Parts) -> Result<Option<UserInfo>, AuthenticationError>;
}

/// Credentials that are wrong. The reason is for the log; a client only learns that it failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct AuthenticationError(pub String);

/// Asks several authenticators in turn; the first that knows the user decides.
#[derive(Clone, Debug, Default)]
pub struct Union(pub Vec<Arc<dyn Authenticator>>);

#[async_trait]
impl Authenticator for Union {
    async fn authenticate(&self, request: &Parts) -> Result<Option<UserInfo>, AuthenticationError> {
        let mut failure = None;
        for authenticator in &self.0 {
            match authenticator.authenticate(request).await {
                Ok(Some(user)) => return Ok(Some(user)),
                Ok(None) => {}
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(failure) => Err(failure),
            // A token that is nobody's is wrong; no token at all is no mistake.
            None if bearer_token(request).is_some() => {
                Err(AuthenticationError("invalid bearer token".to_owned()))
            }
            None => Ok(None),
        }
    }
}

/// The bearer token of a request: from its header, or, for WebSockets of browsers, from the
/// subprotocol that Kubernetes defines for it.
pub fn bearer_token(request: &Parts) -> Option<String> {
    let header = request.headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    if let Some((scheme, token)) = header.and_then(|value| value.split_once(' '))
        && scheme.eq_ignore_ascii_case("bearer")
        && !token.trim().is_empty()
    {
        return Some(token.trim().to_owned());
    }
    let token = protocols(&request.headers).find_map(|protocol| protocol.strip_prefix(PROTOCOL))?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()
}

/// The WebSocket subprotocol that is no protocol but a token: this, and the token in base64url.
const PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// The subprotocols that a request offers.
fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    let offered = offered.filter_map(|value| value.to_str().ok());
    offered.flat_map(|value| value.split(',')).map(str::trim)
}

/// Takes the client's credentials out of a request: handlers must not pass them on to nodes. So are
/// headers that only an authenticating proxy may send, whoever sent them.
pub(super) fn take_credentials(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    let said: Vec<_> =
        headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in said {
        headers.remove(name);
    }
    if protocols(headers).any(|protocol| protocol.starts_with(PROTOCOL)) {
        let rest: Vec<_> =
            protocols(headers).filter(|protocol| !protocol.starts_with(PROTOCOL)).collect();
        let rest = HeaderValue::from_str(&rest.join(", "));
        headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
        if let Ok(rest) = rest
            && !rest.is_empty()
        {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_browsers_token_is_among_its_protocols_and_is_not_passed_on() {
        let token = URL_SAFE_NO_PAD.encode("secret");
        let request = http::Request::get("/")
            .header("Sec-WebSocket-Protocol", format!("{PROTOCOL}{token}, v5.channel.k8s.io"))
            .header("X-Remote-User", "ann");
        let mut parts = request.body(()).unwrap().into_parts().0;
        assert_eq!(bearer_token(&parts).as_deref(), Some("secret"));
        take_credentials(&mut parts.headers);
        assert_eq!(bearer_token(&parts), None);
        assert_eq!(parts.headers.len(), 1);
        assert_eq!(parts.headers["sec-websocket-protocol"], "v5.channel.k8s.io");
    }
}
