//! Opening a directory: from files to the state they stand for, or to a precise complaint.

use std::{collections::VecDeque, io, sync::Arc};

use super::{
    disk::{Disk, DiskFile},
    history::Limits,
    log::{self, Log, Spare, segment_name, segment_number},
    memory::Memory,
    segment::{self, HEADER_BYTES, Header, Scan},
    snapshot::{self, corrupt, snapshot_revision, unreadable},
    tree::Tree,
};
use crate::{Revision, StoreError};

/// What opening a durable store found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// The last revision that was there.
    pub revision: Revision,
    /// The revision of the snapshot that it started from; 0 if there was none.
    pub snapshot: Revision,
    /// How many writes were read from the log and applied to it.
    pub replayed: u64,
    /// How many segments the log has.
    pub segments: usize,
    /// What was cut off the end of the log.
    pub torn: Option<TornTail>,
}

/// The remains of a write that a crash interrupted. Nobody was told that it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The file.
    pub file: String,
    /// Where in the file they began.
    pub offset: u64,
    /// How far they reached.
    pub bytes: u64,
}

/// A store as its files say it is.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) memory: Memory,
    pub(super) log: Log,
    pub(super) report: OpenReport,
}

/// Reads the files in `disk` and makes them ready for writing. An empty directory is an empty store.
///
/// Nothing is changed unless all of it is found to be in order.
pub(super) fn recover(
    disk: &Arc<dyn Disk>,
    limits: Limits,
    segment_bytes: u64,
    snapshot_bytes: u64,
) -> Result<Recovered, StoreError> {
    let names = disk.list().map_err(|error| unreadable("the directory", &error))?;
    let newest = names.iter().filter_map(|name| snapshot_revision(name)).max();
    let (tree, base) = match newest {
        Some(revision) => load_snapshot(disk, revision)?,
        None => (Tree::default(), 0),
    };
    let memory = Memory::new(tree, base, limits);
    let needed = needed_segments(&**disk, &names, base)?;
    let mut replay = Replay {
        memory,
        replayed: 0,
        segments: VecDeque::new(),
        bytes: 0,
        end: None,
        unsealed: None,
    };
    for (at, &number) in needed.iter().enumerate() {
        replay.segment(&**disk, number, at + 1 == needed.len())?;
    }
    let Replay { memory, replayed, segments, bytes, end, unsealed } = replay;

    // All is in order: from here on files are changed.
    let failed = |error| unreadable("the log cannot be made ready", &error);
    let first = segments.front().map_or(0, |&(number, _)| number);
    clean_up(&**disk, &names, base, first).map_err(failed)?;
    let mut report = OpenReport {
        revision: Revision(memory.revision()),
        snapshot: Revision(base),
        replayed,
        segments: segments.len().max(1),
        torn: None,
    };
    let spare = Arc::new(Spare::new(disk.clone(), segment_bytes));
    let log = match end {
        None => Log::begin(spare, 1, base, snapshot_bytes).map_err(failed)?,
        Some(end) => {
            if end.revision < base {
                let what =
                    format!("the log ends with revision {}, before its snapshot", end.revision);
                return Err(corrupt(&end.name, end.scan.end as u64, &what));
            }
            if let Some(End { file, scan, revision, .. }) = unsealed {
                let position = scan.end as u64;
                log::seal(&*file, revision, scan.header.number, position).map_err(failed)?;
            }
            report.torn = make_ready(&end).map_err(failed)?;
            let tail = log::Tail {
                file: end.file,
                size: end.scan.header.size,
                position: end.scan.end as u64,
                revision: end.revision,
            };
            Log::resume(spare, segments, tail, bytes, snapshot_bytes)
        }
    };
    Ok(Recovered { memory, log, report })
}

fn load_snapshot(disk: &Arc<dyn Disk>, revision: u64) -> Result<(Tree, u64), StoreError> {
    let name = snapshot::snapshot_name(revision);
    let (tree, found) = snapshot::load(&**disk, &name)?;
    if found != revision {
        return Err(corrupt(&name, 8, &format!("the snapshot is of revision {found}")));
    }
    Ok((tree, revision))
}

/// The numbers of the segments with writes after `base`, without a gap.
fn needed_segments(disk: &dyn Disk, names: &[String], base: u64) -> Result<Vec<u64>, StoreError> {
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    // From the newest back to the one where `base` is or ends.
    let mut needed = VecDeque::new();
    for &number in numbers.iter().rev() {
        let name = segment_name(number);
        if let Some(&next) = needed.front()
            && number + 1 != next
        {
            return Err(corrupt(&segment_name(next - 1), 0, "the segment is missing"));
        }
        needed.push_front(number);
        if read_header(disk, &name, number)?.first_revision <= base + 1 {
            return Ok(needed.into());
        }
    }
    match needed.front() {
        None if base == 0 => Ok(Vec::new()),
        None => Err(corrupt(&segment_name(1), 0, "there is a snapshot but no segment")),
        Some(&first) => {
            let what = format!(
                "the segment is missing, or a snapshot is: the log begins only after revision {base}"
            );
            Err(corrupt(&segment_name(first.saturating_sub(1)), 0, &what))
        }
    }
}

fn read_header(disk: &dyn Disk, name: &str, number: u64) -> Result<Header, StoreError> {
    let mut bytes = [0; HEADER_BYTES];
    let read = disk.open(name).and_then(|file| file.read_full_at(&mut bytes, 0));
    let read = read.map_err(|error| unreadable(name, &error))?;
    let header = Header::decode(&bytes[..read]);
    let header = header.map_err(|damage| corrupt(name, damage.offset, &damage.what))?;
    if header.number != number {
        return Err(corrupt(name, 8, &format!("the file is segment {}", header.number)));
    }
    Ok(header)
}

/// The segments read so far.
struct Replay {
    memory: Memory,
    replayed: u64,
    /// Number and first revision of each.
    segments: VecDeque<(u64, u64)>,
    bytes: u64,
    /// The last of them.
    end: Option<End>,
    /// The one before, if a crash kept it from being sealed.
    unsealed: Option<End>,
}

/// The last segment of a log.
struct End {
    name: String,
    file: Arc<dyn DiskFile>,
    bytes: Vec<u8>,
    /// Without its writes, which are applied.
    scan: Scan,
    /// The last write in it, or before it.
    revision: u64,
}

impl Replay {
    fn segment(&mut self, disk: &dyn Disk, number: u64, last: bool) -> Result<(), StoreError> {
        let name = segment_name(number);
        let file = disk.open(&name).map_err(|error| unreadable(&name, &error))?;
        let bytes = file.read_all().map_err(|error| unreadable(&name, &error))?;
        let scan = segment::scan(&bytes);
        let mut scan = scan.map_err(|damage| corrupt(&name, damage.offset, &damage.what))?;
        let first_revision = scan.header.first_revision;

        if let Some(previous) = self.end.take() {
            if first_revision != previous.revision + 1 {
                let what = format!(
                    "it begins with revision {first_revision}, but the segment before it ends with {}",
                    previous.revision
                );
                return Err(corrupt(&name, 16, &what));
            }
            if !previous.scan.sealed {
                // A crash after this segment was made, before anything was written to it?
                let unused = last && scan.writes.is_empty() && scan.torn.is_none();
                let torn = previous.scan.torn.is_some() && !previous.scan.torn_seal;
                if !unused || torn {
                    let what = "the segment has no proper end, though the next one is in use";
                    return Err(corrupt(&previous.name, previous.scan.end as u64, what));
                }
                self.unsealed = Some(previous);
            }
        }
        if last && scan.sealed {
            return Err(corrupt(&segment_name(number + 1), 0, "the segment is missing"));
        }

        let writes = std::mem::take(&mut scan.writes);
        let known = writes.partition_point(|write| write.revision <= self.memory.revision());
        self.replayed += (writes.len() - known) as u64;
        self.memory.commit(self.memory.write(), &writes[known..]);
        self.segments.push_back((number, first_revision));
        self.bytes += scan.end as u64;
        let revision = first_revision - 1 + writes.len() as u64;
        self.end = Some(End { name, file, bytes, scan, revision });
        Ok(())
    }
}

/// Makes the end of the log durable and clean: only then may anybody see what is in it.
fn make_ready(end: &End) -> io::Result<Option<TornTail>> {
    let End { name, file, bytes, scan, revision } = end;
    let torn = scan.torn.clone().map(|torn| TornTail {
        file: name.clone(),
        offset: torn.start as u64,
        bytes: torn.len() as u64,
    });
    if let Some(torn) = &torn {
        let TornTail { file: name, offset, bytes } = torn;
        tracing::warn!(name, offset, bytes, "cut off the remains of a write that was interrupted");
        file.write_zeros(torn.offset, torn.offset + torn.bytes)?;
    }
    if let Some(batch) = scan.unmarked.clone() {
        // Perhaps its flush failed. Then the system may take the pages for clean although the disk
        // does not have them, and another flush would do nothing: so write them again.
        file.write_all_at(&bytes[batch.clone()], batch.start as u64)?;
        file.sync()?;
        let slot = batch.end as u64;
        file.write_all_at(&segment::mark(*revision, scan.header.number, slot), slot)?;
    }
    file.sync()?;
    Ok(torn)
}

/// Removes what is of no use any more: all files that are unfinished, or older than `base`.
fn clean_up(disk: &dyn Disk, names: &[String], base: u64, first: u64) -> io::Result<()> {
    for name in names {
        let unfinished = name.ends_with(".tmp");
        let old_snapshot = snapshot_revision(name).is_some_and(|revision| revision < base);
        let old_segment = segment_number(name).is_some_and(|number| number < first);
        if unfinished || old_snapshot || old_segment {
            disk.remove(name)?;
        }
    }
    disk.sync()
}
