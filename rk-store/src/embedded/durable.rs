//! Making writes durable, many at a time.
//!
//! # The way of a write
//! 1. *Queued*: under the queue's lock its expectation is checked against everything committed or
//!    queued before it, it gets its revision, and its record joins the open batch.
//! 2. *Durable*: the flusher takes the batch, appends it to the log and flushes once for all of it.
//! 3. *Visible*: the flusher applies the batch to [`Memory`]; reads and watches see it from now on.
//! 4. *Acknowledged*: the writer gets its answer.
//!
//! A write becomes visible only once it is durable, so nobody ever reads what a crash can undo. For
//! the same reason a conflict with a queued write is only answered once that write is durable.
//!
//! The flusher runs while there is something to flush, on a thread of the runtime's blocking pool:
//! a paused clock then stands still while the disk works. Without a runtime it is the writer itself.

use std::{collections::HashMap, fmt, io, mem, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore, oneshot},
};

use super::{
    disk::Disk,
    lock::DirLock,
    log::{Log, Spare},
    memory::{Change, Memory, Write, check, conflict},
    record,
    segment::FRAME_BYTES,
    snapshot::{self, snapshot_name, snapshot_revision},
};
use crate::{Expect, Revision, StoreError, Versioned};

/// Writes of so many bytes may wait in the queue; those beyond wait outside of it.
const QUEUE_BYTES_MAX: usize = 8 << 20;
/// So many writes become visible at a time: readers get in between.
const APPLY_WRITES_MAX: usize = 64;
/// A batch's buffer is used again if it is not larger.
const REUSED_BYTES_MAX: usize = 1 << 20;

/// Where the answer to a write goes.
type Ack = oneshot::Sender<Result<(), StoreError>>;

/// The durable part of a store.
#[derive(Debug)]
pub(super) struct Durable {
    memory: Arc<Memory>,
    disk: Arc<dyn Disk>,
    queue: Mutex<Queue>,
    /// Counts the free bytes of the queue.
    room: Semaphore,
    log: Mutex<Log>,
    spare: Arc<Spare>,
    /// Notified when a background job ends.
    idle: Notify,
    lock: Mutex<Option<DirLock>>,
}

#[derive(Default)]
struct Queue {
    open: Batch,
    /// What keys hold that are queued or being flushed: `None` when they are deleted.
    pending: HashMap<Arc<str>, (u64, Option<Versioned>), foldhash::fast::RandomState>,
    /// The revision of the last write that was queued.
    revision: u64,
    flushing: bool,
    /// How many jobs run beside the flusher.
    background: usize,
    /// Why no writes are possible any more.
    failed: Option<String>,
}

/// What one flush makes durable.
#[derive(Debug, Default)]
struct Batch {
    /// Room for a frame, then the records.
    bytes: Vec<u8>,
    writes: Vec<Write>,
    acks: Vec<Ack>,
    /// How much of the queue's room it takes.
    room: usize,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Queue { revision, flushing, failed, .. } = self;
        write!(f, "Queue(revision {revision}, flushing {flushing}, failed {failed:?})")
    }
}

impl Durable {
    pub(super) fn new(
        memory: Arc<Memory>,
        disk: Arc<dyn Disk>,
        log: Log,
        lock: Option<DirLock>,
    ) -> Self {
        let queue = Queue { revision: memory.revision(), ..Queue::default() };
        Durable {
            memory,
            disk,
            queue: Mutex::new(queue),
            room: Semaphore::new(QUEUE_BYTES_MAX),
            spare: log.spare().clone(),
            log: Mutex::new(log),
            idle: Notify::new(),
            lock: Mutex::new(lock),
        }
    }

    pub(super) async fn put(
        self: &Arc<Self>,
        key: &str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        let bytes = record::encoded_bytes(key, value.len());
        let (revision, _) = self.write(key, bytes, Change::Put { value, ttl }, expect).await?;
        Ok(revision)
    }

    pub(super) async fn delete(
        self: &Arc<Self>,
        key: &str,
        expect: Expect,
    ) -> Result<(Revision, Versioned), StoreError> {
        let bytes = record::encoded_bytes(key, 0);
        let (revision, previous) = self.write(key, bytes, Change::Delete, expect).await?;
        let previous = previous.ok_or_else(|| conflict(key, None))?;
        Ok((revision, previous))
    }

    async fn write(
        self: &Arc<Self>,
        key: &str,
        bytes: usize,
        change: Change,
        expect: Expect,
    ) -> Result<(Revision, Option<Versioned>), StoreError> {
        let room = bytes.min(QUEUE_BYTES_MAX);
        let permit = match self.room.try_acquire_many(room as u32) {
            Ok(permit) => permit,
            Err(_) => self.room.acquire_many(room as u32).await.map_err(|_| closed())?,
        };
        let (outcome, durable) = {
            let mut queue = self.queue.lock();
            self.memory.check_open()?;
            if let Some(reason) = &queue.failed {
                return Err(StoreError::Unavailable { reason: reason.clone() });
            }
            let outcome = queue.add(&self.memory, key, change, expect);
            let wait = match &outcome {
                Ok(_) => {
                    // Given back when the batch is flushed.
                    permit.forget();
                    queue.open.room += room;
                    true
                }
                // Built on what is not durable yet.
                Err(_) => queue.pending.contains_key(key),
            };
            if !wait {
                return outcome;
            }
            let (ack, durable) = oneshot::channel();
            queue.open.acks.push(ack);
            if !mem::replace(&mut queue.flushing, true) {
                drop(queue);
                Job::start(self, Self::flush);
            }
            (outcome, durable)
        };
        durable.await.map_err(|_| closed())??;
        outcome
    }
}

impl Queue {
    /// Checks a write and takes it in. Returns its revision and what the key held before.
    fn add(
        &mut self,
        memory: &Memory,
        key: &str,
        change: Change,
        expect: Expect,
    ) -> Result<(Revision, Option<Versioned>), StoreError> {
        let found = match self.pending.get_key_value(key) {
            Some((_, (_, item))) => item.clone(),
            None => memory.read().tree.get(key).map(|entry| entry.item.clone()),
        };
        check(key, found.as_ref(), expect)?;
        if found.is_none() && change == Change::Delete {
            return Err(conflict(key, None));
        }
        self.revision += 1;
        let revision = Revision(self.revision);
        let key = found.as_ref().map_or_else(|| key.into(), |found| found.key.clone());
        let item = match &change {
            Change::Put { value, .. } => Some(Versioned {
                key: Arc::clone(&key),
                value: value.clone(),
                created: found.as_ref().map_or(revision, |found| found.created),
                modified: revision,
            }),
            Change::Delete => None,
        };
        self.pending.insert(Arc::clone(&key), (revision.0, item));
        let write = Write { key, revision: revision.0, change };
        if self.open.bytes.is_empty() {
            self.open.bytes.resize(FRAME_BYTES, 0);
        }
        record::encode(&mut self.open.bytes, &write, 0);
        self.open.writes.push(write);
        Ok((revision, found))
    }

    /// The writes of `batch` are committed: what they left in the keys is in the memory now.
    fn settle(&mut self, batch: &Batch) {
        for write in &batch.writes {
            if self.pending.get(&write.key).is_some_and(|(last, _)| *last == write.revision) {
                self.pending.remove(&write.key);
            }
        }
    }
}

impl Durable {
    /// Flushes until nothing is queued.
    fn flush(this: Arc<Self>) {
        let mut done = Batch::default();
        let mut result = Ok(());
        loop {
            let next = {
                let mut queue = this.queue.lock();
                if queue.open.acks.is_empty() {
                    queue.flushing = false;
                    None
                } else {
                    Some(mem::take(&mut queue.open))
                }
            };
            let Some(batch) = next else { break };
            done.answer(&result);
            this.reuse(mem::replace(&mut done, batch));
            result = this.commit(&mut done);
            this.room.add_permits(mem::take(&mut done.room));
        }
        this.idle.notify_waiters();
        // Let go first: who has all answers may drop the store and expect its lock to be free.
        drop(this);
        done.answer(&result);
    }

    /// Makes a batch durable, then visible.
    fn commit(self: &Arc<Self>, batch: &mut Batch) -> Result<(), StoreError> {
        if let Some(reason) = &self.queue.lock().failed {
            return Err(StoreError::Unavailable { reason: reason.clone() });
        }
        if batch.writes.is_empty() {
            return Ok(());
        }
        let (snapshot, spare) = {
            let mut log = self.log.lock();
            if let Err(error) = log.append(&mut batch.bytes, batch.writes.len()) {
                return Err(self.fail(&error));
            }
            (log.wants_snapshot(), log.wants_spare())
        };
        for writes in batch.writes.chunks(APPLY_WRITES_MAX) {
            self.memory.commit(self.memory.write(), writes);
        }
        self.queue.lock().settle(batch);
        if snapshot {
            self.in_background(Self::snapshot);
        }
        if spare {
            self.in_background(|this| this.spare.make());
        }
        Ok(())
    }

    /// Ends all writing. What is in the memory stays readable: it is durable.
    fn fail(&self, error: &io::Error) -> StoreError {
        let reason = format!(
            "the log could not be written ({error}), so the store is read-only now: make room or \
             mend the disk, and open it again"
        );
        tracing::error!(%error, "the log could not be written: the store is read-only now");
        let mut queue = self.queue.lock();
        queue.failed = Some(reason.clone());
        queue.pending.clear();
        StoreError::Unavailable { reason }
    }

    /// Keeps the memory of a batch for the next, unless it is much.
    fn reuse(&self, mut batch: Batch) {
        if batch.bytes.capacity() > REUSED_BYTES_MAX {
            return;
        }
        batch.bytes.clear();
        batch.writes.clear();
        let mut queue = self.queue.lock();
        if queue.open.acks.is_empty() {
            queue.open = batch;
        }
    }
}

impl Batch {
    /// Answers everybody who waits for this batch.
    fn answer(&mut self, result: &Result<(), StoreError>) {
        for ack in self.acks.drain(..) {
            // Who does not wait any more does not get an answer.
            let _ = ack.send(result.clone());
        }
    }
}

impl Durable {
    fn in_background(self: &Arc<Self>, work: fn(&Self) -> io::Result<()>) {
        self.queue.lock().background += 1;
        Job::start(self, move |this| {
            if let Err(error) = work(&this)
                && error.kind() != io::ErrorKind::Interrupted
            {
                // The log has everything, so this only costs space, and time at the next start.
                tracing::warn!(%error, "a file beside the log could not be written");
            }
            this.queue.lock().background -= 1;
            this.idle.notify_waiters();
        });
    }

    /// Saves the state, and gives up the part of the log that it stands for.
    fn snapshot(&self) -> io::Result<()> {
        let (tree, revision) = self.memory.snapshot();
        let name = snapshot_name(revision);
        let cancelled = || self.memory.check_open().is_err();
        let bytes = snapshot::save(&*self.disk, &name, &tree, revision, cancelled);
        let unneeded = match &bytes {
            Ok(bytes) => self.log.lock().covered(revision, *bytes),
            Err(_) => {
                self.log.lock().snapshot_failed();
                Vec::new()
            }
        };
        bytes?;
        for name in self.disk.list()? {
            if snapshot_revision(&name).is_some_and(|older| older < revision) {
                self.disk.remove(&name)?;
            }
        }
        for name in unneeded {
            self.spare.recycle(&name)?;
        }
        self.disk.sync()
    }

    /// Waits until nothing is being written, then lets go of the directory.
    pub(super) async fn close(&self) {
        loop {
            let idle = self.idle.notified();
            {
                let queue = self.queue.lock();
                if !queue.flushing && queue.background == 0 {
                    break;
                }
            }
            idle.await;
        }
        self.lock.lock().take();
    }
}

/// Work that blocks. It is done even if the runtime that should do it is shut down.
struct Job<F: FnOnce(Arc<Durable>)>(Option<(Arc<Durable>, F)>);

impl<F: FnOnce(Arc<Durable>) + Send + 'static> Job<F> {
    fn start(durable: &Arc<Durable>, work: F) {
        let job = Job(Some((Arc::clone(durable), work)));
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(move || drop(job));
        }
    }
}

impl<F: FnOnce(Arc<Durable>)> Drop for Job<F> {
    fn drop(&mut self) {
        if let Some((durable, work)) = self.0.take() {
            work(durable);
        }
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable { reason: "the store was closed".into() }
}

#[cfg(test)]
mod tests;
