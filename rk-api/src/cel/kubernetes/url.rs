//! URLs, as Go's `net/url` reads them (RFC 3986, less strict).

use std::sync::Arc;

use super::{LibraryValue, Result, wrong};
use crate::cel::{
    EvalError, Value,
    functions::{Cost, Function, function, global, method, text},
    types::{Library, Type},
};

/// A URL in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    raw: String,
    scheme: String,
    /// With the port.
    host: String,
    /// With its escapes.
    path: String,
    query: String,
}

impl Url {
    /// Reads an absolute URL, or an absolute path.
    ///
    /// # Errors
    /// What is malformed, in Go's words.
    pub fn parse(raw: &str) -> std::result::Result<Self, String> {
        let bad = |why: &str| format!("parse {raw:?}: {why}");
        if raw.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err(bad("net/url: invalid control character in URL"));
        }
        if raw.is_empty() {
            return Err(bad("empty url"));
        }
        let (body, _fragment) = raw.split_once('#').unwrap_or((raw, ""));
        let (scheme, rest) = scheme(body).map_err(bad)?;
        if scheme.is_empty() && !rest.starts_with('/') {
            return Err(bad("invalid URI for request"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut url = Self {
            raw: raw.to_owned(),
            scheme: scheme.to_ascii_lowercase(),
            host: String::new(),
            path: String::new(),
            query: query.to_owned(),
        };
        if !rest.starts_with('/') {
            // An opaque one, such as `mailto:a@b`.
            return Ok(url);
        }
        let mut path = rest;
        if let Some(rest) = rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
            let end = rest.find('/').unwrap_or(rest.len());
            let (authority, tail) = rest.split_at(end);
            url.host = host(authority).map_err(|why| bad(&why))?;
            path = tail;
        }
        check_escapes(path).map_err(|why| bad(&why))?;
        url.path = escape_path(path);
        Ok(url)
    }

    fn port(&self) -> &str {
        let after = self.host.rfind(']').map_or(0, |bracket| bracket + 1);
        match self.host[after..].rsplit_once(':') {
            Some((_, port)) => port,
            None => "",
        }
    }

    fn hostname(&self) -> &str {
        if let Some(inner) = self.host.strip_prefix('[')
            && let Some((address, _)) = inner.split_once(']')
        {
            return address;
        }
        self.host.rsplit_once(':').map_or(&*self.host, |(host, _)| host)
    }

    /// All values by their names; malformed pairs are left out.
    fn query_values(&self) -> std::collections::BTreeMap<String, Vec<String>> {
        let mut values: std::collections::BTreeMap<String, Vec<String>> = Default::default();
        for pair in self.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if let (Some(key), Some(value)) = (unescape_query(key), unescape_query(value)) {
                values.entry(key).or_default().push(value);
            }
        }
        values
    }
}

fn scheme(raw: &str) -> std::result::Result<(&str, &str), &'static str> {
    for (at, c) in raw.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if at > 0 => {}
            ':' if at == 0 => return Err("missing protocol scheme"),
            ':' => return Ok((&raw[..at], &raw[at + 1..])),
            _ => break,
        }
    }
    Ok(("", raw))
}

/// The host with its port, without a user in front.
fn host(authority: &str) -> std::result::Result<String, String> {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let port = if host.starts_with('[') {
        let Some((_, port)) = host.rsplit_once(']') else {
            return Err("missing ']' in host".to_owned());
        };
        port
    } else {
        host.find(':').map_or("", |colon| &host[colon..])
    };
    if !port.is_empty() {
        let digits = port.strip_prefix(':');
        if !digits.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit())) {
            return Err(format!("invalid port {port:?} after host"));
        }
    }
    if let Some(bad) = host
        .chars()
        .find(|c| matches!(c, ' ' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '}' | '|'))
    {
        return Err(format!("invalid character {:?} in host name", bad.to_string()));
    }
    check_escapes(host)?;
    Ok(host.to_owned())
}

fn check_escapes(text: &str) -> std::result::Result<(), String> {
    for (at, _) in text.match_indices('%') {
        let escape: String = text[at..].chars().take(3).collect();
        if escape.len() != 3 || !escape.bytes().skip(1).all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("invalid URL escape {escape:?}"));
        }
    }
    Ok(())
}

/// A path with escapes for all that must have one.
fn escape_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(char::from(byte)),
            b'-' | b'_' | b'.' | b'~' | b'$' | b'&' | b'+' | b',' | b'/' | b':' | b';' | b'='
            | b'@' | b'!' | b'\'' | b'(' | b')' | b'*' | b'[' | b']' | b'%' => {
                out.push(char::from(byte));
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn unescape_query(text: &str) -> Option<String> {
    check_escapes(text).ok()?;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

pub(super) fn functions() -> Vec<Function> {
    use Type::{Bool, String};
    let url = Type::Library(Library::Url);
    macro_rules! part {
        ($name:literal, $id:literal, $get:expr) => {
            function(
                $name,
                Cost::One,
                |_, args| match args {
                    [Value::Library(LibraryValue::Url(url))] => Ok(Value::string($get(url))),
                    _ => wrong(),
                },
                vec![method($id, vec![url.clone()], String, Cost::One)],
            )
        };
    }
    vec![
        function(
            "url",
            Cost::Url,
            |_, args| parse(args),
            vec![global("string_to_url", vec![String], url.clone(), Cost::Url)],
        ),
        function(
            "isURL",
            Cost::One,
            |_, args| match args {
                [value] => Ok(Value::Bool(Url::parse(text(value)?).is_ok())),
                _ => wrong(),
            },
            vec![global("is_url_string", vec![String], Bool, Cost::One)],
        ),
        part!("getScheme", "url_get_scheme", |url: &Url| url.scheme.clone()),
        part!("getHost", "url_get_host", |url: &Url| url.host.clone()),
        part!("getHostname", "url_get_hostname", |url: &Url| url.hostname().to_owned()),
        part!("getPort", "url_get_port", |url: &Url| url.port().to_owned()),
        part!("getEscapedPath", "url_get_escaped_path", |url: &Url| url.path.clone()),
        function(
            "getQuery",
            Cost::One,
            |_, args| match args {
                [Value::Library(LibraryValue::Url(url))] => {
                    Ok(Value::map(url.query_values().into_iter().map(|(key, values)| {
                        (key.into(), Value::list(values.into_iter().map(Value::string).collect()))
                    })))
                }
                _ => wrong(),
            },
            vec![method(
                "url_get_query",
                vec![url],
                Type::map(String, Type::list(String)),
                Cost::One,
            )],
        ),
    ]
}

fn parse<'a>(args: &[Value<'a>]) -> Result<'a> {
    let [value] = args else { return wrong() };
    match Url::parse(text(value)?) {
        Ok(url) => Ok(Value::Library(LibraryValue::Url(Arc::new(url)))),
        Err(error) => {
            let message = format!("URL parse error during conversion from string: {error}");
            Err(EvalError::new(message))
        }
    }
}
