//! Calls over a Unix socket, each with a deadline.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http::uri::PathAndQuery;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_prost::ProstCodec;

use super::v1::{self, Call};
use crate::{
    rpc::{self, MESSAGE_BYTES_MAX},
    runtime::RuntimeError,
};

/// How much longer than the deadline it names to the runtime a call waits for its answer.
const SLACK: Duration = Duration::from_secs(2);
/// gRPC knows no longer deadlines than 99,999,999 hours; nobody waits for a year.
const DEADLINE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// A connection that is made when it is needed, and made again after it broke.
#[derive(Clone, Debug)]
pub(super) struct Client(Channel);

/// Why a call brought no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The runtime says no.
    Refused(Status),
    /// It does not answer: not there, or gone meanwhile.
    Unreachable(String),
    /// It takes too long.
    Late(Duration),
}

/// The path of a socket that is named by `unix:///path`, `unix:path` or its path alone.
pub(super) fn socket_path(endpoint: &str) -> Result<PathBuf, RuntimeError> {
    let path = endpoint.strip_prefix("unix:").unwrap_or(endpoint);
    let path = path.strip_prefix("//").unwrap_or(path);
    if !Path::new(path).is_absolute() {
        let why = format!("{endpoint:?} is not an endpoint: give unix:// and an absolute path");
        return Err(RuntimeError::Invalid(why));
    }
    Ok(path.into())
}

impl Client {
    /// A client of the socket at `path`. Nothing is connected before the first call.
    pub(super) fn new(path: PathBuf) -> Self {
        Self(rpc::channel(path))
    }

    fn grpc(&self) -> tonic::client::Grpc<Channel> {
        tonic::client::Grpc::new(self.0.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// One call.
    pub(super) async fn call<Q: Call>(
        &self,
        request: Q,
        deadline: Duration,
    ) -> Result<Q::Answer, Failure> {
        let mut grpc = self.grpc();
        let deadline = deadline.min(DEADLINE_MAX);
        let mut request = tonic::Request::new(request);
        request.set_timeout(deadline);
        let exchange = async {
            grpc.ready().await.map_err(|error| Failure::Unreachable(chain(&error)))?;
            let codec = ProstCodec::<Q, Q::Answer>::default();
            let answer = grpc.unary(request, PathAndQuery::from_static(Q::PATH), codec).await;
            answer.map(tonic::Response::into_inner).map_err(|status| failure(status, deadline))
        };
        match tokio::time::timeout(deadline.saturating_add(SLACK), exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Late(deadline)),
        }
    }

    /// Follows what happens to containers. The stream has no deadline.
    pub(super) async fn events(
        &self,
        deadline: Duration,
    ) -> Result<Streaming<v1::ContainerEventResponse>, Failure> {
        let mut grpc = self.grpc();
        let open = async {
            grpc.ready().await.map_err(|error| Failure::Unreachable(chain(&error)))?;
            let path = PathAndQuery::from_static(v1::GetEventsRequest::PATH);
            let request = tonic::Request::new(v1::GetEventsRequest {});
            let answer = grpc.server_streaming(request, path, ProstCodec::default()).await;
            answer.map(tonic::Response::into_inner).map_err(|status| failure(status, deadline))
        };
        // A runtime may send its first headers with the first event only.
        open.await
    }
}

fn failure(status: Status, deadline: Duration) -> Failure {
    // What was made on this side has a cause; what the runtime said has none.
    match (status.code(), std::error::Error::source(&status)) {
        (_, Some(source)) if is_timeout(source) => Failure::Late(deadline),
        (_, Some(source)) => Failure::Unreachable(chain(source)),
        (Code::Unavailable, None) => Failure::Unreachable(status.message().to_owned()),
        _ => Failure::Refused(status),
    }
}

/// Whether a deadline passed that this side had set.
fn is_timeout(mut error: &(dyn std::error::Error + 'static)) -> bool {
    loop {
        if error.is::<tonic::TimeoutExpired>() {
            return true;
        }
        match error.source() {
            Some(cause) => error = cause,
            None => return false,
        }
    }
}

/// An error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

impl Failure {
    /// Whether the runtime says that there is no such thing.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Failure::Refused(status) if status.code() == Code::NotFound)
    }

    /// Whether the runtime does not know the method.
    pub(super) fn is_unimplemented(&self) -> bool {
        matches!(self, Failure::Refused(status) if status.code() == Code::Unimplemented)
    }

    /// What the caller of the runtime is told; `verb` is what was tried, as in `cannot {verb}`.
    pub(super) fn into_error(self, verb: &str) -> RuntimeError {
        let io = |kind, why: String| RuntimeError::Io {
            what: format!("cannot {verb}"),
            source: io::Error::new(kind, why),
        };
        match self {
            Failure::Late(deadline) => RuntimeError::Timeout(deadline),
            Failure::Unreachable(why) => io(
                io::ErrorKind::NotConnected,
                format!("the container runtime does not answer ({why}); try again"),
            ),
            Failure::Refused(status) => match status.code() {
                Code::InvalidArgument => RuntimeError::Invalid(status.message().to_owned()),
                Code::Unimplemented => RuntimeError::Unsupported(status.message().to_owned()),
                _ => io(io::ErrorKind::Other, status.message().to_owned()),
            },
        }
    }

    /// The same for a verb on something that has to exist.
    pub(super) fn of(self, what: &'static str, id: &str, verb: &str) -> RuntimeError {
        match self.is_not_found() {
            true => RuntimeError::NotFound { what, id: id.to_owned() },
            false => self.into_error(&format!("{verb} {what} {id}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_absolute_path() {
        for endpoint in ["unix:///run/c.sock", "unix:/run/c.sock", "/run/c.sock"] {
            assert_eq!(socket_path(endpoint).unwrap(), Path::new("/run/c.sock"), "{endpoint}");
        }
        for endpoint in ["", "c.sock", "unix://c.sock", "tcp://127.0.0.1:1"] {
            assert!(socket_path(endpoint).is_err(), "{endpoint}");
        }
    }

    #[test]
    fn failures_say_what_to_do_next() {
        let refused = |code| Failure::Refused(Status::new(code, "why"));
        let gone = refused(Code::NotFound).of("container", "c1", "start");
        assert!(matches!(gone, RuntimeError::NotFound { what: "container", .. }));
        let invalid = refused(Code::InvalidArgument).of("container", "c1", "start");
        assert!(matches!(invalid, RuntimeError::Invalid(_)));
        let RuntimeError::Io { what, source } =
            refused(Code::Unknown).of("container", "c1", "start")
        else {
            panic!("another kind");
        };
        assert_eq!((&*what, &*source.to_string()), ("cannot start container c1", "why"));
    }

    #[tokio::test]
    async fn a_runtime_that_is_not_there_is_an_error_that_says_so() {
        let client = Client::new("/nonexistent/cri.sock".into());
        let answer = client.call(v1::VersionRequest::default(), Duration::from_secs(5)).await;
        assert!(matches!(answer, Err(Failure::Unreachable(_))), "{answer:?}");
    }
}
