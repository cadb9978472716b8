//! How long after failures the next Pod is made. Pure.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::model::earlier_failures;
use crate::pods;

/// After the first failure.
const FIRST: Duration = Duration::from_secs(10);
/// At most.
const MOST: Duration = Duration::from_secs(600);

/// The failures of a Job since its last success. Not stored anywhere: after a restart of the
/// controller it begins with what fails from then on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    failures: u32,
    last: Option<Timestamp>,
}

impl Backoff {
    /// With Pods that ended since. A success starts the count anew; only failures after it count.
    pub(super) fn after(self, succeeded: &[Arc<Pod>], failed: &[Arc<Pod>]) -> Self {
        let last_success = succeeded.iter().map(|pod| finished_at(pod)).max();
        let start = if last_success.is_some() { Self::default() } else { self };
        let counted = failed.iter().map(|pod| finished_at(pod));
        counted.filter(|time| last_success.is_none_or(|success| *time > success)).fold(
            start,
            |record, time| Self {
                failures: record.failures.saturating_add(1),
                last: record.last.max(Some(time)),
            },
        )
    }

    /// The time left until the next Pod may be made.
    pub(super) fn remaining(&self, now: Timestamp) -> Duration {
        let Some(last) = self.last.filter(|_| self.failures > 0) else { return Duration::ZERO };
        let doublings = (self.failures - 1).min(16);
        let pause = (FIRST * 2u32.pow(doublings)).min(MOST);
        let passed = now.duration_since(last);
        let pause = SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX);
        Duration::try_from(pause - passed).unwrap_or_default()
    }
}

/// The time left until an index may have its next Pod after `failed`.
pub(super) fn remaining_of_index(failed: Option<&Pod>, now: Timestamp) -> Duration {
    let Some(pod) = failed else { return Duration::ZERO };
    let failures = u32::try_from(earlier_failures(pod)).unwrap_or(0).saturating_add(1);
    Backoff { failures, last: Some(finished_at(pod)) }.remaining(now)
}

/// When the Pod ended, by the best of what is known: its containers, its readiness, its deletion,
/// at worst its creation.
pub(super) fn finished_at(pod: &Pod) -> Timestamp {
    let by_containers = || {
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        let ends = statuses.iter().map(|container| {
            let ended = container.state.as_ref()?.terminated.as_ref()?;
            ended.finished_at.as_ref().map(|time| time.0)
        });
        ends.collect::<Option<Vec<_>>>()?.into_iter().max()
    };
    let by_readiness = || {
        let ready = pods::condition(pod, "Ready").filter(|ready| ready.status == "False")?;
        ready.last_transition_time.as_ref().map(|time| time.0)
    };
    let by_deletion = || {
        let deadline = pod.metadata.deletion_timestamp.as_ref()?.0;
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        deadline.checked_sub(SignedDuration::from_secs(grace)).ok()
    };
    let created = || pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    by_containers().or_else(by_readiness).or_else(by_deletion).or_else(created).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rk_api::testing::pod;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn ended(second: i64) -> Arc<Pod> {
        Arc::new(pod("p").created(second).build())
    }

    #[test]
    fn the_pause_doubles_from_ten_seconds_to_ten_minutes() {
        let mut record = Backoff::default();
        assert_eq!(record.remaining(at(0)), Duration::ZERO);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            record = record.after(&[], &[ended(1000)]);
            pauses.push(record.remaining(at(1000)).as_secs());
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(record.remaining(at(1599)).as_secs(), 1);
        assert_eq!(record.remaining(at(1600)), Duration::ZERO);
    }

    #[test]
    fn only_failures_after_the_last_success_count() {
        let record = Backoff::default().after(&[], &[ended(10), ended(20)]);
        assert_eq!(record.after(&[ended(30)], &[]), Backoff::default());
        let mixed = record.after(&[ended(30)], &[ended(25), ended(40), ended(35)]);
        assert_eq!(mixed, Backoff { failures: 2, last: Some(at(40)) });
        assert_eq!(record.after(&[], &[]), record);
    }
}
