//! The name part that stands for a Pod template, and when two templates are the same. Pure.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

use super::model::POD_TEMPLATE_HASH;

/// The alphabet of generated names: no vowels and no digits that look like letters, so that no
/// words come about.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A short text that is the same for equal templates, and another for each collision count.
///
/// It only names ReplicaSets: which set a template belongs to is found by comparing templates, so
/// the value may differ from the one Kubernetes would choose.
pub(super) fn template_hash(template: &PodTemplateSpec, collision_count: Option<i32>) -> String {
    // FNV-1a, 32 bits. Typed objects print their fields and maps in a fixed order.
    let mut hash: u32 = 0x811c_9dc5;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    };
    feed(normal_form(template).to_string().as_bytes());
    if let Some(count) = collision_count {
        feed(&count.to_le_bytes());
    }
    safe_text(hash)
}

/// A number as a text that is fit for a name and makes no words.
pub(crate) fn safe_text(number: u32) -> String {
    let digits = number.to_string();
    digits.bytes().map(|digit| ALPHABET[usize::from(digit) % ALPHABET.len()] as char).collect()
}

/// Whether two templates ask for the same Pod: equal but for the hash label, and with absent and
/// empty fields counting as one.
pub(super) fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    normal_form(a) == normal_form(b)
}

fn normal_form(template: &PodTemplateSpec) -> Value {
    let mut value = serde_json::to_value(template).unwrap_or_default();
    if let Some(labels) = value.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(POD_TEMPLATE_HASH);
    }
    prune(&mut value);
    value
}

/// Drops nulls, and objects and arrays that are empty once that is done, except where emptiness is
/// the statement: an element of an array, and a member like `emptyDir: {}` that chooses a variant.
fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(prune);
            map.retain(|key, value| match value {
                Value::Null => false,
                Value::Array(items) => !items.is_empty(),
                Value::Object(members) => {
                    !members.is_empty() || !PRUNED_WHEN_EMPTY.contains(&key.as_str())
                }
                _ => true,
            });
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

/// Objects whose absence means the same as their being empty.
const PRUNED_WHEN_EMPTY: &[&str] = &[
    "metadata",
    "labels",
    "annotations",
    "resources",
    "limits",
    "requests",
    "securityContext",
    "nodeSelector",
    "affinity",
];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(value: Value) -> PodTemplateSpec {
        serde_json::from_value(value).unwrap()
    }

    fn web(image: &str) -> PodTemplateSpec {
        template(json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": image}], "volumes": [{"name": "v", "emptyDir": {}}]},
        }))
    }

    #[test]
    fn the_hash_depends_on_the_template_and_the_collision_count_only() {
        let hash = template_hash(&web("v1"), None);
        assert_eq!(hash, template_hash(&web("v1"), None));
        assert_ne!(hash, template_hash(&web("v2"), None));
        assert_ne!(hash, template_hash(&web("v1"), Some(1)));
        assert!((1..=10).contains(&hash.len()), "{hash}");
        assert!(hash.bytes().all(|byte| ALPHABET.contains(&byte)), "{hash}");
    }

    #[test]
    fn a_template_equals_its_copy_in_a_replicaset() {
        let mut copy = web("v1");
        copy.metadata
            .get_or_insert_default()
            .labels
            .get_or_insert_default()
            .insert(POD_TEMPLATE_HASH.into(), "abc".into());
        copy.spec.as_mut().unwrap().containers[0].resources = Some(Default::default());
        assert!(same_template(&web("v1"), &copy));
        assert!(!same_template(&web("v2"), &copy));
        assert_eq!(template_hash(&web("v1"), None), template_hash(&copy, None));
    }

    #[test]
    fn an_empty_choice_is_still_a_choice() {
        let empty_dir = template(
            json!({"spec": {"containers": [], "volumes": [{"name": "v", "emptyDir": {}}]}}),
        );
        let none = template(json!({"spec": {"containers": [], "volumes": [{"name": "v"}]}}));
        assert!(!same_template(&empty_dir, &none));
    }
}
