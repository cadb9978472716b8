//! Request bodies as objects.

use std::borrow::Cow;

use bytes::Bytes;
use http::HeaderMap;
use serde::{Deserialize, de::Error as _};
use serde_json::Value;

use super::{
    body,
    context::Warnings,
    negotiate::{self, Format},
    protobuf,
    query::FieldValidation,
    status::{ApiError, Result},
};
use crate::{
    patch::wording,
    resources::{Decoded, Object, Resource},
};

/// A body as JSON, whatever it came as.
pub(super) fn json(headers: &HeaderMap, body: Bytes) -> Result<Bytes> {
    match negotiate::input(headers)? {
        Format::Json => Ok(body),
        Format::Yaml => body::yaml_to_json(&body).map(Bytes::from),
        Format::Protobuf => protobuf::to_json(&body).map(Bytes::from).map_err(|why| {
            ApiError::bad_request(format!("the protobuf body cannot be decoded: {why}"))
        }),
    }
}

/// Refuses, tells or ignores what a body of YAML says twice, as the client asked. (Of JSON this is
/// found out while the object is decoded.)
pub(super) fn yaml_strictly(
    resource: &Resource,
    headers: &HeaderMap,
    body: &[u8],
    validation: FieldValidation,
    warnings: &Warnings,
) -> Result<()> {
    if validation == FieldValidation::Ignore || negotiate::input(headers)? != Format::Yaml {
        return Ok(());
    }
    let repeated = body::repeated_key(body).into_iter().collect();
    strictly(repeated, validation, warnings).map_err(|why| not_handled(resource, &why))
}

/// A type as an object names it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TypeMeta<'a> {
    /// Group and version.
    #[serde(rename = "apiVersion", borrow)]
    pub api_version: Cow<'a, str>,
    /// The kind.
    #[serde(borrow)]
    pub kind: Cow<'a, str>,
}

/// Decodes an object of a resource. What the kind does not have is refused, told or ignored.
pub(super) fn object(
    resource: &Resource,
    json: &[u8],
    validation: FieldValidation,
    warnings: &Warnings,
) -> Result<Box<dyn Object>> {
    let Decoded { object, strict_errors } = leniently(resource, json)?;
    strictly(strict_errors, validation, warnings).map_err(|why| not_handled(resource, &why))?;
    Ok(object)
}

/// Decodes an object of a resource, and notes what strict validation refuses.
pub(super) fn leniently(resource: &Resource, json: &[u8]) -> Result<Decoded> {
    match resource.strategy.decode(json) {
        // The strategy takes the stored form too, which is no client's to send here.
        Ok(_) if !resource.strategy.is_shown_as_stored() && is_of_other_version(resource, json) => {
            Err(undecodable(resource, json, &serde_json::Error::custom("")))
        }
        Ok(decoded) => Ok(decoded),
        Err(error) => Err(undecodable(resource, json, &error)),
    }
}

/// Refuses, tells or ignores what strict validation refuses, as the client asked.
pub(super) fn strictly(
    errors: Vec<String>,
    validation: FieldValidation,
    warnings: &Warnings,
) -> std::result::Result<(), String> {
    match validation {
        FieldValidation::Strict if !errors.is_empty() => {
            return Err(format!("strict decoding error: {}", errors.join(", ")));
        }
        FieldValidation::Warn => errors.into_iter().for_each(|text| warnings.add(text)),
        FieldValidation::Strict | FieldValidation::Ignore => {}
    }
    Ok(())
}

fn is_of_other_version(resource: &Resource, json: &[u8]) -> bool {
    let found: TypeMeta<'_> = serde_json::from_slice(json).unwrap_or_default();
    !found.api_version.is_empty() && found.api_version != resource.api_version()
}

/// Why a body did not decode, in Kubernetes' words.
fn undecodable(resource: &Resource, json: &[u8], error: &serde_json::Error) -> ApiError {
    let malformed = |error: &serde_json::Error| {
        let kind = &resource.kind;
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): couldn't get \
             version/kind; json parse error: {} ({})",
            wording::json_error(json, error),
            summary(json)
        ))
    };
    let found: TypeMeta<'_> = match serde_json::from_slice(json) {
        Ok(found) => found,
        Err(error) => return malformed(&error),
    };
    let expected = (resource.api_version(), resource.kind.as_ref());
    if !found.kind.is_empty() && found.kind != expected.1 {
        let version = found.api_version.rsplit('/').next().unwrap_or_default();
        return ApiError::bad_request(format!(
            "{} in version {version:?} cannot be handled as a {}: no kind {:?} is registered for \
             the resource {:?}",
            found.kind, expected.1, found.kind, resource.plural,
        ));
    }
    if !found.api_version.is_empty() && found.api_version != expected.0 {
        return ApiError::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            found.api_version, expected.0
        ));
    }
    if let Err(error) = serde_json::from_slice::<Value>(json) {
        return malformed(&error);
    }
    ApiError::bad_request(resource.undecodable(error))
}

fn not_handled(resource: &Resource, why: &str) -> ApiError {
    let (kind, version) = (&resource.kind, &resource.version);
    ApiError::bad_request(format!(
        "{kind} in version {version:?} cannot be handled as a {kind}: {why}"
    ))
}

/// The beginning of a body: as it is when it looks like JSON, else in hexadecimal digits.
fn summary(body: &[u8]) -> String {
    const SHOWN_BYTES: usize = 30;
    let shown = &body[..body.len().min(SHOWN_BYTES)];
    let more = if body.len() > SHOWN_BYTES { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(shown).into_owned() + more,
        Some(_) => shown.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + more,
    }
}
