//! A request's event while the request is handled.
//!
//! The layer of audit makes a [`Recorder`] for each request that is recorded and runs the rest of
//! the server in its [`scope`]. Whatever knows something of the request adds it with the functions of
//! this module, which do nothing where there is no recorder.

use std::{
    collections::btree_map::Entry,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::request::Parts;
use parking_lot::Mutex;
use serde_json::{Value, value::RawValue};

use super::{
    AuditError, AuditId, AuditSink, RemoteAddress,
    event::{
        AuditUser, AuthenticationMetadata, Event, Level, ObjectReference, ResponseStatus, Stage,
    },
    policy::Verdict,
};
use crate::{
    clock, rng,
    server::{authn::Notes, info::RequestInfo, user::UserInfo},
};

/// How much of a user agent is kept, in bytes, and what says that there was more.
const USER_AGENT_BYTES_MAX: usize = 1024;
const CUT: &str = "...TRUNCATED";

tokio::task_local! {
    static CURRENT: Arc<Recorder>;
}

/// Runs a request's handling with its recorder. Of what is spawned in between, only what is
/// [held](hold) keeps it.
pub(in crate::server) async fn scope<F: Future>(recorder: Arc<Recorder>, future: F) -> F::Output {
    CURRENT.scope(recorder, future).await
}

/// Whether the request that is being handled is recorded.
pub(in crate::server) fn is_recorded() -> bool {
    CURRENT.try_with(|_| ()).is_ok()
}

/// Says something about the request. A key keeps its first value.
pub(in crate::server) fn annotate(key: &str, value: impl Into<String>) {
    let _ = CURRENT.try_with(|recorder| recorder.annotate(key, value.into()));
}

/// Says something about the request that tells what was in it: only events of the level Request, or
/// of a higher one, have it.
pub(in crate::server) fn annotate_detail(key: &str, value: impl Into<String>) {
    let _ = CURRENT.try_with(|recorder| {
        if recorder.verdict.level >= Level::Request {
            recorder.annotate(key, value.into());
        }
    });
}

/// Says as whom the user acts, and by which constrained right, if it is one.
pub(in crate::server) fn impersonated(user: &UserInfo, constraint: Option<String>) {
    let _ = CURRENT.try_with(|recorder| {
        let mut event = recorder.event.lock();
        event.impersonated_user = Some(user.into());
        event.authentication_metadata = constraint
            .map(|constraint| AuthenticationMetadata { impersonation_constraint: constraint });
    });
}

/// Shows the object (JSON) that the client sent.
pub(in crate::server) fn request_object(json: &[u8]) {
    let _ = CURRENT.try_with(|recorder| recorder.request_object(json));
}

/// Shows the patch that the client sent.
pub(in crate::server) fn request_patch(patch: &[u8]) {
    let _ = CURRENT.try_with(|recorder| {
        if recorder.verdict.level >= Level::Request {
            recorder.event.lock().request_object = raw(patch);
        }
    });
}

/// Shows the object (JSON) that is answered.
pub(in crate::server) fn response(json: &Bytes) {
    let _ = CURRENT.try_with(|recorder| recorder.response(json));
}

/// A future that is part of the request, for example a stream that it opened: the request is
/// complete when it ends.
pub(in crate::server) fn hold<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let recorder = CURRENT.try_with(Arc::clone).ok();
    async move {
        let _recorder = recorder;
        future.await
    }
}

/// See the module's documentation. The request is complete when its last holder drops it, if
/// [`Self::complete`] was not called before.
#[derive(Debug)]
pub(in crate::server) struct Recorder {
    verdict: Verdict,
    event: Mutex<Event>,
    sink: Arc<dyn AuditSink>,
    completed: AtomicBool,
}

impl Recorder {
    /// A recorder of a request that has just arrived.
    pub(in crate::server) fn new(
        verdict: Verdict,
        sink: Arc<dyn AuditSink>,
        parts: &Parts,
        user: Option<&UserInfo>,
        info: &RequestInfo,
    ) -> Self {
        let id = parts.extensions.get::<AuditId>();
        let notes = parts.extensions.get::<Notes>().map(Notes::annotations).unwrap_or_default();
        let now = clock::now_micros();
        let event = Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: verdict.level,
            audit_id: id.map_or_else(|| rng::uuid().into(), |id| id.0.clone()),
            stage: Stage::RequestReceived,
            request_uri: parts
                .uri
                .path_and_query()
                .map_or_else(|| parts.uri.path().to_owned(), ToString::to_string),
            verb: info.verb.clone().into_owned(),
            user: user.map(AuditUser::from).unwrap_or_default(),
            impersonated_user: None,
            authentication_metadata: None,
            source_ips: source_ips(parts),
            user_agent: user_agent(parts),
            object_ref: ObjectReference::of(info),
            response_status: None,
            request_object: None,
            response_object: None,
            request_received_timestamp: now.clone(),
            stage_timestamp: now,
            annotations: Default::default(),
        };
        let recorder =
            Self { verdict, event: Mutex::new(event), sink, completed: AtomicBool::new(false) };
        // What was found out about the user before there was anything to write it into.
        for (key, value) in notes {
            recorder.annotate(key, value);
        }
        recorder
    }

    /// Tells the sinks that the request has come to a stage.
    ///
    /// # Errors
    /// When a strict sink did not take the event.
    pub(in crate::server) async fn reach(&self, stage: Stage) -> Result<(), AuditError> {
        match self.at(stage) {
            Some(event) => self.sink.process(&[event]).await,
            None => Ok(()),
        }
    }

    /// Tells them that it is complete.
    pub(in crate::server) async fn complete(&self) {
        if !self.completed.swap(true, Ordering::Relaxed) {
            // There is nobody left to refuse.
            let _ = self.reach(Stage::ResponseComplete).await;
        }
    }

    /// Nothing more will be told of it.
    pub(in crate::server) fn close(&self) {
        self.completed.store(true, Ordering::Relaxed);
    }

    /// Tells them that its handler panicked.
    pub(in crate::server) async fn panicked(&self, message: &str) {
        self.set_status(ResponseStatus {
            status: Some("Failure".to_owned()),
            reason: Some("InternalError".to_owned()),
            message: Some(format!("APIServer panic'd: {message}")),
            code: Some(500),
            ..ResponseStatus::default()
        });
        self.close();
        let _ = self.reach(Stage::Panic).await;
    }

    /// The code of the answer.
    pub(in crate::server) fn set_code(&self, code: u16) {
        let mut event = self.event.lock();
        event.response_status.get_or_insert_default().code = Some(code.into());
    }

    /// How the request ended.
    pub(in crate::server) fn set_status(&self, status: ResponseStatus) {
        self.event.lock().response_status = Some(status);
    }

    /// The event at a stage, if that is recorded.
    fn at(&self, stage: Stage) -> Option<Arc<Event>> {
        if self.verdict.omits(stage) {
            return None;
        }
        let mut event = self.event.lock();
        event.stage = stage;
        if stage != Stage::RequestReceived {
            event.stage_timestamp = clock::now_micros();
        }
        Some(Arc::new(event.clone()))
    }

    fn annotate(&self, key: &str, value: String) {
        match self.event.lock().annotations.entry(key.to_owned()) {
            Entry::Vacant(entry) => {
                entry.insert(value);
            }
            Entry::Occupied(found) => {
                tracing::warn!(key, value = found.get(), "an audit annotation is set twice");
            }
        }
    }

    fn request_object(&self, json: &[u8]) {
        let named = Named::of(json);
        let mut event = self.event.lock();
        if let (Some(object), Some(named)) = (&mut event.object_ref, named) {
            let fill = |field: &mut String, value: String| {
                if field.is_empty() {
                    *field = value;
                }
            };
            fill(&mut object.namespace, named.namespace);
            fill(&mut object.name, named.name);
            fill(&mut object.uid, named.uid);
            fill(&mut object.resource_version, named.resource_version);
        }
        if self.verdict.level >= Level::Request {
            event.request_object = self.shown(json);
        }
    }

    fn response(&self, json: &[u8]) {
        // A Status says how the request ended; nothing else begins like one.
        if json.starts_with(br#"{"apiVersion":"v1","kind":"Status","#)
            && let Ok(status) = serde_json::from_slice::<ResponseStatus>(json)
        {
            self.set_status(ResponseStatus { metadata: Default::default(), ..status });
        }
        if self.verdict.level >= Level::RequestResponse {
            let shown = self.shown(json);
            self.event.lock().response_object = shown;
        }
    }

    /// An object as events show it.
    fn shown(&self, json: &[u8]) -> Option<Arc<RawValue>> {
        if !self.verdict.omit_managed_fields {
            return raw(json);
        }
        let mut tree: Value = serde_json::from_slice(json).ok()?;
        drop_managed_fields(&mut tree);
        serde_json::value::to_raw_value(&tree).ok().map(Arc::from)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if *self.completed.get_mut() {
            return;
        }
        self.event.get_mut().response_status.get_or_insert_with(|| ResponseStatus {
            status: Some("Success".to_owned()),
            message: Some("Connection closed early".to_owned()),
            code: Some(200),
            ..ResponseStatus::default()
        });
        let (event, sink) = (self.at(Stage::ResponseComplete), self.sink.clone());
        if let (Some(event), Ok(runtime)) = (event, tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { sink.process(&[event]).await });
        }
    }
}

fn raw(json: &[u8]) -> Option<Arc<RawValue>> {
    serde_json::from_slice::<Box<RawValue>>(json).ok().map(Arc::from)
}

/// Takes managed fields out of an object, the items of a list or the objects of a Table.
fn drop_managed_fields(tree: &mut Value) {
    fn of_object(object: &mut Value) {
        if let Some(Value::Object(meta)) = object.get_mut("metadata") {
            meta.remove("managedFields");
        }
    }
    of_object(tree);
    for item in tree.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        of_object(item);
    }
    for row in tree.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(object) = row.get_mut("object") {
            of_object(object);
        }
    }
}

/// What an object says of itself.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Named {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
}

impl Named {
    fn of(json: &[u8]) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct Object {
            metadata: Option<Named>,
        }
        serde_json::from_slice::<Object>(json).ok()?.metadata
    }
}

/// The addresses that a request came by: those that proxies tell of, then the peer's.
fn source_ips(parts: &Parts) -> Vec<String> {
    let values = |name: &str| {
        let values = parts.headers.get_all(name).into_iter();
        values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','))
    };
    let parse = |text: &str| text.trim().parse::<std::net::IpAddr>().ok();
    let mut ips: Vec<_> = values("x-forwarded-for").filter_map(parse).collect();
    if let Some(real) = values("x-real-ip").find_map(parse)
        && !ips.contains(&real)
    {
        ips.push(real);
    }
    if let Some(RemoteAddress(peer)) = parts.extensions.get::<RemoteAddress>()
        && ips.last() != Some(&peer.ip())
    {
        ips.push(peer.ip());
    }
    ips.iter().map(ToString::to_string).collect()
}

fn user_agent(parts: &Parts) -> String {
    let agent = parts.headers.get(http::header::USER_AGENT);
    let agent = agent.and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    match agent.get(..USER_AGENT_BYTES_MAX) {
        Some(cut) if agent.len() > USER_AGENT_BYTES_MAX => format!("{cut}{CUT}"),
        _ => agent.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_fields_are_left_out_of_objects_and_lists() {
        let mut list = serde_json::json!({
            "metadata": {}, "items": [{ "metadata": { "name": "a", "managedFields": [] } }],
        });
        drop_managed_fields(&mut list);
        assert_eq!(list["items"][0]["metadata"], serde_json::json!({ "name": "a" }));
    }

    #[test]
    fn proxies_come_before_the_peer_and_the_same_address_once() {
        let request = http::Request::get("/")
            .header("x-forwarded-for", "10.0.0.1, 10.0.0.2")
            .header("x-real-ip", "10.0.0.1")
            .extension(RemoteAddress(([10, 0, 0, 2], 4).into()));
        let (parts, ()) = request.body(()).unwrap().into_parts();
        assert_eq!(source_ips(&parts), ["10.0.0.1", "10.0.0.2"]);
    }
}
