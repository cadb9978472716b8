//! What the layers learn about a request and hand on to the handler.

use std::sync::Arc;

use http::{HeaderMap, Method, Request, Uri};
use parking_lot::Mutex;

use super::{
    authn::Notes, body::RequestBody, info::RequestInfo, managed_fields::manager_of_user_agent,
    query::Query, status::ApiError, user::UserInfo,
};

/// A request's subject; a request extension from the first layer on.
#[derive(Clone, Debug)]
pub(super) struct Subject(pub Arc<(RequestInfo, Query)>);

/// A request's user; a request extension from authentication on. A request that comes with one, as
/// in-process clients' do, is not authenticated again: nothing from the network can set it.
#[derive(Clone, Debug)]
pub(super) struct Identity(pub Arc<UserInfo>);

/// A request as handlers see it.
#[derive(Debug)]
pub(super) struct Context {
    /// What it is about.
    pub subject: Arc<(RequestInfo, Query)>,
    /// Who asks.
    pub user: Arc<UserInfo>,
    /// The method.
    pub method: Method,
    /// The path and query, as they were sent.
    pub uri: Uri,
    /// The headers.
    pub headers: HeaderMap,
    /// What is to be told to the client besides the answer.
    pub warnings: Warnings,
}

impl Context {
    /// Takes a request apart; the layers have left what it needs.
    pub(super) fn new(
        request: Request<RequestBody>,
    ) -> Result<(Self, RequestBody, http::Extensions), ApiError> {
        let (parts, body) = request.into_parts();
        let subject = parts.extensions.get::<Subject>();
        let user = parts.extensions.get::<Identity>();
        let (Some(Subject(subject)), Some(Identity(user))) = (subject, user) else {
            return Err(ApiError::internal("a layer is missing"));
        };
        let warnings = Warnings::default();
        for text in parts.extensions.get::<Notes>().map(Notes::warnings).unwrap_or_default() {
            warnings.add(text);
        }
        let context = Self {
            subject: subject.clone(),
            user: user.clone(),
            method: parts.method,
            uri: parts.uri,
            headers: parts.headers,
            warnings,
        };
        Ok((context, body, parts.extensions))
    }

    /// What it is about.
    pub(super) fn info(&self) -> &RequestInfo {
        &self.subject.0
    }

    /// The name under which the writer manages fields: the one it gives, or its user agent's.
    pub(super) fn manager(&self) -> &str {
        match self.query().get("fieldManager") {
            Some(manager) if !manager.is_empty() => manager,
            _ => {
                let agent = self.headers.get(http::header::USER_AGENT);
                let agent = agent.and_then(|agent| agent.to_str().ok()).unwrap_or_default();
                manager_of_user_agent(agent)
            }
        }
    }

    /// The query.
    pub(super) fn query(&self) -> &Query {
        &self.subject.1
    }
}

/// Warnings for the client, sent as `Warning` headers, each once.
#[derive(Debug, Default)]
pub(super) struct Warnings(Mutex<Vec<String>>);

/// The most that is sent in one header, and in all together; longer ones are cut, as in Kubernetes.
const WARNING_BYTES_MAX: usize = 256;
const WARNINGS_BYTES_MAX: usize = 4096;

impl Warnings {
    /// Adds one.
    pub(super) fn add(&self, text: impl Into<String>) {
        let text = text.into();
        let mut all = self.0.lock();
        if !text.is_empty() && !all.contains(&text) {
            all.push(text);
        }
    }

    /// The values of the `Warning` headers (RFC 9110, code 299).
    pub(super) fn headers(&self) -> Vec<String> {
        let all = self.0.lock();
        let total: usize = all.iter().map(String::len).sum();
        all.iter()
            .map(|text| {
                let mut text: String = text.chars().filter(|c| !c.is_control()).collect();
                if total > WARNINGS_BYTES_MAX {
                    let cut = text
                        .char_indices()
                        .map(|(at, _)| at)
                        .take_while(|at| *at <= WARNING_BYTES_MAX);
                    text.truncate(cut.last().unwrap_or(0));
                }
                format!("299 - \"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
            })
            .collect()
    }
}
