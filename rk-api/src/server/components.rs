//! The parts of the control plane whose health the server asks for when somebody reads
//! ComponentStatuses.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};

use super::outbound::{Endpoint, Outbound, Trust};

/// How long a component may take to answer, as in kube-apiserver.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);

/// So much of an answer is shown.
const ANSWER_BYTES_MAX: usize = 10 << 10;

/// Tells whether a part of the control plane is well.
#[async_trait]
pub trait ComponentHealth: fmt::Debug + Send + Sync + 'static {
    /// What it says of itself, `ok` as a rule.
    ///
    /// # Errors
    /// Why it is not well.
    async fn check(&self) -> Result<String, String>;
}

/// A component and how it is asked.
#[derive(Clone, Debug)]
pub(super) struct Component {
    pub(super) name: String,
    pub(super) health: Asked,
}

/// How a component is asked for its health.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    /// In this process.
    Here(Arc<dyn ComponentHealth>),
    /// At a URL, whatever certificate it shows there: nothing is told to it.
    At(String),
}

impl Component {
    /// What it says, or why it is not well.
    pub(super) async fn check(&self, outbound: &Outbound) -> Result<String, String> {
        let asked = async {
            match &self.health {
                Asked::Here(health) => health.check().await,
                Asked::At(url) => ask(outbound, url).await,
            }
        };
        let late = |_| Err(format!("no answer within {} s", ANSWERS_WITHIN.as_secs()));
        tokio::time::timeout(ANSWERS_WITHIN, asked).await.unwrap_or_else(late)
    }
}

async fn ask(outbound: &Outbound, url: &str) -> Result<String, String> {
    let endpoint = Endpoint::url(url).map_err(|error| error.to_string())?;
    let request = Request::get(endpoint.path())
        .header(header::USER_AGENT, "kube-probe")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let endpoint = endpoint.trusting(Trust::Anybody);
    let answer = outbound.request(&endpoint, request).await.map_err(|error| error.to_string())?;
    let code = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let text = body.map_or_else(|_| Bytes::new(), |body| body.to_bytes());
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    match code.is_success() {
        true => Ok(text),
        false => Err(format!("HTTP probe failed with statuscode: {}", code.as_u16())),
    }
}
