//! Ordered keys, revisions and watches: what the API server asks of persistence, and nothing more.

pub mod conformance;
mod embedded;
pub mod store;

pub use embedded::{EmbeddedStore, OpenReport, Options, TornTail};
pub use store::{
    Event, Expect, Range, RangeResponse, Revision, Store, StoreError, VALUE_BYTES_MAX, Versioned,
    WatchBatch, WatchStream,
};
