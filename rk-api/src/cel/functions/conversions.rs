//! Conversions between types, `size` and `type`.

use std::sync::Arc;

use super::{A, B, Cost, Function, function, global, method};
use crate::cel::{
    EvalError, Value,
    error::Effort,
    kubernetes::LibraryValue,
    time::{self, Timestamp},
    types::{Library, Type},
    value::{Text, TypeName},
};

type Result<'a> = std::result::Result<Value<'a>, EvalError>;

pub(super) fn functions() -> Vec<Function> {
    use Type::{Bool, Bytes, Double, Duration, Int, String, Timestamp, Uint};
    let one = Cost::One;
    let to = |id, from: Type, result: &Type| global(id, vec![from], result.clone(), Cost::One);
    let sized = [
        ("size_bytes", "bytes_size", Bytes),
        ("size_list", "list_size", Type::list(A)),
        ("size_map", "map_size", Type::map(A, B)),
        ("size_string", "string_size", String),
    ];
    let size = sized
        .into_iter()
        .flat_map(|(id, member, of)| {
            [global(id, vec![of.clone()], Int, one), method(member, vec![of], Int, one)]
        })
        .collect();
    vec![
        function("size", one, |_, args| measure(args), size),
        function(
            "type",
            one,
            |_, args| type_of(args),
            vec![global("type", vec![A], Type::type_of(A), one)],
        ),
        function(
            "dyn",
            Cost::ToDyn,
            |_, args| first(args).cloned(),
            vec![global("to_dyn", vec![A], Type::Dyn, Cost::ToDyn)],
        ),
        function(
            "bool",
            one,
            |_, args| to_bool(args),
            vec![to("bool_to_bool", Bool, &Bool), to("string_to_bool", String, &Bool)],
        ),
        function(
            "bytes",
            one,
            to_bytes,
            vec![
                to("bytes_to_bytes", Bytes, &Bytes),
                global("string_to_bytes", vec![String], Bytes, Cost::StringToBytes),
            ],
        ),
        function(
            "double",
            one,
            |_, args| to_double(args),
            vec![
                to("double_to_double", Double, &Double),
                to("int64_to_double", Int, &Double),
                to("string_to_double", String, &Double),
                to("uint64_to_double", Uint, &Double),
            ],
        ),
        function(
            "duration",
            one,
            |_, args| to_duration(args),
            vec![
                to("duration_to_duration", Duration, &Duration),
                to("string_to_duration", String, &Duration),
            ],
        ),
        function(
            "int",
            one,
            |_, args| to_int(args),
            vec![
                to("int64_to_int64", Int, &Int),
                to("double_to_int64", Double, &Int),
                to("duration_to_int64", Duration, &Int),
                to("string_to_int64", String, &Int),
                to("timestamp_to_int64", Timestamp, &Int),
                to("uint64_to_int64", Uint, &Int),
            ],
        ),
        function(
            "string",
            one,
            to_string,
            vec![
                to("string_to_string", String, &String),
                to("bool_to_string", Bool, &String),
                global("bytes_to_string", vec![Bytes], String, Cost::BytesToString),
                to("double_to_string", Double, &String),
                to("duration_to_string", Duration, &String),
                to("int64_to_string", Int, &String),
                to("timestamp_to_string", Timestamp, &String),
                to("uint64_to_string", Uint, &String),
                to("ip_to_string", Type::Library(Library::Ip), &String),
                to("cidr_to_string", Type::Library(Library::Cidr), &String),
            ],
        ),
        function(
            "timestamp",
            one,
            |_, args| to_timestamp(args),
            vec![
                to("timestamp_to_timestamp", Timestamp, &Timestamp),
                to("int64_to_timestamp", Int, &Timestamp),
                to("string_to_timestamp", String, &Timestamp),
            ],
        ),
        function(
            "uint",
            one,
            |_, args| to_uint(args),
            vec![
                to("uint64_to_uint64", Uint, &Uint),
                to("double_to_uint64", Double, &Uint),
                to("int64_to_uint64", Int, &Uint),
                to("string_to_uint64", String, &Uint),
            ],
        ),
    ]
}

fn first<'v, 'a>(args: &'v [Value<'a>]) -> std::result::Result<&'v Value<'a>, EvalError> {
    match args {
        [value] => Ok(value),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn cannot<'a>(from: &Value<'_>, to: &str) -> Result<'a> {
    let from = from.type_name();
    Err(EvalError::new(format!("type conversion error from '{from}' to '{to}'")))
}

fn measure<'a>(args: &[Value<'a>]) -> Result<'a> {
    let value = first(args)?;
    match value {
        Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_) => {
            Ok(Value::Int(value.size() as i64))
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

fn type_of<'a>(args: &[Value<'a>]) -> Result<'a> {
    let name: Arc<str> = first(args)?.type_name().into();
    Ok(Value::Type(TypeName(name)))
}

fn to_bool<'a>(args: &[Value<'a>]) -> Result<'a> {
    match first(args)? {
        Value::Bool(value) => Ok(Value::Bool(*value)),
        value @ Value::String(text) => match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => cannot(value, "bool"),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_bytes<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    match first(args)? {
        Value::Bytes(bytes) => Ok(Value::Bytes(bytes.clone())),
        Value::String(text) => {
            effort.spend(text.as_str().len() as u64 / 16)?;
            Ok(Value::Bytes(text.as_str().as_bytes().into()))
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_double<'a>(args: &[Value<'a>]) -> Result<'a> {
    match first(args)? {
        Value::Double(value) => Ok(Value::Double(*value)),
        Value::Int(value) => Ok(Value::Double(*value as f64)),
        Value::Uint(value) => Ok(Value::Double(*value as f64)),
        value @ Value::String(text) => match parse_float(text.as_str()) {
            Some(double) => Ok(Value::Double(double)),
            None => cannot(value, "double"),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

/// A number as Go's `ParseFloat` reads it, but for hexadecimal ones.
fn parse_float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if unsigned.eq_ignore_ascii_case("inf")
        || unsigned.eq_ignore_ascii_case("infinity")
        || text.eq_ignore_ascii_case("nan")
    {
        return text.parse().ok();
    }
    // Beyond the range is an error in Go, infinite here.
    text.parse::<f64>().ok().filter(|value| value.is_finite())
}

fn to_duration<'a>(args: &[Value<'a>]) -> Result<'a> {
    match first(args)? {
        Value::Duration(nanos) => Ok(Value::Duration(*nanos)),
        value @ Value::String(text) => match time::parse_duration(text.as_str()) {
            Some(nanos) => Ok(Value::Duration(nanos)),
            None => cannot(value, "google.protobuf.Duration"),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_timestamp<'a>(args: &[Value<'a>]) -> Result<'a> {
    match first(args)? {
        Value::Timestamp(at) => Ok(Value::Timestamp(*at)),
        Value::Int(seconds) => Timestamp::from_seconds(*seconds).map(Value::Timestamp),
        Value::String(text) => Timestamp::parse(text.as_str()).map(Value::Timestamp),
        _ => Err(EvalError::no_such_overload()),
    }
}

const INT_OVERFLOW: &str = "integer overflow";
const UINT_OVERFLOW: &str = "unsigned integer overflow";

fn to_int<'a>(args: &[Value<'a>]) -> Result<'a> {
    let overflow = || EvalError::new(INT_OVERFLOW);
    match first(args)? {
        Value::Int(value) => Ok(Value::Int(*value)),
        Value::Uint(value) => i64::try_from(*value).map(Value::Int).map_err(|_| overflow()),
        Value::Double(value) => {
            // The bounds themselves are not exact as doubles, so cel-go leaves them out.
            if value.is_nan() || *value <= i64::MIN as f64 || *value >= i64::MAX as f64 {
                return Err(overflow());
            }
            Ok(Value::Int(*value as i64))
        }
        Value::Duration(nanos) => Ok(Value::Int(*nanos)),
        Value::Timestamp(at) => Ok(Value::Int(at.seconds())),
        value @ Value::String(text) => match parse_int(text.as_str()) {
            Some(int) => Ok(Value::Int(int)),
            None => cannot(value, "int"),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

fn parse_int(text: &str) -> Option<i64> {
    text.parse().ok()
}

fn to_uint<'a>(args: &[Value<'a>]) -> Result<'a> {
    let overflow = || EvalError::new(UINT_OVERFLOW);
    match first(args)? {
        Value::Uint(value) => Ok(Value::Uint(*value)),
        Value::Int(value) => u64::try_from(*value).map(Value::Uint).map_err(|_| overflow()),
        Value::Double(value) => {
            if value.is_nan() || *value < 0.0 || *value >= 1.8446744073709552e19 {
                return Err(overflow());
            }
            Ok(Value::Uint(*value as u64))
        }
        value @ Value::String(text) => match text.as_str().parse() {
            Ok(uint) if !text.as_str().starts_with('+') => Ok(Value::Uint(uint)),
            _ => cannot(value, "uint"),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_string<'a>(effort: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    Ok(Value::string(match first(args)? {
        Value::String(text) => return Ok(Value::String(text.clone())),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => format_double(*value),
        Value::Bytes(bytes) => {
            effort.spend(bytes.len() as u64 / 16)?;
            match std::str::from_utf8(bytes) {
                Ok(text) => return Ok(Value::String(Text::Shared(text.into()))),
                Err(_) => {
                    let message = "invalid UTF-8 in bytes, cannot convert to string";
                    return Err(EvalError::new(message));
                }
            }
        }
        Value::Timestamp(at) => at.to_string(),
        Value::Duration(nanos) => time::format_seconds(*nanos),
        Value::Library(LibraryValue::Ip(ip)) => ip.to_string(),
        Value::Library(LibraryValue::Cidr(cidr)) => cidr.to_string(),
        _ => return Err(EvalError::no_such_overload()),
    }))
}

/// A double as Go's `%g` shows it: shortest, with an exponent below 1e-4 and from 1e6.
pub(crate) fn format_double(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e6).contains(&magnitude) {
        let text = format!("{value:e}");
        let Some((digits, exponent)) = text.split_once('e') else { return text };
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{value}")
}
