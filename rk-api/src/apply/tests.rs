//! The library as a whole: KEP-555's examples, and properties against obvious models.

mod examples;
mod properties;
