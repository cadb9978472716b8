//! Named formats of strings.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{LibraryValue, url::Url, wrong};
use crate::{
    cel::{
        EvalError, Value,
        functions::{Cost, Function, function, global, method, text},
        time,
        types::{Library, Type},
    },
    meta::names,
};

/// A named format of strings.
#[derive(Debug)]
pub struct Format {
    /// As `format.named` knows it.
    pub name: &'static str,
    /// As it calls itself.
    pub title: &'static str,
    /// How long a regular expression for it would be: what validating costs.
    pub regex_size: u64,
    validate: fn(&str) -> Vec<String>,
    function: &'static str,
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

macro_rules! formats {
    ($($name:literal, $title:literal, $size:literal, $validate:expr;)*) => {
        &[$(Format {
            name: $name,
            title: $title,
            regex_size: $size,
            validate: $validate,
            function: concat!("format.", $name),
        },)*]
    };
}

static FORMATS: &[Format] = formats! {
    "dns1123Label", "DNS1123Label", 30, |text| names::dns_label(text, false);
    "dns1123Subdomain", "DNS1123Subdomain", 60, |text| names::dns_subdomain(text, false);
    "dns1035Label", "DNS1035Label", 30, |text| names::dns1035_label(text, false);
    "qualifiedName", "QualifiedName", 60, names::qualified_name;
    "dns1123LabelPrefix", "DNS1123LabelPrefix", 30, |text| names::dns_label(text, true);
    "dns1123SubdomainPrefix", "DNS1123SubdomainPrefix", 60, |text| names::dns_subdomain(text, true);
    "dns1035LabelPrefix", "DNS1035LabelPrefix", 30, |text| names::dns1035_label(text, true);
    "labelValue", "LabelValue", 40, names::label_value;
    "uri", "URI", 1500, |text| Url::parse(text).err().into_iter().collect();
    "uuid", "UUID", 71, |text| {
        refuse(!is_uuid(text), "does not match the UUID format")
    };
    "byte", "byte", 84, |text| {
        refuse(text.is_empty() || BASE64_STANDARD.decode(text).is_err(), "invalid base64")
    };
    "date", "date", 150, |text| refuse(time::parse_date(text).is_none(), "invalid date");
    "datetime", "datetime", 150, |text| {
        refuse(time::parse_openapi_date_time(text).is_none(), "invalid datetime")
    };
};

fn refuse(wrong: bool, message: &str) -> Vec<String> {
    wrong.then(|| message.to_owned()).into_iter().collect()
}

fn is_uuid(text: &str) -> bool {
    let lengths = [8, 4, 4, 4, 12];
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    let grouped: Vec<usize> = text.split('-').map(str::len).collect();
    hex.len() == 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
        && (grouped == lengths || grouped.len() == 1)
}

fn named(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.name == name)
}

/// Calls without arguments, each of which is a format.
macro_rules! constants {
    ($($name:literal)*) => {
        vec![$((concat!("format.", $name), (|_, _| {
            named($name)
                .map(|format| Value::Library(LibraryValue::Format(format)))
                .ok_or_else(EvalError::no_such_overload)
        }) as crate::cel::functions::Call)),*]
    };
}

pub(super) fn functions() -> Vec<Function> {
    let format = Type::Library(Library::Format);
    let mut all: Vec<Function> = constants!(
        "dns1123Label" "dns1123Subdomain" "dns1035Label" "qualifiedName" "dns1123LabelPrefix"
        "dns1123SubdomainPrefix" "dns1035LabelPrefix" "labelValue" "uri" "uuid" "byte" "date"
        "datetime"
    )
    .into_iter()
    .map(|(name, call)| {
        let overload = global(name, vec![], format.clone(), Cost::One);
        function(name, Cost::One, call, vec![overload])
    })
    .collect();
    debug_assert!(FORMATS.iter().all(|format| all.iter().any(|f| f.name == format.function)));
    let problems = Type::optional(Type::list(Type::String));
    all.push(function(
        "validate",
        Cost::Validate,
        |effort, args| match args {
            [Value::Library(LibraryValue::Format(format)), value] => {
                let text = text(value)?;
                effort.spend(text.len() as u64 / 4)?;
                let problems: Vec<_> =
                    (format.validate)(text).into_iter().map(Value::string).collect();
                Ok(Value::Optional((!problems.is_empty()).then(|| Arc::new(Value::list(problems)))))
            }
            _ => wrong(),
        },
        vec![method(
            "format-validate",
            vec![format.clone(), Type::String],
            problems,
            Cost::Validate,
        )],
    ));
    all.push(function(
        "format.named",
        Cost::One,
        |_, args| match args {
            [value] => {
                let found = named(text(value)?);
                Ok(Value::Optional(
                    found.map(|format| Arc::new(Value::Library(LibraryValue::Format(format)))),
                ))
            }
            _ => wrong(),
        },
        vec![global("format-named", vec![Type::String], Type::optional(format), Cost::One)],
    ));
    all
}
