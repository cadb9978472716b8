//! Conditions of a status: found and set by type.

use k8s_openapi::{
    api::{
        apps::v1::{
            DaemonSetCondition, DeploymentCondition, ReplicaSetCondition, StatefulSetCondition,
        },
        batch::v1::JobCondition,
        core::v1::{
            NamespaceCondition, NodeCondition, PersistentVolumeClaimCondition, PodCondition,
            ReplicationControllerCondition,
        },
    },
    apimachinery::pkg::apis::meta::v1::{self, Time},
};

/// A condition of any kind of object.
pub trait Conditional {
    /// What it is about, for example `Ready`: at most one condition of a list has this type.
    fn type_(&self) -> &str;
    /// `True`, `False` or `Unknown`.
    fn status(&self) -> &str;
    /// When the status last changed.
    fn transition(&self) -> Option<&Time>;
    /// Sets when the status last changed.
    fn set_transition(&mut self, time: Option<Time>);
}

/// Some conditions may leave out what others must have.
trait Text {
    fn text(&self) -> &str;
}

impl Text for String {
    fn text(&self) -> &str {
        self
    }
}

impl Text for Option<String> {
    fn text(&self) -> &str {
        self.as_deref().unwrap_or("")
    }
}

macro_rules! conditional {
    ($($condition:ty),* $(,)?) => {$(
        impl Conditional for $condition {
            fn type_(&self) -> &str {
                self.type_.text()
            }
            fn status(&self) -> &str {
                self.status.text()
            }
            fn transition(&self) -> Option<&Time> {
                self.last_transition_time.as_ref()
            }
            fn set_transition(&mut self, time: Option<Time>) {
                self.last_transition_time = time;
            }
        }
    )*};
}

conditional!(
    DaemonSetCondition,
    DeploymentCondition,
    JobCondition,
    NamespaceCondition,
    NodeCondition,
    PersistentVolumeClaimCondition,
    PodCondition,
    ReplicaSetCondition,
    ReplicationControllerCondition,
    StatefulSetCondition,
);

impl Conditional for v1::Condition {
    fn type_(&self) -> &str {
        &self.type_
    }
    fn status(&self) -> &str {
        &self.status
    }
    fn transition(&self) -> Option<&Time> {
        Some(&self.last_transition_time)
    }
    fn set_transition(&mut self, time: Option<Time>) {
        if let Some(time) = time {
            self.last_transition_time = time;
        }
    }
}

/// The condition of this type.
pub fn get<'a, C: Conditional>(conditions: &'a [C], type_: &str) -> Option<&'a C> {
    conditions.iter().find(|condition| condition.type_() == type_)
}

/// Whether the condition of this type is there and `True`.
pub fn is_true<C: Conditional>(conditions: &[C], type_: &str) -> bool {
    get(conditions, type_).is_some_and(|condition| condition.status() == "True")
}

/// Puts `condition` in place of the one with its type, or at the end. While the status stays the
/// same, so does the transition time. Returns whether the status changed or the condition is new.
pub fn set<C: Conditional>(conditions: &mut Vec<C>, mut condition: C) -> bool {
    match conditions.iter_mut().find(|old| old.type_() == condition.type_()) {
        Some(old) => {
            let changed = old.status() != condition.status();
            if !changed {
                condition.set_transition(old.transition().cloned());
            }
            *old = condition;
            changed
        }
        None => {
            conditions.push(condition);
            true
        }
    }
}

/// Takes away the condition of this type.
pub fn remove<C: Conditional>(conditions: &mut Vec<C>, type_: &str) {
    conditions.retain(|condition| condition.type_() != type_);
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    #[test]
    fn the_transition_time_stays_while_the_status_does() {
        let condition = |status: &str, at: i64| PodCondition {
            type_: "Ready".to_owned(),
            status: status.to_owned(),
            last_transition_time: Some(Time(Timestamp::from_second(at).unwrap())),
            ..PodCondition::default()
        };
        let mut conditions = Vec::new();
        assert!(set(&mut conditions, condition("False", 1)));
        assert!(!set(&mut conditions, condition("False", 2)));
        assert_eq!(conditions, [condition("False", 1)]);
        assert!(set(&mut conditions, condition("True", 3)));
        assert_eq!(conditions, [condition("True", 3)]);
        assert!(is_true(&conditions, "Ready"));
        remove(&mut conditions, "Ready");
        assert!(get(&conditions, "Ready").is_none());
    }
}
