//! Listing objects, whole or page by page, as of the version that is asked for.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Response;
use rk_store::{Range, Revision, StoreError};
use serde::{Deserialize, Serialize};

use super::Call;
use crate::{
    patch::wording,
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

/// Where a list goes on, as kube-apiserver encodes it.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    #[serde(rename = "v")]
    api_version: String,
    /// The version of the first page; -1 goes on with the latest one.
    #[serde(rename = "rv")]
    revision: i64,
    /// The key to go on from, below the list's prefix.
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

impl<'a> Call<'a> {
    pub(super) async fn list(self, resource: &'a Arc<Resource>) -> Result<Response<ResponseBody>> {
        let output = self.output(false)?;
        let shaper = self.shaper(resource, output)?;
        let options = ListOptions::read(self.context.query(), false)?;
        let filter = Filter::read(resource, self.namespace(resource), None, &options)?;
        let page = self.page(resource, &filter, &options).await?;
        let continue_token = match &page.next_after {
            Some(after) => token(&filter.key_prefix(resource), after, page.revision),
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
        let cache = &self.server.registry.cache;
        let table = self.table(resource)?;
        let prefix = filter.key_prefix(resource);
        if !options.continue_token.is_empty() {
            if options.version()? != 0 {
                return Err(ApiError::bad_request(
                    "specifying resource version is not allowed when using continue",
                ));
            }
            let token = read_token(&options.continue_token)?;
            // The token names the next key's lower bound; pages go on after a key.
            let after = format!("{prefix}{}", token.start.trim_end_matches('\0'));
            return match u64::try_from(token.revision) {
                Ok(revision) => {
                    let at = Revision(revision);
                    self.page_at(&table, filter, &prefix, Some(&after), options.limit, at).await
                }
                Err(_) => {
                    let applied = cache.fresh().await?;
                    Ok(table.list(filter, Some(&after), options.limit, applied))
                }
            };
        }
        let version = options.version()?;
        let exact = options.resource_version_match == "Exact"
            // Before resourceVersionMatch there was, a limit made a version exact.
            || (options.resource_version_match.is_empty() && options.limit > 0 && version > 0);
        if exact {
            let at = Revision(version);
            return self.page_at(&table, filter, &prefix, None, options.limit, at).await;
        }
        let applied = match options.resource_version.as_str() {
            "" => cache.fresh().await?,
            _ => cache.wait_for(version).await?,
        };
        Ok(table.list(filter, None, options.limit, applied))
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
        let mut page =
            Page { items: Vec::new(), revision: revision.0, next_after: None, remaining: None };
        let mut after: Option<Arc<str>> = after.map(Arc::from);
        loop {
            let range = Range { prefix, after: after.as_deref(), limit, revision: Some(revision) };
            let found = cache.store().range(range).await.map_err(expired)?;
            for (index, value) in found.items.iter().enumerate() {
                let object = Cache::cached(table, value).filter(|object| filter.matches(object));
                let Some(object) = object else { continue };
                page.items.push(Arc::new(object));
                if limit > 0 && page.items.len() == limit {
                    let left = found.items.len() - index - 1 + found.remaining;
                    page.next_after = (left > 0).then(|| value.key.clone());
                    page.remaining = (left > 0 && !filter.selects()).then_some(left);
                    return Ok(page);
                }
            }
            match found.items.last() {
                Some(last) if found.remaining > 0 => after = Some(last.key.clone()),
                _ => return Ok(page),
            }
        }
    }
}

/// What a client is told whose page is too old to go on from.
fn expired(error: StoreError) -> ApiError {
    match error {
        StoreError::Compacted { .. } => ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You \
             can start a new list without the continue parameter.",
        ),
        other => other.into(),
    }
}

fn token(prefix: &str, after: &str, revision: u64) -> String {
    let token = Token {
        api_version: TOKEN_VERSION.to_owned(),
        revision: i64::try_from(revision).unwrap_or(-1),
        start: format!("{}\0", after.strip_prefix(prefix).unwrap_or(after)),
    };
    // A struct of strings and a number always serialises.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn read_token(text: &str) -> Result<Token> {
    let invalid = |why: String| ApiError::bad_request(format!("invalid continue token: {why}"));
    let json = URL_SAFE_NO_PAD
        .decode(text.trim_end_matches('='))
        .map_err(|error| invalid(format!("continue key is not valid: {error}")))?;
    let token: Token = serde_json::from_slice(&json).map_err(|error| {
        invalid(format!("continue key is not valid: {}", wording::json_error(&json, &error)))
    })?;
    if token.api_version != TOKEN_VERSION {
        return Err(invalid(format!(
            "server does not recognize this encoded version {:?}",
            token.api_version
        )));
    }
    if token.start.is_empty() || token.revision == 0 {
        return Err(invalid("continue key is not valid: encoded start key empty".to_owned()));
    }
    if token.start.split('/').any(|part| part == "..") {
        return Err(invalid(format!("continue key is not valid: {}", token.start)));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_where_to_go_on_and_as_of_when() {
        let text = token("/registry/pods/", "/registry/pods/a/b", 7);
        let token = read_token(&text).unwrap();
        assert_eq!((token.start.as_str(), token.revision), ("a/b\0", 7));
        assert!(read_token("abc").is_err());
        assert!(read_token("").is_err());
    }
}
