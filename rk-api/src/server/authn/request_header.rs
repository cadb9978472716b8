//! Users that an authenticating proxy names in headers.

use async_trait::async_trait;
use http::{HeaderMap, request::Parts};

use super::{AuthenticationError, Authenticator, client_certificate::common_name};
use crate::server::{info::percent_decode, user::UserInfo};

/// The certificate that a proxy showed. The TLS layer puts it into a request's extensions, after it
/// has verified it against the authority for proxies.
#[derive(Clone, Debug)]
pub struct ProxyCertificate(pub std::sync::Arc<[u8]>);

/// Takes users from the headers of requests that come through a proxy with a certificate of its own
/// (`--requestheader-*`). The server's TLS must know the proxies' authority
/// ([`ServerTls::with_proxies`](crate::server::ServerTls::with_proxies)).
///
/// Headers that begin with `X-Remote-` are taken out of every request, so that nobody behind the
/// server believes them.
#[derive(Clone, Debug)]
pub struct RequestHeaders {
    /// The common names that proxies may have; any when empty, as it is by default.
    pub allowed_names: Vec<String>,
    /// Headers with the user's name: the first that is there counts. `X-Remote-User` by default.
    pub user_headers: Vec<String>,
    /// Headers with groups, one in each. `X-Remote-Group` by default.
    pub group_headers: Vec<String>,
    /// Headers with the user's uid. `X-Remote-Uid` by default.
    pub uid_headers: Vec<String>,
    /// What the names of headers with extra fields begin with. `X-Remote-Extra-` by default.
    pub extra_prefixes: Vec<String>,
}

impl Default for RequestHeaders {
    fn default() -> Self {
        let one = |name: &str| vec![name.to_owned()];
        Self {
            allowed_names: Vec::new(),
            user_headers: one("X-Remote-User"),
            group_headers: one("X-Remote-Group"),
            uid_headers: one("X-Remote-Uid"),
            extra_prefixes: one("X-Remote-Extra-"),
        }
    }
}

#[async_trait]
impl Authenticator for RequestHeaders {
    async fn authenticate(&self, request: &Parts) -> Result<Option<UserInfo>, AuthenticationError> {
        let Some(certificate) = request.extensions.get::<ProxyCertificate>() else {
            return Ok(None);
        };
        let name = common_name(&certificate.0)?;
        if !self.allowed_names.is_empty() && !self.allowed_names.contains(&name) {
            return Err(AuthenticationError(format!("a proxy must not be called {name:?}")));
        }
        Ok(self.user(&request.headers))
    }
}

impl RequestHeaders {
    fn user(&self, headers: &HeaderMap) -> Option<UserInfo> {
        let texts = |names: &[String]| {
            let values = names.iter().flat_map(|name| headers.get_all(name.as_str()));
            let texts = values.filter_map(|value| value.to_str().ok()).map(str::trim);
            texts.filter(|text| !text.is_empty()).map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        let name = texts(&self.user_headers).into_iter().next()?;
        let groups = texts(&self.group_headers);
        let mut user = UserInfo::new(&name, groups.iter().map(String::as_str));
        user.uid = texts(&self.uid_headers).into_iter().next().unwrap_or_default();
        for prefix in &self.extra_prefixes {
            let prefix = prefix.to_ascii_lowercase();
            for (header, value) in headers {
                let key = header.as_str().strip_prefix(&prefix).filter(|key| !key.is_empty());
                let (Some(key), Ok(value)) = (key, value.to_str()) else { continue };
                // A key may hold characters that a header's name may not.
                let key = percent_decode(key).unwrap_or_else(|| key.to_owned());
                user.extra.entry(key).or_default().push(value.to_owned());
            }
        }
        Some(user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_name_user_groups_and_extras() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-remote-user", "ann"),
            ("x-remote-group", "devs"),
            ("x-remote-group", "ops"),
            ("x-remote-uid", "7"),
            ("x-remote-extra-example.com%2fscope", "a"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        let user = RequestHeaders::default().user(&headers).unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("ann", "7"));
        assert_eq!(user.groups, ["devs", "ops", "system:authenticated"]);
        assert_eq!(user.extra["example.com/scope"], ["a"]);
        assert_eq!(RequestHeaders::default().user(&HeaderMap::new()), None);
    }

    #[tokio::test]
    async fn headers_without_a_proxys_certificate_mean_nothing() {
        let request = http::Request::get("/").header("x-remote-user", "ann").body(()).unwrap();
        let answer = RequestHeaders::default().authenticate(&request.into_parts().0).await;
        assert_eq!(answer.unwrap(), None);
    }
}
