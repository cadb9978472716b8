//! The Kubernetes API as a library: its types, what the server knows of every kind, the server
//! itself, and what clients build on.

pub mod apply;
pub mod cel;
pub mod client;
pub mod clock;
pub mod discovery;
pub mod field;
pub mod io;
pub mod json;
pub mod meta;
pub mod openapi;
pub mod patch;
pub mod quota;
pub mod resources;
pub mod rng;
pub mod schema;
#[cfg(feature = "server")]
pub mod server;
pub mod testing;
pub mod types;
pub mod volumes;
