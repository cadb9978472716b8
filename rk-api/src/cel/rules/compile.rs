//! Rules are compiled with the schema they stand in, and what they may cost is added up.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value as Json;

use super::{Node, Rule, field_path};
use crate::{
    cel::{
        ESTIMATED_COST_LIMIT, ESTIMATED_TOTAL_COST_LIMIT, Env, Schema, Type, escape,
        schema::{MAX_REQUEST, Shape},
    },
    field::{ErrorList, FieldError, Reason},
};

const RULES: &str = "x-kubernetes-validations";

pub(super) fn compile(openapi: &Json, path: &str, forgive_cost: bool) -> (Option<Node>, ErrorList) {
    let mut compiler =
        Compiler { errors: ErrorList::new(), total: 0, dear: Vec::new(), forgive_cost };
    let place = Place {
        path: path.to_owned(),
        schema: None,
        in_scope: false,
        cardinality: Some(1),
        uncorrelatable: None,
    };
    let root = compiler.node(openapi, place, true);
    compiler.judge_total(path);
    (root, compiler.errors)
}

/// Where a schema stands.
#[derive(Clone)]
struct Place {
    path: String,
    /// What expressions see of it, if the schema above knows that.
    schema: Option<Schema>,
    /// Whether there are rules here or above.
    in_scope: bool,
    /// How often it can be in one object; `None` if nothing limits that.
    cardinality: Option<u64>,
    /// The list or map above it in which old and new cannot be told apart.
    uncorrelatable: Option<String>,
}

struct Compiler {
    errors: ErrorList,
    total: u64,
    /// The dearest expressions.
    dear: Vec<(u64, String)>,
    forgive_cost: bool,
}

/// How many rules are named when all together cost too much.
const MAX_DEAR: usize = 4;

fn text<'v>(value: &'v Json, key: &str) -> &'v str {
    value.get(key).and_then(Json::as_str).unwrap_or("")
}

fn object(schema: Option<&Json>) -> Option<&Json> {
    schema.filter(|schema| schema.is_object())
}

impl Compiler {
    fn node(&mut self, openapi: &Json, mut place: Place, is_root: bool) -> Option<Node> {
        let is_resource = is_root
            || openapi.get("x-kubernetes-embedded-resource").and_then(Json::as_bool) == Some(true);
        let rules = openapi.get(RULES).and_then(Json::as_array).map_or(&[][..], Vec::as_slice);
        place.in_scope |= !rules.is_empty();
        if place.in_scope && place.schema.is_none() {
            place.schema = Schema::from_openapi(openapi, "selfType", is_resource);
        }
        let list_keys: Vec<String> = match text(openapi, "x-kubernetes-list-type") {
            "map" => openapi
                .get("x-kubernetes-list-map-keys")
                .and_then(Json::as_array)
                .into_iter()
                .flatten()
                .filter_map(|key| key.as_str().map(str::to_owned))
                .collect(),
            _ => Vec::new(),
        };
        let mut node = Node {
            schema: place.schema.clone().map(Arc::new),
            kind: text(openapi, "type").to_owned(),
            rules: Vec::new(),
            items: None,
            properties: BTreeMap::new(),
            additional: None,
            all_of: Vec::new(),
            keys: list_keys,
            correlatable: matches!(
                text(openapi, "x-kubernetes-map-type"),
                "" | "granular" | "atomic"
            ),
        };
        self.children(openapi, &place, &mut node);
        node.rules = self.rules(openapi, rules, &place);
        let empty = node.rules.is_empty()
            && node.items.is_none()
            && node.additional.is_none()
            && node.properties.is_empty()
            && node.all_of.is_empty();
        (!empty).then_some(node)
    }

    fn children(&mut self, openapi: &Json, place: &Place, node: &mut Node) {
        let cardinality =
            place.cardinality.zip(repetition(openapi)).map(|(a, b)| a.saturating_mul(b));
        let shape = place.schema.as_ref().map(|schema| &schema.shape);
        let below = |path: String, schema: Option<Schema>, uncorrelatable| Place {
            path,
            schema,
            in_scope: place.in_scope,
            cardinality,
            uncorrelatable: place.uncorrelatable.clone().or(uncorrelatable),
        };
        let in_map = (!node.correlatable).then(|| place.path.clone());
        if let Some(values) = object(openapi.get("additionalProperties")) {
            let schema = match shape {
                Some(Shape::Map(values)) => Some((**values).clone()),
                _ => None,
            };
            let path = format!("{}.additionalProperties", place.path);
            let child = self.node(values, below(path, schema, in_map.clone()), false);
            node.additional = child.map(Box::new);
        }
        for (name, property) in
            openapi.get("properties").and_then(Json::as_object).into_iter().flatten()
        {
            let schema = match shape {
                Some(Shape::Object(object)) => escape(name)
                    .and_then(|field| object.fields.get(&*field))
                    .map(|field| field.schema.clone()),
                _ => None,
            };
            let path = format!("{}.properties[{name}]", place.path);
            if let Some(child) = self.node(property, below(path, schema, in_map.clone()), false) {
                node.properties.insert(name.clone(), child);
            }
        }
        if let Some(items) = object(openapi.get("items")) {
            let schema = match shape {
                Some(Shape::List { items, .. }) => Some((**items).clone()),
                _ => None,
            };
            let in_list = node.keys.is_empty().then(|| place.path.clone());
            let path = format!("{}.items", place.path);
            let child = self.node(items, below(path, schema, in_list), false);
            node.items = child.map(Box::new);
        }
        for nested in openapi.get("allOf").and_then(Json::as_array).into_iter().flatten() {
            // These see what the schema around them says, and are judged with it.
            let merged = nested_in(openapi, nested);
            let mut quiet = Compiler {
                errors: ErrorList::new(),
                total: 0,
                dear: Vec::new(),
                forgive_cost: true,
            };
            node.all_of.extend(quiet.node(&merged, place.clone(), false));
        }
    }

    fn rules(&mut self, openapi: &Json, rules: &[Json], place: &Place) -> Vec<Rule> {
        if rules.is_empty() {
            return Vec::new();
        }
        let Some(schema) = place.schema.clone().map(Arc::new) else {
            self.errors.push(FieldError {
                path: format!("{}.{RULES}", place.path),
                reason: Reason::Invalid,
                value: None,
                detail: "internal error: failed to construct type information for \
                         x-kubernetes-validations rules: unable to convert structural schema to \
                         CEL declarations"
                    .to_owned(),
            });
            return Vec::new();
        };
        let env = Env::new().json_variable("self", schema.clone());
        let always = env.clone().json_variable("oldSelf", schema.clone());
        let optional = env.optional_json_variable("oldSelf", schema.clone());
        rules
            .iter()
            .enumerate()
            .map(|(n, rule)| {
                let at = format!("{}.{RULES}[{n}]", place.path);
                let optional_old = rule.get("optionalOldSelf").and_then(Json::as_bool);
                let env = if optional_old == Some(true) { &optional } else { &always };
                self.rule(openapi, rule, &at, env, place, optional_old)
            })
            .collect()
    }

    fn rule(
        &mut self,
        openapi: &Json,
        rule: &Json,
        at: &str,
        env: &Env,
        place: &Place,
        optional_old: Option<bool>,
    ) -> Rule {
        let source = text(rule, "rule");
        let message = text(rule, "message").trim();
        let mut compiled = Rule {
            program: env.compile(source).map_err(|error| error.described()).and_then(|program| {
                match program.output_type() {
                    Type::Bool => Ok(program),
                    _ => Err("cel expression must evaluate to a bool".to_owned()),
                }
            }),
            uses_old: false,
            optional_old: optional_old == Some(true),
            text: if message.is_empty() { source.trim() } else { message }.to_owned(),
            message: message.to_owned(),
            message_expression: None,
            reason: rule.get("reason").and_then(Json::as_str).map(str::to_owned),
            field_path: String::new(),
        };
        match &compiled.program {
            Ok(program) => {
                compiled.uses_old = program.uses("oldSelf");
                let cost = program.estimated_cost().max;
                let min_size = place.schema.as_ref().map_or(1, |schema| schema.min_size);
                let times = place.cardinality.unwrap_or(MAX_REQUEST / (min_size + 1));
                let path = format!("{at}.rule");
                self.charge("estimated rule cost", cost.saturating_mul(times), path);
            }
            Err(why) => {
                self.invalid(format!("{at}.rule"), rule.clone(), why);
                return compiled;
            }
        }
        compiled.message_expression = self.message(rule, at, env);
        match (compiled.uses_old, &place.uncorrelatable) {
            (true, Some(within)) => {
                let detail = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {within}"
                );
                self.invalid(format!("{at}.rule"), Json::from(source), &detail);
            }
            (false, _) if optional_old.is_some() => self.invalid(
                format!("{at}.optionalOldSelf"),
                Json::from(optional_old),
                "may not be set if oldSelf is not used in rule",
            ),
            _ => {}
        }
        compiled.field_path =
            field_path::normalized(text(rule, "fieldPath"), openapi).unwrap_or_default();
        compiled
    }

    fn message(
        &mut self,
        rule: &Json,
        at: &str,
        env: &Env,
    ) -> Option<(crate::cel::Program, String)> {
        let source = text(rule, "messageExpression");
        if source.is_empty() {
            return None;
        }
        let path = format!("{at}.messageExpression");
        let why = match env.compile(source) {
            Ok(program) if *program.output_type() == Type::String => {
                self.charge("estimated messageExpression cost", program.estimated_cost().max, path);
                return Some((program, source.to_owned()));
            }
            Ok(_) => "messageExpression must evaluate to a string".to_owned(),
            Err(error) => format!("messageExpression {}", error.described()),
        };
        self.invalid(path, rule.clone(), &why);
        None
    }

    fn invalid(&mut self, path: String, value: Json, detail: &str) {
        let detail = detail.to_owned();
        self.errors.push(FieldError { path, reason: Reason::Invalid, value: Some(value), detail });
    }

    fn forbidden(&mut self, path: String, detail: String) {
        self.errors.push(FieldError { path, reason: Reason::Forbidden, value: None, detail });
    }

    fn charge(&mut self, what: &str, cost: u64, path: String) {
        if !self.forgive_cost && cost > ESTIMATED_COST_LIMIT {
            self.forbidden(path.clone(), too_dear(what, cost, ESTIMATED_COST_LIMIT));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= ESTIMATED_TOTAL_COST_LIMIT / 100 {
            self.dear.push((cost, path));
            self.dear.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
            self.dear.truncate(MAX_DEAR);
        }
    }

    fn judge_total(&mut self, path: &str) {
        if self.total <= ESTIMATED_TOTAL_COST_LIMIT || self.forgive_cost {
            return;
        }
        for (_, path) in std::mem::take(&mut self.dear) {
            let detail = "contributed to estimated rule cost total exceeding cost limit for entire \
                          OpenAPIv3 schema";
            self.forbidden(path, detail.to_owned());
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        let detail = too_dear(what, self.total, ESTIMATED_TOTAL_COST_LIMIT);
        self.forbidden(path.to_owned(), detail);
    }
}

/// By how much a list or map multiplies what is in it; `None` if nothing limits that.
fn repetition(openapi: &Json) -> Option<u64> {
    let limit = |key: &str| {
        let limit = openapi.get(key)?;
        limit.as_u64().or_else(|| limit.as_f64().map(|limit| limit.max(0.0) as u64))
    };
    match text(openapi, "type") {
        "object" if openapi.get("additionalProperties").is_some() => limit("maxProperties"),
        "array" => limit("maxItems"),
        _ => Some(1),
    }
}

fn too_dear(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, \
         maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

/// The rules of an `allOf` branch in the structure of the schema that it belongs to.
fn nested_in(spine: &Json, nested: &Json) -> Json {
    let mut merged = spine.as_object().cloned().unwrap_or_default();
    merged.remove(RULES);
    merged.remove("allOf");
    for key in [RULES, "allOf"] {
        if let Some(value) = nested.get(key) {
            merged.insert(key.to_owned(), value.clone());
        }
    }
    for key in ["items", "additionalProperties"] {
        let child = match (object(spine.get(key)), object(nested.get(key))) {
            (Some(spine), Some(nested)) => Some(nested_in(spine, nested)),
            (Some(spine), None) => Some(without_rules(spine)),
            _ => None,
        };
        if let Some(child) = child {
            merged.insert(key.to_owned(), child);
        }
    }
    if let Some(properties) = spine.get("properties").and_then(Json::as_object) {
        let properties = properties.iter().map(|(name, spine)| {
            let nested = nested.get("properties").and_then(|properties| properties.get(name));
            let child = nested.map_or_else(|| without_rules(spine), |n| nested_in(spine, n));
            (name.clone(), child)
        });
        merged.insert("properties".to_owned(), Json::Object(properties.collect()));
    }
    Json::Object(merged)
}

fn without_rules(spine: &Json) -> Json {
    nested_in(spine, &Json::Null)
}
