//! Keys as etcd has them: bytes, and ranges of them.

use std::sync::Arc;

use etcd_client::KvClient;

/// Where a store's keys are in etcd: those that begin with one prefix begin with another there.
///
/// By default both are empty, and keys are the same here and there. A store whose keys are moved
/// holds no others: writing one outside of the prefix fails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keyspace {
    ours: String,
    theirs: String,
}

/// Keys from the first one on and before the second one. A second one of a single zero byte has no
/// end, as etcd's protocol has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyRange {
    pub from: Vec<u8>,
    pub to: Vec<u8>,
}

impl Keyspace {
    /// Keys that begin with `ours` here begin with `theirs` in etcd.
    pub fn moved(ours: impl Into<String>, theirs: impl Into<String>) -> Self {
        Self { ours: ours.into(), theirs: theirs.into() }
    }

    /// A key as etcd has it; `None` outside of the key space.
    pub(super) fn to_etcd(&self, key: &str) -> Option<Vec<u8>> {
        let rest = key.strip_prefix(&self.ours)?;
        Some([self.theirs.as_bytes(), rest.as_bytes()].concat())
    }

    /// A key of etcd as we have it; `None` when it is not one of ours.
    pub(super) fn of_etcd(&self, key: &[u8]) -> Option<Arc<str>> {
        let rest = key.strip_prefix(self.theirs.as_bytes())?;
        let rest = std::str::from_utf8(rest).ok()?;
        Some(if self.ours == self.theirs && self.ours.is_empty() {
            Arc::from(rest)
        } else {
            Arc::from([self.ours.as_str(), rest].concat())
        })
    }

    /// The keys that begin with `prefix` and come after `after`; `None` when there can be none.
    pub(super) fn range(&self, prefix: &str, after: Option<&str>) -> Option<KeyRange> {
        // A shorter prefix than that of the key space has all of it.
        let prefix = match self.to_etcd(prefix) {
            Some(prefix) => prefix,
            None if self.ours.starts_with(prefix) => self.theirs.clone().into_bytes(),
            None => return None,
        };
        let mut range = KeyRange { to: end_of(&prefix), from: prefix };
        if let Some(mut after) = after.and_then(|after| self.to_etcd(after)) {
            after.push(0);
            range.from = range.from.max(after);
        }
        if range.from.is_empty() {
            range.from.push(0);
        }
        Some(range)
    }
}

/// The first key after all that begin with `prefix`.
fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// A member's key-value service that takes answers of any size: ranges of large objects exceed the
/// 4 MiB that gRPC clients accept by default.
pub(super) fn unlimited(kv: KvClient) -> KvClient {
    kv.max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_move_there_and_back() {
        let space = Keyspace::moved("/registry/", "/other/");
        let there = space.to_etcd("/registry/pods/a").unwrap();
        assert_eq!(there, b"/other/pods/a");
        assert_eq!(space.of_etcd(&there).as_deref(), Some("/registry/pods/a"));
        assert_eq!(space.to_etcd("/elsewhere"), None);
        assert_eq!(space.of_etcd(b"/registry/pods/a"), None, "another cluster's");
        assert_eq!(space.of_etcd(b"/other/\xff"), None, "no text");
    }

    #[test]
    fn a_prefix_above_the_key_space_means_all_of_it() {
        let space = Keyspace::moved("/registry/", "/other/");
        let all = Some(KeyRange { from: b"/other/".into(), to: b"/other0".into() });
        for prefix in ["", "/", "/registry/"] {
            assert_eq!(space.range(prefix, None), all, "{prefix}");
        }
        assert_eq!(space.range("/else/", None), None);
    }

    #[test]
    fn without_a_prefix_a_range_has_every_key() {
        let all = KeyRange { from: vec![0], to: vec![0] };
        assert_eq!(Keyspace::default().range("", None), Some(all));
    }

    proptest! {
        #[test]
        fn a_range_has_the_keys_of_its_prefix_and_no_others(
            prefix in "[a-c\u{10ffff}]{0,3}", key in "[a-c\u{10ffff}]{1,4}", after in "[a-c]{0,3}",
        ) {
            let range = Keyspace::default().range(&prefix, Some(&after)).unwrap();
            let inside = key.as_bytes() >= range.from.as_slice()
                && (range.to == [0] || key.as_bytes() < range.to.as_slice());
            prop_assert_eq!(inside, key.starts_with(&prefix) && key > after);
        }
    }
}
