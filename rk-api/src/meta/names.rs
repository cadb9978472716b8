//! The forms that names, labels and the like must have (apimachinery's `util/validation`).

/// What is wrong with `name` as a DNS subdomain (RFC 1123); nothing when the list is empty.
/// A `generate_prefix` may end in a dash, since characters follow it.
pub fn dns_subdomain(name: &str, generate_prefix: bool) -> Vec<String> {
    let name = if generate_prefix { name.strip_suffix('-').unwrap_or(name) } else { name };
    let mut wrong = Vec::new();
    if name.len() > 253 {
        wrong.push("must be no more than 253 bytes".to_owned());
    }
    let label = |label: &str| {
        let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = label.as_bytes();
        bytes.first().is_some_and(|b| alphanumeric(*b))
            && bytes.last().is_some_and(|b| alphanumeric(*b))
            && bytes.iter().all(|b| alphanumeric(*b) || *b == b'-')
    };
    if !name.split('.').all(label) {
        wrong.push(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
             '-' or '.', and must start and end with an alphanumeric character (e.g. \
             'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .to_owned(),
        );
    }
    wrong
}
