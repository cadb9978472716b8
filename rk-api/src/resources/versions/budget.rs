//! PodDisruptionBudget v1beta1: its empty selector selects no Pod, while v1's selects all. Each is
//! written in the other version with a label that no Pod has.

use serde_json::{Value, json};

use super::{Conversion, tree};

/// v1beta1.
pub(super) const V1BETA1: Conversion = Conversion { read, write };

const LABEL: &str = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match";

fn read(budget: &mut Value, _: &mut Vec<String>) {
    exchange(budget, "Exists", "DoesNotExist");
}

fn write(budget: &mut Value) {
    exchange(budget, "DoesNotExist", "Exists");
}

/// Writes the empty selector as the label that `empty`, and the label that is `full` as the empty
/// selector. In other selectors the label has no meaning.
fn exchange(budget: &mut Value, empty: &str, full: &str) {
    let Some(spec) = tree::object(budget, &["spec"]) else { return };
    let Some(selector) = spec.get_mut("selector").filter(|selector| selector.is_object()) else {
        return;
    };
    let is_empty = |value: &Value| {
        value.is_null()
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty)
    };
    if let Some(selector) = selector.as_object_mut() {
        selector.retain(|_, value| !is_empty(value));
    }
    let label =
        |operator: &str| json!({"matchExpressions": [{"key": LABEL, "operator": operator}]});
    if *selector == json!({}) {
        *selector = label(empty);
    } else if *selector == label(full) {
        *selector = json!({});
    } else if let Some(Value::Array(all)) = selector.get_mut("matchExpressions") {
        all.retain(|expression| expression["key"] != LABEL);
    }
}
