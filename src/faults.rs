//! Faults between the parts of a cluster: what a network, a server under load and a crash do.
//!
//! A [`Faults`] stands between each component and the API server, as a [`tower::Layer`] around the
//! component's client. What goes wrong there is decided by a [`Plan`] (how often, when, to whom)
//! and by chance from the plan's seed, and by calls: [`Faults::cut`] partitions a component,
//! [`Faults::skew_clock`] lets its clock be wrong, [`Faults::fill_store`] leaves the store no room.
//! A cluster that is built with it ([`ClusterBuilder::faults`](crate::ClusterBuilder::faults)) puts
//! it in front of the scheduler, the controllers, the metrics server and each node; put it in front
//! of an operator of your own with [`Cluster::client_through_faults`]:
//!
//! ```
//! use std::time::Duration;
//! use rk::{Cluster, faults::{Faults, Plan, Rates}, simulation};
//! use rk::api::server::UserInfo;
//!
//! let seed = 3;
//! simulation::block_on(seed, async {
//!     let faults = Faults::new(Plan::new(seed).all_along(Rates::light()));
//!     let cluster = Cluster::builder().virtual_time(seed).faults(&faults).start().await?;
//!     let client = cluster.client_through_faults("my-operator", UserInfo::admin());
//!     // … run the operator with `client`, then let the faults end and see what it made of them:
//!     tokio::time::sleep(Duration::from_secs(600)).await;
//!     faults.end();
//!     tokio::time::sleep(Duration::from_secs(600)).await;
//! #   drop(client);
//!     assert!(faults.counts().total() > 0);
//!     Ok::<_, rk::ClusterError>(())
//! })??;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it does not do
//! It never gives a request another meaning: no byte of it changes but the times that a skewed
//! clock wrote. A watch is cut, late or stuck, never out of order: TCP sees to that in a network
//! too. Streams (exec, attach, port-forward) are only cut off.
//!
//! [`Cluster::client_through_faults`]: crate::Cluster::client_through_faults

mod body;
mod fate;
mod layer;
mod link;
mod plan;
mod skew;
mod store;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use k8s_openapi::jiff::SignedDuration;
use parking_lot::Mutex;
use rk_api::rng::Rng;
use rk_store::Store;
use tokio::time::Instant;

use self::{
    fate::{Asked, Fate},
    link::Link,
    store::LimitedStore,
};
pub use self::{
    layer::{FaultLayer, FaultService},
    plan::{Plan, PlanError, Rates, Window},
};

/// The faults of a cluster. Clones are handles to the same ones.
#[derive(Clone)]
pub struct Faults {
    shared: Arc<Shared>,
}

struct Shared {
    plan: Plan,
    begun: Instant,
    state: Mutex<State>,
    store_full: Arc<AtomicBool>,
}

struct State {
    rng: Rng,
    ended: bool,
    counts: Counts,
    links: BTreeMap<String, Arc<Link>>,
    skews: BTreeMap<String, SignedDuration>,
}

/// How often what happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// All requests that came by.
    pub requests: u64,
    /// Held back.
    pub delayed: u64,
    /// Lost on their way.
    pub requests_lost: u64,
    /// Answers lost.
    pub answers_lost: u64,
    /// Refused in the server's name.
    pub failed: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Without an answer until they timed out.
    pub hung: u64,
    /// Watches that are cut or are to be.
    pub watches_cut: u64,
    /// Requests of components that were cut off or dead.
    pub refused: u64,
}

impl Counts {
    /// All faults together, delays included.
    pub fn total(&self) -> u64 {
        self.delayed
            + self.requests_lost
            + self.answers_lost
            + self.failed
            + self.duplicated
            + self.hung
            + self.watches_cut
            + self.refused
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.lock();
        f.debug_struct("Faults")
            .field("seed", &self.shared.plan.seed)
            .field("ended", &state.ended)
            .field("counts", &state.counts)
            .finish_non_exhaustive()
    }
}

impl Faults {
    /// Faults by this plan; its time begins now. A plan that makes no sense
    /// ([`Plan::validate`]) is followed as far as it does.
    pub fn new(plan: Plan) -> Self {
        let state = State {
            rng: Rng::seeded(plan.seed),
            ended: false,
            counts: Counts::default(),
            links: BTreeMap::new(),
            skews: BTreeMap::new(),
        };
        let shared = Shared {
            plan,
            begun: Instant::now(),
            state: Mutex::new(state),
            store_full: Arc::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A layer to put around a client's transport. All layers of a component share its fate.
    pub fn layer(&self, component: &str) -> FaultLayer {
        FaultLayer::new(self.clone(), component, self.link(component))
    }

    /// A store that is full whenever these faults say so ([`Faults::fill_store`]).
    pub fn store(&self, inner: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(LimitedStore::new(inner, self.shared.store_full.clone()))
    }

    /// Cuts a component off, or connects it again. What it has asked stays without an answer, its
    /// watches end, and what it asks is refused.
    pub fn cut(&self, component: &str, off: bool) {
        self.link(component).cut(off);
    }

    /// Whether a component is cut off.
    pub fn is_cut(&self, component: &str) -> bool {
        self.link(component).is_down()
    }

    /// Ends all connections of a component for good, as its crash does. Layers that are made for it
    /// after that are those of its next life.
    pub fn disconnect(&self, component: &str) {
        if let Some(link) = self.shared.state.lock().links.remove(component) {
            link.kill();
        }
    }

    /// Lets a component's clock be ahead by this much, or behind: the times that it writes into
    /// Leases and nodes' heartbeats are shifted. Zero sets it right.
    pub fn skew_clock(&self, component: &str, ahead: SignedDuration) {
        self.shared.state.lock().skews.insert(component.to_owned(), ahead);
    }

    /// Leaves the store no room for writes, as etcd's quota does, or makes room again. Deletions
    /// go on.
    pub fn fill_store(&self, full: bool) {
        self.shared.store_full.store(full, Ordering::Relaxed);
    }

    /// Nothing goes wrong from now on: every component is connected, clocks are right and the store
    /// has room. What was delayed before comes in its time.
    pub fn end(&self) {
        let mut state = self.shared.state.lock();
        state.ended = true;
        state.skews.clear();
        state.links.values().for_each(|link| link.cut(false));
        drop(state);
        self.fill_store(false);
    }

    /// How often what happened so far.
    pub fn counts(&self) -> Counts {
        self.shared.state.lock().counts
    }

    fn link(&self, component: &str) -> Arc<Link> {
        self.shared.state.lock().links.entry(component.to_owned()).or_default().clone()
    }

    fn skew(&self, component: &str) -> SignedDuration {
        self.shared.state.lock().skews.get(component).copied().unwrap_or_default()
    }

    fn refused(&self) {
        self.shared.state.lock().counts.refused += 1;
    }

    /// Decides what happens to a request.
    fn fate(&self, component: &str, asked: Asked) -> Fate {
        let mut state = self.shared.state.lock();
        let State { rng, ended, counts, .. } = &mut *state;
        counts.requests += 1;
        let rates = self.shared.plan.rates(component, self.shared.begun.elapsed());
        let Some(rates) = rates.filter(|_| !*ended) else { return Fate::default() };
        let fate = fate::draw(rates, asked, rng);
        counts.add(&fate);
        fate
    }

    /// How long a piece of a watch is to be held back, if at all.
    fn stall(&self, (rate, max): (f64, std::time::Duration)) -> Option<std::time::Duration> {
        if rate <= 0.0 {
            return None;
        }
        let mut state = self.shared.state.lock();
        if state.ended || state.rng.unit() >= rate {
            return None;
        }
        state.counts.delayed += 1;
        Some(max.mul_f64(state.rng.unit()))
    }
}

impl Counts {
    fn add(&mut self, fate: &Fate) {
        self.delayed += u64::from(fate.delay.is_some());
        self.watches_cut += u64::from(fate.watch.ends_after.is_some());
        match &fate.fault {
            None => {}
            Some(fate::Fault::LoseRequest) => self.requests_lost += 1,
            Some(fate::Fault::LoseAnswer) => self.answers_lost += 1,
            Some(fate::Fault::Fail(_)) => self.failed += 1,
            Some(fate::Fault::Duplicate) => self.duplicated += 1,
            Some(fate::Fault::Hang { .. }) => self.hung += 1,
        }
    }
}

#[cfg(test)]
mod tests;
