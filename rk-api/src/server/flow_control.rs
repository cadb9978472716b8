//! API priority and fairness (KEP-1040): requests are told apart by flow schemas, and each priority
//! level serves so many of its own at the same time, fairly between flows; the others wait or are
//! refused.
//!
//! # Where to start
//! - `queue_set.rs`: which request is next. Pure.
//! - `allocation.rs`, `demand.rs`: how many seats each level has. Pure.
//! - `plan.rs`: from the objects of the API to levels and schemas. Pure.
//! - `level.rs`: a level as requests meet it.
//! - `controller.rs`: follows the objects, lends and borrows, keeps the default objects.
//! - `layers/flow_control.rs`: where requests come by.
//!
//! A request that need not wait takes two short locks of its level and nothing that others wait for.

mod allocation;
mod classify;
mod controller;
mod dealer;
mod defaults;
mod demand;
mod dump;
mod estimate;
mod in_flight;
mod level;
mod metrics;
mod plan;
mod queue_set;
mod retry_after;

use std::{
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};

use arc_swap::ArcSwap;
use foldhash::fast::FixedState;
use http::HeaderValue;
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use tokio::time::Instant;

use self::{
    classify::Distinguisher,
    level::{About, Level, Schema},
};
pub(super) use self::{
    controller::run,
    in_flight::{Admitted, InFlight},
    level::{Entry, Seat},
    metrics::Metrics,
};
use super::{
    cache::{Cache, Table},
    info::RequestInfo,
    kinds::Kinds,
    query::Query,
    user::UserInfo,
};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct FlowControl {
    state: ArcSwap<State>,
    /// All seats.
    seats: u32,
    cache: Arc<Cache>,
    kinds: Arc<Kinds>,
    metrics: Metrics,
    hasher: FixedState,
}

/// What is in force.
#[derive(Debug, Default)]
struct State {
    levels: Vec<Arc<Level>>,
    /// In the order in which they are asked. The last one takes everything.
    schemas: Vec<Arc<Schema>>,
}

impl FlowControl {
    /// Serves up to `seats` requests at the same time. Until the objects are read there are only
    /// the levels and schemas that there must be.
    pub(super) fn new(seats: u32, cache: Arc<Cache>, kinds: Arc<Kinds>, metrics: Metrics) -> Self {
        let flow_control = Self {
            state: ArcSwap::default(),
            seats,
            cache,
            kinds,
            metrics,
            hasher: FixedState::with_seed(crate::rng::next_u64()),
        };
        flow_control.configure(Vec::new(), Vec::new());
        flow_control
    }

    /// Takes a request. `None` when there is no schema for it, which cannot be.
    pub(super) fn enter(
        &self,
        user: &Arc<UserInfo>,
        subject: &Arc<(RequestInfo, Query)>,
    ) -> Option<Entry> {
        let (info, query) = subject.as_ref();
        let state = self.state.load();
        let matching = state.schemas.iter().find(|it| classify::matches(&it.rules, user, info));
        let schema = matching.or(state.schemas.last())?;
        let mut hasher = self.hasher.build_hasher();
        schema.name.hash(&mut hasher);
        schema.distinguisher.flow(user, info).hash(&mut hasher);
        let table = self.table(info);
        let level = &schema.level;
        let cost = estimate::cost(info, query, table.as_deref(), level.seats_of_one_max());
        let about = About { schema: schema.clone(), user: user.clone(), subject: subject.clone() };
        Some(level.enter(about, cost, hasher.finish()))
    }

    fn table(&self, info: &RequestInfo) -> Option<Arc<Table>> {
        // What is asked of a single object, and not told to watchers, costs one seat.
        if !info.is_resource || info.verb == "get" {
            return None;
        }
        let kinds = self.kinds.now();
        let resource = kinds.resources.get(&info.group, &info.version, &info.resource)?;
        self.cache.table(resource).ok()
    }

    /// Puts these objects in force. Returns of each schema, by name, whether its level is missing.
    fn configure(
        &self,
        levels: Vec<PriorityLevelConfiguration>,
        schemas: Vec<FlowSchema>,
    ) -> Vec<(String, bool)> {
        let now = Instant::now();
        let plan = plan::plan(levels, schemas, self.seats);
        let before = self.state.load();
        let mut uids = Vec::new();
        let mut levels = Vec::new();
        for planned in plan.levels {
            uids.push((planned.name.clone(), header(&planned.uid)));
            // A level that is not wanted any more lives as long as its requests do.
            match before.levels.iter().find(|level| level.name == planned.name) {
                Some(level) => {
                    level.configure(planned, now);
                    levels.push(level.clone());
                }
                None => levels.push(Arc::new(Level::new(planned, now))),
            }
        }
        let compile = |schema: FlowSchema| {
            let name = schema.metadata.name.unwrap_or_default();
            let wanted = &schema.spec.priority_level_configuration.name;
            let level = levels.iter().find(|level| level.name == *wanted)?;
            let level_uid = uids.iter().find(|(name, _)| name == wanted)?.1.clone();
            let method = schema.spec.distinguisher_method.as_ref();
            Some(Arc::new(Schema {
                uid: header(schema.metadata.uid.as_deref().unwrap_or_default()),
                rules: schema.spec.rules.unwrap_or_default(),
                distinguisher: Distinguisher::of(method.map(|method| method.type_.as_str())),
                level: level.clone(),
                level_uid,
                series: self.metrics.series(&level.name, &name),
                name,
            }))
        };
        let schemas = plan.schemas.into_iter().filter_map(compile).collect();
        self.state.store(Arc::new(State { levels, schemas }));
        self.share_seats();
        plan.dangling
    }

    /// Gives each level the seats that it needs, as far as there are any.
    fn share_seats(&self) {
        let now = Instant::now();
        let state = self.state.load();
        let claims: Vec<_> =
            state.levels.iter().map(|level| level.claim(now, &self.metrics)).collect();
        let (seats, fraction) = allocation::allocate(&claims);
        for (level, seats) in state.levels.iter().zip(seats) {
            level.set_seats(seats, now, &self.metrics);
        }
        self.metrics.fair_fraction(fraction);
    }
}

/// A UID as a header; empty when it is none.
fn header(uid: &str) -> HeaderValue {
    HeaderValue::from_str(uid).unwrap_or(HeaderValue::from_static(""))
}
