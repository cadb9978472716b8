//! What a request is likely to cost, in seats.

use std::time::Duration;

use super::queue_set::Cost;
use crate::server::{cache::Table, info::RequestInfo, query::Query};

/// Bytes of objects that one seat stands for in a list, as in kube-apiserver.
const BYTES_PER_SEAT: usize = 100_000;

/// What a list from the cache holds in memory at most at a time: it is sent as it is made.
const LIST_BYTES_MAX: usize = 1_000_000;

/// Watchers that one seat stands for in a change, how long the seats are kept after it, and how
/// many there may be. kube-apiserver counts ten watchers to a seat, since it encodes an event for each
/// of them. Here they share its bytes, so a seat stands for more; how many more is an estimate.
const WATCHERS_PER_SEAT: usize = 1000;
const TELLING: Duration = Duration::from_millis(5);
const FINAL_SEATS_MAX: u32 = 10;

/// The cost of a request for objects of `table` (if there is one), of which no more than
/// `seats_max` seats are taken.
pub(super) fn cost(
    info: &RequestInfo,
    query: &Query,
    table: Option<&Table>,
    seats_max: u32,
) -> Cost {
    let Some(table) = table else { return Cost::seats(1) };
    match info.verb.as_ref() {
        "list" => list(info, query, table.len(), || table.mean_bytes(), seats_max),
        "watch" if begins_with_objects(query) => {
            list(info, query, table.len(), || table.mean_bytes(), seats_max)
        }
        "create" | "update" | "patch" | "delete" => change(table.watch_count(), seats_max),
        _ => Cost::seats(1),
    }
}

/// Whether a watch begins with the objects that there are.
fn begins_with_objects(query: &Query) -> bool {
    query.flag("sendInitialEvents")
        || matches!(query.get("resourceVersion").unwrap_or_default(), "" | "0")
}

fn list(
    info: &RequestInfo,
    query: &Query,
    stored: usize,
    mean_bytes: impl FnOnce() -> usize,
    seats_max: u32,
) -> Cost {
    // A list of one object, by its name.
    let limit = if info.name.is_empty() { query.get("limit") } else { Some("1") };
    let limit = limit.and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
    let objects = stored.min(limit.unwrap_or(usize::MAX));
    // Most lists are short.
    if objects == 0 {
        return Cost::seats(1);
    }
    let bytes = objects.saturating_mul(mean_bytes()).min(LIST_BYTES_MAX);
    let seats = u32::try_from(bytes.div_ceil(BYTES_PER_SEAT)).unwrap_or(seats_max);
    Cost::seats(seats.clamp(1, seats_max.max(1)))
}

fn change(watchers: usize, seats_max: u32) -> Cost {
    if watchers < WATCHERS_PER_SEAT {
        return Cost::seats(1);
    }
    let wanted = u32::try_from(watchers.div_ceil(WATCHERS_PER_SEAT)).unwrap_or(u32::MAX);
    let final_seats = wanted.min(FINAL_SEATS_MAX).min(seats_max.max(1));
    // Fewer seats are kept longer.
    let lingers = TELLING.mul_f64(f64::from(wanted) / f64::from(final_seats));
    Cost { seats: 1, final_seats, lingers }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seats(query: &str, stored: usize, mean: usize) -> u32 {
        let info = RequestInfo::default();
        list(&info, &Query::parse(Some(query)), stored, || mean, 100).seats
    }

    #[test]
    fn a_list_costs_what_it_sends_at_a_time() {
        assert_eq!(seats("", 0, 0), 1);
        assert_eq!(seats("", 100, 1000), 1);
        assert_eq!(seats("", 101, 1000), 2);
        assert_eq!(seats("", 1_000_000, 1000), 10);
        assert_eq!(seats("limit=500", 1_000_000, 1000), 5);
    }

    #[test]
    fn a_change_costs_more_with_many_watchers() {
        assert_eq!(change(999, 10), Cost::seats(1));
        let lingers = Duration::from_millis(5);
        assert_eq!(change(2500, 10), Cost { seats: 1, final_seats: 3, lingers });
        assert_eq!(change(4000, 2).lingers, Duration::from_millis(10));
    }
}
