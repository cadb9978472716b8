//! `/debug/api_priority_and_fairness/dump_*`: what the priority levels do at the moment, as text.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    FlowControl,
    level::{About, Level},
    queue_set::{Request, Stage},
};
use crate::{clock, server::query::Query};

/// Nanoseconds of a second.
const SECOND: f64 = 1e9;

impl FlowControl {
    /// The text of a path; `None` when there is no such path.
    pub(in crate::server) fn dump(&self, what: &str, query: &Query) -> Option<String> {
        let state = self.state.load();
        let mut levels: Vec<&Level> = state.levels.iter().map(AsRef::as_ref).collect();
        levels.sort_by(|a, b| a.name.cmp(&b.name));
        let rows = match what {
            "dump_priority_levels" => priority_levels(&levels),
            "dump_queues" => queues(&levels),
            "dump_requests" => {
                let details = query.get("includeRequestDetails").is_some_and(|it| !it.is_empty());
                requests(&levels, details)
            }
            _ => return None,
        };
        Some(aligned(&rows))
    }
}

type Rows = Vec<Vec<String>>;

fn header(columns: &[&str]) -> Vec<String> {
    columns.iter().map(|column| (*column).to_owned()).collect()
}

fn priority_levels(levels: &[&Level]) -> Rows {
    let mut rows = vec![header(&[
        "PriorityLevelName",
        "ActiveQueues",
        "IsIdle",
        "IsQuiescing",
        "WaitingRequests",
        "ExecutingRequests",
        "DispatchedRequests",
        "RejectedRequests",
        "TimedoutRequests",
        "CancelledRequests",
    ])];
    rows.extend(levels.iter().map(|level| {
        level.look(|requests| {
            let (waiting, served, _) = requests.counts();
            let totals = requests.totals();
            let active = requests.queues().iter().filter(|queue| !queue.waiting.is_empty()).count();
            vec![
                level.name.clone(),
                active.to_string(),
                (waiting == 0 && served == 0).to_string(),
                // A level that is not wanted any more is no longer here.
                false.to_string(),
                waiting.to_string(),
                served.to_string(),
                totals.dispatched.to_string(),
                totals.rejected.to_string(),
                0.to_string(),
                totals.cancelled.to_string(),
            ]
        })
    }));
    rows
}

fn queues(levels: &[&Level]) -> Rows {
    let mut rows = vec![header(&[
        "PriorityLevelName",
        "Index",
        "PendingRequests",
        "ExecutingRequests",
        "SeatsInUse",
        "NextDispatchR",
        "InitialSeatsSum",
        "MaxSeatsSum",
        "TotalWorkSum",
    ])];
    let seat_seconds = |work: i128| format!("{:.8}ss", work as f64 / SECOND);
    for level in levels {
        level.look(|requests| {
            for (index, queue) in requests.queues().iter().enumerate() {
                let costs = || {
                    let waiting = queue.waiting.iter();
                    waiting.filter_map(|ticket| Some(requests.request(*ticket)?.cost))
                };
                rows.push(vec![
                    level.name.clone(),
                    index.to_string(),
                    queue.waiting.len().to_string(),
                    queue.served.to_string(),
                    queue.seats_in_use.to_string(),
                    seat_seconds(queue.next_dispatch),
                    costs().map(|cost| cost.seats).sum::<u32>().to_string(),
                    costs().map(|cost| cost.max_seats()).sum::<u32>().to_string(),
                    seat_seconds(queue.work_waiting),
                ]);
            }
        });
    }
    rows
}

fn requests(levels: &[&Level], details: bool) -> Rows {
    let mut columns = header(&[
        "PriorityLevelName",
        "FlowSchemaName",
        "QueueIndex",
        "RequestIndexInQueue",
        "FlowDistingsher",
        "ArriveTime",
        "InitialSeats",
        "FinalSeats",
        "AdditionalLatency",
        "StartTime",
    ]);
    if details {
        columns.extend(header(&[
            "UserName",
            "Verb",
            "APIPath",
            "Namespace",
            "Name",
            "APIVersion",
            "Resource",
            "SubResource",
        ]));
    }
    let mut rows = vec![columns];
    for level in levels {
        level.look(|set| {
            for (ticket, request) in set.requests() {
                let queue = request.queue.and_then(|index| set.queues().get(index));
                let position = queue
                    .and_then(|queue| queue.waiting.iter().position(|waiting| *waiting == ticket));
                rows.push(request_row(level, request, position, details));
            }
        });
    }
    rows
}

fn request_row<W>(
    level: &Level,
    request: &Request<About, W>,
    position: Option<usize>,
    details: bool,
) -> Vec<String> {
    let About { schema, user, subject } = &request.about;
    let info = &subject.0;
    let index = |index: Option<usize>| index.map_or("-1".to_owned(), |index| index.to_string());
    let started = match request.stage {
        Stage::Served(since) => time(since),
        // Go's zero time.
        Stage::Waiting | Stage::Lingers => "0001-01-01T00:00:00Z".to_owned(),
    };
    let mut row = vec![
        level.name.clone(),
        schema.name.clone(),
        index(request.queue),
        index(position),
        schema.distinguisher.flow(user, info).to_owned(),
        time(request.arrived),
        request.cost.seats.to_string(),
        request.cost.final_seats.to_string(),
        go_duration(request.cost.lingers),
        started,
    ];
    if details {
        let version = match info.group.as_str() {
            "" => info.version.clone(),
            group => format!("{group}/{}", info.version),
        };
        row.extend([
            user.name.clone(),
            info.verb.clone().into_owned(),
            info.path.clone(),
            info.namespace.clone(),
            info.name.clone(),
            version,
            info.resource.clone(),
            info.subresource.clone(),
        ]);
    }
    row
}

fn time(at: Instant) -> String {
    (clock::now() - k8s_openapi::jiff::SignedDuration::try_from(at.elapsed()).unwrap_or_default())
        .to_string()
}

fn go_duration(duration: Duration) -> String {
    match duration.as_millis() {
        0 => "0s".to_owned(),
        millis => format!("{millis}ms"),
    }
}

/// Cells with a comma and at least a blank after each but the last, in columns.
fn aligned(rows: &Rows) -> String {
    const WIDTH_MIN: usize = 8;
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count() + 2).max().unwrap_or(0).max(WIDTH_MIN)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == row.len() {
                text.push_str(cell);
            } else {
                text.push_str(&format!("{:width$}", format!("{cell},"), width = widths[column]));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_in_columns() {
        let rows = vec![header(&["Name", "A"]), header(&["a-long-name", "1"])];
        assert_eq!(aligned(&rows), "Name,        A\na-long-name, 1\n");
    }
}
