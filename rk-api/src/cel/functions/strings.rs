//! Strings: the standard ones, cel-go's `ext.Strings` version 2, Kubernetes' regular expressions,
//! and base64.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{Cost, Function, format_string, function, global, int, method, text};
use crate::cel::{EvalError, Value, error::Effort, regex, types::Type, value::List};

type Result<'a> = std::result::Result<Value<'a>, EvalError>;

pub(super) fn functions() -> Vec<Function> {
    use Type::{Bool, Bytes, Int, String};
    let strings = Type::list(String);
    let on = |id, more: &[Type], result: Type, cost| {
        let mut args = vec![String];
        args.extend_from_slice(more);
        method(id, args, result, cost)
    };
    let transform = |id| vec![on(id, &[], String, Cost::Transform)];
    vec![
        function(
            "startsWith",
            Cost::One,
            |_, args| test(args, |text, with| text.starts_with(with)),
            vec![on("starts_with_string", &[String], Bool, Cost::Affix)],
        ),
        function(
            "endsWith",
            Cost::One,
            |_, args| test(args, |text, with| text.ends_with(with)),
            vec![on("ends_with_string", &[String], Bool, Cost::Affix)],
        ),
        function(
            "contains",
            Cost::One,
            |_, args| test(args, |text, part| text.contains(part)),
            vec![on("contains_string", &[String], Bool, Cost::Contains)],
        ),
        function(
            "matches",
            Cost::One,
            matches,
            vec![
                global("matches", vec![String, String], Bool, Cost::One),
                on("matches_string", &[String], Bool, Cost::Matches),
            ],
        ),
        function(
            "find",
            Cost::Find,
            find,
            vec![on("string_find_string", &[String], String, Cost::Find)],
        ),
        function(
            "findAll",
            Cost::Find,
            find_all,
            vec![
                on("string_find_all_string", &[String], strings.clone(), Cost::Find),
                on("string_find_all_string_int", &[String, Int], strings.clone(), Cost::Find),
            ],
        ),
        function(
            "charAt",
            Cost::One,
            char_at,
            vec![on("string_char_at_int", &[Int], String, Cost::One)],
        ),
        function(
            "lowerAscii",
            Cost::Transform,
            |effort, args| map(effort, args, |text| text.to_ascii_lowercase()),
            transform("string_lower_ascii"),
        ),
        function(
            "upperAscii",
            Cost::Transform,
            |effort, args| map(effort, args, |text| text.to_ascii_uppercase()),
            transform("string_upper_ascii"),
        ),
        function(
            "trim",
            Cost::Transform,
            |effort, args| map(effort, args, |text| text.trim_matches(is_go_space).to_owned()),
            transform("string_trim"),
        ),
        function(
            "substring",
            Cost::Transform,
            substring,
            vec![
                on("string_substring_int", &[Int], String, Cost::Transform),
                on("string_substring_int_int", &[Int, Int], String, Cost::Transform),
            ],
        ),
        function(
            "replace",
            Cost::Replace,
            replace,
            vec![
                on("string_replace_string_string", &[String, String], String, Cost::Replace),
                on(
                    "string_replace_string_string_int",
                    &[String, String, Int],
                    String,
                    Cost::Replace,
                ),
            ],
        ),
        function(
            "split",
            Cost::Split,
            split,
            vec![
                on("string_split_string", &[String], strings.clone(), Cost::Split),
                on("string_split_string_int", &[String, Int], strings.clone(), Cost::Split),
            ],
        ),
        function(
            "join",
            Cost::Join,
            join,
            vec![
                method("list_join", vec![strings.clone()], String, Cost::Join),
                method("list_join_string", vec![strings, String], String, Cost::Join),
            ],
        ),
        function(
            "strings.quote",
            Cost::One,
            |effort, args| map(effort, args, quote),
            vec![global("strings_quote", vec![String], String, Cost::Quote)],
        ),
        function(
            "format",
            Cost::One,
            format_string::call,
            vec![on("string_format", &[Type::list(Type::Dyn)], String, Cost::Format)],
        ),
        function(
            "base64.encode",
            Cost::One,
            encode,
            vec![global("base64_encode_bytes", vec![Bytes], String, Cost::One)],
        ),
        function(
            "base64.decode",
            Cost::One,
            decode,
            vec![global("base64_decode_string", vec![String], Bytes, Cost::One)],
        ),
        function(
            "jsonpatch.escapeKey",
            Cost::Parse,
            |effort, args| map(effort, args, |text| text.replace('~', "~0").replace('/', "~1")),
            vec![global("string_jsonpatch_escapeKey_string", vec![String], String, Cost::Url)],
        ),
    ]
}

fn test<'a>(args: &[Value<'a>], holds: impl Fn(&str, &str) -> bool) -> Result<'a> {
    match args {
        [subject, argument] => Ok(Value::Bool(holds(text(subject)?, text(argument)?))),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn map<'a>(effort: &mut Effort, args: &[Value<'a>], change: impl Fn(&str) -> String) -> Result<'a> {
    let [subject] = args else { return Err(EvalError::no_such_overload()) };
    let subject = text(subject)?;
    effort.spend(subject.len() as u64 / 16)?;
    Ok(Value::string(change(subject)))
}

/// What Go's `unicode.IsSpace` says.
fn is_go_space(c: char) -> bool {
    c.is_whitespace()
}

fn compiled(effort: &mut Effort, pattern: &str) -> std::result::Result<::regex::Regex, EvalError> {
    // Compiling is what costs, and grows faster than the pattern.
    effort.spend(pattern.len() as u64 * 50 + 500)?;
    regex::compile(pattern).map_err(EvalError::new)
}

pub(crate) fn matches<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let [subject, pattern] = args else { return Err(EvalError::no_such_overload()) };
    let (subject, pattern) = (text(subject)?, text(pattern)?);
    effort.spend(subject.len() as u64 / 8)?;
    Ok(Value::Bool(compiled(effort, pattern)?.is_match(subject)))
}

fn illegal(error: EvalError) -> EvalError {
    match error {
        EvalError::Failed(message) => EvalError::new(format!("Illegal regex: {message}")),
        other => other,
    }
}

fn find<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let [subject, pattern] = args else { return Err(EvalError::no_such_overload()) };
    let regex = compiled(effort, text(pattern)?).map_err(illegal)?;
    let found = regex.find(text(subject)?).map_or("", |found| found.as_str());
    Ok(Value::string(found))
}

fn find_all<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let (subject, pattern, limit) = match args {
        [subject, pattern] => (subject, pattern, -1),
        [subject, pattern, limit] => (subject, pattern, int(limit)?),
        _ => return Err(EvalError::no_such_overload()),
    };
    let regex = compiled(effort, text(pattern)?).map_err(illegal)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let found = regex.find_iter(text(subject)?).take(limit);
    Ok(Value::list(found.map(|found| Value::string(found.as_str())).collect()))
}

fn out_of_range(index: i64) -> EvalError {
    EvalError::new(format!("index out of range: {index}"))
}

/// The byte offset of a character, or of the end.
fn offset(text: &str, chars: i64) -> Option<usize> {
    let chars = usize::try_from(chars).ok()?;
    text.char_indices().map(|(at, _)| at).chain([text.len()]).nth(chars)
}

fn char_at<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let [subject, index] = args else { return Err(EvalError::no_such_overload()) };
    let (subject, index) = (text(subject)?, int(index)?);
    effort.spend(subject.len() as u64 / 16)?;
    let start = offset(subject, index).ok_or_else(|| out_of_range(index))?;
    Ok(Value::string(subject[start..].chars().take(1).collect::<String>()))
}

fn substring<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let (subject, start, end) = match args {
        [subject, start] => (text(subject)?, int(start)?, None),
        [subject, start, end] => (text(subject)?, int(start)?, Some(int(end)?)),
        _ => return Err(EvalError::no_such_overload()),
    };
    effort.spend(subject.len() as u64 / 16)?;
    if let Some(end) = end.filter(|end| start > *end) {
        let message = format!("invalid substring range. start: {start}, end: {end}");
        return Err(EvalError::new(message));
    }
    let from = offset(subject, start).ok_or_else(|| out_of_range(start))?;
    let to = match end {
        Some(end) => offset(subject, end).ok_or_else(|| out_of_range(end))?,
        None => subject.len(),
    };
    Ok(Value::string(&subject[from..to]))
}

/// `indexOf` and `lastIndexOf` of strings, in characters.
pub(super) fn position<'a>(effort: &mut Effort, args: &[Value<'a>], last: bool) -> Result<'a> {
    let (subject, part, from) = match args {
        [subject, part] => (text(subject)?, text(part)?, None),
        [subject, part, from] => (text(subject)?, text(part)?, Some(int(from)?)),
        _ => return Err(EvalError::no_such_overload()),
    };
    effort.spend((subject.len() + part.len()) as u64 / 8)?;
    let length = subject.chars().count() as i64;
    if let Some(from) = from.filter(|from| *from < 0) {
        return Err(out_of_range(from));
    }
    if part.is_empty() {
        let at = from.unwrap_or(if last { length } else { 0 });
        return Ok(Value::Int(at.min(length)));
    }
    if from.is_some_and(|from| from >= length) {
        return Ok(Value::Int(-1));
    }
    let found = if last {
        // What begins at `from` counts too.
        let end = match from {
            Some(from) => offset(subject, from)
                .map_or(subject.len(), |start| subject.len().min(start + part.len())),
            None => subject.len(),
        };
        let end = (end..=subject.len()).find(|end| subject.is_char_boundary(*end));
        subject[..end.unwrap_or(subject.len())].rfind(part)
    } else {
        let start = offset(subject, from.unwrap_or(0)).unwrap_or(subject.len());
        subject[start..].find(part).map(|at| start + at)
    };
    Ok(Value::Int(found.map_or(-1, |at| subject[..at].chars().count() as i64)))
}

fn replace<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let (subject, old, new, limit) = match args {
        [subject, old, new] => (text(subject)?, text(old)?, text(new)?, -1),
        [subject, old, new, limit] => (text(subject)?, text(old)?, text(new)?, int(limit)?),
        _ => return Err(EvalError::no_such_overload()),
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let most = if old.is_empty() { subject.chars().count() + 1 } else { subject.len() / old.len() };
    let size = subject.len() + most.min(limit).saturating_mul(new.len());
    effort.spend(size as u64 / 16)?;
    Ok(Value::string(subject.replacen(old, new, limit)))
}

fn split<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let (subject, separator, limit) = match args {
        [subject, separator] => (text(subject)?, text(separator)?, -1),
        [subject, separator, limit] => (text(subject)?, text(separator)?, int(limit)?),
        _ => return Err(EvalError::no_such_overload()),
    };
    effort.spend(subject.len() as u64)?;
    let Ok(limit) = usize::try_from(if limit < 0 { i64::MAX } else { limit }) else {
        return Err(EvalError::no_such_overload());
    };
    let mut parts = Vec::new();
    if limit > 0 && separator.is_empty() {
        let mut rest = subject;
        while let Some(c) = rest.chars().next() {
            if parts.len() + 1 == limit {
                break;
            }
            let (part, tail) = rest.split_at(c.len_utf8());
            parts.push(Value::string(part));
            rest = tail;
        }
        if !rest.is_empty() {
            parts.push(Value::string(rest));
        }
    } else if limit > 0 {
        parts.extend(subject.splitn(limit, separator).map(Value::string));
    }
    Ok(Value::list(parts))
}

fn join<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let (list, separator): (&List<'_>, &str) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), separator] => (list, text(separator)?),
        _ => return Err(EvalError::no_such_overload()),
    };
    let mut out = String::new();
    for (n, item) in list.iter().enumerate() {
        let item = item?;
        let item = text(&item)?;
        effort.spend((item.len() + separator.len()) as u64 / 16 + 1)?;
        if n > 0 {
            out.push_str(separator);
        }
        out.push_str(item);
    }
    Ok(Value::string(out))
}

fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn encode<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    match args {
        [Value::Bytes(bytes)] => {
            effort.spend(bytes.len() as u64 / 8)?;
            Ok(Value::string(BASE64_STANDARD.encode(bytes)))
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

fn decode<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let [subject] = args else { return Err(EvalError::no_such_overload()) };
    let subject = text(subject)?;
    effort.spend(subject.len() as u64 / 8)?;
    // Padding may be left out.
    let bytes = BASE64_STANDARD
        .decode(subject)
        .or_else(|_| base64::prelude::BASE64_STANDARD_NO_PAD.decode(subject))
        .map_err(|error| EvalError::new(format!("illegal base64 data: {error}")))?;
    Ok(Value::Bytes(bytes.into()))
}
