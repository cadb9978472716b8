//! A priority level as requests meet it: [`QueueSet`] with a lock, a clock and tasks to wake.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use super::{
    allocation::Claim,
    classify::Distinguisher,
    demand::Demand,
    metrics::{Metrics, Series},
    plan::LevelPlan,
    queue_set::{Arrival, Cost, Discipline, QueueSet, Refusal, Ticket},
    retry_after::RetryAfter,
};
use crate::server::{info::RequestInfo, query::Query, user::UserInfo};
use http::HeaderValue;
use k8s_openapi::api::flowcontrol::v1::PolicyRulesWithSubjects;

/// A flow schema in force.
#[derive(Debug)]
pub(super) struct Schema {
    /// Its name.
    pub name: String,
    /// The UID of its object.
    pub uid: HeaderValue,
    /// What it is about.
    pub rules: Vec<PolicyRulesWithSubjects>,
    /// What tells its flows apart.
    pub distinguisher: Distinguisher,
    /// Its priority level.
    pub level: Arc<Level>,
    /// The UID of the level's object.
    pub level_uid: HeaderValue,
    /// What its requests are counted on.
    pub series: Series,
}

/// What is remembered of a request.
#[derive(Debug)]
pub(super) struct About {
    /// Its schema.
    pub schema: Arc<Schema>,
    /// Who asks.
    pub user: Arc<UserInfo>,
    /// What for.
    pub subject: Arc<(RequestInfo, Query)>,
}

/// The requests of a level.
pub(super) type Requests = QueueSet<About, oneshot::Sender<()>>;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Level {
    /// Its name.
    pub name: String,
    state: Mutex<State>,
    retry_after: Mutex<RetryAfter>,
}

#[derive(Debug)]
struct State {
    requests: Requests,
    plan: LevelPlan,
    seats: u32,
    demand: Demand,
}

impl Level {
    /// An idle level.
    pub(super) fn new(plan: LevelPlan, now: Instant) -> Self {
        let seats = plan.initial;
        let requests = QueueSet::new(plan.discipline, seats, now);
        let state = State { requests, seats, demand: Demand::default(), plan: plan.clone() };
        Self { name: plan.name, state: Mutex::new(state), retry_after: Mutex::default() }
    }

    /// Changes what it is to be.
    pub(super) fn configure(&self, plan: LevelPlan, now: Instant) {
        self.change(|state, woken| {
            state.requests.configure(plan.discipline, state.seats, now, woken);
            state.plan = plan;
        });
    }

    /// What it asks for, for the period that ends now.
    pub(super) fn claim(&self, now: Instant, metrics: &Metrics) -> Claim {
        let mut state = self.state.lock();
        let mut demand = state.demand;
        state.requests.end_period(now, &mut demand);
        state.demand = demand;
        metrics.demand(&self.name, &demand);
        Claim {
            exempt: state.plan.discipline == Discipline::Exempt,
            nominal: state.plan.nominal,
            min: state.plan.min,
            max: state.plan.max,
            high_watermark: demand.high_watermark,
            smoothed: demand.smoothed,
        }
    }

    /// Gives it this many seats.
    pub(super) fn set_seats(&self, seats: u32, now: Instant, metrics: &Metrics) {
        self.change(|state, woken| {
            state.seats = seats;
            state.requests.configure(state.plan.discipline, seats, now, woken);
            let LevelPlan { nominal, min, max, .. } = state.plan;
            metrics.limits(&self.name, nominal, min, max, seats);
        });
    }

    /// The most seats of one request.
    pub(super) fn seats_of_one_max(&self) -> u32 {
        self.state.lock().plan.seats_of_one_max
    }

    /// Takes a request, of the flow with this hash.
    pub(super) fn enter(self: &Arc<Self>, about: About, cost: Cost, flow: u64) -> Entry {
        let schema = about.schema.clone();
        let is_watch = about.subject.0.verb == "watch";
        let now = Instant::now();
        let (arrival, receiver) = self.change(|state, woken| {
            let arrival = state.requests.arrive(about, cost, flow, now, woken);
            let receiver = match arrival {
                Arrival::Waits(ticket) => {
                    let (sender, receiver) = oneshot::channel();
                    state.requests.attach(ticket, sender);
                    Some(receiver)
                }
                _ => None,
            };
            (arrival, receiver)
        });
        let place = |ticket| Place { level: self.clone(), schema: schema.clone(), ticket };
        match (arrival, receiver) {
            (Arrival::Served(ticket), _) => {
                Entry::Seated(Seat::taken(place(ticket), cost, Duration::ZERO, is_watch))
            }
            (Arrival::Waits(ticket), Some(receiver)) => {
                schema.series.in_queue.inc();
                let place = Some(place(ticket));
                Entry::Waits(Wait { place, receiver, cost, since: now, is_watch })
            }
            (Arrival::Refused(why), _) => Entry::Refused(self.refuse(&schema, why)),
            // A request that waits always has a receiver.
            (Arrival::Waits(_), None) => Entry::Refused(self.refuse(&schema, Refusal::TimeOut)),
        }
    }

    /// Counts a refusal, and says after how many seconds to come back.
    fn refuse(&self, schema: &Schema, why: Refusal) -> i64 {
        schema.series.refused[why as usize].inc();
        let second = crate::clock::now().as_second();
        self.retry_after.lock().refused(second)
    }

    /// Ends a request.
    fn leave(self: &Arc<Self>, ticket: Ticket) {
        let now = Instant::now();
        let lingers = self.change(|state, woken| state.requests.leave(ticket, now, woken));
        let Some(lingers) = lingers else { return };
        let level = self.clone();
        let release = async move {
            tokio::time::sleep(lingers).await;
            let now = Instant::now();
            level.change(|state, woken| state.requests.release(ticket, now, woken));
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(release)),
            // The runtime is gone, and all requests with it.
            Err(_) => self.change(|state, woken| state.requests.release(ticket, now, woken)),
        }
    }

    /// Changes the state, then wakes those whose turn it is, without the lock.
    fn change<T>(&self, change: impl FnOnce(&mut State, &mut Vec<oneshot::Sender<()>>) -> T) -> T {
        let mut woken = Vec::new();
        let result = change(&mut self.state.lock(), &mut woken);
        for waker in woken {
            // Who has gone meanwhile gives the seat back.
            let _ = waker.send(());
        }
        result
    }

    /// Shows what it does.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Requests) -> T) -> T {
        look(&self.state.lock().requests)
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub(in crate::server) enum Entry {
    /// It is served.
    Seated(Seat),
    /// It waits.
    Waits(Wait),
    /// It is refused; it may come back after so many seconds.
    Refused(i64),
}

/// A request's place in its level, given back when this is dropped.
#[derive(Debug)]
struct Place {
    level: Arc<Level>,
    schema: Arc<Schema>,
    ticket: Ticket,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.level.leave(self.ticket);
    }
}

/// The seats of a request that is served. They are free again when this is dropped.
#[derive(Debug)]
pub(in crate::server) struct Seat {
    place: Place,
    seats: i64,
    since: Instant,
    is_watch: bool,
}

impl Seat {
    fn taken(place: Place, cost: Cost, waited: Duration, is_watch: bool) -> Self {
        let series = &place.schema.series;
        let seats = i64::from(cost.max_seats());
        series.dispatched.inc();
        series.executing.inc();
        series.executing_seats.inc_by(seats);
        series.waited[1].observe(waited.as_secs_f64());
        Self { place, seats, since: Instant::now(), is_watch }
    }

    /// The UIDs of the schema and the level.
    pub(in crate::server) fn uids(&self) -> (HeaderValue, HeaderValue) {
        (self.place.schema.uid.clone(), self.place.schema.level_uid.clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let series = &self.place.schema.series;
        series.executing.dec();
        series.executing_seats.dec_by(self.seats);
        let executed = &series.executed[usize::from(self.is_watch)];
        executed.observe(self.since.elapsed().as_secs_f64());
    }
}

/// A request that waits. It gives up when this is dropped.
#[derive(Debug)]
pub(in crate::server) struct Wait {
    place: Option<Place>,
    receiver: oneshot::Receiver<()>,
    cost: Cost,
    since: Instant,
    is_watch: bool,
}

impl Wait {
    /// The seats, once it is the request's turn; if that takes longer than `limit`, after how many
    /// seconds to come back.
    pub(in crate::server) async fn seated(mut self, limit: Duration) -> Result<Seat, i64> {
        let turn = tokio::time::timeout(limit, &mut self.receiver).await;
        match (turn, self.place.take()) {
            (Ok(Ok(())), Some(place)) => {
                let waited = self.since.elapsed();
                place.schema.series.in_queue.dec();
                Ok(Seat::taken(place, self.cost, waited, self.is_watch))
            }
            (_, Some(place)) => {
                place.schema.series.in_queue.dec();
                place.schema.series.waited[0].observe(self.since.elapsed().as_secs_f64());
                let (level, schema) = (place.level.clone(), place.schema.clone());
                drop(place);
                Err(level.refuse(&schema, Refusal::TimeOut))
            }
            // Only this function takes the place, and it takes the whole.
            (_, None) => Err(1),
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            place.schema.series.in_queue.dec();
        }
    }
}
