//! Watches: one stream to etcd each, begun anew where it broke off.
//!
//! A stream follows all keys of etcd and the ones asked for are picked out here. Every revision is
//! an event of some key, so a stream that has delivered an event has delivered everything before it,
//! and progress is exact. etcd's own progress notifications are not used: in versions before 3.4.25
//! and 3.5.8 they can overtake events (etcd-io/etcd#15220), and what believes one then misses them.
//! The API server has one watch, of almost all keys there are, so this costs it nothing.

use std::sync::Arc;

use bytes::Bytes;
use etcd_client::{EventType, GetOptions, WatchOptions, proto::PbEvent};
use futures::{StreamExt, stream};
use tokio::{sync::watch, time::Instant};

use super::{
    Keyspace,
    error::{Failure, unavailable},
    pool::{Answer, Member, Pool, Refusal},
};
use crate::{Event, Revision, StoreError, Versioned, WatchBatch, WatchStream};

/// Where a watch is.
struct Watch {
    pool: Arc<Pool>,
    keyspace: Keyspace,
    prefix: String,
    /// Everything up to here was delivered.
    reached: Revision,
    /// Events of a revision of which there may be more to come.
    held: Vec<Event>,
    upstream: Option<Upstream>,
    ended: bool,
}

/// An open stream to a member.
pub(super) struct Upstream {
    member: usize,
    active: watch::Receiver<usize>,
    stream: etcd_client::WatchStream,
}

/// Begins a watch: see [`Store::watch`](crate::Store::watch).
pub(super) async fn start(
    pool: Arc<Pool>,
    keyspace: Keyspace,
    prefix: &str,
    from: Revision,
) -> Result<WatchStream, StoreError> {
    let upstream = open(&pool, from).await?;
    let watch = Watch {
        pool,
        keyspace,
        prefix: prefix.to_owned(),
        reached: from,
        held: Vec::new(),
        upstream: Some(upstream),
        ended: false,
    };
    Ok(stream::unfold(watch, async |mut watch| {
        if watch.ended {
            return None;
        }
        let next = watch.next().await;
        watch.ended = next.is_err();
        Some((next, watch))
    })
    .boxed())
}

impl Watch {
    async fn next(&mut self) -> Result<WatchBatch, StoreError> {
        loop {
            let Some(upstream) = &mut self.upstream else {
                // What was held back will come again.
                self.held.clear();
                self.upstream = Some(open(&self.pool, self.reached).await?);
                continue;
            };
            match upstream.next().await {
                Next::Response(response) => {
                    if response.compact_revision() > 0 {
                        let oldest = revision(response.compact_revision());
                        return Err(StoreError::Compacted { asked: self.reached, oldest });
                    }
                    if response.canceled() {
                        self.upstream = None;
                        continue;
                    }
                    if let Some(batch) = self.take(response) {
                        return Ok(batch);
                    }
                }
                Next::Broken(reason) => {
                    tracing::debug!(reason, from = %self.reached, "a watch of etcd begins anew");
                    let member = upstream.member;
                    self.upstream = None;
                    self.pool.leave(member);
                }
                Next::Left => self.upstream = None,
            }
        }
    }

    /// What a response adds; nothing when it is not complete or only confirms something.
    fn take(&mut self, response: etcd_client::WatchResponse) -> Option<WatchBatch> {
        let last = response.0.events.iter().filter_map(|event| event.kv.as_ref()).next_back()?;
        let last = revision(last.mod_revision);
        let more_of_last = response.0.fragment;
        let mut events = std::mem::take(&mut self.held);
        for event in response.0.events {
            let event = self.event(event);
            events.extend(event.filter(|event| event.revision > self.reached));
        }
        if more_of_last {
            let at = events.partition_point(|event| event.revision < last);
            self.held = events.split_off(at);
        }
        let reached = if more_of_last { Revision(last.0 - 1) } else { last };
        if reached <= self.reached {
            return None;
        }
        self.reached = reached;
        Some(WatchBatch { events, revision: reached })
    }

    /// An event of a key that this watch is about.
    fn event(&self, event: PbEvent) -> Option<Event> {
        let kv = event.kv?;
        let key = self.keyspace.of_etcd(&kv.key)?;
        if !key.starts_with(&self.prefix) {
            return None;
        }
        let previous = event.prev_kv.map(|previous| Versioned {
            key: key.clone(),
            created: revision(previous.create_revision),
            modified: revision(previous.mod_revision),
            value: Bytes::from(previous.value),
        });
        let (value, created) = if event.r#type == EventType::Delete as i32 {
            // A deletion does not know when the key was created, what it deleted does.
            (None, previous.as_ref().map_or(Revision(0), |previous| previous.created))
        } else {
            (Some(Bytes::from(kv.value)), revision(kv.create_revision))
        };
        Some(Event { key, revision: revision(kv.mod_revision), value, created, previous })
    }
}

/// What came of waiting.
enum Next {
    Response(etcd_client::WatchResponse),
    Broken(String),
    /// The requests have moved on to another member.
    Left,
}

impl Upstream {
    async fn next(&mut self) -> Next {
        tokio::select! {
            biased;
            message = self.stream.message() => match message {
                Ok(Some(response)) => Next::Response(response),
                Ok(None) => Next::Broken("the stream ended".to_owned()),
                Err(error) => Next::Broken(unavailable(&error).to_string()),
            },
            _ = self.active.wait_for(|active| *active != self.member) => Next::Left,
        }
    }
}

/// Opens a stream of what comes after `from`, on the first member that will.
async fn open(pool: &Pool, from: Revision) -> Result<Upstream, StoreError> {
    let deadline = pool.deadline();
    for round in 1.. {
        match attempt(pool, from).await {
            Err(refusal) if refusal.failure.is_passing() && Instant::now() < deadline => {
                pool.pause_after(round).await;
            }
            outcome => return Ok(outcome?),
        }
    }
    Err(StoreError::Unavailable { reason: "etcd: too many attempts".to_owned() })
}

async fn attempt(pool: &Pool, from: Revision) -> Result<Upstream, Refusal> {
    let active = pool.follow();
    let (member, _) = pool.active();
    let stream = pool.attempt(|member| subscribe(member, from)).await?;
    // etcd also watches from one revision before the oldest it keeps, where deletions may be
    // missing, and from the future. It does not read there.
    let read = pool.attempt(|member| async move {
        let at = i64::try_from(from.0.max(1)).unwrap_or(i64::MAX);
        let options = GetOptions::new().with_revision(at).with_count_only();
        member.kv.clone().get([0], Some(options)).await
    });
    if let Err(mut refusal) = read.await {
        match refusal.failure {
            Failure::Compacted => {
                refusal.error = StoreError::Compacted { asked: from, oldest: oldest(pool).await? };
            }
            Failure::Future => {
                refusal.error = StoreError::Future { asked: from, latest: latest(pool).await? };
            }
            _ => {}
        }
        return Err(refusal);
    }
    Ok(Upstream { member, active, stream })
}

/// Opens a stream and waits until the member has confirmed it.
async fn subscribe(member: Member, from: Revision) -> Answer<etcd_client::WatchStream> {
    let options = WatchOptions::new()
        .with_all_keys()
        .with_prev_key()
        .with_fragment()
        .with_start_revision(i64::try_from(from.0 + 1).unwrap_or(i64::MAX));
    let mut stream = member.watch.clone().watch([0], Some(options)).await?;
    match stream.message().await? {
        Some(response) if response.created() && !response.canceled() => Ok(stream),
        Some(response) => Err(etcd_client::Error::WatchError(response.cancel_reason().to_owned())),
        None => Err(etcd_client::Error::WatchError("the stream ended at once".to_owned())),
    }
}

/// The oldest revision that is kept, of a store that has been compacted. Only a watch that asks for
/// more is told.
pub(super) async fn oldest(pool: &Pool) -> Result<Revision, Refusal> {
    pool.read(async |member: Member| {
        let mut stream = subscribe(member, Revision(0)).await?;
        while let Some(response) = stream.message().await? {
            if response.compact_revision() > 0 {
                return Ok(revision(response.compact_revision()));
            }
        }
        Err(etcd_client::Error::WatchError("the stream ended".to_owned()))
    })
    .await
}

/// The latest revision.
pub(super) async fn latest(pool: &Pool) -> Result<Revision, Refusal> {
    let read = pool.read(|member| async move {
        member.kv.clone().get([0], Some(GetOptions::new().with_count_only())).await
    });
    Ok(Revision(read.await?.header().map_or(0, |header| header.revision() as u64)))
}

pub(super) fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}
