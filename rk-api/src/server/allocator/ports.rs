//! Node ports: one object in the store says which are taken, for all servers on it.
//!
//! It is kube-apiserver's: a RangeAllocation at `/registry/ranges/servicenodeports`, a bit for each
//! port. Changing it is a compare-and-write, so of two servers that want the same port one wins. All
//! that the requests of one server ask for meanwhile goes into the next write together: a port costs
//! one write when there is little to do, and a small part of one when there is much.

use std::{ops::RangeInclusive, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use parking_lot::Mutex;
use rk_store::{Expect, Revision, Store, StoreError};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::rng;

const KEY: &str = "/registry/ranges/servicenodeports";

/// Tries of a write before its conflict is the client's: other servers must win so often in a row.
const TRIES: usize = 16;

/// A port that is not used by any Service is free after so many looks, as in kube-apiserver: it may
/// belong to a Service that is just being created.
const LEAKS_MAX: u8 = 3;

/// Which ports of a range are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bitmap {
    range: RangeInclusive<u16>,
    taken: Vec<bool>,
}

/// The object as it is stored (`core/v1.RangeAllocation`).
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct RangeAllocation {
    kind: String,
    #[serde(rename = "apiVersion")]
    api_version: String,
    metadata: Metadata,
    range: String,
    data: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Metadata {}

impl Bitmap {
    pub(super) fn new(range: RangeInclusive<u16>) -> Self {
        Self { taken: vec![false; range.len()], range }
    }

    fn index(&self, port: u16) -> Option<usize> {
        self.range.contains(&port).then(|| usize::from(port - self.range.start()))
    }

    fn set(&mut self, port: u16, taken: bool) {
        if let Some(index) = self.index(port) {
            self.taken[index] = taken;
        }
    }

    fn has(&self, port: u16) -> bool {
        self.index(port).is_some_and(|index| self.taken[index])
    }

    fn ports(&self) -> impl Iterator<Item = u16> {
        let taken = self.range.clone().zip(&self.taken);
        taken.filter(|(_, taken)| **taken).map(|(port, _)| port)
    }

    /// A random free port, as long as there is one. Those that are left to be chosen are given
    /// last.
    fn free(&self) -> Option<u16> {
        let count = self.taken.len();
        let first = left_to_choose(count);
        let band = |from: usize, count: usize| {
            let start = rng::below(count.max(1) as u64) as usize;
            (0..count).map(move |step| from + (start + step) % count)
        };
        let mut indexes = band(first, count - first).chain(band(0, first));
        let index = indexes.find(|index| !self.taken[*index])?;
        self.range.clone().nth(index)
    }

    /// As Go's `big.Int` has it: bit 0 is the first port, big endian, without leading zeros.
    fn data(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self
            .taken
            .chunks(8)
            .map(|bits| {
                bits.iter().enumerate().fold(0, |byte, (bit, taken)| byte | u8::from(*taken) << bit)
            })
            .collect();
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        bytes.reverse();
        bytes
    }

    fn encode(&self) -> Result<Bytes, serde_json::Error> {
        let object = RangeAllocation {
            kind: "RangeAllocation".to_owned(),
            api_version: "v1".to_owned(),
            metadata: Metadata {},
            range: format!("{}-{}", self.range.start(), self.range.end()),
            data: STANDARD.encode(self.data()),
        };
        serde_json::to_vec(&object).map(Bytes::from)
    }

    /// What a stored object says about the ports of `range`, whichever range it is about; nothing
    /// when it says nothing that is understood.
    fn decode(range: &RangeInclusive<u16>, json: &[u8]) -> Option<Self> {
        let object: RangeAllocation = crate::json::from_slice(json).ok()?;
        let first: u16 = object.range.split(['-', '+']).next()?.parse().ok()?;
        let mut bytes = STANDARD.decode(object.data).ok()?;
        bytes.reverse();
        let mut bitmap = Self::new(range.clone());
        for (at, byte) in bytes.iter().enumerate() {
            for bit in (0..8).filter(|bit| byte & (1 << bit) != 0) {
                if let Some(port) =
                    u16::try_from(8 * at + bit).ok().and_then(|n| first.checked_add(n))
                {
                    bitmap.set(port, true);
                }
            }
        }
        Some(bitmap)
    }
}

/// How many ports at the beginning of a range are left to those who choose one, as long as there are
/// others (KEP-3668): one in 32, 16 at least and 128 at most.
fn left_to_choose(count: usize) -> usize {
    if count <= 16 { 0 } else { (count / 32).clamp(16, 128) }
}

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ask {
    /// So many ports, whichever are free.
    pub any: usize,
    /// These ports.
    pub these: Vec<u16>,
    /// Only look, take none.
    pub dry_run: bool,
}

/// Why ports were not given.
#[derive(Clone, Debug)]
pub(super) enum Refused {
    /// These are taken.
    Taken(Vec<u16>),
    /// There are not enough left.
    Full,
    /// The store failed.
    Store(StoreError),
}

/// Gives `ask` its ports, or none of them.
fn settle(bitmap: &mut Bitmap, ask: &Ask) -> Result<Vec<u16>, Refused> {
    let taken: Vec<u16> = ask.these.iter().copied().filter(|port| bitmap.has(*port)).collect();
    if !taken.is_empty() {
        return Err(Refused::Taken(taken));
    }
    let mut after = bitmap.clone();
    ask.these.iter().for_each(|port| after.set(*port, true));
    let mut given = Vec::with_capacity(ask.any);
    for _ in 0..ask.any {
        let port = after.free().ok_or(Refused::Full)?;
        after.set(port, true);
        given.push(port);
    }
    if !ask.dry_run {
        *bitmap = after;
    }
    Ok(given)
}

/// The ports of all Services.
#[derive(Clone, Debug)]
pub(super) struct Ports(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    range: RangeInclusive<u16>,
    queue: Mutex<Queue>,
    /// The object as it was last seen. Who writes holds the lock.
    known: tokio::sync::Mutex<Option<Known>>,
}

#[derive(Debug, Default)]
struct Queue {
    asks: Vec<(Ask, Answer)>,
    back: Vec<u16>,
}

type Answer = oneshot::Sender<Result<Vec<u16>, Refused>>;

#[derive(Clone, Debug)]
struct Known {
    bitmap: Bitmap,
    /// `None` when there is no object yet.
    revision: Option<Revision>,
}

impl Ports {
    pub(super) fn new(store: Arc<dyn Store>, range: RangeInclusive<u16>) -> Self {
        Self(Arc::new(Inner {
            store,
            range,
            queue: Mutex::default(),
            known: tokio::sync::Mutex::default(),
        }))
    }

    pub(super) fn range(&self) -> &RangeInclusive<u16> {
        &self.0.range
    }

    /// Takes ports. The answer has those that were not asked for by number.
    pub(super) async fn take(&self, ask: Ask) -> Result<Vec<u16>, Refused> {
        let (answer, answered) = oneshot::channel();
        self.0.queue.lock().asks.push((ask, answer));
        self.work().await;
        let gone = || StoreError::Unavailable { reason: "the server ends".to_owned() };
        answered.await.unwrap_or_else(|_| Err(Refused::Store(gone())))
    }

    /// Gives ports back. Should the store fail, they are found to be free later.
    pub(super) async fn give_back(&self, ports: impl IntoIterator<Item = u16>) {
        self.0.queue.lock().back.extend(ports);
        self.work().await;
    }

    /// Sees to what waits. Once begun it is done, also when nobody waits for it any more.
    async fn work(&self) {
        let inner = self.0.clone();
        let done = tokio::spawn(async move {
            let mut known = inner.known.lock().await;
            let queue = std::mem::take(&mut *inner.queue.lock());
            inner.serve(&mut known, queue).await;
        });
        if let Err(error) = done.await {
            tracing::error!(%error, "node ports were not seen to");
        }
    }
}

impl Inner {
    async fn serve(&self, known: &mut Option<Known>, queue: Queue) {
        if queue.asks.is_empty() && queue.back.is_empty() {
            return;
        }
        let (mut asks, mut answers): (Vec<_>, Vec<_>) = queue.asks.into_iter().unzip();
        match self
            .change(known, |bitmap| {
                queue.back.iter().for_each(|port| bitmap.set(*port, false));
                asks.iter().map(|ask| settle(bitmap, ask)).collect::<Vec<_>>()
            })
            .await
        {
            Ok(given) => {
                for ((answer, ask), given) in answers.drain(..).zip(asks.drain(..)).zip(given) {
                    let took = given.is_ok() && !ask.dry_run;
                    if let Err(Ok(unheard)) = answer.send(given)
                        && took
                    {
                        // Who asked is gone.
                        self.queue.lock().back.extend(unheard.into_iter().chain(ask.these));
                    }
                }
            }
            Err(error) => {
                for answer in answers {
                    let _ = answer.send(Err(Refused::Store(error.clone())));
                }
            }
        }
    }

    /// Writes what `change` makes of the ports, again when another server came in between.
    async fn change<T>(
        &self,
        known: &mut Option<Known>,
        change: impl Fn(&mut Bitmap) -> T,
    ) -> Result<T, StoreError> {
        let mut tries = 1;
        loop {
            let (before, is_latest) = match known.take() {
                Some(known) => (known, false),
                None => (self.read().await?, true),
            };
            let mut bitmap = before.bitmap.clone();
            let outcome = change(&mut bitmap);
            if bitmap == before.bitmap && before.revision.is_some() {
                // What is refused for want of ports may be free by now. A write would have shown it.
                if !is_latest {
                    continue;
                }
                *known = Some(before);
                return Ok(outcome);
            }
            let json = bitmap
                .encode()
                .map_err(|error| StoreError::Unavailable { reason: error.to_string() })?;
            let expect = before.revision.map_or(Expect::Absent, Expect::Revision);
            match self.store.put(KEY, json, expect, None).await {
                Ok(revision) => {
                    *known = Some(Known { bitmap, revision: Some(revision) });
                    return Ok(outcome);
                }
                Err(StoreError::Conflict { .. }) if tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn read(&self) -> Result<Known, StoreError> {
        let found = self.store.get(KEY).await?;
        let revision = found.as_ref().map(|found| found.modified);
        let bitmap = found.and_then(|found| Bitmap::decode(&self.range, &found.value));
        Ok(Known { bitmap: bitmap.unwrap_or_else(|| Bitmap::new(self.range.clone())), revision })
    }
}

/// How often ports were found to be nobody's.
#[derive(Debug, Default)]
pub(super) struct Leaks(std::collections::BTreeMap<u16, u8>);

impl Leaks {
    /// What the ports should be: those in use, and those that have not been nobody's for long.
    fn repaired(&mut self, stored: &Bitmap, used: &[u16]) -> Bitmap {
        let mut right = Bitmap::new(stored.range.clone());
        used.iter().for_each(|port| right.set(*port, true));
        let mut leaks = std::collections::BTreeMap::new();
        for port in stored.ports().filter(|port| !used.contains(port)) {
            let seen = self.0.get(&port).map_or(1, |seen| seen + 1);
            if seen < LEAKS_MAX {
                leaks.insert(port, seen);
                right.set(port, true);
            }
        }
        self.0 = leaks;
        right
    }
}

impl Ports {
    /// Makes the stored object right, given how to learn which ports Services use. That must be
    /// asked after the object was read: what is taken in between is then seen as a conflict. The
    /// answer are those that are used and were not accounted for.
    pub(super) async fn repair<Used>(
        &self,
        leaks: &mut Leaks,
        used: impl FnOnce() -> Used,
    ) -> Result<Vec<u16>, StoreError>
    where
        Used: Future<Output = Result<Vec<u16>, StoreError>>,
    {
        let mut known = self.0.known.lock().await;
        let before = self.0.read().await?;
        let right = leaks.repaired(&before.bitmap, &used().await?);
        if right == before.bitmap && before.revision.is_some() {
            *known = Some(before);
            return Ok(Vec::new());
        }
        let missing = right.ports().filter(|port| !before.bitmap.has(*port)).collect();
        *known = None;
        let json = right.encode();
        let json = json.map_err(|error| StoreError::Unavailable { reason: error.to_string() })?;
        let expect = before.revision.map_or(Expect::Absent, Expect::Revision);
        match self.0.store.put(KEY, json, expect, None).await {
            // Another server has changed or repaired it: the next time, then.
            Err(StoreError::Conflict { .. }) => Ok(Vec::new()),
            written => written.map(|_| missing),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rk_store::EmbeddedStore;

    use super::*;

    fn some(any: usize) -> Ask {
        Ask { any, ..Ask::default() }
    }

    fn these(ports: &[u16]) -> Ask {
        Ask { these: ports.to_vec(), ..Ask::default() }
    }

    #[test]
    fn the_stored_form_is_kube_apiservers() {
        let mut bitmap = Bitmap::new(30000..=32767);
        [30000, 30009].iter().for_each(|port| bitmap.set(*port, true));
        let json = String::from_utf8(bitmap.encode().unwrap().to_vec()).unwrap();
        assert_eq!(
            json,
            r#"{"kind":"RangeAllocation","apiVersion":"v1","metadata":{},"range":"30000-32767","data":"AgE="}"#
        );
        let theirs = json.replace("{}", r#"{"creationTimestamp":null}"#) + "\n";
        assert_eq!(Bitmap::decode(&(30000..=32767), theirs.as_bytes()), Some(bitmap));
    }

    proptest! {
        #[test]
        fn any_ports_come_back_also_into_another_range(ports in proptest::collection::btree_set(100u16..400, 0..50)) {
            let mut bitmap = Bitmap::new(100..=399);
            ports.iter().for_each(|port| bitmap.set(*port, true));
            let json = bitmap.encode().unwrap();
            prop_assert_eq!(Bitmap::decode(&(100..=399), &json).unwrap(), bitmap);
            let other = Bitmap::decode(&(200..=500), &json).unwrap();
            let expected: Vec<_> = ports.into_iter().filter(|port| *port >= 200).collect();
            prop_assert_eq!(other.ports().collect::<Vec<_>>(), expected);
        }
    }

    #[tokio::test]
    async fn two_servers_never_give_one_port_twice() {
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::in_memory());
        let servers: Vec<_> = (0..2).map(|_| Ports::new(store.clone(), 30000..=30199)).collect();
        let takers = (0..100).map(|number| {
            let ports = servers[number % 2].clone();
            tokio::spawn(async move { ports.take(some(2)).await.unwrap() })
        });
        let mut given: Vec<u16> = Vec::new();
        for taken in futures::future::join_all(takers).await {
            given.extend(taken.unwrap());
        }
        given.sort_unstable();
        assert_eq!(given, (30000..=30199).collect::<Vec<_>>());
        assert!(matches!(servers[0].take(some(1)).await, Err(Refused::Full)));

        servers[0].give_back([30007]).await;
        assert!(matches!(servers[1].take(these(&[30006])).await, Err(Refused::Taken(_))));
        assert_eq!(servers[1].take(some(1)).await.unwrap(), [30007]);
    }

    #[tokio::test]
    async fn of_two_that_want_the_same_port_one_gets_it() {
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::in_memory());
        let one = Ports::new(store.clone(), 1..=10);
        let other = Ports::new(store, 1..=10);
        for port in 1..=10 {
            let both = tokio::join!(one.take(these(&[port])), other.take(these(&[port])));
            assert_ne!(both.0.is_ok(), both.1.is_ok());
        }
    }

    #[tokio::test]
    async fn ports_that_are_left_to_be_chosen_are_given_last() {
        let ports = Ports::new(Arc::new(EmbeddedStore::in_memory()), 1..=20);
        let mut given = ports.take(some(4)).await.unwrap();
        given.sort_unstable();
        assert_eq!(given, [17, 18, 19, 20]);
        assert_eq!(ports.take(some(16)).await.unwrap().len(), 16);
    }

    #[tokio::test]
    async fn looking_takes_nothing() {
        let ports = Ports::new(Arc::new(EmbeddedStore::in_memory()), 1..=1);
        let look = Ask { any: 1, dry_run: true, ..Ask::default() };
        assert_eq!(ports.take(look.clone()).await.unwrap(), [1]);
        assert_eq!(ports.take(look).await.unwrap(), [1]);
    }

    #[tokio::test]
    async fn what_nobody_uses_is_free_after_a_while_and_what_is_used_is_taken_at_once() {
        let ports = Ports::new(Arc::new(EmbeddedStore::in_memory()), 1..=10);
        ports.take(these(&[1, 2])).await.unwrap();
        let mut leaks = Leaks::default();
        for _ in 1..LEAKS_MAX {
            ports.repair(&mut leaks, async || Ok(vec![2, 3])).await.unwrap();
            assert!(ports.take(these(&[1])).await.is_err());
        }
        let missing = ports.repair(&mut leaks, async || Ok(vec![2, 3, 4])).await.unwrap();
        assert_eq!(missing, [4]);
        assert!(ports.take(these(&[3])).await.is_err());
        assert!(ports.take(these(&[1])).await.is_ok());
    }
}
