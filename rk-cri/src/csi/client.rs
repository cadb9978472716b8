//! Calls to a driver, each with a deadline.

use std::{path::PathBuf, time::Duration};

use http::uri::PathAndQuery;
use tonic::{Status, transport::Channel};
use tonic_prost::ProstCodec;

use crate::rpc::{self, Call};

/// How long a driver has for a call, as the kubelet has it.
const DEADLINE: Duration = Duration::from_secs(120);

/// Calls a driver on its socket. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client(Channel);

impl Client {
    /// A client of the driver that serves on the socket at `path`. Nothing is connected before the
    /// first call, and a connection that breaks is made anew.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(rpc::channel(path.into()))
    }

    /// One call.
    ///
    /// # Errors
    /// What the driver says; `UNAVAILABLE` if it does not answer, `DEADLINE_EXCEEDED` after two
    /// minutes. After these two it may have done what was asked.
    pub async fn call<Q: Call>(&self, request: Q) -> Result<Q::Answer, Status> {
        let mut grpc = tonic::client::Grpc::new(self.0.clone());
        let mut request = tonic::Request::new(request);
        request.set_timeout(DEADLINE);
        let exchange = async {
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = ProstCodec::<Q, Q::Answer>::default();
            let answer = grpc.unary(request, PathAndQuery::from_static(Q::PATH), codec).await;
            answer.map(tonic::Response::into_inner)
        };
        match tokio::time::timeout(DEADLINE, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded(format!("no answer within {DEADLINE:?}"))),
        }
    }
}
