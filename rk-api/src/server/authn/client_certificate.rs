//! TLS client certificates: the common name is the user, the organizations are the groups.

use std::sync::Arc;

use async_trait::async_trait;
use http::request::Parts;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{AuthenticationError, Authenticator};
use crate::server::user::UserInfo;

/// The certificate that the client of a connection showed. The TLS layer puts it into a request's
/// extensions, after it has verified it against the client CA.
#[derive(Clone, Debug)]
pub struct PeerCertificate(pub Arc<[u8]>);

/// Takes users from verified client certificates.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientCertificates;

#[async_trait]
impl Authenticator for ClientCertificates {
    async fn authenticate(&self, request: &Parts) -> Result<Option<UserInfo>, AuthenticationError> {
        let Some(certificate) = request.extensions.get::<PeerCertificate>() else {
            return Ok(None);
        };
        user(&certificate.0).map(Some)
    }
}

/// The user that a certificate names.
fn user(certificate: &[u8]) -> Result<UserInfo, AuthenticationError> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|error| AuthenticationError(format!("the client certificate: {error}")))?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().find_map(|name| name.as_str().ok());
    let name = name
        .filter(|name| !name.is_empty())
        .ok_or_else(|| AuthenticationError("the client certificate has no common name".into()))?;
    Ok(UserInfo::new(name, subject.iter_organization().filter_map(|group| group.as_str().ok())))
}
