//! Clients that act as service accounts, for whoever reaches the API server from outside.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Request, StatusCode, header};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{
    Api, Client, Config,
    api::PostParams,
    client::{AuthError, Body},
    config::AuthInfo,
};
use rk_api::clock;
use tokio::{sync::Mutex, time::Instant};

use crate::error;

/// For how long tokens are asked.
const LIFETIME_SECONDS: i64 = 3600;

/// A shorter life than this is taken for a clock that is wrong.
const LIFETIME_MIN: Duration = Duration::from_secs(600);

/// Clients that act as service accounts of kube-system, with tokens of the TokenRequest API that are
/// renewed in time: kube-controller-manager's `--use-service-account-credentials`. A service account
/// that is not there is made.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use rk_controllers::{AccountClients, Manager};
///
/// let config = kube::Config::infer().await?;
/// let client = kube::Client::try_from(config.clone())?;
/// let accounts = AccountClients::new(config, client.clone())?;
/// let manager = Manager::builder(client).credentials(move |name| accounts.client(name)).build()?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct AccountClients {
    /// Without credentials.
    anonymous: Client,
    /// Who may ask for tokens.
    root: Client,
}

impl AccountClients {
    /// Clients that reach the API server as `config` says; `root` asks for the tokens, and needs the
    /// right to create `serviceaccounts` and `serviceaccounts/token` in kube-system.
    ///
    /// # Errors
    /// When the TLS settings of `config` are not usable.
    pub fn new(mut config: Config, root: Client) -> Result<Self, kube::Error> {
        config.auth_info = AuthInfo::default();
        Ok(Self { anonymous: Client::try_from(config)?, root })
    }

    /// The client of an account. No request is made before its first.
    pub fn client(&self, account: &str) -> Client {
        let tokens = Arc::new(Tokens {
            api: Api::namespaced(self.root.clone(), NAMESPACE),
            account: account.to_owned(),
            current: Mutex::new(None),
        });
        let anonymous = self.anonymous.clone();
        let send = move |mut request: Request<Body>| {
            let (anonymous, tokens) = (anonymous.clone(), tokens.clone());
            async move {
                let bearer = tokens.bearer().await?;
                request.headers_mut().insert(header::AUTHORIZATION, bearer);
                let response = anonymous.send(request).await?;
                if response.status() == StatusCode::UNAUTHORIZED {
                    *tokens.current.lock().await = None;
                }
                Ok::<_, kube::Error>(response)
            }
        };
        Client::new(tower::service_fn(send), NAMESPACE)
    }
}

const NAMESPACE: &str = "kube-system";

impl std::fmt::Debug for AccountClients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccountClients").finish_non_exhaustive()
    }
}

/// The token of an account.
struct Tokens {
    api: Api<ServiceAccount>,
    account: String,
    current: Mutex<Option<Token>>,
}

#[derive(Clone)]
struct Token {
    bearer: HeaderValue,
    renew_at: Instant,
}

impl Tokens {
    /// The header of a token that lasts. Requests that come meanwhile wait for the same one.
    async fn bearer(&self) -> Result<HeaderValue, kube::Error> {
        let mut current = self.current.lock().await;
        if let Some(token) = current.as_ref().filter(|token| Instant::now() < token.renew_at) {
            return Ok(token.bearer.clone());
        }
        let token = match self.request().await {
            Err(gone) if error::is_not_found(&gone) => {
                self.create().await?;
                self.request().await?
            }
            result => result?,
        };
        Ok(current.insert(token).bearer.clone())
    }

    async fn request(&self) -> Result<Token, kube::Error> {
        let spec = TokenRequestSpec {
            expiration_seconds: Some(LIFETIME_SECONDS),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let answer =
            self.api.create_token_request(&self.account, &PostParams::default(), &request).await?;
        let status =
            answer.status.ok_or(kube::Error::Auth(AuthError::UnrefreshableTokenResponse))?;
        let token = status.token.unwrap_or_default();
        let mut bearer = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|error| kube::Error::Auth(AuthError::InvalidBearerToken(error)))?;
        bearer.set_sensitive(true);
        let left = status.expiration_timestamp.map(|end| end.0.duration_since(clock::now()));
        let left = left.and_then(|left| Duration::try_from(left).ok()).unwrap_or_default();
        let lifetime = left.max(LIFETIME_MIN);
        Ok(Token { bearer, renew_at: Instant::now() + lifetime.mul_f64(0.8) })
    }

    async fn create(&self) -> Result<(), kube::Error> {
        let mut account = ServiceAccount::default();
        account.metadata.name = Some(self.account.clone());
        match self.api.create(&PostParams::default(), &account).await {
            Err(there) if error::is_already_exists(&there) => Ok(()),
            result => result.map(drop),
        }
    }
}
