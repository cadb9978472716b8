//! Taking fields away from an object, and bringing sets up to date with a changed schema.

use serde_json::Value;

use super::{
    path::PathElement,
    schema::{ListKind, Schema, Shape, TypeRef},
    set::FieldSet,
};

impl Schema {
    /// The object without these fields. What has lost its last part is gone too.
    pub fn remove(&self, kind: TypeRef, object: &Value, fields: &FieldSet) -> Value {
        self.removed(kind, object, fields).unwrap_or_default()
    }

    fn removed(&self, kind: TypeRef, value: &Value, fields: &FieldSet) -> Option<Value> {
        match (self.shape(kind), value) {
            (Shape::Scalar(_), value) => Some(value.clone()),
            (Shape::List(list), Value::Array(items)) => {
                if matches!(list.kind, ListKind::Atomic) {
                    return None;
                }
                let kept = items.iter().filter_map(|item| {
                    let Ok(element) = list.element(item) else { return Some(item.clone()) };
                    if fields.has(std::slice::from_ref(&element)) {
                        return None;
                    }
                    match fields.below(&element) {
                        Some(below) => {
                            Some(self.removed(list.items, item, below).unwrap_or_default())
                        }
                        None => Some(item.clone()),
                    }
                });
                let kept: Vec<_> = kept.collect();
                (!kept.is_empty()).then_some(Value::Array(kept))
            }
            (Shape::Object(object), Value::Object(_)) if object.atomic => None,
            (Shape::Object(_) | Shape::Any, Value::Object(members)) => {
                let kept = members.iter().filter_map(|(name, value)| {
                    let element = PathElement::field(name);
                    if fields.has(std::slice::from_ref(&element)) {
                        return None;
                    }
                    let value = match (fields.below(&element), self.step(kind, &element)) {
                        (Some(below), Some(step)) => {
                            self.removed(step, value, below).unwrap_or_default()
                        }
                        _ => value.clone(),
                    };
                    Some((name.clone(), value))
                });
                let kept: serde_json::Map<_, _> = kept.collect();
                (!kept.is_empty()).then_some(Value::Object(kept))
            }
            (Shape::Any, Value::Array(_)) => None,
            (Shape::Any, value) => Some(value.clone()),
            (Shape::List(_) | Shape::Object(_), _) => None,
        }
    }

    /// A set that was made when some values had parts which the schema now takes as one: who owned
    /// a part owns the whole. `None` when nothing is out of date.
    pub(super) fn up_to_date(&self, kind: TypeRef, fields: &FieldSet) -> Option<FieldSet> {
        let mut whole = Vec::new();
        self.find_whole(kind, fields, &mut Vec::new(), &mut whole);
        if whole.is_empty() {
            return None;
        }
        let mut out = fields.clone();
        for path in whole {
            let mut set = FieldSet::default();
            set.insert(&path);
            out = out.recursive_difference(&set).union(&set);
        }
        Some(out)
    }

    fn find_whole(
        &self,
        kind: TypeRef,
        fields: &FieldSet,
        path: &mut Vec<PathElement>,
        whole: &mut Vec<Vec<PathElement>>,
    ) {
        for (element, below) in &fields.children {
            let Some(step) = self.step(kind, element) else { continue };
            path.push(element.clone());
            let atomic = match self.shape(step) {
                Shape::List(list) => matches!(list.kind, ListKind::Atomic),
                Shape::Object(object) => object.atomic,
                Shape::Scalar(_) | Shape::Any => false,
            };
            if atomic {
                whole.push(path.clone());
            } else {
                self.find_whole(step, below, path, whole);
            }
            path.pop();
        }
    }
}
