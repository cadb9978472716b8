//! A definition that is deleted takes its objects with it, and goes when the last of them has.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::DeleteOptions,
};
use tokio::time::Instant;

use super::{
    super::{
        Inner,
        registry::Target,
        status::{ApiError, Result},
        user::UserInfo,
    },
    is_kept, write_status,
};
use crate::resources::{
    Resource,
    custom::definition::{CLEANUP, ESTABLISHED, TERMINATING, is_true, naming::set_condition},
};

/// How long objects may take to go before the status says that they do not.
const GONE_WITHIN: Duration = Duration::from_secs(60);
/// How often they are looked for: soon at first, since most have no finalizers.
const LOOK_AFTER: Duration = Duration::from_millis(50);
const LOOK_AFTER_MAX: Duration = Duration::from_secs(5);

/// Begins to clean up, unless that is under way.
pub(super) fn begin(server: &Arc<Inner>, definition: CustomResourceDefinition) {
    let name = definition.metadata.name.clone().unwrap_or_default();
    // By UID: its successor may be deleted before this task has ended.
    let uid = definition.metadata.uid.clone().unwrap_or_default();
    if !is_kept(&definition) || !server.custom_resources.cleaning.lock().insert(uid.clone()) {
        return;
    }
    let server = Arc::downgrade(server);
    tokio::spawn(async move {
        loop {
            let ended = clean_up(&server, &definition, &name).await;
            let Some(server) = server.upgrade() else { return };
            let again = match ended {
                Ok(done) => !done,
                Err(error) => {
                    tracing::warn!(%error, %name, "cannot delete the objects of a definition");
                    true
                }
            };
            if !again || server.shutdown.is_cancelled() {
                server.custom_resources.cleaning.lock().remove(&uid);
                return;
            }
            let shutdown = server.shutdown.clone();
            drop(server);
            shutdown.run_until_cancelled(tokio::time::sleep(LOOK_AFTER_MAX)).await;
        }
    });
}

/// Deletes the objects, and lets the definition go when there are none left. Says whether it did.
async fn clean_up(
    server: &Weak<Inner>,
    definition: &CustomResourceDefinition,
    name: &str,
) -> Result<bool> {
    let upgraded = || server.upgrade().ok_or_else(|| ApiError::internal("the server ends"));
    let uid = definition.metadata.uid.clone();
    // Another definition of this name is none of this one's business.
    let set = |status: &'static str, reason: &'static str, message: &'static str| {
        let uid = uid.clone();
        move |found: &mut CustomResourceDefinition| {
            if found.metadata.uid == uid {
                set_condition(found, TERMINATING, status, reason, message);
            }
        }
    };
    let in_progress =
        set("True", "InstanceDeletionInProgress", "CustomResource deletion is in progress");
    write_status(&*upgraded()?, name, in_progress).await?;
    let last = if is_true(definition, ESTABLISHED) {
        delete_all(&*upgraded()?, definition).await?;
        if !wait_until_gone(server, definition).await? {
            let message = "could not confirm zero CustomResources remaining: timed out waiting for \
                           the condition";
            let stuck = set("True", "InstanceDeletionCheck", message);
            write_status(&*upgraded()?, name, stuck).await?;
            return Ok(false);
        }
        set("False", "InstanceDeletionCompleted", "removed all instances")
    } else {
        set("False", "NeverEstablished", "resource was never established")
    };
    write_status(&*upgraded()?, name, |found| {
        last(found);
        if found.metadata.uid == uid
            && let Some(finalizers) = &mut found.metadata.finalizers
        {
            finalizers.retain(|name| name != CLEANUP);
        }
    })
    .await?;
    Ok(true)
}

/// The version by which objects are deleted: any will do.
fn row(server: &Inner, definition: &CustomResourceDefinition) -> Option<Arc<Resource>> {
    let (group, kinds) = (&definition.spec.group, server.kinds.now());
    let names = definition.status.as_ref()?.accepted_names.as_ref()?;
    definition
        .spec
        .versions
        .iter()
        .find_map(|version| kinds.resources.get(group, &version.name, &names.plural).cloned())
}

async fn delete_all(server: &Inner, definition: &CustomResourceDefinition) -> Result<()> {
    let Some(resource) = row(server, definition) else { return Ok(()) };
    server.registry.cache.fresh().await?;
    let table = server.registry.cache.table(&resource)?;
    let user = UserInfo::new("system:apiserver", ["system:masters"]);
    for item in table.list(&Default::default(), None, 0, 0).items {
        let target = Target {
            resource: &resource,
            subresource: "",
            namespace: Some(item.namespace()).filter(|namespace| !namespace.is_empty()),
            name: item.name(),
            user: &user,
            dry_run: false,
            manager: "kube-apiserver",
            context: None,
        };
        match server.registry.delete(&target, &DeleteOptions::default()).await {
            Err(error) if error.code != 404 => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

async fn wait_until_gone(
    server: &Weak<Inner>,
    definition: &CustomResourceDefinition,
) -> Result<bool> {
    let until = Instant::now() + GONE_WITHIN;
    let mut pause = LOOK_AFTER;
    loop {
        let shutdown = {
            let Some(server) = server.upgrade() else { return Ok(false) };
            let Some(resource) = row(&server, definition) else { return Ok(true) };
            server.registry.cache.fresh().await?;
            if server.registry.cache.table(&resource)?.len() == 0 {
                return Ok(true);
            }
            server.shutdown.clone()
        };
        if Instant::now() >= until {
            return Ok(false);
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Ok(false);
        }
        pause = (pause * 2).min(LOOK_AFTER_MAX);
    }
}
