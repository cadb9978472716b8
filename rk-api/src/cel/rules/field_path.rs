//! `fieldPath` of a rule: `.spec.size`, `.labels['a.b']`.

use serde_json::Value as Json;

/// The path as errors show it, or nothing if it leads nowhere in the schema.
pub(super) fn normalized(path: &str, openapi: &Json) -> Option<String> {
    let mut shown = String::new();
    let mut schema = openapi;
    let mut rest = path;
    while !rest.is_empty() {
        let (name, tail) = step(rest)?;
        let properties =
            schema.get("properties").filter(|p| p.as_object().is_some_and(|p| !p.is_empty()));
        if let Some(properties) = properties {
            schema = properties.get(&name)?;
            if !shown.is_empty() {
                shown.push('.');
            }
            shown.push_str(&name);
        } else {
            schema = schema.get("additionalProperties").filter(|values| values.is_object())?;
            shown.push_str(&format!("[{name}]"));
        }
        rest = tail;
    }
    Some(shown)
}

/// The first name of a path, and what follows it.
fn step(path: &str) -> Option<(String, &str)> {
    if let Some(rest) = path.strip_prefix('.') {
        let end = rest.find(['.', '[', ']']).unwrap_or(rest.len());
        let (name, tail) = rest.split_at(end);
        return (!name.is_empty()).then(|| (name.to_owned(), tail));
    }
    let rest = path.strip_prefix("['")?;
    let mut name = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' => return Some((name, rest[at + 1..].strip_prefix(']')?)),
            '\\' => name.push(match chars.next()?.1 {
                'a' => '\u{7}',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'v' => '\u{b}',
                c @ ('\'' | '\\') => c,
                _ => return None,
            }),
            c => name.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_is_shown_as_fields_are() {
        let schema = json!({"properties": {
            "spec": {"properties": {"size": {}, "a.b": {}}},
            "labels": {"additionalProperties": {}},
        }});
        for (path, expected) in [
            (".spec.size", Some("spec.size")),
            (".spec['a.b']", Some("spec.a.b")),
            (".labels['x\\'y']", Some("labels[x'y]")),
            (".labels.x", Some("labels[x]")),
            (".nope", None),
            ("spec", None),
            (".spec[0]", None),
        ] {
            assert_eq!(normalized(path, &schema).as_deref(), expected, "{path}");
        }
    }
}
