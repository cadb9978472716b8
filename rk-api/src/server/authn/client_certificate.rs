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

/// Says that the client of a connection showed a certificate of an authority that clients must not
/// have.
#[derive(Clone, Copy, Debug)]
pub struct UntrustedCertificate;

/// Takes users from verified client certificates.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientCertificates;

#[async_trait]
impl Authenticator for ClientCertificates {
    async fn authenticate(&self, request: &Parts) -> Result<Option<UserInfo>, AuthenticationError> {
        if let Some(certificate) = request.extensions.get::<PeerCertificate>() {
            return user(&certificate.0).map(Some);
        }
        if request.extensions.get::<UntrustedCertificate>().is_some() {
            let why = "the client certificate is not of a known authority";
            return Err(AuthenticationError(why.to_owned()));
        }
        Ok(None)
    }
}

/// The user that a certificate names.
fn user(certificate: &[u8]) -> Result<UserInfo, AuthenticationError> {
    let name = common_name(certificate)?;
    let certificate = read(certificate)?;
    let groups = certificate.subject().iter_organization();
    Ok(UserInfo::new(&name, groups.filter_map(|group| group.as_str().ok())))
}

/// The common name of a certificate.
pub(super) fn common_name(certificate: &[u8]) -> Result<String, AuthenticationError> {
    let certificate = read(certificate)?;
    let name = certificate.subject().iter_common_name().find_map(|name| name.as_str().ok());
    name.filter(|name| !name.is_empty())
        .map(ToOwned::to_owned)
        .ok_or_else(|| AuthenticationError("the client certificate has no common name".into()))
}

fn read(certificate: &[u8]) -> Result<X509Certificate<'_>, AuthenticationError> {
    X509Certificate::from_der(certificate)
        .map(|(_, certificate)| certificate)
        .map_err(|error| AuthenticationError(format!("the client certificate: {error}")))
}
