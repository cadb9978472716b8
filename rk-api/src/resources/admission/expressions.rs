//! The expressions of webhooks and policies: what they can refer to, and what they must result in
//! (KEP-3488, KEP-3716, KEP-3962).

use std::sync::{Arc, LazyLock};

use crate::{
    cel::{Env, Program, Schema, Type},
    field::Path,
};

use super::super::check::Errors;

/// What some expressions can refer to besides `object`, `oldObject`, `request` and
/// `namespaceObject`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Given {
    /// `params`
    pub params: bool,
    /// `authorizer` and `authorizer.requestResource`
    pub authorizer: bool,
    /// The types `Object`, `Object.spec` and so on, and `JSONPatch`.
    pub patches: bool,
}

/// What an expression may result in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A decision.
    Bool,
    /// A text.
    String,
    /// A text, or null for none.
    OptionalString,
    /// Anything: a variable.
    Any,
    /// An apply configuration.
    Object,
    /// A JSON patch.
    JsonPatch,
}

impl Outcome {
    /// The types, as messages about them have it.
    fn expected(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::String => "string",
            Self::OptionalString => "one of [string null_type]",
            Self::Any => "dyn",
            Self::Object => "Object",
            Self::JsonPatch => "list(JSONPatch)",
        }
    }

    fn takes(self, found: &Type) -> bool {
        match self {
            Self::Bool => *found == Type::Bool,
            Self::String => *found == Type::String,
            Self::OptionalString => matches!(found, Type::String | Type::Null),
            Self::Any => true,
            Self::Object | Self::JsonPatch => found.to_string() == self.expected(),
        }
    }
}

/// The variables that an expression can refer to: those of a policy, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    variables: Vec<(String, Schema)>,
    /// What `object` and `oldObject` are, if it is known.
    object: Option<Arc<Schema>>,
    /// What `params` is, if it is known.
    params: Option<Arc<Schema>>,
}

impl Scope {
    /// One in which `object` and `oldObject` have this form.
    pub(crate) fn about(object: Arc<Schema>) -> Self {
        Self { object: Some(object), ..Self::default() }
    }

    /// One in which `params` has this form besides.
    pub(crate) fn with_params(self, params: Option<Arc<Schema>>) -> Self {
        Self { params, ..self }
    }

    /// Adds a variable, which results in such values.
    pub(crate) fn declare(&mut self, name: &str, of: &Type) {
        self.variables.push((name.to_owned(), schema_of(of)));
    }

    fn env(&self, given: Given) -> Env {
        let mut env = Env::new()
            .json_variable("request", REQUEST.clone())
            .json_variable("namespaceObject", NAMESPACE.clone());
        for name in ["object", "oldObject"] {
            env = match &self.object {
                Some(schema) => env.json_variable(name, schema.clone()),
                None => env.variable(name, Type::Dyn),
            };
        }
        let variables = self.variables.iter().map(|(name, of)| (name.as_str(), of.clone()));
        let variables = Schema::declared("kubernetes.variables", variables);
        env = env.json_variable("variables", Arc::new(variables));
        if given.params {
            env = match &self.params {
                Some(schema) => env.json_variable("params", schema.clone()),
                None => env.variable("params", Type::Dyn),
            };
        }
        if given.authorizer {
            env = env.authorizer().request_resource();
        }
        if given.patches {
            env = env.object_constructors();
        }
        env
    }

    /// Compiles an expression; the error is kube-apiserver's.
    pub(crate) fn compile(
        &self,
        given: Given,
        expression: &str,
        outcome: Outcome,
    ) -> Result<Program, String> {
        let compiled = self.env(given).compile(expression);
        let program = compiled.map_err(|error| error.described())?;
        let found = program.output_type();
        if outcome.takes(found) {
            return Ok(program);
        }
        Err(format!("must evaluate to {} but got {found}", outcome.expected()))
    }

    /// Notes what is wrong with an expression.
    pub(super) fn check(
        &self,
        errors: &mut Errors,
        given: Given,
        expression: &str,
        outcome: Outcome,
        path: &Path<'_>,
    ) -> Option<Program> {
        match self.compile(given, expression, outcome) {
            Ok(program) => Some(program),
            Err(why) => {
                errors.invalid(path, expression, why);
                None
            }
        }
    }
}

/// Values of a type, as far as schemas can tell them apart.
fn schema_of(of: &Type) -> Schema {
    match of {
        Type::Bool => Schema::bool(),
        Type::Int => Schema::int(),
        Type::String => Schema::string(None),
        Type::Timestamp => Schema::date_time(),
        Type::List(items) => Schema::list(schema_of(items), None),
        Type::Map(entry) if entry.0 == Type::String => Schema::map(schema_of(&entry.1), None),
        _ => Schema::dynamic(),
    }
}

fn strings() -> Schema {
    Schema::list(Schema::string(None), None)
}

fn texts(name: &str, fields: &[&'static str]) -> Schema {
    Schema::declared(name, fields.iter().map(|field| (*field, Schema::string(None))))
}

/// What `request` is: an AdmissionRequest without its objects and its uid.
pub(crate) static REQUEST: LazyLock<Arc<Schema>> = LazyLock::new(|| {
    let text = || Schema::string(None);
    let kind = || texts("kubernetes.GroupVersionKind", &["group", "version", "kind"]);
    let resource = || texts("kubernetes.GroupVersionResource", &["group", "version", "resource"]);
    let user = Schema::declared(
        "kubernetes.UserInfo",
        [
            ("username", text()),
            ("uid", text()),
            ("groups", strings()),
            ("extra", Schema::map(strings(), None)),
        ],
    );
    Arc::new(Schema::declared(
        "kubernetes.AdmissionRequest",
        [
            ("kind", kind()),
            ("resource", resource()),
            ("subResource", text()),
            ("requestKind", kind()),
            ("requestResource", resource()),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user),
            ("dryRun", Schema::bool()),
            ("options", Schema::dynamic()),
        ],
    ))
});

/// What `namespaceObject` is: a Namespace without what is nobody's business; null for cluster
/// scope.
pub(crate) static NAMESPACE: LazyLock<Arc<Schema>> = LazyLock::new(|| {
    let text = || Schema::string(None);
    let labels = || Schema::map(Schema::string(None), None);
    let metadata = Schema::declared(
        "kubernetes.NamespaceMetadata",
        [
            ("name", text()),
            ("generateName", text()),
            ("namespace", text()),
            ("labels", labels()),
            ("annotations", labels()),
            ("UID", text()),
            ("creationTimestamp", Schema::date_time()),
            ("deletionGracePeriodSeconds", Schema::int()),
            ("deletionTimestamp", Schema::date_time()),
            ("generation", Schema::int()),
            ("resourceVersion", text()),
            ("finalizers", strings()),
        ],
    );
    let spec = Schema::declared("kubernetes.NamespaceSpec", [("finalizers", strings())]);
    let condition = Schema::declared(
        "kubernetes.NamespaceCondition",
        [
            ("status", text()),
            ("type", text()),
            ("lastTransitionTime", Schema::date_time()),
            ("message", text()),
            ("reason", text()),
        ],
    );
    let status = Schema::declared(
        "kubernetes.NamespaceStatus",
        [("conditions", Schema::list(condition, None)), ("phase", text())],
    );
    let fields = [("metadata", metadata), ("spec", spec), ("status", status)];
    Arc::new(Schema::declared("kubernetes.Namespace", fields).nullable())
});

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(expression: &str, outcome: Outcome, error: &str) {
        let mut scope = Scope::default();
        scope.declare("number", &Type::Int);
        let given = Given { params: true, authorizer: true, patches: true };
        let found = scope.compile(given, expression, outcome).err().unwrap_or_default();
        assert_eq!(found.lines().next().unwrap_or_default(), error);
    }

    #[test]
    fn expressions_refer_to_what_there_is() {
        check("object.spec.replicas < params.max && variables.number == 1", Outcome::Bool, "");
        check("request.userInfo.username == 'a' && request.namespace == 'b'", Outcome::Bool, "");
        check("namespaceObject.metadata.labels.exists(k, k == 'a')", Outcome::Bool, "");
        check("authorizer.requestResource.check('x').allowed()", Outcome::Bool, "");
        check("Object{spec: Object.spec{replicas: 1}}", Outcome::Object, "");
        check("[JSONPatch{op: 'remove', path: '/a'}]", Outcome::JsonPatch, "");
        check("null", Outcome::OptionalString, "");
    }

    #[test]
    fn what_is_wrong_is_told_as_kubernetes_does() {
        check("variables.number", Outcome::Bool, "must evaluate to bool but got int");
        check("object.spec", Outcome::Bool, "must evaluate to bool but got dyn");
        check(
            "1",
            Outcome::OptionalString,
            "must evaluate to one of [string null_type] but got int",
        );
        check(
            "request.nope",
            Outcome::Any,
            "compilation failed: ERROR: <input>:1:8: undefined field 'nope'",
        );
        check(
            "variables.other",
            Outcome::Any,
            "compilation failed: ERROR: <input>:1:10: undefined field 'other'",
        );
    }
}
