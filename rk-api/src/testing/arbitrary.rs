use serde_json::{Map, Value, json};

use crate::schema::{self, Type};

/// How deep an object nests before only its required fields are made.
const DEPTH_MAX: usize = 8;

/// An object of the type that `schema` names (`io.k8s.api.core.v1.Pod`), with any of the fields that
/// the type has but `apiVersion` and `kind`. Validation would refuse most of them.
///
/// No value is empty or zero, since encodings differ in whether they keep these. `choices` decide
/// what is in it, so that a property test can shrink them; when they run out, what is optional is
/// left out.
pub fn arbitrary(schema: &str, choices: &[u8]) -> Value {
    Maker { choices: choices.iter() }.named(schema, 0)
}

struct Maker<'a> {
    choices: std::slice::Iter<'a, u8>,
}

impl Maker<'_> {
    fn choice(&mut self) -> u8 {
        self.choices.next().copied().unwrap_or_default()
    }

    fn named(&mut self, name: &str, depth: usize) -> Value {
        match name.rsplit('.').next().unwrap_or(name) {
            "Time" => return self.time(""),
            "MicroTime" => return self.time(".000042"),
            "Quantity" => return json!(format!("{}m", 100 + u32::from(self.choice()))),
            "Duration" => return json!("1h0m5s"),
            "RawExtension" | "FieldsV1" | "JSON" => return self.anything(),
            _ => {}
        }
        let Some(definition) = schema::graph().get(name) else { return self.anything() };
        match &definition.plain {
            // A type without fields.
            Some(Type::Any) => return json!({}),
            Some(plain) => return self.value(plain, depth),
            None => {}
        }
        let mut names: Vec<_> = definition.field_names().collect();
        names.sort_unstable();
        let mut object = Map::new();
        for name in names {
            let Some(field) = definition.field(name) else { continue };
            // The type of an object inside another follows from where it is.
            if definition.field("metadata").is_some() && ["apiVersion", "kind"].contains(&name) {
                continue;
            }
            // About one in four, so that objects stay small enough to read.
            let wanted = field.required || (depth < DEPTH_MAX && self.choice() % 4 == 3);
            if wanted {
                object.insert(name.to_owned(), self.value(&field.kind, depth + 1));
            }
        }
        Value::Object(object)
    }

    fn value(&mut self, kind: &Type, depth: usize) -> Value {
        match kind {
            Type::Named(name) => self.named(name, depth),
            Type::Map(values) => {
                let count = 1 + usize::from(self.choice() % 2);
                let entries = (0..count).map(|n| (format!("key{n}"), self.value(values, depth)));
                Value::Object(entries.collect())
            }
            Type::List(items) => {
                let count = 1 + usize::from(self.choice() % 2);
                (0..count).map(|_| self.value(items, depth)).collect()
            }
            // Four letters are also three bytes in base64.
            Type::String => {
                json!(format!("text{}", ["", "abcd", "Zz09"][usize::from(self.choice() % 3)]))
            }
            Type::Integer => json!(1 + u32::from(self.choice())),
            Type::Number => json!(0.5 + f64::from(self.choice())),
            Type::Boolean => json!(true),
            Type::IntOrString if self.choice().is_multiple_of(2) => json!(8080),
            Type::IntOrString => json!("50%"),
            Type::Any => self.anything(),
        }
    }

    fn time(&mut self, fraction: &str) -> Value {
        json!(format!("2026-01-02T03:04:{:02}{fraction}Z", self.choice() % 60))
    }

    fn anything(&mut self) -> Value {
        json!({ "any": self.choice(), "nested": { "list": ["a", true] } })
    }
}
