//! Authentication: who is asking.

mod bootstrap_token;
mod client_certificate;
mod oidc;
mod request_header;
mod service_account;
mod token_list;
mod webhook;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use http::{header, request::Parts};

pub(super) use self::{bootstrap_token::BootstrapTokens, service_account::ServiceAccountTokens};
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
    None
}
