//! Continue tokens: where the next page of a list begins, and as of when.
//!
//! Encoded as kube-apiserver encodes them (`storage/continue.go`), so that a list can go on at
//! another server.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use rk_store::Revision;
use serde::{Deserialize, Serialize};

use crate::{
    patch::wording,
    server::status::{ApiError, Result},
};

const VERSION: &str = "meta.k8s.io/v1";

/// Go's `RawURLEncoding`: no padding, and bits left over at the end are not looked at.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Continuation {
    /// The version of the first page; `None` goes on with the latest one, which is not consistent
    /// with the pages before.
    pub revision: Option<Revision>,
    /// The last key of the page before.
    pub after: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Encoded {
    #[serde(rename = "v")]
    api_version: String,
    /// -1 for the latest.
    #[serde(rename = "rv")]
    revision: i64,
    /// The first key that may follow, below the list's prefix.
    start: String,
}

impl Continuation {
    /// The token for a list of keys that begin with `prefix`.
    pub(super) fn encode(&self, prefix: &str) -> String {
        let revision = self.revision.and_then(|revision| i64::try_from(revision.0).ok());
        let encoded = Encoded {
            api_version: VERSION.to_owned(),
            revision: revision.unwrap_or(-1),
            start: format!("{}\0", self.after.strip_prefix(prefix).unwrap_or(&self.after)),
        };
        // A struct of strings and a number always serialises.
        BASE64.encode(serde_json::to_vec(&encoded).unwrap_or_default())
    }

    /// What a token says to a list of keys that begin with `prefix`.
    ///
    /// # Errors
    /// 400, in kube-apiserver's words.
    pub(super) fn decode(token: &str, prefix: &str) -> Result<Self> {
        let invalid = |why: String| {
            let message = format!("invalid continue token: continue key is not valid: {why}");
            Err(ApiError::bad_request(message))
        };
        let json = match BASE64.decode(token) {
            Ok(json) => json,
            Err(_) => return invalid(illegal_base64(token)),
        };
        let encoded: Encoded = match serde_json::from_slice(&json) {
            Ok(encoded) => encoded,
            Err(error) => return invalid(wording::json_error(&json, &error).to_string()),
        };
        let Encoded { api_version, revision, start } = encoded;
        if api_version != VERSION {
            return invalid(format!(
                "server does not recognize this encoded version {api_version}"
            ));
        }
        if revision == 0 {
            return invalid(format!("incorrect encoded start resourceVersion (version {VERSION})"));
        }
        if start.is_empty() {
            return invalid(format!("encoded start key empty (version {VERSION})"));
        }
        if !is_clean(&start) {
            return invalid(start);
        }
        let start = start.strip_prefix('/').unwrap_or(&start);
        Ok(Self {
            revision: u64::try_from(revision).ok().map(Revision),
            // The token names the first key that may follow, and pages go on after a key.
            after: format!("{prefix}{}", start.trim_end_matches('\0')),
        })
    }
}

/// Whether a path stays below where it begins and is written in the shortest way: a token must not
/// lead a client to keys that it did not list.
fn is_clean(path: &str) -> bool {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.is_empty() || path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// What Go says of text that is no base64.
fn illegal_base64(text: &str) -> String {
    let is_symbol = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let at = text.bytes().position(|byte| !is_symbol(&byte));
    format!("illegal base64 data at input byte {}", at.unwrap_or(text.len().saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PREFIX: &str = "/registry/pods/";

    fn encoded(json: &str) -> String {
        BASE64.encode(json)
    }

    #[track_caller]
    fn check(token: &str, why: &str) {
        let error = Continuation::decode(token, PREFIX).unwrap_err();
        assert_eq!(error.code, 400);
        let message = format!("invalid continue token: continue key is not valid: {why}");
        assert_eq!(error.message, message);
    }

    #[test]
    fn a_token_says_where_to_go_on_and_as_of_when() {
        let page =
            Continuation { revision: Some(Revision(7)), after: "/registry/pods/a/b".to_owned() };
        let token = page.encode(PREFIX);
        let json = BASE64.decode(&token).unwrap();
        assert_eq!(json, br#"{"v":"meta.k8s.io/v1","rv":7,"start":"a/b\u0000"}"#);
        assert_eq!(Continuation::decode(&token, PREFIX).unwrap(), page);
    }

    #[test]
    fn what_is_no_token_is_refused_as_kube_apiserver_does() {
        check("abc=", "illegal base64 data at input byte 3");
        check("a!c", "illegal base64 data at input byte 1");
        check("abcde", "illegal base64 data at input byte 4");
        check(
            &encoded(r#"{"v":"v2","rv":1,"start":"a"}"#),
            "server does not recognize this encoded version v2",
        );
        check(
            &encoded(r#"{"v":"meta.k8s.io/v1","start":"a"}"#),
            "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
        );
        check(
            &encoded(r#"{"v":"meta.k8s.io/v1","rv":1}"#),
            "encoded start key empty (version meta.k8s.io/v1)",
        );
        for path in ["../secrets/a", "a/../../b", "a//b", "./a", "a/"] {
            check(&encoded(&format!(r#"{{"v":"meta.k8s.io/v1","rv":1,"start":"{path}"}}"#)), path);
        }
    }

    #[test]
    fn a_negative_version_is_the_latest() {
        let token = encoded(r#"{"v":"meta.k8s.io/v1","rv":-1,"start":"a/b\u0000"}"#);
        let page = Continuation::decode(&token, PREFIX).unwrap();
        assert_eq!(page, Continuation { revision: None, after: "/registry/pods/a/b".to_owned() });
        assert_eq!(page.encode(PREFIX), token);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            parts in proptest::collection::vec("[a-z0-9.-]{0,3}[a-z0-9]", 1..4),
            revision in proptest::option::of(1_u64..1 << 62),
        ) {
            let after = format!("{PREFIX}{}", parts.join("/"));
            let page = Continuation { revision: revision.map(Revision), after };
            prop_assert_eq!(Continuation::decode(&page.encode(PREFIX), PREFIX).unwrap(), page);
        }

        #[test]
        fn no_text_leads_out_of_the_prefix(text in any::<String>(), start in any::<String>()) {
            let json = serde_json::json!({ "v": VERSION, "rv": 1, "start": start }).to_string();
            for token in [text, encoded(&json)] {
                if let Ok(page) = Continuation::decode(&token, PREFIX) {
                    prop_assert!(page.after.starts_with(PREFIX));
                    prop_assert!(!page.after.split('/').any(|part| part == ".."));
                }
            }
        }
    }
}
