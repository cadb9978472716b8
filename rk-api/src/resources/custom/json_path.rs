//! Paths into JSON, as far as printer columns, selectable fields and scales use them (the part of
//! client-go's `util/jsonpath` that a single path in braces has).
//!
//! `.a.b`, `['a.b']`, `a\.b`, `[0]`, `[-1]`, `[1:3]`, `[*]`, `.*`, `..a`, `[0,2]`, `['a','b']` and
//! `[?(@.a == "x")]` with `==`, `!=`, `<`, `<=`, `>`, `>=`, or nothing but a path that must exist.

use std::cmp::Ordering;

use serde_json::Value;

/// A path that was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// Several members or items.
    Union(Vec<Step>),
    Index(i64),
    Slice {
        from: Option<i64>,
        to: Option<i64>,
        by: i64,
    },
    All,
    /// The value and everything below it.
    Descend,
    Filter {
        left: Operand,
        test: Option<(Test, Operand)>,
    },
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    /// From the item that is judged.
    Path(JsonPath),
    Literal(Value),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Test {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Why a text is no path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct PathError(String);

impl JsonPath {
    /// Reads a path, which may begin with a dot or with `$`.
    pub(crate) fn parse(text: &str) -> Result<Self, PathError> {
        let mut parser = Parser { rest: text.strip_prefix('$').unwrap_or(text) };
        let steps = parser.steps(|_| false)?;
        match parser.rest {
            "" => Ok(Self(steps)),
            rest => Err(PathError(format!("unexpected {rest:?} in path {text:?}"))),
        }
    }

    /// Everything that the path leads to, in order.
    pub(crate) fn find<'v>(&self, root: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![root];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.take(value)).collect();
        }
        found
    }
}

impl Step {
    fn take<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match (self, value) {
            (Step::Field(name), Value::Object(members)) => members.get(name).into_iter().collect(),
            // A name after `..` is looked for in what a list holds, too, by `Descend`.
            (Step::Union(steps), value) => steps.iter().flat_map(|step| step.take(value)).collect(),
            (Step::Index(index), Value::Array(items)) => {
                at(items, *index).map(|at| &items[at]).into_iter().collect()
            }
            (Step::Slice { from, to, by }, Value::Array(items)) => slice(items, *from, *to, *by),
            (Step::All, Value::Array(items)) => items.iter().collect(),
            (Step::All, Value::Object(members)) => members.values().collect(),
            (Step::Descend, value) => {
                let mut found = Vec::new();
                descend(value, &mut found);
                found
            }
            (Step::Filter { left, test }, Value::Array(items)) => {
                items.iter().filter(|item| holds(item, left, test.as_ref())).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn at(items: &[Value], index: i64) -> Option<usize> {
    let length = i64::try_from(items.len()).ok()?;
    let index = if index < 0 { index.checked_add(length)? } else { index };
    usize::try_from(index).ok().filter(|index| *index < items.len())
}

fn slice(items: &[Value], from: Option<i64>, to: Option<i64>, by: i64) -> Vec<&Value> {
    let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let clamp = |index: i64| {
        let index = if index < 0 { index.saturating_add(length) } else { index };
        usize::try_from(index.clamp(0, length)).unwrap_or(0)
    };
    let (from, to) = (clamp(from.unwrap_or(0)), clamp(to.unwrap_or(length)));
    let by = usize::try_from(by).unwrap_or(1).max(1);
    items.get(from..to).unwrap_or_default().iter().step_by(by).collect()
}

fn descend<'v>(value: &'v Value, found: &mut Vec<&'v Value>) {
    found.push(value);
    match value {
        Value::Array(items) => items.iter().for_each(|item| descend(item, found)),
        Value::Object(members) => members.values().for_each(|member| descend(member, found)),
        _ => {}
    }
}

fn holds(item: &Value, left: &Operand, test: Option<&(Test, Operand)>) -> bool {
    let left = left.value(item);
    let Some((test, right)) = test else { return left.is_some() };
    let (Some(left), Some(right)) = (left, right.value(item)) else { return false };
    let order = match (left, right) {
        (Value::Number(left), Value::Number(right)) => {
            left.as_f64().unwrap_or(f64::NAN).partial_cmp(&right.as_f64().unwrap_or(f64::NAN))
        }
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (left, right) => (left == right).then_some(Ordering::Equal),
    };
    match test {
        Test::Equal => order == Some(Ordering::Equal),
        Test::NotEqual => order != Some(Ordering::Equal),
        Test::Less => order == Some(Ordering::Less),
        Test::LessOrEqual => order.is_some_and(Ordering::is_le),
        Test::Greater => order == Some(Ordering::Greater),
        Test::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
    }
}

impl Operand {
    fn value<'v>(&'v self, item: &'v Value) -> Option<&'v Value> {
        match self {
            Operand::Path(path) => path.find(item).into_iter().next(),
            Operand::Literal(value) => Some(value),
        }
    }
}

// === reading ===

struct Parser<'t> {
    rest: &'t str,
}

impl<'t> Parser<'t> {
    fn steps(&mut self, ends: fn(char) -> bool) -> Result<Vec<Step>, PathError> {
        let mut steps = Vec::new();
        while let Some(first) = self.rest.chars().next() {
            match first {
                first if ends(first) => break,
                '.' => {
                    self.rest = &self.rest[1..];
                    if let Some(rest) = self.rest.strip_prefix('.') {
                        self.rest = rest;
                        steps.push(Step::Descend);
                    }
                    if let Some(rest) = self.rest.strip_prefix('*') {
                        self.rest = rest;
                        steps.push(Step::All);
                    } else if !self.rest.starts_with('[') {
                        steps.extend(self.field(ends));
                    }
                }
                '[' => steps.push(self.brackets()?),
                _ => steps.extend(self.field(ends)),
            }
        }
        Ok(steps)
    }

    /// A name up to the next step; a backslash takes what follows as it is. A dot alone is the
    /// value itself.
    fn field(&mut self, ends: fn(char) -> bool) -> Option<Step> {
        let (mut name, mut escaped, mut length) = (String::new(), false, self.rest.len());
        for (at, letter) in self.rest.char_indices() {
            match letter {
                letter if escaped => {
                    name.push(letter);
                    escaped = false;
                }
                '\\' => escaped = true,
                letter if letter == '.' || letter == '[' || ends(letter) => {
                    length = at;
                    break;
                }
                letter => name.push(letter),
            }
        }
        self.rest = &self.rest[length..];
        (!name.is_empty()).then_some(Step::Field(name))
    }

    fn brackets(&mut self) -> Result<Step, PathError> {
        let inner = self.bracketed()?;
        if let Some(filter) = inner.strip_prefix("?(").and_then(|inner| inner.strip_suffix(')')) {
            return filter_step(filter);
        }
        let parts = split_outside_quotes(inner, ',');
        match parts.as_slice() {
            [part] => element(part),
            parts => {
                parts.iter().map(|part| element(part)).collect::<Result<_, _>>().map(Step::Union)
            }
        }
    }

    /// What is between these brackets and those that close them.
    fn bracketed(&mut self) -> Result<&'t str, PathError> {
        let (mut depth, mut quote) = (0, None);
        for (at, letter) in self.rest.char_indices() {
            match (letter, quote) {
                (letter, Some(open)) if letter == open => quote = None,
                (_, Some(_)) => {}
                ('\'' | '"', None) => quote = Some(letter),
                ('[', None) => depth += 1,
                (']', None) => {
                    depth -= 1;
                    if depth == 0 {
                        let inner = &self.rest[1..at];
                        self.rest = &self.rest[at + 1..];
                        return Ok(inner.trim());
                    }
                }
                _ => {}
            }
        }
        Err(PathError("unterminated array".to_owned()))
    }
}

fn split_outside_quotes(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut from, mut quote) = (Vec::new(), 0, None);
    for (at, letter) in text.char_indices() {
        match (letter, quote) {
            (letter, Some(open)) if letter == open => quote = None,
            (_, Some(_)) => {}
            ('\'' | '"', None) => quote = Some(letter),
            (letter, None) if letter == separator => {
                parts.push(text[from..at].trim());
                from = at + letter.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(text[from..].trim());
    parts
}

fn element(text: &str) -> Result<Step, PathError> {
    let wrong = || PathError(format!("invalid array index {text}"));
    if text == "*" {
        return Ok(Step::All);
    }
    if let Some(name) = quoted(text) {
        return Ok(Step::Field(name.to_owned()));
    }
    let bounds: Vec<_> = text.split(':').map(str::trim).collect();
    let bound = |text: &str| match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| wrong()),
    };
    match bounds.as_slice() {
        [index] => index.parse().map(Step::Index).map_err(|_| wrong()),
        [from, to] => Ok(Step::Slice { from: bound(from)?, to: bound(to)?, by: 1 }),
        [from, to, by] => {
            let by = bound(by)?.unwrap_or(1);
            if by < 1 {
                return Err(PathError("step must be > 0".to_owned()));
            }
            Ok(Step::Slice { from: bound(from)?, to: bound(to)?, by })
        }
        _ => Err(wrong()),
    }
}

fn quoted(text: &str) -> Option<&str> {
    let within = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    within('\'').or_else(|| within('"'))
}

fn filter_step(text: &str) -> Result<Step, PathError> {
    const TESTS: [(&str, Test); 6] = [
        ("==", Test::Equal),
        ("!=", Test::NotEqual),
        ("<=", Test::LessOrEqual),
        (">=", Test::GreaterOrEqual),
        ("<", Test::Less),
        (">", Test::Greater),
    ];
    let mut quote = None;
    for (at, letter) in text.char_indices() {
        match (letter, quote) {
            (letter, Some(open)) if letter == open => quote = None,
            (_, Some(_)) => {}
            ('\'' | '"', None) => quote = Some(letter),
            _ => {
                let test = TESTS.iter().find(|(sign, _)| text[at..].starts_with(sign));
                if let Some((sign, test)) = test {
                    let (left, right) = (operand(&text[..at])?, operand(&text[at + sign.len()..])?);
                    return Ok(Step::Filter { left, test: Some((*test, right)) });
                }
            }
        }
    }
    Ok(Step::Filter { left: operand(text)?, test: None })
}

fn operand(text: &str) -> Result<Operand, PathError> {
    let text = text.trim();
    if let Some(path) = text.strip_prefix('@') {
        return JsonPath::parse(path).map(Operand::Path);
    }
    if let Some(text) = quoted(text) {
        return Ok(Operand::Literal(Value::from(text)));
    }
    serde_json::from_str(text)
        .map(Operand::Literal)
        .map_err(|_| PathError(format!("unrecognized operand {text:?}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(path: &str, expected: Value) {
        let object = json!({
            "spec": {"size": 3, "a.b": "dotted", "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}]},
            "status": {"conditions": [
                {"type": "Ready", "status": "True"},
                {"type": "Healthy", "status": "False"},
            ]},
        });
        let path = JsonPath::parse(path).unwrap();
        assert_eq!(json!(path.find(&object)), expected);
    }

    #[test]
    fn a_path_leads_to_members_and_items() {
        check(".spec.size", json!([3]));
        check("spec.size", json!([3]));
        check("$.spec.size", json!([3]));
        check(".spec.nothing.there", json!([]));
        check(".spec['a.b']", json!(["dotted"]));
        check(r".spec.a\.b", json!(["dotted"]));
        check(".spec.list[0].n", json!(["x"]));
        check(".spec.list[-1].n", json!(["y"]));
        check(".spec.list[7].n", json!([]));
        check(".spec.list[*].n", json!(["x", "y"]));
        check(".spec.list[0:1].n", json!(["x"]));
        check(".spec.list[0,1].v", json!([1, 2]));
        check("..n", json!(["x", "y"]));
    }

    #[test]
    fn items_are_filtered() {
        check(".status.conditions[?(@.type==\"Ready\")].status", json!(["True"]));
        check(".status.conditions[?(@.type != 'Ready')].status", json!(["False"]));
        check(".spec.list[?(@.v > 1)].n", json!(["y"]));
        check(".spec.list[?(@.v<=1)].n", json!(["x"]));
        check(".spec.list[?(@.v)].n", json!(["x", "y"]));
        check(".spec.list[?(@.w)].n", json!([]));
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in [".a[", ".a[x]", ".a[1:2:0]", ".a[?(@.b == c)]"] {
            assert!(JsonPath::parse(text).is_err(), "{text}");
        }
    }
}
