//! Lives a history and watches it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    io,
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::jiff::SignedDuration;
use kube::Client;
use rk_api::clock;
use rk_store::{EmbeddedStore, Revision, Store, StoreError, WatchBatch, WatchStream};
use tokio::{task::JoinSet, time::Instant};

use super::{
    block_on,
    digest::Digest,
    invariants::{self, Violation},
    scenario::{Action, Scenario, What},
    user,
    view::{self, View},
};
use crate::{
    Cluster, ClusterError, Component,
    faults::{Counts, Faults},
};

/// How long a cluster may take to come to rest: longer than any back-off of it, and than a Pod of a
/// node that is gone is tolerated.
const REST_WITHIN: Duration = Duration::from_secs(20 * 60);

/// How long nothing may be out of order before it counts as rest.
const QUIET_FOR: Duration = Duration::from_secs(15);

/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// More violations than this are not kept: one tells enough.
const VIOLATIONS_MAX: usize = 20;

/// More nodes than this share what they can, as long as nothing comes between them.
const NODES_APART_MAX: usize = 50;

/// What became of a history.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The fingerprint of all that was written.
    pub digest: Digest,
    /// Each invariant that was broken, in order of time.
    pub violations: Vec<Violation>,
    /// How long it took in the cluster's own time, rest included.
    pub simulated: Duration,
    /// How often the invariants were asked.
    pub steps: u64,
    /// How many Pods there were, one after another.
    pub pods: u64,
    /// How often objects of each resource were written: `pods`, `deployments`, `minions`.
    pub writes: BTreeMap<String, u64>,
    /// What went wrong on the way.
    pub faults: Counts,
}

impl Outcome {
    /// Whether every invariant held.
    pub fn holds(&self) -> bool {
        self.violations.is_empty()
    }
}

/// Why a history could not be lived.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// There is no runtime.
    #[error("the system gives no runtime: {0}")]
    Runtime(#[from] io::Error),
    /// The cluster does not start.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The history cannot be followed.
    #[error("the store cannot be followed: {0}")]
    Store(#[from] StoreError),
}

/// Lives a history on this thread; `tell` hears of what happens as it does.
///
/// # Errors
/// It cannot be lived. That invariants are broken is no error.
pub fn run(scenario: &Scenario, mut tell: impl FnMut(&Told)) -> Result<Outcome, RunError> {
    block_on(scenario.seed, live(scenario, &mut tell))?
}

/// Something to be told of a history.
#[derive(Clone, Debug)]
pub enum Told {
    /// An action begins, so long after the beginning.
    Begins(Duration, Action),
    /// What an action brought about is over.
    Ends(Duration, Action),
    /// An invariant is broken.
    Broken(Violation),
    /// No more faults: the cluster is to come to rest.
    Rest(Duration),
}

async fn live(scenario: &Scenario, tell: &mut impl FnMut(&Told)) -> Result<Outcome, RunError> {
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::in_memory());
    let events = store.watch("", Revision(0)).await?;
    let faults = Faults::new(scenario.plan());
    let mut builder = Cluster::builder()
        .nodes(scenario.nodes)
        .components([Component::Scheduler, Component::Controllers, Component::Nodes])
        .store(store)
        .virtual_time(scenario.seed);
    if scenario.faults || scenario.nodes <= NODES_APART_MAX {
        builder = builder.faults(&faults);
    } else {
        builder = builder.shared_node_lease(true);
    }
    let cluster = builder.start().await?;
    let mut history = History {
        client: cluster.client(),
        nodes: scenario.nodes,
        cluster,
        faults,
        begun: Instant::now(),
        agenda: BinaryHeap::new(),
        user: JoinSet::new(),
        watcher: Watcher::new(events),
    };
    for (number, action) in scenario.actions().into_iter().enumerate() {
        history.agenda.push(Reverse(Entry { at: action.at, turn: number, end: false, action }));
    }
    history.happen(scenario.duration, tell).await?;
    history.rest(tell).await?;
    let simulated = history.begun.elapsed();
    history.cluster.shutdown().await;
    let watcher = history.watcher;
    Ok(Outcome {
        digest: watcher.digest,
        violations: watcher.violations,
        simulated,
        steps: watcher.steps,
        pods: watcher.pods,
        writes: watcher.writes,
        faults: history.faults.counts(),
    })
}

/// A history while it is lived.
struct History {
    cluster: Cluster,
    client: Client,
    nodes: usize,
    faults: Faults,
    begun: Instant,
    agenda: BinaryHeap<Reverse<Entry>>,
    /// What the user is doing.
    user: JoinSet<()>,
    watcher: Watcher,
}

/// Something to be done.
struct Entry {
    at: Duration,
    /// Of one moment the one that was entered first.
    turn: usize,
    /// To end what the action began.
    end: bool,
    action: Action,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.end, self.turn).cmp(&(other.at, other.end, other.turn))
    }
}

impl History {
    /// Does what is on the agenda, and watches.
    async fn happen(
        &mut self,
        duration: Duration,
        tell: &mut impl FnMut(&Told),
    ) -> Result<(), RunError> {
        loop {
            let next = self.agenda.peek().map_or(duration, |Reverse(entry)| entry.at);
            self.watch_until(self.begun + next, tell).await?;
            let Some(Reverse(entry)) = self.agenda.pop() else { return Ok(()) };
            let Entry { turn, end, action, .. } = entry;
            let now = self.begun.elapsed();
            if end {
                tell(&Told::Ends(now, action.clone()));
                self.end(&action.what)?;
            } else {
                tell(&Told::Begins(now, action.clone()));
                self.begin(&action);
                if let Some(time) = action.what.time() {
                    let at = action.at + time;
                    self.agenda.push(Reverse(Entry { at, turn, end: true, action }));
                }
            }
        }
    }

    /// Takes in events until then.
    async fn watch_until(
        &mut self,
        until: Instant,
        tell: &mut impl FnMut(&Told),
    ) -> Result<(), RunError> {
        let sleep = tokio::time::sleep_until(until);
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                biased;
                batch = self.watcher.events.next() => match batch {
                    Some(batch) => self.watcher.take(batch?, tell),
                    None => return Ok(()),
                },
                () = &mut sleep => return Ok(()),
            }
        }
    }

    fn begin(&mut self, action: &Action) {
        match &action.what {
            What::NodeFails { node, .. } => {
                self.cluster.kill_node(node);
            }
            What::Crash { component, .. } => {
                self.cluster.kill(component_of(component));
            }
            What::Cut { component, .. } => self.faults.cut(component, true),
            What::Skew { component, seconds, .. } => {
                self.faults.skew_clock(component, SignedDuration::from_secs(*seconds));
            }
            What::FillStore { .. } => self.faults.fill_store(true),
            // It is in the plan.
            What::Disturb { .. } => {}
            what => {
                let (client, what, number) = (self.client.clone(), what.clone(), action.number);
                self.user.spawn(async move { user::act(&client, &what, number).await });
            }
        }
    }

    fn end(&mut self, what: &What) -> Result<(), RunError> {
        match what {
            What::NodeFails { node, wiped, .. } => {
                self.cluster.start_node(node, *wiped)?;
            }
            What::Crash { component, .. } => {
                self.cluster.restart(component_of(component))?;
            }
            What::Cut { component, .. } => self.faults.cut(component, false),
            What::Skew { component, .. } => {
                self.faults.skew_clock(component, SignedDuration::ZERO);
            }
            What::FillStore { .. } => self.faults.fill_store(false),
            What::Drain { node, .. } => {
                let (client, node) = (self.client.clone(), node.clone());
                self.user.spawn(async move { user::uncordon(&client, &node).await });
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends all faults and waits until the cluster is at rest, or has had time enough.
    async fn rest(&mut self, tell: &mut impl FnMut(&Told)) -> Result<(), RunError> {
        self.faults.end();
        let (client, nodes) = (self.client.clone(), self.nodes);
        self.user.spawn(async move { user::clear_up(&client, nodes).await });
        let begun = Instant::now();
        tell(&Told::Rest(self.begun.elapsed()));
        let mut quiet_since = None;
        while begun.elapsed() < REST_WITHIN {
            self.watch_until(Instant::now() + LOOK_EVERY, tell).await?;
            while self.user.try_join_next().is_some() {}
            let busy = !self.user.is_empty() || !self.watcher.broken_at_rest().is_empty();
            match (busy, quiet_since) {
                (true, _) => quiet_since = None,
                (false, None) => quiet_since = Some(Instant::now()),
                (false, Some(since)) if since.elapsed() >= QUIET_FOR => break,
                (false, Some(_)) => {}
            }
        }
        for violation in self.watcher.broken_at_rest() {
            self.watcher.keep(violation, tell);
        }
        Ok(())
    }
}

fn component_of(name: &str) -> Component {
    if name == "scheduler" { Component::Scheduler } else { Component::Controllers }
}

/// Takes in the store's events, and asks the invariants about each.
struct Watcher {
    events: WatchStream,
    view: View,
    digest: Digest,
    revision: Revision,
    violations: Vec<Violation>,
    steps: u64,
    pods: u64,
    writes: BTreeMap<String, u64>,
}

impl Watcher {
    fn new(events: WatchStream) -> Self {
        Self {
            events,
            view: View::default(),
            digest: Digest::default(),
            revision: Revision(0),
            violations: Vec::new(),
            steps: 0,
            pods: 0,
            writes: BTreeMap::new(),
        }
    }

    fn take(&mut self, batch: WatchBatch, tell: &mut impl FnMut(&Told)) {
        for event in &batch.events {
            self.digest.add(event);
            self.revision = event.revision;
            let resource = view::resource(&event.key);
            match self.writes.get_mut(resource) {
                Some(writes) => *writes += 1,
                None => drop(self.writes.insert(resource.to_owned(), 1)),
            }
            let Some(step) = self.view.apply(event, clock::now()) else { continue };
            self.steps += 1;
            self.pods += u64::from(step.resource() == "pods" && step.before.is_none());
            for violation in invariants::check(&self.view, &step) {
                self.keep(violation, tell);
            }
        }
    }

    fn keep(&mut self, violation: Violation, tell: &mut impl FnMut(&Told)) {
        tell(&Told::Broken(violation.clone()));
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(violation);
        }
    }

    fn broken_at_rest(&self) -> Vec<Violation> {
        invariants::check_quiet(&self.view, clock::now(), self.revision)
    }
}
