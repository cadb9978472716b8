//! Bodies of requests and answers.

use std::{
    fmt::Display,
    io::Write,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_saphyr::{Error as YamlError, options::DuplicateKeyPolicy};

use super::{
    audit,
    flow_control::Seat,
    negotiate::{self, Format},
    protobuf,
    status::{ApiError, Result},
    watch::WatchBody,
};
use crate::meta::strict::duplicate_fields;

/// The longest request body: 3 MiB, as in kube-apiserver.
pub(super) const REQUEST_BYTES_MAX: usize = 3 * 1024 * 1024;

/// How much of a body that is too long is still read.
const DRAIN_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Answers longer than this are compressed for clients that accept it. As in kube-apiserver:
/// below it compressing costs more than it saves.
const GZIP_ABOVE_BYTES: usize = 128 * 1024;

/// Any failure while a body is streamed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body, whatever carries it.
pub(super) type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// An answer's body.
pub struct ResponseBody(Kind);

enum Kind {
    Full(Option<Bytes>),
    Watch(Box<WatchBody>),
    Stream(UnsyncBoxBody<Bytes, BoxError>),
}

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.0 {
            Kind::Full(_) => "ResponseBody::Full",
            Kind::Watch(_) => "ResponseBody::Watch",
            Kind::Stream(_) => "ResponseBody::Stream",
        })
    }
}

impl ResponseBody {
    /// A body of known bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Full(Some(bytes.into())))
    }

    /// No body.
    pub fn empty() -> Self {
        Self(Kind::Full(None))
    }

    /// Takes the bytes out, if they are known.
    pub(super) fn take_full(&mut self) -> Option<Bytes> {
        match &mut self.0 {
            Kind::Full(bytes) => bytes.take(),
            Kind::Watch(_) | Kind::Stream(_) => None,
        }
    }

    /// A watch's events.
    pub(super) fn watch(body: WatchBody) -> Self {
        Self(Kind::Watch(Box::new(body)))
    }

    /// Keeps a request's seat: until its first objects are sent if this is a watch, else not at
    /// all.
    pub(super) fn sit_until_initialized(&mut self, seat: Seat) {
        if let Kind::Watch(watch) = &mut self.0 {
            watch.sit_until_initialized(seat);
        }
    }

    /// Somebody else's body, passed on.
    pub fn stream<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self(Kind::Stream(body.map_err(Into::into).boxed_unsync()))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Watch(watch) => {
                watch.poll_chunk(cx).map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes))))
            }
            Kind::Stream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Kind::Watch(_) => false,
            Kind::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Kind::Watch(_) => SizeHint::default(),
            Kind::Stream(body) => body.size_hint(),
        }
    }
}

/// The whole of a request's body, or 413 when it is longer than [`REQUEST_BYTES_MAX`].
pub(super) async fn read(body: &mut RequestBody) -> Result<Bytes> {
    // One frame is the usual case and is not copied.
    let first = next(body).await?.unwrap_or_default();
    let Some(second) = next(body).await? else {
        return if first.len() > REQUEST_BYTES_MAX { Err(too_large()) } else { Ok(first) };
    };
    let mut all = BytesMut::with_capacity(first.len() + second.len());
    all.extend_from_slice(&first);
    all.extend_from_slice(&second);
    while let Some(data) = next(body).await? {
        if all.len() + data.len() > REQUEST_BYTES_MAX {
            drain(body).await;
            return Err(too_large());
        }
        all.extend_from_slice(&data);
    }
    if all.len() > REQUEST_BYTES_MAX { Err(too_large()) } else { Ok(all.freeze()) }
}

fn too_large() -> ApiError {
    ApiError::body_too_large(REQUEST_BYTES_MAX)
}

async fn next(body: &mut RequestBody) -> Result<Option<Bytes>> {
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| ApiError::bad_request(format!("cannot read the body: {error}")))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// Reads on for a while: many clients look for an answer only once they have sent everything.
async fn drain(body: &mut RequestBody) {
    let mut left = DRAIN_BYTES_MAX;
    while let Ok(Some(data)) = next(body).await {
        left = left.saturating_sub(data.len());
        if left == 0 {
            return;
        }
    }
}

/// An answer of these JSON bytes, in the format and compression that the client accepts.
pub(super) fn answer(
    headers: &HeaderMap,
    status: u16,
    mut format: Format,
    json: impl Into<Bytes>,
) -> Response<ResponseBody> {
    let json: Bytes = json.into();
    audit::response(&json);
    let body = match format {
        Format::Json => json,
        Format::Yaml => Bytes::from(to_yaml(&json)),
        Format::Protobuf => match protobuf::from_json(&json) {
            Some(body) => Bytes::from(body),
            // A type without a protobuf form: the content type says what came instead.
            None => {
                format = Format::Json;
                json
            }
        },
    };
    let mut response = Response::new(ResponseBody::empty());
    set(&mut response, headers, body);
    *response.status_mut() =
        http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let answer_headers = response.headers_mut();
    answer_headers.insert(header::CONTENT_TYPE, format.content_type());
    answer_headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Makes these bytes the body, compressed if that is worth it and the client accepts it.
pub(super) fn set(response: &mut Response<ResponseBody>, headers: &HeaderMap, body: Bytes) {
    let zipped = (body.len() > GZIP_ABOVE_BYTES && accepts_gzip(headers)).then(|| gzip(&body));
    let body = match zipped.flatten() {
        Some(zipped) => {
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
            Bytes::from(zipped)
        }
        None => body,
    };
    *response.body_mut() = ResponseBody::full(body);
}

/// An answer that is serialised now.
pub(super) fn answer_value(
    headers: &HeaderMap,
    status: u16,
    format: Format,
    value: &impl serde::Serialize,
) -> Response<ResponseBody> {
    // Only maps with keys that are no strings cannot become JSON, and the API has none.
    let json = serde_json::to_vec(value).unwrap_or_default();
    answer(headers, status, format, json)
}

/// The answer that tells of a failure.
pub(super) fn failure(headers: &HeaderMap, error: &ApiError) -> Response<ResponseBody> {
    let format = negotiate::error_format(headers);
    let mut response = answer_value(headers, error.code, format, &error.status());
    let seconds = error.details.as_ref().and_then(|details| details.retry_after_seconds);
    if let Some(seconds) = seconds {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.split(';').next().unwrap_or_default().trim() == "gzip")
}

fn gzip(bytes: &[u8]) -> Option<Vec<u8>> {
    // kube-apiserver's level: it costs little and does nearly all there is to do on JSON.
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 6), Compression::new(1));
    encoder.write_all(bytes).ok()?;
    encoder.finish().ok()
}

/// JSON as YAML.
fn to_yaml(json: &[u8]) -> String {
    let value: Value = serde_json::from_slice(json).unwrap_or_default();
    serde_saphyr::to_string(&value).unwrap_or_default()
}

/// YAML as JSON: [`yaml_to_value`], written out.
pub(super) fn yaml_to_json(yaml: &[u8]) -> Result<Vec<u8>> {
    serde_json::to_vec(&yaml_to_value(yaml)?).map_err(ApiError::internal)
}

/// YAML as a tree. Numbers such as `0644` are octal and `yes` is true, as kubectl reads them. Of what
/// is said twice the last counts; [`repeated_key`] tells of it.
pub(super) fn yaml_to_value(yaml: &[u8]) -> Result<Value> {
    // Most clients that say YAML send JSON, which means the same and is read many times faster.
    if let Ok(value) = serde_json::from_slice(yaml) {
        return Ok(value);
    }
    let refused = |error: &dyn Display| {
        ApiError::bad_request(format!("error converting YAML to JSON: {error}"))
    };
    let text = std::str::from_utf8(yaml).map_err(|error| refused(&error))?;
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        duplicate_keys: DuplicateKeyPolicy::LastWins,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| refused(&error))
}

/// The first key that a mapping of the YAML names twice, in the words of Go's strict decoder.
pub(super) fn repeated_key(yaml: &[u8]) -> Option<String> {
    let is_json = || serde_json::from_slice::<IgnoredAny>(yaml).is_ok();
    if is_json() && duplicate_fields(yaml).is_empty() {
        return None;
    }
    let text = std::str::from_utf8(yaml).ok()?;
    let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::Error };
    let read = serde_saphyr::from_str_with_options::<Value>(text, options);
    let error = read.err()?;
    match error.without_snippet() {
        YamlError::DuplicateMappingKey { key: Some(key), location } => {
            let line = location.line();
            Some(format!("yaml: unmarshal errors:\n  line {line}: key {key:?} already set in map"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_yaml_says_twice_is_told_and_the_last_counts() {
        let yaml = b"a: 1\nb:\n  c: 1\n  c: 2\n";
        assert_eq!(yaml_to_json(yaml).unwrap(), br#"{"a":1,"b":{"c":2}}"#);
        let why = "yaml: unmarshal errors:\n  line 4: key \"c\" already set in map";
        assert_eq!(repeated_key(yaml).as_deref(), Some(why));
        assert_eq!(repeated_key(b"a: 1\nb: {a: 1}\n"), None);
        assert_eq!(repeated_key(b"a: ["), None);

        let json = b"{\"a\": 1, \"b\": {\"c\": 1,\n\"c\": 2}}";
        assert_eq!(yaml_to_json(json).unwrap(), br#"{"a":1,"b":{"c":2}}"#);
        let why = "yaml: unmarshal errors:\n  line 2: key \"c\" already set in map";
        assert_eq!(repeated_key(json).as_deref(), Some(why));
        assert_eq!(repeated_key(br#"{"a": 1, "b": {"a": 1}}"#), None);
    }
}
