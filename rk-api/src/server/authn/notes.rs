//! What authenticators say of a request besides who makes it. The request has no audit event and no
//! answer yet, so it is kept until there are.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::server::audit;

tokio::task_local! {
    static CURRENT: Notes;
}

/// What was said of a request; an extension of it once it is authenticated.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct Notes(Arc<Mutex<Said>>);

#[derive(Debug, Default)]
struct Said {
    annotations: Vec<(&'static str, String)>,
    warnings: Vec<String>,
}

impl Notes {
    /// Runs what authenticates a request and keeps what it says.
    pub(in crate::server) async fn taken_of<F: Future>(&self, future: F) -> F::Output {
        CURRENT.scope(self.clone(), future).await
    }

    /// Whether nothing was said.
    pub(in crate::server) fn is_empty(&self) -> bool {
        let said = self.0.lock();
        said.annotations.is_empty() && said.warnings.is_empty()
    }

    /// The annotations for the audit event, with their keys.
    pub(in crate::server) fn annotations(&self) -> Vec<(&'static str, String)> {
        self.0.lock().annotations.clone()
    }

    /// The warnings for the client.
    pub(in crate::server) fn warnings(&self) -> Vec<String> {
        self.0.lock().warnings.clone()
    }
}

/// Says something in the request's audit event. Where a token is reviewed for somebody else, that is
/// the event of the review.
pub(super) fn annotate(key: &'static str, value: String) {
    let noted = CURRENT.try_with(|notes| notes.0.lock().annotations.push((key, value.clone())));
    if noted.is_err() {
        audit::annotate(key, value);
    }
}

/// Says something to the client, if it is the one whose credentials these are.
pub(super) fn warn(text: &str) {
    let _ = CURRENT.try_with(|notes| notes.0.lock().warnings.push(text.to_owned()));
}
