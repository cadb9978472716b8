//! Listing objects, whole or page by page, as of the version that is asked for.

mod continuation;

use std::sync::Arc;

use http::Response;
use rk_store::{Range, Revision};

use self::continuation::Continuation;
use super::Call;
use crate::{
    resources::Resource,
    server::{
        body::{self, ResponseBody},
        cache::{Cache, Page, Table},
        filter::Filter,
        query::ListOptions,
        shape::ListMeta,
        status::{ApiError, Result},
    },
};

impl<'a> Call<'a> {
    pub(super) async fn list(self, resource: &'a Arc<Resource>) -> Result<Response<ResponseBody>> {
        let output = self.output(false)?;
        let shaper = self.shaper(resource, output)?;
        let options = ListOptions::read(self.context.query(), false)?;
        let filter = Filter::read(resource, self.namespace(resource), None, &options)?;
        let page = self.page(resource, &filter, &options).await?;
        let continue_token = match &page.next_after {
            Some(after) => {
                let revision = Some(Revision(page.revision));
                let next = Continuation { revision, after: after.to_string() };
                next.encode(&filter.key_prefix(resource))
            }
            None => String::new(),
        };
        let meta = ListMeta { revision: page.revision, continue_token, remaining: page.remaining };
        self.server.registry.converter.show(resource, &page.items).await?;
        let json = shaper.list(&page.items, &meta);
        Ok(body::answer(&self.context.headers, 200, output.format, json))
    }

    /// The objects that a list is about.
    pub(super) async fn page(
        self,
        resource: &'a Arc<Resource>,
        filter: &Filter,
        options: &ListOptions,
    ) -> Result<Page> {
        let limit = options.page_limit();
        if !filter.looks_at_shown() {
            return self.stored_page(resource, filter, options, limit).await;
        }
        // Which are selected is known when they are in the version that is asked for.
        let mut page = self.stored_page(resource, filter, options, 0).await?;
        self.server.registry.converter.show(resource, &page.items).await?;
        page.items.retain(|item| filter.matches_shown(resource, item));
        if limit > 0 && page.items.len() > limit {
            page.items.truncate(limit);
            page.next_after = page.items.last().map(|last| last.key.clone());
        }
        Ok(page)
    }

    /// The objects of which a list is about those that [`Filter::matches_shown`].
    async fn stored_page(
        self,
        resource: &'a Arc<Resource>,
        filter: &Filter,
        options: &ListOptions,
        limit: usize,
    ) -> Result<Page> {
        let cache = &self.server.registry.cache;
        let table = &*self.table(resource)?;
        let prefix = filter.key_prefix(resource);
        if !options.continue_token.is_empty() {
            let from = Continuation::decode(&options.continue_token, &prefix)?;
            if !matches!(options.resource_version.as_str(), "" | "0") {
                return Err(ApiError::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let Some(revision) = from.revision else {
                return self.page_now(table, filter, &prefix, Some(&from.after), limit).await;
            };
            let page = self.page_at(table, filter, &prefix, Some(&from.after), limit, revision);
            return page.await.map_err(|error| match error.code {
                410 => compacted(&from, &prefix),
                _ => error,
            });
        }
        let version = options.version().map_err(|error| {
            ApiError::bad_request(format!("invalid resource version: {}", error.message))
        })?;
        if options.is_exact(version) {
            let at = Revision(version);
            let page = self.page_at(table, filter, &prefix, None, limit, at).await;
            return page.map_err(|error| match error.code {
                410 => ApiError::expired("The resourceVersion for the provided list is too old."),
                _ => error,
            });
        }
        if options.resource_version.is_empty() {
            return self.page_now(table, filter, &prefix, None, limit).await;
        }
        let applied = cache.wait_for(version).await?;
        Ok(table.list(filter, None, limit, applied))
    }

    /// A page as of now, with everything that was acknowledged before. When the cache does not get
    /// there in time the store is asked itself.
    async fn page_now(
        self,
        table: &Table,
        filter: &Filter,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page> {
        match self.server.registry.cache.fresh().await {
            Ok(applied) => Ok(table.list(filter, after, limit, applied)),
            Err(error) if error.code == 504 => {
                self.page_of_store(table, filter, prefix, after, limit, None).await
            }
            Err(error) => Err(error),
        }
    }

    /// A page as of a past revision: from the cache while nothing has changed since, else from the
    /// store's history.
    async fn page_at(
        self,
        table: &Table,
        filter: &Filter,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        revision: Revision,
    ) -> Result<Page> {
        let cache = &self.server.registry.cache;
        cache.wait_for(revision.0).await?;
        if table.revision() <= revision.0 {
            let page = table.list(filter, after, limit, revision.0);
            if page.revision == revision.0 {
                return Ok(page);
            }
        }
        self.page_of_store(table, filter, prefix, after, limit, Some(revision)).await
    }

    /// A page read from the store's history, or as of now.
    async fn page_of_store(
        self,
        table: &Table,
        filter: &Filter,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        mut revision: Option<Revision>,
    ) -> Result<Page> {
        let store = self.server.registry.cache.store();
        let mut items = Vec::new();
        let mut after: Option<Arc<str>> = after.map(Arc::from);
        loop {
            let range = Range { prefix, after: after.as_deref(), limit, revision };
            let found = store.range(range).await?;
            // What follows must be as of the same moment.
            let at = *revision.get_or_insert(found.revision);
            let whole = |items| Page { items, revision: at.0, next_after: None, remaining: None };
            for (index, value) in found.items.iter().enumerate() {
                let object = Cache::cached(table, value).filter(|object| filter.matches(object));
                let Some(object) = object else { continue };
                items.push(Arc::new(object));
                if limit > 0 && items.len() == limit {
                    let left = found.items.len() - index - 1 + found.remaining;
                    return Ok(Page {
                        next_after: (left > 0).then(|| value.key.clone()),
                        remaining: (left > 0 && !filter.selects()).then_some(left),
                        ..whole(items)
                    });
                }
            }
            match found.items.last() {
                Some(last) if found.remaining > 0 => after = Some(last.key.clone()),
                _ => return Ok(whole(items)),
            }
        }
    }
}

/// What a client is told whose next page cannot be shown as of the version of the first one any
/// more: how to go on with the latest version.
fn compacted(from: &Continuation, prefix: &str) -> ApiError {
    let latest = Continuation { revision: None, ..from.clone() };
    ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can \
         start a new list without the continue parameter, or use the continue token in this \
         response to retrieve the remainder of the results. Continuing with the provided token \
         results in an inconsistent list - objects that were created, modified, or deleted between \
         the time the first chunk was returned and now may show up in the list.",
    )
    .or_continue(latest.encode(prefix))
}
