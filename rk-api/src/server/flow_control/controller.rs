//! Follows FlowSchemas and PriorityLevelConfigurations, says which schemas dangle, lets levels lend and
//! borrow, and keeps the objects that every cluster has.

use std::{sync::Weak, time::Duration};

use k8s_openapi::{
    api::flowcontrol::v1::{FlowSchema, FlowSchemaCondition, PriorityLevelConfiguration},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    FlowControl,
    defaults::{self, AUTO_UPDATE, MANDATORY},
};
use crate::{
    clock,
    resources::{BuiltIn, Part},
    server::{Inner, cache::Bell, status::Result, writer::Writer},
};

/// How often seats are lent and borrowed anew, and how often the default objects are looked at.
const SHARE_EVERY: Duration = Duration::from_secs(10);
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// Pause before something that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// As whom the default objects and the conditions are written.
const PRODUCER: &str = "api-priority-and-fairness-config-producer-v1";
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";

const DANGLING: &str = "Dangling";

/// Runs until the server ends.
pub(in crate::server) async fn run(
    server: Weak<Inner>,
    flow_control: Weak<FlowControl>,
    shutdown: CancellationToken,
) {
    let Some(changed) = server.upgrade().map(|server| {
        Bell::of([
            server.reader.table::<FlowSchema>(),
            server.reader.table::<PriorityLevelConfiguration>(),
        ])
    }) else {
        return;
    };
    // How often the objects had changed when they were last kept and followed with success.
    let (mut kept_at, mut followed_at) = (None, None);
    let mut keep_at = Instant::now();
    let mut share_at = Instant::now() + SHARE_EVERY;
    loop {
        let (Some(server), Some(flow_control)) = (server.upgrade(), flow_control.upgrade()) else {
            return;
        };
        if Instant::now() >= keep_at {
            let changes = changed.count();
            let kept = match kept_at == Some(changes) {
                true => Ok(()),
                false => keep(&server).await,
            };
            kept_at = kept.is_ok().then_some(changes);
            keep_at = Instant::now() + if kept.is_ok() { KEEP_EVERY } else { RETRY_AFTER };
            report(kept);
        }
        let changes = changed.count();
        if followed_at != Some(changes) {
            let followed = follow(&server, &flow_control).await;
            followed_at = followed.is_ok().then_some(changes);
            report(followed);
        }
        if Instant::now() >= share_at {
            flow_control.share_seats();
            share_at = Instant::now() + SHARE_EVERY;
        }
        drop((server, flow_control));
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = changed.rung() => {}
            () = tokio::time::sleep_until(share_at.min(keep_at)) => {}
        }
    }
}

fn report(result: Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "priority and fairness cannot be brought up to date");
    }
}

/// Puts the objects in force, and says of each schema whether it dangles.
async fn follow(server: &Inner, flow_control: &FlowControl) -> Result<()> {
    let levels = server.reader.list::<PriorityLevelConfiguration>(None)?;
    let schemas = server.reader.list::<FlowSchema>(None)?;
    let dangling = flow_control.configure(levels, schemas.clone());
    for (schema, (name, is_dangling)) in schemas.into_iter().zip(dangling) {
        let Some(status) = with_condition(&schema, is_dangling) else { continue };
        let writer = Writer { server, manager: CONSUMER };
        writer
            .update::<FlowSchema>(None, &name, Part::Status, move |found| {
                found.status.clone_from(&status.status);
            })
            .await?;
    }
    Ok(())
}

/// The schema with a condition that says whether it dangles; `None` when it says so already.
fn with_condition(schema: &FlowSchema, is_dangling: bool) -> Option<FlowSchema> {
    let level = &schema.spec.priority_level_configuration.name;
    let (status, reason, rest) = match is_dangling {
        true => ("True", "NotFound", "but there is no such object"),
        false => ("False", "Found", "and it exists"),
    };
    let message = format!(
        "This FlowSchema references the PriorityLevelConfiguration object named {level:?} {rest}"
    );
    let mut schema = schema.clone();
    let conditions = schema.status.get_or_insert_default().conditions.get_or_insert_default();
    let found = conditions.iter_mut().find(|found| found.type_ == DANGLING);
    let wanted = FlowSchemaCondition {
        type_: DANGLING.to_owned(),
        status: Some(status.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(clock::now_seconds()),
    };
    match found {
        Some(found) => {
            let same = found.status == wanted.status
                && found.reason == wanted.reason
                && found.message == wanted.message;
            if same {
                return None;
            }
            *found = wanted;
        }
        None => conditions.push(wanted),
    }
    Some(schema)
}

/// Creates the default objects that are missing, puts back their specs where nobody said not to, and
/// deletes those of earlier versions.
async fn keep(server: &Inner) -> Result<()> {
    each(server, defaults::levels()).await?;
    each(server, defaults::schemas()).await
}

async fn each<T: Configured>(server: &Inner, wanted: Vec<T>) -> Result<()> {
    // A server of a subset of the kinds has nothing to create for the others.
    if server.reader.resource::<T>().is_none() {
        return Ok(());
    }
    let writer = Writer { server, manager: PRODUCER };
    let found = server.reader.list::<T>(None)?;
    for object in &wanted {
        let name = name_of(object);
        match found.iter().find(|found| name_of(*found) == name) {
            None => writer.create(None, object).await?,
            Some(found) => {
                if let Some(updated) = updated(found, object) {
                    writer
                        .update::<T>(None, name, Part::Main, move |found| *found = updated.clone())
                        .await?;
                }
            }
        }
    }
    for object in &found {
        let is_default = wanted.iter().any(|wanted| name_of(wanted) == name_of(object));
        if !is_default && auto_update(object.metadata()) == Some(true) {
            writer.delete::<T>(None, name_of(object)).await?;
        }
    }
    Ok(())
}

/// What is to become of a default object that is there; `None` for nothing.
fn updated<T: Configured>(found: &T, wanted: &T) -> Option<T> {
    let said = auto_update(found.metadata());
    let is_mandatory = MANDATORY.contains(&name_of(found));
    // Nobody has changed an object of the first generation.
    let untouched = found.metadata().generation == Some(1);
    let update = is_mandatory || said.unwrap_or(untouched);
    let mut new = found.clone();
    if update {
        new.copy_spec(wanted);
    }
    if said != Some(update) {
        let annotations = new.metadata_mut().annotations.get_or_insert_default();
        annotations.insert(AUTO_UPDATE.to_owned(), update.to_string());
    }
    (new != *found).then_some(new)
}

/// What the annotation says.
fn auto_update(meta: &ObjectMeta) -> Option<bool> {
    meta.annotations.as_ref()?.get(AUTO_UPDATE)?.parse().ok()
}

fn name_of<T: BuiltIn>(object: &T) -> &str {
    object.metadata().name.as_deref().unwrap_or_default()
}

/// A kind of configuration.
trait Configured: BuiltIn + k8s_openapi::Resource + PartialEq {
    /// Takes the spec of another object.
    fn copy_spec(&mut self, other: &Self);
}

impl Configured for FlowSchema {
    fn copy_spec(&mut self, other: &Self) {
        self.spec = other.spec.clone();
    }
}

impl Configured for PriorityLevelConfiguration {
    fn copy_spec(&mut self, other: &Self) {
        // How much may be lent of what is exempt is the administrator's.
        let exempt = self.spec.exempt.take();
        self.spec = other.spec.clone();
        if self.spec.exempt.is_some() && exempt.is_some() {
            self.spec.exempt = exempt;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suggested() -> FlowSchema {
        let mut schema =
            defaults::schemas().into_iter().find(|it| name_of(it) == "probes").unwrap();
        schema.metadata.generation = Some(1);
        schema
    }

    #[test]
    fn a_spec_is_put_back_unless_somebody_said_not_to() {
        let wanted = suggested();
        let mut found = suggested();
        assert_eq!(updated(&found, &wanted), None);
        found.spec.matching_precedence = Some(7);
        assert_eq!(updated(&found, &wanted).unwrap().spec, wanted.spec);
        let keep = [(AUTO_UPDATE.to_owned(), "false".to_owned())];
        found.metadata.annotations = Some(keep.into());
        assert_eq!(updated(&found, &wanted), None);
    }

    #[test]
    fn an_object_that_says_nothing_and_was_changed_is_left_and_says_so() {
        let mut found = suggested();
        found.metadata.annotations = None;
        found.metadata.generation = Some(2);
        found.spec.matching_precedence = Some(7);
        let new = updated(&found, &suggested()).unwrap();
        assert_eq!(new.spec, found.spec);
        assert_eq!(auto_update(&new.metadata), Some(false));
    }

    #[test]
    fn what_is_mandatory_is_always_put_back() {
        let wanted = defaults::mandatory_schemas().remove(1);
        let mut found = wanted.clone();
        found.spec.matching_precedence = Some(7);
        found.metadata.annotations = Some([(AUTO_UPDATE.to_owned(), "false".to_owned())].into());
        let new = updated(&found, &wanted).unwrap();
        assert_eq!((new.spec, auto_update(&new.metadata)), (wanted.spec, Some(true)));
    }

    #[test]
    fn a_condition_that_is_right_is_not_written_again() {
        let schema = with_condition(&suggested(), false).unwrap();
        assert_eq!(with_condition(&schema, false), None);
        let conditions = with_condition(&schema, true).unwrap().status.unwrap().conditions.unwrap();
        assert_eq!(conditions.len(), 1);
        assert_eq!(conditions[0].reason.as_deref(), Some("NotFound"));
    }
}
