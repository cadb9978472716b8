//! What etcd's errors mean here.
//!
//! etcd tells its errors apart by their texts, which are part of its API (`rpctypes/error.go`).

use std::{error::Error as _, io::ErrorKind};

use crate::StoreError;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The revision asked for is no longer kept.
    Compacted,
    /// The revision asked for has not happened yet.
    Future,
    /// The request is larger than the members take.
    TooLarge,
    /// The lease is gone.
    NoLease,
    /// The request was understood and refused; another member would refuse it too.
    Refused,
    /// The member was not reached, and nothing was sent.
    NotSent,
    /// The member did not answer, or could not serve the request now.
    Unanswered,
}

/// gRPC's codes of answers that another member, or the same one later, might not give: cancelled,
/// unknown, deadline exceeded, internal, unavailable.
const PASSING: [i32; 5] = [1, 2, 4, 13, 14];

impl Failure {
    pub(super) fn of(error: &etcd_client::Error) -> Self {
        let etcd_client::Error::GRpcStatus(status) = error else { return Failure::Unanswered };
        let message = status.message();
        match message.strip_prefix("etcdserver: ").unwrap_or(message) {
            "mvcc: required revision has been compacted" => return Failure::Compacted,
            "mvcc: required revision is a future revision" => return Failure::Future,
            "request is too large" => return Failure::TooLarge,
            "requested lease not found" => return Failure::NoLease,
            _ => {}
        }
        if is_refused_connection(status.source()) {
            Failure::NotSent
        } else if PASSING.contains(&(status.code() as i32)) {
            Failure::Unanswered
        } else {
            Failure::Refused
        }
    }

    /// Whether it is worth asking again.
    pub(super) fn is_passing(self) -> bool {
        matches!(self, Failure::NotSent | Failure::Unanswered)
    }
}

/// Whether there was no connection to send anything over.
fn is_refused_connection(mut source: Option<&(dyn std::error::Error + 'static)>) -> bool {
    const NEVER_THERE: [ErrorKind; 3] =
        [ErrorKind::ConnectionRefused, ErrorKind::HostUnreachable, ErrorKind::NetworkUnreachable];
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && NEVER_THERE.contains(&io.kind())
        {
            return true;
        }
        source = error.source();
    }
    false
}

/// An error that nothing more can be said about than that there is no answer.
pub(super) fn unavailable(error: &etcd_client::Error) -> StoreError {
    let mut reason = error.to_string();
    if let etcd_client::Error::GRpcStatus(status) = error {
        status.message().clone_into(&mut reason);
        let mut source = status.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !reason.contains(&text) {
                reason = format!("{reason}: {text}");
            }
            source = cause.source();
        }
    }
    StoreError::Unavailable { reason: format!("etcd: {reason}") }
}
