//! Regular expressions as Go and RE2 read them, on the `regex` crate.
//!
//! Both are of the same family and linear in time. What differs is translated: `\d`, `\w`, `\s` and
//! `\b` mean ASCII there, and some signs are literal where this crate wants an escape.

use regex::{Regex, RegexBuilder};

/// Of a compiled expression, in bytes.
const MAX_SIZE: usize = 4 << 20;

/// Compiles an expression in RE2's syntax.
///
/// # Errors
/// What is malformed, in the words of this crate.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    let translated = translate(pattern).map_err(|operator| {
        format!("error parsing regexp: invalid nested repetition operator: `{operator}`")
    })?;
    let regex = RegexBuilder::new(&translated).size_limit(MAX_SIZE).build();
    regex.map_err(|error| match error {
        regex::Error::Syntax(text) => {
            let last = text.lines().last().unwrap_or("").trim();
            let fault = last.strip_prefix("error: ").unwrap_or(last);
            format!("error parsing regexp: {}", in_go(fault, pattern))
        }
        _ => format!("error parsing regexp: expression too large: `{pattern}`"),
    })
}

/// What is malformed, in Go's words where it is what is most often wrong.
fn in_go(fault: &str, pattern: &str) -> String {
    let from = |sign: &str| pattern.rfind(sign).map_or(pattern, |at| &pattern[at..]);
    let look_around = || {
        let signs = ["(?=", "(?!", "(?<=", "(?<!"];
        signs.into_iter().find(|sign| pattern.contains(sign)).unwrap_or("(?")
    };
    match fault {
        "unclosed group" => format!("missing closing ): `{pattern}`"),
        "unopened group" => format!("unexpected ): `{pattern}`"),
        "unclosed character class" => format!("missing closing ]: `{}`", from("[")),
        "repetition operator missing expression" => {
            let operator = pattern.find(['*', '+', '?']).map_or("", |at| &pattern[at..=at]);
            format!("missing argument to repetition operator: `{operator}`")
        }
        "incomplete escape sequence, reached end of pattern prematurely" => {
            "trailing backslash at end of expression: ``".to_owned()
        }
        _ if fault.starts_with("look-around") => {
            format!("invalid or unsupported Perl syntax: `{}`", look_around())
        }
        other => format!("{other}: `{pattern}`"),
    }
}

/// The expression in this crate's syntax; an error is a repetition of a repetition, which only this
/// crate allows.
fn translate(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.char_indices().peekable();
    let mut class = false;
    // Where a repetition began, if one has just ended, and whether it was made lazy.
    let mut repeated: Option<(usize, bool)> = None;
    while let Some((at, c)) = chars.next() {
        let repeats =
            !class && (matches!(c, '*' | '+' | '?') || (c == '{' && is_repetition(&pattern[at..])));
        repeated = match repeated {
            Some((start, false)) if repeats && c == '?' => Some((start, true)),
            Some((start, _)) if repeats => return Err(pattern[start..=at].to_owned()),
            _ if repeats => Some((at, false)),
            // The rest of a count belongs to it.
            Some(within) if c != '{' && closes_count(&pattern[within.0..at + c.len_utf8()]) => Some(within),
            _ => None,
        };
        match c {
            '\\' => {
                let Some((_, escaped)) = chars.next() else {
                    out.push('\\');
                    break;
                };
                match (escaped, class) {
                    ('d', false) => out.push_str("[0-9]"),
                    ('D', _) => out.push_str("[^0-9]"),
                    ('w', false) => out.push_str("[0-9A-Za-z_]"),
                    ('W', _) => out.push_str("[^0-9A-Za-z_]"),
                    ('s', false) => out.push_str(r"[\t\n\x0C\r ]"),
                    ('S', _) => out.push_str(r"[^\t\n\x0C\r ]"),
                    ('d', true) => out.push_str("0-9"),
                    ('w', true) => out.push_str("0-9A-Za-z_"),
                    ('s', true) => out.push_str(r"\t\n\x0C\r "),
                    ('b', false) => out.push_str(r"(?-u:\b)"),
                    ('B', false) => out.push_str(r"(?-u:\B)"),
                    ('Q', false) => {
                        let rest = &pattern[at + 2..];
                        let literal = rest.split(r"\E").next().unwrap_or(rest);
                        out.push_str(&regex::escape(literal));
                        let end = at + 2 + literal.len() + 2;
                        while chars.next_if(|(next, _)| *next < end).is_some() {}
                    }
                    // Go reads an octal escape only with three digits or a leading zero.
                    ('0', _) => out.push_str(r"\x00"),
                    (other, _) => {
                        out.push('\\');
                        out.push(other);
                        // `\p{Greek}` and `\x{1F}` have braces of their own.
                        if matches!(other, 'p' | 'P' | 'x')
                            && matches!(chars.peek(), Some((_, '{')))
                        {
                            for (_, c) in chars.by_ref() {
                                out.push(c);
                                if c == '}' {
                                    break;
                                }
                            }
                        }
                    }
                }
            }
            '[' if class => {
                if pattern[at..].starts_with("[:") {
                    let end = pattern[at..].find(":]").map(|length| at + length + 2);
                    if let Some(end) = end {
                        out.push_str(&pattern[at..end]);
                        while chars.next_if(|(next, _)| *next < end).is_some() {}
                        continue;
                    }
                }
                out.push_str(r"\[");
            }
            '[' => {
                class = true;
                out.push('[');
                if let Some((_, '^')) = chars.peek() {
                    chars.next();
                    out.push('^');
                }
                // A bracket that comes first closes nothing.
                if let Some((_, ']')) = chars.peek() {
                    chars.next();
                    out.push_str(r"\]");
                }
            }
            ']' if class => {
                class = false;
                out.push(']');
            }
            '&' | '~' if class => {
                out.push('\\');
                out.push(c);
            }
            '-' if class && matches!(chars.peek(), Some((_, '-'))) => out.push_str(r"\-"),
            '{' if !class && !is_repetition(&pattern[at..]) => out.push_str(r"\{"),
            '}' if !class && repeated.is_none() => out.push_str(r"\}"),
            c => out.push(c),
        }
    }
    Ok(out)
}

/// Whether `{` begins a count; if not, it stands for itself.
fn is_repetition(text: &str) -> bool {
    let Some(inner) = text[1..].split('}').next().filter(|inner| inner.len() + 1 < text.len())
    else {
        return false;
    };
    let (low, high) = inner.split_once(',').unwrap_or((inner, ""));
    !low.is_empty() && low.bytes().chain(high.bytes()).all(|b| b.is_ascii_digit())
}

/// Whether `text` is a count, or the beginning of one.
fn closes_count(text: &str) -> bool {
    text.strip_prefix('{').is_some_and(|inner| {
        let inner = inner.strip_suffix('}').unwrap_or(inner);
        inner.bytes().all(|b| b.is_ascii_digit() || b == b',')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, text: &str, matches: bool) {
        let regex = compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        assert_eq!(regex.is_match(text), matches, "{pattern} on {text}");
    }

    #[test]
    fn classes_are_ascii() {
        check(r"^\d+$", "123", true);
        check(r"^\d+$", "١٢٣", false);
        check(r"^[\w-]+$", "a_b-c", true);
        check(r"^\w+$", "é", false);
        check(r"\bfoo\b", "a foo b", true);
        check(r"^\s$", "\u{a0}", false);
    }

    #[test]
    fn signs_that_are_literal_in_re2_are_literal() {
        check("a{", "a{", true);
        check("a{,2}", "a{,2}", true);
        check("^x{2,3}?y}$", "xxy}", true);
        check("[[]", "[", true);
        check("[&&]", "&", true);
        check("[]a]", "]", true);
        check("[[:alpha:]]", "x", true);
        check(r"\Q.*\Ea", ".*a", true);
        check(r"\pL{2}", "äö", true);
        check(r"\p{Greek}", "α", true);
        check("a{2}ӂ+ӂ", "aaӂӂ", true);
    }

    #[test]
    fn faults_are_told_in_gos_words() {
        for (pattern, why) in [
            ("(", "missing closing ): `(`"),
            ("a)", "unexpected ): `a)`"),
            ("x[a", "missing closing ]: `[a`"),
            ("*a", "missing argument to repetition operator: `*`"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
            (r"a\", "trailing backslash at end of expression: ``"),
            ("a**", "invalid nested repetition operator: `**`"),
        ] {
            assert_eq!(compile(pattern).unwrap_err(), format!("error parsing regexp: {why}"));
        }
    }

    #[test]
    fn what_does_not_end_is_refused() {
        for pattern in ["(", "[", "a**", "a{2}*", "a+??", r"\", "(?=a)", r"(a)\1"] {
            assert!(compile(pattern).is_err(), "{pattern}");
        }
    }
}
