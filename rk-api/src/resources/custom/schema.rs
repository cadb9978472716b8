//! A schema of custom objects, compiled from the OpenAPI of a CustomResourceDefinition.

use std::sync::OnceLock;

use ::regex::Regex;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use serde_json::Value;

use super::formats::Format;
use crate::cel::regex;

/// What a value of a custom object looks like. Nothing in it borrows from the definition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schema {
    /// `type`; `None` where it says none, or one that OpenAPI does not know.
    pub kind: Option<Kind>,
    /// Whether the value may be null.
    pub nullable: bool,
    /// What it is when it is left out.
    pub default: Option<Value>,
    /// Items of a list.
    pub items: Option<Box<Schema>>,
    /// Named members of an object.
    pub properties: Properties,
    /// Other members of an object.
    pub additional: Additional,
    /// `x-kubernetes-preserve-unknown-fields`
    pub preserves_unknown: bool,
    /// `x-kubernetes-embedded-resource`
    pub is_resource: bool,
    /// `x-kubernetes-int-or-string`
    pub int_or_string: bool,
    /// `x-kubernetes-list-type` and `-list-map-keys`
    pub list: ListType,
    /// What else a value must satisfy; most values nothing.
    pub checks: Option<Box<Checks>>,
}

/// The named members of an object, by name. There are many of these, and most are small.
#[derive(Clone, Debug, Default)]
pub(crate) struct Properties(Box<[(Box<str>, Schema)]>);

impl Properties {
    /// The member of this name.
    pub(super) fn get(&self, name: &str) -> Option<&Schema> {
        let at = self.0.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        Some(&self.0[at].1)
    }

    /// All of them, sorted by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Schema)> {
        self.0.iter().map(|(name, schema)| (&**name, schema))
    }
}

impl FromIterator<(Box<str>, Schema)> for Properties {
    fn from_iter<I: IntoIterator<Item = (Box<str>, Schema)>>(members: I) -> Self {
        let mut members: Vec<_> = members.into_iter().collect();
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self(members.into())
    }
}

/// `type`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A string.
    String,
    /// Any number.
    Number,
    /// A whole number.
    Integer,
    /// A boolean.
    Boolean,
    /// A list.
    Array,
    /// An object.
    Object,
}

/// `additionalProperties`
#[derive(Clone, Debug, Default)]
pub(crate) enum Additional {
    /// Nothing is said of them: they are unknown fields.
    #[default]
    Unsaid,
    /// Whether there may be any, whatever they are.
    Allowed(bool),
    /// They look like this.
    Schema(Box<Schema>),
}

/// How the items of a list are told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ListType {
    /// Not at all.
    #[default]
    Atomic,
    /// By their values.
    Set,
    /// By these members of theirs.
    Map(Vec<Box<str>>),
}

/// Restrictions of values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checks {
    pub format: Option<Format>,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub multiple_of: Option<f64>,
    pub max_length: Option<i64>,
    pub min_length: Option<i64>,
    pub pattern: Option<Pattern>,
    pub max_items: Option<i64>,
    pub min_items: Option<i64>,
    pub unique_items: bool,
    pub max_properties: Option<i64>,
    pub min_properties: Option<i64>,
    pub required: Vec<Box<str>>,
    pub values: Vec<Value>,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
    /// `x-kubernetes-validations`
    pub rules: Vec<ValidationRule>,
}

/// A regular expression, compiled when it is first used: of most definitions few ever are.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    /// As the definition has it.
    pub text: Box<str>,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    /// A pattern of this text.
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.into(), compiled: OnceLock::new() }
    }

    /// Whether some part of `value` matches, as RE2 reads the pattern. One that is no regular
    /// expression matches nothing.
    pub(super) fn matches(&self, value: &str) -> bool {
        let regex = self.compiled.get_or_init(|| regex::compile(&self.text).ok());
        regex.as_ref().is_some_and(|regex| regex.is_match(value))
    }
}

impl Kind {
    /// The kind of this name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "string" => Kind::String,
            "number" => Kind::Number,
            "integer" => Kind::Integer,
            "boolean" => Kind::Boolean,
            "array" => Kind::Array,
            "object" => Kind::Object,
            _ => return None,
        })
    }

    /// As OpenAPI names it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Kind::String => "string",
            Kind::Number => "number",
            Kind::Integer => "integer",
            Kind::Boolean => "boolean",
            Kind::Array => "array",
            Kind::Object => "object",
        }
    }
}

impl Schema {
    /// The schema that a definition describes. What structural schemas cannot hold (references,
    /// pattern properties and the like) is left out: a definition with any of it is refused.
    pub(crate) fn compile(props: &JSONSchemaProps) -> Self {
        let flag = |value: Option<bool>| value == Some(true);
        let many = |list: &Option<Vec<JSONSchemaProps>>| {
            list.iter().flatten().map(Self::compile).collect::<Vec<_>>()
        };
        let kind = props.type_.as_deref().and_then(Kind::parse);
        let checks = Checks {
            format: props.format.as_deref().and_then(|name| Format::of(name, kind)),
            maximum: props.maximum,
            exclusive_maximum: flag(props.exclusive_maximum),
            minimum: props.minimum,
            exclusive_minimum: flag(props.exclusive_minimum),
            multiple_of: props.multiple_of,
            max_length: props.max_length,
            min_length: props.min_length,
            pattern: props.pattern.as_deref().filter(|text| !text.is_empty()).map(Pattern::new),
            max_items: props.max_items,
            min_items: props.min_items,
            unique_items: flag(props.unique_items),
            max_properties: props.max_properties,
            min_properties: props.min_properties,
            required: props.required.iter().flatten().map(|name| name.as_str().into()).collect(),
            values: props.enum_.iter().flatten().map(|value| value.0.clone()).collect(),
            all_of: many(&props.all_of),
            any_of: many(&props.any_of),
            one_of: many(&props.one_of),
            not: props.not.as_deref().map(|not| Box::new(Self::compile(not))),
            rules: props.x_kubernetes_validations.clone().unwrap_or_default(),
        };
        Self {
            kind,
            nullable: flag(props.nullable),
            default: props.default.as_ref().map(|value| value.0.clone()).filter(|v| !v.is_null()),
            items: match &props.items {
                Some(JSONSchemaPropsOrArray::Schema(items)) => Some(Box::new(Self::compile(items))),
                Some(JSONSchemaPropsOrArray::Schemas(_)) | None => None,
            },
            properties: properties(props)
                .map(|(name, property)| (name.into(), Self::compile(property)))
                .collect(),
            additional: match &props.additional_properties {
                None => Additional::Unsaid,
                Some(JSONSchemaPropsOrBool::Bool(allowed)) => Additional::Allowed(*allowed),
                Some(JSONSchemaPropsOrBool::Schema(schema)) => {
                    Additional::Schema(Box::new(Self::compile(schema)))
                }
            },
            preserves_unknown: flag(props.x_kubernetes_preserve_unknown_fields),
            is_resource: flag(props.x_kubernetes_embedded_resource),
            int_or_string: flag(props.x_kubernetes_int_or_string),
            list: match props.x_kubernetes_list_type.as_deref() {
                Some("set") => ListType::Set,
                Some("map") => {
                    let keys = props.x_kubernetes_list_map_keys.iter().flatten();
                    ListType::Map(keys.map(|key| key.as_str().into()).collect())
                }
                _ => ListType::Atomic,
            },
            checks: (!checks.is_empty()).then(|| Box::new(checks)),
        }
    }

    /// What describes the member `name`; `None` for an unknown one, and for one that can be
    /// anything.
    pub(super) fn member(&self, name: &str) -> Option<&Schema> {
        match (self.properties.get(name), &self.additional) {
            (Some(property), _) => Some(property),
            (None, Additional::Schema(schema)) => Some(schema),
            (None, _) => None,
        }
    }
}

impl Checks {
    fn is_empty(&self) -> bool {
        let Self { maximum, minimum, multiple_of, max_length, min_length, .. } = self;
        let Self { max_items, min_items, max_properties, min_properties, .. } = self;
        let lengths =
            [max_length, min_length, max_items, min_items, max_properties, min_properties];
        self.format.is_none()
            && [maximum, minimum, multiple_of].iter().all(|bound| bound.is_none())
            && lengths.iter().all(|bound| bound.is_none())
            && self.pattern.is_none()
            && !self.unique_items
            && self.required.is_empty()
            && self.values.is_empty()
            && [&self.all_of, &self.any_of, &self.one_of].iter().all(|list| list.is_empty())
            && self.not.is_none()
            && self.rules.is_empty()
    }
}

/// The named members that a definition's schema describes.
pub(super) fn properties(
    props: &JSONSchemaProps,
) -> impl Iterator<Item = (&str, &JSONSchemaProps)> {
    props.properties.iter().flatten().map(|(name, property)| (name.as_str(), property))
}
