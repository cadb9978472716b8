//! Selectors and quantities, given anything. What is printed of one must parse to the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rk_api::meta::{
    quantity::Quantity,
    selectors::{FieldQuery, LabelQuery},
};

fuzz_target!(|text: &str| {
    if let Ok(query) = LabelQuery::parse(text) {
        let again = LabelQuery::parse(&query.to_string());
        assert_eq!(again.as_ref().map(ToString::to_string), Ok(query.to_string()));
    }
    if let Ok(query) = FieldQuery::parse(text) {
        let again = FieldQuery::parse(&query.to_string());
        assert_eq!(again.as_ref().map(ToString::to_string), Ok(query.to_string()));
    }
    if let Ok(quantity) = Quantity::parse(text) {
        let again = Quantity::parse(&quantity.to_string());
        assert_eq!(again.as_ref().ok(), Some(&quantity));
        let sum = quantity.plus(&quantity);
        assert_eq!(sum.minus(&quantity).signum(), quantity.signum());
    }
});
