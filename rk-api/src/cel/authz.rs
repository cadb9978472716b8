//! Asking an authorizer from an expression (KEP-3488, "Secondary authorization").
//!
//! Evaluation is synchronous and an authorizer may not be. So an authorizer may answer "not known
//! yet": evaluation then ends with [`EvalError::NeedsDecision`], the caller answers, and evaluates
//! again with the answer in its [`Decisions`].

use std::{collections::HashMap, fmt, sync::Arc};

use super::{
    EvalError, Value,
    functions::{Cost, Function, Overload, function, method, text},
    kubernetes::LibraryValue,
    types::{Library, Type},
};
use crate::meta::names;

/// A question: may someone do this?
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AccessQuery {
    /// Who, if not the user of the request: namespace and name of a service account.
    pub service_account: Option<(String, String)>,
    /// The verb.
    pub verb: String,
    /// What.
    pub target: AccessTarget,
}

/// What a question is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AccessTarget {
    /// A path that is no resource, such as `/healthz`.
    Path(String),
    /// A resource, or one object of it. Empty fields were not given.
    Resource(ResourceTarget),
}

/// A resource, or one object of it. Empty fields were not given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ResourceTarget {
    /// The API group.
    pub group: String,
    /// The plural name.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The name of an object.
    pub name: String,
    /// Which objects, by fields. It may be malformed: that is the authorizer's to judge.
    pub field_selector: String,
    /// Which objects, by labels. It may be malformed.
    pub label_selector: String,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why, in words.
    pub reason: String,
    /// Why there is no proper answer.
    pub error: Option<String>,
}

/// Answers questions of expressions.
pub trait Authorizer: fmt::Debug + Sync {
    /// The answer, or nothing if it is not known yet.
    fn decide(&self, query: &AccessQuery) -> Option<Decision>;
}

/// Answers gathered so far.
#[derive(Clone, Debug, Default)]
pub struct Decisions(HashMap<AccessQuery, Decision>);

impl Decisions {
    /// Remembers an answer.
    pub fn insert(&mut self, query: AccessQuery, decision: Decision) {
        self.0.insert(query, decision);
    }
}

impl Authorizer for Decisions {
    fn decide(&self, query: &AccessQuery) -> Option<Decision> {
        self.0.get(query).cloned()
    }
}

/// Values that questions are built from.
#[derive(Clone, Debug)]
pub enum AuthzValue<'a> {
    /// `authorizer`
    Authorizer(Asker<'a>),
    /// `authorizer.path(…)`
    Path(Box<(Asker<'a>, String)>),
    /// `authorizer.group(…)`
    Group(Box<(Asker<'a>, String)>),
    /// `authorizer.group(…).resource(…)`
    Resource(Box<(Asker<'a>, ResourceTarget)>),
    /// The answer.
    Decision(Arc<Decision>),
}

/// An authorizer, and for whom it is asked.
#[derive(Clone, Debug)]
pub struct Asker<'a> {
    authorizer: &'a dyn Authorizer,
    service_account: Option<(String, String)>,
}

impl PartialEq for AuthzValue<'_> {
    /// Questions are the same if they ask the same; authorizers have no identity.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (AuthzValue::Authorizer(left), AuthzValue::Authorizer(right)) => {
                left.service_account == right.service_account
            }
            (AuthzValue::Path(left), AuthzValue::Path(right))
            | (AuthzValue::Group(left), AuthzValue::Group(right)) => {
                left.0.service_account == right.0.service_account && left.1 == right.1
            }
            (AuthzValue::Resource(left), AuthzValue::Resource(right)) => {
                left.0.service_account == right.0.service_account && left.1 == right.1
            }
            (AuthzValue::Decision(left), AuthzValue::Decision(right)) => left == right,
            _ => false,
        }
    }
}

impl<'a> Value<'a> {
    /// The variable `authorizer`.
    pub fn authorizer(authorizer: &'a dyn Authorizer) -> Self {
        let asker = Asker { authorizer, service_account: None };
        Value::Library(LibraryValue::Authz(AuthzValue::Authorizer(asker)))
    }

    /// The variable `authorizer.requestResource`.
    pub fn request_resource(authorizer: &'a dyn Authorizer, target: ResourceTarget) -> Self {
        let asker = Asker { authorizer, service_account: None };
        wrap(AuthzValue::Resource(Box::new((asker, target))))
    }
}

fn wrap(value: AuthzValue<'_>) -> Value<'_> {
    Value::Library(LibraryValue::Authz(value))
}

impl Asker<'_> {
    fn ask<'a>(&self, verb: &str, target: AccessTarget) -> Result<Value<'a>, EvalError> {
        let service_account = self.service_account.clone();
        let query = AccessQuery { service_account, verb: verb.to_owned(), target };
        match self.authorizer.decide(&query) {
            Some(decision) => Ok(wrap(AuthzValue::Decision(Arc::new(decision)))),
            None => Err(EvalError::NeedsDecision(Box::new(query))),
        }
    }
}

fn build<'a>(name: &str, args: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
    let [Value::Library(LibraryValue::Authz(receiver)), rest @ ..] = args else {
        return Err(EvalError::no_such_overload());
    };
    match (receiver, name, rest) {
        (AuthzValue::Authorizer(asker), "path", [path]) => {
            let path = text(path)?;
            if path.trim().is_empty() {
                return Err(EvalError::new("path must not be empty"));
            }
            Ok(wrap(AuthzValue::Path(Box::new((asker.clone(), path.to_owned())))))
        }
        (AuthzValue::Authorizer(asker), "group", [group]) => {
            Ok(wrap(AuthzValue::Group(Box::new((asker.clone(), text(group)?.to_owned())))))
        }
        (AuthzValue::Authorizer(asker), "serviceAccount", [namespace, name]) => {
            let (namespace, name) = (text(namespace)?, text(name)?);
            if !names::dns_subdomain(name, false).is_empty() {
                return Err(EvalError::new("Invalid service account name"));
            }
            if !names::dns_label(namespace, false).is_empty() {
                return Err(EvalError::new("Invalid service account namespace"));
            }
            let service_account = Some((namespace.to_owned(), name.to_owned()));
            Ok(wrap(AuthzValue::Authorizer(Asker { service_account, ..asker.clone() })))
        }
        (AuthzValue::Group(group), "resource", [resource]) => {
            let resource = text(resource)?;
            if resource.trim().is_empty() {
                return Err(EvalError::new("resource must not be empty"));
            }
            let target = ResourceTarget {
                group: group.1.clone(),
                resource: resource.to_owned(),
                ..ResourceTarget::default()
            };
            Ok(wrap(AuthzValue::Resource(Box::new((group.0.clone(), target)))))
        }
        (AuthzValue::Path(path), "check", [verb]) => {
            path.0.ask(text(verb)?, AccessTarget::Path(path.1.clone()))
        }
        (AuthzValue::Resource(resource), "check", [verb]) => {
            resource.0.ask(text(verb)?, AccessTarget::Resource(resource.1.clone()))
        }
        (AuthzValue::Resource(resource), _, [argument]) => {
            let mut changed = resource.clone();
            let field = match name {
                "subresource" => &mut changed.1.subresource,
                "namespace" => &mut changed.1.namespace,
                "name" => &mut changed.1.name,
                "fieldSelector" => &mut changed.1.field_selector,
                "labelSelector" => &mut changed.1.label_selector,
                _ => return Err(EvalError::no_such_overload()),
            };
            text(argument)?.clone_into(field);
            Ok(wrap(AuthzValue::Resource(changed)))
        }
        (AuthzValue::Decision(decision), _, []) => Ok(match name {
            "allowed" => Value::Bool(decision.allowed),
            "errored" => Value::Bool(decision.error.is_some()),
            "error" => Value::string(decision.error.as_deref().unwrap_or("")),
            "reason" => Value::string(&*decision.reason),
            _ => return Err(EvalError::no_such_overload()),
        }),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// The functions of this library.
pub(super) fn functions() -> Vec<Function> {
    use Library::{Authorizer, Decision, GroupCheck, PathCheck, ResourceCheck};
    let on = |id, receiver: Library, strings: usize, result: Type, cost| -> Overload {
        let mut args = vec![Type::Library(receiver)];
        args.resize(strings + 1, Type::String);
        method(id, args, result, cost)
    };
    let lib = Type::Library;
    let one = Cost::One;
    macro_rules! build {
        ($name:literal, $overloads:expr) => {
            function($name, Cost::One, |_, args| build($name, args), $overloads)
        };
    }
    let refine = |id, cost| vec![on(id, ResourceCheck, 1, lib(ResourceCheck), cost)];
    vec![
        build!("path", vec![on("authorizer_path", Authorizer, 1, lib(PathCheck), one)]),
        build!("group", vec![on("authorizer_group", Authorizer, 1, lib(GroupCheck), one)]),
        build!(
            "serviceAccount",
            vec![on("authorizer_serviceaccount", Authorizer, 2, lib(Authorizer), one)]
        ),
        build!("resource", vec![on("groupcheck_resource", GroupCheck, 1, lib(ResourceCheck), one)]),
        build!("subresource", refine("resourcecheck_subresource", one)),
        build!("namespace", refine("resourcecheck_namespace", one)),
        build!("name", refine("resourcecheck_name", one)),
        build!("fieldSelector", refine("authorizer_fieldselector", Cost::Selector)),
        build!("labelSelector", refine("authorizer_labelselector", Cost::Selector)),
        function(
            "check",
            Cost::Check,
            |_, args| build("check", args),
            vec![
                on("pathcheck_check", PathCheck, 1, lib(Decision), Cost::Check),
                on("resourcecheck_check", ResourceCheck, 1, lib(Decision), Cost::Check),
            ],
        ),
        build!("errored", vec![on("decision_errored", Decision, 0, Type::Bool, one)]),
        build!("error", vec![on("decision_error", Decision, 0, Type::String, one)]),
        build!("allowed", vec![on("decision_allowed", Decision, 0, Type::Bool, one)]),
        build!("reason", vec![on("decision_reason", Decision, 0, Type::String, one)]),
    ]
}
