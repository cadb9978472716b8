//! The token service of a registry (Docker Registry v2 authentication; RFC 6749, section 6 for
//! refresh tokens; RFC 6750 for the use of the token).

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, header};
use http_body_util::Full;
use serde::Deserialize;
use tokio::time::Instant;

use super::PullError;
use crate::runtime::RegistryAuth;

/// How long a token is good that does not say so, as the specification has it.
const UNSAID: Duration = Duration::from_secs(60);
/// A token is not used in the last seconds of its life.
const MARGIN: Duration = Duration::from_secs(10);

/// A token as the service gave it.
#[derive(Clone)]
pub(super) struct Token {
    value: String,
    until: Instant,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("until", &self.until).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl Token {
    /// Reads what the service answered.
    pub(super) fn parse(what: &str, body: &[u8]) -> Result<Self, PullError> {
        let wrong = |why: String| PullError::Answer { what: what.to_owned(), why };
        let answer: Answer =
            serde_json::from_slice(body).map_err(|error| wrong(error.to_string()))?;
        let token = [answer.token, answer.access_token].into_iter().flatten();
        let value = token.into_iter().find(|token| !token.is_empty());
        let value = value.ok_or_else(|| wrong("it has no token".to_owned()))?;
        let life = answer.expires_in.map_or(UNSAID, Duration::from_secs).min(UNSAID * 60 * 24);
        Ok(Self { value, until: Instant::now() + life.saturating_sub(MARGIN) })
    }

    /// The header to show it in, while it is good.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        if Instant::now() >= self.until { None } else { bearer(&self.value) }
    }
}

/// A token as a header; `None` when it has characters that no header may have.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(format!("Bearer {token}"))
}

/// Name and password as a header (RFC 7617).
pub(super) fn basic(auth: &RegistryAuth) -> Option<HeaderValue> {
    sensitive(format!("Basic {}", STANDARD.encode(format!("{}:{}", auth.username, auth.password))))
}

fn sensitive(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The request for a token to do `scope`.
pub(super) fn request(
    realm: &str,
    service: &str,
    scope: &str,
    auth: Option<&RegistryAuth>,
) -> Result<Request<Full<Bytes>>, http::Error> {
    let refresh = auth.map(|auth| auth.identity_token.as_str()).filter(|token| !token.is_empty());
    let mut parameters = vec![("service", service), ("scope", scope)];
    if let Some(refresh) = refresh {
        parameters.extend([
            ("grant_type", "refresh_token"),
            ("client_id", "rk"),
            ("refresh_token", refresh),
        ]);
        return Request::builder()
            .method(Method::POST)
            .uri(realm)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::new(encode(&parameters).into()));
    }
    let mut headers = HeaderMap::new();
    if let Some(auth) = auth.filter(|auth| !auth.username.is_empty()) {
        parameters.push(("account", &auth.username));
        headers.extend(basic(auth).map(|value| (header::AUTHORIZATION, value)));
    }
    let separator = if realm.contains('?') { '&' } else { '?' };
    let uri = format!("{realm}{separator}{}", encode(&parameters));
    let mut request = Request::builder().method(Method::GET).uri(uri).body(Full::default())?;
    request.headers_mut().extend(headers);
    Ok(request)
}

/// `application/x-www-form-urlencoded`, without what is empty. A scope of several parts is a
/// parameter of several values.
fn encode(parameters: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, value) in parameters {
        let values: Vec<&str> = match *name {
            "scope" => value.split(' ').collect(),
            _ => vec![value],
        };
        for value in values.into_iter().filter(|value| !value.is_empty()) {
            if !text.is_empty() {
                text.push('&');
            }
            text.push_str(name);
            text.push('=');
            for byte in value.bytes() {
                match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                        text.push(char::from(byte));
                    }
                    byte => text.push_str(&format!("%{byte:02X}")),
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> RegistryAuth {
        RegistryAuth { username: "alice".into(), password: "s:e".into(), ..Default::default() }
    }

    #[test]
    fn a_token_is_asked_for_with_a_name_or_a_refresh_token_or_neither() {
        let ask = |auth: Option<&RegistryAuth>| {
            request("https://a/t?x=1", "r example", "repository:a/b:pull", auth).unwrap()
        };
        let anonymous = ask(None);
        let query = "x=1&service=r%20example&scope=repository%3Aa%2Fb%3Apull";
        assert_eq!(anonymous.uri().query(), Some(query));
        assert!(!anonymous.headers().contains_key(header::AUTHORIZATION));

        let named = ask(Some(&alice()));
        assert!(named.uri().query().unwrap().ends_with("&account=alice"));
        assert_eq!(named.headers()[header::AUTHORIZATION], "Basic YWxpY2U6czpl");

        let auth = RegistryAuth { identity_token: "r/1".into(), ..alice() };
        let refreshed = ask(Some(&auth));
        assert_eq!((refreshed.method(), refreshed.uri().query()), (&Method::POST, Some("x=1")));
        assert!(!refreshed.headers().contains_key(header::AUTHORIZATION));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_used_until_shortly_before_it_ends() {
        let token = Token::parse("t", br#"{"access_token": "abc", "expires_in": 300}"#).unwrap();
        assert_eq!(token.header().unwrap(), "Bearer abc");
        tokio::time::advance(Duration::from_secs(289)).await;
        assert!(token.header().is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(token.header().is_none());
        for bad in [&b"{}"[..], b"[", br#"{"token": ""}"#] {
            assert!(matches!(Token::parse("t", bad), Err(PullError::Answer { .. })));
        }
        let huge = format!("{{\"token\": \"a\", \"expires_in\": {}}}", u64::MAX);
        assert!(Token::parse("t", huge.as_bytes()).is_ok());
    }
}
