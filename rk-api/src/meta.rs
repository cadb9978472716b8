//! What all objects share: metadata, names, selectors, quantities, tables.

pub mod addresses;
pub mod conditions;
pub mod cron;
pub mod duration;
pub mod names;
pub mod object;
pub mod quantity;
pub mod selectors;
pub mod strict;
pub mod table;

pub use self::object::{validate_metadata, validate_metadata_update};

/// An annotation of a node's Lease in `kube-node-lease`: the name of another Lease there, and
/// whenever that one is renewed this one counts as renewed too. So thousands of simulated nodes of one
/// process give their sign of life with one write.
///
/// It is rk's own: the node lifecycle controller of rk knows it, that of Kubernetes does not.
pub const RENEWED_WITH: &str = "sim.rk.dev/renewed-with";
