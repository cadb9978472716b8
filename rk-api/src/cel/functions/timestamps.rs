//! Parts of timestamps and durations.

use super::{Cost, Function, function, method, text};
use crate::cel::{EvalError, Value, time, types::Type};

pub(super) fn functions() -> Vec<Function> {
    macro_rules! part {
        ($name:literal, $id:literal $(, $duration:literal)?) => {
            function($name, Cost::One, |_, args| get($name, args), vec![
                method($id, vec![Type::Timestamp], Type::Int, Cost::One),
                method(
                    concat!($id, "_with_tz"),
                    vec![Type::Timestamp, Type::String],
                    Type::Int,
                    Cost::One,
                ),
                $(method($duration, vec![Type::Duration], Type::Int, Cost::One),)?
            ])
        };
    }
    vec![
        part!("getFullYear", "timestamp_to_year"),
        part!("getMonth", "timestamp_to_month"),
        part!("getDayOfYear", "timestamp_to_day_of_year"),
        part!("getDayOfMonth", "timestamp_to_day_of_month"),
        part!("getDate", "timestamp_to_day_of_month_1_based"),
        part!("getDayOfWeek", "timestamp_to_day_of_week"),
        part!("getHours", "timestamp_to_hours", "duration_to_hours"),
        part!("getMinutes", "timestamp_to_minutes", "duration_to_minutes"),
        part!("getSeconds", "timestamp_to_seconds", "duration_to_seconds"),
        part!("getMilliseconds", "timestamp_to_milliseconds", "duration_to_milliseconds"),
    ]
}

fn get<'a>(name: &str, args: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
    let part = match args {
        [Value::Timestamp(at)] => time::accessor(name, at.in_zone("")?),
        [Value::Timestamp(at), zone] => time::accessor(name, at.in_zone(text(zone)?)?),
        // Of a duration, all of it in that unit.
        [Value::Duration(nanos)] => match name {
            "getHours" => Some(nanos / 3_600_000_000_000),
            "getMinutes" => Some(nanos / 60_000_000_000),
            "getSeconds" => Some(nanos / 1_000_000_000),
            "getMilliseconds" => Some(nanos / 1_000_000),
            _ => None,
        },
        _ => None,
    };
    part.map(Value::Int).ok_or_else(EvalError::no_such_overload)
}
