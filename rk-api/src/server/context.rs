//! What the layers learn about a request and hand on to the handler.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, Method, Request};
use parking_lot::Mutex;

use super::{
    body::RequestBody, info::RequestInfo, managed_fields::manager_of_user_agent, query::Query,
    status::ApiError, user::UserInfo,
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
    /// The headers.
    pub headers: HeaderMap,
    /// What is to be told to the client besides the answer.
    pub warnings: Warnings,
    /// What is to be noted in the request's audit event.
    pub annotations: Annotations,
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
        let context = Self {
            subject: subject.clone(),
            user: user.clone(),
            method: parts.method,
            headers: parts.headers,
            warnings: Warnings::default(),
            annotations: parts.extensions.get().cloned().unwrap_or_default(),
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

/// Notes for a request's audit event. Cloning shares them: a layer that audits puts its own among
/// the request's extensions, and reads it when the request has been answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Annotations(Arc<Mutex<BTreeMap<String, Annotation>>>);

/// One note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Annotation {
    /// What it says.
    pub value: String,
    /// Whether it tells what was in the request, so that only events of the level Request, or of a
    /// higher one, may have it.
    pub detailed: bool,
}

impl Annotations {
    /// Notes something. The first note under a key stays.
    pub(super) fn add(&self, key: impl Into<String>, value: impl Into<String>) {
        self.note(key.into(), Annotation { value: value.into(), detailed: false });
    }

    /// Notes something that tells what was in the request.
    pub(super) fn add_detailed(&self, key: impl Into<String>, value: impl Into<String>) {
        self.note(key.into(), Annotation { value: value.into(), detailed: true });
    }

    fn note(&self, key: String, annotation: Annotation) {
        let mut all = self.0.lock();
        if let Some(found) = all.get(&key).filter(|found| **found != annotation) {
            tracing::warn!(key, kept = found.value, "an audit annotation is there already");
            return;
        }
        all.insert(key, annotation);
    }

    /// All notes so far.
    #[allow(dead_code, reason = "for the layer that audits")]
    pub(super) fn all(&self) -> BTreeMap<String, Annotation> {
        self.0.lock().clone()
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
