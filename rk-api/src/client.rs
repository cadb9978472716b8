//! What components build on to talk to an API server: shared caches of objects, work queues,
//! leader election, events. All of it works over any `kube::Client`.
//!
//! - [`Informers`]: one list and watch per kind and process, shared by all that ask for it.
//! - [`WorkQueue`]: keys to reconcile, each at most once at a time, with delays and back-off.
//! - [`LeaderElector`]: one active instance among several, by a Lease.
//! - [`EventRecorder`]: Events about objects, with repeats counted instead of stored again.
//! - [`request`]: an object from an answer, without its managed fields.

mod backoff;
mod events;
#[cfg(test)]
mod fake;
mod informer;
mod leader_election;
mod slim;
mod work_queue;

pub use backoff::Backoff;
pub use events::{EventRecorder, EventType, object_ref};
pub use informer::{Change, Informer, Informers, MetadataSink, Subscription, Watchable};
pub use leader_election::{LeaderElectionConfig, LeaderElector};
pub use slim::request;
pub use work_queue::{RateLimit, WorkQueue};
