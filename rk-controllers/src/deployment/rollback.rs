//! Going back to an earlier template because an annotation asks for it, as `spec.rollbackTo` did
//! before apps/v1. `kubectl rollout undo` does not: it writes the template itself. Pure.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::ResourceExt;

use super::{
    model::{self, POD_TEMPLATE_HASH, ROLLBACK_TO},
    plan::Rollout,
    revisions::NOT_COPIED,
    template_hash::same_template,
};

/// A Deployment with the request taken out of it, and what came of that.
#[derive(Debug)]
pub(super) struct Rollback {
    /// As it should be.
    pub after: Deployment,
    /// What the user is told.
    pub outcome: Outcome,
}

/// What came of a request to go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The template is that of this revision now.
    Done(i64),
    /// It had been before.
    Unchanged,
    /// There is no revision before the newest.
    NoEarlier,
    /// There is no such revision.
    NotFound,
}

impl Outcome {
    pub(super) fn is_done(self) -> bool {
        matches!(self, Self::Done(_))
    }

    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Done(_) => "DeploymentRollback",
            Self::Unchanged => "DeploymentRollbackTemplateUnchanged",
            Self::NoEarlier | Self::NotFound => "DeploymentRollbackRevisionNotFound",
        }
    }

    pub(super) fn message(self, deployment: &Deployment) -> String {
        let name = deployment.name_any();
        match self {
            Self::Done(revision) => {
                format!("Rolled back deployment \"{name}\" to revision {revision}")
            }
            Self::Unchanged => format!(
                "The rollback revision contains the same template as current deployment \"{name}\""
            ),
            Self::NoEarlier => "Unable to find last revision.".to_owned(),
            Self::NotFound => "Unable to find the revision to rollback to.".to_owned(),
        }
    }
}

/// The revision that is asked for, 0 for the one before the newest. What is no number asks nothing.
pub(super) fn requested(deployment: &Deployment) -> Option<i64> {
    deployment.annotations().get(ROLLBACK_TO)?.parse().ok()
}

impl Rollout<'_> {
    /// Takes the request out of the Deployment and, if it can be met, an earlier template into it.
    /// The next reconcile rolls that out.
    pub(super) fn roll_back(&mut self, revision: i64) {
        // The template that is left behind is a revision too, also if it never ran.
        if self.new.is_none() {
            self.create_new();
        }
        let mut after = self.deployment.clone();
        after.annotations_mut().remove(ROLLBACK_TO);
        let wanted = if revision == 0 { self.revision_before_newest() } else { Some(revision) };
        let target = wanted.and_then(|wanted| {
            self.sets.iter().find(|set| model::revision(set) == wanted && wanted != 0)
        });
        let outcome = match (wanted, target) {
            (None, _) => Outcome::NoEarlier,
            (Some(_), None) => Outcome::NotFound,
            (Some(wanted), Some(set)) => match take_template(&mut after, set) {
                true => Outcome::Done(wanted),
                false => Outcome::Unchanged,
            },
        };
        self.rollback = Some(Rollback { after, outcome });
    }

    fn revision_before_newest(&self) -> Option<i64> {
        let mut revisions: Vec<i64> = self.sets.iter().map(model::revision).collect();
        revisions.sort_unstable();
        revisions.into_iter().nth_back(1).filter(|revision| *revision > 0)
    }
}

/// Gives the Deployment the template of a set, and its annotations, which say why that revision
/// came about. Whether that changes the template.
fn take_template(deployment: &mut Deployment, set: &ReplicaSet) -> bool {
    let Some(template) = model::template(set) else { return false };
    if same_template(&deployment.spec.template, template) {
        return false;
    }
    deployment.spec.template = template.clone();
    let labels = deployment.spec.template.metadata.as_mut().and_then(|it| it.labels.as_mut());
    if let Some(labels) = labels {
        labels.remove(POD_TEMPLATE_HASH);
    }
    let is_own = |key: &String| NOT_COPIED.contains(&key.as_str());
    let annotations = deployment.annotations_mut();
    annotations.retain(|key, _| is_own(key));
    let theirs = set.annotations().iter().filter(|(key, _)| !is_own(key));
    annotations.extend(theirs.map(|(key, value)| (key.clone(), value.clone())));
    true
}
