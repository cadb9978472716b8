//! Which credentials are for which image: the files that `docker login` writes, as Secrets.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

use crate::runtime::RegistryAuth;

/// Where Docker keeps what is for its own registry.
const DOCKER_HUB: &str = "index.docker.io";

/// Credentials by the images they are for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keyring {
    /// Key and credentials, those of longer keys of the same host first.
    entries: Vec<(Key, RegistryAuth)>,
}

/// A host, which may have `*` in its parts, with port and the beginning of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    host: String,
    port: Option<String>,
    path: String,
}

#[derive(Debug, Deserialize)]
struct DockerConfigJson {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

impl Keyring {
    /// The credentials of these Secrets; those of other types, and those that cannot be read, have
    /// none.
    pub(crate) fn of<'a>(secrets: impl IntoIterator<Item = &'a Secret>) -> Self {
        let mut entries: Vec<(Key, RegistryAuth)> = Vec::new();
        for secret in secrets {
            let data = |key: &str| secret.data.as_ref()?.get(key).map(|data| data.0.as_slice());
            let auths = match secret.type_.as_deref() {
                Some("kubernetes.io/dockerconfigjson") => data(".dockerconfigjson")
                    .and_then(|bytes| serde_json::from_slice::<DockerConfigJson>(bytes).ok())
                    .map(|config| config.auths),
                Some("kubernetes.io/dockercfg") => {
                    data(".dockercfg").and_then(|bytes| serde_json::from_slice(bytes).ok())
                }
                _ => None,
            };
            for (location, entry) in auths.into_iter().flatten() {
                if let (Some(key), Some(auth)) = (Key::parse(&location), entry.auth()) {
                    entries.push((key, auth));
                }
            }
        }
        Self::sorted(entries)
    }

    /// The credentials of a file that `docker login` writes (`config.json`); none if it cannot be read
    /// as such.
    pub(crate) fn of_file(text: &[u8]) -> Self {
        let config = serde_json::from_slice::<DockerConfigJson>(text);
        let auths = config.map(|config| config.auths).unwrap_or_default().into_iter();
        let logins = auths.filter_map(|(location, entry)| Some((location, entry.auth()?)));
        Self::of_logins(logins)
    }

    /// Credentials by what they are for.
    pub(crate) fn of_logins(logins: impl IntoIterator<Item = (String, RegistryAuth)>) -> Self {
        let entry = |(location, auth): (String, _)| Some((Key::parse(&location)?, auth));
        Self::sorted(logins.into_iter().filter_map(entry).collect())
    }

    fn sorted(mut entries: Vec<(Key, RegistryAuth)>) -> Self {
        // The more exact come first; among equals the order stays.
        entries.sort_by_key(|(key, _)| std::cmp::Reverse(key.text()));
        Self { entries }
    }

    /// All credentials that may be for an image, the most likely first. `repository` is its whole
    /// name without tag and digest: `docker.io/library/busybox`.
    pub(crate) fn candidates(&self, repository: &str) -> Vec<RegistryAuth> {
        let Some(image) = Key::parse(repository) else { return Vec::new() };
        let mut found = self.select(|key| key.matches(&image));
        // Docker Hub's images and its credentials go by different names.
        if found.is_empty() && image.host == "docker.io" {
            found = self.select(|key| key.host == DOCKER_HUB);
        }
        found
    }

    fn select(&self, which: impl Fn(&Key) -> bool) -> Vec<RegistryAuth> {
        let mut found = Vec::new();
        for (key, auth) in &self.entries {
            if which(key) && !found.contains(auth) {
                found.push(auth.clone());
            }
        }
        found
    }
}

/// Whether a pattern such as `*.example.com/team` is for a repository.
pub(crate) fn is_for(pattern: &str, repository: &str) -> bool {
    match (Key::parse(pattern), Key::parse(repository)) {
        (Some(pattern), Some(repository)) => pattern.matches(&repository),
        _ => false,
    }
}

impl Entry {
    /// What it says; `None` when it says nothing.
    fn auth(self) -> Option<RegistryAuth> {
        let (mut username, mut password) = (self.username, self.password);
        if !self.auth.is_empty() {
            // Some tools leave the padding out.
            let text = self.auth.trim().trim_end_matches('=');
            let decoded = base64::engine::general_purpose::STANDARD_NO_PAD
                .decode(text)
                .or_else(|_| STANDARD.decode(self.auth.trim()))
                .ok()?;
            let decoded = String::from_utf8(decoded).ok()?;
            let (name, secret) = decoded.split_once(':')?;
            // Docker on Windows fills up with zeros.
            (username, password) = (name.to_owned(), secret.trim_matches('\0').to_owned());
        }
        let auth = RegistryAuth {
            username,
            password,
            identity_token: self.identitytoken,
            registry_token: self.registrytoken,
        };
        (auth != RegistryAuth::default()).then_some(auth)
    }
}

impl Key {
    fn parse(location: &str) -> Option<Self> {
        let rest = location.strip_prefix("https://").or_else(|| location.strip_prefix("http://"));
        let rest = rest.unwrap_or(location);
        let (host, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        // Docker's keys have the API's version where the others have a path.
        let path = path.strip_prefix("/v1/").or_else(|| path.strip_prefix("/v2/")).unwrap_or(path);
        let path = path.trim_start_matches('/');
        let path = if path == "v1" || path == "v2" { "" } else { path };
        let (host, port) = match host.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port.to_owned())),
            _ => (host, None),
        };
        if host.is_empty() {
            return None;
        }
        Some(Self { host: host.to_ascii_lowercase(), port, path: path.to_owned() })
    }

    fn text(&self) -> String {
        let port = self.port.as_ref().map(|port| format!(":{port}")).unwrap_or_default();
        let slash = if self.path.is_empty() { "" } else { "/" };
        format!("{}{port}{slash}{}", self.host, self.path)
    }

    /// Whether it is for `image`: the same port, as many parts of the host, each of which fits, and
    /// the beginning of the path.
    fn matches(&self, image: &Self) -> bool {
        let (own, others) = (self.host.split('.'), image.host.split('.'));
        self.port == image.port
            && own.clone().count() == others.clone().count()
            && own.zip(others).all(|(glob, part)| fits(glob.as_bytes(), part.as_bytes()))
            && image.path.starts_with(&self.path)
    }
}

/// Whether `text` is what `glob` describes, with `*` for any and `?` for one character.
fn fits(glob: &[u8], text: &[u8]) -> bool {
    // Where to go on when the last star has to take one more character.
    let (mut at, mut from, mut star) = (0, 0, None);
    while from < text.len() {
        match glob.get(at) {
            Some(b'*') => {
                star = Some((at + 1, from));
                at += 1;
            }
            Some(c) if *c == b'?' || *c == text[from] => {
                at += 1;
                from += 1;
            }
            _ => match star {
                Some((after, taken)) => {
                    star = Some((after, taken + 1));
                    (at, from) = (after, taken + 1);
                }
                None => return false,
            },
        }
    }
    glob[at..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn secret(type_: &str, key: &str, content: &Value) -> Secret {
        Secret {
            type_: Some(type_.to_owned()),
            data: Some([(key.to_owned(), ByteString(content.to_string().into_bytes()))].into()),
            ..Secret::default()
        }
    }

    fn ring(auths: &Value) -> Keyring {
        let content = json!({"auths": auths});
        Keyring::of([&secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", &content)])
    }

    fn users(ring: &Keyring, repository: &str) -> Vec<String> {
        ring.candidates(repository).into_iter().map(|auth| auth.username).collect()
    }

    #[test]
    fn credentials_are_found_by_host_port_and_path() {
        #[track_caller]
        fn check(key: &str, repository: &str, expected: bool) {
            let ring = ring(&json!({key: {"username": "u", "password": "p"}}));
            assert_eq!(users(&ring, repository).len(), usize::from(expected), "{key} {repository}");
        }
        check("registry.example", "registry.example/app", true);
        check("https://registry.example/v2/", "registry.example/app", true);
        check("registry.example", "registry.example:5000/app", false);
        check("registry.example:5000", "registry.example:5000/app", true);
        check("registry.example/team", "registry.example/team/app", true);
        check("registry.example/team", "registry.example/other/app", false);
        check("*.example", "registry.example/app", true);
        check("*.example", "a.registry.example/app", false);
        check("*.*.example", "a.registry.example/app", true);
        check("reg*y.example", "registry.example/app", true);
        check("*.example:5000", "registry.example/app", false);
        check("example", "registry.example/app", false);
        check("https://index.docker.io/v1/", "docker.io/library/busybox", true);
        check("docker.io", "docker.io/library/busybox", true);
        check("https://index.docker.io/v1/", "quay.io/app", false);
    }

    #[test]
    fn the_more_exact_key_is_tried_first_and_none_twice() {
        let ring = ring(&json!({
            "registry.example": {"username": "host", "password": "p"},
            "registry.example/team": {"username": "team", "password": "p"},
            "registry.example/team/app": {"username": "app", "password": "p"},
            "https://registry.example": {"username": "host", "password": "p"},
        }));
        assert_eq!(users(&ring, "registry.example/team/app"), ["app", "team", "host"]);
        assert_eq!(users(&ring, "registry.example/team/other"), ["team", "host"]);
    }

    #[test]
    fn both_types_of_secrets_and_both_ways_to_write_them_are_read() {
        let auth = STANDARD.encode("alice:se:cret");
        for auth in [auth.as_str(), auth.trim_end_matches('=')] {
            let ring = ring(&json!({"r.example": {"auth": auth}}));
            let found = ring.candidates("r.example/app").remove(0);
            assert_eq!((found.username.as_str(), found.password.as_str()), ("alice", "se:cret"));
        }
        let old = json!({"r.example": {"username": "bob", "password": "p", "email": "b@example"}});
        let ring = Keyring::of([&secret("kubernetes.io/dockercfg", ".dockercfg", &old)]);
        assert_eq!(users(&ring, "r.example/app"), ["bob"]);
        let opaque = secret("Opaque", ".dockerconfigjson", &json!({"auths": old}));
        assert_eq!(Keyring::of([&opaque]), Keyring::default());
    }

    #[test]
    fn what_cannot_be_read_is_no_credential() {
        for bad in [
            json!({"r": {"auth": "%%%"}}),
            json!({"r": {"auth": STANDARD.encode("no colon")}}),
            json!({"r": {}}),
            json!({"": {"username": "u"}}),
            json!({"r": {"username": 1}}),
            json!([]),
        ] {
            assert_eq!(ring(&bad), Keyring::default(), "{bad}");
        }
    }

    fn slow(glob: &[u8], text: &[u8]) -> bool {
        match glob.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|at| slow(rest, &text[at..])),
            Some((c, rest)) => text
                .split_first()
                .is_some_and(|(t, text)| (*c == b'?' || c == t) && slow(rest, text)),
        }
    }

    proptest! {
        #[test]
        fn a_glob_fits_what_the_obvious_matcher_says(glob in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            prop_assert_eq!(fits(glob.as_bytes(), text.as_bytes()), slow(glob.as_bytes(), text.as_bytes()));
        }
    }
}
