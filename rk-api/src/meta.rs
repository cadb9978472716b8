//! What all objects share: metadata, names, selectors, quantities, tables.

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
