//! Keeps a [`Sink`] equal to what the API server has: list, then watch from there.
//!
//! Only what decodes objects depends on their type; all else is there once for all types.

use std::{io::BufRead, marker::PhantomData, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::Request;
use http_body_util::BodyExt;
use kube::{
    client::Body,
    core::{ApiResource, Status},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::Watchable;
use crate::{
    client::{Backoff, slim},
    json, rng,
};

/// The longest line of a watch that is accepted, and so the largest object. The store's limit for
/// a value is far below.
const LINE_BYTES_MAX: usize = 64 << 20;

/// How long a watch is asked to last at least, and up to twice as long.
const LASTS: Duration = Duration::from_secs(300);
/// The same for a server of this process.
const LASTS_IN_PROCESS: Duration = Duration::from_secs(4 * 3600);

/// What takes in what a list and its watch say.
pub(super) trait Sink<K>: Send + Sync {
    /// A complete list: what is not in it is gone.
    fn replace(&self, items: Vec<K>);
    /// The newest state of an object.
    fn put(&self, object: K);
    /// An object that is gone, in its last state.
    fn remove(&self, object: K);
}

/// The way to a sink, of what only it can decode.
trait Feed: Send + Sync {
    /// Hands on a complete list, and returns its version.
    fn replace(&self, kind: &str, list: &[u8]) -> serde_json::Result<String>;
    /// Hands on the object of an event, and notes its version.
    fn change(&self, change: Change, object: &[u8], version: &mut String)
    -> serde_json::Result<()>;
}

/// What an event says of its object.
#[derive(Clone, Copy)]
enum Change {
    Put,
    Removed,
}

impl Change {
    /// The types of events that have an object.
    const TYPES: [(&str, Self); 3] =
        [("ADDED", Self::Put), ("MODIFIED", Self::Put), ("DELETED", Self::Removed)];
}

struct Typed<K, S> {
    sink: Arc<S>,
    kind: PhantomData<fn(K)>,
}

impl<K: Watchable, S: Sink<K>> Feed for Typed<K, S> {
    fn replace(&self, kind: &str, list: &[u8]) -> serde_json::Result<String> {
        let (items, metadata) = match json::from_slice::<List<K>>(list) {
            Ok(list) => {
                let mut items = list.items.unwrap_or_default();
                items.iter_mut().for_each(slim::trim);
                (items, list.metadata)
            }
            // One object that does not fit our types must not hide all others.
            Err(_) => {
                let list: List<&RawValue> = serde_json::from_slice(list)?;
                let items = list.items.unwrap_or_default();
                let decode = |raw: &&RawValue| match slim::decode(raw.get().as_bytes()) {
                    Ok(object) => Some(object),
                    Err(error) => {
                        skipped(kind, &error);
                        None
                    }
                };
                (items.iter().filter_map(decode).collect(), list.metadata)
            }
        };
        self.sink.replace(items);
        Ok(metadata.resource_version)
    }

    fn change(
        &self,
        change: Change,
        object: &[u8],
        version: &mut String,
    ) -> serde_json::Result<()> {
        let object: K = slim::decode(object)?;
        if let Some(newer) = &object.meta().resource_version {
            version.clone_from(newer);
        }
        match change {
            Change::Put => self.sink.put(object),
            Change::Removed => self.sink.remove(object),
        }
        Ok(())
    }
}

fn skipped(kind: &str, error: &serde_json::Error) {
    tracing::error!(kind, %error, "skipping an object of unexpected form");
}

/// Where and what to list and watch.
pub(super) struct Source {
    client: kube::Client,
    /// For the log.
    kind: String,
    path: String,
    /// In which form lists and watches are asked for.
    list_as: &'static str,
    watch_as: &'static str,
    /// The server is of this process ([`Informers::in_process`](super::Informers::in_process)).
    in_process: bool,
    /// Selectors as a query, each with a leading `&`.
    selectors: String,
}

/// Why a list or a watch ended.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The version is no longer kept: list again.
    #[error("the resource version is too old")]
    Expired,
    #[error("{0}")]
    Refused(Box<Status>),
    #[error(transparent)]
    Client(#[from] kube::Error),
    #[error("reading the answer: {0}")]
    Read(#[source] kube::Error),
    #[error("malformed answer: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("a line of the watch exceeds {LINE_BYTES_MAX} bytes")]
    TooLong,
    #[error("building the request: {0}")]
    Request(#[from] http::Error),
}

impl Failure {
    /// The kind is not served: its definition was deleted, or is not there yet.
    fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code == 404)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        // Servers say 410 with either reason, and before 1.19 "ResourceExpired" with another code.
        let expired = ["Expired", "Gone", "ResourceExpired"].contains(&status.reason.as_str());
        if status.code == 410 || expired {
            Failure::Expired
        } else {
            Failure::Refused(Box::new(status))
        }
    }
}

impl Source {
    pub(super) fn new<K: Watchable>(
        client: kube::Client,
        in_process: bool,
        label: Option<&str>,
        field: Option<&str>,
    ) -> Self {
        let mut selectors = String::new();
        for (name, value) in [("labelSelector", label), ("fieldSelector", field)] {
            if let Some(value) = value {
                selectors.push_str(&format!("&{name}={}", escape(value)));
            }
        }
        Self {
            client,
            kind: K::kind(&()).into_owned(),
            path: K::url_path(&(), None),
            list_as: "application/json",
            watch_as: "application/json",
            in_process,
            selectors,
        }
    }

    /// The metadata of all objects of a kind.
    pub(super) fn metadata(client: kube::Client, in_process: bool, of: &ApiResource) -> Self {
        let root = if of.group.is_empty() { "api" } else { "apis" };
        Self {
            client,
            kind: of.kind.clone(),
            path: format!("/{root}/{}/{}", of.api_version, of.plural),
            list_as: "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            watch_as: "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
            in_process,
            selectors: String::new(),
        }
    }

    async fn send(&self, accept: &str, query: String) -> Result<Body, Failure> {
        let request = Request::get(format!("{}?{query}{}", self.path, self.selectors))
            .header(http::header::ACCEPT, accept)
            // Some servers compress each event of a watch apart, which kube's layer cannot read.
            .header(http::header::ACCEPT_ENCODING, "identity")
            .body(Body::empty())?;
        let response = self.client.send(request).await?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        let code = response.status();
        let body = response.into_body().collect().await.map_err(Failure::Read)?.to_bytes();
        let status = serde_json::from_slice::<Status>(&body).unwrap_or_else(|_| {
            Status::failure(&String::from_utf8_lossy(&body), code.as_str()).with_code(code.as_u16())
        });
        Err(status.into())
    }
}

/// Percent-encodes a query value.
fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte as char);
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[derive(Deserialize)]
struct List<T> {
    #[serde(default)]
    metadata: ListMeta,
    /// Some servers write an empty list as null.
    items: Option<Vec<T>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    #[serde(default)]
    resource_version: String,
}

/// Lists and watches for ever.
pub(super) fn run<K: Watchable, S: Sink<K> + 'static>(
    source: Source,
    sink: Arc<S>,
) -> impl Future<Output = ()> + Send + use<K, S> {
    follow(source, Box::new(Typed { sink, kind: PhantomData }))
}

async fn follow(source: Source, feed: Box<dyn Feed>) {
    let kind = &source.kind;
    let mut backoff = Backoff::for_watches();
    // Any version will do at first: the server answers from its cache.
    let mut at_least = "0".to_owned();
    loop {
        let version = match list(&source, &*feed, &at_least).await {
            Ok(version) => version,
            Err(failure) => {
                if matches!(failure, Failure::Expired) {
                    at_least.clear();
                }
                let pause = backoff.pause();
                match failure.is_not_found() {
                    true => tracing::debug!(kind, %failure, ?pause, "not served now"),
                    false => tracing::warn!(kind, %failure, ?pause, "list failed"),
                }
                tokio::time::sleep(pause).await;
                continue;
            }
        };
        at_least = watch_until_expired(&source, &*feed, version, &mut backoff).await;
        tracing::debug!(kind, "the watch fell behind, listing again");
    }
}

async fn list(source: &Source, feed: &dyn Feed, at_least: &str) -> Result<String, Failure> {
    let query = match at_least {
        "" => "limit=0".to_owned(),
        version => format!("resourceVersion={version}"),
    };
    let body = source.send(source.list_as, query).await?;
    let body = body.collect().await.map_err(Failure::Read)?.to_bytes();
    Ok(feed.replace(&source.kind, &body)?)
}

/// Watches from `version`, again and again, and returns the version to list from when the server
/// no longer has the history.
async fn watch_until_expired(
    source: &Source,
    feed: &dyn Feed,
    mut version: String,
    backoff: &mut Backoff,
) -> String {
    let mut first = true;
    loop {
        let started = Instant::now();
        let before = version.clone();
        let result = watch(source, feed, &mut version).await;
        let failure = match result {
            // The server ends watches now and then; one that ended at once is a failure.
            Ok(()) if version != before || started.elapsed() >= Duration::from_secs(1) => {
                backoff.reset();
                first = false;
                continue;
            }
            Ok(()) => None,
            Err(Failure::Expired) => {
                // A server that calls its own list expired would otherwise be asked in a loop.
                if first && version == before {
                    tokio::time::sleep(backoff.pause()).await;
                }
                return String::new();
            }
            Err(failure) => Some(failure),
        };
        first = false;
        let pause = backoff.pause();
        let kind = &source.kind;
        match failure {
            Some(failure) if failure.is_not_found() => {
                tracing::debug!(kind, %failure, ?pause, "not served now");
            }
            Some(failure) => tracing::warn!(kind, %failure, ?pause, "watch failed"),
            None => tracing::debug!(kind, ?pause, "the watch ended at once"),
        }
        tokio::time::sleep(pause).await;
    }
}

async fn watch(source: &Source, feed: &dyn Feed, version: &mut String) -> Result<(), Failure> {
    // Five to ten minutes, as client-go: many watches of one server do not end together.
    let (lasts, bookmarks) = match source.in_process {
        true => (LASTS_IN_PROCESS, ""),
        false => (LASTS, "&allowWatchBookmarks=true"),
    };
    let timeout = rng::jitter(lasts, 1.0).as_secs();
    let query = format!("watch=true{bookmarks}&resourceVersion={version}&timeoutSeconds={timeout}");
    let mut frames = source.send(source.watch_as, query).await?.into_data_stream();
    let mut partial = BytesMut::new();
    while let Some(frame) = frames.next().await {
        let mut frame: Bytes = frame.map_err(Failure::Read)?;
        while let Some(end) = line_end(&frame) {
            let line = frame.split_to(end);
            if partial.is_empty() {
                apply(source, feed, &line, version)?;
            } else {
                partial.extend_from_slice(&line);
                apply(source, feed, &partial.split(), version)?;
            }
        }
        if partial.len() + frame.len() > LINE_BYTES_MAX {
            return Err(Failure::TooLong);
        }
        partial.extend_from_slice(&frame);
    }
    Ok(())
}

/// Where the first line ends, its line feed included, if it does.
fn line_end(bytes: &[u8]) -> Option<usize> {
    // The library's own search takes many bytes at a time; reading memory cannot fail.
    let mut rest = bytes;
    let end = rest.skip_until(b'\n').ok()?;
    bytes[..end].ends_with(b"\n").then_some(end)
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct OnlyMeta {
    metadata: ListMeta,
}

/// The object of an event that is written as API servers usually do: there is no need to go over
/// it twice. `None` for anything else.
fn plain_event(line: &[u8]) -> Option<(Change, &[u8])> {
    let rest = line.trim_ascii().strip_prefix(b"{\"type\":\"")?;
    let starts = |(word, _): &(&str, Change)| rest.starts_with(word.as_bytes());
    let (word, change) = Change::TYPES.into_iter().find(starts)?;
    let object = rest[word.len()..].strip_prefix(b"\",\"object\":")?.strip_suffix(b"}")?;
    Some((change, object))
}

/// Takes in one line of a watch.
fn apply(
    source: &Source,
    feed: &dyn Feed,
    line: &[u8],
    version: &mut String,
) -> Result<(), Failure> {
    if line.trim_ascii().is_empty() {
        return Ok(());
    }
    if let Some((change, object)) = plain_event(line)
        && feed.change(change, object, version).is_ok()
    {
        return Ok(());
    }
    let event: RawEvent<'_> = serde_json::from_slice(line)?;
    let json = event.object.get().as_bytes();
    let version_of = |json| serde_json::from_slice(json).map(|of: OnlyMeta| of.metadata);
    if let Some((_, change)) = Change::TYPES.into_iter().find(|(word, _)| *word == event.kind) {
        if let Err(error) = feed.change(change, json, version) {
            skipped(&source.kind, &error);
            *version = version_of(json)?.resource_version;
        }
        return Ok(());
    }
    match event.kind {
        "BOOKMARK" => *version = version_of(json)?.resource_version,
        "ERROR" => return Err(serde_json::from_slice::<Status>(json)?.into()),
        other => tracing::warn!(kind = other, "unknown watch event"),
    }
    Ok(())
}
