//! Expressions, given anything: the text up to a zero byte is compiled, with `self` of no known type
//! and with one that has a schema, and evaluated on the JSON behind it.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use rk_api::cel::{Bindings, Budget, Env, Schema, Value};

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let Some(Ok(source)) = parts.next().map(std::str::from_utf8) else { return };
    let json = parts.next().and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default();
    let schema = Schema::object(
        "self",
        [
            ("i", Schema::int()),
            ("s", Schema::string(Some(20))),
            ("l", Schema::list(Schema::int(), Some(5))),
            ("m", Schema::map(Schema::date_time(), None)),
        ],
    );
    for schema in [Schema::dynamic(), schema] {
        let env = Env::new().json_variable("self", Arc::new(schema.clone()));
        let Ok(program) = env.compile(source) else { continue };
        let Ok(value) = Value::json(&json, &schema) else { continue };
        let _ = program.evaluate(&Bindings::new().bind("self", value), &mut Budget::default());
    }
});
