//! Container logs in CRI's format: reading lines, and choosing those that were asked for.
//!
//! A line is `TIME STREAM TAG TEXT`: RFC 3339 with nanoseconds, `stdout` or `stderr`, `F` for a
//! full line or `P` for a part whose rest follows, and what the program printed.

use k8s_openapi::jiff::Timestamp;

/// Which stream a program printed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was printed.
    pub time: Timestamp,
    /// Where to.
    pub stream: Stream,
    /// The line goes on in the next one of the same stream.
    pub partial: bool,
    /// The text, without the end of line.
    pub text: &'a [u8],
}

impl<'a> Line<'a> {
    /// Reads a line (without its newline); `None` if it is not in the format.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        let stream = match parts.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        // Tags are separated by colons; the first one is what matters, the rest is reserved.
        let partial = match parts.next()?.split(|byte| *byte == b':').next()? {
            b"F" => false,
            b"P" => true,
            _ => return None,
        };
        Some(Self { time, stream, partial, text: parts.next().unwrap_or_default() })
    }
}

/// Which part of a log is wanted: the query of the kubelet's `containerLogs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Only the last so many lines.
    pub tail_lines: Option<usize>,
    /// Only lines since then.
    pub since: Option<Timestamp>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// No more than so many bytes.
    pub limit_bytes: Option<usize>,
    /// Only this stream.
    pub stream: Option<Stream>,
}

/// Turns a log, handed over piece by piece, into what a reader asked for.
#[derive(Debug)]
pub struct LogFilter {
    options: LogOptions,
    /// Bytes left of the limit.
    left: usize,
    /// The last line written was whole, so that the next one begins with a time.
    at_line_start: bool,
}

impl LogFilter {
    /// A filter at the beginning of a log.
    pub fn new(options: LogOptions) -> Self {
        let left = options.limit_bytes.unwrap_or(usize::MAX);
        Self { options, left, at_line_start: true }
    }

    /// Whether the limit is reached, so that nothing more will come out.
    pub fn exhausted(&self) -> bool {
        self.left == 0
    }

    /// How many lines from the end are wanted.
    pub fn tail_lines(&self) -> Option<usize> {
        self.options.tail_lines
    }

    /// Where in `log` the wanted lines begin, as far as their number goes.
    pub fn tail_offset(&self, log: &[u8]) -> usize {
        let Some(lines) = self.options.tail_lines else { return 0 };
        if lines == 0 {
            return log.len();
        }
        let body = log.strip_suffix(b"\n").unwrap_or(log);
        let ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
        ends.map(|(at, _)| at + 1).nth(lines - 1).unwrap_or(0)
    }

    /// What of `log`, which is made of whole lines, is to be shown. Lines in another format are
    /// left out.
    pub fn render(&mut self, log: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in log.split(|byte| *byte == b'\n').filter_map(Line::parse) {
            if self.left == 0 {
                break;
            }
            let unwanted = self.options.since.is_some_and(|since| line.time < since)
                || self.options.stream.is_some_and(|stream| line.stream != stream);
            if unwanted {
                continue;
            }
            let start = out.len();
            if self.options.timestamps && self.at_line_start {
                out.extend_from_slice(format!("{:.9} ", line.time).as_bytes());
            }
            out.extend_from_slice(line.text);
            if !line.partial {
                out.push(b'\n');
            }
            self.at_line_start = !line.partial;
            let written = (out.len() - start).min(self.left);
            out.truncate(start + written);
            self.left -= written;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] = b"2026-01-02T03:04:05.000000001Z stdout F one\n\
        2026-01-02T03:04:06Z stderr P tw\n\
        not a line\n\
        2026-01-02T03:04:06.5Z stderr F o\n\
        2026-01-02T03:04:07Z stdout F \n\
        2026-01-02T03:04:08Z stdout F:x four words in all\n";

    #[track_caller]
    fn check(options: LogOptions, expected: &str) {
        let mut filter = LogFilter::new(options.clone());
        let shown = filter.render(&LOG[filter.tail_offset(LOG)..]);
        assert_eq!(String::from_utf8_lossy(&shown), expected, "{options:?}");
    }

    #[test]
    fn parts_are_joined_and_foreign_lines_left_out() {
        check(LogOptions::default(), "one\ntwo\n\nfour words in all\n");
    }

    #[test]
    fn the_tail_counts_lines_of_the_file() {
        let tail = |lines| LogOptions { tail_lines: Some(lines), ..Default::default() };
        check(tail(0), "");
        check(tail(1), "four words in all\n");
        check(tail(2), "\nfour words in all\n");
        check(tail(100), "one\ntwo\n\nfour words in all\n");
    }

    #[test]
    fn a_limit_cuts_within_a_line() {
        check(LogOptions { limit_bytes: Some(6), ..Default::default() }, "one\ntw");
        check(LogOptions { limit_bytes: Some(0), ..Default::default() }, "");
    }

    #[test]
    fn times_begin_whole_lines_only() {
        let since = "2026-01-02T03:04:06Z".parse().ok();
        check(
            LogOptions {
                timestamps: true,
                since,
                stream: Some(Stream::Stderr),
                ..Default::default()
            },
            "2026-01-02T03:04:06.000000000Z two\n",
        );
    }
}
