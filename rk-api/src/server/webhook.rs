//! Asking a service of somebody else: who this token's user is, whether that user may do this.

use std::{collections::HashMap, fmt, time::Duration};

use foldhash::fast::RandomState;
use http::{Request, header};
use kube::config::{KubeConfigOptions, Kubeconfig};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;

use crate::rng;

/// How long an answer may take, as in kube-apiserver.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How often a question is asked when there is no answer, and the pauses between.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// How often it is asked at most.
    pub tries: u32,
    /// The first pause.
    pub pause: Duration,
    /// How many times longer each pause is than the one before.
    pub factor: f64,
    /// By which part of itself a pause may be longer, at random.
    pub jitter: f64,
}

/// Who waits for these answers is a request.
const PATIENCE: Patience =
    Patience { tries: 3, pause: Duration::from_millis(500), factor: 2.0, jitter: 0.0 };

/// Why a service cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("the webhook's kubeconfig is not usable: {0}")]
pub struct WebhookError(String);

/// A service that is asked by POST.
#[derive(Clone)]
pub(super) struct Webhook {
    client: kube::Client,
    path: String,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Webhook {
    /// The service that a kubeconfig names as its cluster, with its credentials.
    pub(super) async fn new(kubeconfig: &str) -> Result<Self, WebhookError> {
        let wrong = |error: &dyn fmt::Display| WebhookError(error.to_string());
        let kubeconfig = Kubeconfig::from_yaml(kubeconfig).map_err(|error| wrong(&error))?;
        let options = KubeConfigOptions::default();
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map_err(|error| wrong(&error))?;
        // The URL is the question's own, not the root of an API.
        let mut parts = config.cluster_url.into_parts();
        let path = parts.path_and_query.take().map_or("/".to_owned(), |path| path.to_string());
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        config.cluster_url = http::Uri::from_parts(parts).map_err(|error| wrong(&error))?;
        let client = kube::Client::try_from(config).map_err(|error| wrong(&error))?;
        Ok(Self { client, path })
    }

    /// Posts a JSON body once, whatever is answered with success.
    pub(super) async fn post(&self, body: &[u8]) -> Result<(), String> {
        let request = Request::post(&self.path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.to_vec())
            .map_err(|error| error.to_string())?;
        let answer = tokio::time::timeout(ANSWER_WITHIN, self.client.request_text(request));
        match answer.await {
            Ok(answer) => answer.map(drop).map_err(|error| error.to_string()),
            Err(_) => Err("it does not answer in time".to_owned()),
        }
    }

    /// Asks, and again when nobody answers.
    pub(super) async fn ask<T: Serialize + DeserializeOwned>(
        &self,
        question: &T,
    ) -> Result<T, String> {
        self.ask_with(question, PATIENCE).await
    }

    /// The same with a patience of one's own.
    pub(super) async fn ask_with<T: Serialize + DeserializeOwned>(
        &self,
        question: &T,
        patience: Patience,
    ) -> Result<T, String> {
        let body = serde_json::to_vec(question).map_err(|error| error.to_string())?;
        let mut pause = patience.pause;
        for again in (0..patience.tries).rev() {
            let request = Request::post(&self.path)
                .header(header::CONTENT_TYPE, "application/json")
                .body(body.clone())
                .map_err(|error| error.to_string())?;
            let answer = tokio::time::timeout(ANSWER_WITHIN, self.client.request::<T>(request));
            match answer.await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) if again == 0 => return Err(error.to_string()),
                Err(_) if again == 0 => break,
                _ => {}
            }
            tokio::time::sleep(rng::jitter(pause, patience.jitter)).await;
            pause = pause.mul_f64(patience.factor);
        }
        Err("it does not answer in time".to_owned())
    }
}

/// Answers that are good for some time.
#[derive(Debug)]
pub(super) struct Answers<V>(Mutex<HashMap<Vec<u8>, (Instant, V), RandomState>>);

/// How many answers are kept.
const ANSWERS_MAX: usize = 8192;

impl<V> Default for Answers<V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<V: Clone> Answers<V> {
    /// The answer that is known.
    pub(super) fn get(&self, question: &[u8]) -> Option<V> {
        let answers = self.0.lock();
        let (until, answer) = answers.get(question)?;
        (*until > Instant::now()).then(|| answer.clone())
    }

    /// Keeps an answer.
    pub(super) fn keep(&self, question: Vec<u8>, answer: V, good_for: Duration) {
        let mut answers = self.0.lock();
        if answers.len() >= ANSWERS_MAX {
            let now = Instant::now();
            answers.retain(|_, (until, _)| *until > now);
            if answers.len() >= ANSWERS_MAX {
                answers.clear();
            }
        }
        answers.insert(question, (Instant::now() + good_for, answer));
    }
}
