//! gRPC over Unix sockets, without generated code: a request names its method and its answer.

use std::{path::PathBuf, time::Duration};

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// The longest message either way, as the kubelet has it: a list of some thousand containers.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long a connection to the socket may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// A request, with the method that takes it and what is answered.
pub trait Call: prost::Message + Default + 'static {
    /// The message that comes back.
    type Answer: prost::Message + Default + 'static;
    /// Where it is sent.
    const PATH: &'static str;
}

/// A connection to the socket at `path` that is made with the first call, and made again after it
/// broke.
pub(crate) fn channel(path: PathBuf) -> Channel {
    // The address only becomes the `:authority` of requests: the connector knows where to go.
    let endpoint = Endpoint::from_static("http://localhost").connect_timeout(CONNECT_WITHIN);
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector_lazy(connector)
}

/// Takes one message, and gives one back.
pub(crate) async fn unary<Q: Call, F>(
    request: Request<Incoming>,
    handler: impl Fn(Q) -> F,
) -> Response<tonic::body::Body>
where
    F: Future<Output = Result<Q::Answer, Status>>,
{
    let service = tower::service_fn(|request: tonic::Request<Q>| {
        let answer = handler(request.into_inner());
        async move { answer.await.map(tonic::Response::new) }
    });
    tonic::server::Grpc::new(ProstCodec::<Q::Answer, Q>::default())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
        .unary(service, request)
        .await
}
