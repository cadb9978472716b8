//! The grammar of label selectors: `key`, `!key`, `key=v`, `key in (a,b)`, joined by commas.

use super::{LabelOperator, LabelRequirement, SelectorError, names};

const OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word,
    In,
    NotIn,
    Not,
    Equals,
    NotEquals,
    Greater,
    Less,
    Open,
    Close,
    Comma,
    Unknown,
    End,
}

/// Whether `in` and `notin` are words (where a key or value stands) or operators.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Value,
    Operator,
}

struct Parser<'a> {
    tokens: Vec<(Token, &'a str)>,
    at: usize,
}

pub(super) fn parse(text: &str) -> Result<Vec<LabelRequirement>, SelectorError> {
    Parser { tokens: scan(text), at: 0 }.requirements().map_err(SelectorError)
}

fn is_symbol(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | '>' | '<' | ',')
}

fn symbol(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "=" | "==" => Token::Equals,
        ">" => Token::Greater,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "(" => Token::Open,
        _ => return None,
    })
}

fn scan(text: &str) -> Vec<(Token, &str)> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t', '\r', '\n']);
    while let Some(first) = rest.chars().next() {
        let (token, length) = if is_symbol(first) {
            // The longest symbol: no symbol has more than two characters.
            let two = rest.get(..2).and_then(symbol).map(|token| (token, 2));
            two.or_else(|| symbol(&rest[..1]).map(|token| (token, 1)))
                .unwrap_or((Token::Unknown, 1))
        } else {
            let is_end = |c: char| is_symbol(c) || matches!(c, ' ' | '\t' | '\r' | '\n');
            let length = rest.find(is_end).unwrap_or(rest.len());
            match &rest[..length] {
                "in" => (Token::In, length),
                "notin" => (Token::NotIn, length),
                _ => (Token::Word, length),
            }
        };
        tokens.push((token, &rest[..length]));
        rest = rest[length..].trim_start_matches([' ', '\t', '\r', '\n']);
    }
    tokens
}

impl<'a> Parser<'a> {
    fn peek(&self, place: Place) -> (Token, &'a str) {
        match self.tokens.get(self.at) {
            Some((Token::In | Token::NotIn, text)) if place == Place::Value => (Token::Word, text),
            Some((token, text)) => (token.clone(), text),
            None => (Token::End, ""),
        }
    }

    fn next(&mut self, place: Place) -> (Token, &'a str) {
        let token = self.peek(place);
        self.at += 1;
        token
    }

    fn requirements(&mut self) -> Result<Vec<LabelRequirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek(Place::Value) {
                (Token::Word | Token::Not, _) => {
                    let requirement = self
                        .requirement()
                        .map_err(|wrong| format!("unable to parse requirement: {wrong}"))?;
                    requirements.push(requirement);
                    match self.next(Place::Value) {
                        (Token::End, _) => return Ok(requirements),
                        (Token::Comma, _) => match self.peek(Place::Value) {
                            (Token::Word | Token::Not, _) => {}
                            (_, text) => {
                                return Err(format!(
                                    "found '{text}', expected: identifier after ','"
                                ));
                            }
                        },
                        (_, text) => {
                            return Err(format!(
                                "found '{text}', expected: ',' or 'end of string'"
                            ));
                        }
                    }
                }
                (Token::End, _) => return Ok(requirements),
                (_, text) => {
                    return Err(format!(
                        "found '{text}', expected: !, identifier, or 'end of string'"
                    ));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<LabelRequirement, String> {
        let mut token = self.next(Place::Value);
        let negated = token.0 == Token::Not;
        if negated {
            token = self.next(Place::Value);
        }
        let (Token::Word, key) = token else {
            return Err(format!("found '{}', expected: identifier", token.1));
        };
        check_key(key)?;
        let ends = matches!(self.peek(Place::Value).0, Token::End | Token::Comma);
        let operator = match (negated, ends) {
            (true, _) => LabelOperator::DoesNotExist,
            (false, true) => LabelOperator::Exists,
            (false, false) => self.operator(key)?,
        };
        Ok(LabelRequirement { key: key.to_owned(), operator })
    }

    fn operator(&mut self, key: &str) -> Result<LabelOperator, String> {
        let (token, text) = self.next(Place::Operator);
        match token {
            Token::In => self.values(key).map(LabelOperator::In),
            Token::NotIn => self.values(key).map(LabelOperator::NotIn),
            Token::Equals => self.value(key).map(LabelOperator::Equals),
            Token::NotEquals => self.value(key).map(LabelOperator::NotEquals),
            Token::Greater => integer(&self.value(key)?).map(LabelOperator::GreaterThan),
            Token::Less => integer(&self.value(key)?).map(LabelOperator::LessThan),
            _ => Err(format!("found '{text}', expected: {OPERATORS}")),
        }
    }

    fn value(&mut self, key: &str) -> Result<String, String> {
        let (token, _) = self.peek(Place::Value);
        if matches!(token, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.next(Place::Value) {
            (Token::Word, value) => {
                check_value(key, 0, value)?;
                Ok(value.to_owned())
            }
            (_, text) => Err(format!("found '{text}', expected: identifier")),
        }
    }

    /// `(a,b)`. A comma without a word beside it stands for the empty value.
    fn values(&mut self, key: &str) -> Result<Vec<String>, String> {
        let (token, text) = self.next(Place::Value);
        if token != Token::Open {
            return Err(format!("found '{text}' expected: '('"));
        }
        let mut values: Vec<&str> = Vec::new();
        let mut after_word = false;
        loop {
            let (token, text) = self.next(Place::Value);
            match token {
                Token::Word if !after_word => {
                    values.push(text);
                    after_word = true;
                }
                Token::Comma => {
                    if !after_word {
                        values.push("");
                    }
                    if self.peek(Place::Value).0 == Token::Close {
                        values.push("");
                    }
                    after_word = false;
                }
                Token::Close => break,
                _ if after_word => return Err(format!("found '{text}', expected: ',' or ')'")),
                _ if values.is_empty() => {
                    return Err(format!("found '{text}', expected: ',', ')' or identifier"));
                }
                _ => return Err(format!("found '{text}', expected: ',', or identifier")),
            }
        }
        if values.is_empty() {
            return Err(
                "values: Invalid value: []: for 'in', 'notin' operators, values set can't \
                        be empty"
                    .to_owned(),
            );
        }
        values.sort_unstable();
        values.dedup();
        for (i, value) in values.iter().enumerate() {
            check_value(key, i, value)?;
        }
        Ok(values.into_iter().map(str::to_owned).collect())
    }
}

fn check_key(key: &str) -> Result<(), String> {
    match names::qualified_name(key) {
        wrong if wrong.is_empty() => Ok(()),
        wrong => Err(format!("<nil>: Invalid value: {key:?}: {}", wrong.join("; "))),
    }
}

fn check_value(key: &str, index: usize, value: &str) -> Result<(), String> {
    match names::label_value(value) {
        wrong if wrong.is_empty() => Ok(()),
        wrong => {
            Err(format!("values[{index}][{key}]: Invalid value: {value:?}: {}", wrong.join("; ")))
        }
    }
}

fn integer(value: &str) -> Result<i64, String> {
    value.parse().map_err(|_| {
        format!(
            "values[0]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an \
             integer"
        )
    })
}
