//! What an autoscaler reports.

use jiff::Timestamp;
use k8s_openapi::{
    api::autoscaling::v2::{
        HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus,
        MetricStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::time::whole_seconds;

pub(super) const ABLE: &str = "AbleToScale";
pub(super) const ACTIVE: &str = "ScalingActive";
pub(super) const LIMITED: &str = "ScalingLimited";

/// A status in the making.
pub(super) struct Report {
    pub status: HorizontalPodAutoscalerStatus,
    now: Timestamp,
}

impl Report {
    /// Begins with what was said last.
    pub fn of(autoscaler: &HorizontalPodAutoscaler, now: Timestamp) -> Self {
        let mut status = autoscaler.status.clone().unwrap_or_default();
        status.observed_generation = autoscaler.metadata.generation;
        Self { status, now: whole_seconds(now) }
    }

    /// Says something. The transition time moves only with the condition's status.
    pub fn say(&mut self, type_: &str, holds: bool, reason: &str, message: impl Into<String>) {
        let conditions = self.status.conditions.get_or_insert_default();
        let index = conditions.iter().position(|said| said.type_ == type_).unwrap_or_else(|| {
            conditions.push(HorizontalPodAutoscalerCondition {
                type_: type_.to_owned(),
                ..HorizontalPodAutoscalerCondition::default()
            });
            conditions.len() - 1
        });
        let said = &mut conditions[index];
        let status = if holds { "True" } else { "False" };
        if said.status != status {
            said.last_transition_time = Some(Time(self.now));
        }
        said.status = status.to_owned();
        said.reason = Some(reason.to_owned());
        said.message = Some(message.into());
    }

    /// Sets the counts. Without a decision the wanted number stays what it was.
    pub fn count(&mut self, current: i32, desired: Option<i32>, metrics: Vec<MetricStatus>) {
        self.status.current_replicas = Some(current);
        if let Some(desired) = desired {
            self.status.desired_replicas = desired;
        }
        self.status.current_metrics = (!metrics.is_empty()).then_some(metrics);
    }

    /// Notes that the target was scaled now.
    pub fn scaled(&mut self) {
        self.status.last_scale_time = Some(Time(self.now));
    }
}
