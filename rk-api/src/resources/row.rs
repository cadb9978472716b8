//! Writing a [`Resource`] row: what the API type knows comes from it, the rest is said in words.

use std::{any::TypeId, borrow::Cow};

use k8s_openapi::NamespaceResourceScope;

use super::{Column, Kind, Resource, Subresource, Typed};

/// Every verb that an object collection can have.
const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// The same in the order in which custom resources are discovered.
pub(super) const CUSTOM_VERBS: &[&str] =
    &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
const STATUS_VERBS: &[&str] = &["get", "patch", "update"];
/// What the proxies to Pods, Services and nodes pass on.
pub(super) const PROXY_VERBS: &[&str] = &["create", "delete", "get", "patch", "update"];

/// A row in the making. [`Row::of`] gives an object with all verbs, no subresources, the columns
/// Name and Age, kept at `/registry/<plural>/`.
pub(super) struct Row(Resource);

impl Row {
    /// The row of the kind `K`, served where its API type says.
    pub(super) fn of<K>() -> Self
    where
        K: Kind,
        K::Object: k8s_openapi::Resource + schemars::JsonSchema,
        <K::Object as k8s_openapi::Resource>::Scope: 'static,
    {
        use k8s_openapi::Resource as Api;
        let plural = <K::Object as Api>::URL_PATH_SEGMENT;
        let kind = <K::Object as Api>::KIND;
        Self(Resource {
            group: <K::Object as Api>::GROUP.into(),
            version: <K::Object as Api>::VERSION.into(),
            kind: kind.into(),
            plural: plural.into(),
            singular: kind.to_lowercase().into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced: TypeId::of::<<K::Object as Api>::Scope>()
                == TypeId::of::<NamespaceResourceScope>(),
            verbs: words(ALL_VERBS),
            subresources: Vec::new(),
            key_prefix: format!("/registry/{plural}/").into(),
            schema: <K::Object as schemars::JsonSchema>::schema_name(),
            columns: vec![Column::NAME, Column::AGE],
            strategy: Typed::<K>::shared(),
        })
    }

    /// Abbreviations.
    pub(super) fn short(mut self, names: &[&'static str]) -> Self {
        self.0.short_names = words(names);
        self
    }

    /// Listed by `kubectl get all`.
    pub(super) fn in_all(mut self) -> Self {
        self.0.categories.push("all".into());
        self
    }

    /// Listed among the kinds of this category.
    pub(super) fn in_category(mut self, category: &'static str) -> Self {
        self.0.categories.push(category.into());
        self
    }

    /// These verbs instead of all.
    pub(super) fn verbs(mut self, verbs: &[&'static str]) -> Self {
        self.0.verbs = words(verbs);
        self
    }

    /// Kept below `/registry/<prefix>/`, where that is not the plural.
    pub(super) fn stored_in(mut self, prefix: &str) -> Self {
        self.0.key_prefix = format!("/registry/{prefix}/").into();
        self
    }

    /// A subresource whose kind is in the parent's group and version.
    pub(super) fn sub(
        mut self,
        name: &'static str,
        kind: &'static str,
        verbs: &[&'static str],
    ) -> Self {
        self.0.subresources.push(Subresource {
            name: name.into(),
            kind: kind.into(),
            group_version: None,
            verbs: words(verbs),
        });
        self
    }

    /// A subresource whose kind is in another group or version.
    pub(super) fn sub_in(
        mut self,
        name: &'static str,
        (group, version, kind): (&'static str, &'static str, &'static str),
        verbs: &[&'static str],
    ) -> Self {
        self.0.subresources.push(Subresource {
            name: name.into(),
            kind: kind.into(),
            group_version: Some((group.into(), version.into())),
            verbs: words(verbs),
        });
        self
    }

    /// The `status` subresource.
    pub(super) fn status(mut self) -> Self {
        self.0.subresources.push(Subresource {
            name: "status".into(),
            kind: self.0.kind.clone(),
            group_version: None,
            verbs: words(STATUS_VERBS),
        });
        self
    }

    /// The `scale` subresource.
    pub(super) fn scale(self) -> Self {
        self.sub_in("scale", ("autoscaling", "v1", "Scale"), STATUS_VERBS)
    }

    /// These columns instead of Name and Age.
    pub(super) fn columns(mut self, columns: &[Column]) -> Self {
        self.0.columns = columns.to_vec();
        self
    }

    /// The row, with subresources in order.
    pub(super) fn done(mut self) -> Resource {
        self.0.subresources.sort_by(|a, b| a.name.cmp(&b.name));
        self.0
    }
}

fn words(words: &[&'static str]) -> Vec<Cow<'static, str>> {
    words.iter().map(|word| Cow::Borrowed(*word)).collect()
}

impl Column {
    /// The name of the object.
    pub(super) const NAME: Column = Column {
        name: Cow::Borrowed("Name"),
        kind: Cow::Borrowed("string"),
        format: Cow::Borrowed("name"),
        description: Cow::Borrowed("The object's name, unique within its namespace and kind."),
        priority: 0,
    };

    /// How long ago it was created.
    pub(super) const AGE: Column =
        Column::new("Age", "string", "Time since the server created the object.");

    /// The containers of a workload's template.
    pub(super) const CONTAINERS: Column =
        Column::wide("Containers", "string", "Names of the template's containers.");

    /// The images of a workload's template.
    pub(super) const IMAGES: Column =
        Column::wide("Images", "string", "Images of the template's containers.");

    /// The labels of a workload's Pods.
    pub(super) const SELECTOR: Column =
        Column::wide("Selector", "string", "The labels that select its Pods.");

    /// A column that is always shown.
    pub(super) const fn new(
        name: &'static str,
        kind: &'static str,
        description: &'static str,
    ) -> Column {
        Column {
            name: Cow::Borrowed(name),
            kind: Cow::Borrowed(kind),
            format: Cow::Borrowed(""),
            description: Cow::Borrowed(description),
            priority: 0,
        }
    }

    /// A column that only `-o wide` shows.
    pub(super) const fn wide(
        name: &'static str,
        kind: &'static str,
        description: &'static str,
    ) -> Column {
        let mut column = Column::new(name, kind, description);
        column.priority = 1;
        column
    }
}
