//! Keys with a time to live: one task that deletes them when it ends.

use std::sync::Weak;

use tokio::{runtime::Handle, time::Instant};

use super::Core;
use crate::Expect;

/// Starts the task if there is something for it to do and none runs.
///
/// Without a tokio runtime around the caller nothing happens: the next write inside one starts it.
pub(super) fn ensure(core: &std::sync::Arc<Core>) {
    let Ok(runtime) = Handle::try_current() else { return };
    {
        let mut state = core.memory.write();
        if state.expirer_runs || state.expiring.is_empty() {
            return;
        }
        state.expirer_runs = true;
    }
    runtime.spawn(run(Running(std::sync::Arc::downgrade(core))));
}

/// Clears the flag when the task ends, also when its runtime is shut down around it.
#[derive(Debug)]
struct Running(Weak<Core>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(core) = self.0.upgrade() {
            core.memory.write().expirer_runs = false;
        }
    }
}

async fn run(running: Running) {
    loop {
        // Held only in here: a sleeping task must not keep a dropped store alive.
        let (next, memory) = {
            let Some(core) = running.0.upgrade() else { return };
            if core.memory.check_open().is_err() {
                return;
            }
            let next = core.memory.read().expiring.first_key_value().map(|(&(at, _), _)| at);
            (next, core.memory.clone())
        };
        match next {
            Some(at) if at <= Instant::now() => {
                let Some(core) = running.0.upgrade() else { return };
                if !expire_due(&core).await {
                    return;
                }
            }
            Some(at) => {
                tokio::select! {
                    biased;
                    () = memory.expiry_moved.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                }
            }
            None => memory.expiry_moved.notified().await,
        }
    }
}

/// Deletes what is due. False when the store takes no more writes.
async fn expire_due(core: &std::sync::Arc<Core>) -> bool {
    let now = Instant::now();
    let due: Vec<_> = {
        let state = core.memory.read();
        let due = state.expiring.iter().take_while(|((at, _), _)| *at <= now);
        due.map(|(&(_, revision), key)| (key.clone(), revision)).collect()
    };
    for (key, revision) in due {
        // A conflict means that another write replaced the key, and with it the time to live.
        let deleted = core.delete(&key, Expect::Revision(crate::Revision(revision))).await;
        if let Err(crate::StoreError::Unavailable { reason }) = deleted {
            tracing::warn!(%key, reason, "a key could not be expired");
            return false;
        }
    }
    true
}
