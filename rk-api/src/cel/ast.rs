//! Expressions as trees.
//!
//! One type serves two stages: what the parser makes (macros are calls, so that an expression can be
//! written back), and what [`super::macros`] makes of that (macros are comprehensions).

use std::sync::Arc;

/// Names a node of one expression: an index for tables beside the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id(pub u32);

impl Id {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A node of an expression.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expr {
    pub id: Id,
    pub kind: Kind,
}

/// A literal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Literal(Literal),
    /// A variable, or a part of a qualified name. A leading dot is kept.
    Ident(Arc<str>),
    /// `operand.field`; with `test`, whether that is there.
    Select {
        operand: Box<Expr>,
        field: Arc<str>,
        test: bool,
    },
    /// A function or operator, by its name in the specification, for example `_+_`.
    Call {
        function: Arc<str>,
        target: Option<Box<Expr>>,
        args: Vec<Expr>,
    },
    /// A list; an element may be optional (`[?x]`).
    List(Vec<(Expr, bool)>),
    /// A map; an entry may be optional (`{?k: v}`).
    Map(Vec<Entry>),
    /// An object of a named type.
    Struct {
        name: Arc<str>,
        fields: Vec<FieldInit>,
    },
    Comprehension(Box<Comprehension>),
}

/// `key: value` of a map.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

/// `name: value` of an object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FieldInit {
    pub id: Id,
    pub name: Arc<str>,
    pub value: Expr,
    pub optional: bool,
}

/// The fold that every macro over a list or map stands for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Comprehension {
    pub range: Expr,
    pub var: Arc<str>,
    /// Then `var` is the index or key and this the element or value.
    pub var2: Option<Arc<str>>,
    pub accu: Arc<str>,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

impl Comprehension {
    /// Whether this only gives `init` a name: there is nothing to iterate over.
    pub fn is_bind(&self) -> bool {
        matches!(&self.range.kind, Kind::List(items) if items.is_empty())
            && self.condition.kind == Kind::Literal(Literal::Bool(false))
            && &*self.accu != ACCUMULATOR
    }
}

/// The variable in which a macro gathers its result. No source text can name it.
pub(crate) const ACCUMULATOR: &str = "@result";

/// The operators as functions.
pub(crate) mod op {
    pub const ADD: &str = "_+_";
    pub const AND: &str = "_&&_";
    pub const CONDITIONAL: &str = "_?_:_";
    pub const DIVIDE: &str = "_/_";
    pub const EQUALS: &str = "_==_";
    pub const GREATER: &str = "_>_";
    pub const GREATER_EQUALS: &str = "_>=_";
    pub const IN: &str = "@in";
    pub const INDEX: &str = "_[_]";
    pub const LESS: &str = "_<_";
    pub const LESS_EQUALS: &str = "_<=_";
    pub const MODULO: &str = "_%_";
    pub const MULTIPLY: &str = "_*_";
    pub const NEGATE: &str = "-_";
    pub const NOT: &str = "!_";
    pub const NOT_EQUALS: &str = "_!=_";
    pub const NOT_STRICTLY_FALSE: &str = "@not_strictly_false";
    pub const OPT_INDEX: &str = "_[?_]";
    pub const OPT_SELECT: &str = "_?._";
    pub const OR: &str = "_||_";
    pub const SUBTRACT: &str = "_-_";
}

/// A parsed expression, and where each of its nodes was written.
#[derive(Clone, Debug)]
pub(crate) struct Ast {
    pub root: Expr,
    pub positions: Positions,
}

/// Byte offsets in the source, by node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Positions(Vec<u32>);

impl Positions {
    /// A new node that stands at `offset`.
    pub fn add(&mut self, offset: usize) -> Id {
        let id = Id(self.0.len() as u32);
        self.0.push(offset as u32);
        id
    }

    pub fn get(&self, id: Id) -> usize {
        self.0.get(id.index()).copied().unwrap_or(0) as usize
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}
