use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    PodInfo, Profile,
    framework::{ClusterEvent, Hint, Plugin, QueuedPod},
};

/// A Pod that no event wakes is tried again after this long.
const UNSCHEDULABLE_MAX: Duration = Duration::from_secs(300);
/// How often that is looked at.
const FLUSH_PERIOD: Duration = Duration::from_secs(30);

/// How long a Pod rests after a failed try: doubling from `initial` to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After the first.
    pub initial: Duration,
    /// At most.
    pub max: Duration,
}

impl Default for Backoff {
    /// 1 s to 10 s.
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), max: Duration::from_secs(10) }
    }
}

impl Backoff {
    fn after(self, tries: u32) -> Duration {
        let factor = 2u32.saturating_pow(tries.saturating_sub(1).min(20));
        self.initial.saturating_mul(factor).min(self.max)
    }
}

/// The Pods that wait for a node. Each is in one of these places:
///
/// - *active*: to be tried next, in the order of the `QueueSort` plugin;
/// - *back-off*: worth another try, but tried not long ago. When nothing is active those are taken
///   early, except after an error;
/// - *unschedulable*: rejected, until an event that a plugin's hint calls worth a try, or for five
///   minutes;
/// - *gated*: held back by a `PreEnqueue` plugin until the Pod changes;
/// - *in flight*: handed out by [`pop`](Self::pop).
///
/// The queue does no I/O and has no clock: the time is an argument.
#[derive(Debug)]
pub struct SchedulingQueue {
    profiles: HashMap<String, Arc<Profile>>,
    sort: Arc<dyn Plugin>,
    backoff: Backoff,
    pods: HashMap<Arc<str>, Slot>,
    active: Vec<Item>,
    /// How many items of `active` are not out of date.
    active_len: usize,
    backing_off: BTreeSet<(Instant, u64, Arc<str>)>,
    unschedulable: BTreeSet<(Instant, u64, Arc<str>)>,
    next_flush: Option<Instant>,
    sequence: u64,
}

#[derive(Debug)]
struct Slot {
    pod: QueuedPod,
    place: Place,
    sequence: u64,
    hold: Hold,
}

/// Whether a Pod may be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    /// It may.
    No,
    /// It must not be yet, and nothing would have woken it so far.
    Asleep,
    /// It must not be yet, and is to be woken when it may.
    Stirred,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active,
    Backoff(Instant),
    Unschedulable(Instant),
    Gated,
    InFlight,
}

/// An entry of the heap. It is out of date when the Pod's slot has another sequence.
#[derive(Debug)]
struct Item {
    pod: QueuedPod,
    sequence: u64,
}

impl SchedulingQueue {
    /// An empty queue for the Pods of these profiles. The first one's `QueueSort` sorts it.
    ///
    /// # Panics
    /// Without a profile.
    pub fn new(profiles: Vec<Arc<Profile>>, backoff: Backoff) -> Self {
        let sort = profiles.first().map(|profile| profile.queue_sort.clone());
        Self {
            #[allow(clippy::expect_used)] // Documented.
            sort: sort.expect("a queue needs a profile"),
            profiles: profiles.into_iter().map(|it| (it.scheduler_name.clone(), it)).collect(),
            backoff,
            pods: HashMap::new(),
            active: Vec::new(),
            active_len: 0,
            backing_off: BTreeSet::new(),
            unschedulable: BTreeSet::new(),
            next_flush: None,
            sequence: 0,
        }
    }

    /// How many Pods are to be tried next.
    pub fn active(&self) -> usize {
        self.active_len
    }

    /// How many Pods there are, those in flight included.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether there are no Pods.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }

    /// Takes in a Pod that is new or changed. A change that has to do with scheduling may wake it.
    pub fn add(&mut self, info: Arc<PodInfo>, now: Instant) {
        let uid = info.uid.clone();
        let gated = self.is_gated(&info);
        let Some(slot) = self.pods.get_mut(&uid) else {
            let pod = QueuedPod {
                info,
                since: now,
                attempts: 0,
                errors: 0,
                rejected_by: BTreeSet::new(),
            };
            let slot = Slot { pod, place: Place::InFlight, sequence: 0, hold: Hold::No };
            self.pods.insert(uid.clone(), slot);
            self.put(&uid, if gated { Place::Gated } else { Place::Active }, now);
            return;
        };

        let old = std::mem::replace(&mut slot.pod.info, info.clone());
        if !is_relevant_change(&old, &info) {
            return;
        }
        match slot.place {
            Place::InFlight | Place::Backoff(_) => {}
            Place::Gated if gated => {}
            // The heap's order may hang on what changed.
            Place::Gated | Place::Active => self.put(&uid, Place::Active, now),
            Place::Unschedulable(_) => {
                let event = ClusterEvent::PodUpdated { old: &old, new: &info };
                if self.is_worth_a_try(&uid, &event) {
                    self.wake(&uid, now);
                }
            }
        }
    }

    /// The Pod is gone, or has a node.
    pub fn remove(&mut self, uid: &str) {
        if let Some((uid, _)) = self.pods.get_key_value(uid) {
            let uid = uid.clone();
            self.leave(&uid);
            self.pods.remove(&uid);
        }
    }

    /// The next Pod to try. It is in flight until it is removed or comes back by
    /// [`reject`](Self::reject).
    pub fn pop(&mut self, now: Instant) -> Option<QueuedPod> {
        self.flush(now);
        let uid = loop {
            match self.pop_heap() {
                Some(item) => {
                    let uid = &item.pod.info.uid;
                    let current = self.pods.get(uid).is_some_and(|slot| {
                        slot.place == Place::Active && slot.sequence == item.sequence
                    });
                    if current {
                        self.active_len -= 1;
                        break uid.clone();
                    }
                }
                None => {
                    // Nothing else to do: a Pod whose rest is only for fairness need not rest on.
                    let early = self.backing_off.iter().find(|(_, _, uid)| {
                        self.pods.get(uid).is_some_and(|slot| slot.pod.errors == 0)
                    });
                    let uid = early?.2.clone();
                    self.leave(&uid);
                    break uid;
                }
            }
        };
        let slot = self.pods.get_mut(&uid)?;
        slot.place = Place::InFlight;
        slot.pod.attempts += 1;
        Some(slot.pod.clone())
    }

    /// Takes back a Pod that found no node: `rejected_by` are the plugins that turned it down. With
    /// none of them, and no `error`, any event wakes it. After an error it is tried again once its
    /// back-off is over.
    pub fn reject(
        &mut self,
        uid: &str,
        rejected_by: BTreeSet<&'static str>,
        error: bool,
        now: Instant,
    ) {
        let Some((uid, _)) = self.pods.get_key_value(uid) else { return };
        let uid = uid.clone();
        let Some(slot) = self.pods.get_mut(&uid) else { return };
        slot.pod.since = now;
        slot.pod.rejected_by = rejected_by;
        slot.pod.errors = if error { slot.pod.errors + 1 } else { 0 };
        let tries = if error { slot.pod.errors } else { slot.pod.attempts };
        let gated = self.pods.get(&uid).is_some_and(|slot| self.is_gated(&slot.pod.info));
        let place = match (gated, error) {
            (true, _) => Place::Gated,
            (_, true) => Place::Backoff(now + self.backoff.after(tries)),
            (_, false) => Place::Unschedulable(now),
        };
        self.put(&uid, place, now);
    }

    /// Keeps a Pod from being woken until [`release`](Self::release): what was begun for it is not
    /// done yet, so another try would begin it again.
    pub fn hold(&mut self, uid: &str) {
        if let Some(slot) = self.pods.get_mut(uid) {
            slot.hold = Hold::Asleep;
        }
    }

    /// A held Pod may be woken again. It is at once if something would have in the meantime, or for
    /// `retry`: what was begun for it failed.
    pub fn release(&mut self, uid: &str, retry: bool, now: Instant) {
        let Some((uid, _)) = self.pods.get_key_value(uid) else { return };
        let uid = uid.clone();
        let Some(slot) = self.pods.get_mut(&uid) else { return };
        let hold = std::mem::replace(&mut slot.hold, Hold::No);
        let stirred = hold == Hold::Stirred || (retry && hold == Hold::Asleep);
        if stirred && matches!(slot.place, Place::Unschedulable(_)) {
            self.wake(&uid, now);
        }
    }

    /// Wakes the rejected Pods for which an event is worth a try; returns how many.
    pub fn on_event(&mut self, event: &ClusterEvent<'_>, now: Instant) -> usize {
        let woken: Vec<_> = self
            .unschedulable
            .iter()
            .map(|(_, _, uid)| uid.clone())
            .filter(|uid| self.is_worth_a_try(uid, event))
            .collect();
        woken.iter().for_each(|uid| self.wake(uid, now));
        woken.len()
    }

    /// When [`pop`](Self::pop) may have something that it does not have now.
    pub fn next_timer(&self) -> Option<Instant> {
        let backoff = self.backing_off.first().map(|(until, ..)| *until);
        let flush = self.next_flush.filter(|_| !self.unschedulable.is_empty());
        backoff.into_iter().chain(flush).min()
    }

    /// Moves the Pods whose time has come.
    fn flush(&mut self, now: Instant) {
        while let Some((until, _, uid)) = self.backing_off.first()
            && *until <= now
        {
            let uid = uid.clone();
            self.put(&uid, Place::Active, now);
        }
        if self.next_flush.is_none_or(|at| at <= now) {
            self.next_flush = Some(now + FLUSH_PERIOD);
            let waiting = self.unschedulable.iter();
            let overdue = waiting.take_while(|(since, ..)| *since + UNSCHEDULABLE_MAX <= now);
            let overdue: Vec<_> = overdue.map(|(_, _, uid)| uid.clone()).collect();
            overdue.iter().for_each(|uid| self.wake(uid, now));
        }
    }

    fn is_gated(&self, pod: &PodInfo) -> bool {
        let Some(profile) = self.profiles.get(pod.scheduler_name()) else { return true };
        let mut plugins = profile.pre_enqueue.iter().filter_map(|plugin| plugin.as_pre_enqueue());
        plugins.any(|plugin| !plugin.pre_enqueue(pod).is_success())
    }

    fn is_worth_a_try(&self, uid: &str, event: &ClusterEvent<'_>) -> bool {
        let Some(Slot { pod, .. }) = self.pods.get(uid) else { return false };
        let profile = self.profiles.get(pod.info.scheduler_name());
        pod.rejected_by.is_empty()
            || pod.rejected_by.iter().any(|name| {
                let plugin = profile.and_then(|profile| profile.plugin(name));
                match plugin.and_then(|plugin| plugin.as_enqueue_extensions()) {
                    Some(extensions) => extensions.hint(&pod.info, event) == Hint::Queue,
                    None => true,
                }
            })
    }

    /// To active, or to back-off for the rest of it. One that is held is remembered.
    fn wake(&mut self, uid: &Arc<str>, now: Instant) {
        let Some(Slot { pod, hold, .. }) = self.pods.get_mut(uid) else { return };
        if *hold != Hold::No {
            *hold = Hold::Stirred;
            return;
        }
        let until = pod.since + self.backoff.after(pod.attempts);
        self.put(uid, if until > now { Place::Backoff(until) } else { Place::Active }, now);
    }

    fn put(&mut self, uid: &Arc<str>, place: Place, now: Instant) {
        self.leave(uid);
        self.sequence += 1;
        let sequence = self.sequence;
        let Some(slot) = self.pods.get_mut(uid) else { return };
        slot.place = place;
        slot.sequence = sequence;
        match place {
            Place::Active => {
                let pod = slot.pod.clone();
                self.active_len += 1;
                self.push_heap(Item { pod, sequence });
            }
            Place::Backoff(until) => {
                self.backing_off.insert((until, sequence, uid.clone()));
            }
            Place::Unschedulable(since) => {
                self.unschedulable.insert((since, sequence, uid.clone()));
                self.next_flush.get_or_insert(now + FLUSH_PERIOD);
            }
            Place::Gated | Place::InFlight => {}
        }
    }

    /// Takes a Pod out of its place, to no other.
    fn leave(&mut self, uid: &Arc<str>) {
        let Some(slot) = self.pods.get_mut(uid) else { return };
        match slot.place {
            Place::Active => self.active_len -= 1,
            Place::Backoff(until) => {
                self.backing_off.remove(&(until, slot.sequence, uid.clone()));
            }
            Place::Unschedulable(since) => {
                self.unschedulable.remove(&(since, slot.sequence, uid.clone()));
            }
            Place::Gated | Place::InFlight => {}
        }
        slot.place = Place::InFlight;
        slot.sequence = 0;
    }

    fn is_before(&self, a: &Item, b: &Item) -> bool {
        let sort = self.sort.as_queue_sort();
        let order = sort.map_or(Ordering::Equal, |sort| sort.compare(&a.pod, &b.pod));
        order.then(a.sequence.cmp(&b.sequence)).is_lt()
    }

    fn push_heap(&mut self, item: Item) {
        // Items out of date go when they come up; here before they outnumber the others.
        if self.active.len() > 64 && self.active.len() > 2 * self.active_len {
            let mut items = std::mem::take(&mut self.active);
            items.retain(|it| {
                self.pods.get(&it.pod.info.uid).is_some_and(|slot| slot.sequence == it.sequence)
            });
            items.into_iter().for_each(|item| self.sift_up(item));
        }
        self.sift_up(item);
    }

    fn sift_up(&mut self, item: Item) {
        self.active.push(item);
        let mut at = self.active.len() - 1;
        while at > 0 {
            let parent = (at - 1) / 2;
            if !self.is_before(&self.active[at], &self.active[parent]) {
                break;
            }
            self.active.swap(at, parent);
            at = parent;
        }
    }

    fn pop_heap(&mut self) -> Option<Item> {
        if self.active.is_empty() {
            return None;
        }
        let top = self.active.swap_remove(0);
        let mut at = 0;
        loop {
            let children = [2 * at + 1, 2 * at + 2];
            let children = children.into_iter().filter(|child| *child < self.active.len());
            let first = children.reduce(|a, b| {
                if self.is_before(&self.active[b], &self.active[a]) { b } else { a }
            });
            match first {
                Some(child) if self.is_before(&self.active[child], &self.active[at]) => {
                    self.active.swap(child, at);
                    at = child;
                }
                _ => return Some(top),
            }
        }
    }
}

/// Whether a change of a waiting Pod has to do with scheduling: not one of its status alone.
fn is_relevant_change(old: &PodInfo, new: &PodInfo) -> bool {
    let (a, b) = (&old.pod, &new.pod);
    a.spec != b.spec
        || a.metadata.labels != b.metadata.labels
        || a.metadata.annotations != b.metadata.annotations
}

#[cfg(test)]
mod tests {
    use rk_api::testing::{PodBuilder, node, pod};

    use super::*;
    use crate::NodeInfo;

    struct Queue(SchedulingQueue, Instant);

    impl Queue {
        fn new() -> Self {
            let profiles = vec![Arc::new(Profile::default())];
            Self(SchedulingQueue::new(profiles, Backoff::default()), Instant::now())
        }

        fn add(&mut self, pod: PodBuilder) {
            self.0.add(Arc::new(PodInfo::from(&*pod)), self.1);
        }

        fn pop(&mut self) -> Option<String> {
            self.0.pop(self.1).map(|it| it.info.name().to_owned())
        }

        fn later(&mut self, seconds: u64) {
            self.1 += Duration::from_secs(seconds);
        }

        /// Pops the Pod and has it turned down by a plugin.
        fn reject(&mut self, name: &str, plugin: &'static str) {
            assert_eq!(self.pop().as_deref(), Some(name));
            self.0.reject(&format!("uid-{name}"), [plugin].into(), false, self.1);
        }

        fn node_added(&mut self, node: rk_api::testing::NodeBuilder) -> usize {
            let node = NodeInfo::new(Arc::new(node.build()));
            self.0.on_event(&ClusterEvent::NodeAdded(&node), self.1)
        }
    }

    #[test]
    fn higher_priority_first_then_longer_waiting() {
        let mut queue = Queue::new();
        queue.add(pod("a"));
        queue.later(1);
        queue.add(pod("b"));
        queue.add(pod("c"));
        queue.add(pod("urgent").priority(7));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ["urgent", "a", "b", "c"]);
        assert_eq!((queue.0.active(), queue.0.len()), (0, 4), "in flight");
    }

    #[test]
    fn a_removed_or_changed_pod_is_not_handed_out_twice() {
        let mut queue = Queue::new();
        for n in 0..200 {
            queue.add(pod(&format!("p{n}")));
        }
        for n in 0..200 {
            queue.add(pod(&format!("p{n}")).label("changed", "yes"));
        }
        for n in 0..150 {
            queue.0.remove(&format!("uid-p{n}"));
        }
        assert_eq!(queue.0.active(), 50);
        let popped: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(popped.len(), 50, "{popped:?}");
    }

    #[test]
    fn an_event_wakes_only_those_it_may_help() {
        let mut queue = Queue::new();
        queue.add(pod("zone-a").node_selector("zone", "a"));
        queue.add(pod("large").cpu("100"));
        queue.reject("zone-a", "NodeAffinity");
        queue.reject("large", "NodeResourcesFit");
        queue.later(20);

        assert_eq!(queue.node_added(node("n").label("zone", "b")), 0);
        assert_eq!(queue.node_added(node("n").label("zone", "a")), 1);
        assert_eq!(queue.pop().as_deref(), Some("zone-a"));
        assert_eq!(queue.node_added(node("n").cpu("128")), 1);
        assert_eq!(queue.pop().as_deref(), Some("large"));
    }

    #[test]
    fn a_pod_without_a_culprit_is_woken_by_anything() {
        let mut queue = Queue::new();
        queue.add(pod("p"));
        queue.pop();
        queue.0.reject("uid-p", BTreeSet::new(), false, queue.1);
        queue.later(2);
        assert_eq!(queue.node_added(node("n")), 1);
    }

    #[test]
    fn a_woken_pod_rests_unless_nothing_else_is_to_do() {
        let mut queue = Queue::new();
        queue.add(pod("p").cpu("1"));
        queue.reject("p", "NodeResourcesFit");
        queue.node_added(node("n"));
        queue.add(pod("other"));
        assert_eq!(queue.0.active(), 1, "p rests");
        assert_eq!(queue.pop().as_deref(), Some("other"));
        assert_eq!(queue.pop().as_deref(), Some("p"), "nothing else to do");
    }

    #[test]
    fn errors_back_off_from_one_to_ten_seconds() {
        let mut queue = Queue::new();
        queue.add(pod("p"));
        let mut rests = Vec::new();
        for _ in 0..6 {
            assert_eq!(queue.pop().as_deref(), Some("p"));
            queue.0.reject("uid-p", BTreeSet::new(), true, queue.1);
            assert_eq!(queue.pop(), None);
            let until = queue.0.next_timer().unwrap();
            rests.push(until.duration_since(queue.1).as_secs());
            queue.1 = until;
        }
        assert_eq!(rests, [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn a_held_pod_is_woken_when_it_is_released() {
        let mut queue = Queue::new();
        queue.add(pod("p").cpu("1"));
        queue.reject("p", "NodeResourcesFit");
        queue.0.hold("uid-p");
        queue.later(400);
        queue.node_added(node("n"));
        assert_eq!(queue.pop(), None);
        queue.0.release("uid-p", false, queue.1);
        assert_eq!(queue.pop().as_deref(), Some("p"));

        queue.0.reject("uid-p", ["NodeResourcesFit"].into(), false, queue.1);
        queue.0.hold("uid-p");
        queue.0.release("uid-p", false, queue.1);
        assert_eq!(queue.pop(), None, "nothing happened meanwhile");
        queue.0.hold("uid-p");
        queue.0.release("uid-p", true, queue.1);
        assert_eq!(queue.pop().as_deref(), Some("p"), "what was begun for it failed");
    }

    #[test]
    fn after_five_minutes_a_pod_is_tried_again_anyway() {
        let mut queue = Queue::new();
        queue.add(pod("p").cpu("1"));
        queue.reject("p", "NodeResourcesFit");
        queue.later(200);
        assert_eq!(queue.pop(), None);
        queue.later(130);
        assert_eq!(queue.pop().as_deref(), Some("p"));
    }

    #[test]
    fn a_gated_pod_waits_for_its_gates_to_go() {
        let mut queue = Queue::new();
        queue.add(pod("p").gate("g"));
        assert_eq!(queue.pop(), None);
        assert_eq!(queue.node_added(node("n")), 0);
        queue.add(pod("p"));
        assert_eq!(queue.pop().as_deref(), Some("p"));
    }

    #[test]
    fn a_change_of_status_wakes_nobody() {
        let mut queue = Queue::new();
        queue.add(pod("p").cpu("1"));
        queue.reject("p", "TaintToleration");
        queue.later(20);
        queue.add(pod("p").cpu("1").phase("Pending"));
        assert_eq!(queue.pop(), None);
        queue.add(pod("p").cpu("1").tolerates("gpu"));
        assert_eq!(queue.pop().as_deref(), Some("p"));
    }
}
