//! Ordered keys, revisions and watches: what the API server asks of persistence, and nothing more.
//!
//! A [`Store`] maps keys to bytes. Each write makes a revision, writes can be made conditional on
//! the revision of what they replace, ranges can be read as of a past revision, and a watch tells
//! every change after a revision. Nothing in here knows what the keys and bytes mean.
//!
//! # Where to start
//! - [`store`]: the trait, and what it promises.
//! - [`EmbeddedStore`]: the store in this process, in memory or durable in a directory.
//! - `EtcdStore` (feature `etcd`): the store that is an etcd cluster.
//! - [`conformance`]: the promises as tests, for a store of your own.
//!
//! # Example
//! ```
//! use bytes::Bytes;
//! use futures::StreamExt;
//! use rk_store::{EmbeddedStore, Expect, Range, Store, StoreError};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let directory = tempfile::tempdir()?;
//! let store = EmbeddedStore::open(directory.path(), Default::default()).await?;
//!
//! let first = store.put("/fruit/apple", Bytes::from("red"), Expect::Absent, None).await?;
//! let second = store.put("/fruit/apple", Bytes::from("green"), Expect::Revision(first), None).await?;
//! // Somebody who still thinks that it is red:
//! let late = store.put("/fruit/apple", Bytes::from("blue"), Expect::Revision(first), None).await;
//! assert!(matches!(late, Err(StoreError::Conflict { .. })));
//!
//! let then = Range { prefix: "/fruit/", revision: Some(first), ..Range::default() };
//! assert_eq!(store.range(then).await?.items[0].value, "red");
//! let mut watch = store.watch("/fruit/", first).await?;
//! let batch = watch.next().await.expect("a watch goes on")?;
//! assert_eq!((batch.events.len(), batch.revision), (1, second));
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```
//!
//! # Invariants
//! - Revisions count up by one per write. An expiry is a write like any other.
//! - What can be read or watched is durable: no crash takes back what anybody has seen.
//! - A watcher has a position and no buffer. It is given everything from there on, in order and
//!   once, or [`StoreError::Compacted`].
//! - Files are either as they were written, or opening them fails and says where they are not. The
//!   one exception, the remains of a write that was never acknowledged, is reported too.
//! - Keys and values are shared, never copied, between the state, its history and all readers.

pub mod conformance;
mod embedded;
#[cfg(feature = "etcd")]
mod etcd;
pub mod store;

#[doc(hidden)]
pub use embedded::fuzzing;
pub use embedded::{EmbeddedStore, OpenReport, Options, TornTail};
#[cfg(feature = "etcd")]
pub use etcd::{EtcdOptions, EtcdStore, EtcdTls, Keyspace};
pub use store::{
    Event, Expect, Range, RangeResponse, Revision, Store, StoreError, VALUE_BYTES_MAX, Versioned,
    WatchBatch, WatchStream,
};
