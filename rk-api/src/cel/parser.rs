//! Tokens to trees (CEL specification, "Grammar"), by recursive descent.
//!
//! The size of a source, the height of its tree and the number of its nodes are bounded, so all that
//! comes after may recurse.

use std::sync::Arc;

use super::{
    ast::{Ast, Entry, Expr, FieldInit, Kind, Literal, Positions, op},
    issues::{CompileError, Issues},
    lexer::{Lexeme, Token, lex},
    literals,
};

/// In code points, as in cel-go.
const MAX_SOURCE_CHARS: usize = 100_000;
/// Of a tree with its macros expanded. cel-go counts each rule of the grammar by itself and allows
/// 250 of each.
pub(crate) const MAX_HEIGHT: u32 = 250;
/// Of parentheses and brackets in each other: each takes more of the stack than a level of the tree.
const MAX_NESTING: u32 = 120;
/// What a macro adds to the height when it is expanded.
const MACRO_HEIGHT: u32 = 4;
const MACROS: &[&str] = &[
    "all",
    "exists",
    "exists_one",
    "existsOne",
    "map",
    "filter",
    "transformList",
    "transformMap",
    "transformMapEntry",
    "bind",
    "optMap",
    "optFlatMap",
    "sortBy",
];

const PRIMARY: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, \
                       NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// Names that no variable may have (CEL specification, "Reserved").
pub(crate) const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Parses an expression. Macros are left as calls.
///
/// # Errors
/// What is malformed, in the words of cel-go where its parser gives a short answer.
pub(crate) fn parse(source: &str) -> Result<Ast, CompileError> {
    let mut issues = Issues::new(source);
    let chars = source.chars().count();
    if chars > MAX_SOURCE_CHARS {
        issues.report_whole(format!(
            "expression code point size exceeds limit: size: {chars}, limit {MAX_SOURCE_CHARS}"
        ));
    }
    let mut parser = Parser {
        source,
        tokens: Vec::new(),
        at: 0,
        positions: Positions::default(),
        issues,
        nesting: 0,
    };
    let mut root = None;
    if parser.issues.is_empty() {
        parser.tokens = lex(source, &mut parser.issues);
        root = parser.whole();
    }
    let Parser { positions, issues, .. } = parser;
    match (issues.into_error(), root) {
        (None, Some(root)) => Ok(Ast { root, positions }),
        (Some(error), _) => Err(error),
        // Whoever gives up reports why.
        (None, None) => Err(CompileError::new(Vec::new())),
    }
}

struct Parser<'s> {
    source: &'s str,
    tokens: Vec<Lexeme>,
    at: usize,
    positions: Positions,
    issues: Issues<'s>,
    nesting: u32,
}

/// A tree and its height; `None` once an error is reported that leaves nothing to go on with.
type Parsed = Option<(Expr, u32)>;

impl Parser<'_> {
    fn whole(&mut self) -> Option<Expr> {
        let (root, _) = self.expr()?;
        if self.token() != Token::End {
            let kind = match self.lookahead(1) {
                Token::End => "extraneous",
                _ => "mismatched",
            };
            return self.unexpected(kind, "<EOF>");
        }
        Some(root)
    }

    fn lexeme(&self) -> Lexeme {
        self.tokens.get(self.at).or(self.tokens.last()).copied().unwrap_or(Lexeme {
            token: Token::End,
            start: self.source.len(),
            end: self.source.len(),
        })
    }

    fn token(&self) -> Token {
        self.lexeme().token
    }

    fn lookahead(&self, ahead: usize) -> Token {
        self.tokens.get(self.at + ahead).map_or(Token::End, |lexeme| lexeme.token)
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.token(), Token::Sign(found) if found == sign)
    }

    fn next(&mut self) -> Lexeme {
        let lexeme = self.lexeme();
        self.at += 1;
        lexeme
    }

    /// Takes the sign if it is next, and says where it was.
    fn take(&mut self, sign: &str) -> Option<usize> {
        self.is(sign).then(|| self.next().start)
    }

    fn expect(&mut self, sign: &'static str) -> Option<usize> {
        let found = self.take(sign);
        if found.is_none() {
            self.unexpected::<()>("mismatched", &format!("'{sign}'"));
        }
        found
    }

    fn text(&self, lexeme: Lexeme) -> &str {
        self.source.get(lexeme.start..lexeme.end).unwrap_or("")
    }

    fn unexpected<T>(&mut self, kind: &str, expected: &str) -> Option<T> {
        let lexeme = self.lexeme();
        let found = if lexeme.token == Token::End { "<EOF>" } else { self.text(lexeme) };
        let message = format!("Syntax error: {kind} input '{found}' expecting {expected}");
        self.issues.report(lexeme.start, message);
        None
    }

    /// A node with children of the given height.
    fn node(&mut self, at: usize, kind: Kind, below: u32) -> Parsed {
        let height = below + 1;
        if height > MAX_HEIGHT {
            return self.too_deep();
        }
        Some((Expr { id: self.positions.add(at), kind }, height))
    }

    fn too_deep<T>(&mut self) -> Option<T> {
        if self.issues.is_empty() {
            self.issues.report_whole(format!("expression recursion limit exceeded: {MAX_HEIGHT}"));
        }
        None
    }

    fn call(&mut self, at: usize, function: &str, args: Vec<(Expr, u32)>) -> Parsed {
        let below = args.iter().map(|(_, height)| *height).max().unwrap_or(0);
        let args = args.into_iter().map(|(arg, _)| arg).collect();
        self.node(at, Kind::Call { function: function.into(), target: None, args }, below)
    }

    fn expr(&mut self) -> Parsed {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return self.too_deep();
        }
        let parsed = self.conditional();
        self.nesting -= 1;
        parsed
    }

    fn conditional(&mut self) -> Parsed {
        let condition = self.binary(OR)?;
        let Some(at) = self.take("?") else { return Some(condition) };
        let yes = self.binary(OR)?;
        self.expect(":")?;
        let no = self.expr()?;
        self.call(at, op::CONDITIONAL, vec![condition, yes, no])
    }

    /// Operators that bind at least as strongly as `level`, by precedence climbing: few frames for
    /// each level of nesting.
    fn binary(&mut self, level: u8) -> Parsed {
        let mut left = self.unary()?;
        while let Some((precedence, function)) = operator(self.token()) {
            if precedence < level {
                break;
            }
            if precedence <= AND {
                left = self.logical(left, precedence, function)?;
                continue;
            }
            let at = self.next().start;
            let right = self.binary(precedence + 1)?;
            left = self.call(at, function, vec![left, right])?;
        }
        Some(left)
    }

    /// A chain of one logical operator, as a balanced tree: these chains are long where expressions
    /// are generated.
    fn logical(&mut self, left: (Expr, u32), precedence: u8, function: &'static str) -> Parsed {
        let mut terms = vec![left];
        let mut signs = Vec::new();
        while operator(self.token()).is_some_and(|(_, found)| found == function) {
            signs.push(self.next().start);
            terms.push(self.binary(precedence + 1)?);
        }
        self.balance(function, &signs, &mut terms.into_iter())
    }

    /// Consumes one more term than there are signs.
    fn balance(
        &mut self,
        function: &str,
        signs: &[usize],
        terms: &mut std::vec::IntoIter<(Expr, u32)>,
    ) -> Parsed {
        let (left, [sign, right @ ..]) = signs.split_at(signs.len() / 2) else {
            return terms.next();
        };
        let left = self.balance(function, left, terms)?;
        let right = self.balance(function, right, terms)?;
        self.call(*sign, function, vec![left, right])
    }

    fn unary(&mut self) -> Parsed {
        let (sign, function) = match self.token() {
            Token::Sign("!") => ("!", op::NOT),
            Token::Sign("-") if !matches!(self.lookahead(1), Token::Int | Token::Float) => {
                ("-", op::NEGATE)
            }
            _ => return self.member(),
        };
        let at = self.lexeme().start;
        let mut count = 0;
        // The minus of a number belongs to the number.
        while self.is(sign)
            && !(sign == "-" && matches!(self.lookahead(1), Token::Int | Token::Float))
        {
            self.next();
            count += 1;
        }
        let operand = self.member()?;
        if count % 2 == 0 { Some(operand) } else { self.call(at, function, vec![operand]) }
    }

    fn member(&mut self) -> Parsed {
        let mut operand = self.primary()?;
        loop {
            if let Some(at) = self.take(".") {
                operand = self.select(at, operand)?;
            } else if let Some(at) = self.take("[") {
                let optional = self.take("?").is_some();
                let index = self.expr()?;
                self.expect("]")?;
                let function = if optional { op::OPT_INDEX } else { op::INDEX };
                operand = self.call(at, function, vec![operand, index])?;
            } else {
                return Some(operand);
            }
        }
    }

    /// What follows the dot at `at`.
    fn select(&mut self, at: usize, operand: (Expr, u32)) -> Parsed {
        let optional = self.take("?").is_some();
        let name = self.next();
        let escaped = match name.token {
            Token::Ident => false,
            Token::EscapedIdent => true,
            // `in`, `true` and the like after a dot are what an author is most likely to get wrong.
            _ => {
                self.at -= 1;
                let found = self.text(name).to_owned();
                let message = match name.token {
                    Token::True | Token::False | Token::Null | Token::In => {
                        format!("Syntax error: mismatched input '{found}' expecting IDENTIFIER")
                    }
                    _ => format!("Syntax error: no viable alternative at input '.{found}'"),
                };
                self.issues.report(name.start, message);
                return None;
            }
        };
        let text = self.text(name);
        let field: Arc<str> = if escaped { text[1..text.len() - 1].into() } else { text.into() };
        if optional {
            let literal = Kind::Literal(Literal::String(field));
            let literal = self.node(name.start, literal, 0)?;
            return self.call(at, op::OPT_SELECT, vec![operand, literal]);
        }
        if !escaped && let Some(open) = self.take("(") {
            let args = self.args()?;
            return self.invoke(open, field, Some(operand), args);
        }
        let (operand, below) = operand;
        let kind = Kind::Select { operand: Box::new(operand), field, test: false };
        self.node(at, kind, below)
    }

    fn invoke(
        &mut self,
        at: usize,
        function: Arc<str>,
        target: Option<(Expr, u32)>,
        args: Vec<(Expr, u32)>,
    ) -> Parsed {
        let below = args.iter().chain(&target).map(|(_, height)| *height).max().unwrap_or(0);
        let extra = if MACROS.contains(&&*function) { MACRO_HEIGHT } else { 0 };
        let target = target.map(|(target, _)| Box::new(target));
        let args = args.into_iter().map(|(arg, _)| arg).collect();
        self.node(at, Kind::Call { function, target, args }, below + extra)
    }

    /// Arguments up to the closing parenthesis.
    fn args(&mut self) -> Option<Vec<(Expr, u32)>> {
        let mut args = Vec::new();
        if self.take(")").is_some() {
            return Some(args);
        }
        loop {
            args.push(self.expr()?);
            if self.take(",").is_none() {
                self.expect(")")?;
                return Some(args);
            }
        }
    }

    fn primary(&mut self) -> Parsed {
        let lexeme = self.lexeme();
        match lexeme.token {
            Token::Ident | Token::Sign(".") => self.name(),
            Token::Sign("(") => {
                self.next();
                let inner = self.expr()?;
                self.expect(")")?;
                Some(inner)
            }
            Token::Sign("[") => self.list(),
            Token::Sign("{") => self.map(),
            Token::Sign("-") if matches!(self.lookahead(1), Token::Int | Token::Float) => {
                self.next();
                self.literal(lexeme.start, "-")
            }
            Token::Int
            | Token::Uint
            | Token::Float
            | Token::String
            | Token::Bytes
            | Token::True
            | Token::False
            | Token::Null => self.literal(lexeme.start, ""),
            _ => self.unexpected("mismatched", PRIMARY),
        }
    }

    fn literal(&mut self, at: usize, sign: &str) -> Parsed {
        let lexeme = self.next();
        let text = self.text(lexeme);
        let literal = match lexeme.token {
            Token::Int => integer(sign, text).map(Literal::Int).ok_or("invalid int literal"),
            Token::Uint => unsigned(text).map(Literal::Uint).ok_or("invalid uint literal"),
            Token::Float => match format!("{sign}{text}").parse::<f64>() {
                Ok(value) if value.is_finite() => Ok(Literal::Double(value)),
                _ => Err("invalid double literal"),
            },
            Token::String => literals::string(text).map(|text| Literal::String(text.into())),
            Token::Bytes => literals::bytes(text).map(|bytes| Literal::Bytes(bytes.into())),
            Token::True => Ok(Literal::Bool(true)),
            Token::False => Ok(Literal::Bool(false)),
            _ => Ok(Literal::Null),
        };
        match literal {
            Ok(literal) => self.node(at, Kind::Literal(literal), 0),
            Err(message) => {
                self.issues.report(at, message);
                None
            }
        }
    }

    /// A variable, a call of a function by its name, or an object.
    fn name(&mut self) -> Parsed {
        let start = self.lexeme().start;
        let leading = self.take(".").is_some();
        if self.token() != Token::Ident {
            return self.unexpected("mismatched", "IDENTIFIER");
        }
        if let Some(signs) = self.object_name() {
            return self.object(leading, signs);
        }
        let lexeme = self.next();
        let text = self.text(lexeme);
        let name: Arc<str> = if leading { format!(".{text}").into() } else { text.into() };
        if RESERVED.contains(&text) {
            let message = format!("reserved identifier: {text}");
            self.issues.report(start, message);
        }
        if let Some(open) = self.take("(") {
            let args = self.args()?;
            return self.invoke(open, name, None, args);
        }
        self.node(start, Kind::Ident(name), 0)
    }

    /// How many tokens make up the type name of an object, if one begins here: names with dots
    /// between them, then a brace.
    fn object_name(&self) -> Option<usize> {
        let mut ahead = 1;
        while self.lookahead(ahead) == Token::Sign(".") && self.lookahead(ahead + 1) == Token::Ident
        {
            ahead += 2;
        }
        (self.lookahead(ahead) == Token::Sign("{")).then_some(ahead)
    }

    fn object(&mut self, leading: bool, name_tokens: usize) -> Parsed {
        let mut name = String::from(if leading { "." } else { "" });
        for _ in 0..name_tokens {
            let lexeme = self.next();
            name.push_str(self.text(lexeme));
        }
        let at = self.expect("{")?;
        let (mut fields, mut below) = (Vec::new(), 0);
        while self.take("}").is_none() {
            let optional = self.take("?").is_some();
            let lexeme = self.next();
            let text = self.text(lexeme);
            let field: Arc<str> = match lexeme.token {
                Token::Ident => text.into(),
                Token::EscapedIdent => text[1..text.len() - 1].into(),
                _ => {
                    self.at -= 1;
                    let expected = "{'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}";
                    return self.unexpected("mismatched", expected);
                }
            };
            let colon = self.expect(":")?;
            let id = self.positions.add(colon);
            let (value, height) = self.expr()?;
            below = below.max(height);
            fields.push(FieldInit { id, name: field, value, optional });
            if self.take(",").is_none() {
                self.expect("}")?;
                break;
            }
        }
        self.node(at, Kind::Struct { name: name.into(), fields }, below)
    }

    fn list(&mut self) -> Parsed {
        let at = self.next().start;
        let (mut items, mut below) = (Vec::new(), 0);
        while self.take("]").is_none() {
            let optional = self.take("?").is_some();
            let (item, height) = self.expr()?;
            below = below.max(height);
            items.push((item, optional));
            if self.take(",").is_none() {
                self.expect("]")?;
                break;
            }
        }
        self.node(at, Kind::List(items), below)
    }

    fn map(&mut self) -> Parsed {
        let at = self.next().start;
        let (mut entries, mut below) = (Vec::new(), 0);
        while self.take("}").is_none() {
            let optional = self.take("?").is_some();
            let (key, key_height) = self.expr()?;
            self.expect(":")?;
            let (value, value_height) = self.expr()?;
            below = below.max(key_height).max(value_height);
            entries.push(Entry { key, value, optional });
            if self.take(",").is_none() {
                self.expect("}")?;
                break;
            }
        }
        self.node(at, Kind::Map(entries), below)
    }
}

const OR: u8 = 0;
const AND: u8 = 1;

/// How strongly a binary operator binds, and its function.
fn operator(token: Token) -> Option<(u8, &'static str)> {
    Some(match token {
        Token::Sign("||") => (OR, op::OR),
        Token::Sign("&&") => (AND, op::AND),
        Token::Sign("<") => (2, op::LESS),
        Token::Sign("<=") => (2, op::LESS_EQUALS),
        Token::Sign(">") => (2, op::GREATER),
        Token::Sign(">=") => (2, op::GREATER_EQUALS),
        Token::Sign("==") => (2, op::EQUALS),
        Token::Sign("!=") => (2, op::NOT_EQUALS),
        Token::In => (2, op::IN),
        Token::Sign("+") => (3, op::ADD),
        Token::Sign("-") => (3, op::SUBTRACT),
        Token::Sign("*") => (4, op::MULTIPLY),
        Token::Sign("/") => (4, op::DIVIDE),
        Token::Sign("%") => (4, op::MODULO),
        _ => return None,
    })
}

fn integer(sign: &str, text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(&format!("{sign}{hex}"), 16).ok(),
        None => format!("{sign}{text}").parse().ok(),
    }
}

fn unsigned(text: &str) -> Option<u64> {
    let text = text.trim_end_matches(['u', 'U']);
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}
