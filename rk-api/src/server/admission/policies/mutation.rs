//! What the results of a MutatingAdmissionPolicy's expressions make of an object.

use k8s_openapi::api::admissionregistration::v1::{
    MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, MutatingAdmissionPolicySpec, ParamKind,
};
use serde_json::{Map, Value as Json};

use super::{
    super::{
        expressions::{Conditions, Evaluator, Expression, Failed, Inputs, Pass, Variables},
        matching::Matcher,
        shown::Seen,
    },
    config::Policy,
};
use crate::{
    cel::{Budget, Value},
    patch::{self, PatchKind},
    resources::admission::expressions::{Given, Outcome},
    server::managed_fields::schema_of,
};

/// A policy as it was written.
#[derive(Debug)]
pub(super) struct Mutating {
    spec: MutatingAdmissionPolicySpec,
    matcher: Matcher,
}

/// A policy, ready to be evaluated.
#[derive(Debug)]
pub(super) struct Mutations {
    pub conditions: Conditions,
    variables: Variables,
    pub all: Vec<Mutation>,
    /// Whether what fails is let through.
    pub ignores_failures: bool,
    /// Whether it wants to be asked again when others change the object after it.
    pub reinvocable: bool,
}

/// One mutation.
#[derive(Debug)]
pub(super) enum Mutation {
    /// Lays an object over the request's.
    Apply(Expression),
    /// Does what a list of operations says (RFC 6902).
    Patch(Expression),
}

impl Policy for Mutating {
    type Object = MutatingAdmissionPolicy;
    type Binding = MutatingAdmissionPolicyBinding;
    type Compiled = Mutations;

    fn new(object: MutatingAdmissionPolicy) -> Self {
        let spec = object.spec.unwrap_or_default();
        let constraints = spec.match_constraints.clone().unwrap_or_default();
        Self { matcher: Matcher::from(&constraints), spec }
    }

    fn compile(&self) -> Mutations {
        let spec = &self.spec;
        let params = spec.param_kind.is_some();
        let given = Given { params, authorizer: true, patches: true };
        let mut variables = Variables::default();
        for variable in spec.variables.iter().flatten() {
            variables.add(&variable.name, &variable.expression, given);
        }
        let mutations = spec.mutations.iter().flatten().map(|mutation| {
            let apply =
                mutation.apply_configuration.as_ref().and_then(|it| it.expression.as_deref());
            let json = mutation.json_patch.as_ref().and_then(|it| it.expression.as_deref());
            match mutation.patch_type.as_str() {
                "JSONPatch" => {
                    let source = json.unwrap_or_default();
                    Mutation::Patch(variables.compile(source, given, Outcome::JsonPatch))
                }
                _ => {
                    let source = apply.unwrap_or_default();
                    Mutation::Apply(variables.compile(source, given, Outcome::Object))
                }
            }
        });
        Mutations {
            conditions: Conditions::new(
                spec.match_conditions.as_deref().unwrap_or_default(),
                params,
            ),
            all: mutations.collect(),
            variables,
            ignores_failures: spec.failure_policy.as_deref() == Some("Ignore"),
            reinvocable: spec.reinvocation_policy.as_deref() == Some("IfNeeded"),
        }
    }

    fn matcher(&self) -> &Matcher {
        &self.matcher
    }

    fn param_kind(&self) -> Option<&ParamKind> {
        self.spec.param_kind.as_ref()
    }
}

impl Mutations {
    /// What one mutation makes of an object.
    ///
    /// # Errors
    /// Why it makes nothing of it, as clients are told.
    pub(super) async fn mutate(
        &self,
        index: usize,
        evaluator: &mut Evaluator<'_>,
        inputs: &Inputs,
        seen: &Seen,
    ) -> Result<Json, String> {
        let budget = Budget::default();
        let result = evaluator.run(
            self,
            |it| &it.variables,
            inputs,
            budget,
            |pass, all| result(pass, &all.all[index]),
        );
        let result = result.await.map_err(|failed| match failed {
            Failed::Expression(why) | Failed::OutOfBudget(why) => why,
            Failed::Question(_) => "the authorizer was not asked".to_owned(),
        })?;
        match &self.all[index] {
            Mutation::Apply(_) => applied(seen, result),
            Mutation::Patch(_) => patched(seen, &result),
        }
    }
}

/// What a mutation's expression results in, as JSON.
fn result<'a>(pass: &mut Pass<'a>, mutation: &'a Mutation) -> Result<Json, Failed> {
    let wrong = |why: String| Failed::Expression(why);
    match mutation {
        Mutation::Apply(expression) => {
            let value = pass.evaluate(expression)?;
            check_names(&value, "Object").map_err(|why| wrong(format!("type mismatch: {why}")))?;
            value.to_json().map_err(|error| wrong(error.to_string()))
        }
        Mutation::Patch(expression) => {
            let value = pass.evaluate(expression)?;
            let Value::List(operations) = &value else {
                let why = "type mismatch: JSONPatchType.expression should evaluate to array";
                return Err(wrong(why.to_owned()));
            };
            let operations = operations.iter().map(|item| {
                let item = item.map_err(|error| wrong(error.to_string()))?;
                operation(&item).map_err(wrong)
            });
            Ok(Json::Array(operations.collect::<Result<_, _>>()?))
        }
    }
}

/// An operation of a patch.
fn operation(value: &Value<'_>) -> Result<Json, String> {
    let Value::Struct(object) = value else {
        let why = "type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch";
        return Err(why.to_owned());
    };
    let mut operation = Map::new();
    for (name, field) in &object.fields {
        let empty = field.as_str() == Some("");
        if &**name == "from" && empty {
            continue;
        }
        if &**name == "value"
            && let Value::Struct(made) = field
        {
            check_names(field, &made.type_name).map_err(|why| format!("type mismatch: {why}"))?;
        }
        let json = field.to_json().map_err(|error| {
            format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {error}")
        })?;
        operation.insert((**name).to_owned(), json);
    }
    Ok(Json::Object(operation))
}

/// Objects that an expression makes have the type of the place where they are: in the field `spec` of
/// an `Object`, also as the item of a list or map, is an `Object.spec`.
fn check_names(value: &Value<'_>, expected: &str) -> Result<(), String> {
    match value {
        Value::Struct(object) => {
            if *object.type_name != *expected {
                return Err(format!(
                    "unexpected type name {:?}, expected {expected:?}, which matches field name \
                     path from root Object type",
                    object.type_name
                ));
            }
            let mut fields = object.fields.iter();
            fields.try_for_each(|(name, field)| check_names(field, &format!("{expected}.{name}")))
        }
        Value::List(list) => {
            list.iter().filter_map(Result::ok).try_for_each(|item| check_names(&item, expected))
        }
        Value::Map(map) => {
            let mut entries = map.entries().into_iter().filter_map(|(_, item)| item.ok());
            entries.try_for_each(|item| check_names(&item, expected))
        }
        Value::Optional(Some(value)) => check_names(value, expected),
        _ => Ok(()),
    }
}

/// The object with a configuration laid over it.
fn applied(seen: &Seen, mut configuration: Json) -> Result<Json, String> {
    let (schema, kind) = schema_of(&seen.resource)
        .ok_or_else(|| format!("the fields of {} are not known", seen.kind.kind))?;
    for field in ["apiVersion", "kind"] {
        if let (Some(configuration), Some(own)) =
            (configuration.as_object_mut(), seen.object.get(field))
        {
            configuration.insert(field.to_owned(), own.clone());
        }
    }
    let failed = |why: String| format!("error applying patch: {why}");
    schema.validate(kind, &configuration).map_err(|error| {
        failed(format!("failed to convert patch object to typed object: {error}"))
    })?;
    let atomics = schema.atomics(kind, &configuration);
    if !atomics.is_empty() {
        return Err(failed(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            atomics.join(", ")
        )));
    }
    schema
        .merge(kind, &seen.object, &configuration)
        .map_err(|error| failed(format!("failed to merge patch: {error}")))
}

/// The object with a patch applied to it; as it was when a test of the patch fails.
fn patched(seen: &Seen, operations: &Json) -> Result<Json, String> {
    let mut tree = seen.object.clone();
    let patch = serde_json::to_vec(operations).map_err(|error| error.to_string())?;
    match patch::apply(PatchKind::Json, &seen.resource.schema, &mut tree, &patch) {
        Ok(()) => Ok(tree),
        Err(error) if error.is_failed_test() => Ok(seen.object.clone()),
        Err(error) => Err(format!("JSON Patch: {}", error.detail())),
    }
}
