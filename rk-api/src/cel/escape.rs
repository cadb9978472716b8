//! Field names that are no identifiers, written as identifiers (Kubernetes' documentation, "Escaping
//! in CEL").

use super::parser::RESERVED;

/// The identifier for a field, or nothing if it can have none.
pub fn escape(field: &str) -> Option<String> {
    if field.is_empty() || field.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if let Some(escaped) = reserved(field) {
        return Some(escaped);
    }
    let mut out = String::with_capacity(field.len());
    let mut chars = field.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '_' if chars.peek() == Some(&'_') => {
                chars.next();
                out.push_str("__underscores__");
            }
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            '_' => out.push('_'),
            c if c.is_ascii_alphanumeric() => out.push(c),
            _ => return None,
        }
    }
    Some(out)
}

/// The identifier for a reserved word.
pub(crate) fn reserved(word: &str) -> Option<String> {
    // What a literal or an operator is in an expression, and what no variable may be called.
    let is_taken = ["true", "false", "null", "in"].contains(&word) || RESERVED.contains(&word);
    is_taken.then(|| format!("__{word}__"))
}

/// The field that an identifier stands for, or nothing if it has an unknown escape.
pub fn unescape(identifier: &str) -> Option<String> {
    let mut out = String::with_capacity(identifier.len());
    let mut rest = identifier;
    while let Some(start) = rest.find("__") {
        let (before, tail) = rest.split_at(start);
        let inner = &tail[2..];
        let length = inner.find('_').unwrap_or(inner.len());
        if length == 0 || !inner[length..].starts_with("__") {
            // No escape begins here, though one may at the next underscore.
            out.push_str(before);
            out.push('_');
            rest = &tail[1..];
            continue;
        }
        out.push_str(before);
        match &inner[..length] {
            "underscores" => out.push_str("__"),
            "dot" => out.push('.'),
            "dash" => out.push('-'),
            "slash" => out.push('/'),
            word if RESERVED.contains(&word) && length + 4 == identifier.len() => {
                out.push_str(word);
            }
            _ => return None,
        }
        rest = &inner[length + 2..];
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_are_no_identifiers_are_escaped() {
        for (field, expected) in [
            ("spec", Some("spec")),
            ("a.b-c/d", Some("a__dot__b__dash__c__slash__d")),
            ("a__b", Some("a__underscores__b")),
            ("namespace", Some("__namespace__")),
            ("x_", Some("x_")),
            ("1st", None),
            ("", None),
            ("a b", None),
        ] {
            assert_eq!(escape(field).as_deref(), expected, "{field}");
        }
    }

    proptest! {
        #[test]
        fn an_escaped_name_can_be_read_back(field in "[a-zA-Z_][a-z_./-]{0,12}") {
            let escaped = escape(&field).unwrap();
            prop_assert!(escaped.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
            // An underscore beside an escaped run is ambiguous, as it is in Kubernetes.
            if !field.contains("___") && !field.contains("_.") && !field.contains("_-")
                && !field.contains("_/") && !field.contains("._") && !field.contains("-_")
                && !field.contains("/_") && !field.contains("__")
            {
                prop_assert_eq!(unescape(&escaped), Some(field));
            }
        }
    }
}
