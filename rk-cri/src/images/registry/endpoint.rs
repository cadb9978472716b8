//! One host that has images: requests to it, with login and redirects.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use base64::Engine;
use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::{
    PullError,
    challenge::{self, Challenge},
    config::{Capability, HostConfig},
    tls,
    token::{self, Token},
};
use crate::runtime::RegistryAuth;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const REDIRECTS_MAX: u32 = 10;
/// The largest answer of a token service.
const TOKEN_BYTES_MAX: usize = 1 << 20;
/// The largest complaint that is read.
const COMPLAINT_BYTES_MAX: usize = 64 << 10;
/// Tokens that are kept for one host; older ones are forgotten when there are more.
const TOKENS_MAX: usize = 1000;

/// What is asked of a host.
#[derive(Clone, Debug)]
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// The path of the repository: `library/busybox`.
    pub(super) repository: &'a str,
    /// What of it: `manifests/latest`, `blobs/sha256:…`.
    pub(super) rest: String,
    pub(super) headers: HeaderMap,
    pub(super) auth: Option<&'a RegistryAuth>,
}

/// A host: where it is, how it is reached, and what it gave us.
#[derive(Debug)]
pub(super) struct Endpoint {
    config: HostConfig,
    /// Scheme, host, and the path up to the repository's name, without a slash at its end.
    base: String,
    /// The registry that it mirrors; `None` for the registry itself.
    mirrors: Option<String>,
    headers: HeaderMap,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    tokens: Mutex<HashMap<String, Token>>,
    /// It has asked for name and password before, and is shown them unasked since.
    wants_basic: AtomicBool,
    idle_timeout: Duration,
}

impl Endpoint {
    /// The host `config` of the registry called `registry`: itself, or listed before it.
    pub(super) fn new(
        registry: &str,
        config: HostConfig,
        itself: bool,
        idle_timeout: Duration,
    ) -> Result<Self, PullError> {
        let invalid =
            |why: &str| PullError::Configuration { what: config.url.clone(), why: why.to_owned() };
        let url = match config.url.contains("://") {
            true => config.url.clone(),
            false => format!("https://{}", config.url),
        };
        let uri: Uri = url.parse().map_err(|_| invalid("it is not the address of a host"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.query().is_some() {
            return Err(invalid("it is not an http or https address"));
        }
        let authority = uri.authority().ok_or_else(|| invalid("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(invalid("a user's name has no place in it"));
        }
        let path = uri.path().trim_end_matches('/');
        let version = if config.override_path || path.ends_with("/v2") { "" } else { "/v2" };
        let base = format!("{}://{authority}{path}{version}", uri.scheme_str().unwrap_or("https"));
        let mut headers = HeaderMap::new();
        for (name, values) in &config.header {
            let name: HeaderName =
                name.parse().map_err(|_| invalid("a header has a wrong name"))?;
            for value in values.as_slice() {
                let value = HeaderValue::from_str(value);
                let value = value.map_err(|_| invalid("a header has a wrong value"))?;
                headers.append(name.clone(), value);
            }
        }
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls::client_config(&config)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        let own = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        // The list before the registry may have the registry, too, for its settings.
        let mirrors = (!itself && authority.as_str() != own).then(|| registry.to_owned());
        Ok(Self {
            config,
            base,
            mirrors,
            headers,
            client,
            tokens: Mutex::default(),
            wants_basic: AtomicBool::new(false),
            idle_timeout,
        })
    }

    pub(super) fn can(&self, what: Capability) -> bool {
        self.config.can(what)
    }

    /// Whether credentials for the image's registry are for this host.
    fn is_trusted(&self) -> bool {
        self.mirrors.is_none()
    }

    fn uri(&self, ask: &Ask<'_>) -> String {
        let uri = format!("{}/{}/{}", self.base, ask.repository, ask.rest);
        match &self.mirrors {
            // Which of the registries that a mirror may have: containerd's addition.
            Some(registry) => format!("{uri}?ns={registry}"),
            None => uri,
        }
    }

    /// Asks, logs in if it has to, and follows redirects. The answer is a success, or 416 to a
    /// request for a range.
    pub(super) async fn send(&self, ask: &Ask<'_>) -> Result<Response<Incoming>, PullError> {
        let uri = self.uri(ask);
        let what = format!("{} {uri:?}", title(&ask.method));
        let auth = ask.auth.filter(|_| self.is_trusted());
        let key = token_key(ask.repository, auth);
        let mut shown = self.known_authorization(&key, auth);
        let mut answer = self.follow(&what, ask, &uri, shown.clone()).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            let earned = self.log_in(ask, auth, &key, answer.headers(), &uri).await?;
            if let Some(header) = earned.filter(|header| shown.as_ref() != Some(header)) {
                shown = Some(header);
                answer = self.follow(&what, ask, &uri, shown).await?;
            }
        }
        check(&what, answer, self.idle_timeout).await
    }

    fn known_authorization(&self, key: &str, auth: Option<&RegistryAuth>) -> Option<HeaderValue> {
        let token = auth.map(|auth| auth.registry_token.as_str()).filter(|token| !token.is_empty());
        match token {
            Some(token) => token::bearer(token),
            None if self.wants_basic.load(Relaxed) => {
                auth.filter(|auth| !auth.username.is_empty()).and_then(token::basic)
            }
            None => self.tokens.lock().get(key).and_then(Token::header),
        }
    }

    /// Earns what the host wants to be shown. `None` when there is nothing to earn it with.
    async fn log_in(
        &self,
        ask: &Ask<'_>,
        auth: Option<&RegistryAuth>,
        key: &str,
        headers: &HeaderMap,
        uri: &str,
    ) -> Result<Option<HeaderValue>, PullError> {
        let all = headers.get_all(header::WWW_AUTHENTICATE).iter();
        let challenges: Vec<Challenge> =
            all.filter_map(|value| value.to_str().ok()).flat_map(challenge::parse).collect();
        for wanted in challenges {
            match wanted {
                Challenge::Bearer { realm, service, scope } => {
                    let scope = match scope.is_empty() {
                        true => format!("repository:{}:pull", ask.repository),
                        false => scope,
                    };
                    let token = self.token(&realm, &service, &scope, auth, uri).await?;
                    let header = token.header();
                    self.wants_basic.store(false, Relaxed);
                    let mut tokens = self.tokens.lock();
                    tokens.retain(|_, token| token.header().is_some());
                    if tokens.len() >= TOKENS_MAX {
                        tokens.clear();
                    }
                    tokens.insert(key.to_owned(), token);
                    return Ok(header);
                }
                Challenge::Basic => {
                    if let Some(auth) = auth.filter(|auth| !auth.username.is_empty()) {
                        self.wants_basic.store(true, Relaxed);
                        return Ok(token::basic(auth));
                    }
                }
            }
        }
        Ok(None)
    }

    async fn token(
        &self,
        realm: &str,
        service: &str,
        scope: &str,
        auth: Option<&RegistryAuth>,
        uri: &str,
    ) -> Result<Token, PullError> {
        let what = format!("Get {realm:?}");
        let wrong = |why: &str| PullError::Answer { what: what.clone(), why: why.to_owned() };
        let parsed: Uri = realm.parse().map_err(|_| wrong("the token service has no address"))?;
        match parsed.scheme_str() {
            Some("https") => {}
            Some("http") if uri.starts_with("http:") => {}
            // A password must not go over the wire in clear because a registry says so.
            _ => return Err(wrong("the token service of an https registry is not https")),
        }
        let request = token::request(realm, service, scope, auth)
            .map_err(|error| wrong(&error.to_string()))?;
        let answer = self.exchange(&what, request).await?;
        let answer = check(&what, answer, self.idle_timeout).await?;
        let body = read(&what, answer.into_body(), TOKEN_BYTES_MAX, self.idle_timeout).await?;
        Token::parse(&what, &body)
    }

    /// Sends a request to where it leads. Authorization is for the first host only, and TLS is not
    /// left again.
    async fn follow(
        &self,
        what: &str,
        ask: &Ask<'_>,
        uri: &str,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, PullError> {
        let wrong = |why: &str| PullError::Answer { what: what.to_owned(), why: why.to_owned() };
        let first: Uri = uri.parse().map_err(|_| wrong("its address is malformed"))?;
        let mut at = first.clone();
        for _ in 0..=REDIRECTS_MAX {
            let request = Request::builder().method(ask.method.clone()).uri(at.clone());
            let mut request =
                request.body(Full::default()).map_err(|error| wrong(&error.to_string()))?;
            request.headers_mut().extend(ask.headers.clone());
            if at.authority() == first.authority() && at.scheme() == first.scheme() {
                request.headers_mut().extend(self.headers.clone());
                let shown = authorization.clone().map(|value| (header::AUTHORIZATION, value));
                request.headers_mut().extend(shown);
            }
            let answer = self.exchange(what, request).await?;
            let redirect = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !redirect {
                return Ok(answer);
            }
            let location = answer.headers().get(header::LOCATION);
            let location = location.and_then(|value| value.to_str().ok());
            let location = location.ok_or_else(|| wrong("a redirect to nowhere"))?;
            let next = resolve(&at, location).ok_or_else(|| wrong("a redirect to nowhere"))?;
            if at.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(wrong("a redirect from https to http"));
            }
            at = next;
        }
        Err(wrong("too many redirects"))
    }

    async fn exchange(
        &self,
        what: &str,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, PullError> {
        let agent = HeaderValue::from_static(concat!("rk/", env!("CARGO_PKG_VERSION")));
        request.headers_mut().entry(header::USER_AGENT).or_insert(agent);
        let unavailable = |why: String| PullError::Unavailable { what: what.to_owned(), why };
        match tokio::time::timeout(
            CONNECT_TIMEOUT + self.idle_timeout,
            self.client.request(request),
        )
        .await
        {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(unavailable(causes(&error))),
            Err(_) => Err(unavailable("no answer in time".to_owned())),
        }
    }
}

/// Where `location` leads from `at` (RFC 3986, section 5, as far as servers use it).
fn resolve(at: &Uri, location: &str) -> Option<Uri> {
    let next: Uri = if location.starts_with("http://") || location.starts_with("https://") {
        location.parse().ok()?
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{}://{rest}", at.scheme_str()?).parse().ok()?
    } else if location.starts_with('/') {
        format!("{}://{}{location}", at.scheme_str()?, at.authority()?).parse().ok()?
    } else {
        return None;
    };
    next.authority().is_some().then_some(next)
}

/// Makes an error of an answer that is none of success.
async fn check(
    what: &str,
    answer: Response<Incoming>,
    idle: Duration,
) -> Result<Response<Incoming>, PullError> {
    let status = answer.status();
    if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE {
        return Ok(answer);
    }
    let body = read(what, answer.into_body(), COMPLAINT_BYTES_MAX, idle).await.unwrap_or_default();
    let why = complaint(status, &body);
    let what = what.to_owned();
    Err(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => PullError::Denied { what, why },
        StatusCode::NOT_FOUND => PullError::NotFound { what },
        StatusCode::TOO_MANY_REQUESTS => PullError::Unavailable { what, why },
        status if status.is_server_error() => PullError::Unavailable { what, why },
        _ => PullError::Answer { what, why },
    })
}

/// What a registry says is wrong: its own words when it has some, on one line.
fn complaint(status: StatusCode, body: &[u8]) -> String {
    let document: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let errors = document["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let words: Vec<String> = errors
        .iter()
        .filter_map(|error| {
            let text = |field: &str| error[field].as_str().unwrap_or_default().to_lowercase();
            let (code, message) = (text("code"), text("message"));
            let both = [code, message].into_iter().filter(|text| !text.is_empty());
            let line = both.collect::<Vec<_>>().join(": ");
            (!line.is_empty()).then(|| line.chars().filter(|c| !c.is_control()).take(300).collect())
        })
        .take(3)
        .collect();
    if words.is_empty() { status.to_string() } else { format!("{status}: {}", words.join(", ")) }
}

/// Reads a body that is at most `limit` long.
pub(super) async fn read(
    what: &str,
    mut body: Incoming,
    limit: usize,
    idle: Duration,
) -> Result<Bytes, PullError> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = next_chunk(what, &mut body, idle).await? {
        if bytes.len() + chunk.len() > limit {
            return Err(super::ImageError::TooLarge {
                what: format!("the answer to {what}"),
                limit: format!("{} KiB", limit >> 10),
            }
            .into());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

/// The next bytes of a body; `None` at its end.
pub(super) async fn next_chunk(
    what: &str,
    body: &mut Incoming,
    idle: Duration,
) -> Result<Option<Bytes>, PullError> {
    let unavailable = |why: String| PullError::Unavailable { what: what.to_owned(), why };
    loop {
        match tokio::time::timeout(idle, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Ok(Some(Err(error))) => return Err(unavailable(causes(&error))),
            Ok(None) => return Ok(None),
            Err(_) => return Err(unavailable(format!("nothing came for {idle:?}"))),
        }
    }
}

/// An error with what caused it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let line = cause.to_string();
        if !text.contains(&line) {
            text = format!("{text}: {line}");
        }
        source = cause.source();
    }
    text
}

/// `Get` and `Head`, as Go's clients write them in errors.
fn title(method: &Method) -> &'static str {
    if method == Method::HEAD { "Head" } else { "Get" }
}

/// What a token is good for. Others' credentials must not find it.
fn token_key(repository: &str, auth: Option<&RegistryAuth>) -> String {
    let auth = auth.map(|auth| {
        let mut hash = Sha256::new();
        for part in [&auth.username, &auth.password, &auth.identity_token] {
            hash.update(part.len().to_le_bytes());
            hash.update(part);
        }
        base64::engine::general_purpose::STANDARD.encode(hash.finalize())
    });
    format!("{} {repository}", auth.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn endpoint(registry: &str, url: &str) -> Result<Endpoint, PullError> {
        Endpoint::new(registry, HostConfig::new(url), false, Duration::from_secs(1))
    }

    fn ask(rest: &str) -> Ask<'_> {
        Ask {
            method: Method::GET,
            repository: "team/app",
            rest: rest.into(),
            headers: HeaderMap::new(),
            auth: None,
        }
    }

    #[test]
    fn paths_are_below_v2_and_a_mirror_is_told_whose() {
        let check = |registry: &str, url: &str, expected: &str| {
            assert_eq!(endpoint(registry, url).unwrap().uri(&ask("manifests/v1")), expected);
        };
        check("r:5000", "http://r:5000", "http://r:5000/v2/team/app/manifests/v1");
        check("r:5000", "r:5000", "https://r:5000/v2/team/app/manifests/v1");
        check("r:5000", "https://r:5000/v2/", "https://r:5000/v2/team/app/manifests/v1");
        check("r:5000", "https://m/x", "https://m/x/v2/team/app/manifests/v1?ns=r:5000");
        check(
            "docker.io",
            "https://registry-1.docker.io",
            "https://registry-1.docker.io/v2/team/app/manifests/v1",
        );
        for bad in ["", "ftp://a", "https://a?b", "https://user@a", "https://"] {
            assert!(endpoint("r", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_redirect_leads_where_it_says() {
        let at: Uri = "https://a:1/v2/x".parse().unwrap();
        let to = |location: &str| resolve(&at, location).map(|uri| uri.to_string());
        assert_eq!(to("https://b/c?d").as_deref(), Some("https://b/c?d"));
        assert_eq!(to("//b/c").as_deref(), Some("https://b/c"));
        assert_eq!(to("/c").as_deref(), Some("https://a:1/c"));
        assert_eq!(to("c"), None);
        assert_eq!(to("file:///etc/passwd"), None);
    }

    #[test]
    fn a_registrys_complaint_is_one_short_line() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\nway"},{"code":"X"}]}"#;
        assert_eq!(complaint(StatusCode::FORBIDDEN, body), "403 Forbidden: denied: noway, x");
        assert_eq!(complaint(StatusCode::BAD_GATEWAY, b"<html>"), "502 Bad Gateway");
    }

    #[test]
    fn tokens_of_different_users_do_not_meet() {
        let auth = |username: &str, password: &str| RegistryAuth {
            username: username.into(),
            password: password.into(),
            ..Default::default()
        };
        let keys: std::collections::HashSet<String> =
            [None, Some(auth("a", "bc")), Some(auth("ab", "c"))]
                .iter()
                .map(|auth| token_key("x", auth.as_ref()))
                .collect();
        assert_eq!(keys.len(), 3);
    }
}
