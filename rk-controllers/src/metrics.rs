//! Counters of a controller, in the words of controller-runtime.

use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

/// The counters of all controllers of a process. Cheap to clone; clones share.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Mutex<Vec<Named>>>);

/// The counters of the controller of this name.
type Named = (String, Arc<ControllerMetrics>);

/// The counters of one controller since its start.
#[derive(Debug, Default)]
pub struct ControllerMetrics {
    /// Reconciles that ended without an error.
    pub succeeded: AtomicU64,
    /// Reconciles that ended with an error, conflicts included.
    pub failed: AtomicU64,
    /// Reconciles that asked to be called again after some time.
    pub requeued: AtomicU64,
    /// Reconciles that panicked.
    pub panicked: AtomicU64,
    /// Reconciles under way now.
    pub active: AtomicU64,
    /// Time spent in reconciles, in microseconds.
    pub busy_us: AtomicU64,
    /// Keys waiting in the queue after the last one was taken.
    pub queue_depth: AtomicU64,
}

impl Metrics {
    /// The counters of `controller`, made on first use.
    pub fn of(&self, controller: &str) -> Arc<ControllerMetrics> {
        let mut all = self.0.lock();
        if let Some((_, metrics)) = all.iter().find(|(name, _)| name == controller) {
            return metrics.clone();
        }
        let metrics = Arc::<ControllerMetrics>::default();
        all.push((controller.to_owned(), metrics.clone()));
        metrics
    }

    /// All counters in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for (name, metrics) in self.0.lock().iter() {
            for (result, count) in [
                ("success", &metrics.succeeded),
                ("error", &metrics.failed),
                ("requeue_after", &metrics.requeued),
                ("panic", &metrics.panicked),
            ] {
                let count = count.load(Relaxed);
                let _ = writeln!(
                    text,
                    "controller_runtime_reconcile_total{{controller=\"{name}\",result=\"{result}\"}} {count}"
                );
            }
            let active = metrics.active.load(Relaxed);
            let depth = metrics.queue_depth.load(Relaxed);
            let busy_seconds = metrics.busy_us.load(Relaxed) as f64 / 1e6;
            let _ = writeln!(
                text,
                "controller_runtime_active_workers{{controller=\"{name}\"}} {active}"
            );
            let _ = writeln!(text, "workqueue_depth{{name=\"{name}\"}} {depth}");
            let _ = writeln!(
                text,
                "controller_runtime_reconcile_time_seconds_sum{{controller=\"{name}\"}} {busy_seconds}"
            );
        }
        text
    }
}
