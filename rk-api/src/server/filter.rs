//! Which objects a list or watch is about.

use crate::{
    meta::selectors::{FieldOperator, FieldQuery, LabelQuery},
    resources::Resource,
};

use super::{
    object::CachedObject,
    query::ListOptions,
    status::{ApiError, Result},
};

/// A namespace and selectors, all of which must match.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    /// The namespace; `None` for all, and for kinds without.
    pub namespace: Option<String>,
    labels: Option<LabelQuery>,
    fields: Vec<Requirement>,
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
        let mut fields = Vec::new();
        if !options.field_selector.is_empty() {
            let query = FieldQuery::parse(&options.field_selector)
                .map_err(|error| ApiError::bad_request(error.to_string()))?;
            for requirement in query.requirements() {
                if let Some(refused) = resource.refused_field(&requirement.field) {
                    return Err(ApiError::bad_request(refused));
                }
                fields.push(Requirement {
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
        Ok(Self { namespace: namespace.map(ToOwned::to_owned), labels, fields })
    }

    /// Whether the object is in the namespace and all selectors match.
    pub(super) fn matches(&self, object: &CachedObject) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| namespace == object.namespace())
            && self.fields.iter().all(|requirement| {
                (object.field(&requirement.field) == requirement.value) == requirement.equal
            })
            && self.labels.as_ref().is_none_or(|labels| labels.matches(&object.facts.labels))
    }

    /// Whether there is more to it than a namespace.
    pub(super) fn selects(&self) -> bool {
        self.labels.is_some() || !self.fields.is_empty()
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
