//! Validation errors that name the field: what Kubernetes returns as the causes of a 422.
//!
//! Reasons and messages are those of apimachinery's `util/validation/field`.

use std::fmt;

use serde_json::Value;
use smallvec::SmallVec;

/// The path of a field, for example `spec.containers[0].name` or `metadata.labels[a.b/c]`.
///
/// Validation makes a path for every field that it looks at, and nearly always nothing is wrong.
/// So a path only lists its steps, on the stack; the text is made for an error.
#[derive(Clone, Debug)]
pub struct Path<'a>(SmallVec<[Step<'a>; 6]>);

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// A path of one field.
    pub fn new(name: &'a str) -> Self {
        Self::root().step(Step::Field(name))
    }

    /// The object itself.
    pub fn root() -> Self {
        Self(SmallVec::new())
    }

    /// The field `name` of this one. `name` may hold dots to go several levels down at once.
    #[must_use]
    pub fn child<'b>(&self, name: &'b str) -> Path<'b>
    where
        'a: 'b,
    {
        self.step(Step::Field(name))
    }

    /// The list item `index` of this field.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    /// The map entry `key` of this field.
    #[must_use]
    pub fn key<'b>(&self, key: &'b str) -> Path<'b>
    where
        'a: 'b,
    {
        self.step(Step::Key(key))
    }

    fn step<'b>(&self, step: Step<'b>) -> Path<'b>
    where
        'a: 'b,
    {
        let mut steps = SmallVec::from_slice(&self.0);
        steps.push(step);
        Path(steps)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) if n == 0 => f.write_str(name)?,
                Step::Field(name) => write!(f, ".{name}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => write!(f, "[{key}]")?,
            }
        }
        Ok(())
    }
}

/// Why a field was refused. The name is the `reason` of a status cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Something the field refers to does not exist.
    NotFound,
    /// The field must be set.
    Required,
    /// A value that must be unique is there twice.
    Duplicate,
    /// The value is malformed or out of range.
    Invalid,
    /// The value is not one of those known.
    NotSupported,
    /// The field must not be set here, or must not change.
    Forbidden,
    /// The value is too long.
    TooLong,
    /// There are too many values.
    TooMany,
    /// The value's type is wrong.
    TypeInvalid,
}

impl Reason {
    /// As the API writes it, for example `FieldValueRequired`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::NotFound => "FieldValueNotFound",
            Reason::Required => "FieldValueRequired",
            Reason::Duplicate => "FieldValueDuplicate",
            Reason::Invalid | Reason::TooMany => "FieldValueInvalid",
            Reason::NotSupported => "FieldValueNotSupported",
            Reason::Forbidden => "FieldValueForbidden",
            Reason::TooLong => "FieldValueTooLong",
            Reason::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Reason::NotFound => "Not found",
            Reason::Required => "Required value",
            Reason::Duplicate => "Duplicate value",
            Reason::Invalid | Reason::TypeInvalid => "Invalid value",
            Reason::NotSupported => "Unsupported value",
            Reason::Forbidden => "Forbidden",
            Reason::TooLong => "Too long",
            Reason::TooMany => "Too many",
        }
    }
}

/// One refused field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// Which field: the text of a [`Path`].
    pub path: String,
    /// Why.
    pub reason: Reason,
    /// The value found, where the message shows it.
    pub value: Option<Value>,
    /// What would be right.
    pub detail: String,
}

/// All refused fields of an object, in the order found.
pub type ErrorList = Vec<FieldError>;

impl FieldError {
    /// The field must be set.
    pub fn required(path: &Path<'_>, detail: impl Into<String>) -> Self {
        Self {
            path: path.to_string(),
            reason: Reason::Required,
            value: None,
            detail: detail.into(),
        }
    }

    /// The value is malformed or out of range.
    pub fn invalid(path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self {
            path: path.to_string(),
            reason: Reason::Invalid,
            value: Some(value.into()),
            detail: detail.into(),
        }
    }

    /// The value is there twice.
    pub fn duplicate(path: &Path<'_>, value: impl Into<Value>) -> Self {
        Self {
            path: path.to_string(),
            reason: Reason::Duplicate,
            value: Some(value.into()),
            detail: String::new(),
        }
    }

    /// The field must not be set here, or must not change.
    pub fn forbidden(path: &Path<'_>, detail: impl Into<String>) -> Self {
        Self {
            path: path.to_string(),
            reason: Reason::Forbidden,
            value: None,
            detail: detail.into(),
        }
    }

    /// The value is not one of `supported`, which the message lists in this order.
    pub fn not_supported(path: &Path<'_>, value: impl Into<Value>, supported: &[&str]) -> Self {
        let supported: Vec<_> = supported.iter().map(|s| format!("\"{s}\"")).collect();
        Self {
            path: path.to_string(),
            reason: Reason::NotSupported,
            value: Some(value.into()),
            detail: format!("supported values: {}", supported.join(", ")),
        }
    }

    /// What the field refers to does not exist.
    pub fn not_found(path: &Path<'_>, value: impl Into<Value>) -> Self {
        Self {
            path: path.to_string(),
            reason: Reason::NotFound,
            value: Some(value.into()),
            detail: String::new(),
        }
    }

    /// A list has more than `max` items.
    pub fn too_many(path: &Path<'_>, found: usize, max: usize) -> Self {
        Self {
            path: path.to_string(),
            reason: Reason::TooMany,
            value: Some(found.into()),
            detail: format!("must have at most {max} items"),
        }
    }

    /// The value has more than `max` bytes.
    pub fn too_long(path: &Path<'_>, max: usize) -> Self {
        Self {
            path: path.to_string(),
            reason: Reason::TooLong,
            value: None,
            detail: format!("may not be more than {max} bytes"),
        }
    }

    /// What a status cause says: reason, value and detail, without the path.
    pub fn message(&self) -> String {
        let mut out = self.reason.message().to_owned();
        if let Some(value) = &self.value {
            out.push_str(": ");
            out.push_str(&match value {
                Value::String(text) => format!("{text:?}"),
                other => other.to_string(),
            });
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message())
    }
}
