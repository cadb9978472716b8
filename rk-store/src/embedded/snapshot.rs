//! The whole state as a file: what a store starts from, and what a backup is.
//!
//! A header of 64 bytes (`rkstsnp1`, revision, number of keys, zeros, CRC-32 of all that), then a
//! [record](super::record) per key, in ascending order. Nothing follows.

use std::{
    io::{self, ErrorKind},
    ops::ControlFlow,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    disk::{Disk, DiskFile},
    memory::{Change, Write, deadline},
    record::{self, RECORD_HEADER_BYTES, u32_at, u64_at},
    tree::{Entry, Lease, Tree},
};
use crate::{Revision, StoreError, Versioned};

const MAGIC: &[u8; 8] = b"rkstsnp1";
const HEADER_BYTES: usize = 64;
/// Files are read and written in pieces of about this size.
const PIECE_BYTES: usize = 1 << 20;

/// The file of the snapshot at `revision`.
pub(super) fn snapshot_name(revision: u64) -> String {
    format!("snapshot-{revision:020}.snap")
}

/// The revision of the snapshot in a file, if it is one.
pub(super) fn snapshot_revision(name: &str) -> Option<u64> {
    name.strip_prefix("snapshot-")?.strip_suffix(".snap")?.parse().ok()
}

/// Writes `tree`, as of `revision`, to a file that appears complete and durable or not at all.
/// Returns its size.
///
/// Ends early, with [`ErrorKind::Interrupted`], when `cancelled` says so.
pub(super) fn save(
    disk: &dyn Disk,
    name: &str,
    tree: &Tree,
    revision: u64,
    cancelled: impl Fn() -> bool,
) -> io::Result<u64> {
    let unfinished = format!("{name}.tmp");
    let saved = (|| {
        let file = disk.create(&unfinished)?;
        let bytes = write(&*file, tree, revision, cancelled)?;
        file.sync()?;
        disk.rename(&unfinished, name)?;
        disk.sync()?;
        Ok(bytes)
    })();
    if saved.is_err() {
        let _ = disk.remove(&unfinished);
    }
    saved
}

fn write(
    file: &dyn DiskFile,
    tree: &Tree,
    revision: u64,
    cancelled: impl Fn() -> bool,
) -> io::Result<u64> {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&revision.to_le_bytes());
    header[16..24].copy_from_slice(&(tree.len() as u64).to_le_bytes());
    let crc = crc32fast::hash(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());

    let mut piece = header.to_vec();
    let mut offset = 0;
    let mut result = Ok(());
    tree.visit_from("", |entry| {
        let item = &entry.item;
        let ttl = entry.lease.as_ref().map(|lease| lease.ttl);
        let change = Change::Put { value: item.value.clone(), ttl };
        let write = Write { key: item.key.clone(), revision: item.modified.0, change };
        record::encode(&mut piece, &write, item.created.0);
        if piece.len() >= PIECE_BYTES {
            result = if cancelled() {
                Err(ErrorKind::Interrupted.into())
            } else {
                file.write_all_at(&piece, offset)
            };
            offset += piece.len() as u64;
            piece.clear();
        }
        if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    result?;
    file.write_all_at(&piece, offset)?;
    Ok(offset + piece.len() as u64)
}

/// Reads a snapshot: the state, and as of when.
pub(super) fn load(disk: &dyn Disk, name: &str) -> Result<(Tree, u64), StoreError> {
    let file = disk.open(name).map_err(|error| unreadable(name, &error))?;
    let mut reader = Reader { name, file: &*file, buffer: Vec::new(), used: 0, offset: 0 };
    let header = reader.take(HEADER_BYTES)?;
    let intact =
        header.starts_with(MAGIC) && u32_at(header, 60) == Some(crc32fast::hash(&header[..60]));
    let (Some(revision), Some(count), true) = (u64_at(header, 8), u64_at(header, 16), intact)
    else {
        return Err(corrupt(name, 0, "the snapshot's header is not one"));
    };
    reader.skip(HEADER_BYTES);

    let mut tree = Tree::default();
    let mut last: Option<std::sync::Arc<str>> = None;
    let now = Instant::now();
    for _ in 0..count {
        let header = reader.take(RECORD_HEADER_BYTES)?;
        let length = record::claimed_bytes(header).unwrap_or(usize::MAX);
        let at = reader.offset;
        let decoded = record::decode(reader.take(length)?);
        let (record, length) = decoded.map_err(|what| corrupt(name, at, what))?;
        let entry = entry(record, now).filter(|entry| {
            entry.item.modified.0 <= revision && last.as_ref() < Some(&entry.item.key)
        });
        let entry = entry.ok_or_else(|| corrupt(name, at, "a key is where it cannot be"))?;
        last = Some(entry.item.key.clone());
        tree.insert(entry);
        reader.skip(length);
    }
    match reader.fill(1)? {
        0 => Ok((tree, revision)),
        _ => Err(corrupt(name, reader.offset, "the snapshot goes on after its last key")),
    }
}

fn entry(record: record::Record, now: Instant) -> Option<Entry> {
    let Change::Put { value, ttl } = record.write.change else { return None };
    let lease = |ttl: Duration| Box::new(Lease { ttl, deadline: deadline(now, ttl) });
    let item = Versioned {
        key: record.write.key,
        value,
        created: Revision(record.created),
        modified: Revision(record.write.revision),
    };
    Some(Entry { item, lease: ttl.map(lease) })
}

/// Reads a file in pieces, and lets records be taken that lie across them.
struct Reader<'a> {
    name: &'a str,
    file: &'a dyn DiskFile,
    buffer: Vec<u8>,
    /// How much of `buffer` is used up.
    used: usize,
    /// Where in the file the unused part begins.
    offset: u64,
}

impl Reader<'_> {
    /// Reads on until `wanted` bytes are there or the file ends; how many there are.
    fn fill(&mut self, wanted: usize) -> Result<usize, StoreError> {
        if self.buffer.len() - self.used < wanted {
            self.buffer.drain(..self.used);
            self.used = 0;
            let length = self.file.len().map_err(|error| unreadable(self.name, &error))?;
            // No more than the file has: a damaged length must not make us reserve gigabytes.
            let left = usize::try_from(length.saturating_sub(self.offset)).unwrap_or(usize::MAX);
            let known = self.buffer.len();
            self.buffer.resize(wanted.max(PIECE_BYTES).min(left).max(known), 0);
            let at = self.offset + known as u64;
            let read = self.file.read_full_at(&mut self.buffer[known..], at);
            let read = read.map_err(|error| unreadable(self.name, &error))?;
            self.buffer.truncate(known + read);
        }
        Ok(self.buffer.len() - self.used)
    }

    fn take(&mut self, wanted: usize) -> Result<&[u8], StoreError> {
        if self.fill(wanted)? < wanted {
            return Err(corrupt(self.name, self.offset, "the snapshot is cut off"));
        }
        Ok(&self.buffer[self.used..self.used + wanted])
    }

    fn skip(&mut self, length: usize) {
        self.offset += length as u64;
        self.used += length;
    }
}

pub(super) fn corrupt(name: &str, offset: u64, what: &str) -> StoreError {
    let detail = format!(
        "{what}; nothing was changed: bring the file back from a copy of the directory, or restore \
         a backup into an empty one"
    );
    StoreError::Corrupt { file: name.into(), offset, detail }
}

pub(super) fn unreadable(name: &str, error: &io::Error) -> StoreError {
    StoreError::Unavailable { reason: format!("{name}: {error}") }
}
