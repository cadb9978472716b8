use std::{borrow::Cow, fmt};

use smallvec::SmallVec;

/// What a plugin decided. The names are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// Go on.
    Success,
    /// Something broke that has nothing to do with the Pod: it is tried again after a back-off.
    Error,
    /// The Pod does not fit, but would if other Pods went: preemption may help.
    Unschedulable,
    /// The Pod does not fit, whatever other Pods do. From `PreFilter`: on no node at all.
    UnschedulableAndUnresolvable,
    /// `Permit` only: the Pod waits for somebody to allow or reject it.
    Wait,
    /// The plugin has nothing to say about this Pod. From `PreFilter` and `PreScore`: its `Filter`
    /// or `Score` need not run. From `Bind`: the next plugin binds.
    Skip,
    /// The Pod does not fit yet, because the plugin itself waits for something to be done for it.
    Pending,
}

/// A [`Code`] with the reasons for it, in words for the Pod's event and condition.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Status {
    code: Code,
    reasons: SmallVec<[Cow<'static, str>; 1]>,
}

impl Status {
    /// Go on.
    pub const fn success() -> Self {
        Self { code: Code::Success, reasons: SmallVec::new_const() }
    }

    /// Nothing to say about this Pod.
    pub const fn skip() -> Self {
        Self { code: Code::Skip, reasons: SmallVec::new_const() }
    }

    /// A status with one reason.
    pub fn new(code: Code, reason: impl Into<Cow<'static, str>>) -> Self {
        let mut reasons = SmallVec::new();
        reasons.push(reason.into());
        Self { code, reasons }
    }

    /// A status with several reasons.
    pub fn with_reasons(code: Code, reasons: impl IntoIterator<Item = Cow<'static, str>>) -> Self {
        Self { code, reasons: reasons.into_iter().collect() }
    }

    /// See [`Code::Unschedulable`].
    pub fn unschedulable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Unschedulable, reason)
    }

    /// See [`Code::UnschedulableAndUnresolvable`].
    pub fn unresolvable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::UnschedulableAndUnresolvable, reason)
    }

    /// See [`Code::Error`].
    pub fn error(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::Error, reason)
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The reasons, in the plugin's order.
    pub fn reasons(&self) -> &[Cow<'static, str>] {
        &self.reasons
    }

    /// The reasons in one line.
    pub fn message(&self) -> String {
        self.reasons.join(", ")
    }

    /// Whether the code is `Success`.
    pub fn is_success(&self) -> bool {
        self.code == Code::Success
    }

    /// Whether the plugin turned the Pod down, as opposed to failing.
    pub fn is_rejected(&self) -> bool {
        matches!(
            self.code,
            Code::Unschedulable | Code::UnschedulableAndUnresolvable | Code::Pending
        )
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.code)?;
        if !self.reasons.is_empty() {
            write!(f, "({})", self.message())?;
        }
        Ok(())
    }
}
