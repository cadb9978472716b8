//! PodPreset: a Pod that is created gets what the PodPresets of its namespace have for it, or, when
//! they contradict it or each other, nothing at all and an Event that says why.
//!
//! It is the plug-in of Kubernetes 1.19, but for the Event, which only its design has.

mod merge;

use std::sync::Weak;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::{Admission, AdmissionRequest, Operation, Provisioner};
use crate::{
    clock,
    meta::selectors::LabelQuery,
    resources::{BuiltIn, pod_preset::PodPreset},
    server::{bootstrap, reader::Reader, status::Result},
};

/// The name of the plug-in.
pub(super) const NAME: &str = "PodPreset";

/// The annotation of Pods that want nothing.
const EXCLUDE: &str = "podpreset.admission.kubernetes.io/exclude";

/// What the annotations begin with that say what a Pod got.
const MARK: &str = "podpreset.admission.kubernetes.io/podpreset-";

/// The annotation of Pods that a node has from elsewhere.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The part of an Event's name that is its Pod's, at most.
const NAME_BYTES_MAX: usize = 200;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct PodPresets {
    pub(super) reader: Reader,
    pub(super) provisioner: Provisioner,
}

#[async_trait]
impl Admission for PodPresets {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.operation == Operation::Create && request.is_about("pods")
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        let presets = self.reader.list::<PodPreset>(request.namespace)?;
        let Some(pod) = request.object_as::<Pod>() else { return Ok(()) };
        // What it has from one already, from the first round or in a copy, it does not get again.
        let due = |preset: &&PodPreset| selects(preset, pod) && !is_marked(pod, preset);
        let presets: Vec<_> = presets.iter().filter(due).collect();
        if presets.is_empty() {
            return Ok(());
        }
        let spec = pod.spec.get_or_insert_default();
        match merge::merged(spec, &presets) {
            Ok(merged) => {
                *spec = merged;
                let annotations = pod.metadata.annotations.get_or_insert_default();
                for preset in presets {
                    let version = preset.metadata.resource_version.clone();
                    annotations.insert(mark(preset), version.unwrap_or_default());
                }
            }
            Err(conflicts) => {
                tracing::warn!(conflicts, "a Pod gets nothing from its PodPresets");
                if !request.dry_run && !request.rounds.second {
                    self.tell(request, &conflicts).await;
                }
            }
        }
        Ok(())
    }
}

impl PodPresets {
    /// Says in an Event that the Pod gets nothing. That it cannot be said does not matter to the Pod.
    async fn tell(&self, request: &AdmissionRequest<'_>, why: &str) {
        let (Some(server), Some(pod)) =
            (self.provisioner.0.get().and_then(Weak::upgrade), request.new_as::<Pod>())
        else {
            return;
        };
        let meta = &pod.metadata;
        let name = meta.name.as_ref().or(meta.generate_name.as_ref());
        let name = name.map(String::as_str).unwrap_or_default();
        let own = name.get(..NAME_BYTES_MAX).unwrap_or(name).trim_end_matches(['-', '.']);
        let (now, namespace) = (clock::now(), request.namespace.unwrap_or_default());
        let seconds = clock::now_seconds();
        let event = json!({
            "metadata": {
                "name": format!("{own}.{:x}", now.as_nanosecond()),
                "namespace": namespace,
            },
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name,
            },
            "type": "Warning",
            "reason": "PodPresetConflict",
            "message": why,
            "source": { "component": "podpreset-admission" },
            "firstTimestamp": seconds,
            "lastTimestamp": seconds,
            "count": 1,
        });
        let told = bootstrap::ensure(&server, "", "v1", "events", Some(namespace), event).await;
        if let Err(error) = told {
            tracing::warn!(%error, "an Event about PodPresets cannot be written");
        }
    }
}

fn selects(preset: &PodPreset, pod: &Pod) -> bool {
    let annotation = |key: &str| pod.metadata.annotations.as_ref()?.get(key).map(String::as_str);
    annotation(EXCLUDE) != Some("true")
        && annotation(MIRROR).is_none()
        && LabelQuery::from_selector(&preset.spec.selector)
            .matches_optional(pod.metadata.labels.as_ref())
}

fn mark(preset: &PodPreset) -> String {
    format!("{MARK}{}", name_of(preset))
}

fn name_of(object: &impl BuiltIn) -> &str {
    k8s_openapi::Metadata::metadata(object).name.as_deref().unwrap_or_default()
}

fn is_marked(pod: &Pod, preset: &PodPreset) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.is_some_and(|annotations| {
        annotations.get(&mark(preset)) == preset.metadata.resource_version.as_ref()
    })
}
