//! Limits of requests at the same time, for a server without priority and fairness
//! (`--max-requests-inflight`, `--max-mutating-requests-inflight`).

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::server::{
    info::RequestInfo,
    user::{MASTERS, UserInfo},
};

/// See the module's documentation.
#[derive(Debug)]
pub(in crate::server) struct InFlight {
    readonly: Option<Arc<Semaphore>>,
    mutating: Option<Arc<Semaphore>>,
}

/// What becomes of a request.
#[derive(Debug)]
pub(in crate::server) enum Admitted {
    /// It is served, and counts until this is dropped.
    Counted(OwnedSemaphorePermit),
    /// It is served and does not count.
    Free,
    /// There are too many.
    Refused,
}

impl InFlight {
    /// This many that read and this many that change something; 0 for any number.
    pub(in crate::server) fn new(readonly: u32, mutating: u32) -> Self {
        let limit = |limit: u32| {
            let permits = (limit as usize).min(Semaphore::MAX_PERMITS);
            (limit > 0).then(|| Arc::new(Semaphore::new(permits)))
        };
        Self { readonly: limit(readonly), mutating: limit(mutating) }
    }

    /// Decides about a request. Administrators are always served, so that they can help.
    pub(in crate::server) fn admit(&self, user: &UserInfo, info: &RequestInfo) -> Admitted {
        let reads = ["get", "list", "watch"].contains(&info.verb.as_ref());
        let Some(limit) = (if reads { &self.readonly } else { &self.mutating }) else {
            return Admitted::Free;
        };
        match limit.clone().try_acquire_owned() {
            Ok(permit) => Admitted::Counted(permit),
            Err(_) if user.is_in(MASTERS) => Admitted::Free,
            Err(_) => Admitted::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_and_writers_are_counted_apart_and_administrators_not() {
        let limits = InFlight::new(1, 0);
        let user = UserInfo::new("u", []);
        let info = |verb: &'static str| RequestInfo { verb: verb.into(), ..Default::default() };
        let first = limits.admit(&user, &info("list"));
        assert!(matches!(first, Admitted::Counted(_)));
        assert!(matches!(limits.admit(&user, &info("get")), Admitted::Refused));
        assert!(matches!(limits.admit(&UserInfo::admin(), &info("get")), Admitted::Free));
        assert!(matches!(limits.admit(&user, &info("create")), Admitted::Free));
        drop(first);
        assert!(matches!(limits.admit(&user, &info("get")), Admitted::Counted(_)));
    }
}
