//! Kubernetes' libraries: quantities, URLs, IP addresses, versions, named formats.

pub(crate) mod formats;
pub(crate) mod net;
pub(crate) mod semver;
pub(crate) mod url;

use std::sync::Arc;

use super::{
    EvalError, Value,
    authz::AuthzValue,
    error::Effort,
    functions::{Cost, Function, Overload, function, global, int, method, text},
    types::{Library, Type},
};
use crate::meta::quantity::Quantity;

/// A value of a type that Kubernetes adds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum LibraryValue<'a> {
    /// An amount.
    Quantity(Quantity),
    /// A URL.
    Url(Arc<url::Url>),
    /// An IP address.
    Ip(std::net::IpAddr),
    /// A range of IP addresses.
    Cidr(net::Cidr),
    /// A semantic version.
    Semver(Arc<semver::Version>),
    /// A named format.
    Format(&'static formats::Format),
    /// A question to an authorizer, or its answer.
    Authz(AuthzValue<'a>),
}

impl LibraryValue<'_> {
    /// As the cost model measures it.
    pub(crate) fn size(&self) -> u64 {
        match self {
            LibraryValue::Ip(std::net::IpAddr::V4(_)) => 4,
            LibraryValue::Ip(std::net::IpAddr::V6(_)) => 16,
            LibraryValue::Cidr(cidr) => u64::from(cidr.prefix).div_ceil(8),
            LibraryValue::Format(format) => format.title.len() as u64,
            _ => 1,
        }
    }
}

type Result<'a> = std::result::Result<Value<'a>, EvalError>;

fn wrong<'a>() -> Result<'a> {
    Err(EvalError::no_such_overload())
}

pub(super) fn functions() -> Vec<Function> {
    let mut all = quantities_and_versions();
    all.extend(net::functions());
    all.extend(url::functions());
    all.extend(formats::functions());
    all
}

/// What quantities and semantic versions share are functions of one name.
fn quantities_and_versions() -> Vec<Function> {
    use Type::{Bool, Double, Int, String};
    let (quantity, version) = (Type::Library(Library::Quantity), Type::Library(Library::Semver));
    let one = Cost::One;
    let of = |id, receiver: &Type, more: &[Type], result: Type| -> Overload {
        let mut args = vec![receiver.clone()];
        args.extend_from_slice(more);
        method(id, args, result, Cost::One)
    };
    let both = |quantity_id, version_id, result: Type| {
        vec![
            of(quantity_id, &quantity, std::slice::from_ref(&quantity), result.clone()),
            of(version_id, &version, std::slice::from_ref(&version), result),
        ]
    };
    macro_rules! apply {
        ($name:literal, $overloads:expr) => {
            function($name, one, |effort, args| apply(effort, $name, args), $overloads)
        };
    }
    let parse = |id, more: &[Type], result: &Type| {
        let mut args = vec![String];
        args.extend_from_slice(more);
        global(id, args, result.clone(), Cost::Parse)
    };
    vec![
        function(
            "quantity",
            Cost::Parse,
            parse_quantity,
            vec![parse("string_to_quantity", &[], &quantity)],
        ),
        function(
            "isQuantity",
            Cost::Parse,
            |_, args| match args {
                [value] => Ok(Value::Bool(Quantity::parse(text(value)?).is_ok())),
                _ => wrong(),
            },
            vec![parse("is_quantity_string", &[], &Bool)],
        ),
        function(
            "semver",
            Cost::Parse,
            |_, args| {
                let (text, normalize) = version_args(args)?;
                let version = semver::Version::parse(text, normalize).map_err(EvalError::new)?;
                Ok(Value::Library(LibraryValue::Semver(Arc::new(version))))
            },
            vec![
                parse("string_to_semver", &[], &version),
                parse("string_bool_to_semver", &[Bool], &version),
            ],
        ),
        function(
            "isSemver",
            Cost::Parse,
            |_, args| {
                let (text, normalize) = version_args(args)?;
                Ok(Value::Bool(semver::Version::parse(text, normalize).is_ok()))
            },
            vec![
                parse("is_semver_string", &[], &Bool),
                parse("is_semver_string_bool", &[Bool], &Bool),
            ],
        ),
        apply!("isGreaterThan", both("quantity_is_greater_than", "semver_is_greater_than", Bool)),
        apply!("isLessThan", both("quantity_is_less_than", "semver_is_less_than", Bool)),
        apply!("compareTo", both("quantity_compare_to", "semver_compare_to", Int)),
        // Kubernetes declares this one as a function; its documentation calls it as a method.
        apply!(
            "sign",
            vec![
                global("quantity_sign", vec![quantity.clone()], Int, one),
                of("quantity_sign_method", &quantity, &[], Int),
            ]
        ),
        apply!("asApproximateFloat", vec![of("quantity_get_float", &quantity, &[], Double)]),
        apply!("asInteger", vec![of("quantity_get_int", &quantity, &[], Int)]),
        apply!("isInteger", vec![of("quantity_is_integer", &quantity, &[], Bool)]),
        apply!(
            "add",
            vec![
                of("quantity_add", &quantity, std::slice::from_ref(&quantity), quantity.clone()),
                of("quantity_add_int", &quantity, &[Int], quantity.clone()),
            ]
        ),
        apply!(
            "sub",
            vec![
                of("quantity_sub", &quantity, std::slice::from_ref(&quantity), quantity.clone()),
                of("quantity_sub_int", &quantity, &[Int], quantity.clone()),
            ]
        ),
        apply!("major", vec![of("semver_major", &version, &[], Int)]),
        apply!("minor", vec![of("semver_minor", &version, &[], Int)]),
        apply!("patch", vec![of("semver_patch", &version, &[], Int)]),
    ]
}

fn parse_quantity<'a>(_: &mut Effort, args: &[Value<'a>]) -> Result<'a> {
    let [value] = args else { return wrong() };
    let quantity =
        Quantity::parse(text(value)?).map_err(|error| EvalError::new(error.to_string()))?;
    Ok(Value::Library(LibraryValue::Quantity(quantity)))
}

fn version_args<'v>(args: &'v [Value<'_>]) -> std::result::Result<(&'v str, bool), EvalError> {
    match args {
        [value] => Ok((text(value)?, false)),
        [value, Value::Bool(normalize)] => Ok((text(value)?, *normalize)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn apply<'a>(_: &mut Effort, name: &str, args: &[Value<'a>]) -> Result<'a> {
    let number = |n: u64| Ok(Value::Int(i64::try_from(n).unwrap_or(i64::MAX)));
    match args {
        [Value::Library(LibraryValue::Quantity(quantity))] => on_quantity(name, *quantity),
        [Value::Library(LibraryValue::Quantity(left)), other] => {
            let right = match (other, name) {
                (Value::Library(LibraryValue::Quantity(right)), _) => *right,
                (value, "add" | "sub") => Quantity::new(int(value)?, 0),
                _ => return wrong(),
            };
            match name {
                "add" => Ok(Value::Library(LibraryValue::Quantity(left.plus(&right)))),
                "sub" => Ok(Value::Library(LibraryValue::Quantity(left.minus(&right)))),
                _ => ordering(name, left.cmp(&right)),
            }
        }
        [Value::Library(LibraryValue::Semver(version))] => match name {
            "major" => number(version.major),
            "minor" => number(version.minor),
            "patch" => number(version.patch),
            _ => wrong(),
        },
        [
            Value::Library(LibraryValue::Semver(left)),
            Value::Library(LibraryValue::Semver(right)),
        ] => ordering(name, left.precedence(right)),
        _ => wrong(),
    }
}

fn ordering<'a>(name: &str, ordering: std::cmp::Ordering) -> Result<'a> {
    match name {
        "isGreaterThan" => Ok(Value::Bool(ordering.is_gt())),
        "isLessThan" => Ok(Value::Bool(ordering.is_lt())),
        "compareTo" => Ok(Value::Int(ordering as i64)),
        _ => wrong(),
    }
}

fn on_quantity<'a>(name: &str, quantity: Quantity) -> Result<'a> {
    match name {
        "sign" => Ok(Value::Int(i64::from(quantity.signum()))),
        "asApproximateFloat" => Ok(Value::Double(quantity.approximate())),
        "isInteger" => Ok(Value::Bool(quantity.integer().is_some())),
        "asInteger" => match quantity.integer() {
            Some(value) => Ok(Value::Int(value)),
            None => Err(EvalError::new("cannot convert value to integer")),
        },
        _ => wrong(),
    }
}
