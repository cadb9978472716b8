//! A persistent ordered map from keys to values: cloning it is one reference count.
//!
//! A B+ tree whose nodes are shared. A write copies only those nodes on its path that a clone still
//! uses, and none when there is no clone. Every inner node counts what is below it, so that "how
//! many keys follow" costs the depth of the tree and not a walk.

use std::{mem, ops::ControlFlow, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::Versioned;

/// A node holds at most so many items or children.
const NODE_MAX: usize = 64;
/// A node that shrinks below this is joined with a neighbour.
const NODE_MIN: usize = NODE_MAX / 4;

/// How long a key lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    /// The time to live it was written with.
    pub(super) ttl: Duration,
    /// When it ends.
    pub(super) deadline: Instant,
}

/// What the tree holds for a key.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) item: Versioned,
    /// `None` for keys that stay. Boxed because most do.
    pub(super) lease: Option<Box<Lease>>,
}

impl Entry {
    fn key(&self) -> &str {
        &self.item.key
    }
}

#[derive(Clone, Debug)]
enum Node {
    Leaf(Vec<Entry>),
    Inner(Vec<Child>),
}

#[derive(Clone, Debug)]
struct Child {
    /// No key below is smaller, every key below the child to the left is.
    low: Arc<str>,
    /// How many keys are below.
    count: usize,
    node: Arc<Node>,
}

impl Child {
    fn of(node: Node) -> Child {
        let (low, count) = match &node {
            Node::Leaf(items) => (items[0].item.key.clone(), items.len()),
            Node::Inner(children) => {
                (children[0].low.clone(), children.iter().map(|child| child.count).sum())
            }
        };
        Child { low, count, node: Arc::new(node) }
    }
}

/// The map. See the module's documentation.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    root: Arc<Node>,
    len: usize,
}

impl Default for Tree {
    fn default() -> Self {
        Tree { root: Arc::new(Node::Leaf(Vec::new())), len: 0 }
    }
}

impl Tree {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf(items) => {
                    let at = items.binary_search_by(|entry| entry.key().cmp(key)).ok()?;
                    return Some(&items[at]);
                }
                Node::Inner(children) => node = &children[child_of(children, key)].node,
            }
        }
    }

    /// Puts `entry` under its key and returns what was there.
    pub(super) fn insert(&mut self, entry: Entry) -> Option<Entry> {
        let (replaced, split) = insert(&mut self.root, entry);
        if let Some(right) = split {
            let left = mem::replace(&mut self.root, Arc::new(Node::Leaf(Vec::new())));
            let left = Child { low: lowest(&left), count: self.len + 1 - right.count, node: left };
            self.root = Arc::new(Node::Inner(vec![left, right]));
        }
        if replaced.is_none() {
            self.len += 1;
        }
        replaced
    }

    pub(super) fn remove(&mut self, key: &str) -> Option<Entry> {
        // Looked up first, because the way down copies shared nodes.
        self.get(key)?;
        let removed = remove(&mut self.root, key)?;
        self.len -= 1;
        if let Node::Inner(children) = &*self.root
            && let [only] = &children[..]
        {
            self.root = only.node.clone();
        }
        Some(removed)
    }

    /// How many keys are smaller than `bound`, which need not be a key nor UTF-8.
    pub(super) fn rank(&self, bound: &[u8]) -> usize {
        let mut node = &*self.root;
        let mut rank = 0;
        loop {
            match node {
                Node::Leaf(items) => {
                    return rank + items.partition_point(|entry| entry.key().as_bytes() < bound);
                }
                Node::Inner(children) => {
                    let at = children
                        .partition_point(|child| child.low.as_bytes() < bound)
                        .saturating_sub(1);
                    rank += children[..at].iter().map(|child| child.count).sum::<usize>();
                    node = &children[at].node;
                }
            }
        }
    }

    /// Calls `visit` for every key from `start` on, in order, until it breaks.
    pub(super) fn visit_from(&self, start: &str, mut visit: impl FnMut(&Entry) -> ControlFlow<()>) {
        // The result only says whether `visit` broke off.
        let _ = visit_from(&self.root, start, &mut visit);
    }
}

/// The smallest bound above every key with this prefix; `None` when there is none.
pub(super) fn prefix_end(prefix: &str) -> Option<Vec<u8>> {
    let mut end = prefix.as_bytes().to_vec();
    // UTF-8 has no byte 0xff, so the last byte can always be raised.
    *end.last_mut()? += 1;
    Some(end)
}

fn child_of(children: &[Child], key: &str) -> usize {
    children.partition_point(|child| &*child.low <= key).saturating_sub(1)
}

fn lowest(node: &Node) -> Arc<str> {
    match node {
        Node::Leaf(items) => items[0].item.key.clone(),
        Node::Inner(children) => children[0].low.clone(),
    }
}

/// Returns what was replaced, and the right half when the node had to be split.
fn insert(node: &mut Arc<Node>, entry: Entry) -> (Option<Entry>, Option<Child>) {
    match Arc::make_mut(node) {
        Node::Leaf(items) => match items.binary_search_by(|item| item.key().cmp(entry.key())) {
            Ok(at) => (Some(mem::replace(&mut items[at], entry)), None),
            Err(at) => {
                items.insert(at, entry);
                let right = split(items, at).map(|right| Child::of(Node::Leaf(right)));
                (None, right)
            }
        },
        Node::Inner(children) => {
            let at = child_of(children, entry.key());
            let child = &mut children[at];
            if *entry.item.key < *child.low {
                child.low = entry.item.key.clone();
            }
            let (replaced, split_off) = insert(&mut child.node, entry);
            if replaced.is_none() {
                child.count += 1;
            }
            let Some(right) = split_off else { return (replaced, None) };
            child.count -= right.count;
            children.insert(at + 1, right);
            let right = split(children, at + 1).map(|right| Child::of(Node::Inner(right)));
            (replaced, right)
        }
    }
}

/// Splits an overfull node. When the last insertion, at `at`, was at the end, the left half stays
/// full: keys that come in ascending order then fill every node.
fn split<T>(items: &mut Vec<T>, at: usize) -> Option<Vec<T>> {
    if items.len() <= NODE_MAX {
        return None;
    }
    let middle = if at + 1 == items.len() { items.len() - 1 } else { items.len() / 2 };
    Some(items.split_off(middle))
}

fn remove(node: &mut Arc<Node>, key: &str) -> Option<Entry> {
    match Arc::make_mut(node) {
        Node::Leaf(items) => {
            let at = items.binary_search_by(|entry| entry.key().cmp(key)).ok()?;
            Some(items.remove(at))
        }
        Node::Inner(children) => {
            let at = child_of(children, key);
            let removed = remove(&mut children[at].node, key)?;
            children[at].count -= 1;
            let small = match &*children[at].node {
                Node::Leaf(items) => items.len() < NODE_MIN,
                Node::Inner(grandchildren) => grandchildren.len() < NODE_MIN,
            };
            if small && children.len() > 1 {
                join(children, at.min(children.len() - 2));
            }
            Some(removed)
        }
    }
}

/// Makes one node of the children at `at` and `at + 1`, or two even ones if one would be too big.
fn join(children: &mut Vec<Child>, at: usize) {
    let right = children.remove(at + 1);
    let left = &mut children[at];
    let extra = match (Arc::make_mut(&mut left.node), Arc::unwrap_or_clone(right.node)) {
        (Node::Leaf(items), Node::Leaf(more)) => {
            items.extend(more);
            split(items, 0).map(Node::Leaf)
        }
        (Node::Inner(items), Node::Inner(more)) => {
            items.extend(more);
            split(items, 0).map(Node::Inner)
        }
        // All leaves are at one depth: splits and joins only ever add or remove at the root.
        _ => unreachable!("a leaf beside an inner node"),
    };
    left.count += right.count;
    if let Some(extra) = extra.map(Child::of) {
        left.count -= extra.count;
        children.insert(at + 1, extra);
    }
}

fn visit_from(
    node: &Node,
    start: &str,
    visit: &mut impl FnMut(&Entry) -> ControlFlow<()>,
) -> ControlFlow<()> {
    match node {
        Node::Leaf(items) => {
            let from = items.partition_point(|entry| entry.key() < start);
            items[from..].iter().try_for_each(visit)
        }
        Node::Inner(children) => {
            let from = child_of(children, start);
            children[from..].iter().try_for_each(|child| visit_from(&child.node, start, visit))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::Revision;

    fn entry(key: &str, revision: u64) -> Entry {
        let item = Versioned {
            key: key.into(),
            value: Bytes::new(),
            created: Revision(revision),
            modified: Revision(revision),
        };
        Entry { item, lease: None }
    }

    fn keys_from(tree: &Tree, start: &str) -> Vec<(String, u64)> {
        let mut keys = Vec::new();
        tree.visit_from(start, |entry| {
            keys.push((entry.item.key.to_string(), entry.item.modified.0));
            ControlFlow::Continue(())
        });
        keys
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_tree_is_an_ordered_map_and_its_clones_stay_as_they_were(
            steps in prop::collection::vec((0u16..700, 0u8..10), 1..3000),
            removing in 1u8..9,
            start in 0u16..700,
        ) {
            let name = |number: u16| format!("/k/{number:03}");
            let mut tree = Tree::default();
            let mut model = BTreeMap::new();
            let mut kept = Vec::new();
            for (revision, (number, die)) in steps.into_iter().enumerate() {
                let (key, revision) = (name(number), revision as u64);
                if revision % 500 == 0 {
                    kept.push((tree.clone(), model.clone()));
                }
                let (old, expected) = if die < removing {
                    (tree.remove(&key), model.remove(&key))
                } else {
                    (tree.insert(entry(&key, revision)), model.insert(key, revision))
                };
                prop_assert_eq!(old.map(|entry| entry.item.modified.0), expected);
            }
            kept.push((tree, model));
            let start = name(start);
            for (tree, model) in kept {
                prop_assert_eq!(tree.len(), model.len());
                prop_assert_eq!(tree.rank(start.as_bytes()), model.range(..start.clone()).count());
                let after: Vec<_> =
                    model.range(start.clone()..).map(|(key, &value)| (key.clone(), value)).collect();
                prop_assert_eq!(keys_from(&tree, &start), after);
                for (key, &revision) in &model {
                    prop_assert_eq!(tree.get(key).unwrap().item.modified.0, revision);
                }
            }
        }
    }

    #[test]
    fn the_end_of_a_prefix_is_above_all_its_keys() {
        let end = prefix_end("/pods/").unwrap();
        assert!("/pods/\u{10ffff}".as_bytes() < &end[..]);
        assert!("/pods0".as_bytes() >= &end[..]);
        assert_eq!(prefix_end(""), None);
    }
}
