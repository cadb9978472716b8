//! Which images go when their disk fills up.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::runtime::Image;

/// When images are removed from a node that no container uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageGc {
    /// Removal begins when this much of the disk is used, in percent; at 100 it never does.
    pub high_threshold_percent: u8,
    /// It goes on until this much is used.
    pub low_threshold_percent: u8,
    /// An image stays this long at least, counted from when it was first seen.
    pub min_age: Duration,
    /// One that was not used for this long goes however empty the disk is; zero is never.
    pub max_age: Duration,
    /// How often the disk is looked at.
    pub period: Duration,
}

impl Default for ImageGc {
    /// The kubelet's: from 85 % down to 80 %, after 2 min, looked at every 5 min.
    fn default() -> Self {
        Self {
            high_threshold_percent: 85,
            low_threshold_percent: 80,
            min_age: Duration::from_secs(120),
            max_age: Duration::ZERO,
            period: Duration::from_secs(300),
        }
    }
}

impl ImageGc {
    /// Images stay until somebody removes them.
    #[must_use]
    pub fn never() -> Self {
        Self { high_threshold_percent: 100, ..Self::default() }
    }
}

/// How full a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) capacity_bytes: u64,
    pub(crate) available_bytes: u64,
}

/// What is known of the images over time. It begins anew with the agent, so that nothing is removed
/// shortly after a start.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    seen: HashMap<String, Seen>,
    began: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    first: Timestamp,
    used: Option<Timestamp>,
}

/// What is to be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removal {
    /// Ids, in this order, until enough is free.
    pub(crate) images: Vec<(String, u64)>,
    /// How many bytes are to become free; zero when the images are only too old.
    pub(crate) wanted_bytes: u64,
}

impl Collector {
    /// Notes which images there are, and which of them containers use; and decides what goes.
    ///
    /// The longest unused go first, of those the longest known.
    pub(crate) fn decide(
        &mut self,
        policy: &ImageGc,
        images: &[Image],
        in_use: &HashSet<String>,
        disk: Disk,
        now: Timestamp,
    ) -> Removal {
        let began = *self.began.get_or_insert(now);
        let present: HashSet<&str> = images.iter().map(|image| image.id.as_str()).collect();
        self.seen.retain(|id, _| present.contains(id.as_str()));
        for image in images {
            let seen = self.seen.entry(image.id.clone()).or_insert(Seen { first: now, used: None });
            if in_use.contains(&image.id) {
                seen.used = Some(now);
            }
        }
        let mut free: Vec<(&Image, Seen)> = images
            .iter()
            .filter(|image| !image.pinned && !in_use.contains(&image.id))
            .filter_map(|image| Some((image, *self.seen.get(&image.id)?)))
            .filter(|(_, seen)| age(seen.first, now) >= policy.min_age)
            .collect();
        free.sort_by_key(|(image, seen)| (seen.used, seen.first, image.id.as_str()));

        let wanted_bytes = wanted(policy, disk);
        let mut removal = Removal { wanted_bytes, ..Removal::default() };
        let mut eligible = 0;
        for (image, seen) in free {
            let too_old = !policy.max_age.is_zero()
                && age(seen.used.unwrap_or(began.max(seen.first)), now) >= policy.max_age;
            if too_old || eligible < wanted_bytes {
                eligible += image.size_bytes;
                removal.images.push((image.id.clone(), image.size_bytes));
            }
        }
        removal
    }
}

/// How many bytes have to become free.
fn wanted(policy: &ImageGc, disk: Disk) -> u64 {
    let capacity = u128::from(disk.capacity_bytes);
    let available = u128::from(disk.available_bytes).min(capacity);
    if capacity == 0 || policy.high_threshold_percent >= 100 {
        return 0;
    }
    let used_percent = 100 - available * 100 / capacity;
    if used_percent < u128::from(policy.high_threshold_percent) {
        return 0;
    }
    let low = u128::from(policy.low_threshold_percent.min(100));
    let target = capacity * (100 - low) / 100;
    u64::try_from(target.saturating_sub(available)).unwrap_or(u64::MAX)
}

fn age(since: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(since).max(SignedDuration::ZERO).unsigned_abs()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn image(id: &str, size_bytes: u64) -> Image {
        Image { id: id.to_owned(), size_bytes, ..Image::default() }
    }

    fn eligible(removal: &Removal) -> u64 {
        removal.images.iter().map(|(_, bytes)| bytes).sum()
    }

    fn full(percent: u64) -> Disk {
        Disk { capacity_bytes: 1000, available_bytes: 1000 - percent * 10 }
    }

    fn used(ids: &[&str]) -> HashSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    fn ids(removal: &Removal) -> Vec<&str> {
        removal.images.iter().map(|(id, _)| id.as_str()).collect()
    }

    #[test]
    fn the_longest_unused_go_first_until_the_low_threshold() {
        let policy = ImageGc::default();
        let images = [image("a", 30), image("b", 30), image("c", 30), image("running", 900)];
        let mut collector = Collector::default();
        let steps: [&[&str]; 3] = [&["a", "b", "c", "running"], &["a", "c", "running"], &["a"]];
        for (step, in_use) in steps.into_iter().enumerate() {
            let now = at(step as i64 * 300);
            let removal = collector.decide(&policy, &images, &used(in_use), full(50), now);
            assert_eq!(removal, Removal::default());
        }
        let removal = collector.decide(&policy, &images, &used(&["running"]), full(85), at(900));
        assert_eq!((ids(&removal), removal.wanted_bytes), (vec!["b", "c"], 50));
    }

    #[test]
    fn a_full_disk_may_be_nobodys_concern() {
        let full = Disk { capacity_bytes: 100, available_bytes: 0 };
        assert_eq!(wanted(&ImageGc::never(), full), 0);
        assert_eq!(wanted(&ImageGc::default(), full), 20);
    }

    #[test]
    fn what_is_young_pinned_or_in_use_stays() {
        let policy = ImageGc::default();
        let mut collector = Collector::default();
        let old = [image("old", 10), Image { pinned: true, ..image("pause", 10) }];
        collector.decide(&policy, &old, &used(&[]), full(10), at(0));
        let mut images = old.to_vec();
        images.push(image("young", 500));
        let removal = collector.decide(&policy, &images, &used(&[]), full(99), at(119));
        assert_eq!(ids(&removal), Vec::<&str>::new());
        let removal = collector.decide(&policy, &images, &used(&[]), full(99), at(121));
        assert_eq!(ids(&removal), ["old"]);
        assert!(eligible(&removal) < removal.wanted_bytes);
    }

    #[test]
    fn an_image_that_was_not_used_for_too_long_goes_from_an_empty_disk() {
        let policy = ImageGc { max_age: Duration::from_secs(600), ..ImageGc::default() };
        let mut collector = Collector::default();
        let images = [image("a", 1), image("b", 1)];
        let step = |collector: &mut Collector, in_use: &[&str], seconds| {
            collector.decide(&policy, &images, &used(in_use), full(1), at(seconds)).images
        };
        assert!(step(&mut collector, &[], 0).is_empty());
        assert!(step(&mut collector, &["a"], 300).is_empty());
        assert_eq!(step(&mut collector, &[], 600), [("b".to_owned(), 1)]);
    }

    #[test]
    fn at_a_threshold_of_100_percent_nothing_goes() {
        let policy = ImageGc { high_threshold_percent: 100, ..ImageGc::default() };
        assert_eq!(wanted(&policy, full(100)), 0);
        assert_eq!(wanted(&ImageGc::default(), Disk { capacity_bytes: 0, available_bytes: 0 }), 0);
        assert_eq!(wanted(&ImageGc::default(), full(84)), 0);
        assert_eq!(wanted(&ImageGc::default(), full(85)), 50);
    }

    proptest! {
        #[test]
        fn no_more_goes_than_is_wanted_and_never_what_is_used(
            sizes in prop::collection::vec(0..400_u64, 0..12),
            in_use in prop::collection::vec(any::<bool>(), 12),
            percent in 0..=100_u64,
        ) {
            let policy = ImageGc { min_age: Duration::ZERO, ..ImageGc::default() };
            let images: Vec<Image> =
                sizes.iter().enumerate().map(|(at, size)| image(&format!("i{at}"), *size)).collect();
            let in_use: HashSet<String> = images
                .iter()
                .zip(&in_use)
                .filter(|(_, used)| **used)
                .map(|(image, _)| image.id.clone())
                .collect();
            let removal =
                Collector::default().decide(&policy, &images, &in_use, full(percent), at(0));
            prop_assert!(removal.images.iter().all(|(id, _)| !in_use.contains(id)));
            if let Some(((_, last), others)) = removal.images.split_last() {
                let before: u64 = others.iter().map(|(_, bytes)| bytes).sum();
                prop_assert!(before < removal.wanted_bytes, "the last, of {last}, was not needed");
            }
            let free: u64 = images.iter().filter(|i| !in_use.contains(&i.id)).map(|i| i.size_bytes).sum();
            prop_assert!(eligible(&removal) >= removal.wanted_bytes.min(free));
        }
    }
}
