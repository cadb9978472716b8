//! StorageClass.

use k8s_openapi::{api::storage::v1::StorageClass, jiff::Timestamp};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, text},
    row::Row,
};
use crate::{
    field::{ErrorList, Path},
    meta::{
        names,
        table::{age, name},
    },
};

/// The row of StorageClass.
pub(super) fn row() -> Resource {
    Row::of::<StorageClasses>().short(&["sc"]).columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Provisioner", "string", "Who makes volumes of the class."),
    Column::new("ReclaimPolicy", "string", "What becomes of a volume when its claim is gone."),
    Column::new("VolumeBindingMode", "string", "When a claim gets its volume."),
    Column::new("AllowVolumeExpansion", "string", "Whether volumes can grow."),
    Column::AGE,
];

/// How a StorageClass behaves.
#[derive(Debug, Default)]
pub(super) struct StorageClasses;

impl Kind for StorageClasses {
    type Object = StorageClass;

    fn default(class: &mut StorageClass) {
        class.reclaim_policy.get_or_insert_with(|| "Delete".to_owned());
        class.volume_binding_mode.get_or_insert_with(|| "Immediate".to_owned());
    }

    fn validate(class: &StorageClass) -> ErrorList {
        let mut errors = Errors::default();
        let qualified = |name: &str| names::qualified_name(&name.to_lowercase());
        errors.required_form(&Path::new("provisioner"), &class.provisioner, qualified);
        let at = Path::new("parameters");
        let parameters = class.parameters.clone().unwrap_or_default();
        if parameters.keys().any(String::is_empty) {
            errors.invalid(&at, "", "field can not be empty.");
        }
        if let Some(policy) = class.reclaim_policy.as_deref().filter(|policy| !policy.is_empty()) {
            errors.one_of(&Path::new("reclaimPolicy"), policy, &["Delete", "Retain"]);
        }
        let modes = ["Immediate", "WaitForFirstConsumer"];
        let mode = text(&class.volume_binding_mode);
        errors.required_one_of(&Path::new("volumeBindingMode"), mode, &modes);
        errors.0
    }

    fn validate_update(new: &StorageClass, old: &StorageClass, _: Part) -> ErrorList {
        let mut errors = Errors::default();
        let changes = [
            ("parameters", new.parameters != old.parameters),
            ("provisioner", new.provisioner != old.provisioner),
            ("reclaimPolicy", new.reclaim_policy != old.reclaim_policy),
        ];
        for (field, _) in changes.into_iter().filter(|(_, changed)| *changed) {
            errors.forbidden(&Path::new(field), &format!("updates to {field} are forbidden."));
        }
        errors.immutable(
            &Path::new("volumeBindingMode"),
            &new.volume_binding_mode,
            &old.volume_binding_mode,
        );
        errors.0
    }

    fn cells(class: &StorageClass, now: Timestamp) -> Vec<Value> {
        let annotations = class.metadata.annotations.as_ref();
        let is_default = [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ]
        .into_iter()
        .any(|key| annotations.and_then(|all| all.get(key)).is_some_and(|value| value == "true"));
        let suffix = if is_default { " (default)" } else { "" };
        vec![
            json!(format!("{}{suffix}", name(&class.metadata))),
            json!(class.provisioner),
            json!(class.reclaim_policy.as_deref().unwrap_or("Delete")),
            json!(class.volume_binding_mode.as_deref().unwrap_or("<unset>")),
            json!(class.allow_volume_expansion.unwrap_or(false)),
            json!(age(&class.metadata, now)),
        ]
    }

    const CREATE_ON_UPDATE: bool = false;
}
