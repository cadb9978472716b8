//! Objects in the shape that a client asks for: as they are, as a Table, or their metadata alone.

use std::{borrow::Cow, sync::Arc};

use serde_json::{Value, json};

use crate::{clock, resources::Resource};

use super::{
    negotiate::{MetaVersion, Shape},
    object::{CachedObject, Stored, write_number},
    query::Query,
    status::{ApiError, Result},
};
use crate::field::{FieldError, Path};

/// What a Table's rows hold besides their cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Include {
    /// Nothing.
    None,
    /// The object's metadata.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl Include {
    /// The query parameter `includeObject`.
    pub(super) fn read(query: &Query) -> Result<Self> {
        match query.get("includeObject").unwrap_or_default() {
            "" | "Metadata" => Ok(Include::Metadata),
            "None" => Ok(Include::None),
            "Object" => Ok(Include::Object),
            other => {
                let error = FieldError::invalid(
                    &Path::new("includeObject"),
                    other,
                    "must be 'Metadata', 'Object', 'None', or empty",
                );
                let why = format!("Unable to convert to Table as requested: {error}");
                Err(ApiError::bad_request(why))
            }
        }
    }
}

/// The metadata of a list.
#[derive(Clone, Debug, Default)]
pub(super) struct ListMeta {
    /// What the list is true for.
    pub revision: u64,
    /// Where the next page begins; empty on the last one.
    pub continue_token: String,
    /// How many objects follow, when that is known.
    pub remaining: Option<usize>,
}

/// Writes objects of one resource in one shape.
#[derive(Clone, Debug)]
pub(super) struct Shaper {
    /// The resource.
    pub resource: Arc<Resource>,
    /// The shape.
    pub shape: Shape,
    /// What a Table's rows hold.
    pub include: Include,
}

impl Shaper {
    /// Whether objects are sent as they are stored, or converted first.
    pub(super) fn is_as_stored(&self) -> bool {
        self.resource.strategy.is_shown_as_stored()
    }

    fn shown<'a>(&self, object: &'a CachedObject) -> Cow<'a, Stored> {
        shown(&self.resource, object)
    }

    /// One object.
    pub(super) fn object(
        &self,
        object: &CachedObject,
        revision: u64,
        headers: bool,
        out: &mut Vec<u8>,
    ) {
        match self.shape {
            Shape::Object => self.shown(object).write(revision, out),
            Shape::Metadata(version) => {
                write_partial(&self.shown(object), revision, version, out);
            }
            Shape::Table(version) => {
                let meta = ListMeta { revision, ..ListMeta::default() };
                self.table(&[(object, revision)], &meta, version, headers, out);
            }
        }
    }

    /// A list.
    pub(super) fn list(&self, items: &[Arc<CachedObject>], meta: &ListMeta) -> Vec<u8> {
        let size: usize = items.iter().map(|item| item.stored.len_max()).sum();
        let mut out = Vec::with_capacity(size + 256);
        match self.shape {
            Shape::Object => {
                let (kind, api_version) = (self.resource.list_kind(), self.resource.api_version());
                write_head(&kind, &api_version, meta, &mut out);
                if self.resource.strategy.custom().is_some() && meta.continue_token.is_empty() {
                    // Lists of custom kinds say so when nothing follows.
                    out.pop();
                    out.extend_from_slice(b",\"continue\":\"\"}");
                }
                out.extend_from_slice(b",\"items\":[");
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    // Of custom kinds each item says what it is, also in a list.
                    match self.resource.strategy.custom() {
                        Some(_) => self.shown(item).write(item.revision, &mut out),
                        None => self.shown(item).write_item(item.revision, &mut out),
                    }
                }
                out.extend_from_slice(b"]}");
            }
            Shape::Metadata(version) => {
                write_head("PartialObjectMetadataList", version.api_version(), meta, &mut out);
                out.extend_from_slice(b",\"items\":[");
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    write_partial(&self.shown(item), item.revision, version, &mut out);
                }
                out.extend_from_slice(b"]}");
            }
            Shape::Table(version) => {
                let rows: Vec<_> =
                    items.iter().map(|item| (item.as_ref(), item.revision)).collect();
                self.table(&rows, meta, version, true, &mut out);
            }
        }
        out
    }

    /// The object of a bookmark.
    pub(super) fn bookmark(&self, revision: u64, initial_events_end: bool, out: &mut Vec<u8>) {
        let mut metadata = json!({ "resourceVersion": revision.to_string() });
        if initial_events_end {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let (kind, api_version) = match self.shape {
            Shape::Object => (self.resource.kind.as_ref(), self.resource.api_version()),
            Shape::Metadata(version) => ("PartialObjectMetadata", version.api_version().to_owned()),
            Shape::Table(version) => ("Table", version.api_version().to_owned()),
        };
        let mut object = json!({ "kind": kind, "apiVersion": api_version, "metadata": metadata });
        if let Shape::Table(_) = self.shape {
            object["columnDefinitions"] = Value::Null;
            object["rows"] = json!([]);
        }
        write_value(&object, out);
    }

    fn table(
        &self,
        rows: &[(&CachedObject, u64)],
        meta: &ListMeta,
        version: MetaVersion,
        headers: bool,
        out: &mut Vec<u8>,
    ) {
        write_head("Table", version.api_version(), meta, out);
        out.extend_from_slice(b",\"columnDefinitions\":");
        let columns: Value = if headers { self.columns() } else { Value::Null };
        write_value(&columns, out);
        out.extend_from_slice(b",\"rows\":[");
        let now = clock::now();
        for (at, (object, revision)) in rows.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            out.extend_from_slice(b"{\"cells\":");
            // What is stored was encoded from this type, or the cache would not hold it.
            let stored = match self.resource.strategy.custom() {
                Some(_) => self.shown(object),
                None => Cow::Borrowed(&object.stored),
            };
            let cells = match self.resource.strategy.decode_stored(&stored.plain()) {
                Ok(object) => self.resource.strategy.cells(object.as_ref(), now),
                Err(_) => Vec::new(),
            };
            write_value(&Value::Array(cells), out);
            out.extend_from_slice(b",\"object\":");
            match self.include {
                Include::None => out.extend_from_slice(b"null"),
                Include::Metadata => write_partial(&self.shown(object), *revision, version, out),
                Include::Object => self.shown(object).write(*revision, out),
            }
            out.push(b'}');
        }
        out.extend_from_slice(b"]}");
    }

    fn columns(&self) -> Value {
        let columns = self.resource.columns.iter().map(|column| {
            json!({
                "name": column.name,
                "type": column.kind,
                "format": column.format,
                "description": column.description,
                "priority": column.priority,
            })
        });
        columns.collect()
    }
}

/// The object's bytes as this version of its kind shows them.
fn shown<'a>(resource: &Resource, object: &'a CachedObject) -> Cow<'a, Stored> {
    if resource.strategy.is_shown_as_stored() {
        return Cow::Borrowed(&object.stored);
    }
    if let Some(custom) = resource.strategy.custom() {
        return Cow::Borrowed(custom_view(resource, object, &custom.api_version));
    }
    let shown = resource.strategy.shown(object.stored.bytes());
    match shown.map(|shown| Stored::new(shown.into_owned().into())) {
        Ok(Some(shown)) => Cow::Owned(shown),
        // What is stored was encoded from a type: it always has another form.
        Ok(None) | Err(_) => Cow::Borrowed(&object.stored),
    }
}

/// A custom object in this version, which is made once for all who ask for it.
fn custom_view<'a>(
    resource: &Resource,
    object: &'a CachedObject,
    api_version: &Arc<str>,
) -> &'a Stored {
    if let Some(view) = object.views.get(api_version) {
        return view;
    }
    match resource.strategy.shown(object.stored.bytes()) {
        Ok(Cow::Owned(shown)) => match Stored::new(shown.into()) {
            Some(shown) => object.views.keep(api_version, shown),
            None => &object.stored,
        },
        // It is in this version, or nobody could convert it: that was told before.
        Ok(Cow::Borrowed(_)) | Err(_) => &object.stored,
    }
}

/// The selectable fields of a custom object in this version of its kind, with their values.
pub(super) fn fields(resource: &Resource, object: &CachedObject) -> Box<[(Arc<str>, String)]> {
    let decoded = resource.strategy.decode_stored(&shown(resource, object).plain());
    decoded.map(|object| resource.strategy.more_fields(object.as_ref())).unwrap_or_default()
}

fn write_value(value: &Value, out: &mut Vec<u8>) {
    // Writing a tree into memory cannot fail.
    let _ = serde_json::to_writer(out, value);
}

/// `{"kind":…,"apiVersion":…,"metadata":{…}`, without the closing brace.
fn write_head(kind: &str, api_version: &str, meta: &ListMeta, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"kind\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"apiVersion\":\"");
    out.extend_from_slice(api_version.as_bytes());
    out.extend_from_slice(b"\",\"metadata\":{\"resourceVersion\":\"");
    write_number(meta.revision, out);
    out.push(b'"');
    if !meta.continue_token.is_empty() {
        // The token is base64 and needs no escapes.
        out.extend_from_slice(b",\"continue\":\"");
        out.extend_from_slice(meta.continue_token.as_bytes());
        out.push(b'"');
    }
    if let Some(remaining) = meta.remaining {
        out.extend_from_slice(b",\"remainingItemCount\":");
        write_number(remaining as u64, out);
    }
    out.push(b'}');
}

fn write_partial(object: &Stored, revision: u64, version: MetaVersion, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"");
    out.extend_from_slice(version.api_version().as_bytes());
    out.extend_from_slice(b"\",\"metadata\":");
    out.extend_from_slice(&object.metadata(revision).unwrap_or_else(|| b"{}".to_vec()));
    out.push(b'}');
}
