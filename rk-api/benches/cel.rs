//! What it costs to compile an expression, and to evaluate one.

use std::sync::Arc;

use rk_api::cel::{Bindings, Budget, Env, Schema, Value};
use serde_json::json;

fn main() {
    // Made by the first expression of a process; not a cost of the next ones.
    let _ = Env::new().compile("true");
    divan::main();
}

/// A field, a rule over a list, and one with a macro in a macro.
const EXPRESSIONS: &[&str] = &[
    "self.replicas <= 10",
    "self.names.all(n, n.startsWith('name') && n.size() < 64)",
    "self.names.all(n, self.names.exists_one(m, m == n))",
];

fn schema() -> Schema {
    Schema::object(
        "self",
        [("replicas", Schema::int()), ("names", Schema::list(Schema::string(Some(64)), Some(32)))],
    )
}

#[divan::bench(args = EXPRESSIONS)]
fn compile(bencher: divan::Bencher<'_, '_>, source: &str) {
    let env = Env::new().json_variable("self", Arc::new(schema()));
    bencher.bench(|| env.compile(source));
}

#[divan::bench(args = EXPRESSIONS)]
fn evaluate(bencher: divan::Bencher<'_, '_>, source: &str) {
    let schema = schema();
    let env = Env::new().json_variable("self", Arc::new(schema.clone()));
    let Ok(program) = env.compile(source) else { return };
    let names: Vec<_> = (0..16).map(|n| format!("name-{n}")).collect();
    let object = json!({"replicas": 3, "names": names});
    bencher.bench(|| {
        let value = Value::json(&object, &schema)?;
        let bindings = Bindings::new().bind("self", value);
        program.evaluate(&bindings, &mut Budget::default()).map(|value| value.as_bool())
    });
}
