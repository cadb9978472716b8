//! The query of a request.

use std::str::FromStr;

/// Names and values in their order, decoded.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self(pairs.collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a flag is set under any of its names: the kubelet's own, or the API's.
    pub(super) fn flag(&self, names: &[&str]) -> bool {
        names.iter().any(|name| matches!(self.get(name), Some("1" | "true" | "True" | "")))
    }

    /// A number; `Err` is what is wrong with it.
    pub(super) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        match self.get(name).filter(|value| !value.is_empty()) {
            None => Ok(None),
            Some(value) => {
                value.parse().map(Some).map_err(|_| format!("invalid value {value:?} of {name}"))
            }
        }
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[at], escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_decoded() {
        let query = Query::parse(
            "command=sh&command=-c&command=echo+a%26b%20%2b&tty=1&stdin=true&x&tail=7%",
        );
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "echo a&b +"]);
        assert!(query.flag(&["tty"]) && query.flag(&["input", "stdin"]) && !query.flag(&["error"]));
        assert_eq!(query.get("tail"), Some("7%"));
        assert_eq!(query.number::<u32>("y"), Ok(None));
        assert!(query.number::<u32>("tail").is_err());
    }
}
