//! [`EtcdStore`]: the store that is an etcd cluster.

mod compactor;
mod error;
mod keys;
mod lease;
mod options;
mod pool;
mod watch;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, GetResponse, KeyValue, PutOptions, Txn, TxnOp,
    TxnOpResponse, TxnResponse,
};
use parking_lot::Mutex;
use tokio::{task::AbortHandle, time::Instant};

use self::{
    error::Failure,
    keys::KeyRange,
    lease::Leases,
    pool::{Pool, Refusal},
    watch::revision,
};
pub use self::{
    keys::Keyspace,
    options::{EtcdOptions, EtcdTls},
};
use crate::{
    Expect, Range, RangeResponse, Revision, Store, StoreError, VALUE_BYTES_MAX, Versioned,
    WatchStream,
};

/// Keys are read from etcd at most so many at a time, all as of one revision.
const PAGE: usize = 1000;

/// How often a range without a revision is begun anew when compaction overtakes it.
const RANGE_ATTEMPTS: usize = 3;

/// A [`Store`] that is an etcd cluster, 3.4 or later.
///
/// Clones are handles to one connection. Any number of them, in any number of processes, can use
/// one etcd, kube-apiservers included.
///
/// # Members
/// One member is used as long as it answers, then the next. Reads and watches do not notice but for
/// the time it takes; watches go on after the last revision they have delivered. A write that was
/// sent and not answered fails with [`StoreError::Unavailable`], and may have happened; one that
/// could not be sent goes to another member.
///
/// # Time to live
/// Keys that expire at about the same time share a lease, and then expire in one revision: their
/// events have the same one. A key expires up to 5 % (at most a minute) and two seconds late.
///
/// # Sizes
/// etcd's `--max-request-bytes`, 1.5 MiB unless set, counts the whole request. With that limit, a
/// value that is within some hundred bytes of [`VALUE_BYTES_MAX`] is [`StoreError::TooLarge`].
#[derive(Clone, Debug)]
pub struct EtcdStore {
    core: Arc<Core>,
}

#[derive(Debug)]
struct Core {
    pool: Arc<Pool>,
    keyspace: Keyspace,
    leases: Mutex<Leases>,
    compactor: Option<AbortHandle>,
}

impl Drop for Core {
    fn drop(&mut self) {
        if let Some(compactor) = &self.compactor {
            compactor.abort();
        }
    }
}

impl EtcdStore {
    /// Connects, and waits for an answer. Has to be called in a tokio runtime, in which the store
    /// then works.
    ///
    /// Fails with [`StoreError::Unavailable`], and the reason, when no member answers in time: it
    /// cannot be reached, or one side does not accept the other's certificate.
    pub async fn open(options: EtcdOptions) -> Result<Self, StoreError> {
        let pool = Arc::new(Pool::new(&options).await?);
        watch::latest(&pool).await?;
        let compactor = options
            .compact_every
            .map(|period| tokio::spawn(compactor::run(pool.clone(), period)).abort_handle());
        let (keyspace, leases) = (options.keyspace, Mutex::default());
        Ok(EtcdStore { core: Arc::new(Core { pool, keyspace, leases, compactor }) })
    }
}

impl Core {
    fn key(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        self.keyspace.to_etcd(key).ok_or_else(|| StoreError::Unavailable {
            reason: format!("{key} is not in the part of etcd that this store has"),
        })
    }

    fn versioned(&self, kv: KeyValue) -> Option<Versioned> {
        let key = self.keyspace.of_etcd(kv.key())?;
        let (created, modified) = (revision(kv.create_revision()), revision(kv.mod_revision()));
        let (_, value) = kv.into_key_value();
        Some(Versioned { key, value: Bytes::from(value), created, modified })
    }

    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        let key = self.key(key)?;
        let answer = self.core_get(key, GetOptions::new()).await?;
        Ok(self.first(answer))
    }

    async fn core_get(&self, key: Vec<u8>, options: GetOptions) -> Result<GetResponse, Refusal> {
        let answer = self.pool.read(|member| {
            let (mut kv, key, options) = (member.kv, key.clone(), options.clone());
            async move { kv.get(key, Some(options)).await }
        });
        answer.await
    }

    fn first(&self, mut answer: GetResponse) -> Option<Versioned> {
        answer.take_kvs().into_iter().next().and_then(|kv| self.versioned(kv))
    }

    /// One try at a whole range.
    async fn range(&self, range: Range<'_>) -> Result<RangeResponse, StoreError> {
        let mut found = RangeResponse::default();
        let mut at = range.revision;
        // A range of no keys is read all the same: its revision must be one that is kept.
        let nothing = KeyRange { from: vec![0], to: Vec::new() };
        let mut keys = self.keyspace.range(range.prefix, range.after).unwrap_or(nothing);
        loop {
            let left = range.limit.saturating_sub(found.items.len());
            let limit = if range.limit == 0 { PAGE } else { left.min(PAGE) };
            let mut options = GetOptions::new().with_limit(limit as i64);
            if !keys.to.is_empty() {
                options = options.with_range(keys.to.clone());
            }
            if let Some(at) = at {
                // Revision 0 would mean the latest one. Nothing is there at either.
                options = options.with_revision(i64::try_from(at.0.max(1)).unwrap_or(i64::MAX));
            }
            let mut answer = match self.core_get(keys.from.clone(), options).await {
                Ok(answer) => answer,
                Err(refusal) => return Err(self.of_the_past(refusal, at).await),
            };
            let latest = revision(answer.header().map_or(0, |header| header.revision()));
            found.revision = *at.get_or_insert(latest);
            let kvs = answer.take_kvs();
            found.remaining =
                usize::try_from(answer.count()).unwrap_or(0).saturating_sub(kvs.len());
            match kvs.last() {
                Some(last) => keys.from = [last.key(), &[0]].concat(),
                None => found.remaining = 0,
            }
            found.items.extend(kvs.into_iter().filter_map(|kv| self.versioned(kv)));
            if found.remaining == 0 || (range.limit > 0 && found.items.len() >= range.limit) {
                return Ok(found);
            }
        }
    }

    /// What a refusal means to somebody who asked for a revision.
    async fn of_the_past(&self, refusal: Refusal, asked: Option<Revision>) -> StoreError {
        let asked = asked.unwrap_or_default();
        let known = match refusal.failure {
            Failure::Compacted => {
                let oldest = watch::oldest(&self.pool).await;
                oldest.map(|oldest| StoreError::Compacted { asked, oldest })
            }
            Failure::Future => {
                let latest = watch::latest(&self.pool).await;
                latest.map(|latest| StoreError::Future { asked, latest })
            }
            _ => return refusal.error,
        };
        known.unwrap_or_else(StoreError::from)
    }

    /// Does `change` to a key if it is as expected. What happens otherwise is that it is read.
    async fn change(
        &self,
        key: &[u8],
        expect: Expect,
        change: TxnOp,
    ) -> Result<TxnResponse, Refusal> {
        let mut txn = Txn::new();
        txn = match expect {
            Expect::Any => txn,
            Expect::Absent => txn.when([Compare::create_revision(key, CompareOp::Equal, 0)]),
            Expect::Revision(revision) => {
                let revision = i64::try_from(revision.0).unwrap_or(i64::MAX);
                // Revision 0 is that of a key which is not there.
                txn.when([
                    Compare::mod_revision(key, CompareOp::Equal, revision),
                    Compare::create_revision(key, CompareOp::Greater, 0),
                ])
            }
        };
        let txn = txn.and_then([change]).or_else([TxnOp::get(key, None)]);
        let answer = self.pool.write(|member| {
            let (mut kv, txn) = (member.kv, txn.clone());
            async move { kv.txn(txn).await }
        });
        answer.await
    }

    /// The error of a change that was not made.
    fn conflict(&self, key: &str, answer: &TxnResponse) -> StoreError {
        let found = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(found) => self.first(found),
            _ => None,
        });
        StoreError::Conflict { key: key.into(), found: found.map(Box::new) }
    }

    /// A lease for a key that is about to be written.
    async fn lease(&self, ttl: Duration) -> Result<i64, StoreError> {
        let now = Instant::now();
        if let Some(shared) = self.leases.lock().share(now, ttl) {
            return Ok(shared);
        }
        let seconds = lease::seconds(ttl);
        // A lease that nobody hears of expires by itself, so asking twice does no harm.
        let granted = self.pool.read(|member| {
            let mut lease = member.lease;
            async move { lease.grant(i64::try_from(seconds).unwrap_or(i64::MAX), None).await }
        });
        let id = granted.await?.id();
        self.leases.lock().granted(id, now, seconds);
        Ok(id)
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        let too_large = |max_bytes| StoreError::TooLarge {
            key: key.into(),
            size_bytes: value.len(),
            max_bytes,
        };
        if value.len() > VALUE_BYTES_MAX {
            return Err(too_large(VALUE_BYTES_MAX));
        }
        let there = self.key(key)?;
        loop {
            let lease = match ttl {
                Some(ttl) => Some(self.lease(ttl).await?),
                None => None,
            };
            let options = lease.map(|lease| PutOptions::new().with_lease(lease));
            let put = TxnOp::put(there.clone(), value.to_vec(), options);
            match (self.change(&there, expect, put).await, lease) {
                (Ok(answer), _) if answer.succeeded() => {
                    return Ok(revision(answer.header().map_or(0, |header| header.revision())));
                }
                (Ok(answer), _) => return Err(self.conflict(key, &answer)),
                // Somebody revoked it: the next one is new.
                (Err(Refusal { failure: Failure::NoLease, .. }), Some(lease)) => {
                    self.leases.lock().forget(lease);
                }
                (Err(Refusal { failure: Failure::TooLarge, .. }), _) => {
                    return Err(too_large(value.len().saturating_sub(1)));
                }
                (Err(refusal), _) => return Err(refusal.error),
            }
        }
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(Revision, Versioned), StoreError> {
        let conflict = |found: Option<Versioned>| StoreError::Conflict {
            key: key.into(),
            found: found.map(Box::new),
        };
        if expect == Expect::Absent {
            return Err(conflict(self.get(key).await?));
        }
        let there = self.key(key)?;
        let options = DeleteOptions::new().with_prev_key();
        let delete = TxnOp::delete(there.clone(), Some(options));
        let answer = self.change(&there, expect, delete).await?;
        if !answer.succeeded() {
            return Err(self.conflict(key, &answer));
        }
        let at = revision(answer.header().map_or(0, |header| header.revision()));
        let deleted = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Delete(mut deleted) => deleted.take_prev_kvs().into_iter().next(),
            _ => None,
        });
        match deleted.and_then(|kv| self.versioned(kv)) {
            Some(deleted) => Ok((at, deleted)),
            None => Err(conflict(None)),
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        self.core.get(key).await
    }

    async fn range(&self, range: Range<'_>) -> Result<RangeResponse, StoreError> {
        let mut attempts = 1;
        loop {
            match self.core.range(range).await {
                Err(StoreError::Compacted { .. })
                    if range.revision.is_none() && attempts < RANGE_ATTEMPTS =>
                {
                    attempts += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        self.core.put(key, value, expect, ttl).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(Revision, Versioned), StoreError> {
        self.core.delete(key, expect).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(watch::latest(&self.core.pool).await?)
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        watch::start(self.core.pool.clone(), self.core.keyspace.clone(), prefix, from).await
    }

    async fn compact(&self, to: Revision) -> Result<(), StoreError> {
        if to == Revision(0) {
            return Ok(());
        }
        match compactor::compact(&self.core.pool, to).await {
            Ok(()) => Ok(()),
            Err(refusal) => Err(self.core.of_the_past(refusal, Some(to)).await),
        }
    }
}
