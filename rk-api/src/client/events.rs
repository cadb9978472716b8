use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Resource,
    api::{Patch, PatchParams, PostParams, Request},
};
use serde_json::json;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use crate::clock;

/// How many events may wait to be sent; further ones are dropped and counted.
const QUEUE_MAX: usize = 1000;
/// How many requests are under way at once.
const IN_FLIGHT_MAX: usize = 16;
/// How many distinct events, and sources, are remembered.
const REMEMBERED_MAX: usize = 4096;
/// From this many similar events within `SIMILAR_WITHIN` on, they become one.
const SIMILAR_MAX: usize = 10;
const SIMILAR_WITHIN: Duration = Duration::from_secs(600);
/// Each object's burst of events from one source, and one more in this time.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);
/// Messages longer than this are cut, as the API refuses them.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Whether an event tells of something usual or of something to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Usual.
    Normal,
    /// Something may be wrong.
    Warning,
}

impl EventType {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// Refers to an object in an event.
pub fn object_ref<K: kube::Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// Writes Events (core/v1) about objects, without ever making its caller wait.
///
/// Repeats are treated as client-go's correlator does: an event equal to an earlier one raises
/// that one's `count`; more than ten events that differ only in their message within ten minutes
/// become one "(combined from similar events)"; an object that gets more than 25 events in a burst
/// and one per five minutes afterwards loses the rest. At most 1000 events wait to be sent; what
/// comes on top is dropped and counted in [`dropped`](Self::dropped).
///
/// Clones share one queue. Sending ends after the last is dropped.
#[derive(Clone, Debug)]
pub struct EventRecorder {
    source: EventSource,
    sender: mpsc::Sender<Message>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    dropped: AtomicU64,
    sent: AtomicU64,
}

#[derive(Debug)]
enum Message {
    Event(Box<Event>),
    Flush(oneshot::Sender<()>),
}

impl EventRecorder {
    /// A recorder of events from `component`. Call it within a tokio runtime.
    pub fn new(client: kube::Client, component: &str) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let counters = Arc::new(Counters::default());
        let sink = Sink { client, counters: counters.clone(), correlator: Correlator::default() };
        tokio::spawn(sink.run(receiver));
        let source = EventSource { component: Some(component.to_owned()), host: None };
        Self { source, sender, counters }
    }

    /// The same recorder, naming the host that it runs on.
    #[must_use]
    pub fn on_host(mut self, host: &str) -> Self {
        self.source.host = Some(host.to_owned());
        self
    }

    /// Records an event. Never blocks.
    pub fn event(
        &self,
        about: &ObjectReference,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let mut message: String = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX - 3));
            message.push_str("...");
        }
        let now = clock::now_seconds();
        let namespace = about.namespace.clone().filter(|namespace| !namespace.is_empty());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(event_name(about.name.as_deref().unwrap_or_default())),
                // Events about cluster-scoped objects live in the default namespace.
                namespace: Some(namespace.unwrap_or_else(|| "default".to_owned())),
                ..ObjectMeta::default()
            },
            involved_object: about.clone(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            source: Some(self.source.clone()),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            type_: Some(kind.as_str().to_owned()),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            ..Event::default()
        };
        if self.sender.try_send(Message::Event(Box::new(event))).is_err() {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many events were lost: the queue was full, the object had too many, or the API server
    /// refused them.
    pub fn dropped(&self) -> u64 {
        self.counters.dropped.load(Ordering::Relaxed)
    }

    /// How many events were stored or counted.
    pub fn sent(&self) -> u64 {
        self.counters.sent.load(Ordering::Relaxed)
    }

    /// Waits until all events recorded before have been sent.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.sender.send(Message::Flush(done)).await.is_ok() {
            let _ = flushed.await;
        }
    }
}

/// The object's name and a number that no other event of this process has. It is the time, so
/// that other processes are unlikely to use it.
fn event_name(object: &str) -> String {
    format!("{object}.{:x}", clock::unique())
}

/// What makes two events the same but for time: everything of them but the message, and the
/// message where it counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct EventKey {
    source: (Option<String>, Option<String>),
    /// Kind, namespace, name, UID, API version, field path.
    about: [Option<String>; 6],
    kind: Option<String>,
    reason: Option<String>,
    message: Option<String>,
}

impl EventKey {
    fn of(event: &Event) -> Self {
        let about = event.involved_object.clone();
        let source = event.source.clone().unwrap_or_default();
        Self {
            source: (source.component, source.host),
            about: [
                about.kind,
                about.namespace,
                about.name,
                about.uid,
                about.api_version,
                about.field_path,
            ],
            kind: event.type_.clone(),
            reason: event.reason.clone(),
            message: event.message.clone(),
        }
    }

    fn without_message(mut self) -> Self {
        self.message = None;
        self
    }

    fn without_reason(mut self) -> Self {
        (self.kind, self.reason, self.message) = (None, None, None);
        self
    }
}

/// A map that forgets the oldest entries beyond its limit.
#[derive(Debug)]
struct Remembered<V> {
    map: HashMap<EventKey, V>,
    order: VecDeque<EventKey>,
}

impl<V> Default for Remembered<V> {
    fn default() -> Self {
        Self { map: HashMap::new(), order: VecDeque::new() }
    }
}

impl<V> Remembered<V> {
    fn entry(&mut self, key: EventKey, make: impl FnOnce() -> V) -> &mut V {
        if !self.map.contains_key(&key) {
            if self.order.len() >= REMEMBERED_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.map.remove(&oldest);
            }
            self.order.push_back(key.clone());
        }
        self.map.entry(key).or_insert_with(make)
    }
}

/// Decides what becomes of an event, from those before it.
#[derive(Debug, Default)]
struct Correlator {
    /// Tokens left, when they were counted.
    spam: Remembered<(f64, Instant)>,
    similar: Remembered<Similar>,
    stored: Remembered<Stored>,
}

#[derive(Debug)]
struct Similar {
    messages: std::collections::HashSet<String>,
    last: Instant,
}

/// An event of which repeats are counted.
#[derive(Clone, Debug)]
struct Stored {
    name: String,
    count: i32,
    first: Option<Time>,
}

#[derive(Debug)]
enum Verdict {
    Drop,
    Create(Box<Event>),
    /// Raise the count of the event `name`; the event itself in case that one is gone.
    Count(String, Box<Event>),
}

impl Correlator {
    fn judge(&mut self, mut event: Event, now: Instant) -> Verdict {
        let key = EventKey::of(&event);

        let (tokens, counted) = self.spam.entry(key.clone().without_reason(), || (BURST, now));
        let refill = now.duration_since(*counted).as_secs_f64() / REFILL.as_secs_f64();
        (*tokens, *counted) = ((*tokens + refill).min(BURST), now);
        if *tokens < 1.0 {
            return Verdict::Drop;
        }
        *tokens -= 1.0;

        let similar_key = key.clone().without_message();
        let similar = self
            .similar
            .entry(similar_key.clone(), || Similar { messages: Default::default(), last: now });
        if now.duration_since(similar.last) > SIMILAR_WITHIN {
            similar.messages.clear();
        }
        similar.last = now;
        let message = event.message.clone().unwrap_or_default();
        // Beyond the limit only its being reached matters.
        if similar.messages.len() < SIMILAR_MAX {
            similar.messages.insert(message.clone());
        }
        let key = if similar.messages.len() >= SIMILAR_MAX {
            event.message = Some(format!("(combined from similar events): {message}"));
            similar_key
        } else {
            key
        };

        let fresh = Stored {
            name: event.metadata.name.clone().unwrap_or_default(),
            count: 0,
            first: event.first_timestamp.clone(),
        };
        let stored = self.stored.entry(key, || fresh);
        stored.count = stored.count.saturating_add(1);
        event.count = Some(stored.count);
        if stored.count == 1 {
            return Verdict::Create(Box::new(event));
        }
        event.first_timestamp = stored.first.clone();
        Verdict::Count(stored.name.clone(), Box::new(event))
    }
}

struct Sink {
    client: kube::Client,
    counters: Arc<Counters>,
    correlator: Correlator,
}

impl Sink {
    async fn run(mut self, mut receiver: mpsc::Receiver<Message>) {
        let mut in_flight: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        loop {
            let message = tokio::select! {
                biased;
                Some(()) = in_flight.next() => continue,
                message = receiver.recv(), if in_flight.len() < IN_FLIGHT_MAX => message,
            };
            match message {
                Some(Message::Event(event)) => {
                    let verdict = self.correlator.judge(*event, Instant::now());
                    if matches!(verdict, Verdict::Count(..)) {
                        // The event to count on may still be on its way.
                        while in_flight.next().await.is_some() {}
                    }
                    let (client, counters) = (self.client.clone(), self.counters.clone());
                    in_flight.push(Box::pin(async move {
                        let counter = match send(client, verdict).await {
                            true => &counters.sent,
                            false => &counters.dropped,
                        };
                        counter.fetch_add(1, Ordering::Relaxed);
                    }));
                }
                Some(Message::Flush(done)) => {
                    while in_flight.next().await.is_some() {}
                    let _ = done.send(());
                }
                None => break,
            }
        }
        while in_flight.next().await.is_some() {}
    }
}

/// Whether the event was stored. An unreachable server is tried again for about half a minute.
async fn send(client: kube::Client, verdict: Verdict) -> bool {
    let (mut count_on, mut event) = match verdict {
        Verdict::Drop => return false,
        Verdict::Create(event) => (None, event),
        Verdict::Count(name, event) => (Some(name), event),
    };
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let events = Request::new(Event::url_path(&(), Some(&namespace)));
    for attempt in 0..4 {
        if attempt > 0 {
            tokio::time::sleep(crate::rng::jitter(Duration::from_secs(10), 0.2)).await;
        }
        let request = match &count_on {
            Some(name) => {
                let patch = json!({
                    "message": event.message,
                    "lastTimestamp": event.last_timestamp,
                    "count": event.count,
                });
                let patch = Patch::Strategic(patch);
                events.patch(name, &PatchParams::default(), &patch)
            }
            None => serde_json::to_vec(&event)
                .map_err(kube::core::request::Error::SerializeBody)
                .and_then(|body| events.create(&PostParams::default(), body)),
        };
        // The answer is the event again, which nobody looks at.
        let result = match request {
            Ok(request) => client.request_text(request).await.map(drop),
            Err(error) => Err(kube::Error::BuildRequest(error)),
        };
        match result {
            Ok(()) => return true,
            // The counted event ran out of its time to live: the next one takes its place.
            Err(kube::Error::Api(status)) if status.is_not_found() && count_on.is_some() => {
                event.metadata.name = count_on.take();
            }
            Err(kube::Error::Api(status)) if !matches!(status.code, 429 | 500..=599) => {
                tracing::debug!(%status, reason = ?event.reason, "event refused");
                return false;
            }
            Err(error) => tracing::debug!(%error, "could not send an event"),
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use http::Method;
    use k8s_openapi::api::core::v1::Pod;
    use parking_lot::Mutex;
    use serde_json::Value;

    use super::*;
    use crate::client::fake::{self, Reply, status};

    /// Events by path, and what was asked.
    type Kept = (HashMap<String, Value>, Vec<String>);

    /// Keeps events by path and notes what was asked.
    #[derive(Clone, Default)]
    struct Server(Arc<Mutex<Kept>>);

    impl Server {
        fn recorder(&self) -> EventRecorder {
            let server = self.0.clone();
            let client = fake::client(move |call| {
                let (events, log) = &mut *server.lock();
                log.push(call.method.to_string());
                Some(match call.method {
                    Method::POST => {
                        let name = call.body["metadata"]["name"].as_str().unwrap();
                        let key = format!("{}/{name}", call.path);
                        if events.contains_key(&key) {
                            return Some(status(409, "AlreadyExists"));
                        }
                        events.insert(key, call.body.clone());
                        Reply::Json(201, call.body)
                    }
                    _ => match events.get_mut(&call.path) {
                        Some(event) => {
                            for (field, value) in call.body.as_object().unwrap() {
                                event[field] = value.clone();
                            }
                            Reply::Json(200, event.clone())
                        }
                        None => status(404, "NotFound"),
                    },
                })
            });
            EventRecorder::new(client, "tester")
        }

        fn events(&self) -> Vec<(String, i64)> {
            let mut all: Vec<_> = self
                .0
                .lock()
                .0
                .values()
                .map(|e| (e["message"].as_str().unwrap().to_owned(), e["count"].as_i64().unwrap()))
                .collect();
            all.sort();
            all
        }
    }

    fn about(name: &str) -> ObjectReference {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.namespace = Some("default".to_owned());
        object_ref(&pod)
    }

    #[tokio::test(start_paused = true)]
    async fn equal_events_are_counted_not_stored_again() {
        let server = Server::default();
        let recorder = server.recorder();
        for _ in 0..3 {
            recorder.event(&about("web"), EventType::Warning, "BackOff", "again");
        }
        recorder.event(&about("web"), EventType::Normal, "Pulled", "image");
        recorder.flush().await;

        assert_eq!(server.events(), [("again".to_owned(), 3), ("image".to_owned(), 1)]);
        assert_eq!(recorder.sent(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn many_similar_events_become_one() {
        let server = Server::default();
        let recorder = server.recorder();
        for n in 0..15 {
            recorder.event(&about("web"), EventType::Normal, "Step", format!("step {n:02}"));
        }
        recorder.flush().await;

        let events = server.events();
        assert_eq!(events.len(), 10, "{events:?}");
        assert_eq!(events[0], ("(combined from similar events): step 14".to_owned(), 6));
    }

    #[tokio::test(start_paused = true)]
    async fn one_object_cannot_flood() {
        let server = Server::default();
        let recorder = server.recorder();
        for n in 0..40 {
            recorder.event(&about("web"), EventType::Normal, &format!("R{n}"), "m");
        }
        recorder.event(&about("other"), EventType::Normal, "R", "m");
        recorder.flush().await;
        assert_eq!((server.events().len(), recorder.dropped()), (26, 15));

        tokio::time::sleep(Duration::from_secs(301)).await;
        recorder.event(&about("web"), EventType::Normal, "Later", "m");
        recorder.flush().await;
        assert_eq!(server.events().len(), 27);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_drops_and_counts() {
        let recorder = EventRecorder::new(fake::client(|_| None), "tester");
        for n in 0..1500 {
            recorder.event(&about(&format!("p{n}")), EventType::Normal, "R", "m");
        }
        assert_eq!(recorder.dropped(), 500);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_that_expired_is_created_again() {
        let server = Server::default();
        let recorder = server.recorder();
        recorder.event(&about("web"), EventType::Warning, "BackOff", "again");
        recorder.flush().await;
        server.0.lock().0.clear();

        recorder.event(&about("web"), EventType::Warning, "BackOff", "again");
        recorder.flush().await;

        assert_eq!(server.events(), [("again".to_owned(), 2)]);
    }

    #[test]
    fn a_long_message_is_cut_and_names_differ() {
        let names: std::collections::HashSet<_> = (0..100).map(|_| event_name("web")).collect();
        assert_eq!(names.len(), 100);
        assert!(names.iter().all(|name| name.starts_with("web.")));
    }
}
