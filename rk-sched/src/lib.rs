//! Decides which node a Pod runs on.
//!
//! `rk-sched` is the Kubernetes scheduling framework as a library: give it a [`Snapshot`] of the
//! cluster and a Pod, and it names a node or says, node by node, why there is none. That part does
//! no I/O. [`Scheduler::builder`] makes a running scheduler of it, for any API server.
//!
//! # Where to start
//! - [`Scheduler`]: one scheduling cycle, top to bottom.
//! - [`framework`]: the extension points, in the order in which a Pod meets them.
//! - [`plugins`]: one file each; `plugins/node_name.rs` is the one to copy.
//! - [`Profile`] and [`config`]: which plugins run, in code or from a `KubeSchedulerConfiguration`.
//!
//! # Example
//! ```
//! use rk_api::testing::{node, pod};
//! use rk_sched::{Profile, Scheduler};
//!
//! let nodes = [node("small").cpu("1"), node("large").cpu("8")];
//! let placement = Scheduler::new(Profile::default()).schedule(&nodes.into(), &pod("web").cpu("2"))?;
//! assert_eq!(placement.node, "large");
//! # Ok::<(), rk_sched::Unschedulable>(())
//! ```
//!
//! # Invariants
//! - `Filter` judges the node it is handed: in a preemption dry run that is not the snapshot's.
//! - A normalized score is 0 to 100, higher is better. CPU is in millicores, memory in bytes.
//! - Cycles run one after the other; between them the snapshot is brought up to date.

pub mod config;
pub mod framework;
pub mod plugins;

mod affinity;
mod budgets;
mod cycle;
mod diagnosis;
mod namespaces;
mod node_info;
mod pod_info;
mod profile;
mod queue;
mod resources;
mod runner;
mod selector;
mod snapshot;
mod status;
mod storage;

pub use affinity::{PodTerm, PodTerms};
pub use budgets::{BudgetView, Budgets};
pub use cycle::{Filters, Placement, Prepared, Rejection, Scheduler};
pub use diagnosis::{Diagnosis, FitError, Unschedulable};
pub use namespaces::{NamespaceView, Namespaces};
pub use node_info::{NodeChange, NodeInfo};
pub use pod_info::{DEFAULT_SCHEDULER_NAME, HostPort, PodInfo};
pub use profile::{Point, Profile, ProfileBuilder, ProfileError};
pub use queue::{Backoff, SchedulingQueue};
pub use resources::{NonZero, Resources, pod_non_zero, pod_requests};
pub use runner::{SchedulerBuilder, SchedulerRunner, WaitingPods};
pub use selector::{NodeTerm, NodeTerms};
pub use snapshot::Snapshot;
pub use status::{Code, Status};
pub use storage::{Storage, StorageView};
