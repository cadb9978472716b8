//! What reads files that may hold anything, for fuzzers and tests. Not part of the interface.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    memory::{Change, Write},
    record,
    segment::{self, FRAME_BYTES, HEADER_BYTES, Header, Scan},
};

/// Reads `bytes` as a segment of a log. Panics only if the reader breaks a promise.
///
/// True if the segment is in order.
pub fn segment(bytes: &[u8]) -> bool {
    match segment::scan(bytes) {
        Ok(scan) => {
            check(&scan, bytes);
            true
        }
        Err(damage) => {
            assert!(damage.offset <= bytes.len() as u64, "damage is inside of the file");
            false
        }
    }
}

/// Makes a segment from the first half of `script`, damages it as the second half says, and reads
/// it. Panics if the damage makes the reader return anything that was not written.
///
/// True if the damage was noticed, or made no difference because it is none.
pub fn damaged_segment(script: &[u8]) -> bool {
    let (making, damaging) = script.split_at(script.len() / 2);
    let (file, written) = make(making);
    let intact = segment::scan(&file).expect("what was written can be read");
    assert_eq!((&intact.writes, &intact.torn), (&written, &None));

    let mut damaged = file.clone();
    for change in damaging.chunks_exact(4) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % damaged.len();
        match change[2] % 4 {
            0 => damaged[at] ^= change[3],
            1 => damaged[at] = change[3],
            2 => {
                let end = damaged.len().min(at + 2 * usize::from(change[3]));
                damaged[at..end].fill(0);
            }
            // Something from elsewhere in the file.
            _ => {
                let length = 32.min(damaged.len() - at);
                let from = (usize::from(change[3]) * 32) % (damaged.len() - length + 1);
                damaged.copy_within(from..from + length, at);
            }
        }
    }
    match segment::scan(&damaged) {
        Ok(scan) => {
            check(&scan, &damaged);
            let found = &scan.writes;
            assert!(written.starts_with(found), "{found:?} was never written");
            // All is there, or the end is gone together with every trace of it.
            found.len() == written.len() || scan.torn.is_some()
        }
        Err(_) => true,
    }
}

fn check(scan: &Scan, bytes: &[u8]) {
    assert!(scan.end <= bytes.len(), "the end is inside of the file");
    assert!(scan.unmarked.iter().chain(&scan.torn).all(|range| range.end <= bytes.len()));
    let revisions = scan.writes.iter().map(|write| write.revision);
    assert!(revisions.eq((scan.header.first_revision..).take(scan.writes.len())));
}

/// Batches of writes, each as `script` says, in a segment of the size that they need.
fn make(script: &[u8]) -> (Vec<u8>, Vec<Write>) {
    let number = u64::from(script.first().copied().unwrap_or(1));
    let mut batches = Vec::new();
    let mut written: Vec<Write> = Vec::new();
    let mut position = HEADER_BYTES;
    for batch in script.chunks(6).take(40) {
        let mut bytes = vec![0; FRAME_BYTES];
        for &choice in batch {
            let revision = 1 + written.len() as u64;
            let value = || Bytes::from(vec![choice; usize::from(choice) * 2]);
            let change = match choice % 3 {
                0 => Change::Delete,
                _ => Change::Put { value: value(), ttl: None },
            };
            let key = Arc::from(format!("/{}", choice % 16));
            let write = Write { key, revision, change };
            record::encode(&mut bytes, &write, 0);
            written.push(write);
        }
        let first = 1 + (written.len() - batch.len()) as u64;
        segment::finish_batch(&mut bytes, batch.len(), first, number, position as u64);
        position += bytes.len();
        bytes.extend(segment::mark(written.len() as u64, number, position as u64));
        position += FRAME_BYTES;
        batches.push(bytes);
    }
    let size = (position + FRAME_BYTES).next_multiple_of(4096);
    let header = Header { number, first_revision: 1, size: size as u64 };
    let mut file = header.encode().to_vec();
    batches.iter().for_each(|batch| file.extend(batch));
    file.resize(size, 0);
    (file, written)
}
