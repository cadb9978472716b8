//! Paths to fields of a schema, as rules and selectable fields name them: `.spec.size`,
//! `.spec['a.b']`.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrBool,
};

/// The names that a path consists of, and the schema that it leads to.
pub(super) fn resolve<'s>(
    path: &str,
    schema: &'s JSONSchemaProps,
    brackets_allowed: bool,
) -> Result<(Vec<String>, &'s JSONSchemaProps), String> {
    let (mut steps, mut schema) = (Vec::new(), schema);
    let mut tokens = tokens(path).into_iter();
    let end = || "unexpected end of JSON path".to_owned();
    while let Some(token) = tokens.next() {
        let name = match token {
            "." => tokens.next().ok_or_else(end)?.to_owned(),
            "[" if !brackets_allowed => return Err("array notation is not allowed".to_owned()),
            "[" => {
                let token = tokens.next().ok_or_else(end)?;
                let quoted = token.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
                let quoted = quoted.filter(|_| token.len() > 1);
                let name = quoted
                    .ok_or_else(|| format!("expected single quoted string but got {token}"))?;
                match tokens.next().ok_or_else(end)? {
                    "]" => unescape(name)?,
                    other => return Err(format!("expected ] but got {other}")),
                }
            }
            other => return Err(format!("expected [ or . but got: {other}")),
        };
        schema = step(schema, &name).ok_or("does not refer to a valid field")?;
        steps.push(name);
    }
    Ok((steps, schema))
}

fn step<'s>(schema: &'s JSONSchemaProps, name: &str) -> Option<&'s JSONSchemaProps> {
    match (&schema.properties, &schema.additional_properties) {
        (Some(properties), _) if !properties.is_empty() => properties.get(name),
        (_, Some(JSONSchemaPropsOrBool::Schema(values))) => Some(values),
        _ => None,
    }
}

/// Dots and brackets, each alone, and what is between them; what is quoted is not taken apart.
fn tokens(path: &str) -> Vec<&str> {
    let (mut tokens, mut rest) = (Vec::new(), path);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '.' | '[' | ']' => 1,
            '\'' => closing_quote(rest).unwrap_or(rest.len()),
            _ => rest.find(['.', '[', ']']).unwrap_or(rest.len()),
        };
        let (token, left) = rest.split_at(length);
        tokens.push(token);
        rest = left;
    }
    tokens
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut previous = '\'';
    for (at, letter) in text.char_indices().skip(1) {
        if letter == '\'' && previous != '\\' {
            return Some(at + 1);
        }
        previous = letter;
    }
    None
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            out.push(letter);
            continue;
        }
        out.push(match letters.next() {
            Some('a') => '\u{7}',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\u{b}',
            Some('\'') => '\'',
            Some('\\') => '\\',
            other => {
                let other = other.map(String::from).unwrap_or_default();
                return Err(format!("invalid string literal: invalid escape char \\{other}"));
            }
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(path: &str, expected: Result<&str, &str>) {
        let schema: JSONSchemaProps = serde_json::from_value(json!({
            "properties": {
                "a.b": {"type": "string"},
                "spec": {"properties": {"size": {"type": "integer"}}},
                "map": {"additionalProperties": {"type": "string"}},
            },
        }))
        .unwrap();
        let found = resolve(path, &schema, true);
        let found = found.map(|(_, schema)| schema.type_.clone().unwrap_or_default());
        assert_eq!(found.as_deref().map_err(String::as_str), expected, "{path}");
    }

    #[test]
    fn a_path_leads_to_a_schema() {
        check(".spec.size", Ok("integer"));
        check("['a.b']", Ok("string"));
        check(".map['any']", Ok("string"));
        check(".spec.nope", Err("does not refer to a valid field"));
        check(".spec.", Err("unexpected end of JSON path"));
        check("spec", Err("expected [ or . but got: spec"));
        check("[0]", Err("expected single quoted string but got 0"));
    }
}
