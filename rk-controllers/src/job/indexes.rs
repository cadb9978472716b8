//! Sets of completion indexes in the compressed form of a Job's status, such as `0-3,5,7`.

use std::fmt;

/// A set of indexes as ordered ranges that neither overlap nor touch.
///
/// Written as Kubernetes writes `status.completedIndexes`: a range of two is two numbers, a longer
/// one has a hyphen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Indexes {
    ranges: Vec<(i32, i32)>,
}

impl Indexes {
    /// Reads `text`, leaving out indexes from `completions` on: a Job that was scaled down forgets
    /// them. Parts that are no range are skipped, as nobody but a user's hand can have written them.
    pub(super) fn parse(text: &str, completions: i32) -> Self {
        let number = |text: &str| text.parse::<i32>().ok().filter(|number| *number >= 0);
        let range = |part: &str| match part.split_once('-') {
            Some((first, last)) => Some((number(first)?, number(last)?)),
            None => number(part).map(|index| (index, index)),
        };
        let ranges = text.split(',').filter_map(range);
        let kept = ranges.filter(|(first, _)| *first < completions);
        Self::of_ranges(kept.map(|(first, last)| (first, last.min(completions - 1))))
    }

    fn of_ranges(ranges: impl IntoIterator<Item = (i32, i32)>) -> Self {
        let mut sorted: Vec<_> = ranges.into_iter().filter(|(first, last)| first <= last).collect();
        sorted.sort_unstable();
        let mut ranges: Vec<(i32, i32)> = Vec::with_capacity(sorted.len());
        for (first, last) in sorted {
            match ranges.last_mut() {
                Some(open) if first <= open.1.saturating_add(1) => open.1 = open.1.max(last),
                _ => ranges.push((first, last)),
            }
        }
        Self { ranges }
    }

    /// The indexes of both sets.
    pub(super) fn union(&self, other: &Self) -> Self {
        Self::of_ranges(self.ranges.iter().chain(&other.ranges).copied())
    }

    /// How many indexes there are.
    pub(super) fn len(&self) -> i32 {
        self.ranges.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(super) fn contains(&self, index: i32) -> bool {
        let at = self.ranges.partition_point(|(_, last)| *last < index);
        self.ranges.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many indexes are in both sets.
    pub(super) fn shared_with(&self, other: &Self) -> i32 {
        let (mut ours, mut theirs) =
            (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        let mut shared = 0;
        while let (Some(a), Some(b)) = (ours.peek(), theirs.peek()) {
            shared += (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
            if a.1 < b.1 {
                ours.next();
            } else {
                theirs.next();
            }
        }
        shared
    }

    /// The first `count` indexes below `end` that are not in the set.
    pub(super) fn first_missing(&self, count: usize, end: i32) -> Vec<i32> {
        let mut missing = Vec::new();
        let mut candidate = 0;
        let end_of_all = std::iter::once((end, end));
        for (first, last) in self.ranges.iter().copied().chain(end_of_all) {
            let gap = candidate..first.min(end);
            missing.extend(gap.take(count - missing.len()));
            candidate = candidate.max(last.saturating_add(1));
        }
        missing
    }
}

impl FromIterator<i32> for Indexes {
    fn from_iter<T: IntoIterator<Item = i32>>(indexes: T) -> Self {
        Self::of_ranges(indexes.into_iter().map(|index| (index, index)))
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn members(indexes: &Indexes) -> BTreeSet<i32> {
        (0..200).filter(|index| indexes.contains(*index)).collect()
    }

    #[test]
    fn the_text_is_kubernetes_compressed_form() {
        let indexes: Indexes = [7, 1, 2, 3, 5, 0, 8].into_iter().collect();
        assert_eq!(indexes.to_string(), "0-3,5,7,8");
        assert_eq!(Indexes::default().to_string(), "");
    }

    #[test]
    fn what_is_no_range_is_skipped_and_what_is_out_of_range_cut_off() {
        assert_eq!(Indexes::parse("0-3,x,5,7-90,-1,95", 10).to_string(), "0-3,5,7-9");
        assert!(Indexes::parse("", 10).is_empty());
        assert!(Indexes::parse("3-9", 0).is_empty());
    }

    proptest! {
        #[test]
        fn it_is_a_set(a in prop::collection::btree_set(0..100, 0..40), b in prop::collection::btree_set(0..100, 0..40), end in 0..120, count in 0usize..20) {
            let ours: Indexes = a.iter().copied().collect();
            let theirs: Indexes = b.iter().copied().collect();
            prop_assert_eq!(members(&ours), a.clone());
            prop_assert_eq!(ours.len() as usize, a.len());
            prop_assert_eq!(members(&ours.union(&theirs)), a.union(&b).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(ours.shared_with(&theirs) as usize, a.intersection(&b).count());
            prop_assert_eq!(Indexes::parse(&ours.to_string(), 100), ours.clone());
            let cut: BTreeSet<i32> = a.iter().copied().filter(|index| *index < end).collect();
            prop_assert_eq!(members(&Indexes::parse(&ours.to_string(), end)), cut);
            let missing: Vec<i32> = (0..end).filter(|index| !a.contains(index)).take(count).collect();
            prop_assert_eq!(ours.first_missing(count, end), missing);
        }
    }
}
