//! Why an evaluation has no value.

use super::authz::AccessQuery;

/// Why an evaluation has no value.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The expression failed on these values, for example because of a missing key.
    #[error("{0}")]
    Failed(String),
    /// One evaluation cost more than [`super::PER_CALL_LIMIT`].
    #[error("operation cancelled: actual cost limit exceeded")]
    CostLimit,
    /// The evaluation's [`super::Budget`] is used up.
    #[error(
        "validation failed due to running out of cost budget, no further validation rules will be run"
    )]
    OutOfBudget,
    /// The authorizer has not answered this yet: answer it, then evaluate again.
    #[error("an authorization decision is needed")]
    NeedsDecision(Box<AccessQuery>),
}

impl EvalError {
    /// A failure with a message.
    pub fn new(message: impl Into<String>) -> Self {
        EvalError::Failed(message.into())
    }

    pub(crate) fn no_such_overload() -> Self {
        Self::new("no such overload")
    }

    pub(crate) fn no_such_key(key: &str) -> Self {
        Self::new(format!("no such key: {key}"))
    }

    /// Whether `&&`, `||` and macros may go on in spite of it.
    pub(crate) fn can_be_absorbed(&self) -> bool {
        matches!(self, EvalError::Failed(_))
    }
}

/// Bounds work that the cost model does not count, such as comparing what is inside nested lists.
#[derive(Debug)]
pub(crate) struct Effort {
    left: u64,
}

/// Of one evaluation, in values touched: a tenth of a second or so.
const MAX_EFFORT: u64 = 20_000_000;

impl Effort {
    pub fn new() -> Self {
        Self { left: MAX_EFFORT }
    }

    /// Counts `amount`.
    ///
    /// # Errors
    /// There is no more.
    pub fn spend(&mut self, amount: u64) -> Result<(), EvalError> {
        self.left = self.left.checked_sub(amount).ok_or(EvalError::CostLimit)?;
        Ok(())
    }

    /// Whether two values are equal.
    pub fn equal(
        &mut self,
        left: &super::Value<'_>,
        right: &super::Value<'_>,
    ) -> Result<bool, EvalError> {
        let mut counted = 0;
        let equal = super::value::equal(left, right, &mut counted);
        self.spend(counted)?;
        equal
    }
}
