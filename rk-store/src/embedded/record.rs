//! One write, or one key with its value, as bytes.
//!
//! All numbers are little-endian. A record is 40 bytes, the key, the value and zeros up to a
//! multiple of 8:
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | CRC-32 of the rest of the record, padding included |
//! | 4..8 | length of the key |
//! | 8..12 | length of the value |
//! | 12 | 1: put, 2: delete |
//! | 13..16 | zero |
//! | 16..24 | revision of the write |
//! | 24..32 | time to live in milliseconds, rounded up; 0: none |
//! | 32..40 | revision that created the key; 0 in a log, where it follows from what came before |

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::memory::{Change, Write};

/// The part before the key.
pub(super) const RECORD_HEADER_BYTES: usize = 40;

const PUT: u8 = 1;
const DELETE: u8 = 2;

/// A record, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) write: Write,
    /// See the table.
    pub(super) created: u64,
}

/// How many bytes a record takes.
pub(super) fn encoded_bytes(key: &str, value_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + key.len() + value_bytes).next_multiple_of(8)
}

/// Appends a record to `out`.
pub(super) fn encode(out: &mut Vec<u8>, write: &Write, created: u64) {
    let (kind, value, ttl_ms): (u8, &[u8], u64) = match &write.change {
        Change::Put { value, ttl } => (PUT, value, ttl.map_or(0, millis)),
        Change::Delete => (DELETE, &[], 0),
    };
    let start = out.len();
    out.reserve(encoded_bytes(&write.key, value.len()));
    out.extend([0; 4]);
    // Keys and values are far shorter than this: what is too large was refused before.
    out.extend((write.key.len() as u32).to_le_bytes());
    out.extend((value.len() as u32).to_le_bytes());
    out.extend([kind, 0, 0, 0]);
    out.extend(write.revision.to_le_bytes());
    out.extend(ttl_ms.to_le_bytes());
    out.extend(created.to_le_bytes());
    out.extend(write.key.as_bytes());
    out.extend(value);
    out.resize(start + (out.len() - start).next_multiple_of(8), 0);
    let crc = crc32fast::hash(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

fn millis(ttl: Duration) -> u64 {
    // At least 1, because 0 says that there is none.
    u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1)
}

/// How long the record at the start of `bytes` claims to be. `None` when that is more than there is.
pub(super) fn claimed_bytes(bytes: &[u8]) -> Option<usize> {
    let key = u32_at(bytes, 4)? as usize;
    let value = u32_at(bytes, 8)? as usize;
    RECORD_HEADER_BYTES.checked_add(key)?.checked_add(value)?.checked_next_multiple_of(8)
}

/// Decodes the record at the start of `bytes`, and says how long it is.
pub(super) fn decode(bytes: &[u8]) -> Result<(Record, usize), &'static str> {
    let length = claimed_bytes(bytes).ok_or("a record is cut off")?;
    let bytes = bytes.get(..length).ok_or("a record is cut off")?;
    if u32_at(bytes, 0) != Some(crc32fast::hash(&bytes[4..])) {
        return Err("a record does not match its checksum");
    }
    // The checksum holds, so what follows only fails for a record that we did not write.
    let odd = "a record has the right checksum but no known form";
    let key_end = RECORD_HEADER_BYTES + u32_at(bytes, 4).ok_or(odd)? as usize;
    let value_end = key_end + u32_at(bytes, 8).ok_or(odd)? as usize;
    let key = std::str::from_utf8(bytes.get(RECORD_HEADER_BYTES..key_end).ok_or(odd)?);
    let key: Arc<str> = key.map_err(|_| odd)?.into();
    let value = bytes.get(key_end..value_end).ok_or(odd)?;
    let ttl_ms = u64_at(bytes, 24).ok_or(odd)?;
    let change = match bytes[12] {
        PUT => Change::Put {
            // Copied, because a slice would keep all of the file in memory.
            value: Bytes::copy_from_slice(value),
            ttl: (ttl_ms > 0).then(|| Duration::from_millis(ttl_ms)),
        },
        DELETE if value.is_empty() => Change::Delete,
        _ => return Err(odd),
    };
    let revision = u64_at(bytes, 16).ok_or(odd)?;
    let created = u64_at(bytes, 32).ok_or(odd)?;
    Ok((Record { write: Write { key, revision, change }, created }, length))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}
