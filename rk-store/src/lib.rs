//! Ordered keys, revisions and watches: what the API server asks of persistence, and nothing more.

pub mod store;

pub use store::{
    Event, Expect, Range, RangeResponse, Revision, Store, StoreError, VALUE_BYTES_MAX, Versioned,
    WatchBatch, WatchStream,
};
