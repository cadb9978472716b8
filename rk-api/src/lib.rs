//! The Kubernetes API as a library: its types, what the server knows of every kind, the server
//! itself, and what clients build on.

pub mod client;
pub mod clock;
pub mod discovery;
pub mod field;
pub mod meta;
pub mod patch;
pub mod resources;
pub mod schema;
pub mod rng;
pub mod testing;
pub mod types;
