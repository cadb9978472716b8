//! Who is asked a second time because somebody else changed the object after them (KEP-492,
//! `reinvocationPolicy`).
//!
//! When a webhook or a policy changes the object, all of mutation goes round once more: the
//! built-in plug-ins again, and of the webhooks and policies those that asked for it and came
//! before a change.

use std::collections::BTreeSet;

use serde_json::Value;

/// How mutation goes round.
#[derive(Debug, Default)]
pub(in crate::server) struct Rounds {
    /// Whether this is the second round.
    pub second: bool,
    /// Whether there is to be one.
    pub again: bool,
    /// Who among the webhooks is to be asked again.
    pub webhooks: Invoked,
    /// And among the policies.
    pub policies: Invoked,
}

/// Who was asked, among those that may be asked again.
#[derive(Debug, Default)]
pub(in crate::server) struct Invoked {
    asked: Vec<String>,
    due: BTreeSet<String>,
    /// The object as the last of them left it.
    left: Option<Value>,
}

impl Invoked {
    /// `who` was asked, and may be asked again.
    pub fn asked(&mut self, who: &str) {
        self.asked.push(who.to_owned());
    }

    /// The object was changed: whoever was asked before is asked again.
    pub fn changed(&mut self) {
        self.due.extend(self.asked.drain(..));
    }

    /// Whether `who` is to be asked in the second round.
    pub fn is_due(&self, who: &str) -> bool {
        self.due.contains(who)
    }

    /// Whether the object matters to anybody: somebody was asked who may be asked again.
    pub fn remembers(&self) -> bool {
        !self.asked.is_empty() || !self.due.is_empty()
    }

    /// Remembers the object after the first round.
    pub fn leave(&mut self, object: Value) {
        self.left = Some(object);
    }

    /// Begins the second round: built-in plug-ins may have changed the object meanwhile.
    pub fn resume(&mut self, object: impl FnOnce() -> Option<Value>) {
        if let Some(left) = self.left.take()
            && Some(left) != object()
        {
            self.changed();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_came_before_a_change_is_asked_again() {
        let mut invoked = Invoked::default();
        invoked.asked("first");
        invoked.changed();
        invoked.asked("second");
        assert!(invoked.is_due("first") && !invoked.is_due("second"));
        // A second change also concerns those asked since.
        invoked.changed();
        assert!(invoked.is_due("second"));
    }

    #[test]
    fn what_others_change_in_between_counts() {
        for (now, due) in [(json!({"a": 1}), false), (json!({"a": 2}), true)] {
            let mut invoked = Invoked::default();
            invoked.asked("hook");
            invoked.leave(json!({"a": 1}));
            invoked.resume(|| Some(now));
            assert_eq!(invoked.is_due("hook"), due);
        }
    }
}
