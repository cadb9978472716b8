//! A scripted API server for tests of what clients do when a real one would not misbehave.

use std::{collections::VecDeque, convert::Infallible, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// A request as the fake saw it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) body: Value,
}

/// An answer.
pub(crate) enum Reply {
    Json(u16, Value),
    /// A stream of lines, open as long as the sender.
    Lines(mpsc::UnboundedReceiver<String>),
}

pub(crate) fn status(code: u16, reason: &str) -> Reply {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "message": reason, "reason": reason, "code": code});
    Reply::Json(code, status)
}

type ReplyBody = UnsyncBoxBody<Bytes, Infallible>;

/// A client whose requests `handler` answers; `None` is an answer that never comes.
pub(crate) fn client(handler: impl FnMut(Call) -> Option<Reply> + Send + 'static) -> kube::Client {
    let handler = Arc::new(Mutex::new(handler));
    let service = tower::service_fn(move |request: Request<Body>| {
        let handler = handler.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let call = Call {
                method: parts.method,
                path: parts.uri.path().to_owned(),
                query: parts.uri.query().unwrap_or_default().to_owned(),
                body: serde_json::from_slice(&body).unwrap_or(Value::Null),
            };
            let reply = handler.lock()(call);
            let (code, lines): (u16, BoxStream<'static, String>) = match reply {
                None => std::future::pending().await,
                Some(Reply::Json(code, value)) => {
                    (code, futures::stream::iter([value.to_string()]).boxed())
                }
                Some(Reply::Lines(mut lines)) => {
                    (200, futures::stream::poll_fn(move |cx| lines.poll_recv(cx)).boxed())
                }
            };
            let frames = lines.map(|line| Ok(http_body::Frame::data(Bytes::from(line))));
            let body: ReplyBody = StreamBody::new(frames).boxed_unsync();
            let response = Response::builder().status(code).body(body)?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(response)
        }
    });
    kube::Client::new(service, "default")
}

/// Answers given in order, and the calls they answered. When they run out, calls hang.
#[derive(Clone, Default)]
pub(crate) struct Script(Arc<Mutex<(VecDeque<Reply>, Vec<Call>)>>);

impl Script {
    pub(crate) fn client(&self) -> kube::Client {
        let script = self.0.clone();
        client(move |call| {
            let mut script = script.lock();
            script.1.push(call);
            script.0.pop_front()
        })
    }

    pub(crate) fn reply(&self, reply: Reply) {
        self.0.lock().0.push_back(reply);
    }

    /// Scripts a watch and returns where its lines are sent.
    pub(crate) fn watch(&self) -> mpsc::UnboundedSender<String> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.reply(Reply::Lines(receiver));
        sender
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.0.lock().1.clone()
    }
}
