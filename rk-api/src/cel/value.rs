//! Values of expressions, lazily read from JSON.

mod equal;
mod json;

use std::{cmp::Ordering, collections::BTreeMap, fmt, sync::Arc};

pub(crate) use equal::equal;
use serde_json::Value as Json;

use super::{
    EvalError,
    authz::AuthzValue,
    kubernetes::LibraryValue,
    schema::{DYN, Schema},
    time::Timestamp,
    types::{Library, Type},
};

/// A value. JSON behind it is borrowed for `'a` and looked at only as far as an expression does.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `bool`
    Bool(bool),
    /// `int`
    Int(i64),
    /// `uint`
    Uint(u64),
    /// `double`
    Double(f64),
    /// `string`
    String(Text<'a>),
    /// `bytes`
    Bytes(Arc<[u8]>),
    /// `duration`, in nanoseconds.
    Duration(i64),
    /// `timestamp`
    Timestamp(Timestamp),
    /// A list.
    List(List<'a>),
    /// A map or an object.
    Map(Map<'a>),
    /// An object that the expression made, with the name of its type.
    Struct(Arc<Struct<'a>>),
    /// An optional value.
    Optional(Option<Arc<Value<'a>>>),
    /// A type.
    Type(TypeName),
    /// A value of Kubernetes' libraries.
    Library(LibraryValue<'a>),
    /// JSON that its schema says nothing about: it can only be compared.
    Unknown(&'a Json),
}

/// A string, borrowed where it can be.
#[derive(Clone)]
pub enum Text<'a> {
    /// From JSON, or from the expression.
    Borrowed(&'a str),
    /// Made by the expression.
    Shared(Arc<str>),
}

/// The name of a type at run time.
#[derive(Clone, Debug, PartialEq)]
pub struct TypeName(pub(crate) Arc<str>);

/// A list.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum List<'a> {
    /// A JSON array, read by the schema of the list.
    Json(&'a [Json], &'a Schema),
    /// Made by the expression, or bound as such.
    Owned(Arc<Vec<Value<'a>>>),
}

/// A map or object.
#[derive(Clone)]
#[non_exhaustive]
pub enum Map<'a> {
    /// A JSON object, read by the schema of the map or object.
    Json(&'a serde_json::Map<String, Json>, &'a Schema),
    /// Made by the expression, or bound as such.
    Owned(Arc<BTreeMap<Key, (Value<'a>, Value<'a>)>>),
    /// An object whose fields are computed when they are asked for.
    Lazy(&'a dyn Fields),
}

/// An object whose fields are computed when an expression asks for them, such as the variables of
/// an admission policy.
pub trait Fields: Sync {
    /// The value of a field, or nothing if there is no such field.
    fn field(&self, name: &str) -> Option<Result<Value<'_>, EvalError>>;
}

/// An object made by an expression.
#[derive(Clone, Debug)]
pub struct Struct<'a> {
    /// The name of its type, for example `Object.spec`.
    pub type_name: Arc<str>,
    /// The fields that were set, by the names that expressions use.
    pub fields: BTreeMap<Arc<str>, Value<'a>>,
}

/// A map key. Numbers of different types with the same value are the same key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A boolean.
    Bool(bool),
    /// An integer that fits.
    Int(i64),
    /// A larger one.
    Uint(u64),
    /// A string.
    String(Arc<str>),
}

impl Text<'_> {
    /// The string.
    pub fn as_str(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Shared(text) => text,
        }
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Debug for Map<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Map::Json(json, _) => json.fmt(f),
            Map::Owned(entries) => entries.fmt(f),
            Map::Lazy(_) => f.write_str("{…}"),
        }
    }
}

impl Key {
    /// The key that a value is, if it can be one.
    pub(crate) fn of(value: &Value<'_>) -> Option<Key> {
        Some(match value {
            Value::Bool(value) => Key::Bool(*value),
            Value::Int(value) => Key::Int(*value),
            Value::Uint(value) => i64::try_from(*value).map_or(Key::Uint(*value), Key::Int),
            Value::Double(value) => {
                // A double finds the integer that it is equal to.
                if value.fract() != 0.0 || !value.is_finite() {
                    return None;
                }
                if (-9.223_372_036_854_775e18..9.223_372_036_854_775e18).contains(value) {
                    Key::Int(*value as i64)
                } else if (0.0..1.844_674_407_370_955e19).contains(value) {
                    Key::Uint(*value as u64)
                } else {
                    return None;
                }
            }
            Value::String(text) => Key::String(text.as_str().into()),
            _ => return None,
        })
    }
}

impl<'a> Value<'a> {
    /// A string made at run time.
    pub fn string(text: impl Into<Arc<str>>) -> Self {
        Value::String(Text::Shared(text.into()))
    }

    /// A borrowed string.
    pub fn str(text: &'a str) -> Self {
        Value::String(Text::Borrowed(text))
    }

    /// A list of values.
    pub fn list(items: Vec<Value<'a>>) -> Self {
        Value::List(List::Owned(Arc::new(items)))
    }

    /// A map from strings.
    pub fn map(entries: impl IntoIterator<Item = (Arc<str>, Value<'a>)>) -> Self {
        let entries = entries.into_iter();
        let entries =
            entries.map(|(key, value)| (Key::String(key.clone()), (Value::string(key), value)));
        Value::Map(Map::Owned(Arc::new(entries.collect())))
    }

    /// An optional value.
    pub fn optional(value: Option<Value<'a>>) -> Self {
        Value::Optional(value.map(Arc::new))
    }

    /// An optional with a value.
    pub(crate) fn some(value: Value<'a>) -> Self {
        Value::Optional(Some(Arc::new(value)))
    }

    /// JSON of which nothing is known.
    pub fn dynamic(json: &'a Json) -> Self {
        json::read(json, &DYN).unwrap_or(Value::Unknown(json))
    }

    /// JSON read by its schema.
    ///
    /// # Errors
    /// The JSON does not fit: these are errors of an expression that looks at it, in Kubernetes'
    /// words. Only the outermost value is looked at here.
    pub fn json(json: &'a Json, schema: &'a Schema) -> Result<Self, EvalError> {
        json::read(json, schema)
    }

    /// The value as JSON.
    ///
    /// # Errors
    /// Some values have no JSON form: types, optional values, library values.
    pub fn to_json(&self) -> Result<Json, EvalError> {
        json::write(self)
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The name of the value's type, as `type(value)` has it.
    pub fn type_name(&self) -> &str {
        match self {
            Value::Null => Type::Null.runtime_name(),
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Duration(_) => Type::Duration.runtime_name(),
            Value::Timestamp(_) => Type::Timestamp.runtime_name(),
            Value::List(_) => "list",
            Value::Map(Map::Json(_, schema)) => match &schema.shape {
                super::schema::Shape::Object(object) => &object.name,
                _ => "map",
            },
            Value::Map(_) => "map",
            Value::Struct(object) => &object.type_name,
            Value::Optional(_) => "optional_type",
            Value::Type(_) => "type",
            Value::Library(value) => value.library().name(),
            Value::Unknown(_) => "unknown",
        }
    }

    /// As the cost model measures it: characters, bytes, items or entries; 1 for all else.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Value::String(text) => text.as_str().chars().count() as u64,
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::List(list) => list.len() as u64,
            Value::Map(map) => map.len() as u64,
            Value::Struct(object) => object.fields.len() as u64,
            Value::Optional(Some(value)) => value.size(),
            Value::Library(value) => value.size(),
            _ => 1,
        }
    }

    /// How two values of types that have an order compare.
    pub(crate) fn compare(&self, other: &Value<'_>) -> Result<Ordering, EvalError> {
        const NAN: &str = "NaN values cannot be ordered";
        Ok(match (self, other) {
            (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
            (Value::String(left), Value::String(right)) => left.as_str().cmp(right.as_str()),
            (Value::Bytes(left), Value::Bytes(right)) => left.cmp(right),
            (Value::Duration(left), Value::Duration(right)) => left.cmp(right),
            (Value::Timestamp(left), Value::Timestamp(right)) => left.cmp(right),
            _ => match compare_numbers(self, other) {
                Some(Some(ordering)) => ordering,
                Some(None) => return Err(EvalError::new(NAN)),
                None => return Err(EvalError::no_such_overload()),
            },
        })
    }
}

/// How two numbers compare, of whatever types: `None` if they are not numbers, `Some(None)` if one
/// of them is not a number.
pub(crate) fn compare_numbers(left: &Value<'_>, right: &Value<'_>) -> Option<Option<Ordering>> {
    fn with_int(double: f64, int: i128) -> Option<Ordering> {
        if double.is_nan() {
            return None;
        }
        // Beyond the integers' range the double decides alone; within it, its whole part is exact.
        if double >= 1.8446744073709552e19 {
            return Some(Ordering::Greater);
        }
        if double < i64::MIN as f64 {
            return Some(Ordering::Less);
        }
        let whole = double.trunc();
        Some((whole as i128).cmp(&int).then((double - whole).partial_cmp(&0.0)?))
    }
    use Value::{Double, Int, Uint};
    Some(match (left, right) {
        (Int(left), Int(right)) => Some(left.cmp(right)),
        (Uint(left), Uint(right)) => Some(left.cmp(right)),
        (Double(left), Double(right)) => left.partial_cmp(right),
        (Int(left), Uint(right)) => Some(i128::from(*left).cmp(&i128::from(*right))),
        (Uint(left), Int(right)) => Some(i128::from(*left).cmp(&i128::from(*right))),
        (Double(left), Int(right)) => with_int(*left, i128::from(*right)),
        (Double(left), Uint(right)) => with_int(*left, i128::from(*right)),
        (Int(left), Double(right)) => with_int(*right, i128::from(*left)).map(Ordering::reverse),
        (Uint(left), Double(right)) => with_int(*right, i128::from(*left)).map(Ordering::reverse),
        _ => return None,
    })
}

impl<'a> List<'a> {
    /// How many items there are.
    pub fn len(&self) -> usize {
        match self {
            List::Json(items, _) => items.len(),
            List::Owned(items) => items.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The item at an index.
    pub fn get(&self, index: usize) -> Option<Result<Value<'a>, EvalError>> {
        match self {
            List::Json(items, schema) => items.get(index).map(|item| json::item(item, schema)),
            List::Owned(items) => items.get(index).cloned().map(Ok),
        }
    }

    /// All items, in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, EvalError>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// All items.
    pub(crate) fn to_vec(&self) -> Result<Vec<Value<'a>>, EvalError> {
        match self {
            List::Json(..) => self.iter().collect(),
            List::Owned(items) => Ok(items.to_vec()),
        }
    }
}

impl<'a> Map<'a> {
    /// How many entries there are; of an object, how many fields are set.
    pub fn len(&self) -> usize {
        match self {
            Map::Json(entries, _) => entries.len(),
            Map::Owned(entries) => entries.len(),
            Map::Lazy(_) => 1,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key, or of a field by the name that expressions use.
    pub fn get_str(&self, key: &str) -> Option<Result<Value<'a>, EvalError>> {
        match self {
            Map::Json(entries, schema) => json::field(entries, schema, key),
            Map::Owned(entries) => {
                entries.get(&Key::String(key.into())).map(|(_, value)| Ok(value.clone()))
            }
            Map::Lazy(fields) => fields.field(key),
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &Value<'_>) -> Option<Result<Value<'a>, EvalError>> {
        match (self, key) {
            (_, Value::String(text)) => self.get_str(text.as_str()),
            (Map::Owned(entries), key) => {
                entries.get(&Key::of(key)?).map(|(_, value)| Ok(value.clone()))
            }
            _ => None,
        }
    }

    /// All entries that expressions see, by their keys.
    pub fn entries(&self) -> Vec<(Value<'a>, Result<Value<'a>, EvalError>)> {
        match self {
            Map::Json(entries, schema) => json::entries(entries, schema),
            Map::Owned(entries) => {
                entries.values().map(|(key, value)| (key.clone(), Ok(value.clone()))).collect()
            }
            Map::Lazy(_) => Vec::new(),
        }
    }
}

impl LibraryValue<'_> {
    /// Which of the libraries' types it has.
    pub fn library(&self) -> Library {
        match self {
            LibraryValue::Quantity(_) => Library::Quantity,
            LibraryValue::Url(_) => Library::Url,
            LibraryValue::Ip(_) => Library::Ip,
            LibraryValue::Cidr(_) => Library::Cidr,
            LibraryValue::Semver(_) => Library::Semver,
            LibraryValue::Format(_) => Library::Format,
            LibraryValue::Authz(value) => match value {
                AuthzValue::Authorizer(_) => Library::Authorizer,
                AuthzValue::Path(_) => Library::PathCheck,
                AuthzValue::Group(_) => Library::GroupCheck,
                AuthzValue::Resource(_) => Library::ResourceCheck,
                AuthzValue::Decision(_) => Library::Decision,
            },
        }
    }
}
