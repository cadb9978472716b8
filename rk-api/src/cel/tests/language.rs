//! The language itself, by the sections of its specification.

use super::*;

#[test]
fn literals_have_their_values() {
    all_true(&[
        "1 == 0x1",
        "-9223372036854775808 < 0",
        "18446744073709551615u > 0u",
        "1e3 == 1000.0",
        ".5 == 0.5",
        r#""a\n" == 'a\x0a'"#,
        r#"r"\n" == "\\n""#,
        r#"'''a"b''' == "a\"b""#,
        r#""""a
b""" == "a\nb""#,
        r#"b'\xff' != b'ÿ'"#,
        r#"b'ÿ' == b'\303\277'"#,
        r#"'\u00e9' == 'é' && '\U0001F600' == '😀'"#,
        "[1, 2,] == [1, 2]",
        "{'a': 1}['a'] == 1",
        "{'a': 1}.a == 1",
        "null == null",
        "// a comment\n true",
        "size(b'é') == 2 && size('é') == 1",
    ]);
}

#[test]
fn arithmetic_is_checked() {
    all_true(&[
        "1 + 2 * 3 == 7",
        "7 / 2 == 3 && -7 / 2 == -3 && 7 % -2 == 1",
        "5u - 3u == 2u",
        "1.0 / 0.0 > 1e300",
        "--1 == 1 && !!true",
        "'a' + 'b' == 'ab' && [1] + [2] == [1, 2]",
        "b'a' + b'b' == b'ab'",
    ]);
    all_fail(&[
        ("9223372036854775807 + 1", "integer overflow"),
        ("-9223372036854775808 - 1", "integer overflow"),
        ("-(-9223372036854775808)", "integer overflow"),
        ("9223372036854775807 * 2", "integer overflow"),
        ("0u - 1u", "unsigned integer overflow"),
        ("1 / 0", "division by zero"),
        ("1 % 0", "modulus by zero"),
        ("-9223372036854775808 / -1", "integer overflow"),
    ]);
}

#[test]
fn numbers_compare_across_their_types() {
    all_true(&[
        "dyn(1) == dyn(1u) && dyn(1) == dyn(1.0)",
        "1 < 1.5 && 2u > 1.5 && 1 <= 1u",
        "dyn(9223372036854775807) < dyn(9223372036854775808.0)",
        "dyn(1) in [1.0, 2.0]",
        "dyn(0.0) == dyn(-0.0)",
        "!(dyn(double('NaN')) == dyn(double('NaN')))",
        "{1: 'a'}[dyn(1.0)] == 'a' && {1u: 'a'}[dyn(1)] == 'a'",
        "dyn('1') != dyn(1)",
    ]);
}

#[test]
fn logic_absorbs_errors() {
    all_true(&[
        "true || 1 / 0 > 0",
        "1 / 0 > 0 || true",
        "!(false && 1 / 0 > 0)",
        "!(1 / 0 > 0 && false)",
        "true ? true : 1 / 0 > 0",
        "[0, 1].exists(x, 1 / x > 0)",
        "!([0, 1].all(x, 1 / x < 0))",
    ]);
    all_fail(&[
        ("false || 1 / 0 > 0", "division by zero"),
        ("1 / 0 > 0 && true", "division by zero"),
        ("[0, 1].all(x, 1 / x > 0)", "division by zero"),
        ("[0, 1].exists_one(x, 1 / x > 0)", "division by zero"),
        ("dyn('a') && true", "no such overload"),
    ]);
}

#[test]
fn macros_fold_lists_and_maps() {
    all_true(&[
        "[1, 2, 3].all(x, x > 0) && [].all(x, x > 0)",
        "[1, 2, 3].exists(x, x == 2) && !([].exists(x, true))",
        "[1, 2, 3].exists_one(x, x > 2) && !([3, 3].existsOne(x, x > 2))",
        "[1, 2, 3].map(x, x * 2) == [2, 4, 6]",
        "[1, 2, 3].map(x, x > 1, x * 2) == [4, 6]",
        "[1, 2, 3].filter(x, x > 1) == [2, 3]",
        "{'a': 1, 'b': 2}.all(k, k in ['a', 'b'])",
        "{'a': 1, 'b': 2}.map(k, k) == ['a', 'b']",
        "[[1, 2], [3]].map(x, x.map(y, y * 2)) == [[2, 4], [6]]",
        "[1].map(x, [2].map(x, x)) == [[2]]",
        "has({'a': 1}.a) && !has({'a': 1}.b)",
        "cel.bind(x, 2, x * x) == 4",
        "cel.bind(x, 1 / 0, true)",
    ]);
}

#[test]
fn macros_with_two_variables_see_index_or_key() {
    all_true(&[
        "[1, 2].all(i, v, v == i + 1)",
        "[1, 2].exists(i, v, i == 1 && v == 2)",
        "[1, 2].existsOne(i, v, v > 1)",
        "{'a': 1}.all(k, v, k == 'a' && v == 1)",
        "[3, 4].transformList(i, v, i * v) == [0, 4]",
        "[3, 4].transformList(i, v, v > 3, i * v) == [4]",
        "{'a': 1, 'b': 2}.transformMap(k, v, v * 2) == {'a': 2, 'b': 4}",
        "{'a': 1, 'b': 2}.transformMap(k, v, v > 1, v) == {'b': 2}",
        "['x', 'y'].transformMap(i, v, v) == {0: 'x', 1: 'y'}",
        "{'a': 'b'}.transformMapEntry(k, v, {v: k}) == {'b': 'a'}",
    ]);
    all_fail(&[
        (
            "{'a': 'x', 'b': 'x'}.transformMapEntry(k, v, {v: k})",
            "insert failed: key x already exists",
        ),
        ("[1].all(i, i, true)", "duplicate variable name: i"),
    ]);
}

#[test]
fn optional_values_stand_for_what_may_be_missing() {
    all_true(&[
        "{'a': 1}.?a == optional.of(1) && {'a': 1}.?b == optional.none()",
        "{'a': {'b': 1}}.?a.b.hasValue() && !{'a': {'b': 1}}.?x.b.hasValue()",
        "{'a': 1}[?'a'].value() == 1 && [1][?0].orValue(2) == 1 && [1][?1].orValue(2) == 2",
        "optional.none().orValue(1 + 1) == 2",
        "optional.of(1).orValue(1 / 0) == 1",
        "optional.none().or(optional.of(3)).value() == 3",
        "optional.of(2).optMap(x, x * x).value() == 4",
        "!optional.none().optMap(x, x).hasValue()",
        "optional.of([1]).optFlatMap(x, x[?0]).value() == 1",
        "!optional.ofNonZeroValue('').hasValue() && optional.ofNonZeroValue(1).hasValue()",
        "[?optional.none(), ?optional.of(1)] == [1]",
        "{?'a': optional.none(), ?'b': optional.of(1)} == {'b': 1}",
        "has({'a': {'b': 1}}.?a.b) && !has({'a': {'b': 1}}.?x.b)",
    ]);
    all_fail(&[("optional.none().value()", "optional.none() dereference")]);
}

#[test]
fn types_are_values() {
    all_true(&[
        "type(1) == int && type('') == string && type([]) == list && type({}) == map",
        "type(1u) == uint && type(1.0) == double && type(b'') == bytes && type(true) == bool",
        "type(null) == null_type && type(int) == type",
        "type(duration('1s')) == google.protobuf.Duration",
        "type(timestamp(0)) == google.protobuf.Timestamp",
        "type(optional.none()) == optional_type",
    ]);
}

#[test]
fn conversions_convert_or_fail() {
    all_true(&[
        "int('-3') == -3 && int(3.9) == 3 && int(5u) == 5 && int(timestamp(7)) == 7",
        "uint('3') == 3u && uint(3.9) == 3u",
        "double('1.5') == 1.5 && double(2) == 2.0",
        "string(1) == '1' && string(1u) == '1' && string(true) == 'true' && string(b'a') == 'a'",
        "string(1.5) == '1.5' && string(1e21) == '1e+21' && string(0.00001) == '1e-05'",
        "string(1000000.0) == '1e+06' && string(123456.0) == '123456'",
        "string(duration('1m1.5s')) == '61.5s' && string(timestamp(0)) == '1970-01-01T00:00:00Z'",
        "bool('true') && !bool('0') && bytes('a') == b'a'",
        "duration('1h') == duration('60m') && duration('-1.5h') == duration('-90m')",
    ]);
    all_fail(&[
        ("int('a')", "type conversion error from 'string' to 'int'"),
        ("int(1e19)", "integer overflow"),
        ("uint(-1)", "unsigned integer overflow"),
        ("string(b'\\xff')", "invalid UTF-8 in bytes, cannot convert to string"),
        ("bool('x')", "type conversion error from 'string' to 'bool'"),
        (
            "timestamp('x' + '')",
            "type conversion error from 'string' to 'google.protobuf.Timestamp'",
        ),
        ("timestamp(253402300800)", "timestamp overflow"),
    ]);
}

#[test]
fn timestamps_and_durations_have_parts() {
    all_true(&[
        "timestamp('2009-02-13T23:31:30Z').getFullYear() == 2009",
        "timestamp('2009-02-13T23:31:30Z').getMonth() == 1",
        "timestamp('2009-02-13T23:31:30Z').getDate() == 13",
        "timestamp('2009-02-13T23:31:30Z').getDayOfMonth() == 12",
        "timestamp('2009-02-13T23:31:30Z').getDayOfYear() == 43",
        "timestamp('2009-02-13T23:31:30Z').getDayOfWeek() == 5",
        "timestamp('2009-02-13T23:31:30Z').getHours('Asia/Kolkata') == 5",
        "timestamp('2009-02-13T23:31:30Z').getHours('-02:30') == 21",
        "timestamp('2009-02-13T23:31:30.25Z').getMilliseconds() == 250",
        "timestamp('2009-02-13T23:31:30+01:00') == timestamp('2009-02-13T22:31:30Z')",
        "timestamp('2009-02-13T23:31:30Z') + duration('30s') == timestamp(1234567920)",
        "timestamp(10) - timestamp(4) == duration('6s') && timestamp(10) > timestamp(4)",
        "string(timestamp('9999-12-31T23:59:59.999999999Z')) == '9999-12-31T23:59:59.999999999Z'",
        "duration('1h1m1.5s').getHours() == 1 && duration('1h1m').getMinutes() == 61",
        "duration('1.5s').getMilliseconds() == 1500 && duration('90s').getSeconds() == 90",
    ]);
    all_fail(&[
        ("timestamp('9999-12-31T23:59:59Z') + duration('1s')", "timestamp overflow"),
        ("timestamp(0).getHours('Nowhere/City')", "unknown time zone"),
    ]);
}

#[test]
fn lists_and_maps_are_indexed() {
    all_true(&[
        "[1, 2][1] == 2 && [1, 2][dyn(1.0)] == 2 && {'a': 1}['a'] == 1",
        "2 in [1, 2] && 'a' in {'a': 1} && !('b' in {'a': 1})",
        "size([1, 2]) == 2 && {'a': 1}.size() == 1",
        "{'a': [dyn(1), dyn({'b': 2})]}.a[1].b == 2",
        "[dyn(1), dyn([2])] == [dyn(1), dyn([2])]",
    ]);
    all_fail(&[
        ("[1][1]", "index out of bounds: 1"),
        ("[1][-1]", "index out of bounds: -1"),
        ("{'a': 1}['b']", "no such key: b"),
        ("{'a': 1}.b", "no such key: b"),
        ("{'a': 1, 'a': 2}", "Failed with repeated key a"),
    ]);
}
