//! The `scale` subresource of a custom object: where its replicas are.

use k8s_openapi::{
    api::autoscaling::v1::{Scale, ScaleSpec, ScaleStatus},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceSubresourceScale,
};
use serde_json::{Map, Value};

use crate::field::{ErrorList, FieldError, Path};

/// Where the replicas and the selector are.
#[derive(Clone, Debug)]
pub(super) struct ScalePaths {
    spec_replicas: Dotted,
    status_replicas: Dotted,
    selector: Option<Dotted>,
}

/// Names to follow, `.spec.replicas`, and how messages write them.
#[derive(Clone, Debug)]
struct Dotted {
    text: Box<str>,
}

impl ScalePaths {
    pub(super) fn of(scale: &CustomResourceSubresourceScale) -> Self {
        let selector = scale.label_selector_path.as_deref().filter(|path| !path.is_empty());
        Self {
            spec_replicas: Dotted { text: scale.spec_replicas_path.as_str().into() },
            status_replicas: Dotted { text: scale.status_replicas_path.as_str().into() },
            selector: selector.map(|path| Dotted { text: path.into() }),
        }
    }

    /// The names that lead to the replicas that are wanted.
    pub(super) fn replicas(&self) -> Vec<&str> {
        self.spec_replicas.steps().collect()
    }

    /// The scale, without metadata.
    pub(super) fn read(&self, object: &Map<String, Value>) -> Scale {
        let number = |path: &Dotted| {
            let number = path.find(object).ok().flatten().and_then(Value::as_i64);
            number.and_then(|number| i32::try_from(number).ok())
        };
        let selector = self.selector.as_ref().and_then(|path| path.find(object).ok().flatten());
        Scale {
            spec: Some(ScaleSpec { replicas: number(&self.spec_replicas) }),
            status: Some(ScaleStatus {
                replicas: number(&self.status_replicas).unwrap_or(0),
                selector: selector.and_then(Value::as_str).map(ToOwned::to_owned),
            }),
            ..Scale::default()
        }
    }

    /// Sets the replicas that are wanted, and makes the objects on the way to them.
    pub(super) fn set(&self, object: &mut Map<String, Value>, replicas: i32) {
        let mut steps = self.spec_replicas.steps().peekable();
        let mut members = object;
        while let Some(step) = steps.next() {
            let member = members.entry(step).or_insert(Value::Null);
            if steps.peek().is_none() {
                *member = replicas.into();
                return;
            }
            if !member.is_object() {
                *member = Value::Object(Map::new());
            }
            let Value::Object(next) = member else { return };
            members = next;
        }
    }

    /// What is wrong with the replicas that are wanted.
    pub(super) fn validate_spec(&self, object: &Map<String, Value>) -> ErrorList {
        self.spec_replicas.validate_replicas(object)
    }

    /// What is wrong with the replicas that there are, and their selector.
    pub(super) fn validate_status(&self, object: &Map<String, Value>) -> ErrorList {
        let mut errors = self.status_replicas.validate_replicas(object);
        if let Some(path) = &self.selector {
            let found = path.find(object);
            let wrong = match found {
                Ok(None | Some(Value::String(_))) => None,
                Ok(Some(other)) => Some(path.accessor_error(other, "string")),
                Err(error) => Some(error),
            };
            let error = |detail| FieldError::invalid(&Path::new(&path.text), "", detail);
            errors.extend(wrong.map(error));
        }
        errors
    }
}

impl Dotted {
    fn steps(&self) -> impl Iterator<Item = &str> {
        self.text.strip_prefix('.').unwrap_or(&self.text).split('.')
    }

    /// What the path leads to; an error when something on the way is no object.
    fn find<'v>(&self, object: &'v Map<String, Value>) -> Result<Option<&'v Value>, String> {
        let mut steps = self.steps().peekable();
        let mut members = object;
        while let Some(step) = steps.next() {
            match members.get(step) {
                found if steps.peek().is_none() => return Ok(found),
                None => return Ok(None),
                Some(Value::Object(next)) => members = next,
                Some(other) => return Err(self.accessor_error(other, "map[string]interface {}")),
            }
        }
        Ok(None)
    }

    fn accessor_error(&self, found: &Value, expected: &str) -> String {
        let found_type = match found {
            Value::Null => "<nil>",
            Value::Bool(_) => "bool",
            Value::Number(number) if number.is_f64() => "float64",
            Value::Number(_) => "int64",
            Value::String(_) => "string",
            Value::Array(_) => "[]interface {}",
            Value::Object(_) => "map[string]interface {}",
        };
        let text = match found {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        format!(
            "{} accessor error: {text} is of the type {found_type}, expected {}",
            if self.text.starts_with('.') {
                self.text.to_string()
            } else {
                format!(".{}", self.text)
            },
            expected
        )
    }

    fn validate_replicas(&self, object: &Map<String, Value>) -> ErrorList {
        let path = Path::new(&self.text);
        let refuse = |value: i64, detail: String| vec![FieldError::invalid(&path, value, detail)];
        let found = match self.find(object) {
            Ok(None) => return ErrorList::new(),
            Ok(Some(found)) => found,
            Err(error) => return refuse(0, error),
        };
        match found.as_i64() {
            None => refuse(0, self.accessor_error(found, "int64")),
            Some(value) if value < 0 => {
                refuse(value, "should be a non-negative integer".to_owned())
            }
            Some(value) if value > i64::from(i32::MAX) => {
                refuse(value, format!("should be less than or equal to {}", i32::MAX))
            }
            Some(_) => ErrorList::new(),
        }
    }
}
