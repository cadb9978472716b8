//! Source text to tokens (CEL specification, "Syntax").

use super::issues::Issues;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// An operator, bracket or other sign.
    Sign(&'static str),
    /// A name, also a reserved one.
    Ident,
    /// A name between backquotes.
    EscapedIdent,
    Int,
    Uint,
    Float,
    String,
    Bytes,
    True,
    False,
    Null,
    In,
    End,
}

/// A token, and where its text is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lexeme {
    pub token: Token,
    pub start: usize,
    pub end: usize,
}

/// Longest first, so that `<=` is not read as `<`.
const SIGNS: &[&str] = &[
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!",
    "?", ":", "+", "*", "/", "%",
];

/// All tokens of `source`, the last of them [`Token::End`]. Text that is no token is reported and
/// left out.
pub(crate) fn lex(source: &str, issues: &mut Issues<'_>) -> Vec<Lexeme> {
    let mut lexer = Lexer { source, bytes: source.as_bytes(), at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blank();
        let start = lexer.at;
        if start >= source.len() {
            tokens.push(Lexeme { token: Token::End, start, end: start });
            return tokens;
        }
        match lexer.token() {
            Some(token) => tokens.push(Lexeme { token, start, end: lexer.at }),
            None => {
                lexer.at = lexer.at.max(start + lexer.char_len(start));
                let text = &source[start..lexer.at];
                issues.report(start, format!("Syntax error: token recognition error at: '{text}'"));
            }
        }
    }
}

struct Lexer<'s> {
    source: &'s str,
    bytes: &'s [u8],
    at: usize,
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn char_len(&self, at: usize) -> usize {
        self.source[at..].chars().next().map_or(1, char::len_utf8)
    }

    fn skip_blank(&mut self) {
        loop {
            match self.peek(0) {
                b' ' | b'\t' | b'\r' | b'\n' | 0x0c => self.at += 1,
                b'/' if self.peek(1) == b'/' => {
                    let rest = &self.bytes[self.at..];
                    self.at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
                }
                _ => return,
            }
        }
    }

    fn token(&mut self) -> Option<Token> {
        let first = self.peek(0);
        if let Some(token) = self.string() {
            return token;
        }
        if first.is_ascii_digit() || (first == b'.' && self.peek(1).is_ascii_digit()) {
            return Some(self.number());
        }
        if first.is_ascii_alphabetic() || first == b'_' {
            return Some(self.name());
        }
        if first == b'`' {
            return self.escaped_name();
        }
        let sign = SIGNS.iter().find(|sign| self.bytes[self.at..].starts_with(sign.as_bytes()))?;
        self.at += sign.len();
        Some(Token::Sign(sign))
    }

    fn name(&mut self) -> Token {
        let start = self.at;
        while self.peek(0).is_ascii_alphanumeric() || self.peek(0) == b'_' {
            self.at += 1;
        }
        match &self.source[start..self.at] {
            "true" => Token::True,
            "false" => Token::False,
            "null" => Token::Null,
            "in" => Token::In,
            _ => Token::Ident,
        }
    }

    fn escaped_name(&mut self) -> Option<Token> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.-/ ".contains(&b);
        let length = self.bytes[self.at + 1..].iter().take_while(|b| allowed(**b)).count();
        if length == 0 || self.peek(1 + length) != b'`' {
            return None;
        }
        self.at += length + 2;
        Some(Token::EscapedIdent)
    }

    fn digits(&mut self, allowed: fn(&u8) -> bool) {
        self.at += self.bytes[self.at..].iter().take_while(|b| allowed(b)).count();
    }

    fn number(&mut self) -> Token {
        let mut float = false;
        if self.peek(0) == b'0' && self.peek(1) == b'x' && self.peek(2).is_ascii_hexdigit() {
            self.at += 2;
            self.digits(u8::is_ascii_hexdigit);
        } else {
            self.digits(u8::is_ascii_digit);
            if self.peek(0) == b'.' && self.peek(1).is_ascii_digit() {
                float = true;
                self.at += 1;
                self.digits(u8::is_ascii_digit);
            }
            if matches!(self.peek(0), b'e' | b'E') {
                let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
                if self.peek(1 + sign).is_ascii_digit() {
                    float = true;
                    self.at += 1 + sign;
                    self.digits(u8::is_ascii_digit);
                }
            }
        }
        if !float && matches!(self.peek(0), b'u' | b'U') {
            self.at += 1;
            return Token::Uint;
        }
        if float { Token::Float } else { Token::Int }
    }

    /// A string or bytes literal, if one begins here: `None` if not, `Some(None)` if it is malformed.
    fn string(&mut self) -> Option<Option<Token>> {
        let mut ahead = 0;
        let bytes = matches!(self.peek(ahead), b'b' | b'B');
        ahead += usize::from(bytes);
        let raw = matches!(self.peek(ahead), b'r' | b'R');
        ahead += usize::from(raw);
        let quote = self.peek(ahead);
        if !matches!(quote, b'"' | b'\'') {
            return None;
        }
        let triple = self.peek(ahead + 1) == quote && self.peek(ahead + 2) == quote;
        self.at += ahead + if triple { 3 } else { 1 };
        loop {
            let byte = self.peek(0);
            if self.at >= self.bytes.len() || (!triple && matches!(byte, b'\n' | b'\r')) {
                return Some(None);
            }
            if byte == b'\\' && !raw {
                match escape_len(&self.bytes[self.at..]) {
                    Some(length) => self.at += length,
                    None => {
                        self.at += 1;
                        self.at += self.source.get(self.at..).map_or(0, |_| self.char_len(self.at));
                        self.at = self.at.min(self.bytes.len());
                        return Some(None);
                    }
                }
            } else if byte == quote && !triple {
                self.at += 1;
                break;
            } else if byte == quote && self.peek(1) == quote && self.peek(2) == quote {
                self.at += 3;
                break;
            } else {
                self.at += self.char_len(self.at);
            }
        }
        Some(Some(if bytes { Token::Bytes } else { Token::String }))
    }
}

/// The length of the escape sequence at the start of `text`, if it is one.
fn escape_len(text: &[u8]) -> Option<usize> {
    let all = |count: usize, allowed: fn(&u8) -> bool| {
        let digits = text.get(2..2 + count)?;
        digits.iter().all(allowed).then_some(2 + count)
    };
    match text.get(1)? {
        b'a' | b'b' | b'f' | b'n' | b'r' | b't' | b'v' | b'"' | b'\'' | b'\\' | b'?' | b'`' => {
            Some(2)
        }
        b'x' | b'X' => all(2, u8::is_ascii_hexdigit),
        b'u' => all(4, u8::is_ascii_hexdigit),
        b'U' => all(8, u8::is_ascii_hexdigit),
        b'0'..=b'3' => all(2, |b| (b'0'..=b'7').contains(b)),
        _ => None,
    }
}
