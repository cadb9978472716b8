//! Forgetting history by time, as kube-apiserver does.
//!
//! Everybody who would compact an etcd agrees over one key, `compact_rev_key`. Its version counts
//! the periods: who finds it as it was a period ago increments it, and so has the right to compact to
//! the revision that was the latest then. Everybody else learns the new version and waits on. So
//! there is one compaction in each period, however many take part, and at least one period of history
//! is always kept. (kube-apiserver: `storage/etcd3/compact.go`.)

use std::{sync::Arc, time::Duration};

use etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse};

use super::{
    error::Failure,
    pool::{Pool, Refusal},
    watch::revision,
};
use crate::Revision;

/// The key that all agree over. It is outside of every prefix.
const KEY: &str = "compact_rev_key";

/// What was seen of the key, and of the store, a period ago.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    version: i64,
    revision: Revision,
}

/// Compacts every `period`, for as long as it is polled.
pub(super) async fn run(pool: Arc<Pool>, period: Duration) {
    let mut seen = Seen::default();
    loop {
        tokio::time::sleep(period).await;
        match turn(&pool, seen).await {
            Ok(now) => seen = now,
            Err(refusal) => tracing::warn!(error = %refusal.error, "etcd was not compacted"),
        }
    }
}

/// One period has passed.
pub(super) async fn turn(pool: &Pool, seen: Seen) -> Result<Seen, Refusal> {
    let txn = Txn::new()
        .when([Compare::version(KEY, CompareOp::Equal, seen.version)])
        .and_then([TxnOp::put(KEY, seen.revision.to_string(), None)])
        .or_else([TxnOp::get(KEY, None)]);
    let answer = pool.write(|member| {
        let (mut kv, txn) = (member.kv, txn.clone());
        async move { kv.txn(txn).await }
    });
    let answer = answer.await?;
    let revision = revision(answer.header().map_or(0, |header| header.revision()));
    if !answer.succeeded() {
        let version = match answer.op_responses().first() {
            Some(TxnOpResponse::Get(found)) => found.kvs().first().map_or(0, |kv| kv.version()),
            _ => 0,
        };
        return Ok(Seen { version, revision });
    }
    let now = Seen { version: seen.version + 1, revision };
    if seen.revision > Revision(0) {
        compact(pool, seen.revision).await?;
        tracing::debug!(revision = %seen.revision, "etcd was compacted");
    }
    Ok(now)
}

/// Forgets what was superseded at `to`, or before. Twice is as good as once.
pub(super) async fn compact(pool: &Pool, to: Revision) -> Result<(), Refusal> {
    let to = i64::try_from(to.0).unwrap_or(i64::MAX);
    let answer = pool.read(|member| {
        let mut kv = member.kv;
        async move { kv.compact(to, None).await }
    });
    match answer.await {
        Err(refusal) if refusal.failure != Failure::Compacted => Err(refusal),
        _ => Ok(()),
    }
}
