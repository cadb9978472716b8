//! Pods, claims and status of single situations.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Pod},
};
use kube::ResourceExt;
use rk_api::testing::{PodBuilder, pod};
use serde_json::json;

use super::{
    claims::{self, Ownership},
    identity,
    model::{self, Version},
    plan::{Plan, Step, World, plan},
    status::{Revisions, status},
};
use crate::{history::POD_REVISION, owners::controller_ref};

fn now() -> Timestamp {
    Timestamp::from_second(100_000).unwrap()
}

pub(super) fn set_of(replicas: i32) -> StatefulSet {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "set", "generation": 1},
        "spec": {
            "replicas": replicas, "serviceName": "nginx", "podManagementPolicy": "OrderedReady",
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v1"}]}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        },
    }))
    .unwrap()
}

fn with_claims(mut set: StatefulSet) -> StatefulSet {
    set.spec.volume_claim_templates = Some(vec![
        serde_json::from_value(json!({
            "metadata": {"name": "www", "labels": {"tier": "disk"}},
            "spec": {"accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Pending"},
        }))
        .unwrap(),
    ]);
    set
}

fn version(name: &str) -> Version {
    Version { name: name.into(), template: set_of(1).spec.template }
}

/// A Pod that the set made and that serves.
fn serving(set: &StatefulSet, ordinal: i32, revision: &str) -> PodBuilder {
    let made = identity::new_pod(set, &version(revision), ordinal);
    pod("x").phase("Running").ready_since(1).with(|it| {
        (it.metadata, it.spec) = (made.metadata, made.spec);
        it.metadata.uid = Some(format!("uid-{ordinal}"));
    })
}

/// Ready since another time.
fn since(pod: PodBuilder, second: i64) -> PodBuilder {
    pod.with(|pod| pod.status = None).phase("Running").ready_since(second)
}

fn plan_of(set: &StatefulSet, pods: Vec<PodBuilder>, claims: Vec<PersistentVolumeClaim>) -> Plan {
    let pods: Vec<_> = pods.into_iter().map(|pod| Arc::new(pod.build())).collect();
    let claims: BTreeMap<_, _> =
        claims.into_iter().map(|it| (it.name_any(), Arc::new(it))).collect();
    plan(&World {
        set,
        current: &version("v1"),
        update: &version("v2"),
        pods: &pods,
        claim: &|name| claims.get(name).cloned(),
        now: now(),
    })
}

/// A plan in words: `+web-0` a Pod made, `-web-0` one deleted, `~web-0` one repaired, `!www-web-0`
/// a claim given away, phases parted by `;`.
fn words(plan: &Plan) -> String {
    let word = |step: &Step| match step {
        Step::Create { pod, .. } => format!("+{}", pod.name_any()),
        Step::Delete(pod) => format!("-{}", pod.name_any()),
        Step::Repair { before, .. } => format!("~{}", before.name_any()),
        Step::Own { claim, .. } => format!("!{}", claim.name_any()),
        Step::Claims { pod, .. } => format!("claims of {pod}"),
        Step::Refuse { message, .. } => message.clone(),
    };
    let phase = |steps: &Vec<Step>| steps.iter().map(word).collect::<Vec<_>>().join(" ");
    plan.iter().map(phase).collect::<Vec<_>>().join("; ")
}

#[track_caller]
fn check(why: &str, set: &StatefulSet, pods: Vec<PodBuilder>, expected: &str) {
    assert_eq!(words(&plan_of(set, pods, vec![])), expected, "{why}");
}

#[test]
fn pods_come_one_after_the_other_or_all_at_once() {
    let set = set_of(3);
    let up = |ordinal| serving(&set, ordinal, "v2");
    check("the first", &set, vec![], "+web-0");
    check("the next", &set, vec![up(0)], "+web-1");
    let starting = up(0).with(|pod| pod.status = None).phase("Pending");
    check("not before the first is ready", &set, vec![starting.clone()], "");
    check("nor while it goes", &set, vec![up(0).deleting()], "");
    check("one that lacks comes first", &set, vec![up(1), up(2)], "+web-0");

    let mut parallel = set.clone();
    parallel.spec.pod_management_policy = Some("Parallel".into());
    check("at once", &parallel, vec![starting], "+web-1 +web-2");
    check("not beside one that goes", &parallel, vec![up(0).deleting()], "+web-1 +web-2");
}

#[test]
fn pods_go_highest_first_or_all_at_once() {
    let set = set_of(1);
    let up = |ordinal| serving(&set, ordinal, "v2");
    check("the highest", &set, vec![up(0), up(1), up(2)], "-web-2");
    check("not before it is gone", &set, vec![up(0), up(1), up(2).deleting()], "");
    let down = |ordinal| up(ordinal).with(|pod| pod.status = None).phase("Running");
    check("not while a lower one is down", &set, vec![down(0), up(1)], "");
    check("one that is down itself", &set, vec![up(0), down(1)], "-web-1");
    check("not when a lower one is down too", &set, vec![up(0), down(1), down(2)], "");

    let mut parallel = set.clone();
    parallel.spec.pod_management_policy = Some("Parallel".into());
    check("at once", &parallel, vec![down(0), up(1), down(2)], "-web-2 -web-1");
}

#[test]
fn ordinals_begin_where_the_set_says() {
    let mut set = set_of(2);
    set.spec.ordinals.get_or_insert_default().start = Some(5);
    let up = |ordinal| serving(&set, ordinal, "v2");
    check("the first", &set, vec![], "+web-5");
    check("lower ones go", &set, vec![up(0), up(5), up(6)], "-web-0");
}

#[test]
fn an_ended_pod_is_deleted_and_made_anew() {
    let set = set_of(1);
    for phase in ["Failed", "Succeeded"] {
        let ended = serving(&set, 0, "v2").phase(phase);
        check(phase, &set, vec![ended.clone()], "-web-0");
        check("it goes already", &set, vec![ended.deleting()], "");
    }
}

#[test]
fn an_update_replaces_the_highest_first_down_to_the_partition() {
    let mut set = set_of(3);
    let old = |ordinal| serving(&set_of(3), ordinal, "v1");
    let new = |ordinal| serving(&set_of(3), ordinal, "v2");
    check("the highest", &set, vec![old(0), old(1), old(2)], "-web-2");
    check("then the next", &set, vec![old(0), old(1), new(2)], "-web-1");
    let broken = new(2).with(|pod| pod.status = None).phase("Running");
    check("not while the last is down", &set, vec![old(0), old(1), broken], "");

    let rolling = set.spec.update_strategy.as_mut().unwrap().rolling_update.as_mut().unwrap();
    rolling.partition = Some(2);
    check("above the partition", &set, vec![old(0), old(1), old(2)], "-web-2");
    check("not below", &set, vec![old(0), old(1), new(2)], "");
    let made = plan_of(&set, vec![old(0)], vec![]);
    let Step::Create { pod, .. } = &made[0][0] else { panic!("{}", words(&made)) };
    assert_eq!(pod.labels()[POD_REVISION], "v1", "below the partition the version stays");

    let rolling = set.spec.update_strategy.as_mut().unwrap().rolling_update.as_mut().unwrap();
    (rolling.partition, rolling.max_unavailable) = (
        Some(0),
        Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::String("70%".into())),
    );
    check("two of three", &set, vec![old(0), old(1), old(2)], "-web-2 -web-1");

    set.spec.update_strategy.as_mut().unwrap().type_ = Some("OnDelete".into());
    check("by hand only", &set, vec![old(0), old(1), old(2)], "");
}

#[test]
fn an_update_that_gets_stuck_is_mended_by_hand_or_with_the_parallel_policy_by_the_next() {
    let mut set = set_of(2);
    let old = serving(&set, 0, "v1");
    let broken = serving(&set, 1, "v0").with(|pod| pod.status = None).phase("Running");
    check("stuck", &set, vec![old.clone(), broken.clone()], "");
    set.spec.pod_management_policy = Some("Parallel".into());
    check("mended", &set, vec![old, broken], "-web-1");
}

#[test]
fn a_pod_is_available_when_it_has_been_ready_for_long_enough() {
    let mut set = set_of(2);
    set.spec.min_ready_seconds = Some(60);
    let fresh = since(serving(&set, 0, "v2"), 99_970);
    check("not yet", &set, vec![fresh.clone()], "");
    check("now", &set, vec![since(serving(&set, 0, "v2"), 99_000)], "+web-1");
    let revisions = Revisions { current: "v2", update: "v2", collisions: 0 };
    let (status, look_again) = status(&set, &[Arc::new(fresh.build())], revisions, now());
    assert_eq!((status.ready_replicas, status.available_replicas), (Some(1), Some(0)));
    assert_eq!(look_again.unwrap().as_secs(), 30);
}

#[test]
fn a_pod_has_the_identity_of_its_ordinal() {
    let set = with_claims(set_of(3));
    let made = identity::new_pod(&set, &version("web-abc"), 2);
    let label = |key: &str| made.labels()[key].as_str();
    assert_eq!(made.name_any(), "web-2");
    assert_eq!(label("statefulset.kubernetes.io/pod-name"), "web-2");
    assert_eq!(label("apps.kubernetes.io/pod-index"), "2");
    assert_eq!(label(POD_REVISION), "web-abc");
    let spec = made.spec.as_ref().unwrap();
    assert_eq!(
        (spec.hostname.as_deref(), spec.subdomain.as_deref()),
        (Some("web-2"), Some("nginx"))
    );
    let volume = &spec.volumes.as_ref().unwrap()[0];
    let claim = volume.persistent_volume_claim.as_ref().unwrap();
    assert_eq!((volume.name.as_str(), claim.claim_name.as_str()), ("www", "www-web-2"));
    assert_eq!(identity::repaired(&set, &made, 2), None);

    let mut bare = made.clone();
    bare.labels_mut().remove("statefulset.kubernetes.io/pod-name");
    assert_eq!(identity::repaired(&set, &bare, 2), Some(made));
}

#[test]
fn only_names_that_the_set_gives_have_an_ordinal() {
    let set = set_of(3);
    let cases = [
        ("web-0", Some(0)),
        ("web-12", Some(12)),
        ("web-01", None),
        ("web-", None),
        ("web", None),
        ("db-1", None),
        ("a-web-1", None),
        ("web--1", None),
    ];
    for (name, expected) in cases {
        assert_eq!(model::ordinal(&set, name), expected, "{name}");
    }
}

#[test]
fn claims_have_the_names_and_labels_of_their_pod() {
    let set = with_claims(set_of(1));
    let plan = plan_of(&set, vec![], vec![]);
    let Step::Create { claims, .. } = &plan[0][0] else { panic!("{}", words(&plan)) };
    let [claim] = claims.as_slice() else { panic!("{claims:?}") };
    assert_eq!(claim.name_any(), "www-web-0");
    assert_eq!(claim.labels().get("app").map(String::as_str), Some("web"));
    assert_eq!(claim.labels().get("tier").map(String::as_str), Some("disk"));
    assert!(claim.status.is_none() && claim.owner_references().is_empty());

    let again = plan_of(&set, vec![], vec![claim.clone()]);
    assert!(matches!(&again[0][0], Step::Create { claims, .. } if claims.is_empty()));
    assert!(claims::may_be_of(&set, "www-web-7"));
    assert!(!claims::may_be_of(&set, "www-db-0") && !claims::may_be_of(&set, "wwwweb-0"));
}

#[test]
fn a_pod_waits_for_a_claim_that_goes() {
    let mut set = with_claims(set_of(1));
    let mut claim = claims::new_claims(&set, 0).remove(0);
    claim.metadata.deletion_timestamp = pod("x").deleting().metadata.deletion_timestamp.clone();
    assert_eq!(
        words(&plan_of(&set, vec![], vec![claim.clone()])),
        "pvc www-web-0 is being deleted"
    );

    claim.metadata.deletion_timestamp = None;
    retain(&mut set, "Retain", "Delete");
    let earlier: Pod = serving(&set, 0, "v2").uid("earlier").build();
    claim.metadata.owner_references = Some(vec![controller_ref(&earlier)]);
    assert_eq!(words(&plan_of(&set, vec![], vec![claim])), "", "it goes with an earlier Pod");
}

fn retain(set: &mut StatefulSet, deleted: &str, scaled: &str) {
    let policy = json!({"whenDeleted": deleted, "whenScaled": scaled});
    set.spec.persistent_volume_claim_retention_policy = serde_json::from_value(policy).unwrap();
}

#[test]
fn claims_go_with_what_the_policy_says() {
    let mut set = with_claims(set_of(1));
    let claim = claims::new_claims(&set, 0).remove(0);
    let there = serving(&set, 0, "v2").build();
    let (of_set, of_pod) = (controller_ref(&set), controller_ref(&there));
    // (when deleted, when scaled, scaled away) and the owner.
    let cases = [
        ("Retain", "Retain", false, None),
        ("Retain", "Retain", true, None),
        ("Delete", "Retain", false, Some(&of_set)),
        ("Delete", "Retain", true, Some(&of_set)),
        ("Retain", "Delete", false, None),
        ("Retain", "Delete", true, Some(&of_pod)),
        ("Delete", "Delete", false, Some(&of_set)),
        ("Delete", "Delete", true, Some(&of_pod)),
    ];
    for (deleted, scaled, away, owner) in cases {
        retain(&mut set, deleted, scaled);
        set.spec.replicas = Some(i32::from(!away));
        // From whatever it was before, and then at rest.
        for before in [None, Some(&of_set), Some(&of_pod)] {
            let mut claim = claim.clone();
            claim.metadata.owner_references = before.map(|it| vec![it.clone()]);
            let wanted: Vec<_> = owner.into_iter().cloned().collect();
            let change = claims::ownership(&set, &there, 0, &claim);
            let expected = (before != owner)
                .then(|| Ownership { references: wanted.clone(), conflict: false });
            assert_eq!(change, expected, "{deleted} {scaled} {away} {before:?}");
        }
    }

    let mut foreign = of_set.clone();
    (foreign.kind, foreign.name, foreign.uid) = ("Thing".into(), "t".into(), "t".into());
    let mut managed = claim;
    managed.metadata.owner_references = Some(vec![foreign.clone()]);
    assert_eq!(claims::ownership(&set, &there, 0, &managed), None, "somebody else manages it");
    managed.owner_references_mut().push(of_set);
    let let_go = Ownership { references: vec![foreign], conflict: true };
    assert_eq!(claims::ownership(&set, &there, 0, &managed), Some(let_go));
}

#[test]
fn a_claim_is_given_to_its_pod_before_the_pod_is_scaled_away() {
    let mut set = with_claims(set_of(1));
    retain(&mut set, "Retain", "Delete");
    let pods = (0..2).map(|ordinal| serving(&set, ordinal, "v2")).collect();
    let claims = (0..2).map(|ordinal| claims::new_claims(&set, ordinal).remove(0)).collect();
    assert_eq!(words(&plan_of(&set, pods, claims)), "!www-web-1; -web-1");
}

#[test]
fn the_status_counts_versions_and_completes_an_update() {
    let set = set_of(2);
    let revisions = Revisions { current: "v1", update: "v2", collisions: 1 };
    let count = |pods: Vec<PodBuilder>| {
        let pods: Vec<_> = pods.into_iter().map(|pod| Arc::new(pod.build())).collect();
        status(&set, &pods, revisions, now()).0
    };
    let midway = count(vec![serving(&set, 0, "v1"), serving(&set, 1, "v2").phase("Pending")]);
    assert_eq!(
        (midway.replicas, midway.ready_replicas, midway.current_replicas, midway.updated_replicas),
        (2, Some(1), Some(1), Some(1))
    );
    assert_eq!(midway.current_revision.as_deref(), Some("v1"));

    let done = count(vec![serving(&set, 0, "v2"), serving(&set, 1, "v2")]);
    assert_eq!((done.current_replicas, done.updated_replicas), (Some(2), Some(2)));
    assert_eq!(done.current_revision.as_deref(), Some("v2"));

    let going = count(vec![serving(&set, 0, "v2"), serving(&set, 1, "v2").deleting()]);
    assert_eq!((going.replicas, going.updated_replicas), (2, Some(1)));
}

#[test]
fn a_set_that_is_being_deleted_does_nothing() {
    let mut set = set_of(3);
    set.metadata.deletion_timestamp = pod("x").deleting().metadata.deletion_timestamp.clone();
    check("nothing", &set, vec![serving(&set, 7, "v1")], "");
}
