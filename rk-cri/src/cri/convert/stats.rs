//! What containers use.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::{
    super::{memory, v1},
    nanoseconds, time,
};
use crate::runtime::ContainerStats;

/// What a runtime tells of a container that started at `started_at`; `None` when it tells nothing
/// of CPU or memory, as of one that has just begun.
pub(in crate::cri) fn from_v1(
    stats: v1::ContainerStats,
    started_at: Timestamp,
) -> Option<ContainerStats> {
    let attributes = stats.attributes?;
    let (cpu, memory) = (stats.cpu?, stats.memory?);
    Some(ContainerStats {
        pod: memory::pod_of(&attributes.labels),
        name: attributes.metadata.map(|metadata| metadata.name).unwrap_or_default(),
        started_at,
        at: time(cpu.timestamp)?,
        cpu_time: Duration::from_nanos(cpu.usage_core_nano_seconds?.value),
        memory_working_set_bytes: memory.working_set_bytes?.value,
    })
}

/// What a client is told.
pub(in crate::cri) fn to_v1(
    stats: &ContainerStats,
    attributes: v1::ContainerAttributes,
) -> v1::ContainerStats {
    let timestamp = nanoseconds(stats.at);
    let cpu = u64::try_from(stats.cpu_time.as_nanos()).unwrap_or(u64::MAX);
    let value = |value| Some(v1::UInt64Value { value });
    v1::ContainerStats {
        attributes: Some(attributes),
        cpu: Some(v1::CpuUsage {
            timestamp,
            usage_core_nano_seconds: value(cpu),
            ..Default::default()
        }),
        memory: Some(v1::MemoryUsage {
            timestamp,
            working_set_bytes: value(stats.memory_working_set_bytes),
            ..Default::default()
        }),
        ..Default::default()
    }
}
