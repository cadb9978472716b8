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
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    authentication,
    availability::{self, Finding},
    backend::Backend,
};
use crate::{
    resources::Part,
    server::{Inner, cache::Observer, object::CachedObject, status::Result, writer::Writer},
};

/// How often everything is looked at again, whether anything has changed or not.
const CHECK_EVERY: Duration = Duration::from_secs(30);
const DOCUMENTS_EVERY: Duration = Duration::from_secs(60);

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

/// Runs until the server ends.
pub(in crate::server) async fn run(server: Weak<Inner>, shutdown: CancellationToken) {
    let changed = Arc::new(Notify::new());
    if let Some(server) = server.upgrade() {
        let tables = [
            server.reader.table::<APIService>(),
            server.reader.table::<Service>(),
            server.reader.table::<EndpointSlice>(),
            server.reader.table::<CustomResourceDefinition>(),
        ];
        for table in tables.into_iter().flatten() {
            table.observe(Arc::new(Changed(changed.clone())));
        }
    }
    let mut next: HashMap<String, Next> = HashMap::new();
    let mut look_again = false;
    loop {
        let Some(server) = server.upgrade() else { return };
        if let Err(error) = look(&server, &mut next).await {
            tracing::warn!(%error, "APIServices cannot be brought up to date");
            look_again = true;
        }
        let due = next.values().map(|next| next.check_at.min(next.documents_at)).min();
        let in_any_case = if look_again { LOOK_AGAIN_AFTER } else { CHECK_EVERY };
        let wake_at = Instant::now() + in_any_case;
        let wake_at = due.map_or(wake_at, |due| due.min(wake_at));
        drop(server);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep_until(wake_at) => look_again = false,
            () = changed.notified() => {
                if shutdown.run_until_cancelled(tokio::time::sleep(GATHER)).await.is_none() {
                    return;
                }
                look_again = true;
                for next in next.values_mut() {
                    next.check_at = Instant::now();
                }
            }
        }
    }
}

/// Wakes the controller when an object changes.
#[derive(Debug)]
struct Changed(Arc<Notify>);

impl Observer for Changed {
    fn changed(&self, _: Option<&Arc<CachedObject>>, _: Option<&Arc<CachedObject>>) {
        self.0.notify_one();
    }

    fn replaced(&self, _: &mut dyn Iterator<Item = &Arc<CachedObject>>) {
        self.0.notify_one();
    }
}

async fn look(server: &Inner, next: &mut HashMap<String, Next>) -> Result<()> {
    authentication::publish(server).await?;
    let services = server.reader.list::<APIService>(None)?;
    keep_custom(server, &services).await?;
    let aggregator = &server.aggregator;
    let remote: Vec<&APIService> = services.iter().filter(|service| is_remote(service)).collect();
    if !remote.is_empty() || !next.is_empty() {
        aggregator.follow(&services);
    }
    let local = Finding::local();
    for service in services.iter().filter(|service| !is_remote(service)) {
        if !local.is_said_by(service) {
            say(server, service, &local).await?;
        }
    }
    let backends = aggregator.known.load().backends.clone();
    next.retain(|name, _| backends.iter().any(|backend| backend.name == *name));
    let now = Instant::now();
    let looked = backends.iter().filter_map(|backend| {
        let service = remote.iter().find(|service| backend.is_of(service))?;
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
    if next.check_at <= now {
        let finding = find_out(server, backend).await?;
        let asked_in_vain = finding.reason == "FailedDiscoveryCheck";
        next.pause = match asked_in_vain {
            true => (next.pause * 2).min(CHECK_EVERY),
            false => RETRY_FIRST,
        };
        next.check_at = now + if asked_in_vain { next.pause / 2 } else { CHECK_EVERY };
        if !finding.is_said_by(service) {
            say(server, service, &finding).await?;
        }
        if backend.is_available() != finding.available {
            backend.set_available(finding.available);
            next.documents_at = now;
        }
        if !finding.available {
            backend.set_stale();
            server.aggregator.changed();
        }
    }
    if next.documents_at <= now {
        next.documents_at = now + DOCUMENTS_EVERY;
        if backend.is_available() {
            if !backend.refresh(&server.outbound).await {
                next.documents_at = now + RETRY_DOCUMENTS;
            }
            server.aggregator.changed();
        }
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
async fn keep_custom(server: &Inner, services: &[APIService]) -> Result<()> {
    let kinds = server.kinds.now();
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
