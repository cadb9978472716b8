//! The history of a Pod template, in ControllerRevisions: what `kubectl rollout history` and
//! `undo` read, and what tells the Pods of one template from those of the next.
//!
//! A revision stores a strategic merge patch that puts its template back, as Kubernetes'
//! controllers store it, so that kubectl can apply it. The template that is in force has the
//! highest number: going back to an earlier one gives that one the next number instead of making
//! another revision.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::{
    api::{apps::v1::ControllerRevision, core::v1::PodTemplateSpec},
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        runtime::RawExtension,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, PostParams, Preconditions},
    core::NamespaceResourceScope,
};
use rk_api::{client::Informer, meta::selectors::LabelQuery};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    deployment::template_hash::safe_text,
    error::{self, Error},
    owners::{self, claims, controller_of, controller_ref, is_controlled_by},
    write::{self, Part},
};

/// The label that says which revision a Pod was made from.
pub(crate) const POD_REVISION: &str = "controller-revision-hash";

/// Longest name of an owner that goes whole into the name of its revision.
const OWNER_NAME_MAX: usize = 223;

/// A kind whose template has a history.
pub(crate) trait Owner:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + DeserializeOwned
    + std::fmt::Debug
{
    /// The label that a revision carries its hash in.
    const HASH_LABEL: &'static str;

    /// `spec.selector`.
    fn selector(&self) -> &LabelSelector;

    /// `spec.template`.
    fn template(&self) -> &PodTemplateSpec;

    /// `status.collisionCount`, 0 when there is none.
    fn collisions(&self) -> i32;
}

/// The template that a revision keeps; `None` if it keeps something else.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    rk_api::json::from_value(&template).ok()
}

/// The patch that puts `template` in the place of another.
pub(crate) fn patch(template: &PodTemplateSpec) -> Result<Value, Error> {
    let mut template = serde_json::to_value(template)
        .map_err(|error| Error::Invalid(format!("a Pod template cannot be written: {error}")))?;
    template["$patch"] = json!("replace");
    Ok(json!({"spec": {"template": template}}))
}

/// What has to be done for a template to be in force.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    /// Nothing: this revision of it is the newest of all.
    Keep(Arc<ControllerRevision>),
    /// It had this revision before, which becomes the newest, with this number.
    Raise(Arc<ControllerRevision>, i64),
    /// It is new, and its revision gets this number.
    Create(i64),
}

/// Finds `wanted` in a history, of whose revisions of the same template the newest counts.
pub(crate) fn next(history: &[Arc<ControllerRevision>], wanted: &PodTemplateSpec) -> Next {
    let same = |revision: &&Arc<ControllerRevision>| template(revision).as_ref() == Some(wanted);
    let above_others =
        history.iter().filter(|revision| !same(revision)).map(|it| number(it)).max().unwrap_or(0)
            + 1;
    match history.iter().filter(same).max_by_key(|revision| number(revision)) {
        Some(newest) if number(newest) >= above_others => Next::Keep(newest.clone()),
        Some(newest) => Next::Raise(newest.clone(), above_others),
        None => Next::Create(above_others),
    }
}

/// The oldest revisions beyond `limit`, of those that neither are `live` nor have Pods: a revision
/// is kept as long as a Pod of it runs. `history` is sorted, oldest first.
pub(crate) fn surplus(
    history: &[Arc<ControllerRevision>],
    live: &BTreeSet<String>,
    limit: i32,
) -> Vec<Arc<ControllerRevision>> {
    let Ok(limit) = usize::try_from(limit) else { return Vec::new() };
    let past: Vec<_> = history.iter().filter(|it| !live.contains(&it.name_any())).collect();
    let surplus = past.len().saturating_sub(limit);
    past.into_iter().take(surplus).cloned().collect()
}

/// The number of a revision, 0 when it has none.
pub(crate) fn number(revision: &ControllerRevision) -> i64 {
    revision.revision.unwrap_or(0)
}

/// FNV-1 of the patch and of the number of collisions before: what Kubernetes names revisions by.
fn hash(patch: &Value, collisions: i32) -> String {
    let text = format!("{patch}{collisions}");
    let hash = text
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(byte));
    safe_text(hash)
}

fn name(owner: &str, hash: &str) -> String {
    format!("{}-{hash}", &owner[..owner.floor_char_boundary(OWNER_NAME_MAX)])
}

/// The revision of the owner's present template, as it is created.
fn revision<O: Owner>(owner: &O, patch: Value, number: i64, collisions: i32) -> ControllerRevision {
    let hash = hash(&patch, collisions);
    let metadata = owner.template().metadata.as_ref();
    let mut labels = metadata.and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    labels.insert(O::HASH_LABEL.into(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name(&owner.name_any(), &hash)),
            namespace: owner.namespace(),
            labels: Some(labels),
            annotations: Some(owner.annotations().clone()).filter(|it| !it.is_empty()),
            owner_references: Some(vec![controller_ref(owner)]),
            ..Default::default()
        },
        data: RawExtension(patch),
        revision: Some(number),
    }
}

/// Reads and writes the revisions of owners.
#[derive(Clone)]
pub(crate) struct Histories {
    client: Client,
    revisions: Informer<ControllerRevision>,
}

/// The revision in force.
pub(crate) struct Current {
    /// As it is stored.
    pub revision: Arc<ControllerRevision>,
    /// How many names were taken by other templates so far: belongs into the status.
    pub collisions: i32,
}

impl Histories {
    pub(crate) fn new(client: Client, revisions: Informer<ControllerRevision>) -> Self {
        Self { client, revisions }
    }

    /// The owner's revisions, oldest first. Matching ones of nobody's are taken over, and those
    /// that stopped matching let go.
    pub(crate) async fn of<O: Owner>(
        &self,
        owner: &O,
    ) -> Result<Vec<Arc<ControllerRevision>>, Error> {
        let namespace = owner.namespace().unwrap_or_default();
        let selector = LabelQuery::from_selector(owner.selector());
        let claims = claims(
            &owner.uid().unwrap_or_default(),
            owner.meta().deletion_timestamp.is_some(),
            self.revisions.list_in(&namespace),
            |labels| !selector.is_everything() && selector.matches(labels),
        );
        let owners = Api::namespaced(self.client.clone(), &namespace);
        let mut history = owners::claim(owner, &owners, &self.api(&namespace), claims).await?;
        history.sort_by_cached_key(|it| {
            (number(it), it.creation_timestamp().map(|time| time.0), it.name_any())
        });
        Ok(history)
    }

    /// Sees to it that the newest revision is that of the owner's template, and returns it.
    pub(crate) async fn current<O: Owner>(
        &self,
        owner: &O,
        history: &[Arc<ControllerRevision>],
    ) -> Result<Current, Error> {
        let collisions = owner.collisions();
        match next(history, owner.template()) {
            Next::Keep(revision) => Ok(Current { revision, collisions }),
            Next::Raise(revision, number) => {
                let api = self.api(&owner.namespace().unwrap_or_default());
                let raised = ControllerRevision { revision: Some(number), ..(*revision).clone() };
                let raised = write::update(&api, &revision, &raised, Part::Main).await?;
                Ok(Current { revision: Arc::new(raised), collisions })
            }
            Next::Create(number) => self.create(owner, number, collisions).await,
        }
    }

    /// Two templates may have one hash: then the name is taken, and each further try has another.
    async fn create<O: Owner>(
        &self,
        owner: &O,
        number: i64,
        mut collisions: i32,
    ) -> Result<Current, Error> {
        let api = self.api(&owner.namespace().unwrap_or_default());
        let patch = patch(owner.template())?;
        loop {
            let wanted = revision(owner, patch.clone(), number, collisions);
            let taken = match api.create(&PostParams::default(), &wanted).await {
                Ok(created) => return Ok(Current { revision: Arc::new(created), collisions }),
                Err(error) if error::is_already_exists(&error) => wanted.name_any(),
                Err(error) => return Err(error.into()),
            };
            let there = api.get(&taken).await?;
            if template(&there).as_ref() == Some(owner.template()) {
                if is_controlled_by(&there, &owner.uid().unwrap_or_default()) {
                    return Ok(Current { revision: Arc::new(there), collisions });
                }
                if controller_of(&there).is_none() {
                    return Err(Error::NotYet(format!(
                        "ControllerRevision {taken} is to be adopted"
                    )));
                }
            }
            collisions = collisions.saturating_add(1);
        }
    }

    /// Deletes revisions; one that is gone is fine.
    pub(crate) async fn delete(&self, doomed: &[Arc<ControllerRevision>]) -> Result<(), Error> {
        for revision in doomed {
            let api = self.api(&revision.namespace().unwrap_or_default());
            let exactly_this = Preconditions { uid: revision.uid(), resource_version: None };
            let params = DeleteParams { preconditions: Some(exactly_this), ..Default::default() };
            match api.delete(&revision.name_any(), &params).await {
                Err(error) if !error::is_not_found(&error) && !error::is_conflict(&error) => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn api(&self, namespace: &str) -> Api<ControllerRevision> {
        Api::namespaced(self.client.clone(), namespace)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn template_of(image: &str) -> PodTemplateSpec {
        let template = json!({
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": image, "resources": {}}]},
        });
        serde_json::from_value(template).unwrap()
    }

    fn stored(name: &str, image: &str, number: i64) -> Arc<ControllerRevision> {
        Arc::new(ControllerRevision {
            metadata: ObjectMeta { name: Some(name.into()), ..Default::default() },
            data: RawExtension(patch(&template_of(image)).unwrap()),
            revision: Some(number),
        })
    }

    #[test]
    fn a_revision_keeps_its_template() {
        let kept = stored("a", "v1", 1);
        assert_eq!(kept.data.0["spec"]["template"]["$patch"], "replace");
        assert_eq!(template(&kept), Some(template_of("v1")));
        let other = ControllerRevision { data: RawExtension(json!({"a": 1})), ..(*kept).clone() };
        assert_eq!(template(&other), None);
    }

    #[test]
    fn going_back_raises_the_old_revision() {
        let history = [stored("a", "v1", 1), stored("b", "v2", 2)];
        assert_eq!(next(&history, &template_of("v2")), Next::Keep(history[1].clone()));
        assert_eq!(next(&history, &template_of("v1")), Next::Raise(history[0].clone(), 3));
        assert_eq!(next(&history, &template_of("v3")), Next::Create(3));
        assert_eq!(next(&[], &template_of("v1")), Next::Create(1));
    }

    #[test]
    fn of_equal_revisions_the_newest_counts() {
        let history = [stored("a", "v1", 1), stored("b", "v1", 2)];
        assert_eq!(next(&history, &template_of("v1")), Next::Keep(history[1].clone()));
    }

    #[test]
    fn names_depend_on_template_and_collisions_and_fit() {
        let [one, two] = ["v1", "v2"].map(|image| patch(&template_of(image)).unwrap());
        assert_eq!(hash(&one, 0), hash(&one, 0));
        assert_ne!(hash(&one, 0), hash(&one, 1));
        assert_ne!(hash(&one, 0), hash(&two, 0));
        assert!(name(&"x".repeat(253), &hash(&one, 0)).len() <= 253);
    }

    proptest! {
        /// However templates follow one another, the newest revision is the present template's, no
        /// template has two, and no number comes twice.
        #[test]
        fn the_present_template_is_always_newest(images in prop::collection::vec(0..4_u8, 1..20)) {
            let mut history: Vec<Arc<ControllerRevision>> = Vec::new();
            for image in images {
                let image = format!("v{image}");
                match next(&history, &template_of(&image)) {
                    Next::Keep(_) => {}
                    Next::Raise(old, number) => {
                        history.retain(|it| it.name_any() != old.name_any());
                        history.push(stored(&old.name_any(), &image, number));
                    }
                    Next::Create(number) => history.push(stored(&image, &image, number)),
                }
                let newest = history.iter().max_by_key(|it| number(it)).unwrap();
                prop_assert_eq!(template(newest), Some(template_of(&image)));
                let numbers: BTreeSet<_> = history.iter().map(|it| number(it)).collect();
                let names: BTreeSet<_> = history.iter().map(|it| it.name_any()).collect();
                prop_assert_eq!((numbers.len(), names.len()), (history.len(), history.len()));
            }
        }

        /// What goes is past, oldest first, and as much as is beyond the limit.
        #[test]
        fn only_old_revisions_beyond_the_limit_go(
            count in 0..12_usize, live in prop::collection::btree_set(0..12_usize, 0..4), limit in 0..12_i32,
        ) {
            let history: Vec<_> =
                (0..count).map(|at| stored(&format!("r{at}"), "v", at as i64 + 1)).collect();
            let live: BTreeSet<String> = live.into_iter().map(|at| format!("r{at}")).collect();
            let gone = surplus(&history, &live, limit);
            prop_assert!(gone.iter().all(|it| !live.contains(&it.name_any())));
            let past: Vec<_> = history.iter().filter(|it| !live.contains(&it.name_any())).collect();
            prop_assert_eq!(past.len() - gone.len(), past.len().min(limit as usize));
            prop_assert!(gone.iter().zip(past).all(|(gone, past)| gone.name_any() == past.name_any()));
        }
    }
}
