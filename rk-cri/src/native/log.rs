//! A container's log in CRI's format: `<time> <stream> <P|F> <text>`, one line of output each, or a
//! part of one (`P`) when the line is long or does not end.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

use k8s_openapi::jiff::Timestamp;

/// The longest part of a line in one entry, as with containerd.
const PART_BYTES_MAX: usize = 16 << 10;

/// Which of its two outputs a container wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Cuts one stream into entries.
#[derive(Debug)]
pub(super) struct Entries {
    stream: Stream,
    /// The line under way, shorter than a part.
    pending: Vec<u8>,
}

impl Entries {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// Appends to `log` the entries that `output` completes.
    pub(super) fn add(&mut self, output: &[u8], now: Timestamp, log: &mut Vec<u8>) {
        for piece in output.split_inclusive(|byte| *byte == b'\n') {
            self.pending.extend_from_slice(piece);
            while self.pending.len() > PART_BYTES_MAX && self.pending[PART_BYTES_MAX..] != *b"\n" {
                let rest = self.pending.split_off(PART_BYTES_MAX);
                let part = std::mem::replace(&mut self.pending, rest);
                self.entry(now, b'P', &part, log);
            }
            if self.pending.last() == Some(&b'\n') {
                self.pending.pop();
                let line = std::mem::take(&mut self.pending);
                self.entry(now, b'F', &line, log);
            }
        }
    }

    /// Appends what is left at the stream's end: a line that did not end is a part.
    pub(super) fn finish(&mut self, now: Timestamp, log: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            let part = std::mem::take(&mut self.pending);
            self.entry(now, b'P', &part, log);
        }
    }

    fn entry(&self, now: Timestamp, tag: u8, text: &[u8], log: &mut Vec<u8>) {
        // Writing to a vector cannot fail.
        let _ = write!(log, "{now:.9} {} {} ", self.stream.name(), tag as char);
        log.extend_from_slice(text);
        log.push(b'\n');
    }
}

/// Opens a log for appending, with its directory.
pub(super) fn open(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::os::unix::fs::OpenOptionsExt::mode(File::options().create(true).append(true), 0o640)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(chunks: &[&str]) -> String {
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        let mut log = Vec::new();
        let mut entries = Entries::new(Stream::Stdout);
        for chunk in chunks {
            entries.add(chunk.as_bytes(), now, &mut log);
        }
        entries.finish(now, &mut log);
        String::from_utf8(log).unwrap().replace("2026-01-02T03:04:05.000000000Z stdout ", "")
    }

    #[test]
    fn a_line_is_one_entry_however_it_arrives() {
        assert_eq!(entries(&["one\ntwo\n"]), "F one\nF two\n");
        assert_eq!(entries(&["o", "ne\nt", "wo\n"]), "F one\nF two\n");
        assert_eq!(entries(&["\n"]), "F \n");
    }

    #[test]
    fn a_line_that_does_not_end_is_a_part() {
        assert_eq!(entries(&["no newline"]), "P no newline\n");
    }

    #[test]
    fn a_long_line_comes_in_parts() {
        let long = "x".repeat(PART_BYTES_MAX);
        assert_eq!(entries(&[&format!("{long}\n")]), format!("F {long}\n"));
        assert_eq!(entries(&[&format!("{long}y\n")]), format!("P {long}\nF y\n"));
        assert_eq!(entries(&[&format!("{long}{long}y")]), format!("P {long}\nP {long}\nP y\n"));
    }
}
