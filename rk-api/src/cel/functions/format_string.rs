//! `'…%s…'.format([…])` of cel-go's `ext.Strings`.

use super::{conversions::format_double, text};
use crate::cel::{EvalError, Value, error::Effort, time, value::Map};

pub(super) fn call<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
    let [template, Value::List(arguments)] = args else {
        return Err(EvalError::no_such_overload());
    };
    let template = text(template)?;
    effort.spend(template.len() as u64 / 8)?;
    let mut out = String::with_capacity(template.len());
    let mut used = 0;
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let (precision, after) = precision(after)?;
        let Some(verb) = after.chars().next() else {
            return Err(EvalError::new("unexpected end of string"));
        };
        rest = &after[verb.len_utf8()..];
        let argument = arguments
            .get(used)
            .unwrap_or_else(|| Err(EvalError::new(format!("index {used} out of range"))))?;
        used += 1;
        write(&mut out, verb, precision, &argument, effort).map_err(|error| within(verb, error))?;
    }
    out.push_str(rest);
    if used != arguments.len() {
        let given = arguments.len();
        let message =
            format!("too many arguments supplied to string.format (expected {used}, got {given})");
        return Err(EvalError::new(message));
    }
    Ok(Value::string(out))
}

fn within(verb: char, error: EvalError) -> EvalError {
    match error {
        EvalError::Failed(message) if message.starts_with("unrecognized") => {
            EvalError::Failed(message)
        }
        EvalError::Failed(message) => EvalError::new(
            format!("error during formatting: {message}").replace("%v", &verb.to_string()),
        ),
        other => other,
    }
}

/// `.3` in front of a verb.
fn precision(text: &str) -> Result<(Option<usize>, &str), EvalError> {
    let Some(text) = text.strip_prefix('.') else { return Ok((None, text)) };
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(length);
    let precision = if digits.is_empty() { 0 } else { digits.parse().unwrap_or(usize::MAX) };
    if precision > 1000 {
        return Err(EvalError::new("precision too large"));
    }
    Ok((Some(precision), rest))
}

fn write(
    out: &mut String,
    verb: char,
    precision: Option<usize>,
    value: &Value<'_>,
    effort: &mut Effort,
) -> Result<(), EvalError> {
    let unsupported = |what: &str| {
        let name = value.type_name();
        Err(EvalError::new(format!(
            "{what} clause can only be used on {}, was given {name}",
            match what {
                "decimal" => "integers",
                "octal" => "integers",
                "binary" => "integers and bools",
                "hex" => "integers, byte buffers, and strings",
                _ => "doubles",
            }
        )))
    };
    match verb {
        's' => show(out, value, false, effort)?,
        'd' => match value {
            Value::Int(value) => out.push_str(&value.to_string()),
            Value::Uint(value) => out.push_str(&value.to_string()),
            Value::Double(value) if !value.is_finite() => out.push_str(&special(*value)),
            _ => return unsupported("decimal"),
        },
        'f' | 'e' => {
            let what = if verb == 'f' { "fixed-point" } else { "scientific" };
            let Some(number) = double(value) else { return unsupported(what) };
            let precision = precision.unwrap_or(6);
            if !number.is_finite() {
                out.push_str(&special(number));
            } else if verb == 'f' {
                out.push_str(&grouped(&format!("{number:.precision$}")));
            } else {
                out.push_str(&scientific(&format!("{number:.precision$e}")));
            }
        }
        'b' => match value {
            Value::Int(value) => out.push_str(&signed(*value, |n| format!("{n:b}"))),
            Value::Uint(value) => out.push_str(&format!("{value:b}")),
            Value::Bool(value) => out.push(if *value { '1' } else { '0' }),
            _ => return unsupported("binary"),
        },
        'o' => match value {
            Value::Int(value) => out.push_str(&signed(*value, |n| format!("{n:o}"))),
            Value::Uint(value) => out.push_str(&format!("{value:o}")),
            _ => return unsupported("octal"),
        },
        'x' | 'X' => {
            let text = match value {
                Value::Int(value) => signed(*value, |n| format!("{n:x}")),
                Value::Uint(value) => format!("{value:x}"),
                Value::String(text) => hex(text.as_str().as_bytes()),
                Value::Bytes(bytes) => hex(bytes),
                _ => return unsupported("hex"),
            };
            effort.spend(text.len() as u64 / 8)?;
            out.push_str(&if verb == 'X' { text.to_uppercase() } else { text });
        }
        other => {
            let message = format!(
                "could not parse formatting clause: unrecognized formatting clause \"{other}\""
            );
            return Err(EvalError::new(message));
        }
    }
    Ok(())
}

/// A number with commas between its thousands: cel-go writes for the locale `en_US`.
fn grouped(number: &str) -> String {
    let (sign, digits) = match number.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", number),
    };
    let (whole, fraction) = match digits.find('.') {
        Some(point) => digits.split_at(point),
        None => (digits, ""),
    };
    let mut out = String::from(sign);
    for (n, digit) in whole.char_indices() {
        if n > 0 && (whole.len() - n) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out.push_str(fraction);
    out
}

/// `1.5×10⁰³`, of `1.5e3`.
fn scientific(number: &str) -> String {
    const SUPERSCRIPTS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let (digits, exponent) = number.split_once('e').unwrap_or((number, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ("⁻", exponent),
        None => ("", exponent),
    };
    let exponent = format!("{exponent:0>2}");
    let raised = exponent.bytes().map(|digit| SUPERSCRIPTS[usize::from(digit - b'0') % 10]);
    format!("{digits}×10{sign}{}", raised.collect::<String>())
}

fn double(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(value) => Some(*value),
        Value::Int(value) => Some(*value as f64),
        Value::Uint(value) => Some(*value as f64),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn special(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value > 0.0 {
        "Infinity".to_owned()
    } else {
        "-Infinity".to_owned()
    }
}

fn signed(value: i64, digits: impl Fn(u64) -> String) -> String {
    format!("{}{}", if value < 0 { "-" } else { "" }, digits(value.unsigned_abs()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A value in words. Inside a list or map, strings are quoted.
fn show(
    out: &mut String,
    value: &Value<'_>,
    nested: bool,
    effort: &mut Effort,
) -> Result<(), EvalError> {
    effort.spend(1)?;
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => out.push_str(&value.to_string()),
        Value::Uint(value) => out.push_str(&value.to_string()),
        Value::Double(value) if value.is_finite() => out.push_str(&format_double(*value)),
        Value::Double(value) => out.push_str(&special(*value)),
        Value::String(text) => {
            effort.spend(text.as_str().len() as u64 / 8)?;
            if nested {
                out.push_str(&format!("{:?}", text.as_str()));
            } else {
                out.push_str(text.as_str());
            }
        }
        Value::Bytes(bytes) => out.push_str(&String::from_utf8_lossy(bytes)),
        Value::Duration(nanos) => out.push_str(&time::format_seconds(*nanos)),
        Value::Timestamp(at) => out.push_str(&at.to_string()),
        Value::Type(name) => out.push_str(&name.0),
        Value::List(list) => {
            out.push('[');
            for (n, item) in list.iter().enumerate() {
                out.push_str(if n > 0 { ", " } else { "" });
                show(out, &item?, true, effort)?;
            }
            out.push(']');
        }
        Value::Map(Map::Lazy(_)) => {
            return Err(EvalError::new("no formatting function for object"));
        }
        Value::Map(map) => {
            let mut entries = Vec::new();
            for (key, value) in map.entries() {
                let (mut key_text, mut value_text) = (String::new(), String::new());
                show(&mut key_text, &key, true, effort)?;
                show(&mut value_text, &value?, true, effort)?;
                entries.push((key_text, value_text));
            }
            // So that the text does not depend on the order of a map.
            entries.sort();
            let entries: Vec<_> =
                entries.into_iter().map(|(key, value)| format!("{key}: {value}")).collect();
            out.push('{');
            out.push_str(&entries.join(", "));
            out.push('}');
        }
        other => {
            let name = other.type_name();
            return Err(EvalError::new(format!("no formatting function for {name}")));
        }
    }
    Ok(())
}
