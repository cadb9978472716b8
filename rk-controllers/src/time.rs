//! Points in time as the API writes them.

use jiff::{SignedDuration, Timestamp};

/// Without the fraction of a second, which the API does not store. Conditions compared with what
/// the server returns must not differ by it.
pub(crate) fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// The time from `now` until `later`; zero when that has passed.
pub(crate) fn until(later: Timestamp, now: Timestamp) -> std::time::Duration {
    std::time::Duration::try_from(later.duration_since(now)).unwrap_or_default()
}

/// `time` plus a number of seconds, at most the last representable time.
pub(crate) fn plus_seconds(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}
