//! Bootstrap tokens: Secrets of kube-system by which new nodes introduce themselves.

use async_trait::async_trait;
use http::request::Parts;
use k8s_openapi::{api::core::v1::Secret, jiff::Timestamp};

use super::{AuthenticationError, Authenticator, bearer_token};
use crate::{
    clock,
    server::{reader::Reader, user::UserInfo},
};

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;

/// Takes users `system:bootstrap:<id>` from tokens `<id>.<secret>`, as long as a Secret
/// `bootstrap-token-<id>` says so.
#[derive(Debug)]
pub(in crate::server) struct BootstrapTokens(pub(in crate::server) Reader);

#[async_trait]
impl Authenticator for BootstrapTokens {
    async fn authenticate(&self, request: &Parts) -> Result<Option<UserInfo>, AuthenticationError> {
        let Some(token) = bearer_token(request) else { return Ok(None) };
        let Some((id, secret)) = split(&token) else { return Ok(None) };
        let name = format!("bootstrap-token-{id}");
        let found = self.0.get::<Secret>(Some(NAMESPACE), &name).await;
        let found = found.map_err(|error| AuthenticationError(error.message))?;
        Ok(found.and_then(|found| user(&found, id, secret, clock::now())))
    }
}

/// The parts of a token, if it has the form of one.
fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let fits = |part: &str, length: usize| {
        part.len() == length
            && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    (fits(id, ID_LENGTH) && fits(secret, SECRET_LENGTH)).then_some((id, secret))
}

/// Whom a Secret makes of somebody who knows these parts; nobody unless everything is right.
fn user(found: &Secret, id: &str, secret: &str, now: Timestamp) -> Option<UserInfo> {
    let text = |key: &str| {
        let value = found.data.as_ref()?.get(key)?;
        std::str::from_utf8(&value.0).ok()
    };
    let right = found.metadata.deletion_timestamp.is_none()
        && found.type_.as_deref() == Some(TYPE)
        && text("token-id") == Some(id)
        && text("token-secret").is_some_and(|known| same(known, secret))
        && text("usage-bootstrap-authentication") == Some("true");
    let expired = match text("expiration") {
        None | Some("") => false,
        // One that cannot be read has expired.
        Some(at) => at.parse::<Timestamp>().map_or(true, |at| at <= now),
    };
    if !right || expired {
        return None;
    }
    let mut groups = vec![GROUP];
    for extra in text("auth-extra-groups").unwrap_or_default().split(',') {
        let extra = extra.trim();
        if extra.is_empty() {
            continue;
        }
        if !is_group(extra) {
            return None;
        }
        groups.push(extra);
    }
    Some(UserInfo::new(&format!("system:bootstrap:{id}"), groups))
}

/// Compares in the same time however much is right.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |wrong, (a, b)| wrong | (a ^ b)) == 0
}

/// Only groups below `system:bootstrappers:` can be given by a Secret.
fn is_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let inner = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b':' || byte == b'-'
    };
    let end = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    rest.len() <= 256 && rest.bytes().all(inner) && rest.bytes().last().is_some_and(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "abcdef";
    const SECRET: &str = "0123456789abcdef";

    fn secret(changes: &[(&str, &str)]) -> Secret {
        let mut data = serde_json::json!({
            "token-id": ID,
            "token-secret": SECRET,
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:workers",
            "expiration": "2030-01-01T00:00:00Z",
        });
        for (key, value) in changes {
            data[*key] = (*value).into();
        }
        let data = data.as_object().unwrap().iter().map(|(key, value)| {
            let value = value.as_str().unwrap().as_bytes().to_vec();
            (key.clone(), k8s_openapi::ByteString(value))
        });
        Secret { data: Some(data.collect()), type_: Some(TYPE.into()), ..Default::default() }
    }

    fn ask(changes: &[(&str, &str)]) -> Option<UserInfo> {
        user(&secret(changes), ID, SECRET, "2026-01-01T00:00:00Z".parse().unwrap())
    }

    #[test]
    fn a_good_token_is_a_bootstrapper() {
        let user = ask(&[]).unwrap();
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert!(user.is_in("system:bootstrappers") && user.is_in("system:bootstrappers:workers"));
    }

    #[test]
    fn a_wrong_expired_or_unusable_one_is_nobody() {
        for change in [
            ("token-secret", "0123456789abcdeg"),
            ("token-id", "abcdeg"),
            ("usage-bootstrap-authentication", "false"),
            ("expiration", "2025-01-01T00:00:00Z"),
            ("expiration", "soon"),
            ("auth-extra-groups", "system:masters"),
        ] {
            assert_eq!(ask(&[change]), None, "{change:?}");
        }
    }

    #[test]
    fn other_tokens_are_none_of_its() {
        for token in ["", "abcdef", "abcdef.short", "ABCDEF.0123456789abcdef", "a.b.c"] {
            assert_eq!(split(token), None, "{token}");
        }
        assert_eq!(split("abcdef.0123456789abcdef"), Some((ID, SECRET)));
    }
}
