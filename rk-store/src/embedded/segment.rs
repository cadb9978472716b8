//! What a file of the log looks like, and what can be said about one that was found.
//!
//! # Form
//! A segment has a fixed size and is full of zeros before it is used. All numbers are
//! little-endian. It starts with a header of 64 bytes: `rkstlog1`, the segment's number, the
//! revision of its first write, its size, zeros, and the CRC-32 of all that.
//!
//! Then come batches, each of what was made durable by one flush: a frame of 32 bytes, the
//! [records](super::record), zeros up to a multiple of 32, and a slot of 32 bytes for the mark.
//! A frame:
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | `BTCH`, `MARK` or `SEAL` |
//! | 4..8 | batch: number of records |
//! | 8..16 | batch: revision of its first write; mark, seal: revision of the last one before it |
//! | 16..20 | batch: bytes of its records |
//! | 20..24 | low half of the segment's number |
//! | 24..28 | where in the file this frame is |
//! | 28..32 | CRC-32 of the frame |
//!
//! The mark is written after the flush and before any write of the batch is acknowledged; it is
//! not flushed itself. The seal is written, and flushed, after the next segment exists.
//!
//! # Torn or damaged
//! A batch is only written once the one before it is durable, so a crash can leave at most the last
//! batch incomplete, with neither a mark nor anything else behind it. That is a torn tail: nobody
//! was told that those writes happened. A bad batch with a mark, or with anything valid behind it,
//! was complete once, and is damage.
//!
//! One case cannot be told: the power fails right after a batch was acknowledged, before the system
//! wrote its mark to the disk, and later the disk damages that very batch. It looks torn, and is
//! reported as such.
//!
//! Frames and marks are aligned to their size, so a disk that writes 512-byte sectors whole never
//! writes half of one.

use super::{
    memory::Write,
    record::{self, u32_at, u64_at},
};

pub(super) const HEADER_BYTES: usize = 64;
pub(super) const FRAME_BYTES: usize = 32;
/// A segment's offsets fit in 32 bits.
pub(super) const SEGMENT_BYTES_MAX: u64 = u32::MAX as u64 & !4095;

const MAGIC: &[u8; 8] = b"rkstlog1";
const BATCH: &[u8; 4] = b"BTCH";
const MARK: &[u8; 4] = b"MARK";
const SEAL: &[u8; 4] = b"SEAL";

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u64,
    /// The revision of the first write in it.
    pub(super) first_revision: u64,
    /// How long the file is.
    pub(super) size: u64,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_revision.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.size.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Header, Damage> {
        let header = || {
            let crc = crc32fast::hash(bytes.get(..60)?);
            (bytes.starts_with(MAGIC) && u32_at(bytes, 60)? == crc).then_some(())?;
            let (number, first_revision) = (u64_at(bytes, 8)?, u64_at(bytes, 16)?);
            Some(Header { number, first_revision, size: u64_at(bytes, 24)? })
        };
        let damage = || Damage { offset: 0, what: "the segment's header is not one".into() };
        header().filter(|header| header.first_revision > 0).ok_or_else(damage)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Batch,
    Mark,
    Seal,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    kind: Kind,
    records: u32,
    revision: u64,
    body_bytes: u32,
}

impl Frame {
    fn encode(&self, segment: u64, offset: u64) -> [u8; FRAME_BYTES] {
        let mut bytes = [0; FRAME_BYTES];
        bytes[..4].copy_from_slice(match self.kind {
            Kind::Batch => BATCH,
            Kind::Mark => MARK,
            Kind::Seal => SEAL,
        });
        bytes[4..8].copy_from_slice(&self.records.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.revision.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.body_bytes.to_le_bytes());
        // The low halves suffice: segments are smaller than 4 GiB, and numbers only guard against
        // a frame that belongs elsewhere.
        bytes[20..24].copy_from_slice(&(segment as u32).to_le_bytes());
        bytes[24..28].copy_from_slice(&(offset as u32).to_le_bytes());
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The frame at `offset`, if there is one and it belongs there.
    fn decode(file: &[u8], segment: u64, offset: usize) -> Option<Frame> {
        let bytes: &[u8; FRAME_BYTES] = file.get(offset..)?.first_chunk()?;
        let kind = match bytes.first_chunk()? {
            BATCH => Kind::Batch,
            MARK => Kind::Mark,
            SEAL => Kind::Seal,
            _ => return None,
        };
        let own = u32_at(bytes, 28)? == crc32fast::hash(&bytes[..28])
            && u32_at(bytes, 20)? == segment as u32
            && u32_at(bytes, 24)? as usize == offset;
        own.then_some(())?;
        let (records, body_bytes) = (u32_at(bytes, 4)?, u32_at(bytes, 16)?);
        Some(Frame { kind, records, revision: u64_at(bytes, 8)?, body_bytes })
    }
}

/// How much of a segment a batch with records of `body_bytes` takes, mark included.
pub(super) fn batch_extent(body_bytes: usize) -> usize {
    (FRAME_BYTES + body_bytes).next_multiple_of(FRAME_BYTES) + FRAME_BYTES
}

/// Completes a batch: `bytes` are room for the frame and then the records.
pub(super) fn finish_batch(
    bytes: &mut Vec<u8>,
    records: usize,
    first_revision: u64,
    segment: u64,
    offset: u64,
) {
    let body_bytes = (bytes.len() - FRAME_BYTES) as u32;
    let records = records as u32;
    let frame = Frame { kind: Kind::Batch, records, revision: first_revision, body_bytes };
    bytes[..FRAME_BYTES].copy_from_slice(&frame.encode(segment, offset));
    bytes.resize(bytes.len().next_multiple_of(FRAME_BYTES), 0);
}

/// The mark of a batch that ended with `revision`.
pub(super) fn mark(revision: u64, segment: u64, offset: u64) -> [u8; FRAME_BYTES] {
    Frame { kind: Kind::Mark, records: 0, revision, body_bytes: 0 }.encode(segment, offset)
}

/// The end of a segment whose last write is `revision`.
pub(super) fn seal(revision: u64, segment: u64, offset: u64) -> [u8; FRAME_BYTES] {
    Frame { kind: Kind::Seal, records: 0, revision, body_bytes: 0 }.encode(segment, offset)
}

/// What was found in a segment.
#[derive(Clone, Debug)]
pub(super) struct Scan {
    pub(super) header: Header,
    /// The writes, in order and without a gap.
    pub(super) writes: Vec<Write>,
    /// Where the next batch goes, or the seal is.
    pub(super) end: usize,
    /// The segment was closed because the next one took over.
    pub(super) sealed: bool,
    /// Where the last batch is, if it has no mark: it may not be durable.
    pub(super) unmarked: Option<std::ops::Range<usize>>,
    /// Where a batch that was never completed begins, and how far its remains reach.
    pub(super) torn: Option<std::ops::Range<usize>>,
    /// What is torn is the seal.
    pub(super) torn_seal: bool,
}

/// A place that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) offset: u64,
    pub(super) what: String,
}

/// Reads a whole segment.
pub(super) fn scan(file: &[u8]) -> Result<Scan, Damage> {
    let header = Header::decode(file)?;
    if header.size != file.len() as u64 {
        let what = format!("the segment has {} bytes instead of {}", file.len(), header.size);
        return Err(Damage { offset: header.size.min(file.len() as u64), what });
    }
    let mut scan = Scan {
        header,
        writes: Vec::new(),
        end: HEADER_BYTES,
        sealed: false,
        unmarked: None,
        torn: None,
        torn_seal: false,
    };
    while scan.step(file)? {}
    Ok(scan)
}

impl Scan {
    fn next_revision(&self) -> u64 {
        self.header.first_revision + self.writes.len() as u64
    }

    /// Takes in what is at `end`. False when that was the last.
    fn step(&mut self, file: &[u8]) -> Result<bool, Damage> {
        let at = self.end;
        let Some(frame) = Frame::decode(file, self.header.number, at) else {
            self.nothing_valid(file, at)?;
            return Ok(false);
        };
        let next = self.next_revision();
        match frame.kind {
            Kind::Batch if frame.revision == next => self.batch(file, at, &frame),
            Kind::Seal if frame.revision + 1 == next => {
                self.sealed = true;
                self.unmarked = None;
                zeros(file, at + FRAME_BYTES, "after the end of the segment")?;
                Ok(false)
            }
            _ => Err(damage(at, "a frame is not the one that comes next")),
        }
    }

    fn batch(&mut self, file: &[u8], at: usize, frame: &Frame) -> Result<bool, Damage> {
        let body = at + FRAME_BYTES..at + FRAME_BYTES + frame.body_bytes as usize;
        let slot = body.end.next_multiple_of(FRAME_BYTES);
        let Some(bytes) = file.get(body.clone()).filter(|_| slot + FRAME_BYTES <= file.len())
        else {
            return Err(damage(at, "a batch reaches beyond the end of the segment"));
        };
        match records(bytes, frame) {
            Ok(writes) => {
                zeros_in(file, body.end, slot, "in the padding of a batch")?;
                self.writes.extend(writes);
                let last = self.next_revision() - 1;
                let mark = mark(last, self.header.number, slot as u64);
                let found = &file[slot..slot + FRAME_BYTES];
                if !is_begun(found, &mark) {
                    return Err(damage(slot, "the mark of a batch is not one"));
                }
                self.end = slot + FRAME_BYTES;
                self.unmarked = (found != mark).then_some(at..slot);
                Ok(true)
            }
            Err((_, what)) if is_zero(&file[slot..]) => {
                // No mark and nothing behind it: it never became complete.
                tracing::debug!(offset = at, what, "the log ends in an incomplete batch");
                self.torn = Some(at..slot);
                Ok(false)
            }
            Err((offset, what)) => Err(damage(body.start + offset, what)),
        }
    }

    /// Decides what it means that no frame is at `at`.
    fn nothing_valid(&mut self, file: &[u8], at: usize) -> Result<(), Damage> {
        let Some(length) = file[at..].iter().rposition(|&byte| byte != 0) else { return Ok(()) };
        let end = at + length + 1;
        let seal = seal(self.next_revision() - 1, self.header.number, at as u64);
        if length < FRAME_BYTES && is_begun(&file[at..end], &seal[..=length]) {
            self.torn_seal = true;
        }
        // The frame of a torn batch may be missing while some of its records are there, but
        // nothing that was written later.
        for later in (at..end).step_by(FRAME_BYTES) {
            if Frame::decode(file, self.header.number, later).is_some() {
                let what = "no frame is where the next one must be, though there are later ones";
                return Err(damage(at, what));
            }
        }
        self.torn = Some(at..end);
        Ok(())
    }
}

/// The records of a batch, or which of its bytes are bad.
fn records(body: &[u8], frame: &Frame) -> Result<Vec<Write>, (usize, &'static str)> {
    let mut writes = Vec::new();
    let mut at = 0;
    for revision in (frame.revision..).take(frame.records as usize) {
        let (record, length) = record::decode(&body[at..]).map_err(|what| (at, what))?;
        if record.write.revision != revision {
            return Err((at, "a record is not the one that comes next"));
        }
        writes.push(record.write);
        at += length;
    }
    if at != body.len() || writes.is_empty() {
        return Err((at, "a batch has other records than it says"));
    }
    Ok(writes)
}

fn damage(offset: usize, what: &str) -> Damage {
    Damage { offset: offset as u64, what: what.to_owned() }
}

/// Whether `found` is `whole`, or the beginning of it and zeros: a write that was cut short.
fn is_begun(found: &[u8], whole: &[u8]) -> bool {
    let rest = found.iter().zip(whole).position(|(a, b)| a != b).unwrap_or(found.len());
    is_zero(&found[rest..])
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

fn zeros(file: &[u8], from: usize, place: &str) -> Result<(), Damage> {
    zeros_in(file, from.min(file.len()), file.len(), place)
}

fn zeros_in(file: &[u8], from: usize, to: usize, place: &str) -> Result<(), Damage> {
    match file[from..to].iter().position(|&byte| byte != 0) {
        Some(at) => Err(damage(from + at, &format!("there is something {place}"))),
        None => Ok(()),
    }
}
