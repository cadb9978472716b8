//! Watching objects.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Response, header};

use super::Call;
use crate::{
    resources::Resource,
    rng,
    server::{
        body::ResponseBody,
        cache::Start,
        filter::Filter,
        negotiate::Format,
        query::ListOptions,
        status::Result,
        watch::{WatchBody, WatchParts, error_frame, in_format},
    },
};

/// How long a watch lasts that does not say: between this and twice it, so that clients that
/// connected at the same time do not come back at the same time.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

impl<'a> Call<'a> {
    pub(super) async fn watch(self, resource: &'a Arc<Resource>) -> Result<Response<ResponseBody>> {
        let output = self.output(true)?;
        let shaper = self.shaper(resource, output)?;
        let options = ListOptions::read(self.context.query(), true)?;
        let name = Some(self.context.info().name.as_str()).filter(|name| !name.is_empty());
        let filter = Filter::read(resource, self.namespace(resource), name, &options)?;
        let cache = &self.server.registry.cache;
        let table = self.table(resource)?;
        let version = options.version()?;
        let start = match (options.send_initial_events, version) {
            (Some(true), _) => Start::Objects,
            (_, 0) => Start::Now,
            (_, version) => Start::After(version),
        };
        // Once the request is understood, failures are told by an event (KEP-3157).
        let reached = match (options.resource_version.as_str(), options.send_initial_events) {
            ("", _) => cache.fresh().await,
            (_, Some(true)) => cache.wait_for(version).await,
            _ => Ok(cache.revision()),
        };
        let begun = reached.and_then(|applied| table.watch(filter, start, applied));
        let body = match begun {
            Ok((watcher, initial, revision)) => {
                let seconds = options.timeout_seconds.filter(|seconds| *seconds > 0);
                let timeout = seconds.map_or_else(
                    || rng::jitter(DEFAULT_TIMEOUT, 1.0),
                    |seconds| Duration::from_secs(seconds.unsigned_abs()),
                );
                let streams_list = options.send_initial_events == Some(true);
                ResponseBody::watch(WatchBody::new(WatchParts {
                    cache: cache.clone(),
                    table: table.clone(),
                    watcher,
                    initial,
                    initial_end: (streams_list && options.allow_watch_bookmarks)
                        .then_some(revision),
                    converter: self.server.registry.converter.clone(),
                    shaper,
                    format: output.format,
                    bookmarks: options.allow_watch_bookmarks,
                    timeout,
                }))
            }
            Err(error) => ResponseBody::full(in_format(output.format, error_frame(&error))),
        };
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        let media_type = match output.format {
            Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
            Format::Json | Format::Yaml => "application/json",
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        Ok(response)
    }
}
