//! Indexes of an Indexed Job as texts list them: `0-3,5`.

/// The first index that is in both.
pub(super) fn overlap(one: &[(i32, i32)], other: &[(i32, i32)]) -> Option<i32> {
    let common = |a: &(i32, i32), b: &(i32, i32)| {
        let first = a.0.max(b.0);
        (first <= a.1.min(b.1)).then_some(first)
    };
    one.iter().flat_map(|a| other.iter().filter_map(move |b| common(a, b))).min()
}

/// `1,3-5` as first and last indexes, which grow and are below `completions`.
pub(super) fn intervals(indexes: &str, completions: i32) -> Result<Vec<(i32, i32)>, String> {
    let number = |text: &str| -> Result<i32, String> {
        let wrong = || format!("cannot convert string to integer for index: {text:?}");
        let number = text.parse::<i64>().map_err(|_| wrong())?;
        let number = i32::try_from(number).ok().filter(|number| *number < completions);
        number.ok_or_else(|| format!("too large index: {text:?}"))
    };
    let later = |last: i32, index: i32| match last < index {
        true => Ok(()),
        false => Err(format!("non-increasing order, previous: {last}, current: {index}")),
    };
    let mut found: Vec<(i32, i32)> = Vec::new();
    for part in indexes.split(',').filter(|_| !indexes.is_empty()) {
        let (first, last) = match part.split('-').collect::<Vec<_>>().as_slice() {
            [one] => (number(one)?, number(one)?),
            [first, last] => {
                let (first, last) = (number(first)?, number(last)?);
                later(first, last)?;
                (first, last)
            }
            _ => {
                return Err(format!(
                    "the fragment {part:?} violates the requirement that an index interval can \
                     have at most two parts separated by '-'"
                ));
            }
        };
        if let Some((_, before)) = found.last() {
            later(*before, first)?;
        }
        found.push((first, last));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// A set of indexes as a status lists them.
    fn written(indexes: &BTreeSet<i32>) -> String {
        let mut groups: Vec<(i32, i32)> = Vec::new();
        for index in indexes {
            match groups.last_mut() {
                Some((_, last)) if *last + 1 == *index => *last = *index,
                _ => groups.push((*index, *index)),
            }
        }
        let group = |(first, last): &(i32, i32)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        groups.iter().map(group).collect::<Vec<_>>().join(",")
    }

    proptest! {
        #[test]
        fn the_overlap_is_the_least_common_index(
            one in prop::collection::btree_set(0..40i32, 0..20),
            other in prop::collection::btree_set(0..40i32, 0..20),
        ) {
            let parsed = |set| intervals(&written(set), 40).unwrap();
            let found = overlap(&parsed(&one), &parsed(&other));
            prop_assert_eq!(found, one.intersection(&other).min().copied());
        }
    }
}
