//! Wall-clock time that follows tokio's clock.
//!
//! Everything in rk asks this module what time it is. On a paused tokio runtime the wall clock
//! stands still and moves with `tokio::time::advance`, together with every timer, so a test can
//! fast-forward a whole cluster.

use std::sync::OnceLock;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{MicroTime, Time},
    jiff::{SignedDuration, Timestamp},
};
use tokio::time::Instant;

/// The wall clock's reading at one instant of tokio's clock.
static ANCHOR: OnceLock<(Instant, Timestamp)> = OnceLock::new();

/// The time now, in UTC.
pub fn now() -> Timestamp {
    let (instant, timestamp) = *ANCHOR.get_or_init(|| (Instant::now(), Timestamp::now()));
    let now = Instant::now();
    let elapsed = match now.checked_duration_since(instant) {
        Some(later) => SignedDuration::try_from(later).unwrap_or(SignedDuration::MAX),
        None => -SignedDuration::try_from(instant - now).unwrap_or(SignedDuration::MAX),
    };
    timestamp.saturating_add(elapsed).unwrap_or(timestamp)
}

/// The time now, as the API writes it: in whole seconds.
pub fn now_seconds() -> Time {
    let now = now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// The time now in microseconds, as Leases and Events write it.
pub fn now_micros() -> MicroTime {
    let now = now();
    MicroTime(Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now))
}
