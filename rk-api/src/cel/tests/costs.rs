//! What expressions cost, and what they are estimated to.

use std::sync::Arc;

use super::*;

/// What evaluating costs, and how much at most it was estimated to.
fn costs(schema: &Schema, object: &Json, source: &str) -> (u64, u64) {
    let env = Env::new().json_variable("self", Arc::new(schema.clone()));
    let program = env.compile(source).unwrap_or_else(|error| panic!("{source}: {error}"));
    let bindings = Bindings::new().bind("self", Value::json(object, schema).unwrap());
    let mut budget = Budget::default();
    program.evaluate(&bindings, &mut budget).unwrap_or_else(|error| panic!("{source}: {error}"));
    (RUNTIME_BUDGET - budget.left(), program.estimated_cost().max)
}

#[test]
fn expressions_cost_what_they_cost_in_kubernetes() {
    let string = || Schema::string(Some(3 * 1024 * 1024 - 2));
    let schema = Schema::object(
        "self",
        [
            ("int", Schema::int()),
            ("text", string()),
            ("list", Schema::list(Schema::int(), None)),
            ("texts", Schema::list(string(), None)),
            ("map", Schema::map(string(), None)),
            ("at", Schema::date_time()),
        ],
    );
    let object = json!({
        "int": 10, "text": "Rook takes 👑", "list": [1, 2, 3], "texts": ["a", "b", "c"],
        "map": {"k1": "a", "k2": "b"}, "at": "2011-08-18T19:03:37+01:00",
    });
    let mut wrong = Vec::new();
    for (source, actual, estimated) in [
        ("self.int == self.int", 5, 4),
        ("type(self.int) == int", 4, 4),
        ("self.int + 1 == 11", 4, 4),
        ("double(5) < 10.0", 1, 2),
        ("double(self.int) < 10.5", 4, 4),
        ("self.text.startsWith('Rook')", 3, 3),
        ("self.text.matches('^[^0-9]*$')", 8, 943_721),
        ("size(self.text) == 12", 4, 4),
        ("self.text.charAt(3) == 'k'", 4, 4),
        ("self.text.indexOf('o') == 1", 4, 314_576),
        ("self.text.replace(' ', 'x') == 'Rookxtakesx👑'", 7, 629_150),
        ("self.text.split(' ') == ['Rook', 'takes', '👑']", 6, 629_159),
        ("self.text.substring(4, 10).trim() == 'takes'", 6, 629_149),
        ("self.text.lowerAscii() == self.text.lowerAscii()", 10, 943_723),
        ("string(self.int) == self.text", 6, 314_578),
        ("1 in self.list", 5, 1_572_865),
        ("self.list[0] in self.list", 8, 1_572_868),
        ("self.list + [4, 5] == [1, 2, 3, 4, 5]", 4, 24),
        ("self.list + self.list == [1, 2, 3, 1, 2, 3]", 6, 16),
        ("has(self.list) && has(self.map)", 2, 2),
        ("self.list.all(k, size(self.list) > 0)", 24, 11_010_044),
        ("self.texts == ['c', 'b', 'a']", 3, 13),
        ("sets.contains(self.texts, ['a'])", 6, 1_048_588),
        ("'k1' in self.map", 3, 3),
        ("self.text in ['a', 'b']", 2, 14),
        ("self.at == timestamp('2011-08-18T00:00:00+01:00') + duration('19h3m37s')", 4, 6),
    ] {
        let found = costs(&schema, &object, source);
        if found != (actual, estimated) {
            wrong.push((source, found, (actual, estimated)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
