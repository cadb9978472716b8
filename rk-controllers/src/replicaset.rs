//! ReplicaSets.
mod plan;
mod status;
