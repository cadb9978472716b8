//! What is counted, under kube-apiserver's names.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLevel {
    priority_level: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfSchema {
    priority_level: String,
    flow_schema: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRefusal {
    priority_level: String,
    flow_schema: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfWait {
    priority_level: String,
    flow_schema: String,
    execute: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfType {
    priority_level: String,
    flow_schema: String,
    #[allow(non_snake_case, reason = "the label's name is a keyword")]
    r#type: &'static str,
}

/// Upper bounds of durations, in seconds.
const SECONDS: [f64; 14] =
    [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0];

type Float = Gauge<f64, std::sync::atomic::AtomicU64>;

fn durations() -> Histogram {
    Histogram::new(SECONDS)
}

/// All series.
#[derive(Clone, Debug)]
pub(in crate::server) struct Metrics {
    rejected: Family<OfRefusal, Counter>,
    dispatched: Family<OfSchema, Counter>,
    in_queue: Family<OfSchema, Gauge>,
    executing: Family<OfSchema, Gauge>,
    executing_seats: Family<OfSchema, Gauge>,
    waited: Family<OfWait, Histogram, fn() -> Histogram>,
    executed: Family<OfType, Histogram, fn() -> Histogram>,
    nominal: Family<OfLevel, Gauge>,
    lower: Family<OfLevel, Gauge>,
    upper: Family<OfLevel, Gauge>,
    current: Family<OfLevel, Gauge>,
    high_watermark: Family<OfLevel, Gauge>,
    average: Family<OfLevel, Float>,
    deviation: Family<OfLevel, Float>,
    smoothed: Family<OfLevel, Float>,
    fair_fraction: Float,
}

impl Metrics {
    /// The series, as part of all that the server shows.
    pub(in crate::server) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            rejected: Family::default(),
            dispatched: Family::default(),
            in_queue: Family::default(),
            executing: Family::default(),
            executing_seats: Family::default(),
            waited: Family::new_with_constructor(durations),
            executed: Family::new_with_constructor(durations),
            nominal: Family::default(),
            lower: Family::default(),
            upper: Family::default(),
            current: Family::default(),
            high_watermark: Family::default(),
            average: Family::default(),
            deviation: Family::default(),
            smoothed: Family::default(),
            fair_fraction: Float::default(),
        };
        let mut named = Named(registry);
        // The library appends `_total` to counters.
        named.add("rejected_requests", "Requests that were refused", &metrics.rejected);
        named.add("dispatched_requests", "Requests that were served", &metrics.dispatched);
        named.add("current_inqueue_requests", "Requests that wait", &metrics.in_queue);
        named.add("current_executing_requests", "Requests that are served", &metrics.executing);
        let help = "Seats of requests that are served";
        named.add("current_executing_seats", help, &metrics.executing_seats);
        named.add("request_wait_duration_seconds", "Seconds in a queue", &metrics.waited);
        named.add("request_execution_seconds", "Seconds of being served", &metrics.executed);
        named.add("nominal_limit_seats", "Seats of a priority level", &metrics.nominal);
        named.add("lower_limit_seats", "Seats that it does not lend", &metrics.lower);
        named.add("upper_limit_seats", "Seats that it has at most", &metrics.upper);
        named.add("current_limit_seats", "Seats that it has now", &metrics.current);
        let help = "The most seats that it could use in the last period";
        named.add("demand_seats_high_watermark", help, &metrics.high_watermark);
        named.add("demand_seats_average", "Seats that it could use on average", &metrics.average);
        named.add("demand_seats_stdev", "Their standard deviation", &metrics.deviation);
        named.add("demand_seats_smoothed", "Seats that it is likely to use", &metrics.smoothed);
        let help = "The fraction of what they are likely to use that levels get";
        named.add("seat_fair_frac", help, &metrics.fair_fraction);
        metrics
    }

    /// The series of a schema's requests.
    pub(super) fn series(&self, level: &str, schema: &str) -> Series {
        let of_schema =
            OfSchema { priority_level: level.to_owned(), flow_schema: schema.to_owned() };
        let OfSchema { priority_level, flow_schema } = &of_schema;
        let (priority_level, flow_schema) = (|| priority_level.clone(), || flow_schema.clone());
        let refused = |reason| {
            let labels =
                OfRefusal { priority_level: priority_level(), flow_schema: flow_schema(), reason };
            self.rejected.get_or_create(&labels).clone()
        };
        let waited = |execute| {
            let labels =
                OfWait { priority_level: priority_level(), flow_schema: flow_schema(), execute };
            self.waited.get_or_create(&labels).clone()
        };
        let executed = |r#type| {
            let labels =
                OfType { priority_level: priority_level(), flow_schema: flow_schema(), r#type };
            self.executed.get_or_create(&labels).clone()
        };
        Series {
            refused: [refused("concurrency-limit"), refused("queue-full"), refused("time-out")],
            dispatched: self.dispatched.get_or_create(&of_schema).clone(),
            in_queue: self.in_queue.get_or_create(&of_schema).clone(),
            executing: self.executing.get_or_create(&of_schema).clone(),
            executing_seats: self.executing_seats.get_or_create(&of_schema).clone(),
            waited: [waited("false"), waited("true")],
            executed: [executed("regular"), executed("watch")],
        }
    }

    /// A level's bounds and what it has.
    pub(super) fn limits(&self, level: &str, nominal: u32, lower: u32, upper: u32, current: u32) {
        let labels = OfLevel { priority_level: level.to_owned() };
        let set = |family: &Family<OfLevel, Gauge>, value: u32| {
            family.get_or_create(&labels).set(value.into());
        };
        set(&self.nominal, nominal);
        set(&self.lower, lower);
        set(&self.upper, upper);
        set(&self.current, current);
    }

    /// A level's demand.
    pub(super) fn demand(&self, level: &str, demand: &super::demand::Demand) {
        let labels = OfLevel { priority_level: level.to_owned() };
        self.high_watermark.get_or_create(&labels).set(demand.high_watermark.into());
        self.average.get_or_create(&labels).set(demand.average);
        self.deviation.get_or_create(&labels).set(demand.deviation);
        self.smoothed.get_or_create(&labels).set(demand.smoothed);
    }

    /// See [`super::allocation::allocate`].
    pub(super) fn fair_fraction(&self, fraction: f64) {
        self.fair_fraction.set(fraction);
    }
}

struct Named<'a>(&'a mut Registry);

impl Named<'_> {
    fn add<M>(&mut self, name: &str, help: &str, metric: &M)
    where
        M: prometheus_client::registry::Metric + Clone,
    {
        self.0.register(format!("apiserver_flowcontrol_{name}"), help, metric.clone());
    }
}

/// The series of a schema's requests: what a request counts on, without looking anything up.
#[derive(Clone, Debug)]
pub(super) struct Series {
    /// By [`super::queue_set::Refusal`].
    pub refused: [Counter; 3],
    /// Requests that were served.
    pub dispatched: Counter,
    /// Requests that wait.
    pub in_queue: Gauge,
    /// Requests that are served.
    pub executing: Gauge,
    /// Their seats.
    pub executing_seats: Gauge,
    /// How long requests waited: those that were not served, and those that were.
    pub waited: [Histogram; 2],
    /// How long requests were served: watches (until they had their first objects) are the second.
    pub executed: [Histogram; 2],
}
