//! Failures as gRPC's codes.

use tonic::{Code, Status};

use crate::runtime::RuntimeError;

/// What a client is told. The code says what it can do; the message is for people.
pub(super) fn status(error: RuntimeError) -> Status {
    let code = match &error {
        RuntimeError::NotFound { .. } => Code::NotFound,
        RuntimeError::Invalid(_) => Code::InvalidArgument,
        RuntimeError::State { .. } => Code::FailedPrecondition,
        RuntimeError::Timeout(_) => Code::DeadlineExceeded,
        RuntimeError::Unsupported(_) => Code::Unimplemented,
        // What containerd and CRI-O say of these.
        RuntimeError::ImagePull { .. } | RuntimeError::Start(_) => Code::Unknown,
        RuntimeError::Io { .. } => Code::Internal,
    };
    let message = match &error {
        RuntimeError::Io { what, source } => format!("{what}: {source}"),
        other => other.to_string(),
    };
    Status::new(code, message)
}
