//! Writing the log: batches into segments, one segment after another.

use std::{collections::VecDeque, io, sync::Arc};

use parking_lot::Mutex;

use super::{
    disk::{Disk, DiskFile},
    segment::{self, FRAME_BYTES, HEADER_BYTES, Header},
};

/// A segment that is ready for use, all zeros.
const SPARE: &str = "spare.log";

/// The file of a segment.
pub(super) fn segment_name(number: u64) -> String {
    format!("wal-{number:020}.log")
}

/// The number of the segment in a file, if it is one.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    name.strip_prefix("wal-")?.strip_suffix(".log")?.parse().ok()
}

/// Whether there is a [`SPARE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SpareState {
    Missing,
    /// Somebody writes its zeros.
    InTheMaking,
    Ready,
}

/// Makes zero-filled files ahead of need, so that no write has to wait for one.
///
/// Zeros are written and not just allocated: on most file systems the first write to an allocated
/// block has to be journalled, and would make each flush slower.
#[derive(Debug)]
pub(super) struct Spare {
    disk: Arc<dyn Disk>,
    size: u64,
    state: Mutex<SpareState>,
}

impl Spare {
    pub(super) fn new(disk: Arc<dyn Disk>, size: u64) -> Self {
        // One left from an earlier run counts if it has the right size; what is in it was durable
        // before it got its name.
        let ready = disk.open(SPARE).and_then(|file| file.len()).is_ok_and(|length| length == size);
        let state = if ready { SpareState::Ready } else { SpareState::Missing };
        Spare { disk, size, state: Mutex::new(state) }
    }

    pub(super) fn is_missing(&self) -> bool {
        *self.state.lock() == SpareState::Missing
    }

    /// Makes a spare unless there is one.
    pub(super) fn make(&self) -> io::Result<()> {
        self.make_of(None)
    }

    /// Makes a spare of the file `old` if one is missing, else removes the file.
    pub(super) fn recycle(&self, old: &str) -> io::Result<()> {
        // Some segments are larger, because a batch was.
        if self.is_missing() && self.disk.open(old)?.len()? == self.size {
            self.make_of(Some(old))
        } else {
            self.disk.remove(old)
        }
    }

    fn make_of(&self, old: Option<&str>) -> io::Result<()> {
        {
            let mut state = self.state.lock();
            if *state != SpareState::Missing {
                return old.map_or(Ok(()), |old| self.disk.remove(old));
            }
            *state = SpareState::InTheMaking;
        }
        let made = self.fill(old);
        *self.state.lock() = if made.is_ok() { SpareState::Ready } else { SpareState::Missing };
        made
    }

    fn fill(&self, old: Option<&str>) -> io::Result<()> {
        let unfinished = "spare.tmp";
        // Overwriting a file that is there leaves its blocks where they are.
        let file = match old {
            Some(old) => {
                self.disk.rename(old, unfinished)?;
                self.disk.open(unfinished)?
            }
            None => self.disk.create(unfinished)?,
        };
        let filled = file.write_zeros(0, self.size).and_then(|()| file.sync());
        let made = filled.and_then(|()| self.disk.rename(unfinished, SPARE));
        if made.is_err() {
            // What is left would only take up space; opening the store removes it as well.
            let _ = self.disk.remove(unfinished);
        }
        made
    }

    /// A new segment's file: the spare if there is one that fits, else made here and now.
    fn segment(&self, header: &Header) -> io::Result<Arc<dyn DiskFile>> {
        let unfinished = "segment.tmp";
        let made = (|| {
            let file = if header.size == self.size && self.take(unfinished)? {
                self.disk.open(unfinished)?
            } else {
                let file = self.disk.create(unfinished)?;
                file.write_zeros(HEADER_BYTES as u64, header.size)?;
                file
            };
            file.write_all_at(&header.encode(), 0)?;
            file.sync()?;
            self.disk.rename(unfinished, &segment_name(header.number))?;
            self.disk.sync()?;
            Ok(file)
        })();
        if made.is_err() {
            let _ = self.disk.remove(unfinished);
        }
        made
    }

    /// Moves the spare to `name`, if there is one.
    fn take(&self, name: &str) -> io::Result<bool> {
        let mut state = self.state.lock();
        if *state != SpareState::Ready {
            return Ok(false);
        }
        // Under the lock: as soon as the spare counts as missing, the next may take its name.
        self.disk.rename(SPARE, name)?;
        *state = SpareState::Missing;
        Ok(true)
    }
}

/// The segment in use, and how far.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) size: u64,
    /// Where the next batch goes.
    pub(super) position: u64,
    /// The last write in the log.
    pub(super) revision: u64,
}

/// The log, open for writing.
#[derive(Debug)]
pub(super) struct Log {
    spare: Arc<Spare>,
    /// All segments, each by number and first revision; the last is the one in use.
    segments: VecDeque<(u64, u64)>,
    tail: Tail,
    /// How much was written since the last snapshot, roughly.
    bytes: u64,
    /// How much of it makes a snapshot worth while.
    snapshot_due_bytes: u64,
    /// The least that `snapshot_due_bytes` is.
    snapshot_bytes: u64,
    /// Whether a spare was asked for since this segment was begun.
    spare_asked: bool,
}

impl Log {
    /// A log that begins with the write after `revision`.
    pub(super) fn begin(
        spare: Arc<Spare>,
        number: u64,
        revision: u64,
        snapshot_bytes: u64,
    ) -> io::Result<Log> {
        let header = Header { number, first_revision: revision + 1, size: spare.size };
        let file = spare.segment(&header)?;
        let tail = Tail { file, size: header.size, position: HEADER_BYTES as u64, revision };
        Ok(Log::resume(spare, [(number, revision + 1)].into(), tail, 0, snapshot_bytes))
    }

    /// The log of `segments`, the last of which is the one of `tail`.
    pub(super) fn resume(
        spare: Arc<Spare>,
        segments: VecDeque<(u64, u64)>,
        tail: Tail,
        bytes: u64,
        snapshot_bytes: u64,
    ) -> Log {
        Log {
            spare,
            segments,
            tail,
            bytes,
            snapshot_due_bytes: snapshot_bytes,
            snapshot_bytes,
            spare_asked: false,
        }
    }

    pub(super) fn spare(&self) -> &Arc<Spare> {
        &self.spare
    }

    /// Whether it is time for a snapshot. Says so once per time.
    pub(super) fn wants_snapshot(&mut self) -> bool {
        let due = self.bytes > self.snapshot_due_bytes;
        if due {
            self.snapshot_due_bytes = u64::MAX;
        }
        due
    }

    /// Whether the segment is half full and nothing is there to follow it. Says so once.
    pub(super) fn wants_spare(&mut self) -> bool {
        let half = self.tail.position > self.tail.size / 2;
        let wanted = half && !self.spare_asked && self.spare.is_missing();
        self.spare_asked |= wanted;
        wanted
    }

    /// No snapshot was possible: the log has to grow as much again before the next attempt.
    pub(super) fn snapshot_failed(&mut self) {
        self.snapshot_due_bytes = self.bytes + self.snapshot_bytes;
    }

    fn number(&self) -> u64 {
        self.segments.back().map_or(0, |&(number, _)| number)
    }

    /// Writes a batch: room for a frame, then `records` records. Once this returns it is durable.
    ///
    /// After an error the log must not be used any more. In particular no flush is tried again:
    /// the system may have dropped what it could not write, and would report success.
    pub(super) fn append(&mut self, batch: &mut Vec<u8>, records: usize) -> io::Result<()> {
        let extent = segment::batch_extent(batch.len() - FRAME_BYTES) as u64;
        // The seal must always find room.
        if self.tail.position + extent + FRAME_BYTES as u64 > self.tail.size {
            self.roll(extent)?;
        }
        let number = self.number();
        let Tail { file, position, revision, .. } = &mut self.tail;
        segment::finish_batch(batch, records, *revision + 1, number, *position);
        file.write_all_at(batch, *position)?;
        file.sync()?;
        *revision += records as u64;
        *position += extent;
        let slot = *position - FRAME_BYTES as u64;
        file.write_all_at(&segment::mark(*revision, number, slot), slot)?;
        self.bytes += extent;
        Ok(())
    }

    fn roll(&mut self, extent: u64) -> io::Result<()> {
        let needed = HEADER_BYTES as u64 + extent + FRAME_BYTES as u64;
        let size = self.spare.size.max(needed);
        let revision = self.tail.revision;
        let (number, first_revision) = (self.number() + 1, revision + 1);
        let file = self.spare.segment(&Header { number, first_revision, size })?;
        // Only now: a seal without a next segment is how a lost segment is recognised.
        seal(&*self.tail.file, revision, number - 1, self.tail.position)?;
        self.segments.push_back((number, first_revision));
        self.tail = Tail { file, size, position: HEADER_BYTES as u64, revision };
        self.spare_asked = false;
        Ok(())
    }

    /// A snapshot at `revision` exists: gives up the segments that are no longer needed.
    ///
    /// The next one is due when the log is as large as this one: then no more is written to
    /// snapshots than to the log, however large the state is.
    pub(super) fn covered(&mut self, revision: u64, snapshot_bytes: u64) -> Vec<String> {
        self.snapshot_due_bytes = self.snapshot_bytes.max(snapshot_bytes);
        self.bytes = self.tail.position;
        let mut unneeded = Vec::new();
        while let Some(&(_, first_of_next)) = self.segments.get(1)
            && first_of_next <= revision + 1
        {
            unneeded.extend(self.segments.pop_front().map(|(number, _)| segment_name(number)));
        }
        unneeded
    }
}

/// Closes a segment that ends with `revision`.
pub(super) fn seal(
    file: &dyn DiskFile,
    revision: u64,
    number: u64,
    position: u64,
) -> io::Result<()> {
    file.write_all_at(&segment::seal(revision, number, position), position)?;
    file.sync()
}
