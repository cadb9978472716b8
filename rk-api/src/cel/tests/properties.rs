//! What holds of any expression.

use std::sync::Arc;

use proptest::prelude::*;

use super::{unparse::unparse, *};
use crate::cel::parser::parse;

/// Expressions of any shape, by the grammar; most of them have no type.
fn anything() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "[a-c]",
        "-?[0-9]{1,3}",
        "[0-9]{1,2}u",
        "[0-9]\\.[0-9]e[0-9]",
        Just("'a\\n\"\\u00e9'".to_owned()),
        Just("b'\\xff'".to_owned()),
        Just("r'\\d'".to_owned()),
        Just("true".to_owned()),
        Just("null".to_owned()),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            (two.clone(), "\\+|-|\\*|/|%|==|!=|<|<=|>|>=|&&|\\|\\|| in ")
                .prop_map(|((a, b), op)| format!("{a} {op} {b}")),
            two.clone().prop_map(|(a, b)| format!("({a}) ? ({b}) : {a}")),
            inner.clone().prop_map(|a| format!("!({a})")),
            inner.clone().prop_map(|a| format!("-({a})")),
            inner.clone().prop_map(|a| format!("({a}).f")),
            inner.clone().prop_map(|a| format!("({a}).?f")),
            two.clone().prop_map(|(a, b)| format!("({a})[{b}]")),
            two.clone().prop_map(|(a, b)| format!("({a})[?{b}]")),
            two.clone().prop_map(|(a, b)| format!("({a}).all(x, {b})")),
            two.clone().prop_map(|(a, b)| format!("f({a}, {b})")),
            prop::collection::vec(inner.clone(), 0..4)
                .prop_map(|items| format!("[{}]", items.join(", "))),
            two.clone().prop_map(|(a, b)| format!("{{{a}: {b}, ?{b}: {a}}}")),
            two.prop_map(|(a, b)| format!("T.U{{f: {a}, ?g: {b},}}")),
        ]
    })
}

/// Expressions of each type over `self`.
#[derive(Clone, Debug)]
struct Typed {
    int: BoxedStrategy<String>,
    text: BoxedStrategy<String>,
    bool: BoxedStrategy<String>,
    list: BoxedStrategy<String>,
}

fn typed(depth: u32) -> Typed {
    let int = prop_oneof![Just("self.i".to_owned()), "[0-9]{1,2}"].boxed();
    let text = prop_oneof![Just("self.s".to_owned()), "'[a-c]{0,3}'"].boxed();
    let bool = prop_oneof![Just("self.b".to_owned()), Just("true".to_owned())].boxed();
    let list = prop_oneof![Just("self.l".to_owned()), Just("[1, 2]".to_owned())].boxed();
    let base = Typed { int, text, bool, list };
    if depth == 0 {
        return base;
    }
    let t = typed(depth - 1);
    let two = |a: &BoxedStrategy<String>, b: &BoxedStrategy<String>| (a.clone(), b.clone());
    Typed {
        int: prop_oneof![
            base.int,
            (two(&t.int, &t.int), "\\+|-|\\*|/|%")
                .prop_map(|((a, b), op)| format!("({a} {op} {b})")),
            two(&t.list, &t.int).prop_map(|(a, b)| format!("({a})[{b}]")),
            t.text.clone().prop_map(|a| format!("size({a})")),
            t.list.clone().prop_map(|a| format!("({a}).sum()")),
            (t.bool.clone(), t.int.clone(), t.int.clone())
                .prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            two(&t.text, &t.text).prop_map(|(a, b)| format!("({a}).indexOf({b})")),
            t.list.clone().prop_map(|a| format!("optional.of({a}).optMap(o, o.size()).orValue(0)")),
        ]
        .boxed(),
        text: prop_oneof![
            base.text,
            two(&t.text, &t.text).prop_map(|(a, b)| format!("({a} + {b})")),
            t.text.clone().prop_map(|a| format!("({a}).upperAscii()")),
            two(&t.text, &t.text).prop_map(|(a, b)| format!("({a}).replace({b}, 'zz')")),
            t.list.clone().prop_map(|a| format!("({a}).map(e, 'n').join('-')")),
        ]
        .boxed(),
        bool: prop_oneof![
            base.bool,
            two(&t.bool, &t.bool).prop_map(|(a, b)| format!("({a} && {b})")),
            two(&t.bool, &t.bool).prop_map(|(a, b)| format!("({a} || !({b}))")),
            two(&t.int, &t.int).prop_map(|(a, b)| format!("({a} < {b})")),
            two(&t.text, &t.text).prop_map(|(a, b)| format!("({a} == {b})")),
            two(&t.text, &t.text).prop_map(|(a, b)| format!("({a}).startsWith({b})")),
            two(&t.text, &t.text).prop_map(|(a, b)| format!("({a}).contains({b})")),
            t.text.clone().prop_map(|a| format!("({a}).matches('^a+b?$')")),
            two(&t.int, &t.list).prop_map(|(a, b)| format!("({a} in {b})")),
            two(&t.list, &t.bool).prop_map(|(a, b)| format!("({a}).all(e, e > 1 && {b})")),
            two(&t.list, &t.bool).prop_map(|(a, b)| format!("({a}).exists(e, e > 1 || {b})")),
            two(&t.list, &t.int)
                .prop_map(|(a, b)| format!("self.m.all(k, v, v < {b} || k.size() < ({a}).size())")),
            t.list.clone().prop_map(|a| format!("({a}).isSorted()")),
        ]
        .boxed(),
        list: prop_oneof![
            base.list,
            two(&t.list, &t.list).prop_map(|(a, b)| format!("({a} + {b})")),
            two(&t.list, &t.int).prop_map(|(a, b)| format!("({a}).map(e, e + {b})")),
            two(&t.list, &t.bool).prop_map(|(a, b)| format!("({a}).filter(e, e > 0 || {b})")),
            t.list.clone().prop_map(|a| format!("({a}).transformList(i, e, i > 0, e - i)")),
            t.list.clone().prop_map(|a| format!("({a}).sort()")),
            t.list.clone().prop_map(|a| format!("({a}).sortBy(e, -e)")),
        ]
        .boxed(),
    }
}

fn schema() -> Schema {
    Schema::object(
        "self",
        [
            ("i", Schema::int()),
            ("s", Schema::string(Some(8))),
            ("b", Schema::bool()),
            ("l", Schema::list(Schema::int(), Some(4))),
            ("m", Schema::map(Schema::int(), Some(3))),
        ],
    )
}

fn object() -> impl Strategy<Value = Json> {
    let list = prop::collection::vec(-3..50_i64, 0..=4);
    let map = prop::collection::btree_map("[a-c]{1,3}", -3..5_i64, 0..=3);
    (-3..100_i64, "[a-c]{0,8}", any::<bool>(), list, map)
        .prop_map(|(i, s, b, l, m)| json!({"i": i, "s": s, "b": b, "l": l, "m": m}))
}

proptest! {
    #[test]
    fn no_text_does_harm(source in "\\PC{0,60}") {
        let _ = outcome(&source);
    }

    #[test]
    fn no_change_of_a_good_text_does_harm(
        source in anything(),
        at in any::<prop::sample::Index>(),
        with in "[-+.?:()\\[\\]{}'\"a0 ]{0,3}",
    ) {
        let mut chars: Vec<char> = source.chars().collect();
        let at = at.index(chars.len());
        chars.splice(at..=at, with.chars());
        let _ = outcome(&chars.into_iter().collect::<String>());
    }

    #[test]
    fn a_tree_written_as_text_is_read_as_the_same_tree(source in anything()) {
        let parsed = parse(&source).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let written = unparse(&parsed.root);
        let again = parse(&written).map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(unparse(&again.root), written);
    }

    #[test]
    fn what_the_checker_accepts_has_its_type_and_costs_no_more_than_estimated(
        source in typed(3).bool,
        object in object(),
    ) {
        let schema = schema();
        let env = Env::new().json_variable("self", Arc::new(schema.clone()));
        let program = env.compile(&source).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let value = Value::json(&object, &schema).unwrap();
        let mut budget = Budget::default();
        match program.evaluate(&Bindings::new().bind("self", value), &mut budget) {
            Ok(value) => prop_assert!(value.as_bool().is_some(), "{:?}", value),
            Err(error) => prop_assert_ne!(error, EvalError::new("no such overload")),
        }
        let cost = RUNTIME_BUDGET - budget.left();
        let most = program.estimated_cost().max;
        prop_assert!(cost <= most, "{} costs {}, at most {}", source, cost, most);
    }
}
