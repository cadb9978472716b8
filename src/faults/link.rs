//! Whether a component reaches the API server.

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// The connection of one life of a component.
#[derive(Debug, Default)]
pub(super) struct Link {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    condition: Condition,
    /// Cancelled when it goes down, and a new one when it comes back. It wakes those who wait in
    /// their order, where a `watch` channel leaves that to chance.
    down: CancellationToken,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Condition {
    #[default]
    Up,
    /// It may come back.
    Cut,
    /// The component died: nothing of it is heard again.
    Dead,
}

impl State {
    fn turn(&mut self, condition: Condition) {
        self.condition = condition;
        match condition {
            Condition::Up => self.down = CancellationToken::new(),
            Condition::Cut | Condition::Dead => self.down.cancel(),
        }
    }
}

impl Link {
    /// Cuts it, or puts it together again if it is not dead.
    pub(super) fn cut(&self, off: bool) {
        let wanted = if off { Condition::Cut } else { Condition::Up };
        let mut state = self.state.lock();
        if state.condition != Condition::Dead && state.condition != wanted {
            state.turn(wanted);
        }
    }

    pub(super) fn kill(&self) {
        self.state.lock().turn(Condition::Dead);
    }

    pub(super) fn is_down(&self) -> bool {
        self.state.lock().condition != Condition::Up
    }

    /// Returns when it is cut, at once if it is.
    pub(super) async fn down(&self) {
        let down = self.state.lock().down.clone();
        down.cancelled().await;
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
        assert!(!link.is_down() && link.down().now_or_never().is_none());
        link.kill();
        link.cut(false);
        assert!(link.is_down(), "the dead stay dead");
        link.down().await;
    }
}
