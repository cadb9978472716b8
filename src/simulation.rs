//! Virtual time: whole histories of a cluster that can be run again.
//!
//! [`block_on`] runs a future on one thread, on a clock that stands still while there is something
//! to do and jumps when there is not, with all chance from a seed. A cluster that is started in it
//! with [`ClusterBuilder::virtual_time`](crate::ClusterBuilder::virtual_time) lives a day in about
//! the time that its work takes, and lives the same day again for the same seed:
//!
//! ```
//! use std::time::Duration;
//! use rk::{Cluster, simulation};
//!
//! let seed = 7;
//! let later = simulation::block_on(seed, async {
//!     let cluster = Cluster::builder().virtual_time(seed).start().await?;
//!     tokio::time::sleep(Duration::from_secs(3600)).await;
//!     cluster.shutdown().await;
//!     Ok::<_, rk::ClusterError>(rk::api::clock::now())
//! })??;
//! assert!(later >= simulation::EPOCH + Duration::from_secs(3600));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod digest;
mod flips;
pub mod invariants;
mod run;
mod scenario;
mod shrink;
mod user;
mod view;

use std::{future::Future, io};

use k8s_openapi::jiff::Timestamp;
use rk_api::{clock, rng};

pub use self::{
    digest::Digest,
    flips::{FLIPS_MAX, Flips},
    run::{Outcome, RunError, Told, run},
    scenario::{Action, Scenario, What},
    shrink::shrink,
    view::{Ended, Rollout, Step, View},
};

/// When virtual time begins: 2026-01-01T00:00:00Z, a Thursday.
pub const EPOCH: Timestamp = Timestamp::constant(1_767_225_600, 0);

/// Runs `future`, and all that it spawns, in virtual time: on this thread, from [`EPOCH`] on, with
/// chance that `seed` decides. What is still running when it returns is dropped.
///
/// # Errors
/// The operating system gives no runtime: it has no file descriptors left.
///
/// # Panics
/// When it is called within a tokio runtime, as [`tokio::runtime::Runtime::block_on`] does.
pub fn block_on<F: Future>(seed: u64, future: F) -> io::Result<F::Output> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    Ok(runtime.block_on(async {
        begin(seed);
        future.await
    }))
}

/// Time begins, unless it has in this runtime, and chance is that of `seed`.
pub(crate) fn begin(seed: u64) {
    if !clock::is_chosen() {
        clock::begin_at(EPOCH);
    }
    rng::seed(seed);
}
