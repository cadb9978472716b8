//! What is used of each ResourceQuota.
//!
//! # What it promises
//! - `status.hard` is what the spec says, and `status.used` has a number for each resource of it
//!   that a kind of the API server can use.
//! - When an object goes, or uses less or something else than before, the quotas of its namespace
//!   that count its kind are counted again at once. New objects are counted by admission, before
//!   they are stored.
//! - Every five minutes all are counted again, so that what admission counted for objects that
//!   were never stored is given back.
//! - `count/<plural>.<group>` works for every kind that can be listed, custom ones too.
//!
//! What a Pod, a Service or a claim uses is in [`rk_api::quota`].

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use k8s_openapi::{
    api::{
        core::v1::{
            PersistentVolumeClaim, Pod, ResourceQuota, ScopedResourceSelectorRequirement, Service,
        },
        resource::v1::ResourceClaim,
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
};
use rk_api::{
    client::{Change, Informer, Watchable, WorkQueue},
    clock,
    quota::{Item, Tracked, pod_resources::Amounts, scopes, total},
};
use tokio_util::sync::CancellationToken;

use crate::{
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
};

mod counts;
mod plan;

use counts::Counts;
use plan::{hard, new_status, tracked, tracks};

/// How often all quotas are counted again.
const RESYNC: Duration = Duration::from_secs(5 * 60);
/// How soon to count again after the count came out lower than admission's. The cache may not have
/// had the newest objects yet.
const CONFIRM: Duration = Duration::from_secs(2);

struct Quotas {
    client: Client,
    quotas: Informer<ResourceQuota>,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    counts: Arc<Counts>,
}

#[async_trait]
impl Reconciler for Quotas {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(quota) = self.quotas.get(&key.namespace, &key.name) else {
            return Ok(Action::Wait);
        };
        let counted = self.count(&quota, clock::now()).await?;
        let Some(status) = new_status(&quota, counted) else { return Ok(Action::Wait) };
        let confirm = plan::is_lower(&quota, &status);
        let mut changed = (*quota).clone();
        changed.status = Some(status);
        let api = Api::<ResourceQuota>::namespaced(self.client.clone(), &key.namespace);
        // A write with the version that was counted from: admission may have counted since.
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Err(gone) if error::is_not_found(&gone) => Ok(Action::Wait),
            result => {
                result?;
                Ok(Action::after(confirm.then_some(CONFIRM)))
            }
        }
    }
}

impl Quotas {
    /// What is used of each resource that something can use.
    async fn count(&self, quota: &ResourceQuota, now: Timestamp) -> Result<Amounts, Error> {
        let namespace = quota.namespace().unwrap_or_default();
        let (hard, scopes) = (hard(quota), scopes(quota));
        let mut used = Amounts::new();
        for kind in tracked(quota) {
            let some = match &kind {
                Tracked::Pods => {
                    let pods = self.pods.list_in(&namespace);
                    total(&hard, &scopes, &kind, pods.iter().map(|pod| Item::pod(pod)), now)
                }
                Tracked::Services => {
                    let services = self.services.list_in(&namespace);
                    let items = services.iter().map(|service| Item::service(service));
                    total(&hard, &scopes, &kind, items, now)
                }
                Tracked::Claims => {
                    let claims = self.claims.list_in(&namespace);
                    let items = claims.iter().map(|claim| Item::claim(claim));
                    total(&hard, &scopes, &kind, items, now)
                }
                Tracked::ResourceClaims => self.of_devices(&hard, &scopes, &namespace, now).await?,
                Tracked::Others { group, plural } => {
                    let number = self.counts.number(&namespace, group, plural).await?;
                    plan::of_others(&hard, &scopes, &kind, number)
                }
            };
            used.extend(some);
        }
        Ok(used)
    }

    /// What claims of devices use. They are listed when a quota is about them, which few are.
    async fn of_devices(
        &self,
        hard: &Amounts,
        scopes: &[ScopedResourceSelectorRequirement],
        namespace: &str,
        now: Timestamp,
    ) -> Result<Amounts, Error> {
        if !self.counts.watches("resource.k8s.io", "resourceclaims").await? {
            return Ok(Amounts::new());
        }
        let claims = Api::<ResourceClaim>::namespaced(self.client.clone(), namespace);
        let claims = claims.list(&ListParams::default()).await?.items;
        let items = claims.iter().map(Item::resource_claim);
        Ok(total(hard, scopes, &Tracked::ResourceClaims, items, now))
    }
}

/// Works until `shutdown`.
pub(crate) async fn run(name: &'static str, context: Context, shutdown: CancellationToken) {
    let quotas = context.informers.of::<ResourceQuota>();
    let (pods, services) = (context.informers.of::<Pod>(), context.informers.of::<Service>());
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let counts = Arc::new(Counts::new(context.client.clone(), quotas.clone()));
    let reconciler = Quotas {
        client: context.client.clone(),
        quotas: quotas.clone(),
        pods: pods.clone(),
        services: services.clone(),
        claims: claims.clone(),
        counts: counts.clone(),
    };
    let controller = Controller::new(name, reconciler)
        .metrics(&context.metrics)
        .workers(context.settings.workers)
        .reconciles_if(&quotas, must_count)
        .watches(&pods, replenishes(&quotas, Tracked::Pods, |pod: &Pod| Item::pod(pod)))
        .watches(
            &services,
            replenishes(&quotas, Tracked::Services, |service: &Service| Item::service(service)),
        )
        .watches(
            &claims,
            replenishes(&quotas, Tracked::Claims, |claim: &PersistentVolumeClaim| {
                Item::claim(claim)
            }),
        );
    counts.wakes(controller.queue());
    let resync = resync(quotas, controller.queue(), counts);
    tokio::join!(controller.run(shutdown.clone()), shutdown.run_until_cancelled(resync));
}

/// A new quota is counted, and one that asks for something else. What this controller and
/// admission write into its status is no news.
fn must_count(change: &Change<ResourceQuota>) -> bool {
    match change {
        Change::Added(_) => true,
        Change::Updated { old, new } => {
            old.spec != new.spec || hard(new) != plan::status_hard(new) || plan::lacks_usage(new)
        }
        Change::Deleted(_) => false,
    }
}

/// The quotas that must be counted again when such an object changes.
fn replenishes<K: Watchable>(
    quotas: &Informer<ResourceQuota>,
    kind: Tracked,
    item: for<'a> fn(&'a K) -> Item<'a>,
) -> impl Fn(&Change<K>) -> Vec<ObjectKey> + Send + 'static {
    let quotas = quotas.clone();
    move |change| {
        if matches!(change, Change::Added(_)) {
            return Vec::new();
        }
        let namespace = change.object().meta().namespace.as_deref().unwrap_or_default();
        let counting = counting(&quotas, namespace, &kind);
        // Most namespaces have no quota, and most updates change nothing that is counted.
        if let (false, Change::Updated { old, new }) = (counting.is_empty(), change) {
            let now = clock::now();
            let (before, after) = (item(old), item(new));
            if before.usage(now) == after.usage(now) && before.same_scopes(&after) {
                return Vec::new();
            }
        }
        counting
    }
}

/// The quotas of a namespace that count objects of a kind.
fn counting(quotas: &Informer<ResourceQuota>, namespace: &str, kind: &Tracked) -> Vec<ObjectKey> {
    let quotas = quotas.list_in(namespace);
    quotas.iter().filter(|quota| tracks(quota, kind)).map(|quota| ObjectKey::of(&**quota)).collect()
}

async fn resync(quotas: Informer<ResourceQuota>, queue: WorkQueue<ObjectKey>, counts: Arc<Counts>) {
    loop {
        tokio::time::sleep(RESYNC).await;
        counts.forget_unused();
        quotas.list().iter().for_each(|quota| queue.add(ObjectKey::of(&**quota)));
    }
}
