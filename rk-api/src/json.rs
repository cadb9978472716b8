//! Decoding JSON in one way.
//!
//! Decoders are generic in what they read from: a type that is decoded from bytes, from a text and
//! from a tree is compiled three times, with all that it holds, in each crate that does so. For the
//! types of the API this made half of a program. So they are always decoded from a text; a check of
//! the whole for UTF-8 is also cheaper than one of each text in it.

use serde::{
    de::{DeserializeOwned, Error as _},
    ser::Serialize,
};

/// Decodes an object from JSON.
///
/// # Errors
/// serde_json's, also for bytes that are not UTF-8.
pub fn from_slice<T: DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    serde_json::from_str(std::str::from_utf8(json).map_err(serde_json::Error::custom)?)
}

/// Decodes an object from a tree, or from another object with fields of the same names.
///
/// # Errors
/// serde_json's.
pub fn from_value<T: DeserializeOwned>(value: &impl Serialize) -> serde_json::Result<T> {
    serde_json::from_str(&serde_json::to_string(value)?)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};

    use super::*;

    #[test]
    fn bytes_and_trees_become_objects() {
        let pod: Pod = from_slice(br#"{"metadata":{"name":"x"}}"#).unwrap();
        assert_eq!(from_value::<Pod>(&serde_json::to_value(&pod).unwrap()).unwrap(), pod);
        assert!(from_slice::<Pod>(b"{\"metadata\":{\"name\":\"\xff\"}}").is_err());
        assert!(from_value::<ObjectMeta>(&"text").is_err());
    }
}
