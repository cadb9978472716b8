//! Rolling update arithmetic: how far the new ReplicaSet may grow and the old ones may shrink.

use k8s_openapi::api::apps::v1::ReplicaSet;

use super::{
    model::{self, desired, fenceposts, set_size, size, total},
    plan::Rollout,
};

/// Pods of a set that serve and will go on serving. A set that was just made smaller still reports
/// the Pods it is about to lose; Kubernetes counts those, and so may give up more than
/// maxUnavailable when a second step follows before the status does.
fn serving(set: &ReplicaSet) -> i32 {
    model::available(set).min(size(set))
}

impl Rollout<'_> {
    /// The size the new set may have now: as many Pods as wanted, as far as the surge has room.
    pub(super) fn room_for_new(&self, new: usize) -> i32 {
        let desired = desired(self.deployment);
        if model::is_recreate(self.deployment) {
            return desired;
        }
        let most = desired.saturating_add(fenceposts(self.deployment).surge);
        let room = most - total(&self.sets, size);
        let current = size(&self.sets[new]);
        if room <= 0 { current } else { current + room.min(desired - current) }
    }

    /// Sizes the new set; whether that changed anything.
    pub(super) fn grow_new(&mut self, new: usize) -> bool {
        let current = size(&self.sets[new]);
        let desired = desired(self.deployment);
        let target = match current.cmp(&desired) {
            std::cmp::Ordering::Equal => return false,
            std::cmp::Ordering::Greater => desired,
            std::cmp::Ordering::Less => self.room_for_new(new),
        };
        self.resize(new, target)
    }

    /// Shrinks old sets as far as enough Pods stay available; whether that changed anything.
    ///
    /// Unhealthy old Pods go first, since they serve nobody. Pods of the new set that are not
    /// available yet are not counted as serving: otherwise a broken template would eat up the old
    /// Pods while it never gets ready.
    pub(super) fn shrink_old(&mut self) -> bool {
        let old = self.old();
        if old.iter().all(|set| size(&self.sets[*set]) == 0) {
            return false;
        }
        let least_available = desired(self.deployment) - fenceposts(self.deployment).unavailable;
        let new_unavailable =
            self.new.map_or(0, |new| size(&self.sets[new]) - serving(&self.sets[new]));
        let spare = total(&self.sets, size) - least_available - new_unavailable;
        if spare <= 0 {
            return false;
        }
        let removed_unhealthy = self.remove_unhealthy(&old, spare);
        let removed_healthy = self.remove_healthy(&old, least_available);
        removed_unhealthy || removed_healthy
    }

    fn remove_unhealthy(&mut self, old: &[usize], spare: i32) -> bool {
        let mut removed = 0;
        for &set in old {
            let unhealthy = size(&self.sets[set]) - serving(&self.sets[set]);
            let count = unhealthy.min(spare - removed);
            if count > 0 {
                let target = size(&self.sets[set]) - count;
                self.resize(set, target);
                removed += count;
            }
        }
        removed > 0
    }

    fn remove_healthy(&mut self, old: &[usize], least_available: i32) -> bool {
        let spare = total(&self.sets, serving) - least_available;
        let mut removed = 0;
        for &set in old {
            let count = size(&self.sets[set]).min(spare - removed);
            if count > 0 {
                let target = size(&self.sets[set]) - count;
                self.resize(set, target);
                removed += count;
            }
        }
        removed > 0
    }

    /// Gives a set a size, and notes for what Deployment size that was; whether the size changed.
    pub(super) fn resize(&mut self, set: usize, replicas: i32) -> bool {
        let changed = size(&self.sets[set]) != replicas;
        if changed {
            set_size(&mut self.sets[set], replicas);
            self.annotate_size(set);
        }
        changed
    }
}
