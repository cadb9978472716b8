//! Why a reconcile failed, and what happens next.

/// Why a reconcile failed. Variants differ in what the worker does next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The API server refused or did not answer: tried again with backoff. A conflict is the
    /// normal sign of a cache that lags behind, so it is retried without being logged as an error.
    #[error("request failed")]
    Api(#[from] kube::Error),

    /// A cache does not show our own writes yet, or an invariant will hold soon: tried again with
    /// backoff.
    #[error("{0}")]
    NotYet(String),

    /// Trying again cannot help until the object changes, so nothing is retried.
    #[error("{0}")]
    Terminal(String),

    /// The caller of a library function gave something that cannot work.
    #[error("{0}")]
    Invalid(String),
}

/// The HTTP code of an API error, 0 for errors without an answer.
pub(crate) fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

/// The object or its collection is not there.
pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    code(error) == 404
}

/// Somebody wrote the object after we read it, or a precondition (UID) does not hold.
pub(crate) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason != "AlreadyExists")
}

/// What became of a deletion: that the object, or the one that was meant, is gone is fine.
pub(crate) fn unless_gone<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(gone) if is_not_found(&gone) || is_conflict(&gone) => Ok(()),
        result => result.map(drop),
    }
}

/// An object of that name is there already.
pub(crate) fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.reason == "AlreadyExists")
}

/// The create was refused because its namespace is on its way out; it will never succeed.
pub(crate) fn is_namespace_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
        || (status.code == 403 && status.message.contains("because it is being terminated"))
}

/// The words of an error as Kubernetes' events quote them: the server's message alone.
pub(crate) fn message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

impl Error {
    /// Whether this only says that another writer came first.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Error::Api(error) if is_conflict(error))
    }

    /// Whether the object the reconcile wrote to is gone.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Api(error) if is_not_found(error))
    }
}
