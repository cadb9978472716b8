//! What an expression can refer to.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    CompileError, Program, check, estimate, macros, parser, plan,
    schema::{ObjectType, Schema},
    types::{Library, Type},
};

/// What expressions can refer to: the variables, beside the functions of the language and of
/// Kubernetes' libraries, which are always there.
#[derive(Clone, Debug, Default)]
pub struct Env {
    variables: BTreeMap<Arc<str>, Variable>,
    constructors: bool,
}

#[derive(Clone, Debug)]
struct Variable {
    of: Type,
    /// For the sizes of what is in it.
    schema: Option<Arc<Schema>>,
}

/// The prefix of the types that [`Env::object_constructors`] allows.
const OBJECT: &str = "Object";
const JSON_PATCH: &str = "JSONPatch";

impl Env {
    /// An environment without variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a variable of a type. Its name may have dots in it.
    #[must_use]
    pub fn variable(mut self, name: &str, of: Type) -> Self {
        self.variables.insert(name.into(), Variable { of, schema: None });
        self
    }

    /// Adds a variable that is bound to JSON with this schema. The sizes in the schema bound what
    /// an expression can cost.
    #[must_use]
    pub fn json_variable(mut self, name: &str, schema: Arc<Schema>) -> Self {
        let variable = Variable { of: schema.value_type(), schema: Some(schema) };
        self.variables.insert(name.into(), variable);
        self
    }

    /// Adds a variable that is bound to an optional value of JSON with this schema.
    #[must_use]
    pub fn optional_json_variable(mut self, name: &str, schema: Arc<Schema>) -> Self {
        let of = Type::optional(schema.value_type());
        self.variables.insert(name.into(), Variable { of, schema: Some(schema) });
        self
    }

    /// Adds the variable `authorizer`.
    #[must_use]
    pub fn authorizer(self) -> Self {
        self.variable("authorizer", Type::Library(Library::Authorizer))
    }

    /// Adds the variable `authorizer.requestResource`.
    #[must_use]
    pub fn request_resource(self) -> Self {
        self.variable("authorizer.requestResource", Type::Library(Library::ResourceCheck))
    }

    /// Lets expressions make objects of the types `Object`, `Object.spec` and so on, and
    /// `JSONPatch`, as those of mutating admission policies do (KEP-3962).
    #[must_use]
    pub fn object_constructors(mut self) -> Self {
        self.constructors = true;
        self
    }

    /// Parses and checks an expression.
    ///
    /// # Errors
    /// It is malformed, or its types do not agree: with all that is wrong, and where.
    pub fn compile(&self, source: &str) -> Result<Program, CompileError> {
        let parsed = parser::parse(source)?;
        let ast = macros::expand(source, &parsed)?;
        let checked = check::check(source, &ast, self)?;
        check::literals(source, &ast, &checked)?;
        let cost = estimate::estimate(&ast, &checked, self);
        let of = checked.type_of(ast.root.id).clone();
        Ok(Program::new(plan::plan(&ast, &checked), of, cost))
    }

    pub(crate) fn find_variable(&self, name: &str) -> Option<(Arc<str>, Type)> {
        let (name, variable) = self.variables.get_key_value(name)?;
        Some((name.clone(), variable.of.clone()))
    }

    pub(crate) fn schema(&self, name: &str) -> Option<&Schema> {
        self.variables.get(name)?.schema.as_deref()
    }

    /// The type that a name stands for.
    pub(crate) fn find_type(&self, name: &str) -> Option<Type> {
        const LIBRARY: &[Library] = &[
            Library::Quantity,
            Library::Url,
            Library::Ip,
            Library::Cidr,
            Library::Semver,
            Library::Format,
            Library::Authorizer,
            Library::PathCheck,
            Library::GroupCheck,
            Library::ResourceCheck,
            Library::Decision,
        ];
        Some(match name {
            "bool" => Type::Bool,
            "bytes" => Type::Bytes,
            "double" => Type::Double,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "string" => Type::String,
            "null_type" => Type::Null,
            "list" => Type::list(Type::Dyn),
            "map" => Type::map(Type::Dyn, Type::Dyn),
            "type" => Type::type_of(Type::Dyn),
            "optional_type" => Type::optional(Type::Dyn),
            "google.protobuf.Duration" => Type::Duration,
            "google.protobuf.Timestamp" => Type::Timestamp,
            _ => match LIBRARY.iter().find(|library| library.name() == name) {
                Some(library) => Type::Library(*library),
                None => Type::Object(self.find_object(name)?),
            },
        })
    }

    /// A type whose objects an expression can make.
    pub(crate) fn find_object(&self, name: &str) -> Option<Arc<ObjectType>> {
        let known = name == JSON_PATCH
            || name == OBJECT
            || name.strip_prefix(OBJECT).is_some_and(|rest| rest.starts_with('.'));
        (self.constructors && known).then(|| Arc::new(ObjectType::named(name)))
    }

    /// The type of a field.
    pub(crate) fn find_field(&self, object: &ObjectType, field: &str) -> Option<Type> {
        if self.find_object(&object.name).is_some() {
            return match (&*object.name, field) {
                (JSON_PATCH, "op" | "from" | "path") => Some(Type::String),
                (JSON_PATCH, "value") => Some(Type::Dyn),
                (JSON_PATCH, _) => None,
                _ => Some(Type::Dyn),
            };
        }
        object.field(field).map(|field| field.schema.value_type())
    }
}
