//! Which objects a list or watch is about.

use crate::{
    meta::selectors::{FieldOperator, FieldQuery, LabelQuery},
    resources::Resource,
};

use super::{
    object::CachedObject,
    query::ListOptions,
    shape,
    status::{ApiError, Result},
};

/// A namespace and selectors, all of which must match.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    /// The namespace; `None` for all, and for kinds without.
    pub namespace: Option<String>,
    labels: Option<LabelQuery>,
    fields: Vec<Requirement>,
    /// What fields must be in the version that is asked for, where objects are stored in another
    /// form: see [`Self::looks_at_shown`].
    shown: Vec<Requirement>,
}

#[derive(Clone, Debug)]
struct Requirement {
    field: String,
    equal: bool,
    value: String,
}

impl Filter {
    /// The objects of one namespace.
    pub(super) fn namespace(namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..Self::default() }
    }

    /// What a request selects. `name` restricts it to one object, as old watch paths do.
    pub(super) fn read(
        resource: &Resource,
        namespace: Option<&str>,
        name: Option<&str>,
        options: &ListOptions,
    ) -> Result<Self> {
        let labels = match options.label_selector.as_str() {
            "" => None,
            text => Some(
                LabelQuery::parse(text)
                    .map_err(|error| ApiError::bad_request(error.to_string()))?,
            ),
        };
        let (mut fields, mut shown) = (Vec::new(), Vec::new());
        // The selectable fields of a custom kind are those of one of its versions.
        let of_version =
            resource.strategy.custom().is_some() && !resource.strategy.is_shown_as_stored();
        if !options.field_selector.is_empty() {
            let query = FieldQuery::parse(&options.field_selector)
                .map_err(|error| ApiError::bad_request(error.to_string()))?;
            for requirement in query.requirements() {
                if let Some(refused) = resource.refused_field(&requirement.field) {
                    return Err(ApiError::bad_request(refused));
                }
                let all = match of_version && !requirement.field.starts_with("metadata.") {
                    true => &mut shown,
                    false => &mut fields,
                };
                all.push(Requirement {
                    field: resource.strategy.stored_field(&requirement.field).to_owned(),
                    equal: requirement.operator == FieldOperator::Equals,
                    value: requirement.value.clone(),
                });
            }
        }
        if let Some(name) = name {
            fields.push(Requirement {
                field: "metadata.name".to_owned(),
                equal: true,
                value: name.to_owned(),
            });
        }
        Ok(Self { namespace: namespace.map(ToOwned::to_owned), labels, fields, shown })
    }

    /// Whether the object is in the namespace and all selectors match, as far as its stored form
    /// tells.
    pub(super) fn matches(&self, object: &CachedObject) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| namespace == object.namespace())
            && self.fields.iter().all(|requirement| {
                (object.field(&requirement.field) == requirement.value) == requirement.equal
            })
            && self.labels.as_ref().is_none_or(|labels| labels.matches(&object.facts.labels))
    }

    /// Whether more is to be looked at than [`Self::matches`] does: fields of a version of a custom
    /// kind, which there are only in objects that were brought into this version.
    pub(super) fn looks_at_shown(&self) -> bool {
        !self.shown.is_empty()
    }

    /// Whether an object, which can be shown in this version of its kind, has the fields in it that
    /// [`Self::matches`] does not look at.
    pub(super) fn matches_shown(&self, resource: &Resource, object: &CachedObject) -> bool {
        if self.shown.is_empty() {
            return true;
        }
        let fields = shape::fields(resource, object);
        self.shown.iter().all(|requirement| {
            let found = fields.iter().find(|(name, _)| **name == *requirement.field);
            let value = found.map_or("", |(_, value)| value);
            (value == requirement.value) == requirement.equal
        })
    }

    /// Whether there is more to it than a namespace.
    pub(super) fn selects(&self) -> bool {
        self.labels.is_some() || !self.fields.is_empty() || !self.shown.is_empty()
    }

    /// The value that a field must have.
    pub(super) fn field(&self, field: &str) -> Option<&str> {
        let found = self.fields.iter().find(|r| r.equal && r.field == field);
        found.map(|requirement| requirement.value.as_str())
    }

    /// The name that objects must have.
    pub(super) fn name(&self) -> Option<&str> {
        self.field("metadata.name")
    }

    /// The key of the only object that can match, if it is known.
    pub(super) fn key(&self, resource: &Resource) -> Option<String> {
        let name = self.name()?;
        match (&self.namespace, resource.namespaced) {
            (None, true) => None,
            (namespace, _) => Some(resource.key(namespace.as_deref(), name)),
        }
    }

    /// What the keys of all objects that can match begin with.
    pub(super) fn key_prefix(&self, resource: &Resource) -> String {
        match &self.namespace {
            Some(namespace) => format!("{}{namespace}/", resource.key_prefix),
            None => resource.key_prefix.clone().into_owned(),
        }
    }
}
