//! Tells loops within the server that there is something to do.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{Notify, futures::Notified};

use super::{
    super::object::CachedObject,
    table::{Observer, Table},
};

/// Rings when an object of some tables changes, and counts. So a loop that looks at everything now
/// and then can tell that it need not: an idle server costs nothing.
///
/// Take the count before looking: what changes meanwhile is then looked at the next time.
#[derive(Debug, Default)]
pub(in crate::server) struct Bell {
    rung: Notify,
    count: AtomicU64,
}

impl Bell {
    /// A bell that these tables ring. Those that are there already have rung it once.
    pub(in crate::server) fn of(tables: impl IntoIterator<Item = Option<Arc<Table>>>) -> Arc<Self> {
        let bell = Arc::new(Self::default());
        for table in tables.into_iter().flatten() {
            table.observe(bell.clone());
        }
        bell
    }

    /// How often it has rung.
    pub(in crate::server) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Waits until it rings; at once if it has since this was last awaited.
    pub(in crate::server) fn rung(&self) -> Notified<'_> {
        self.rung.notified()
    }

    fn ring(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.rung.notify_one();
    }
}

impl Observer for Bell {
    fn changed(&self, _: Option<&Arc<CachedObject>>, _: Option<&Arc<CachedObject>>) {
        self.ring();
    }

    fn replaced(&self, _: &mut dyn Iterator<Item = &Arc<CachedObject>>) {
        self.ring();
    }
}
