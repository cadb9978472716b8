//! What Pods take on the node's disk, and how full their volumes are.

use k8s_openapi::api::core::v1::Pod;
use rk_api::volumes::claim_of;
use serde_json::{Map, Value, json};

use super::seconds;
use crate::{
    agent::{eviction::local_storage::DiskUse, worker::Core},
    csi::v1::{NodeGetVolumeStatsResponse, VolumeUsageUnit},
};

/// Adds to a Pod's summary what is about storage. `disk` is the node's file system.
pub(super) async fn add(shown: &mut Value, core: &Core, pod: &Pod, disk: &Value) {
    let used = core.measure_disk(pod).await;
    let told = core.csi_stats(pod).await;
    for container in shown["containers"].as_array_mut().into_iter().flatten() {
        let written = container["name"].as_str().and_then(|name| used.containers.get(name));
        if let Some(bytes) = written {
            container["rootfs"] = on_node(*bytes, disk);
        }
    }
    if let Some(fields) = shown.as_object_mut() {
        fields.extend(render(pod, &used, &told, disk));
    }
}

/// So many bytes of the node's file system.
fn on_node(bytes: i64, disk: &Value) -> Value {
    json!({
        "time": seconds(rk_api::clock::now()),
        "usedBytes": bytes,
        "capacityBytes": disk["capacityBytes"],
        "availableBytes": disk["availableBytes"],
    })
}

fn render(
    pod: &Pod,
    used: &DiskUse,
    told: &[(String, NodeGetVolumeStatsResponse)],
    disk: &Value,
) -> Map<String, Value> {
    let time = seconds(rk_api::clock::now());
    let kept = used.volumes.iter().map(|(name, bytes)| {
        let mut volume = on_node(*bytes, disk);
        volume["name"] = json!(name);
        volume
    });
    let mounted = told.iter().map(|(name, stats)| {
        let mut volume = json!({"time": time, "name": name});
        for usage in &stats.usage {
            let (total, available, used) = match VolumeUsageUnit::try_from(usage.unit) {
                Ok(VolumeUsageUnit::Bytes) => ("capacityBytes", "availableBytes", "usedBytes"),
                Ok(VolumeUsageUnit::Inodes) => ("inodes", "inodesFree", "inodesUsed"),
                _ => continue,
            };
            volume[total] = json!(usage.total);
            volume[available] = json!(usage.available);
            volume[used] = json!(usage.used);
        }
        if let Some(condition) = &stats.volume_condition {
            volume["volumeHealthStats"] = json!({"abnormal": condition.abnormal});
        }
        let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let claim = volumes.find(|volume| volume.name == *name);
        if let Some(claim) = claim.and_then(|volume| claim_of(pod, volume)) {
            volume["pvcRef"] = json!({"name": claim, "namespace": pod.metadata.namespace});
        }
        volume
    });
    let volumes: Vec<Value> = kept.chain(mounted).collect();
    let mut fields = Map::new();
    if !volumes.is_empty() {
        fields.insert("volume".to_owned(), Value::Array(volumes));
    }
    fields.insert("ephemeral-storage".to_owned(), on_node(used.total(pod), disk));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::v1::VolumeUsage;

    #[test]
    fn volumes_are_told_with_their_claims_and_the_rest_as_part_of_the_nodes_disk() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [], "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "c"}},
                {"name": "scratch", "emptyDir": {}}]}}))
        .unwrap();
        let used = DiskUse {
            volumes: [("scratch".to_owned(), 10)].into(),
            containers: [("main".to_owned(), 5)].into(),
        };
        let bytes = VolumeUsage {
            available: 60,
            total: 100,
            used: 40,
            unit: VolumeUsageUnit::Bytes.into(),
        };
        let stats = NodeGetVolumeStatsResponse { usage: vec![bytes], volume_condition: None };
        let disk = json!({"capacityBytes": 1000, "availableBytes": 500});
        let fields = render(&pod, &used, &[("data".to_owned(), stats)], &disk);
        assert_eq!(fields["ephemeral-storage"]["usedBytes"], 15);
        assert_eq!(fields["volume"][0]["name"], "scratch");
        assert_eq!(fields["volume"][0]["availableBytes"], 500);
        assert_eq!(fields["volume"][1]["usedBytes"], 40);
        assert_eq!(fields["volume"][1]["pvcRef"], json!({"name": "c", "namespace": "ns"}));
    }
}
