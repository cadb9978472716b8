//! What the server does is the same on etcd: these suites once more, each test with a part of one
//! real etcd as its store.
#![cfg(feature = "etcd")]
#![allow(clippy::duplicate_mod, reason = "each suite brings the helpers that it uses")]

#[path = "apply.rs"]
mod apply;
#[path = "custom_resources.rs"]
mod custom_resources;
#[path = "lists.rs"]
mod lists;
#[path = "objects.rs"]
mod objects;
#[path = "watches.rs"]
mod watches;
#[path = "wire.rs"]
mod wire;
