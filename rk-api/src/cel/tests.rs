//! What expressions mean.

mod costs;
mod errors;
mod language;
mod libraries;
mod properties;
mod rules;
mod unparse;

use serde_json::{Value as Json, json};

use super::*;

/// The result of an expression without variables, as JSON, or the text of its error.
fn outcome(source: &str) -> Result<Json, String> {
    let program = Env::new().compile(source).map_err(|error| error.to_string())?;
    let result = program
        .evaluate(&Bindings::new(), &mut Budget::default())
        .map_err(|error| error.to_string())?;
    let shown = match &result {
        Value::Optional(None) => Ok(json!({"none": true})),
        Value::Optional(Some(value)) => value.to_json().map(|value| json!({"some": value})),
        Value::Type(name) => Ok(json!(*name.0)),
        other => other.to_json(),
    };
    shown.map_err(|error| error.to_string())
}

/// Every expression is true.
#[track_caller]
fn all_true(sources: &[&str]) {
    let wrong: Vec<_> = sources
        .iter()
        .map(|source| (source, outcome(source)))
        .filter(|(_, found)| *found != Ok(json!(true)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Every expression fails with what is beside it.
#[track_caller]
fn all_fail(cases: &[(&str, &str)]) {
    let wrong: Vec<_> = cases
        .iter()
        .map(|(source, expected)| (source, outcome(source), expected))
        .filter(|(_, found, expected)| !matches!(found, Err(error) if error.contains(**expected)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
