//! What can be asked of the server, independent of how a document says it.

use crate::resources::{Resource, Resources, Subresource};

use super::parameters::{self, Parameter};

/// A method on a path.
#[derive(Debug)]
pub(super) struct Operation {
    /// For example `/api/v1/namespaces/{namespace}/pods/{name}`.
    pub(super) path: String,
    /// In lower case, as documents write it.
    pub(super) method: &'static str,
    /// For example `readCoreV1NamespacedPod`.
    pub(super) id: String,
    pub(super) description: String,
    /// For example `core_v1`.
    pub(super) tag: String,
    /// For example `get`; empty for what is about no kind.
    pub(super) action: &'static str,
    /// The kind that it is about; for a list that of the items.
    pub(super) kind: Kind,
    pub(super) path_parameters: Vec<&'static Parameter>,
    pub(super) query_parameters: Vec<&'static Parameter>,
    pub(super) body: Body,
    pub(super) answer: Answer,
    /// The status codes of success.
    pub(super) codes: &'static [u16],
}

/// A group, version and kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
}

/// What a request carries.
#[derive(Debug)]
pub(super) enum Body {
    Nothing,
    /// An object of the schema.
    Object(String),
    /// Options that may be left out.
    Options(&'static str),
    /// A patch of one of these media types.
    Patch(&'static [&'static str]),
}

/// What comes back.
#[derive(Debug)]
pub(super) enum Answer {
    /// An object of the schema.
    Object(String),
    /// A list of the schema, or a watch.
    List(String),
    /// Text, or a stream of bytes.
    Text,
}

pub(super) const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
pub(super) const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
pub(super) const RESOURCE_LIST: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList";

/// Media types of patches. Built-in kinds take them all.
pub(super) const PATCH_MEDIA_TYPES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// The operations of a group version, in the order of the table.
pub(super) fn of_version(resources: &Resources, group: &str, version: &str) -> Vec<Operation> {
    let rows = resources.iter().filter(|row| row.group == group && row.version == version);
    let mut operations = vec![discovery(group, version)];
    for row in rows {
        operations.extend(Maker { resources, row }.operations());
    }
    operations
}

/// The schema of a kind: the row's if there is one, else where such a type is by convention.
pub(super) fn schema_of(resources: &Resources, group: &str, version: &str, kind: &str) -> String {
    match resources.by_kind(group, version, kind) {
        Some(row) => row.schema.clone().into_owned(),
        None => {
            let group = if group.is_empty() { "core" } else { group };
            let group = group.split('.').next().unwrap_or_default();
            format!("io.k8s.api.{group}.{version}.{kind}")
        }
    }
}

/// `/api/v1` or `/apis/{group}/{version}`.
pub(super) fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

fn discovery(group: &str, version: &str) -> Operation {
    Operation {
        path: format!("{}/", root(group, version)),
        method: "get",
        id: format!("get{}APIResources", camel_version(group, version)),
        description: "Lists the kinds of this version.".into(),
        tag: tag(group, version),
        action: "",
        kind: Kind::default(),
        path_parameters: Vec::new(),
        query_parameters: Vec::new(),
        body: Body::Nothing,
        answer: Answer::Object(RESOURCE_LIST.into()),
        codes: &[200],
    }
}

/// Makes the operations of one row.
#[derive(Clone, Copy)]
struct Maker<'a> {
    resources: &'a Resources,
    row: &'a Resource,
}

/// A verb, as the paths of objects, collections and subresources have it.
struct Verb {
    /// As in [`Resource::verbs`].
    name: &'static str,
    method: &'static str,
    action: &'static str,
    /// How operation ids begin.
    id: &'static str,
    codes: &'static [u16],
}

const LIST: Verb = Verb { name: "list", method: "get", action: "list", id: "list", codes: &[200] };
const GET: Verb = Verb { name: "get", method: "get", action: "get", id: "read", codes: &[200] };
const CREATE: Verb =
    Verb { name: "create", method: "post", action: "post", id: "create", codes: &[200, 201, 202] };
const UPDATE: Verb =
    Verb { name: "update", method: "put", action: "put", id: "replace", codes: &[200, 201] };
const PATCH_VERB: Verb =
    Verb { name: "patch", method: "patch", action: "patch", id: "patch", codes: &[200, 201] };
const DELETE: Verb =
    Verb { name: "delete", method: "delete", action: "delete", id: "delete", codes: &[200, 202] };
const DELETE_COLLECTION: Verb = Verb {
    name: "deletecollection",
    method: "delete",
    action: "deletecollection",
    id: "delete",
    codes: &[200],
};

/// Those that custom kinds take: how their lists merge is not known to Go's types.
const CUSTOM_PATCH_MEDIA_TYPES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
];

impl Maker<'_> {
    fn patch(self) -> Body {
        Body::Patch(match self.row.strategy.custom() {
            Some(_) => CUSTOM_PATCH_MEDIA_TYPES,
            None => PATCH_MEDIA_TYPES,
        })
    }

    fn operations(self) -> Vec<Operation> {
        let row = self.row;
        let root = root(&row.group, &row.version);
        let collection = if row.namespaced {
            format!("{root}/namespaces/{{namespace}}/{}", row.plural)
        } else {
            format!("{root}/{}", row.plural)
        };
        let item = format!("{collection}/{{name}}");
        let has = |verb: &Verb| row.verbs.iter().any(|name| name == verb.name);

        let mut operations = Vec::new();
        for verb in [LIST, CREATE, DELETE_COLLECTION] {
            if has(&verb) {
                operations.push(self.main(&verb, &collection));
            }
        }
        if has(&LIST) && row.namespaced {
            operations.push(self.list_all(format!("{root}/{}", row.plural)));
        }
        for verb in [GET, UPDATE, PATCH_VERB, DELETE] {
            if has(&verb) {
                operations.push(self.main(&verb, &item));
            }
        }
        for subresource in &row.subresources {
            let path = format!("{item}/{}", subresource.name);
            for verb in [GET, CREATE, UPDATE, PATCH_VERB, DELETE] {
                if subresource.verbs.iter().any(|name| name == verb.name) {
                    operations.push(self.sub(&verb, &path, subresource));
                }
            }
        }
        operations
    }

    fn main(self, verb: &Verb, path: &str) -> Operation {
        let row = self.row;
        let schema = || row.schema.clone().into_owned();
        let collection = if verb.name == "deletecollection" { "Collection" } else { "" };
        let (body, answer) = match verb.name {
            "list" => (Body::Nothing, Answer::List(format!("{}List", row.schema))),
            "delete" | "deletecollection" => {
                (Body::Options(DELETE_OPTIONS), Answer::Object(STATUS.into()))
            }
            "patch" => (self.patch(), Answer::Object(schema())),
            "get" => (Body::Nothing, Answer::Object(schema())),
            _ => (Body::Object(schema()), Answer::Object(schema())),
        };
        Operation {
            path: path.into(),
            method: verb.method,
            id: format!(
                "{}{}{collection}{}{}",
                verb.id,
                camel_version(&row.group, &row.version),
                self.scope(),
                row.kind
            ),
            description: self.describe(verb, ""),
            tag: tag(&row.group, &row.version),
            action: verb.action,
            kind: self.kind(None),
            path_parameters: self.path_parameters(path),
            query_parameters: parameters::of_verb(verb.name),
            body,
            answer,
            codes: verb.codes,
        }
    }

    fn list_all(self, path: String) -> Operation {
        let row = self.row;
        let version = camel_version(&row.group, &row.version);
        Operation {
            id: format!("list{version}{}ForAllNamespaces", row.kind),
            description: format!("Lists or watches every {} of all namespaces.", row.kind),
            ..self.main(&LIST, &path)
        }
    }

    fn sub(self, verb: &Verb, path: &str, subresource: &Subresource) -> Operation {
        let row = self.row;
        let version = camel_version(&row.group, &row.version);
        let names = format!("{}{}{}", self.scope(), row.kind, capitalise(&subresource.name));
        // Such kinds describe parameters of a connection, not objects.
        let connects = subresource.kind.ends_with("Options");
        let (id, action) = if connects {
            (format!("connect{version}{}{names}", capitalise(verb.method)), "connect")
        } else {
            (format!("{}{version}{names}", verb.id), verb.action)
        };
        let kind = self.kind(Some(subresource));
        let schema = || schema_of(self.resources, &kind.group, &kind.version, &kind.kind);
        let (body, answer) = match verb.name {
            _ if connects || subresource.name == "log" => (Body::Nothing, Answer::Text),
            "get" => (Body::Nothing, Answer::Object(schema())),
            "patch" => (self.patch(), Answer::Object(schema())),
            "delete" => (Body::Options(DELETE_OPTIONS), Answer::Object(STATUS.into())),
            _ => (Body::Object(schema()), Answer::Object(schema())),
        };
        Operation {
            path: path.into(),
            method: verb.method,
            id,
            description: self.describe(verb, &subresource.name),
            tag: tag(&row.group, &row.version),
            action,
            path_parameters: self.path_parameters(path),
            query_parameters: parameters::of_subresource(&subresource.name).unwrap_or_else(|| {
                if connects { Vec::new() } else { parameters::of_verb(verb.name) }
            }),
            body,
            answer,
            codes: if connects { &[200] } else { verb.codes },
            kind,
        }
    }

    fn scope(self) -> &'static str {
        if self.row.namespaced { "Namespaced" } else { "" }
    }

    fn kind(self, subresource: Option<&Subresource>) -> Kind {
        let row = self.row;
        let (group, version) = match subresource.and_then(|each| each.group_version.as_ref()) {
            Some((group, version)) => (group, version),
            None => (&row.group, &row.version),
        };
        let kind = subresource.map_or(&row.kind, |each| &each.kind);
        Kind { group: group.to_string(), version: version.to_string(), kind: kind.to_string() }
    }

    fn path_parameters(self, path: &str) -> Vec<&'static Parameter> {
        let all = [&parameters::NAME, &parameters::NAMESPACE];
        all.into_iter().filter(|each| path.contains(&format!("{{{}}}", each.name))).collect()
    }

    fn describe(self, verb: &Verb, subresource: &str) -> String {
        let kind = &self.row.kind;
        let does = match verb.name {
            "list" => return format!("Lists or watches every {kind}."),
            "deletecollection" => return format!("Deletes every {kind} that is selected."),
            "get" => "Reads",
            "create" => "Creates",
            "update" => "Replaces",
            "patch" => "Patches",
            _ => "Deletes",
        };
        match subresource {
            "" => format!("{does} one {kind}."),
            subresource => format!("{does} the {subresource} of one {kind}."),
        }
    }
}

/// `CoreV1` for the core group's `v1`.
fn camel_version(group: &str, version: &str) -> String {
    format!("{}{}", camel_group(group), capitalise(version))
}

/// `core_v1` for the core group's `v1`.
fn tag(group: &str, version: &str) -> String {
    let group = camel_group(group);
    let mut letters = group.chars();
    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
    format!("{}{}_{version}", first.map(String::from).unwrap_or_default(), letters.as_str())
}

/// `RbacAuthorization` for `rbac.authorization.k8s.io`.
fn camel_group(group: &str) -> String {
    if group.is_empty() {
        return "Core".into();
    }
    let group = group.strip_suffix(".k8s.io").unwrap_or(group);
    group.split(['.', '-']).map(capitalise).collect()
}

fn capitalise(word: &str) -> String {
    let mut letters = word.chars();
    match letters.next() {
        Some(first) => format!("{}{}", first.to_ascii_uppercase(), letters.as_str()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(group: &str, version: &str) -> Vec<(String, String, &'static str)> {
        of_version(&Resources::builtin(), group, version)
            .into_iter()
            .map(|operation| (operation.id, operation.path, operation.action))
            .collect()
    }

    #[track_caller]
    fn check(group: &str, id: &str, path: &str, action: &'static str) {
        let ids = ids(group, "v1");
        assert!(ids.contains(&(id.into(), path.into(), action)), "{ids:#?}");
    }

    #[test]
    fn operations_are_named_as_clients_know_them() {
        let pods = "/api/v1/namespaces/{namespace}/pods";
        check("", "listCoreV1NamespacedPod", pods, "list");
        check("", "deleteCoreV1CollectionNamespacedPod", pods, "deletecollection");
        check("", "listCoreV1PodForAllNamespaces", "/api/v1/pods", "list");
        check("", "readCoreV1Node", "/api/v1/nodes/{name}", "get");
        check("", "replaceCoreV1NamespacedPod", &format!("{pods}/{{name}}"), "put");
        check("", "patchCoreV1NamespacedPodStatus", &format!("{pods}/{{name}}/status"), "patch");
        check(
            "",
            "createCoreV1NamespacedPodEviction",
            &format!("{pods}/{{name}}/eviction"),
            "post",
        );
        check("", "connectCoreV1GetNamespacedPodExec", &format!("{pods}/{{name}}/exec"), "connect");
        check("", "readCoreV1NamespacedPodLog", &format!("{pods}/{{name}}/log"), "get");
        check("apps", "getAppsV1APIResources", "/apis/apps/v1/", "");
        check(
            "rbac.authorization.k8s.io",
            "createRbacAuthorizationV1ClusterRole",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            "post",
        );
        assert_eq!(tag("rbac.authorization.k8s.io", "v1"), "rbacAuthorization_v1");
    }

    #[test]
    fn ids_are_unique() {
        let resources = Resources::builtin();
        let mut seen = std::collections::HashSet::new();
        for row in resources.iter() {
            for operation in (Maker { resources: &resources, row }).operations() {
                assert!(seen.insert(operation.id.clone()), "{}", operation.id);
            }
        }
    }
}
