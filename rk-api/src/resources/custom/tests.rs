//! What holds of any schema and any object: see the properties.
