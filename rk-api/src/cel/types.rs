//! Types of expressions, as the checker sees them.

use std::{fmt, sync::Arc};

use super::schema::ObjectType;

/// The type of an expression or variable.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Type {
    /// Known only when it is evaluated.
    Dyn,
    /// What a wrong expression has; it goes with everything, so that one mistake is told once.
    Error,
    /// `null`
    Null,
    /// `bool`
    Bool,
    /// A signed 64-bit integer.
    Int,
    /// An unsigned 64-bit integer.
    Uint,
    /// A 64-bit floating-point number.
    Double,
    /// `string`
    String,
    /// `bytes`
    Bytes,
    /// `google.protobuf.Duration`
    Duration,
    /// `google.protobuf.Timestamp`
    Timestamp,
    /// A list of one type.
    List(Arc<Type>),
    /// A map of one key type to one value type.
    Map(Arc<(Type, Type)>),
    /// An object with declared fields.
    Object(Arc<ObjectType>),
    /// An optional value.
    Optional(Arc<Type>),
    /// The type of a type.
    Type(Arc<Type>),
    /// A type of Kubernetes' libraries.
    Library(Library),
    /// A type variable of the checker.
    Var(u32),
}

/// Types that Kubernetes adds to the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Library {
    /// An amount, such as `500m`.
    Quantity,
    /// A URL.
    Url,
    /// An IP address.
    Ip,
    /// A range of IP addresses.
    Cidr,
    /// A semantic version.
    Semver,
    /// A named format of strings.
    Format,
    /// Who may do what.
    Authorizer,
    /// A question about a path that is no resource.
    PathCheck,
    /// A question about a group's resources, not finished.
    GroupCheck,
    /// A question about a resource.
    ResourceCheck,
    /// An answer of an authorizer.
    Decision,
}

impl Library {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Library::Quantity => "kubernetes.Quantity",
            Library::Url => "kubernetes.URL",
            Library::Ip => "net.IP",
            Library::Cidr => "net.CIDR",
            Library::Semver => "kubernetes.Semver",
            Library::Format => "kubernetes.NamedFormat",
            Library::Authorizer => "kubernetes.authorization.Authorizer",
            Library::PathCheck => "kubernetes.authorization.PathCheck",
            Library::GroupCheck => "kubernetes.authorization.GroupCheck",
            Library::ResourceCheck => "kubernetes.authorization.ResourceCheck",
            Library::Decision => "kubernetes.authorization.Decision",
        }
    }
}

impl Type {
    /// A list of `element`.
    pub fn list(element: Type) -> Type {
        Type::List(Arc::new(element))
    }

    /// A map from `key` to `value`.
    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new((key, value)))
    }

    /// An optional `value`.
    pub fn optional(value: Type) -> Type {
        Type::Optional(Arc::new(value))
    }

    pub(crate) fn type_of(of: Type) -> Type {
        Type::Type(Arc::new(of))
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }

    /// The value type of an optional, or the type itself, and which it was.
    pub(crate) fn unwrap_optional(&self) -> (&Type, bool) {
        match self {
            Type::Optional(value) => (value, true),
            other => (other, false),
        }
    }

    /// The name of the type, as `type(x)` and conversion errors give it.
    pub(crate) fn runtime_name(&self) -> &str {
        match self {
            Type::Dyn | Type::Var(_) => "dyn",
            Type::Error => "error",
            Type::Null => "null_type",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Duration => "google.protobuf.Duration",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::List(_) => "list",
            Type::Map(_) => "map",
            Type::Object(object) => &object.name,
            Type::Optional(_) => "optional_type",
            Type::Type(_) => "type",
            Type::Library(library) => library.name(),
        }
    }
}

/// As messages of the checker name it.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Error => f.write_str("!error!"),
            Type::Null => f.write_str("null"),
            Type::Duration => f.write_str("duration"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::List(element) => write!(f, "list({element})"),
            Type::Map(entry) => write!(f, "map({}, {})", entry.0, entry.1),
            Type::Optional(value) => write!(f, "optional_type({value})"),
            Type::Type(of) if **of == Type::Dyn => f.write_str("type"),
            Type::Type(of) => write!(f, "type({of})"),
            Type::Var(n) => write!(f, "_var{n}"),
            other => f.write_str(other.runtime_name()),
        }
    }
}
