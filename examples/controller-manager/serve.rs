//! Health and metrics over HTTPS. The cluster says who asks, by TokenReviews and its authority of
//! clients, and what they may read, by SubjectAccessReviews.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::Full;
use hyper::body::Incoming;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    core::v1::ConfigMap,
};
use rk::{
    api::server::{
        Identity, Pki, ServerTls, TlsVersion, UserInfo,
        authn::{Authenticator, ClientCertificates, bearer_token},
        serve_https,
    },
    controllers::Metrics,
    kube::{Api, Client, api::PostParams},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    assemble::client_of,
    files::{read, read_pair},
    options::Serving,
};

/// The group that may do everything.
const MASTERS: &str = "system:masters";

/// Who answers.
pub(crate) struct Endpoint {
    metrics: Metrics,
    authentication: Option<Client>,
    authorization: Option<Client>,
    open_paths: Vec<String>,
}

/// What listens, before it answers.
pub(crate) struct Listening {
    listener: TcpListener,
    identity: Identity,
    tls_version: TlsVersion,
    tls: ServerTls,
    /// Who is asked for the authority of clients, when no file says it.
    lookup: Option<Client>,
    endpoint: Arc<Endpoint>,
}

/// Begins to listen, so that a port in use or a wrong file ends the start.
pub(crate) async fn listen(serving: &Serving, metrics: Metrics) -> Result<Listening, String> {
    let client = async |file| match file {
        Some(file) => client_of(file).await.map(Some),
        None => Ok(None),
    };
    let authentication = client(serving.authentication.as_ref()).await?;
    let client_ca = serving.client_ca.as_ref().map(read).transpose()?;
    let lookup =
        authentication.clone().filter(|_| client_ca.is_none() && serving.ask_for_client_ca);
    let identity = match &serving.tls {
        Some(pair) => read_pair(pair)?,
        None => {
            let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
            let made = Pki::generate().and_then(|pki| pki.server("controller-manager", &names));
            made.map_err(|error| error.to_string())?
        }
    };
    let tls = ServerTls::from_version(serving.tls_version, &identity, client_ca.as_deref())
        .map_err(|error| {
            format!("--tls-cert-file, --tls-private-key-file, --client-ca-file: {error}")
        })?;
    let address = SocketAddr::new(serving.bind, serving.port);
    let listener = TcpListener::bind(address).await.map_err(|error| {
        format!("--bind-address={}, --secure-port={}: {error}", serving.bind, serving.port)
    })?;
    let endpoint = Endpoint {
        metrics,
        authentication,
        authorization: client(serving.authorization.as_ref()).await?,
        open_paths: serving.open_paths.clone(),
    };
    let (tls_version, endpoint) = (serving.tls_version, Arc::new(endpoint));
    Ok(Listening { listener, identity, tls_version, tls, lookup, endpoint })
}

/// How often a cluster that has just begun is asked, once a second.
const LOOKUPS: usize = 5;

/// The authority of the cluster's clients, if it says which.
async fn clients_authority(client: &Client) -> Option<String> {
    let api = Api::<ConfigMap>::namespaced(client.clone(), "kube-system");
    for left in (0..LOOKUPS).rev() {
        match api.get("extension-apiserver-authentication").await {
            Ok(found) => return found.data?.remove("client-ca-file"),
            Err(error) if left == 0 => {
                let error = error.to_string();
                tracing::warn!(error, "the authority of clients is not known: none is believed");
            }
            Err(error) => {
                tracing::debug!(%error, "the authority of clients is not known yet");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
    None
}

impl Listening {
    /// Answers until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let tls = match &self.lookup {
            Some(client) => self.tls_of_cluster(client).await.unwrap_or(self.tls),
            None => self.tls,
        };
        let endpoint = self.endpoint;
        let answer = move |request: Request<Incoming>| {
            let endpoint = endpoint.clone();
            async move { Ok::<_, Infallible>(endpoint.answer(request.into_parts().0).await) }
        };
        serve_https(self.listener, tls, answer, shutdown).await;
    }

    /// TLS that takes the certificates which the cluster takes; `None` when it does not say which.
    async fn tls_of_cluster(&self, client: &Client) -> Option<ServerTls> {
        let authority = clients_authority(client).await?;
        let tls = ServerTls::from_version(self.tls_version, &self.identity, Some(&authority));
        tls.inspect_err(|error| tracing::warn!(%error, "the authority of clients is of no use"))
            .ok()
    }
}

impl Endpoint {
    async fn answer(&self, request: Parts) -> Response<Full<Bytes>> {
        let path = request.uri.path();
        if !self.is_open(path) {
            let user = match self.user(&request).await {
                Ok(user) => user,
                Err(reason) => {
                    tracing::debug!(reason, "not authenticated");
                    return text(StatusCode::UNAUTHORIZED, "Unauthorized");
                }
            };
            match self.may(&user, &request).await {
                Ok(true) => {}
                Ok(false) => {
                    let who = format!("User {:?} cannot get path {path:?}", user.name);
                    return text(StatusCode::FORBIDDEN, format!("forbidden: {who}"));
                }
                Err(error) => {
                    tracing::warn!(%error, "a request could not be reviewed");
                    return text(StatusCode::INTERNAL_SERVER_ERROR, "authorization failed");
                }
            }
        }
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is possible");
        }
        match path {
            "/healthz" | "/livez" | "/readyz" => text(StatusCode::OK, "ok"),
            "/metrics" => text(StatusCode::OK, self.metrics.render()),
            _ => text(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }

    fn is_open(&self, path: &str) -> bool {
        self.open_paths.iter().any(|open| match open.strip_suffix('*') {
            Some(beginning) => path.starts_with(beginning),
            None => path == open,
        })
    }

    /// Whose credentials these are; nobody's are the anonymous user's.
    async fn user(&self, request: &Parts) -> Result<UserInfo, String> {
        let by_certificate = ClientCertificates.authenticate(request).await;
        if let Some(user) = by_certificate.map_err(|error| error.to_string())? {
            return Ok(user);
        }
        let Some(token) = bearer_token(request) else {
            return Ok(UserInfo::anonymous());
        };
        let client = self.authentication.clone().ok_or("no --authentication-kubeconfig")?;
        let spec = TokenReviewSpec { token, ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = Api::<TokenReview>::all(client).create(&PostParams::default(), &review).await;
        let status = answer.map_err(|error| error.to_string())?.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true));
        let user = user.ok_or("the token is nobody's")?;
        let groups = user.groups.unwrap_or_default();
        let name = user.username.unwrap_or_default();
        Ok(UserInfo::new(&name, groups.iter().map(String::as_str)))
    }

    async fn may(&self, user: &UserInfo, request: &Parts) -> Result<bool, rk::kube::Error> {
        if user.groups.iter().any(|group| &**group == MASTERS) {
            return Ok(true);
        }
        let Some(client) = self.authorization.clone() else { return Ok(false) };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.to_string()),
                groups: Some(user.groups.iter().map(ToString::to_string).collect()),
                non_resource_attributes: Some(NonResourceAttributes {
                    path: Some(request.uri.path().to_owned()),
                    verb: Some(request.method.as_str().to_lowercase()),
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews = Api::<SubjectAccessReview>::all(client);
        let answer = reviews.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
