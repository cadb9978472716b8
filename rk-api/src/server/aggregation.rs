//! Aggregation: API groups that other servers serve, behind this one (kube-aggregator).
//!
//! An APIService says who serves a version of a group. One without a Service is served here. For the
//! others a request is authenticated, authorized and passed on, with the user in headers that a
//! certificate of this server vouches for; discovery and OpenAPI tell of them too.
//!
//! # Where to start
//! - `backend.rs`: a server behind this one, and how it is asked.
//! - `serve.rs`: a request that is passed on.
//! - `controller.rs`: follows APIServices, finds out which are available, keeps the local ones.
//! - `availability.rs`: what is checked. Pure but for the last check.
//! - `merge.rs`: documents with what backends say added. Pure.
//! - `authentication.rs`: what other servers must know to believe this one.

mod authentication;
mod availability;
mod backend;
mod controller;
mod documents;
mod merge;
mod serve;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use parking_lot::Mutex;

pub use self::authentication::ExtensionAuthentication;
pub(super) use self::{authentication::published, controller::run, serve::serve};
use self::{backend::Backend, documents::Merged};
use super::{info::RequestInfo, pki::Identity};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Aggregator {
    known: ArcSwap<Known>,
    /// Counts changes of what is known of backends.
    generation: AtomicU64,
    merged: Mutex<HashMap<&'static str, Merged>>,
    identity: Option<Arc<Identity>>,
}

/// What APIServices say.
#[derive(Debug, Default)]
struct Known {
    backends: Vec<Arc<Backend>>,
    ranks: merge::Ranks,
}

impl Aggregator {
    /// Nothing is known yet. To backends this server shows `identity`.
    pub(super) fn new(identity: Option<Identity>) -> Self {
        Self {
            known: ArcSwap::default(),
            generation: AtomicU64::new(0),
            merged: Mutex::default(),
            identity: identity.map(Arc::new),
        }
    }

    /// Who serves a request, if that is somebody else.
    pub(super) fn route(&self, info: &RequestInfo) -> Option<Arc<Backend>> {
        let known = self.known.load();
        if known.backends.is_empty() {
            return None;
        }
        let mut parts = info.path.trim_start_matches('/').split('/');
        let (group, version) = match (parts.next()?, parts.next()?) {
            ("apis", group) => (group, parts.next()?),
            ("openapi", "v3") if parts.next()? == "apis" => {
                let (group, version) = (parts.next()?, parts.next()?);
                let backend = known.find(group, version)?;
                return backend.has_v3().then(|| backend.clone());
            }
            _ => return None,
        };
        known.find(group, version).cloned()
    }

    /// Follows the APIServices. What is known of a backend stays as long as it is the same one.
    fn follow(&self, services: &[APIService]) {
        let before = self.known.load();
        let backend = |service: &APIService| {
            let same = before.backends.iter().find(|backend| backend.is_of(service));
            match same {
                Some(backend) => Some(backend.clone()),
                None => Some(Arc::new(Backend::of(service, self.identity.as_ref())?)),
            }
        };
        let backends: Vec<_> = services.iter().filter_map(backend).collect();
        for service in services {
            let name = service.metadata.name.as_deref().unwrap_or_default();
            if let Some(backend) = backends.iter().find(|backend| backend.name == name) {
                backend.set_available(availability::is_available(service));
            }
        }
        self.known.store(Arc::new(Known { backends, ranks: merge::Ranks::of(services) }));
        self.changed();
    }

    /// Documents are to be made anew.
    fn changed(&self) {
        self.generation.fetch_add(1, Ordering::Release);
    }
}

impl Known {
    fn find(&self, group: &str, version: &str) -> Option<&Arc<Backend>> {
        self.backends.iter().find(|backend| backend.group == group && backend.version == version)
    }
}
