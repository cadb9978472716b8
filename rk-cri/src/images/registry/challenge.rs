//! `WWW-Authenticate` (RFC 9110, section 11.6.1): what a registry wants to be shown.

/// How a registry asks for credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password.
    Basic,
    /// A token from the service at `realm`.
    Bearer { realm: String, service: String, scope: String },
}

/// The challenges in one header that are understood; others are passed over.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut rest = header;
    let mut scheme = String::new();
    let mut parameters: Vec<(String, String)> = Vec::new();
    loop {
        // An equals sign may be the padding of a token of another scheme.
        rest = rest.trim_start_matches([' ', '\t', ',', '=']);
        if rest.is_empty() {
            break;
        }
        let (word, after) = token(rest);
        if word.is_empty() {
            // Not a header that anybody could read: what was understood before counts.
            break;
        }
        let after_space = after.trim_start_matches([' ', '\t']);
        if let Some(value) = after_space.strip_prefix('=').filter(|_| !scheme.is_empty()) {
            let (value, after) = parameter(value.trim_start_matches([' ', '\t']));
            parameters.push((word.to_ascii_lowercase(), value));
            rest = after;
        } else {
            challenges.extend(challenge(&scheme, &parameters));
            scheme = word.to_ascii_lowercase();
            parameters.clear();
            rest = after;
        }
    }
    challenges.extend(challenge(&scheme, &parameters));
    challenges
}

fn challenge(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let get = |name: &str| {
        let found = parameters.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" if !get("realm").is_empty() => Some(Challenge::Bearer {
            realm: get("realm"),
            service: get("service"),
            scope: get("scope"),
        }),
        _ => None,
    }
}

fn token(text: &str) -> (&str, &str) {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c);
    text.split_at(text.find(|c| !is_token(c)).unwrap_or(text.len()))
}

/// A parameter's value, quoted or not, and what follows it.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = token(text);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bearer(realm: &str, service: &str, scope: &str) -> Challenge {
        let [realm, service, scope] = [realm, service, scope].map(str::to_owned);
        Challenge::Bearer { realm, service, scope }
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        #[track_caller]
        fn check(header: &str, expected: &[Challenge]) {
            assert_eq!(parse(header), expected, "{header}");
        }
        check(r#"Basic realm="Registry Realm""#, &[Challenge::Basic]);
        check("basic", &[Challenge::Basic]);
        check(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull""#,
            &[bearer(
                "https://auth.docker.io/token",
                "registry.docker.io",
                "repository:library/busybox:pull",
            )],
        );
        check(
            r#"Bearer realm = "https://a/t" , error="invalid_token", Basic realm="x, y""#,
            &[bearer("https://a/t", "", ""), Challenge::Basic],
        );
        check(r#"Negotiate abc==, bearer service=s"#, &[]);
        check(r#"Bearer realm="a\"b"#, &[bearer("a\"b", "", "")]);
        check("", &[]);
    }

    proptest! {
        #[test]
        fn any_header_is_read_to_its_end(header in ".{0,200}") {
            let _ = parse(&header);
        }

        #[test]
        fn what_is_quoted_comes_back(realm in "[ -~]{1,40}", scope in "[ -~]{0,40}") {
            let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
            let header = format!("Bearer realm=\"{}\", scope=\"{}\"", quote(&realm), quote(&scope));
            prop_assert_eq!(parse(&header), [bearer(&realm, "", &scope)]);
        }
    }
}
