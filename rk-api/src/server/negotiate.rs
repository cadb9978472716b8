//! Content negotiation: what a client sends, and in which form it wants its answer.
//!
//! CBOR (KEP-4222) is not served: Kubernetes has it off by default, and clients that would take it
//! take JSON or protobuf too.

use http::{HeaderMap, HeaderValue, header};

use super::{
    protobuf,
    status::{ApiError, Result},
};

/// The media types that are served, as error messages list them.
pub(super) const SERVED: &str =
    "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// A format of objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Format {
    /// JSON.
    #[default]
    Json,
    /// YAML.
    Yaml,
    /// Kubernetes' protobuf.
    Protobuf,
}

impl Format {
    /// Its media type.
    pub(super) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml",
            Format::Protobuf => protobuf::MEDIA_TYPE,
        })
    }
}

/// The shape in which objects are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shape {
    /// As they are.
    #[default]
    Object,
    /// As rows of a `meta.k8s.io` Table of this version.
    Table(MetaVersion),
    /// Their metadata alone, as PartialObjectMetadata of this version.
    Metadata(MetaVersion),
}

/// A version of the group `meta.k8s.io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MetaVersion {
    /// `v1`.
    V1,
    /// `v1beta1`.
    V1Beta1,
}

impl MetaVersion {
    /// As `apiVersion`.
    pub(super) fn api_version(self) -> &'static str {
        match self {
            MetaVersion::V1 => "meta.k8s.io/v1",
            MetaVersion::V1Beta1 => "meta.k8s.io/v1beta1",
        }
    }
}

/// An answer's form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Output {
    /// The text format.
    pub format: Format,
    /// The shape.
    pub shape: Shape,
}

/// One alternative of an `Accept` header.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Clause<'a> {
    /// For example `application/json`.
    pub media_type: &'a str,
    /// The parameters but `q`.
    pub parameters: Vec<(&'a str, &'a str)>,
    quality: f32,
}

impl<'a> Clause<'a> {
    /// The value of a parameter.
    pub(super) fn parameter(&self, key: &str) -> Option<&'a str> {
        self.parameters.iter().find(|(found, _)| *found == key).map(|(_, value)| *value)
    }

    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let mut quality = 1.0;
        let mut parameters = Vec::new();
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim_matches('"');
            match key {
                "q" => quality = value.parse().unwrap_or(1.0),
                _ => parameters.push((key, value)),
            }
        }
        Self { media_type, parameters, quality }
    }

    fn format(&self) -> Option<Format> {
        match self.media_type {
            "application/json" | "*/*" | "application/*" | "" => Some(Format::Json),
            "application/yaml" => Some(Format::Yaml),
            protobuf::MEDIA_TYPE => Some(Format::Protobuf),
            _ => None,
        }
    }
}

/// The alternatives of the `Accept` header, best first; none when there is no header.
pub(super) fn accepted(headers: &HeaderMap) -> Vec<Clause<'_>> {
    let values = headers.get_all(header::ACCEPT).into_iter();
    let mut clauses: Vec<_> = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|clause| Clause::parse(clause.trim()))
        .collect();
    // Stable: among equals the client's order counts, but for protobuf. Answers are kept as JSON, so
    // a client that takes either is served sooner with that.
    let late = |clause: &Clause<'_>| clause.media_type == protobuf::MEDIA_TYPE;
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality).then(late(a).cmp(&late(b))));
    clauses
}

/// The form of an answer with objects. `streaming` answers (watches) are never YAML.
pub(super) fn output(headers: &HeaderMap, streaming: bool) -> Result<Output> {
    let clauses = accepted(headers);
    if clauses.is_empty() {
        return Ok(Output::default());
    }
    let choice = clauses.iter().find_map(|clause| {
        let format = clause.format()?;
        if streaming && format == Format::Yaml {
            return None;
        }
        Some(Output { format, shape: shape(clause)? })
    });
    choice.ok_or_else(|| ApiError::not_acceptable(SERVED))
}

/// The media types that are served for kinds without a protobuf form.
const SERVED_AS_TEXT: &str = "application/json, application/yaml";

/// Takes protobuf out of what a client accepts.
///
/// # Errors
/// 406 when it accepts nothing else, 415 when it sends protobuf.
pub(super) fn without_protobuf(headers: &mut HeaderMap) -> Result<()> {
    if content_type(headers) == protobuf::MEDIA_TYPE {
        return Err(ApiError::unsupported_media_type(SERVED_AS_TEXT));
    }
    let values = headers.get_all(header::ACCEPT).into_iter();
    let clauses: Vec<&str> = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let is_protobuf = |clause: &&str| Clause::parse(clause).media_type == protobuf::MEDIA_TYPE;
    if !clauses.iter().any(is_protobuf) {
        return Ok(());
    }
    let kept: Vec<&str> = clauses.into_iter().filter(|clause| !is_protobuf(clause)).collect();
    match HeaderValue::from_str(&kept.join(", ")) {
        Ok(value) if !kept.is_empty() => {
            headers.insert(header::ACCEPT, value);
            Ok(())
        }
        _ => Err(ApiError::not_acceptable(SERVED_AS_TEXT)),
    }
}

/// The form of an answer that has only one shape, such as discovery.
pub(super) fn plain_format(headers: &HeaderMap) -> Result<Format> {
    let clauses = accepted(headers);
    if clauses.is_empty() {
        return Ok(Format::Json);
    }
    let plain = |clause: &Clause<'_>| clause.parameter("as").is_none();
    let choice = clauses.iter().filter(|clause| plain(clause)).find_map(Clause::format);
    choice.ok_or_else(|| ApiError::not_acceptable(SERVED))
}

/// The best format there is for a failure: errors are always told, whatever is acceptable.
pub(super) fn error_format(headers: &HeaderMap) -> Format {
    accepted(headers).iter().find_map(Clause::format).unwrap_or_default()
}

fn shape(clause: &Clause<'_>) -> Option<Shape> {
    let Some(kind) = clause.parameter("as") else { return Some(Shape::Object) };
    if clause.parameter("g") != Some("meta.k8s.io") {
        return None;
    }
    let version = match clause.parameter("v") {
        Some("v1") => MetaVersion::V1,
        Some("v1beta1") => MetaVersion::V1Beta1,
        _ => return None,
    };
    match kind {
        "Table" => Some(Shape::Table(version)),
        "PartialObjectMetadata" | "PartialObjectMetadataList" => Some(Shape::Metadata(version)),
        _ => None,
    }
}

/// The format of a request's body.
pub(super) fn input(headers: &HeaderMap) -> Result<Format> {
    match content_type(headers) {
        "" | "application/json" => Ok(Format::Json),
        "application/yaml" => Ok(Format::Yaml),
        protobuf::MEDIA_TYPE => Ok(Format::Protobuf),
        _ => Err(ApiError::unsupported_media_type(SERVED)),
    }
}

/// The media type of a request's body without parameters; empty when it says none.
pub(super) fn content_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_protobuf_form_is_sent_as_text() {
        let check = |accept: &str, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            let found = without_protobuf(&mut headers).ok();
            let found = found.map(|()| headers[header::ACCEPT].to_str().unwrap().to_owned());
            assert_eq!(found.as_deref(), expected, "{accept}");
        };
        check("application/json;q=0.5, */*", Some("application/json;q=0.5, */*"));
        check(
            "application/vnd.kubernetes.protobuf, application/json;q=0.5",
            Some("application/json;q=0.5"),
        );
        check("application/vnd.kubernetes.protobuf", None);
    }

    #[track_caller]
    fn check(accept: &str, expected: Option<(Format, Shape)>) {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, accept.parse().unwrap());
        let found = output(&headers, false).ok().map(|output| (output.format, output.shape));
        assert_eq!(found, expected, "{accept}");
    }

    #[test]
    fn the_best_form_that_is_served_wins() {
        check("application/json", Some((Format::Json, Shape::Object)));
        check("*/*", Some((Format::Json, Shape::Object)));
        check("application/yaml", Some((Format::Yaml, Shape::Object)));
        check("text/plain", None);
        check(
            "application/vnd.kubernetes.protobuf, application/json;q=0.5",
            Some((Format::Protobuf, Shape::Object)),
        );
        // Answers are kept as JSON.
        check(
            "application/vnd.kubernetes.protobuf, application/json",
            Some((Format::Json, Shape::Object)),
        );
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            Some((Format::Json, Shape::Table(MetaVersion::V1))),
        );
        check(
            "application/json;as=Other;v=v1;g=x,application/json",
            Some((Format::Json, Shape::Object)),
        );
        check("application/json;as=Other;v=v1;g=x", None);
    }
}
