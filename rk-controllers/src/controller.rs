//! A reconciler at work: what wakes it, the queue, the workers.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use futures::FutureExt;
use rk_api::client::{Change, Informer, RateLimit, Watchable, WorkQueue};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    error::Error,
    key::ObjectKey,
    metrics::{ControllerMetrics, Metrics},
    owners::{controller_of, refers_to},
};

/// How long reconciles under way may go on after shutdown was asked for.
const GRACE: Duration = Duration::from_secs(5);

/// Brings one object's world to what the object asks for.
///
/// # What the caller guarantees
/// - One reconcile of a key at a time, whatever the number of workers.
/// - After a change that a watch maps to the key, at least one reconcile starts, with caches that
///   are at least as new as that change. Changes in quick succession may share one.
/// - A failed reconcile is repeated with exponential backoff, 5 ms to 1000 s.
///
/// # What an implementation must not assume
/// - That the object exists: a deleted object's key is reconciled too.
/// - That its caches show its own writes; see [`Expectations`](crate::Expectations).
/// - That the future is polled to its end: on shutdown it may be dropped at any await point.
///
/// A reconcile starts from the present state, never from the change that woke it, so that repeats
/// are harmless and lost wake-ups are made good by the next one.
#[async_trait]
pub trait Reconciler: Send + Sync + 'static {
    /// Reconciles the object of this key.
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error>;
}

/// What follows a reconcile that went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing until something changes.
    Wait,
    /// Another reconcile after this time, if no change comes first.
    RequeueAfter(Duration),
}

impl Action {
    /// [`RequeueAfter`](Self::RequeueAfter) some time, [`Wait`](Self::Wait) for none.
    pub fn after(delay: Option<Duration>) -> Self {
        delay.map_or(Action::Wait, Action::RequeueAfter)
    }
}

type Pump = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A [`Reconciler`] with its queue, its watches and its workers.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
/// # use rk_api::client::Informers;
/// # use rk_controllers::{Action, Controller, Error, ObjectKey, Reconciler};
/// # struct MyReconciler;
/// # #[async_trait::async_trait]
/// # impl Reconciler for MyReconciler {
/// #     async fn reconcile(&self, _: &ObjectKey) -> Result<Action, Error> { Ok(Action::Wait) }
/// # }
/// # async fn example(client: kube::Client, shutdown: tokio_util::sync::CancellationToken) {
/// let informers = Informers::new(client);
/// Controller::new("replicaset", MyReconciler)
///     .reconciles(&informers.of::<ReplicaSet>())
///     .owns::<Pod, ReplicaSet>(&informers.of())
///     .workers(5)
///     .run(shutdown)
///     .await;
/// # }
/// ```
pub struct Controller {
    name: String,
    reconciler: Arc<dyn Reconciler>,
    queue: WorkQueue<ObjectKey>,
    pumps: Vec<Pump>,
    synced: Vec<Pump>,
    workers: usize,
    metrics: Arc<ControllerMetrics>,
}

impl Controller {
    /// A controller that nothing wakes yet, with one worker.
    pub fn new(name: impl Into<String>, reconciler: impl Reconciler) -> Self {
        Self {
            name: name.into(),
            reconciler: Arc::new(reconciler),
            queue: WorkQueue::new(),
            pumps: Vec::new(),
            synced: Vec::new(),
            workers: 1,
            metrics: Arc::default(),
        }
    }

    /// Its name, which metrics are counted under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Wakes for each change of an object, with the object's own key.
    pub fn reconciles<K: Watchable>(self, informer: &Informer<K>) -> Self {
        self.watches(informer, |change| vec![ObjectKey::of(&**change.object())])
    }

    /// Wakes for each change of an object that passes `predicate`, with the object's own key.
    pub fn reconciles_if<K: Watchable>(
        self,
        informer: &Informer<K>,
        predicate: impl Fn(&Change<K>) -> bool + Send + 'static,
    ) -> Self {
        self.watches(informer, move |change| match predicate(change) {
            true => vec![ObjectKey::of(&**change.object())],
            false => Vec::new(),
        })
    }

    /// Wakes the managing controller, of kind `Owner`, of each object that changes. Both wake when
    /// an object goes from one to the other.
    pub fn owns<K: Watchable, Owner: kube::Resource<DynamicType = ()>>(
        self,
        informer: &Informer<K>,
    ) -> Self {
        self.watches(informer, |change| owners_of::<K, Owner>(change))
    }

    /// Wakes the keys that `map` names for a change. `map` sees every change, in order for each
    /// object, after the cache shows it, and before any worker is woken by it: the place to strike
    /// out expectations.
    pub fn watches<K: Watchable>(
        mut self,
        informer: &Informer<K>,
        map: impl Fn(&Change<K>) -> Vec<ObjectKey> + Send + 'static,
    ) -> Self {
        let mut changes = informer.subscribe();
        let queue = self.queue.clone();
        self.pumps.push(Box::pin(async move {
            loop {
                let change = changes.next_change().await;
                map(&change).into_iter().for_each(|key| queue.add(key));
            }
        }));
        let informer = informer.clone();
        self.synced.push(Box::pin(async move { informer.synced().await }));
        self
    }

    /// As [`watches`](Self::watches), with another priority than 0: keys of a higher one are
    /// reconciled first, however long others wait. For changes that can wait, such as those that
    /// only keep a status fresh, or that must not.
    pub fn watches_at<K: Watchable>(
        self,
        priority: i32,
        informer: &Informer<K>,
        map: impl Fn(&Change<K>) -> Vec<ObjectKey> + Send + 'static,
    ) -> Self {
        let queue = self.queue.clone();
        self.watches(informer, move |change| {
            let keys = map(change).into_iter();
            keys.for_each(|key| queue.add_with_priority(key, priority));
            Vec::new()
        })
    }

    /// Waits for this cache too before the first reconcile, without waking for its changes.
    pub fn reads<K: Watchable>(mut self, informer: &Informer<K>) -> Self {
        let informer = informer.clone();
        self.synced.push(Box::pin(async move { informer.synced().await }));
        self
    }

    /// How many keys are reconciled at the same time, by default 1.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    /// Other delays between the tries of a key that keeps failing. Call it before any watch.
    pub fn rate_limit(mut self, limit: RateLimit) -> Self {
        debug_assert!(self.pumps.is_empty(), "watches already feed the old queue");
        self.queue = WorkQueue::with_rate_limit(limit);
        self
    }

    /// Counts in `metrics` under the controller's name.
    pub fn metrics(mut self, metrics: &Metrics) -> Self {
        self.metrics = metrics.of(&self.name);
        self
    }

    /// The queue, for wake-ups that do not come from a watch.
    pub fn queue(&self) -> WorkQueue<ObjectKey> {
        self.queue.clone()
    }

    /// Works until `shutdown`; then starts no further reconcile and gives those under way a few
    /// seconds.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut pumps = JoinSet::new();
        self.pumps.into_iter().for_each(|pump| drop(pumps.spawn(pump)));
        let all_synced = futures::future::join_all(self.synced);
        if shutdown.run_until_cancelled(all_synced).await.is_none() {
            return;
        }
        tracing::debug!(controller = self.name, workers = self.workers, "caches filled, starting");

        let name: Arc<str> = self.name.into();
        let mut workers = JoinSet::new();
        for _ in 0..self.workers {
            workers.spawn(work(
                name.clone(),
                self.reconciler.clone(),
                self.queue.clone(),
                self.metrics.clone(),
                shutdown.clone(),
            ));
        }
        shutdown.cancelled().await;
        self.queue.shut_down();
        let finished = async { while workers.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, finished).await.is_err() {
            tracing::warn!(controller = &*name, "a reconcile did not end in time and was dropped");
        }
    }
}

fn owners_of<K: Watchable, Owner: kube::Resource<DynamicType = ()>>(
    change: &Change<K>,
) -> Vec<ObjectKey> {
    let owner = |object: &K| {
        let reference = controller_of(object).filter(|reference| refers_to::<Owner>(reference))?;
        Some(ObjectKey::new(
            object.meta().namespace.clone().unwrap_or_default(),
            reference.name.clone(),
        ))
    };
    match change {
        Change::Added(object) | Change::Deleted(object) => owner(object).into_iter().collect(),
        Change::Updated { old, new } => {
            let (old, new) = (owner(old), owner(new));
            let left = old.filter(|old| Some(old) != new.as_ref());
            left.into_iter().chain(new).collect()
        }
    }
}

async fn work(
    controller: Arc<str>,
    reconciler: Arc<dyn Reconciler>,
    queue: WorkQueue<ObjectKey>,
    metrics: Arc<ControllerMetrics>,
    shutdown: CancellationToken,
) {
    while !shutdown.is_cancelled() {
        let Some(key) = queue.get().await else { return };
        metrics.queue_depth.store(queue.len() as u64, Relaxed);
        metrics.active.fetch_add(1, Relaxed);
        let started = Instant::now();
        let result = AssertUnwindSafe(reconciler.reconcile(&key)).catch_unwind().await;
        metrics.busy_us.fetch_add(started.elapsed().as_micros() as u64, Relaxed);
        metrics.active.fetch_sub(1, Relaxed);
        match result {
            Ok(Ok(action)) => {
                metrics.succeeded.fetch_add(1, Relaxed);
                queue.forget(&key);
                if let Action::RequeueAfter(delay) = action {
                    metrics.requeued.fetch_add(1, Relaxed);
                    queue.add_after(key.clone(), delay);
                }
            }
            Ok(Err(error)) => {
                metrics.failed.fetch_add(1, Relaxed);
                retry(&controller, &queue, &key, &error);
            }
            // One object that trips a bug must not end the controller for all others.
            Err(_) => {
                metrics.panicked.fetch_add(1, Relaxed);
                tracing::error!(controller = &*controller, %key, "reconcile panicked");
                queue.add_rate_limited(key.clone());
            }
        }
        queue.done(&key);
    }
}

fn retry(controller: &str, queue: &WorkQueue<ObjectKey>, key: &ObjectKey, error: &Error) {
    match error {
        Error::Terminal(reason) | Error::Invalid(reason) => {
            tracing::warn!(controller, %key, reason, "cannot be reconciled until it changes");
            queue.forget(key);
            return;
        }
        Error::NotYet(reason) => tracing::debug!(controller, %key, reason, "not yet"),
        error if error.is_conflict() => {
            tracing::debug!(controller, %key, "written by another, trying again")
        }
        Error::Api(source) => {
            tracing::warn!(controller, %key, error = %source, "reconcile failed, trying again")
        }
    }
    queue.add_rate_limited(key.clone());
}
