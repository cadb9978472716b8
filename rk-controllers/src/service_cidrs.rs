//! Ranges of Service addresses that come and go while a cluster runs (KEP-1880).
//!
//! # What it promises
//! - A ServiceCIDR has the finalizer that protects it, and the condition `Ready`.
//! - One that is being deleted goes when no address needs it: each is in another range too, or none
//!   is taken. Until then it says so in its condition.
//! - It goes ten seconds after its deletion at the earliest, so that every API server has heard of
//!   it and gives out none of its addresses any more.

mod plan;

use async_trait::async_trait;
use k8s_openapi::{
    api::networking::v1::{IPAddress, ServiceCIDR},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{Api, Client, ResourceExt};
use rk_api::{
    client::{Change, Informer},
    clock,
};

use self::plan::{Plan, contains, is_allocated, overlap, plan};
use crate::{
    controller::{Action, Controller, Reconciler},
    error::{self, Error},
    key::ObjectKey,
    manager::Context,
    write::{self, Part},
};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const READY: &str = "Ready";

struct Ranges {
    client: Client,
    ranges: Informer<ServiceCIDR>,
    addresses: Informer<IPAddress>,
}

#[async_trait]
impl Reconciler for Ranges {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(range) = self.ranges.get("", &key.name) else { return Ok(Action::Wait) };
        let all = self.ranges.list();
        let mut changed = range.as_ref().clone();
        match plan(&range, &all, || self.allocated(), clock::now()) {
            Plan::Keep => {
                if !range.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
                    changed.finalizers_mut().push(FINALIZER.to_owned());
                    self.write(&range, &changed, Part::Main).await?;
                    // The change wakes this again, with the version that it made.
                    return Ok(Action::Wait);
                }
                set_ready(&mut changed, "True", "", "Kubernetes Service CIDR is ready");
                self.write(&range, &changed, Part::Status).await?;
                Ok(Action::Wait)
            }
            Plan::Hold => {
                let why = "There are still IPAddresses referencing the ServiceCIDR, please remove \
                           them or create a new ServiceCIDR";
                set_ready(&mut changed, "False", "Terminating", why);
                self.write(&range, &changed, Part::Status).await?;
                Ok(Action::Wait)
            }
            Plan::RemoveAfter(delay) => Ok(Action::RequeueAfter(delay)),
            Plan::Remove => {
                changed.finalizers_mut().retain(|finalizer| finalizer != FINALIZER);
                self.write(&range, &changed, Part::Main).await?;
                Ok(Action::Wait)
            }
        }
    }
}

impl Ranges {
    fn allocated(&self) -> Vec<std::net::IpAddr> {
        self.addresses.list().iter().filter_map(|address| is_allocated(address)).collect()
    }

    async fn write(
        &self,
        before: &ServiceCIDR,
        after: &ServiceCIDR,
        part: Part,
    ) -> Result<(), Error> {
        let api = Api::<ServiceCIDR>::all(self.client.clone());
        match write::update(&api, before, after, part).await {
            Err(gone) if error::is_not_found(&gone) => Ok(()),
            result => Ok(result.map(drop)?),
        }
    }
}

/// Says whether addresses can be taken, unless the object says so already.
fn set_ready(range: &mut ServiceCIDR, status: &str, reason: &str, message: &str) {
    let conditions = range.status.get_or_insert_default().conditions.get_or_insert_default();
    if conditions.iter().any(|it| it.type_ == READY && it.status == status) {
        return;
    }
    conditions.retain(|condition| condition.type_ != READY);
    conditions.push(Condition {
        type_: READY.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: clock::now_seconds(),
        observed_generation: None,
    });
}

/// The controller, wired up.
pub(crate) fn controller(name: &'static str, context: &Context) -> Controller {
    let ranges = context.informers.of::<ServiceCIDR>();
    let addresses = context.informers.of::<IPAddress>();
    let reconciler = Ranges {
        client: context.client.clone(),
        ranges: ranges.clone(),
        addresses: addresses.clone(),
    };
    // Only what is being deleted waits for others.
    let waiting = |of: &Informer<ServiceCIDR>, wakes: &dyn Fn(&ServiceCIDR) -> bool| {
        let waiting = of
            .list()
            .into_iter()
            .filter(|range| range.metadata.deletion_timestamp.is_some() && wakes(range));
        waiting.map(|range| ObjectKey::cluster(range.name_any())).collect::<Vec<_>>()
    };
    let (of_ranges, of_addresses) = (ranges.clone(), ranges.clone());
    Controller::new(name, reconciler)
        .watches(&ranges, move |change| {
            let changed = change.object();
            let mut keys = waiting(&of_ranges, &|other| overlap(changed, other));
            keys.push(ObjectKey::cluster(changed.name_any()));
            keys
        })
        .watches(&addresses, move |change| match change {
            Change::Updated { .. } => Vec::new(),
            Change::Added(address) | Change::Deleted(address) => {
                let Some(address) = is_allocated(address) else { return Vec::new() };
                waiting(&of_addresses, &|range| contains(range, address))
            }
        })
}
