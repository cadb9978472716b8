//! Whether a component reaches the API server.

use tokio::sync::watch;

/// The connection of one life of a component.
#[derive(Debug)]
pub(super) struct Link {
    condition: watch::Sender<Condition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Up,
    /// It may come back.
    Cut,
    /// The component died: nothing of it is heard again.
    Dead,
}

impl Default for Link {
    fn default() -> Self {
        Self { condition: watch::Sender::new(Condition::Up) }
    }
}

impl Link {
    /// Cuts it, or puts it together again if it is not dead.
    pub(super) fn cut(&self, off: bool) {
        let wanted = if off { Condition::Cut } else { Condition::Up };
        self.condition.send_if_modified(|condition| {
            let change = *condition != Condition::Dead && *condition != wanted;
            if change {
                *condition = wanted;
            }
            change
        });
    }

    pub(super) fn kill(&self) {
        self.condition.send_replace(Condition::Dead);
    }

    pub(super) fn is_down(&self) -> bool {
        *self.condition.borrow() != Condition::Up
    }

    /// Returns when it is cut, at once if it is.
    pub(super) async fn down(&self) {
        let mut condition = self.condition.subscribe();
        // The sender lives as long as `self`: there is no error.
        let _ = condition.wait_for(|condition| *condition != Condition::Up).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_link_is_cut_and_mended_until_it_dies() {
        let link = Link::default();
        assert!(!link.is_down() && link.down().now_or_never().is_none());
        link.cut(true);
        assert!(link.is_down());
        link.down().await;
        link.cut(false);
        assert!(!link.is_down());
        link.kill();
        link.cut(false);
        assert!(link.is_down(), "the dead stay dead");
    }
}
