//! What is refused, and in which words.

use super::*;

#[test]
fn syntax_errors_point_at_their_place() {
    for (source, expected) in [
        (
            "1 + $",
            "ERROR: <input>:1:5: Syntax error: token recognition error at: '$'\n | 1 + $\n | ....^",
        ),
        (
            "1 +",
            "ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', \
             '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, \
             IDENTIFIER}\n | 1 +\n | ...^",
        ),
        (
            "1 2",
            "ERROR: <input>:1:3: Syntax error: extraneous input '2' expecting <EOF>\n | 1 2\n | ..^",
        ),
        ("as", "ERROR: <input>:1:1: reserved identifier: as\n | as\n | ^"),
        (
            "0xFFFFFFFFFFFFFFFFF",
            "ERROR: <input>:1:1: invalid int literal\n | 0xFFFFFFFFFFFFFFFFF\n | ^",
        ),
        ("has(1)", "ERROR: <input>:1:5: invalid argument to has() macro\n | has(1)\n | ....^"),
        (
            "1.all(2, 3)",
            "ERROR: <input>:1:7: argument must be a simple name\n | 1.all(2, 3)\n | ......^",
        ),
    ] {
        let found = outcome(source).unwrap_err();
        assert!(found.starts_with(expected), "{source}:\n{found}\nnot\n{expected}");
    }
}

#[test]
fn types_that_do_not_agree_are_refused() {
    for (source, expected) in [
        ("x", "ERROR: <input>:1:1: undeclared reference to 'x' (in container '')\n | x\n | ^"),
        (
            "f(1)",
            "ERROR: <input>:1:2: undeclared reference to 'f' (in container '')\n | f(1)\n | .^",
        ),
        (
            "1 + 'a'",
            "ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'\n \
             | 1 + 'a'\n | ..^",
        ),
        (
            "'a'.startsWith(1)",
            "ERROR: <input>:1:15: found no matching overload for 'startsWith' applied to \
             'string.(int)'\n | 'a'.startsWith(1)\n | ..............^",
        ),
        (
            "1 && true",
            "ERROR: <input>:1:1: expected type 'bool' but found 'int'\n | 1 && true\n | ^",
        ),
        (
            "[1, 'a']",
            "ERROR: <input>:1:5: expected type 'int' but found 'string'\n | [1, 'a']\n | ....^",
        ),
        (
            "1.map(x, x)",
            "ERROR: <input>:1:1: expression of type 'int' cannot be range of a comprehension (must \
             be list, map, or dynamic)\n | 1.map(x, x)\n | ^",
        ),
        (
            "(1).a",
            "ERROR: <input>:1:4: type 'int' does not support field selection\n | (1).a\n | ...^",
        ),
        (
            "'a'.matches('(')",
            "ERROR: <input>:1:13: invalid matches argument\n | 'a'.matches('(')\n | ............^",
        ),
        (
            "duration('x')",
            "ERROR: <input>:1:10: invalid duration argument\n | duration('x')\n | .........^",
        ),
        (
            "timestamp('x')",
            "ERROR: <input>:1:11: invalid timestamp argument\n | timestamp('x')\n | ..........^",
        ),
        (
            "Object{}",
            "ERROR: <input>:1:7: undeclared reference to 'Object' (in container '')\n | Object{}\n | ......^",
        ),
    ] {
        let found = outcome(source).unwrap_err();
        assert!(found.starts_with(expected), "{source}:\n{found}\nnot\n{expected}");
    }
}

#[test]
fn hostile_sources_are_refused_before_they_do_harm() {
    let nested = |open: &str, close: &str, n| format!("{}1{}", open.repeat(n), close.repeat(n));
    for source in [
        nested("(", ")", 50_000),
        nested("[", "]", 30_000),
        nested("!(", ")", 30_000),
        "1+".repeat(40_000) + "1",
        "a".to_owned() + &".a".repeat(40_000),
        "a".to_owned() + &"[0]".repeat(30_000),
        "-".repeat(90_000),
        "optional.of(1)".to_owned() + &".optMap(x, x)".repeat(40),
        nested("true ? ", " : true", 10_000),
        " ".repeat(100_001),
    ] {
        assert!(outcome(&source).is_err(), "{}", &source[..30]);
    }
    assert_eq!(outcome(&("true && ".repeat(10_000) + "true")), Ok(json!(true)));
    assert_eq!(outcome(&("!".repeat(50_000) + "true")), Ok(json!(true)));
}

#[test]
fn costly_evaluations_are_stopped() {
    let list = "[0,1,2,3,4,5,6,7,8,9]";
    let mut nested = "true".to_owned();
    for n in 0..8 {
        nested = format!("{list}.all(x{n}, {nested})");
    }
    let mut doubled = "optional.of([1])".to_owned();
    for _ in 0..12 {
        doubled += ".optMap(x, x + x)";
    }
    let mut bound = "x".to_owned();
    for _ in 0..35 {
        bound = format!("cel.bind(x, x + x, {bound})");
    }
    for source in [
        nested,
        format!("cel.bind(x, 'aaaaaaaaaa', {bound})"),
        format!("cel.bind(x, [1], {bound})"),
        "lists.range(900000).map(x, lists.range(900000))".to_owned(),
        "lists.range(9223372036854775807)".to_owned(),
    ] {
        let found = outcome(&source);
        assert_eq!(
            found,
            Err("operation cancelled: actual cost limit exceeded".to_owned()),
            "{source}"
        );
    }
}
