//! The changes that are still kept, in revision order.
//!
//! Revisions count up by one, so the history is an array cut into chunks. A chunk's slots are each
//! written once; readers share the chunk and read it without a lock while writers go on.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use crate::{Event, Revision, StoreError};

/// What an event costs beside its key and value, roughly.
const EVENT_OVERHEAD_BYTES: usize = 200;
/// A chunk is closed when it holds so many bytes: they are forgotten together.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// A chunk has at most so many slots.
const CHUNK_EVENTS_MAX: usize = 256;

/// A run of consecutive events.
#[derive(Debug)]
pub(super) struct Chunk {
    /// The revision of the first slot.
    first: u64,
    slots: Box<[OnceLock<Event>]>,
}

impl Chunk {
    /// The event that made `revision`, if it is in this chunk and committed.
    pub(super) fn get(&self, revision: u64) -> Option<&Event> {
        let at = usize::try_from(revision.checked_sub(self.first)?).ok()?;
        self.slots.get(at)?.get()
    }

    /// The events after `revision`, in order, as far as this chunk has any.
    pub(super) fn after(&self, revision: u64) -> impl Iterator<Item = &Event> {
        let skip = (revision + 1).saturating_sub(self.first);
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(self.slots.len());
        self.slots[skip..].iter().map_while(OnceLock::get)
    }
}

/// How much history a store keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// The kept changes: all those after `compacted`, up to `last`.
#[derive(Debug)]
pub(super) struct History {
    limits: Limits,
    chunks: VecDeque<(Arc<Chunk>, usize)>,
    compacted: u64,
    last: u64,
    bytes: usize,
}

impl History {
    /// A history in which nothing up to `revision` is kept.
    pub(super) fn starting_after(revision: u64, limits: Limits) -> Self {
        History { limits, chunks: VecDeque::new(), compacted: revision, last: revision, bytes: 0 }
    }

    /// Changes up to here are forgotten; the state as of here can still be told.
    pub(super) fn compacted(&self) -> u64 {
        self.compacted
    }

    /// The newest revision.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Whether all changes after `from` are still here, and the state as of it can be told.
    pub(super) fn check_kept(&self, from: Revision) -> Result<(), StoreError> {
        if from.0 < self.compacted {
            return Err(StoreError::Compacted { asked: from, oldest: Revision(self.compacted) });
        }
        if from.0 > self.last {
            return Err(StoreError::Future { asked: from, latest: Revision(self.last) });
        }
        Ok(())
    }

    /// Appends the event that made the next revision.
    pub(super) fn push(&mut self, event: Event) {
        debug_assert_eq!(event.revision.0, self.last + 1);
        self.last = event.revision.0;
        let bytes =
            EVENT_OVERHEAD_BYTES + event.key.len() + event.value.as_ref().map_or(0, |v| v.len());
        let full = self.chunks.back().is_none_or(|(chunk, bytes)| {
            *bytes >= CHUNK_BYTES_MAX || self.last - chunk.first >= chunk.slots.len() as u64
        });
        if full {
            // Small limits get small chunks, because only whole ones are forgotten.
            let slots = (self.limits.events / 8).clamp(1, CHUNK_EVENTS_MAX);
            let slots = std::iter::repeat_with(OnceLock::new).take(slots).collect();
            self.chunks.push_back((Arc::new(Chunk { first: self.last, slots }), 0));
        }
        if let Some((chunk, chunk_bytes)) = self.chunks.back_mut() {
            let at = (self.last - chunk.first) as usize;
            let fresh = chunk.slots[at].set(event).is_ok();
            debug_assert!(fresh, "a slot is written once");
            *chunk_bytes += bytes;
            self.bytes += bytes;
        }
        self.trim();
    }

    /// Forgets all changes up to `revision`.
    pub(super) fn compact(&mut self, revision: u64) {
        self.compacted = self.compacted.max(revision.min(self.last));
        while let Some((next, _)) = self.chunks.get(1)
            && next.first <= self.compacted + 1
        {
            self.drop_oldest();
        }
        if self.compacted == self.last {
            self.chunks.clear();
            self.bytes = 0;
        }
    }

    /// The chunks with the events after `revision`, oldest first.
    pub(super) fn chunks_after(&self, revision: u64) -> impl Iterator<Item = &Arc<Chunk>> {
        let from = self.chunks.partition_point(|(chunk, _)| chunk.first <= revision + 1);
        self.chunks.range(from.saturating_sub(1)..).map(|(chunk, _)| chunk)
    }

    fn trim(&mut self) {
        // The newest chunk stays, whatever its size: what was just written can be watched.
        while self.chunks.len() > 1
            && ((self.last - self.compacted) as usize > self.limits.events
                || self.bytes > self.limits.bytes)
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, bytes)) = self.chunks.pop_front() {
            self.bytes -= bytes;
        }
        if let Some((oldest, _)) = self.chunks.front() {
            self.compacted = self.compacted.max(oldest.first - 1);
        }
    }
}
