//! What all objects share: names, selectors, quantities, tables.

pub mod names;
pub mod table;
