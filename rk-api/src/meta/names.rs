//! The forms that names, labels and the like must have (apimachinery's `util/validation`).
//!
//! Each function returns what is wrong with its argument, in the words of Kubernetes; nothing is
//! wrong when the list is empty.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr},
};

const DNS1123_LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1123_SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";

/// A function of this module that judges the name of an object, see
/// [`Kind::validate_name`](crate::resources::Kind::validate_name).
pub type NameCheck = fn(name: &str, generate_prefix: bool) -> Vec<String>;

/// "must be no more than `max` bytes".
pub fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// "must be between `low` and `high`, inclusive".
pub fn out_of_range(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// A sentence that names the form, examples of it, and the regular expression.
fn form(message: &str, regex: &str, examples: &[&str]) -> String {
    let mut out = message.to_owned();
    if examples.is_empty() {
        return format!("{out} (regex used for validation is '{regex}')");
    }
    out.push_str(" (e.g. ");
    for (i, example) in examples.iter().enumerate() {
        if i > 0 {
            out.push_str(" or ");
        }
        out.push_str(&format!("'{example}', "));
    }
    format!("{out}regex used for validation is '{regex}')")
}

/// A generated name's prefix may end in a dash, since characters follow it.
fn masked(name: &str, generate_prefix: bool) -> Cow<'_, str> {
    match name.strip_suffix('-') {
        Some(start) if generate_prefix && name.len() > 1 => Cow::Owned(format!("{start}a")),
        _ => Cow::Borrowed(name),
    }
}

fn is_lower_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// `text` is not empty, starts and ends with `edge` and has only `inner` between.
fn is_bounded(text: &str, edge: fn(u8) -> bool, inner: fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|b| edge(*b))
        && bytes.last().is_some_and(|b| edge(*b))
        && bytes.iter().all(|b| inner(*b))
}

fn is_dns_label(label: &str) -> bool {
    is_bounded(label, is_lower_alphanumeric, |b| is_lower_alphanumeric(b) || b == b'-')
}

/// A lower-case DNS subdomain (RFC 1123), at most 253 bytes.
pub fn dns_subdomain(name: &str, generate_prefix: bool) -> Vec<String> {
    let name = masked(name, generate_prefix);
    let mut wrong = Vec::new();
    if name.len() > 253 {
        wrong.push(too_long(253));
    }
    if !name.split('.').all(is_dns_label) {
        wrong.push(form(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
             '-' or '.', and must start and end with an alphanumeric character",
            DNS1123_SUBDOMAIN,
            &["example.com"],
        ));
    }
    wrong
}

/// A lower-case DNS label (RFC 1123), at most 63 bytes.
pub fn dns_label(name: &str, generate_prefix: bool) -> Vec<String> {
    let name = masked(name, generate_prefix);
    let mut wrong = Vec::new();
    if name.len() > 63 {
        wrong.push(too_long(63));
    }
    if !is_dns_label(&name) {
        wrong.push(form(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or \
             '-', and must start and end with an alphanumeric character",
            DNS1123_LABEL,
            &["my-name", "123-abc"],
        ));
    }
    wrong
}

/// A DNS label that starts with a letter (RFC 1035), at most 63 bytes.
pub fn dns1035_label(name: &str, generate_prefix: bool) -> Vec<String> {
    let name = masked(name, generate_prefix);
    let mut wrong = Vec::new();
    if name.len() > 63 {
        wrong.push(too_long(63));
    }
    let starts_well = name.as_bytes().first().is_some_and(u8::is_ascii_lowercase);
    if !starts_well || !is_dns_label(&name) {
        wrong.push(form(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start \
             with an alphabetic character, and end with an alphanumeric character",
            "[a-z]([-a-z0-9]*[a-z0-9])?",
            &["my-name", "abc-123"],
        ));
    }
    wrong
}

/// A DNS subdomain whose first label may be `*`.
pub fn wildcard_dns_subdomain(name: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if name.len() > 253 {
        wrong.push(too_long(253));
    }
    let rest = name.strip_prefix("*.");
    if !rest.is_some_and(|rest| rest.split('.').all(is_dns_label)) {
        wrong.push(form(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS \
             subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and \
             end with an alphanumeric character",
            &format!("\\*\\.{DNS1123_SUBDOMAIN}"),
            &["*.example.com"],
        ));
    }
    wrong
}

/// A name that only has to be safe as one segment of a URL's path.
pub fn path_segment(name: &str, generate_prefix: bool) -> Vec<String> {
    if !generate_prefix {
        for forbidden in [".", ".."] {
            if name == forbidden {
                return vec![format!("may not be '{forbidden}'")];
            }
        }
    }
    ["/", "%"]
        .iter()
        .filter(|part| name.contains(**part))
        .map(|part| format!("may not contain '{part}'"))
        .collect()
}

/// A label key and the like: at most 63 of letters, digits, `-`, `_`, `.`, perhaps behind a DNS
/// subdomain and a slash.
pub fn qualified_name(name: &str) -> Vec<String> {
    const REGEX: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
    const MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must \
                           start and end with an alphanumeric character";
    const EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
    let mut wrong = Vec::new();
    let local = match name.split_once('/') {
        None => name,
        Some((prefix, local)) if !local.contains('/') => {
            if prefix.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            } else {
                let prefix = dns_subdomain(prefix, false);
                wrong.extend(prefix.into_iter().map(|message| format!("prefix part {message}")));
            }
            local
        }
        Some(_) => {
            return vec![format!(
                "a qualified name {} with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')",
                form(MESSAGE, REGEX, EXAMPLES)
            )];
        }
    };
    if local.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else if local.len() > 63 {
        wrong.push(format!("name part {}", too_long(63)));
    }
    if !is_bounded(local, |b| b.is_ascii_alphanumeric(), is_name_byte) {
        wrong.push(format!("name part {}", form(MESSAGE, REGEX, EXAMPLES)));
    }
    wrong
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// A label value: empty, or at most 63 of letters, digits, `-`, `_`, `.`.
pub fn label_value(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > 63 {
        wrong.push(too_long(63));
    }
    if !value.is_empty() && !is_bounded(value, |b| b.is_ascii_alphanumeric(), is_name_byte) {
        wrong.push(form(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', \
             '_' or '.', and must start and end with an alphanumeric character",
            "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?",
            &["MyValue", "my_value", "12345"],
        ));
    }
    wrong
}

/// The name of an environment variable: printable ASCII without `=`.
pub fn env_var_name(name: &str) -> Vec<String> {
    if !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        return Vec::new();
    }
    vec![form(
        "a valid environment variable name must consist only of printable ASCII characters other \
         than '='",
        "[ -<>-~]+",
        &["MY_ENV_NAME", "my-env.name"],
    )]
}

/// The key of a ConfigMap or Secret: a plain file name.
pub fn config_key(key: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if key.len() > 253 {
        wrong.push(too_long(253));
    }
    if key.is_empty() || !key.bytes().all(is_name_byte) {
        wrong.push(form(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match key {
        "." => wrong.push("must not be '.'".to_owned()),
        ".." => wrong.push("must not be '..'".to_owned()),
        key if key.starts_with("..") => wrong.push("must not start with '..'".to_owned()),
        _ => {}
    }
    wrong
}

/// The name of a port: at most 15 of `a-z`, `0-9` and single dashes, with a letter (RFC 6335).
pub fn port_name(name: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if name.len() > 15 {
        wrong.push(too_long(15));
    }
    if name.is_empty() || !name.bytes().all(|b| is_lower_alphanumeric(b) || b == b'-') {
        wrong.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        wrong.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        wrong.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        wrong.push("must not begin or end with a hyphen".to_owned());
    }
    wrong
}

/// A port number: 1 to 65535.
pub fn port_number(port: i32) -> Vec<String> {
    in_range(i64::from(port), 1, 65535)
}

/// `value` is at least `low` and at most `high`.
pub fn in_range(value: i64, low: i64, high: i64) -> Vec<String> {
    if (low..=high).contains(&value) { Vec::new() } else { vec![out_of_range(low, high)] }
}

/// A percentage such as `25%`.
pub fn percent(text: &str) -> Vec<String> {
    let digits = text.strip_suffix('%').unwrap_or("");
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Vec::new();
    }
    vec![form(
        "a valid percent string must be a numeric string followed by an ending '%'",
        "[0-9]+%",
        &["1%", "93%"],
    )]
}

/// The name of an HTTP header.
pub fn http_header_name(name: &str) -> Vec<String> {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    vec![form(
        "a valid HTTP header must consist of alphanumeric characters or '-'",
        "[-A-Za-z0-9]+",
        &["X-Header-Name"],
    )]
}

/// A name with at least two dots' worth of domain, such as `example.com/name`'s prefix: a DNS
/// subdomain of three labels or more.
pub fn fully_qualified_name(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["name is required".to_owned()];
    }
    let mut wrong = dns_subdomain(name, false);
    if wrong.is_empty() && name.split('.').count() < 3 {
        wrong.push("should be a domain with at least three segments separated by dots".to_owned());
    }
    wrong
}

/// A domain, a slash and a path, such as `example.com/my-finalizer`.
pub fn domain_prefixed_path(path: &str) -> Vec<String> {
    let Some((host, path)) = path.split_once('/') else {
        return vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()];
    };
    if host.is_empty() || path.is_empty() {
        return vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()];
    }
    let mut wrong: Vec<String> = dns_subdomain(host, false)
        .into_iter()
        .map(|message| format!("prefix part {message}"))
        .collect();
    let good = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !path.bytes().all(good) {
        wrong.push(format!(
            "name part {}",
            form("must be a valid URL path", "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+", &["my/path"])
        ));
    }
    wrong
}

/// The reason of a condition: a word in camel case, or several.
pub fn condition_reason(reason: &str) -> Vec<String> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"_,:".contains(&b);
    let ends = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = reason.as_bytes();
    let is_good = bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(|b| ends(*b))
        && bytes.iter().all(|b| inner(*b));
    if is_good {
        return Vec::new();
    }
    vec![form(
        "a condition reason must start with alphabetic character, optionally followed by a string \
         of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'",
        "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
        &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
    )]
}

pub use super::addresses::{cidr, ip};

/// An address as Kubernetes reads it today: no leading zeros, no IPv4-mapped IPv6.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse().ok().filter(|ip| match ip {
        IpAddr::V6(ip) => ip.to_ipv4_mapped().is_none(),
        IpAddr::V4(_) => true,
    })
}

/// A block of addresses such as `10.0.0.0/8`: the address and the length of its prefix.
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address = parse_ip(address)?;
    let prefix_len: u8 = prefix.parse().ok().filter(|_| !prefix.starts_with('+'))?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    (prefix_len <= max).then_some((address, prefix_len))
}

/// An address that an endpoint may have: not unspecified, loopback, link-local or multicast.
pub fn endpoint_ip(address: IpAddr) -> Vec<String> {
    let mut wrong = Vec::new();
    if address.is_unspecified() {
        wrong.push(format!("may not be unspecified ({address})"));
    }
    if address.is_loopback() {
        wrong.push("may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned());
    }
    let link_local = |ip: &Ipv4Addr| ip.is_link_local();
    let link_local_multicast = match &address {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    };
    if match &address {
        IpAddr::V4(ip) => link_local(ip),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    } {
        wrong.push("may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned());
    }
    if link_local_multicast {
        wrong.push(
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned(),
        );
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(form: impl Fn(&str) -> Vec<String>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(form(text), Vec::<String>::new(), "{text:?} is good");
        }
        for text in bad {
            assert_ne!(form(text), Vec::<String>::new(), "{text:?} is bad");
        }
    }

    #[test]
    fn names_have_their_forms() {
        let long = "a".repeat(64);
        let subdomain = |name: &str| dns_subdomain(name, false);
        check(subdomain, &["a", "a.b", "0-1.x", &long], &["", "A", "a..b", "-a", "a-", ".a"]);
        check(|name| dns_subdomain(name, true), &["a-", "a"], &["", "-", "A-"]);
        check(|name| dns_label(name, false), &["a", "0"], &["a.b", &long, ""]);
        check(|name| dns1035_label(name, false), &["a", "a0"], &["0a", "a.b"]);
        check(
            qualified_name,
            &["a", "a.b/C_d", "A"],
            &["", "a/", "/a", "a/b/c", "A/b", "-", &long],
        );
        check(label_value, &["", "a", "A_b.c"], &["-a", "a b", &long]);
        check(config_key, &["a", ".a", "a..b"], &["", ".", "..", "..a", "a b"]);
        check(port_name, &["http", "a-1"], &["", "80", "HTTP", "a--b", "a-", "abcdefghijklmnop"]);
        check(env_var_name, &["A", "a.b-c", "1"], &["", "a=b", "ä"]);
        check(|name| path_segment(name, false), &["a:b", "A"], &[".", "..", "a/b", "%"]);
        check(ip, &["10.0.0.1", "::1"], &["010.0.0.1", "1.2.3", "::ffff:1.2.3.4", ""]);
        check(cidr, &["10.0.0.0/8", "::/0"], &["10.0.0.0", "10.0.0.0/33", "a/8"]);
    }

    #[test]
    fn messages_give_the_form_and_examples() {
        assert_eq!(
            dns_label("A", false),
            ["a lowercase RFC 1123 label must consist of lower case alphanumeric characters or \
                 '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or \
                 '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"]
        );
    }
}
