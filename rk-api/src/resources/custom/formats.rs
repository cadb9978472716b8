//! Formats of strings and numbers that kube-apiserver checks; it ignores all others
//! (apiextensions' `validation/formats.go`, with the meanings of `go-openapi/strfmt`).

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::OnceLock,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::jiff::{Timestamp, civil::Date};
use regex::Regex;
use serde_json::{Number, Value};

use super::schema::Kind;
use crate::meta::names;

/// A format that means something.
#[derive(Clone, Debug)]
pub(crate) struct Format {
    /// As the definition has it.
    pub name: Box<str>,
    check: Check,
}

#[derive(Clone, Copy, Debug)]
enum Check {
    /// For documentation only.
    Anything,
    Text(fn(&str) -> bool),
    Int32,
    /// A number: every one that JSON can hold is.
    Number,
}

impl Format {
    /// The format of this name for values of a type; `None` when it means nothing there.
    pub(super) fn of(name: &str, kind: Option<Kind>) -> Option<Self> {
        let check = match (kind, name) {
            (Some(Kind::Integer), "int32") => Check::Int32,
            (Some(Kind::Integer), "int64") | (Some(Kind::Number), "float" | "double") => {
                Check::Number
            }
            (None | Some(Kind::String), name) => text(name)?,
            _ => return None,
        };
        Some(Self { name: name.into(), check })
    }

    /// Whether the format is one of strings.
    pub(super) fn is_of_strings(&self) -> bool {
        matches!(self.check, Check::Text(_) | Check::Anything)
    }

    /// Whether a value has it. Values of types that it is not about do.
    pub(super) fn accepts(&self, value: &Value) -> bool {
        match (self.check, value) {
            (Check::Text(check), Value::String(text)) => check(text),
            (Check::Int32, Value::Number(number)) => is_int32(number),
            _ => true,
        }
    }
}

fn is_int32(number: &Number) -> bool {
    match number.as_i64() {
        Some(whole) => i32::try_from(whole).is_ok(),
        None => number.as_f64().is_some_and(|value| value.abs() <= f64::from(i32::MAX)),
    }
}

/// Dashes in names do not count, but for Kubernetes' own.
fn text(name: &str) -> Option<Check> {
    Some(Check::Text(match name.replace('-', "").as_str() {
        "bsonobjectid" => |text| text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
        "uri" => is_uri,
        "email" => is_email,
        "hostname" => is_hostname,
        "ipv4" => |text| text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => |text| text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => |text| names::parse_cidr(text).is_some(),
        "mac" => is_mac,
        "uuid" => |text| is_uuid(text, None, false),
        "uuid3" => |text| is_uuid(text, Some(b'3'), false),
        "uuid4" => |text| is_uuid(text, Some(b'4'), true),
        "uuid5" => |text| is_uuid(text, Some(b'5'), true),
        "isbn" => |text| is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10,
        "isbn13" => is_isbn13,
        "creditcard" => is_credit_card,
        "ssn" => |text| matches(&SSN, r"^\d{3}[- ]?\d{2}[- ]?\d{4}$", text),
        "hexcolor" => |text| matches(&HEX_COLOR, "^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$", text),
        "rgbcolor" => is_rgb_color,
        "byte" => |text| BASE64_STANDARD.decode(text.replace(['\r', '\n'], "")).is_ok(),
        "password" => return Some(Check::Anything),
        "date" => |text| text.len() == 10 && text.parse::<Date>().is_ok(),
        "duration" => is_duration,
        "datetime" => is_date_time,
        "k8sshortname" => |text| names::dns_label(text, false).is_empty(),
        "k8slongname" => |text| names::dns_subdomain(text, false).is_empty(),
        _ => return None,
    }))
}

static SSN: OnceLock<Option<Regex>> = OnceLock::new();
static HEX_COLOR: OnceLock<Option<Regex>> = OnceLock::new();
static DURATION: OnceLock<Option<Regex>> = OnceLock::new();
static CREDIT_CARD: OnceLock<Option<Regex>> = OnceLock::new();
static RGB_COLOR: OnceLock<Option<Regex>> = OnceLock::new();
static HOSTNAME: OnceLock<Option<Regex>> = OnceLock::new();

fn matches(regex: &OnceLock<Option<Regex>>, pattern: &str, text: &str) -> bool {
    regex.get_or_init(|| Regex::new(pattern).ok()).as_ref().is_some_and(|it| it.is_match(text))
}

/// An absolute URI, or an absolute path.
fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
        return false;
    }
    let is_scheme = |scheme: &str| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    };
    text.starts_with('/') || text.split_once(':').is_some_and(|(scheme, _)| is_scheme(scheme))
}

/// An address, with or without a name before it.
fn is_email(text: &str) -> bool {
    let address = match (text.find('<'), text.strip_suffix('>')) {
        (Some(at), Some(inner)) => &inner[at + 1..],
        _ => text,
    };
    let is_atom = |part: &str| {
        !part.is_empty()
            && part.split('.').all(|word| {
                !word.is_empty()
                    && !word.contains(|c: char| c.is_whitespace() || "()<>[]:;@\\,\"".contains(c))
            })
    };
    address.rsplit_once('@').is_some_and(|(local, domain)| {
        let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
        (quoted || is_atom(local)) && is_atom(domain)
    })
}

fn is_hostname(text: &str) -> bool {
    const PATTERN: &str = r"^([a-zA-Z0-9\p{L}]([a-zA-Z0-9\p{L}-]{0,61}[a-zA-Z0-9\p{L}])?\.)*[a-zA-Z0-9\p{L}]([a-zA-Z0-9\p{L}-]{0,61}[a-zA-Z0-9\p{L}])?\.?$";
    text.len() <= 255 && matches(&HOSTNAME, PATTERN, text)
}

/// 6, 8 or 20 bytes in pairs of digits with colons or dashes, or in fours with dots.
fn is_mac(text: &str) -> bool {
    let parts = |separator: char, digits: usize, counts: [usize; 3]| {
        let parts: Vec<_> = text.split(separator).collect();
        counts.contains(&parts.len())
            && parts.iter().all(|part| {
                part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit())
            })
    };
    parts(':', 2, [6, 8, 20]) || parts('-', 2, [6, 8, 20]) || parts('.', 4, [3, 4, 10])
}

fn is_uuid(text: &str, version: Option<u8>, checks_variant: bool) -> bool {
    let mut rest = text;
    let mut digits = Vec::with_capacity(32);
    for (group, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if group > 0 {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        let Some((part, left)) = rest.split_at_checked(length) else { return false };
        if !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return false;
        }
        digits.extend(part.bytes());
        rest = left;
    }
    rest.is_empty()
        && version.is_none_or(|version| digits[12] == version)
        && (!checks_variant || b"89abAB".contains(&digits[16]))
}

fn isbn_digits(text: &str) -> Vec<u8> {
    text.bytes().filter(|byte| !b" -".contains(byte)).collect()
}

fn is_isbn10(text: &str) -> bool {
    let digits = isbn_digits(text);
    let value = |at: usize| match digits[at] {
        b'X' | b'x' if at == 9 => Some(10),
        digit if digit.is_ascii_digit() => Some(u32::from(digit - b'0')),
        _ => None,
    };
    digits.len() == 10
        && (0..10)
            .try_fold(0, |sum, at| Some(sum + (10 - at as u32) * value(at)?))
            .is_some_and(|sum| sum % 11 == 0)
}

fn is_isbn13(text: &str) -> bool {
    let digits = isbn_digits(text);
    let sum = |sum: u32, (at, digit): (usize, &u8)| {
        let digit = digit.is_ascii_digit().then(|| u32::from(digit - b'0'))?;
        Some(sum + digit * if at % 2 == 0 { 1 } else { 3 })
    };
    digits.len() == 13
        && digits.iter().enumerate().try_fold(0, sum).is_some_and(|sum| sum % 10 == 0)
}

fn is_credit_card(text: &str) -> bool {
    const PATTERN: &str = r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35\d{3})\d{11})$";
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let luhn = |(at, digit): (usize, u8)| {
        let digit = u32::from(digit - b'0') * if at % 2 == 0 { 1 } else { 2 };
        digit / 10 + digit % 10
    };
    matches(&CREDIT_CARD, PATTERN, &digits)
        && digits.bytes().rev().enumerate().map(luhn).sum::<u32>() % 10 == 0
}

fn is_rgb_color(text: &str) -> bool {
    const PATTERN: &str = r"^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$";
    matches(&RGB_COLOR, PATTERN, text)
}

/// Go's durations such as `1h30m`, and `3 days` as Scala writes them.
fn is_duration(text: &str) -> bool {
    const PATTERN: &str = r"^[-+]?((\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))+$|^0$|^\s*\d+(\.\d+)?\s*(n|ns|nano|nanos|nanosecond|nanoseconds|us|µs|micro|micros|microsecond|microseconds|ms|milli|millis|millisecond|milliseconds|s|sec|secs|second|seconds|m|min|mins|minute|minutes|h|hr|hrs|hour|hours|d|day|days|w|wk|wks|week|weeks)\s*$";
    matches(&DURATION, PATTERN, text)
}

/// RFC 3339, section 5.6, with the zone that it demands.
fn is_date_time(text: &str) -> bool {
    let zoned = text.ends_with(['Z', 'z'])
        || text.len() > 19 && text.as_bytes()[text.len() - 6..].iter().any(|b| b"+-".contains(b));
    text.is_ascii() && zoned && text.parse::<Timestamp>().is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(name: &str, good: &[&str], bad: &[&str]) {
        let format = Format::of(name, Some(Kind::String)).unwrap();
        for text in good {
            assert!(format.accepts(&json!(text)), "{name} {text}");
        }
        for text in bad {
            assert!(!format.accepts(&json!(text)), "{name} {text}");
        }
    }

    #[test]
    fn strings_have_formats() {
        check(
            "date-time",
            &["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.5+02:00"],
            &["yesterday", ""],
        );
        check("date", &["2026-01-02"], &["2026-13-02", "2026-01-02T00:00:00Z"]);
        check("ipv4", &["10.0.0.1"], &["10.0.0", "::1"]);
        check("ipv6", &["::1"], &["10.0.0.1"]);
        check("cidr", &["10.0.0.0/8"], &["10.0.0.0"]);
        check("mac", &["00:00:5e:00:53:01", "0000.5e00.5301"], &["00:00:5e"]);
        check("uuid", &["936da01f-9abd-4d9d-80c7-02af85c822a8"], &["936da01f"]);
        check(
            "uuid4",
            &["936da01f-9abd-4d9d-80c7-02af85c822a8"],
            &["936da01f-9abd-5d9d-80c7-02af85c822a8"],
        );
        check("isbn", &["0321751043", "978-0321751041"], &["0321751044"]);
        check("email", &["a@example.com", "A B <a@example.com>"], &["a", "@b", "a b@c"]);
        check("hostname", &["example.com", "a"], &["-a", "a..b"]);
        check("uri", &["http://example.com", "/path"], &["a b", "example"]);
        check("byte", &["YQ=="], &["?"]);
        check("duration", &["1h30m", "22 ns", "3 days"], &["soon", "3"]);
        check("hexcolor", &["#fff"], &["#ggg"]);
        check("creditcard", &["4111 1111 1111 1111"], &["4111 1111 1111 1112"]);
        check("ssn", &["111-11-1111"], &["11"]);
        check("k8s-short-name", &["a-b"], &["a.b"]);
        assert!(Format::of("unheard-of", Some(Kind::String)).is_none());
        assert!(Format::of("date", Some(Kind::Integer)).is_none());
    }

    #[test]
    fn a_small_integer_fits_in_32_bits() {
        let format = Format::of("int32", Some(Kind::Integer)).unwrap();
        assert!(format.accepts(&json!(7)) && !format.accepts(&json!(3_000_000_000_u64)));
    }
}
