//! Follows APIServices, finds out which backends are available, and keeps an APIService for each
//! version of a group that custom resources are in.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use k8s_openapi::{
    api::{core::v1::Service, discovery::v1::EndpointSlice},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceSpec},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    authentication,
    availability::{self, Finding},
    backend::Backend,
};
use crate::{
    resources::Part,
    server::{Inner, cache::Bell, kinds::Snapshot, status::Result, writer::Writer},
};

/// How often everything is looked at again, whether anything has changed or not.
const CHECK_EVERY: Duration = Duration::from_secs(30);
const DOCUMENTS_EVERY: Duration = Duration::from_secs(60);

/// The same for a backend of this process, which no network comes between.
const CHECK_IN_PROCESS_EVERY: Duration = Duration::from_secs(600);

/// The pauses before a backend that failed is asked again: whether it is there, and what it says
/// of itself.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_DOCUMENTS: Duration = Duration::from_secs(2);

/// Changes are gathered for so long, and looked at once more after so long: what follows from them
/// elsewhere, such as the kinds of a definition, comes and goes a moment later.
const GATHER: Duration = Duration::from_millis(100);
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What marks the APIServices that come and go with custom resources, and their ranks.
const AUTOMANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
const CUSTOM_GROUP_RANK: i32 = 1000;
const CUSTOM_VERSION_RANK: i32 = 100;

/// When a backend is looked at again.
#[derive(Clone, Copy)]
struct Next {
    check_at: Instant,
    documents_at: Instant,
    pause: Duration,
}

/// What there was when all of it was last looked at.
#[derive(Default)]
struct Seen {
    services: Vec<APIService>,
    /// How often anything had changed by then, and the kinds that were served; `None` when all is to
    /// be looked at anew.
    at: Option<(u64, Arc<Snapshot>)>,
    next: HashMap<String, Next>,
}

impl Seen {
    fn is_current(&self, changes: u64, kinds: &Arc<Snapshot>) -> bool {
        self.at.as_ref().is_some_and(|(at, of)| *at == changes && Arc::ptr_eq(of, kinds))
    }
}

/// Runs until the server ends.
pub(in crate::server) async fn run(server: Weak<Inner>, shutdown: CancellationToken) {
    let Some(changed) = server.upgrade().map(|server| {
        Bell::of([
            server.reader.table::<APIService>(),
            server.reader.table::<Service>(),
            server.reader.table::<EndpointSlice>(),
            server.reader.table::<CustomResourceDefinition>(),
        ])
    }) else {
        return;
    };
    let mut seen = Seen::default();
    let mut look_again = false;
    loop {
        let Some(server) = server.upgrade() else { return };
        let changes = changed.count();
        if let Err(error) = look(&server, &mut seen, changes).await {
            tracing::warn!(%error, "APIServices cannot be brought up to date");
            seen.at = None;
            look_again = true;
        }
        let due = seen.next.values().map(|next| next.check_at.min(next.documents_at)).min();
        let in_any_case = if look_again { LOOK_AGAIN_AFTER } else { CHECK_EVERY };
        let wake_at = Instant::now() + in_any_case;
        let wake_at = due.map_or(wake_at, |due| due.min(wake_at));
        drop(server);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep_until(wake_at) => {
                if std::mem::take(&mut look_again) {
                    seen.at = None;
                }
            }
            () = changed.rung() => {
                if shutdown.run_until_cancelled(tokio::time::sleep(GATHER)).await.is_none() {
                    return;
                }
                look_again = true;
                for next in seen.next.values_mut() {
                    next.check_at = Instant::now();
                }
            }
        }
    }
}

async fn look(server: &Inner, seen: &mut Seen, changes: u64) -> Result<()> {
    authentication::publish(server).await?;
    let kinds = server.kinds.now();
    if !seen.is_current(changes, &kinds) {
        seen.services = server.reader.list::<APIService>(None)?;
        keep_custom(server, &kinds, &seen.services).await?;
        let any_remote = seen.services.iter().any(is_remote);
        if any_remote || !seen.next.is_empty() {
            server.aggregator.follow(&seen.services);
        }
        let local = Finding::local();
        for service in seen.services.iter().filter(|service| !is_remote(service)) {
            if !local.is_said_by(service) {
                say(server, service, &local).await?;
            }
        }
        seen.at = Some((changes, kinds));
    }
    look_at_backends(server, &seen.services, &mut seen.next).await
}

async fn look_at_backends(
    server: &Inner,
    services: &[APIService],
    next: &mut HashMap<String, Next>,
) -> Result<()> {
    let backends = server.aggregator.known.load().backends.clone();
    next.retain(|name, _| backends.iter().any(|backend| backend.name == *name));
    let now = Instant::now();
    let looked = backends.iter().filter_map(|backend| {
        let service =
            services.iter().find(|service| is_remote(service) && backend.is_of(service))?;
        let due = next.get(&backend.name).copied().unwrap_or(Next {
            check_at: now,
            documents_at: now,
            pause: RETRY_FIRST,
        });
        Some(async move { (backend.name.clone(), look_at(server, backend, service, due).await) })
    });
    for (name, result) in futures::future::join_all(looked).await {
        next.insert(name, result?);
    }
    Ok(())
}

fn is_remote(service: &APIService) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.service.is_some())
}

async fn look_at(
    server: &Inner,
    backend: &Backend,
    service: &APIService,
    mut next: Next,
) -> Result<Next> {
    let now = Instant::now();
    let (namespace, name, _) = &backend.service;
    let (check_every, documents_every) = match server.outbound.is_in_process(namespace, name) {
        true => (CHECK_IN_PROCESS_EVERY, CHECK_IN_PROCESS_EVERY),
        false => (CHECK_EVERY, DOCUMENTS_EVERY),
    };
    let mut found = None;
    if next.check_at <= now {
        let finding = find_out(server, backend).await?;
        let asked_in_vain = finding.reason == "FailedDiscoveryCheck";
        next.pause = match asked_in_vain {
            true => (next.pause * 2).min(CHECK_EVERY),
            false => RETRY_FIRST,
        };
        next.check_at = now + if asked_in_vain { next.pause / 2 } else { check_every };
        if backend.is_available() != finding.available {
            backend.set_available(finding.available);
            next.documents_at = now;
        }
        if !finding.available {
            backend.set_stale();
            server.aggregator.changed();
        }
        found = Some(finding);
    }
    let ask_documents = next.documents_at <= now;
    if ask_documents {
        next.documents_at = now + documents_every;
        if backend.is_available() {
            if !backend.refresh_discovery(&server.outbound).await {
                next.documents_at = now + RETRY_DOCUMENTS;
            }
            server.aggregator.changed();
        }
    }
    // Not before: who reads that it is available finds it in discovery.
    if let Some(finding) = found.filter(|finding| !finding.is_said_by(service)) {
        say(server, service, &finding).await?;
    }
    if ask_documents && backend.is_available() {
        backend.refresh_openapi(&server.outbound).await;
        server.aggregator.changed();
    }
    Ok(next)
}

async fn find_out(server: &Inner, backend: &Backend) -> Result<Finding> {
    let (namespace, name, _) = &backend.service;
    if server.outbound.is_in_process(namespace, name) {
        return Ok(match backend.check(&server.outbound).await {
            Ok(()) => Finding::passed(),
            Err(why) => Finding::failed("FailedDiscoveryCheck", why),
        });
    }
    let service = server.reader.get::<Service>(Some(namespace), name).await?;
    let mut slices = server.reader.list::<EndpointSlice>(Some(namespace))?;
    slices.retain(|slice| {
        let labels = slice.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get("kubernetes.io/service-name")) == Some(name)
    });
    if let Some(finding) = availability::unreachable(backend, service.as_ref(), &slices) {
        return Ok(finding);
    }
    Ok(match backend.check(&server.outbound).await {
        Ok(()) => Finding::passed(),
        Err(why) => Finding::failed("FailedDiscoveryCheck", why),
    })
}

async fn say(server: &Inner, service: &APIService, finding: &Finding) -> Result<()> {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let writer = Writer { server, manager: "kube-apiserver" };
    writer.update::<APIService>(None, name, Part::Status, |service| finding.say(service)).await
}

/// Makes APIServices for custom groups that have none, and deletes those of groups that are gone.
async fn keep_custom(server: &Inner, kinds: &Snapshot, services: &[APIService]) -> Result<()> {
    let builtin = server.kinds.builtin();
    let is_builtin = |group: &str, version: &str| {
        builtin.iter().any(|row| row.group == group && row.version == version)
    };
    let mut wanted: Vec<(&str, &str)> = kinds
        .resources
        .iter()
        .map(|row| (row.group.as_ref(), row.version.as_ref()))
        .filter(|(group, version)| !is_builtin(group, version))
        .collect();
    wanted.dedup();
    let writer = Writer { server, manager: "kube-apiserver" };
    for (group, version) in &wanted {
        let name = format!("{version}.{group}");
        if !services.iter().any(|service| service.metadata.name.as_deref() == Some(&name)) {
            writer.create(None, &custom(name, group, version)).await?;
        }
    }
    for service in services.iter().filter(|service| is_custom(service)) {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        if !wanted.iter().any(|(group, version)| format!("{version}.{group}") == name) {
            writer.delete::<APIService>(None, name).await?;
        }
    }
    Ok(())
}

/// Whether an APIService goes with its custom group.
fn is_custom(service: &APIService) -> bool {
    let labels = service.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(AUTOMANAGED)).is_some_and(|value| value == "true")
}

fn custom(name: String, group: &str, version: &str) -> APIService {
    APIService {
        metadata: ObjectMeta {
            name: Some(name),
            labels: Some([(AUTOMANAGED.to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(APIServiceSpec {
            group: Some(group.to_owned()),
            version: Some(version.to_owned()),
            group_priority_minimum: CUSTOM_GROUP_RANK,
            version_priority: CUSTOM_VERSION_RANK,
            ..APIServiceSpec::default()
        }),
        status: None,
    }
}
