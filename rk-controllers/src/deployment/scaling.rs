//! A change of `spec.replicas`, also in the middle of a roll-out: every ReplicaSet keeps its share.

use super::{
    model::{
        self, DESIRED_REPLICAS, MAX_REPLICAS, count_annotation, desired, fenceposts, size, total,
    },
    plan::Rollout,
};

impl Rollout<'_> {
    /// Whether the Deployment was resized since its sets were: then sizes are adjusted first, and
    /// the roll-out goes on after that.
    pub(super) fn is_scaling_event(&self) -> bool {
        let mut active = self.sets.iter().filter(|set| size(set) > 0);
        active.any(|set| {
            count_annotation(set, DESIRED_REPLICAS)
                .is_some_and(|then| then != desired(self.deployment))
        })
    }

    /// Brings the sets to the Deployment's size without furthering the roll-out.
    pub(super) fn scale(&mut self) {
        let desired = desired(self.deployment);
        if let Some(only) = self.only_active() {
            self.resize(only, desired);
        } else if self.is_saturated() {
            for old in self.old() {
                self.resize(old, 0);
            }
        } else if !model::is_recreate(self.deployment) {
            self.scale_proportionally(desired);
        }
        // Also where the size stays: the set has been through this scaling event, and must not
        // hold up the roll-out by looking as if it had not.
        for set in (0..self.sets.len()).filter(|set| size(&self.sets[*set]) > 0).collect::<Vec<_>>()
        {
            self.annotate_size(set);
        }
    }

    /// The one set that has Pods; with none, the new one or else the latest old one.
    fn only_active(&self) -> Option<usize> {
        let old = self.old();
        let candidates: Vec<usize> = old.iter().copied().chain(self.new).collect();
        let active: Vec<usize> =
            candidates.into_iter().filter(|set| size(&self.sets[*set]) > 0).collect();
        match active[..] {
            [] => self.new.or(old.last().copied()),
            [only] => Some(only),
            _ => None,
        }
    }

    /// Whether the new set serves alone: all wanted Pods, all available, sized for this Deployment.
    fn is_saturated(&self) -> bool {
        let Some(new) = self.new.map(|new| &self.sets[new]) else { return false };
        let desired = desired(self.deployment);
        count_annotation(new, DESIRED_REPLICAS) == Some(desired)
            && size(new) == desired
            && model::available(new) == desired
    }

    /// Spreads the difference over the active sets in proportion to their sizes; what rounding
    /// leaves goes to the largest.
    fn scale_proportionally(&mut self, desired: i32) {
        let mut active: Vec<usize> =
            (0..self.sets.len()).filter(|set| size(&self.sets[*set]) > 0).collect();
        let allowed = if desired > 0 { desired + fenceposts(self.deployment).surge } else { 0 };
        let to_add = allowed - total(active.iter().map(|set| &self.sets[*set]), size);

        // Largest first. Of equal ones the newest grows first and the oldest shrinks first.
        active.sort_by_key(|set| model::by_age(&self.sets[*set]));
        if to_add > 0 {
            active.reverse();
        }
        active.sort_by_key(|set| std::cmp::Reverse(size(&self.sets[*set])));

        let mut added = 0;
        let mut targets: Vec<i32> = Vec::with_capacity(active.len());
        for &set in &active {
            let share = self.share(set, to_add - added);
            added += share;
            targets.push(size(&self.sets[set]) + share);
        }
        if let Some(largest) = targets.first_mut() {
            *largest = (*largest + to_add - added).max(0);
        }
        for (set, target) in active.into_iter().zip(targets) {
            self.resize(set, target);
        }
    }

    /// How much of what is `left` to add (or, negative, to remove) falls to a set.
    fn share(&self, set: usize, left: i32) -> i32 {
        let wanted = self.growth(set);
        match left {
            0 => 0,
            1.. => wanted.min(left),
            _ => wanted.max(left),
        }
    }

    /// By how much a set grows or shrinks if it keeps its proportion of the whole.
    fn growth(&self, set: usize) -> i32 {
        let current = size(&self.sets[set]);
        let desired = desired(self.deployment);
        if desired == 0 {
            return -current;
        }
        let most = i64::from(desired) + i64::from(fenceposts(self.deployment).surge);
        let before = count_annotation(&self.sets[set], MAX_REPLICAS).filter(|max| *max > 0);
        // Without the annotation the number of Pods there are is the best guess.
        let before = before.unwrap_or_else(|| self.reported().replicas.unwrap_or(0));
        if before <= 0 {
            return 0;
        }
        let target = (f64::from(current) * most as f64 / f64::from(before)).round() as i32;
        target - current
    }
}
