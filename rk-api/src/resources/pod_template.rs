//! PodTemplate.

use k8s_openapi::{api::core::v1::PodTemplate, jiff::Timestamp};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    pod::{defaults, validation},
    row::Row,
    warnings, workload,
};
use crate::{
    field::{ErrorList, Path},
    meta::table::{containers_and_images, labels, name},
};

/// The row of PodTemplate.
pub(super) fn row() -> Resource {
    Row::of::<PodTemplates>().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Containers", "string", "Names of the template's containers."),
    Column::new("Images", "string", "Images of the template's containers."),
    Column::new("Pod Labels", "string", "The labels that Pods get."),
];

/// How a PodTemplate behaves.
#[derive(Debug, Default)]
pub(super) struct PodTemplates;

impl Kind for PodTemplates {
    type Object = PodTemplate;

    fn default(template: &mut PodTemplate) {
        defaults::template(template.template.get_or_insert_default());
    }

    fn prepare_create(template: &mut PodTemplate) {
        workload::first_generation(&mut template.metadata);
    }

    fn prepare_update(new: &mut PodTemplate, old: &PodTemplate, _: Part) {
        let changed = new.template != old.template;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate(template: &PodTemplate) -> ErrorList {
        let template = template.template.clone().unwrap_or_default();
        validation::template(&template, &Path::new("template"))
    }

    fn warnings(new: &PodTemplate, old: Option<&PodTemplate>) -> Vec<String> {
        let (old, path) = (old.map(|old| &old.metadata), Path::new("template"));
        warnings::workload(&new.metadata, old, false, new.template.as_ref(), &path)
    }

    fn cells(template: &PodTemplate, _: Timestamp) -> Vec<Value> {
        let inner = template.template.clone().unwrap_or_default();
        let pod = inner.spec.unwrap_or_default();
        let [containers, images] = containers_and_images(&pod.containers);
        let pod_labels = inner.metadata.and_then(|meta| meta.labels);
        vec![
            json!(name(&template.metadata)),
            containers,
            images,
            json!(labels(pod_labels.as_ref())),
        ]
    }
}
