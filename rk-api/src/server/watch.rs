//! The body of a watch: lines of events until the client, its time limit or the server ends it.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::{Instant, Sleep};

use super::{
    cache::{Cache, Change, Closed, Delivery, Table, WatchEvent, Watcher, frame},
    custom_resources::Converter,
    flow_control::Seat,
    negotiate::{Format, Shape},
    object::CachedObject,
    protobuf,
    shape::Shaper,
    status::{ApiError, Result},
};

/// How often a watch that allows it is sent a bookmark.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// How long before its end a watch is sent its last bookmark.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);

/// Events are gathered into chunks of about this size while more of them wait.
const CHUNK_BYTES: usize = 64 * 1024;

/// What a watch is made of.
pub(super) struct WatchParts {
    /// The cache.
    pub cache: Arc<Cache>,
    /// What is watched.
    pub table: Arc<Table>,
    /// The queue of changes.
    pub watcher: Arc<Watcher>,
    /// The objects that the watch begins with.
    pub initial: Vec<Arc<CachedObject>>,
    /// The revision of a bookmark after these objects.
    pub initial_end: Option<u64>,
    /// Brings custom objects into the version that is watched.
    pub converter: Arc<Converter>,
    /// The form of the events.
    pub shaper: Shaper,
    /// Lines of JSON or frames of protobuf.
    pub format: Format,
    /// Whether to send bookmarks.
    pub bookmarks: bool,
    /// How long the watch lasts.
    pub timeout: Duration,
}

/// See the module's documentation. Dropping it ends the watch.
pub(super) struct WatchBody {
    parts: WatchParts,
    initial: VecDeque<Arc<CachedObject>>,
    pending: VecDeque<(Change, Arc<WatchEvent>)>,
    ends_at: Instant,
    timer: Pin<Box<Sleep>>,
    ended: bool,
    /// Whether a Table's columns were sent.
    headed: bool,
    /// What it takes of its priority level while the initial objects are not all sent.
    seat: Option<Seat>,
    /// A webhook that is being asked for what is to be sent next.
    converting: Option<BoxFuture<'static, Result<()>>>,
    /// Whether what waits to be sent was looked at in the version that is watched.
    judged: bool,
}

impl WatchBody {
    /// A watch that begins now.
    pub(super) fn new(mut parts: WatchParts) -> Self {
        let ends_at = Instant::now() + parts.timeout;
        let initial = std::mem::take(&mut parts.initial).into();
        let wake_at = next_wake(parts.bookmarks, ends_at);
        Self {
            parts,
            initial,
            pending: VecDeque::new(),
            ends_at,
            timer: Box::pin(tokio::time::sleep_until(wake_at)),
            ended: false,
            headed: false,
            seat: None,
            converting: None,
            judged: false,
        }
    }

    /// Keeps a seat until the initial objects are sent, if there are any.
    pub(super) fn sit_until_initialized(&mut self, seat: Seat) {
        if !self.initial.is_empty() {
            self.seat = Some(seat);
        }
    }

    /// The next bytes; `None` at the end.
    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let lines = ready!(self.poll_lines(cx));
        Poll::Ready(lines.map(|lines| in_format(self.parts.format, lines)))
    }

    fn poll_lines(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.ended {
            return Poll::Ready(None);
        }
        loop {
            if let Err(error) = ready!(self.poll_converted(cx)) {
                self.ended = true;
                return Poll::Ready(Some(error_frame(&error)));
            }
            self.judge();
            if !self.initial.is_empty() {
                return Poll::Ready(Some(self.initial_chunk()));
            }
            self.seat = None;
            if let Some(revision) = self.parts.initial_end.take() {
                return Poll::Ready(Some(self.bookmark(revision, true)));
            }
            if !self.pending.is_empty() {
                return Poll::Ready(Some(self.pending_chunk()));
            }
            match self.parts.watcher.poll_next(cx) {
                Poll::Ready(Delivery::Changes(changes)) => {
                    self.pending = changes;
                    self.judged = false;
                }
                Poll::Ready(Delivery::Closed(why)) => {
                    self.ended = true;
                    return Poll::Ready(match why {
                        Closed::Shutdown => None,
                        Closed::Expired => Some(error_frame(&ApiError::expired(
                            "too old resource version: the watch fell behind; list again",
                        ))),
                    });
                }
                Poll::Pending => break,
            }
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if Instant::now() >= self.ends_at {
                self.ended = true;
                return Poll::Ready(None);
            }
            let wake_at = next_wake(self.parts.bookmarks, self.ends_at);
            self.timer.as_mut().reset(wake_at);
            // A bookmark promises that everything before it was delivered: nothing may wait.
            let applied = self.parts.cache.revision();
            if let Some(revision) = self.parts.table.progress(&self.parts.watcher, applied) {
                return Poll::Ready(Some(self.bookmark(revision, false)));
            }
        }
    }

    /// Waits until what is to be sent next is there in the version that is watched.
    fn poll_converted(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let resource = &self.parts.shaper.resource;
        if self.converting.is_none() {
            let both = self.parts.watcher.filter.looks_at_shown();
            let changed = self.pending.iter().flat_map(|(change, event)| {
                let past = &event.past;
                match both {
                    true => [past.object.as_ref(), past.previous.as_ref()],
                    false => [past.subject(*change), None],
                }
            });
            let needed = self.initial.iter().chain(changed.flatten());
            let waiting = Converter::waiting(resource, needed);
            if waiting.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let (converter, resource) = (self.parts.converter.clone(), resource.clone());
            let convert = async move { converter.show(&resource, &waiting).await };
            self.converting = Some(Box::pin(convert));
        }
        let Some(converting) = &mut self.converting else { return Poll::Ready(Ok(())) };
        let converted = ready!(converting.as_mut().poll(cx));
        self.converting = None;
        Poll::Ready(converted)
    }

    /// Drops what the client does not see once it is in the version that is watched.
    fn judge(&mut self) {
        let (filter, resource) = (&self.parts.watcher.filter, &self.parts.shaper.resource);
        if std::mem::replace(&mut self.judged, true) || !filter.looks_at_shown() {
            return;
        }
        let sees = |object: &CachedObject| {
            filter.matches(object) && filter.matches_shown(resource, object)
        };
        self.initial.retain(|object| sees(object));
        let changes = std::mem::take(&mut self.pending).into_iter();
        let seen = changes.filter_map(|(_, event)| Some((event.past.change_to(sees)?, event)));
        self.pending = seen.collect();
    }

    fn initial_chunk(&mut self) -> Bytes {
        let mut out = Vec::with_capacity(CHUNK_BYTES);
        while let Some(object) = self.initial.pop_front() {
            self.write(Change::Added, &object, object.revision, &mut out);
            if out.len() >= CHUNK_BYTES {
                break;
            }
        }
        out.into()
    }

    fn pending_chunk(&mut self) -> Bytes {
        let shaper = &self.parts.shaper;
        if shaper.shape == Shape::Object && shaper.is_as_stored() {
            return self.shared_chunk();
        }
        let mut out = Vec::with_capacity(CHUNK_BYTES);
        while let Some((change, event)) = self.pending.pop_front() {
            if let Some(object) = event.past.subject(change) {
                self.write(change, object, event.past.revision, &mut out);
            }
            if out.len() >= CHUNK_BYTES {
                break;
            }
        }
        out.into()
    }

    /// As many of the lines that all watchers share as fit, at least one. One alone is not copied.
    fn shared_chunk(&mut self) -> Bytes {
        let mut size = 0;
        let fitting = self.pending.iter().take_while(|(change, event)| {
            size += event.frame(*change).len();
            size <= CHUNK_BYTES
        });
        let fitting = fitting.count();
        if fitting < 2 {
            let first = self.pending.pop_front();
            return first.map(|(change, event)| event.frame(change).clone()).unwrap_or_default();
        }
        let mut out = Vec::with_capacity(size.min(CHUNK_BYTES));
        for (change, event) in self.pending.drain(..fitting) {
            out.extend_from_slice(event.frame(change));
        }
        out.into()
    }

    fn write(&mut self, change: Change, object: &CachedObject, revision: u64, out: &mut Vec<u8>) {
        let headers = !std::mem::replace(&mut self.headed, true);
        let shaper = &self.parts.shaper;
        frame(change.as_str(), out, |out| shaper.object(object, revision, headers, out));
    }

    fn bookmark(&self, revision: u64, initial_events_end: bool) -> Bytes {
        let mut out = Vec::new();
        let shaper = &self.parts.shaper;
        frame("BOOKMARK", &mut out, |out| shaper.bookmark(revision, initial_events_end, out));
        out.into()
    }
}

impl Drop for WatchBody {
    fn drop(&mut self) {
        self.parts.table.unwatch(&self.parts.watcher);
    }
}

/// Lines of events as a client asked for them.
pub(super) fn in_format(format: Format, lines: Bytes) -> Bytes {
    match format {
        Format::Protobuf => protobuf::frames(&lines).into(),
        Format::Json | Format::Yaml => lines,
    }
}

fn next_wake(bookmarks: bool, ends_at: Instant) -> Instant {
    let now = Instant::now();
    let last = ends_at - BOOKMARK_BEFORE_END.min(ends_at.saturating_duration_since(now));
    match () {
        () if !bookmarks || last <= now => ends_at,
        () => last.min(now + BOOKMARK_EVERY),
    }
}

/// The line that tells a watcher that it must start over.
pub(super) fn error_frame(error: &ApiError) -> Bytes {
    let mut out = Vec::new();
    frame("ERROR", &mut out, |out| {
        // Writing into memory cannot fail.
        let _ = serde_json::to_writer(out, &error.status());
    });
    out.into()
}
