//! The shortest history that still goes wrong.

use std::collections::BTreeSet;

/// Leaves out of `all` as much as possible while `fails` still says so of the rest, in at most
/// `tries` tries: delta debugging (Zeller, 1999), first halves, then ever smaller parts, at last
/// each alone. `all` itself is taken to fail.
pub fn shrink(
    all: BTreeSet<usize>,
    tries: usize,
    mut fails: impl FnMut(&BTreeSet<usize>) -> bool,
) -> BTreeSet<usize> {
    let mut kept: Vec<usize> = all.into_iter().collect();
    let (mut parts, mut left) = (2, tries);
    while kept.len() > 1 && left > 0 {
        let size = kept.len().div_ceil(parts);
        let mut smaller = None;
        for start in (0..kept.len()).step_by(size) {
            if left == 0 {
                break;
            }
            left -= 1;
            let end = (start + size).min(kept.len());
            let rest = [&kept[..start], &kept[end..]].concat();
            if fails(&rest.iter().copied().collect()) {
                smaller = Some(rest);
                break;
            }
        }
        match smaller {
            Some(rest) => {
                kept = rest;
                parts = parts.saturating_sub(1).max(2);
            }
            None if size == 1 => break,
            None => parts = (parts * 2).min(kept.len()),
        }
    }
    kept.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_is_left_out() {
        for culprits in [vec![3], vec![0, 19], vec![4, 9, 14]] {
            let fails = |kept: &BTreeSet<usize>| culprits.iter().all(|one| kept.contains(one));
            let kept = shrink((0..20).collect(), 1000, fails);
            assert_eq!(kept, culprits.iter().copied().collect());
        }
    }

    #[test]
    fn tries_are_bounded_and_what_is_left_still_fails() {
        let mut tried = 0;
        let kept = shrink((0..1000).collect(), 12, |kept| {
            tried += 1;
            kept.contains(&500)
        });
        assert!(tried <= 12 && kept.contains(&500) && kept.len() < 1000, "{tried} {}", kept.len());
    }
}
