//! What is mounted where, as the kernel tells it: `/proc/PID/mountinfo` (proc(5)).

use std::{ffi::OsString, io, os::unix::ffi::OsStringExt, path::PathBuf};

/// The table of this process's mount namespace.
pub(crate) fn table() -> io::Result<String> {
    // Names of mounts need not be text.
    Ok(String::from_utf8_lossy(&std::fs::read("/proc/self/mountinfo")?).into_owned())
}

/// The mount points of a table, each with its tags (`shared:N`, `master:N`), in the order in which
/// they were mounted.
pub(crate) fn points(table: &str) -> impl DoubleEndedIterator<Item = (PathBuf, Vec<&str>)> {
    table.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let point = unescape(fields.nth(4)?);
        Some((point, fields.skip(1).take_while(|tag| *tag != "-").collect()))
    })
}

/// The kernel writes blanks, line ends, backslashes and the like as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.as_bytes();
    while let [first, rest @ ..] = left {
        let octal = rest.get(..3).filter(|_| *first == b'\\');
        let byte =
            octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(byte.unwrap_or(*first));
        left = if byte.is_some() { &rest[3..] } else { rest };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_blanks_and_line_ends_are_those_of_the_files() {
        let table = "22 21 0:21 / /a\\040b\\012c\\134040 rw shared:7 master:1 - tmpfs tmpfs rw\n\
            23 21 0:22 / /plain\\ rw - tmpfs tmpfs rw\n";
        let found: Vec<_> = points(table).collect();
        assert_eq!(found[0], ("/a b\nc\\040".into(), vec!["shared:7", "master:1"]));
        assert_eq!(found[1], ("/plain\\".into(), vec![]));
    }
}
