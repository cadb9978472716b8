use std::fmt::Debug;

use async_trait::async_trait;

use crate::Rules;

/// Makes a node behave as [`Rules`] say: kernel rules, a userspace proxy, a recorder for tests.
///
/// # What an implementation guarantees
/// - All or nothing: after an error the node behaves as after the last `apply` that succeeded,
///   and a packet never meets half of a change.
/// - Idempotent: rules that are in force already change nothing, and connections live on. Such a
///   call is also the moment to notice that somebody else tampered, and to repair it.
/// - A new instance on a node with rules of a former one takes them over, whatever they are.
/// - Established connections survive every `apply` that keeps their endpoint.
/// - It changes nothing that it does not own.
///
/// # What it must not assume
/// - That it sees every version: rules may skip any number of states.
/// - That a future is polled to the end. What a dropped `apply` did is unknown, and the next one
///   finds out.
/// - That calls do not overlap: they have the effect of some order.
///
/// A backend is done when it passes [`conformance`](crate::conformance).
#[async_trait]
pub trait ServiceProxy: Debug + Send + Sync + 'static {
    /// Puts `rules` in force, in place of all earlier ones.
    ///
    /// # Errors
    /// [`ProxyError::Unavailable`] and [`ProxyError::Rejected`] may pass with a later try;
    /// [`ProxyError::Unsupported`] does not pass on this node.
    async fn apply(&self, rules: &Rules) -> Result<Applied, ProxyError>;

    /// Removes everything that the backend made, whichever instance made it. Nothing to remove is
    /// no error.
    async fn teardown(&self) -> Result<(), ProxyError>;
}

/// What an [`ServiceProxy::apply`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// How much had to be done.
    pub how: How,
    /// Service ports that were added, removed or changed.
    pub changed: usize,
}

/// How much an [`ServiceProxy::apply`] had to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The rules were in force already.
    Unchanged,
    /// What changed was changed.
    Incremental,
    /// Everything was made anew, in one step: at the first call, or when the state in the kernel
    /// was not what this backend had left there.
    Full,
}

/// Why rules are not in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// This node cannot do it: another backend is needed.
    #[error("this node lacks {0}")]
    Unsupported(String),

    /// The kernel, or the tool before it, refused the change. Nothing was changed.
    #[error("rules rejected: {0}")]
    Rejected(String),

    /// The backend could not be asked, or did not answer. The change may have happened.
    #[error("{doing}")]
    Unavailable {
        /// What was being done.
        doing: String,
        /// Why that failed.
        #[source]
        source: std::io::Error,
    },
}
