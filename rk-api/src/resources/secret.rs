//! Secret.

#[cfg(feature = "server")]
mod tls;

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret, jiff::Timestamp};
use serde_json::{Value, json};

use super::{
    Column, Fields, Kind, Part, Resource,
    check::{Errors, default_text, text},
    row::Row,
};
use crate::{
    field::{ErrorList, FieldError, Path},
    meta::{
        names,
        table::{age, name},
    },
};

/// The row of Secret.
pub(super) fn row() -> Resource {
    Row::of::<Secrets>().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Type", "string", "What the Secret is for."),
    Column::new("Data", "string", "How many keys it has."),
    Column::AGE,
];

/// All values of a Secret or ConfigMap together.
pub(super) const DATA_MAX_BYTES: usize = 1 << 20;
const REDACTED: &str = "<secret contents redacted>";

/// How a Secret behaves.
#[derive(Debug, Default)]
pub(super) struct Secrets;

impl Kind for Secrets {
    type Object = Secret;

    /// Also moves `stringData`, which is only there to be written, into `data`.
    fn default(secret: &mut Secret) {
        default_text(&mut secret.type_, "Opaque");
        if let Some(texts) = secret.string_data.take() {
            let data = secret.data.get_or_insert_default();
            data.extend(texts.into_iter().map(|(k, text)| (k, ByteString(text.into_bytes()))));
        }
    }

    fn validate(secret: &Secret) -> ErrorList {
        let path = Path::new("data");
        let mut errors = Errors::default();
        let none = BTreeMap::new();
        let data = secret.data.as_ref().unwrap_or(&none);
        for key in data.keys() {
            errors.form(&path.key(key), key.as_str(), names::config_key(key));
        }
        if data.values().map(|value| value.0.len()).sum::<usize>() > DATA_MAX_BYTES {
            errors.push(FieldError::too_long(&path, DATA_MAX_BYTES));
        }
        of_type(&mut errors, secret, data, &path);
        errors.0
    }

    fn validate_update(new: &Secret, old: &Secret, _: Part) -> ErrorList {
        let mut errors = Errors::default();
        errors.immutable(&Path::new("type"), &text(&new.type_), &text(&old.type_));
        if old.immutable == Some(true) {
            let immutable = "field is immutable when `immutable` is set";
            if new.immutable != Some(true) {
                errors.forbidden(&Path::new("immutable"), immutable);
            }
            if new.data != old.data {
                errors.forbidden(&Path::new("data"), immutable);
            }
        }
        errors.0
    }

    #[cfg(feature = "server")]
    fn warnings(secret: &Secret, _: Option<&Secret>) -> Vec<String> {
        let value = |key: &str| {
            let data = secret.data.as_ref().and_then(|data| data.get(key));
            data.map_or(&[][..], |value| value.0.as_slice())
        };
        match text(&secret.type_) {
            "kubernetes.io/tls" => tls::mismatch(value("tls.crt"), value("tls.key")),
            _ => None,
        }
        .into_iter()
        .collect()
    }

    fn fields(secret: &Secret) -> Fields {
        Fields::from_iter([("type", text(&secret.type_).to_owned())])
    }

    const FIELDS: &'static [&'static str] = &["type"];

    fn cells(secret: &Secret, now: Timestamp) -> Vec<Value> {
        vec![
            json!(name(&secret.metadata)),
            json!(text(&secret.type_)),
            json!(secret.data.as_ref().map_or(0, BTreeMap::len)),
            json!(age(&secret.metadata, now)),
        ]
    }
}

/// The keys that each type must have.
fn of_type(errors: &mut Errors, secret: &Secret, data: &BTreeMap<String, ByteString>, path: &Path) {
    let json_in = |errors: &mut Errors, key: &str| {
        let at = path.key(key);
        match data.get(key) {
            None => errors.required(&at, ""),
            Some(value) => {
                if let Err(wrong) = serde_json::from_slice::<serde::de::IgnoredAny>(&value.0) {
                    errors.invalid(&at, REDACTED, wrong.to_string());
                }
            }
        }
    };
    match text(&secret.type_) {
        "kubernetes.io/service-account-token" => {
            const ACCOUNT: &str = "kubernetes.io/service-account.name";
            let annotations = secret.metadata.annotations.as_ref();
            let account = annotations.and_then(|annotations| annotations.get(ACCOUNT));
            if account.is_none_or(|account| account.is_empty()) {
                errors.required(&Path::new("metadata.annotations").key(ACCOUNT), "");
            }
        }
        "kubernetes.io/dockercfg" => json_in(errors, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => json_in(errors, ".dockerconfigjson"),
        "kubernetes.io/basic-auth"
            if !data.contains_key("username") && !data.contains_key("password") =>
        {
            errors.required(&path.key("username"), "");
            errors.required(&path.key("password"), "");
        }
        "kubernetes.io/ssh-auth"
            if data.get("ssh-privatekey").is_none_or(|key| key.0.is_empty()) =>
        {
            errors.required(&path.key("ssh-privatekey"), "");
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !data.contains_key(key) {
                    errors.required(&path.key(key), "");
                }
            }
        }
        _ => {}
    }
}
