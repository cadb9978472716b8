//! Decisions against a model of the API: a few maps, in which every write may be the last before a
//! crash.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::ResourceExt;
use proptest::prelude::*;
use rk_api::volumes::{
    BOUND_BY_CONTROLLER, STORAGE_PROVISIONER, claim_class, is_bound, suits, volume_class,
    volume_name,
};
use serde_json::{Value, from_value, json};

use super::{
    claim, claimant_key,
    plan::{Plan, View, phase},
    volume,
};

#[derive(Default)]
struct Model {
    claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    volumes: BTreeMap<String, Arc<PersistentVolume>>,
    classes: BTreeMap<String, Arc<StorageClass>>,
    pods: Vec<String>,
    uids: u32,
}

impl View for Model {
    fn claim(&self, _: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
        self.claims.get(name).cloned()
    }
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get(name).cloned()
    }
    fn volumes_of_class(&self, class: &str) -> Vec<Arc<PersistentVolume>> {
        self.volumes.values().filter(|volume| volume_class(volume) == class).cloned().collect()
    }
    fn volumes_kept_for(&self, _: &str, claim: &str) -> Vec<Arc<PersistentVolume>> {
        let kept =
            |volume: &PersistentVolume| claimant_key(volume).is_some_and(|key| key.name == claim);
        self.volumes.values().filter(|volume| kept(volume)).cloned().collect()
    }
    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.get(name).cloned()
    }
    fn classes(&self) -> Vec<Arc<StorageClass>> {
        self.classes.values().cloned().collect()
    }
    fn pods_without_node(&self, _: &str, _: &str) -> Vec<String> {
        self.pods.clone()
    }
}

impl Model {
    fn add_claim(&mut self, name: &str, spec: Value) {
        self.uids += 1;
        let metadata = json!({"name": name, "namespace": "ns", "uid": format!("u{}", self.uids)});
        let claim = json!({"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}});
        self.claims.insert(name.into(), Arc::new(from_value(claim).unwrap()));
    }

    fn add_volume(&mut self, name: &str, spec: Value) {
        let volume =
            json!({"metadata": {"name": name}, "spec": spec, "status": {"phase": "Pending"}});
        self.volumes.insert(name.into(), Arc::new(from_value(volume).unwrap()));
    }

    fn add_class(&mut self, name: &str, class: Value) {
        let mut class = class;
        class["metadata"]["name"] = json!(name);
        self.classes.insert(name.into(), Arc::new(from_value(class).unwrap()));
    }

    /// Makes the first `writes` writes of a plan; returns how many it would have had.
    fn carry_out(&mut self, plan: &Plan, writes: usize) -> usize {
        let mut made = 0;
        let mut may = || {
            made += 1;
            made <= writes
        };
        if let Some((before, after)) = &plan.volume {
            let name = before.name_any();
            let main = PersistentVolume { status: before.status.clone(), ..after.clone() };
            if main != **before && may() {
                self.volumes.insert(name.clone(), Arc::new(main));
            }
            if before.status != after.status && may() {
                let written = (*self.volumes[&name]).clone();
                let status = after.status.clone();
                self.volumes.insert(name, Arc::new(PersistentVolume { status, ..written }));
            }
        }
        if let Some((before, after)) = &plan.claim {
            let name = before.name_any();
            let main = PersistentVolumeClaim { status: before.status.clone(), ..after.clone() };
            if main != **before && may() {
                self.claims.insert(name.clone(), Arc::new(main));
            }
            if before.status != after.status && may() {
                let written = (*self.claims[&name]).clone();
                let status = after.status.clone();
                self.claims.insert(name, Arc::new(PersistentVolumeClaim { status, ..written }));
            }
        }
        made
    }

    fn plans(&self) -> Vec<Plan> {
        let claims = self.claims.values().map(|claim| claim::plan(claim, self));
        claims.chain(self.volumes.values().map(|volume| volume::plan(volume, self))).collect()
    }

    /// One reconcile of the object of this number, which ends after so many writes.
    fn step(&mut self, number: usize, writes: usize) {
        let plans = self.plans();
        if let Some(plan) = plans.get(number % plans.len().max(1)) {
            self.carry_out(plan, writes);
        }
    }

    /// Reconciles everything until nothing is left to write.
    fn settle(&mut self) {
        for _ in 0..100 {
            let mut written = 0;
            for number in 0..self.claims.len() + self.volumes.len() {
                let plans = self.plans();
                written += self.carry_out(&plans[number], usize::MAX);
            }
            if written == 0 {
                return;
            }
        }
        panic!("it never settles: {:?}", self.state());
    }

    fn state(&self) -> Vec<String> {
        let claims = self.claims.values().map(|claim| {
            let phase = claim.status.as_ref().and_then(|status| status.phase.clone());
            format!("{}: {:?} {:?}", claim.name_any(), volume_name(claim), phase)
        });
        let volumes = self.volumes.values().map(|volume| {
            let claimant = claimant_key(volume).map(|key| key.name);
            format!("{}: {claimant:?} {}", volume.name_any(), phase(volume))
        });
        claims.chain(volumes).collect()
    }

    fn reasons(&self, claim: &str) -> Vec<&'static str> {
        let plan = claim::plan(&self.claims[claim], self);
        plan.notes.iter().map(|note| note.reason).collect()
    }
}

fn asks(size: &str) -> Value {
    json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}})
}

fn of_size(size: &str) -> Value {
    json!({
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size},
        "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/x"},
    })
}

fn with(mut value: Value, key: &str, it: Value) -> Value {
    value[key] = it;
    value
}

#[test]
fn a_claim_and_the_smallest_volume_that_fits_find_each_other() {
    let mut model = Model::default();
    for (name, size) in [("a", "9Gi"), ("b", "5Gi"), ("c", "1Gi")] {
        model.add_volume(name, of_size(size));
    }
    model.add_claim("data", asks("3Gi"));
    model.settle();
    let state = model.state();
    assert_eq!(state[0], "data: Some(\"b\") Some(\"Bound\")");
    assert_eq!(state[2], "b: Some(\"data\") Bound");
    let status = model.claims["data"].status.clone().unwrap();
    assert_eq!(status.capacity.unwrap()["storage"].0, "5Gi");
    assert!(model.volumes["b"].annotations().contains_key(BOUND_BY_CONTROLLER));
}

#[test]
fn a_volume_outlives_its_claim_as_its_policy_says() {
    for (policy, expected) in
        [("Retain", "Released"), ("Delete", "Failed"), ("Recycle", "Released")]
    {
        let mut model = Model::default();
        model.add_volume("v", with(of_size("1Gi"), "persistentVolumeReclaimPolicy", json!(policy)));
        model.add_claim("c", asks("1Gi"));
        model.settle();
        model.claims.clear();
        model.settle();
        assert_eq!(phase(&model.volumes["v"]), expected, "{policy}");
        // Another claim of the name is not the one that the volume was bound to.
        model.add_claim("c", asks("1Gi"));
        model.settle();
        assert!(!is_bound(&model.claims["c"]), "{policy}");
    }
}

#[test]
fn a_claim_that_lost_its_volume_gets_no_other() {
    let mut model = Model::default();
    model.add_volume("v", of_size("1Gi"));
    model.add_claim("c", asks("1Gi"));
    model.settle();
    model.volumes.clear();
    assert_eq!(model.reasons("c"), ["ClaimLost"]);
    model.add_volume("w", of_size("1Gi"));
    model.settle();
    assert_eq!(model.state(), ["c: Some(\"v\") Some(\"Lost\")", "w: None Available"]);
    assert!(model.reasons("c").is_empty(), "it is said once");
}

#[test]
fn a_claim_may_name_its_volume_and_a_volume_its_claim() {
    let mut model = Model::default();
    model.add_volume("small", of_size("1Mi"));
    model.add_volume(
        "taken",
        with(of_size("1Gi"), "claimRef", json!({"name": "x", "namespace": "ns"})),
    );
    model.add_claim("wants-small", with(asks("1Gi"), "volumeName", json!("small")));
    model.add_claim("wants-taken", with(asks("1Gi"), "volumeName", json!("taken")));
    model.settle();
    assert_eq!(model.reasons("wants-small"), ["VolumeMismatch"]);
    assert_eq!(model.reasons("wants-taken"), ["FailedBinding"]);
    model.add_claim("x", asks("1Gi"));
    model.settle();
    assert_eq!(volume_name(&model.claims["x"]), Some("taken"));
    // What a person wrote survives the claim's going elsewhere.
    assert!(!model.volumes["taken"].annotations().contains_key(BOUND_BY_CONTROLLER));
}

#[test]
fn a_claim_is_marked_for_the_provisioner_of_its_class() {
    let mut model = Model::default();
    model.add_claim("c", with(asks("1Gi"), "storageClassName", json!("fast")));
    assert_eq!(model.reasons("c"), ["ProvisioningFailed"]);
    model.add_class("fast", json!({"provisioner": "example.com/disk"}));
    model.settle();
    assert_eq!(model.claims["c"].annotations()[STORAGE_PROVISIONER], "example.com/disk");
    assert_eq!(model.reasons("c"), ["ExternalProvisioning"]);
    // The provisioner answers with a volume that is kept for the claim.
    let kept = json!({"name": "c", "namespace": "ns", "uid": model.claims["c"].uid().unwrap()});
    let made = with(of_size("1Gi"), "storageClassName", json!("fast"));
    model.add_volume("pvc-1", with(made, "claimRef", kept));
    model.settle();
    assert_eq!(volume_name(&model.claims["c"]), Some("pvc-1"));
}

#[test]
fn a_claim_waits_for_its_first_consumer() {
    let mut model = Model::default();
    let class =
        json!({"provisioner": "example.com/disk", "volumeBindingMode": "WaitForFirstConsumer"});
    model.add_class("slow", class);
    model.add_volume("free", with(of_size("1Gi"), "storageClassName", json!("slow")));
    model.add_claim("c", with(asks("1Gi"), "storageClassName", json!("slow")));
    model.settle();
    assert_eq!(model.reasons("c"), ["WaitForFirstConsumer"]);
    model.pods = vec!["web".into()];
    assert_eq!(model.reasons("c"), ["WaitForPodScheduled"]);
    assert!(!model.claims["c"].annotations().contains_key(STORAGE_PROVISIONER));
    // The scheduler takes the free volume for it.
    let kept = json!({"name": "c", "namespace": "ns"});
    let spec = with(of_size("1Gi"), "storageClassName", json!("slow"));
    model.add_volume("free", with(spec, "claimRef", kept));
    model.settle();
    assert_eq!(volume_name(&model.claims["c"]), Some("free"));
}

#[test]
fn a_claim_without_a_class_gets_the_default_one_later() {
    let mut model = Model::default();
    model.add_claim("c", asks("1Gi"));
    model.add_claim("none", with(asks("1Gi"), "storageClassName", json!("")));
    model.settle();
    assert_eq!(model.reasons("c"), ["FailedBinding"]);
    let default = json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "example.com/disk"});
    model.add_class("standard", default);
    model.settle();
    assert_eq!(claim_class(&model.claims["c"]), Some("standard"));
    assert_eq!(claim_class(&model.claims["none"]), Some(""));
}

#[derive(Clone, Debug)]
enum Act {
    AddClaim { name: u8, size: u8, names: Option<u8> },
    AddVolume { name: u8, size: u8, kept_for: Option<u8> },
    DeleteClaim(u8),
    Reconcile { number: usize, writes: usize },
}

fn act() -> impl Strategy<Value = Act> {
    let (name, size) = (0..4u8, 1..4u8);
    prop_oneof![
        2 => (name.clone(), size.clone(), prop::option::weighted(0.2, 0..4u8))
            .prop_map(|(name, size, names)| Act::AddClaim { name, size, names }),
        2 => (name.clone(), size, prop::option::weighted(0.3, 0..4u8))
            .prop_map(|(name, size, kept_for)| Act::AddVolume { name, size, kept_for }),
        1 => name.prop_map(Act::DeleteClaim),
        6 => (0..16usize, 0..5usize)
            .prop_map(|(number, writes)| Act::Reconcile { number, writes }),
    ]
}

impl Model {
    fn act(&mut self, act: &Act) {
        match act {
            Act::AddClaim { name, size, names } => {
                let mut spec = asks(&format!("{size}Gi"));
                if let Some(names) = names {
                    spec["volumeName"] = json!(format!("v{names}"));
                }
                let name = format!("c{name}");
                if !self.claims.contains_key(&name) {
                    self.add_claim(&name, spec);
                }
            }
            Act::AddVolume { name, size, kept_for } => {
                let mut spec = of_size(&format!("{size}Gi"));
                if let Some(claim) = kept_for {
                    spec["claimRef"] = json!({"name": format!("c{claim}"), "namespace": "ns"});
                }
                let name = format!("v{name}");
                if !self.volumes.contains_key(&name) {
                    self.add_volume(&name, spec);
                }
            }
            Act::DeleteClaim(name) => drop(self.claims.remove(&format!("c{name}"))),
            Act::Reconcile { number, writes } => self.step(*number, *writes),
        }
    }

    /// At no time are two claims bound to one volume.
    fn check_always(&self) {
        let mut bound: Vec<_> =
            self.claims.values().filter(|it| is_bound(it)).map(|it| volume_name(it)).collect();
        let count = bound.len();
        bound.sort();
        bound.dedup();
        assert_eq!(bound.len(), count, "{:?}", self.state());
    }

    fn check_settled(&self) {
        for claim in self.claims.values() {
            if is_bound(claim) {
                let volume = &self.volumes[volume_name(claim).unwrap()];
                let uid = volume.spec.as_ref().unwrap().claim_ref.as_ref().unwrap().uid.clone();
                assert_eq!(uid, claim.uid(), "both name each other: {:?}", self.state());
                assert_eq!(phase(volume), "Bound", "{:?}", self.state());
                assert!(suits(volume, claim) || volume_name(claim).is_some());
            } else if volume_name(claim).is_none() {
                let free = self.volumes.values().find(|volume| suits(volume, claim));
                assert!(free.is_none(), "{:?} would suit: {:?}", free, self.state());
            }
        }
        // A volume that a person keeps for a claim never goes to another.
        for volume in self.volumes.values() {
            if phase(volume) == "Bound" {
                let claim = &self.claims[&claimant_key(volume).unwrap().name];
                assert_eq!(volume_name(claim), Some(&*volume.name_any()), "{:?}", self.state());
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_breaks_off_in_between_every_pair_is_whole_in_the_end(
        acts in prop::collection::vec(act(), 1..60),
    ) {
        let mut model = Model::default();
        let mut kept: BTreeMap<String, String> = BTreeMap::new();
        for act in &acts {
            if let Act::AddVolume { name, kept_for: Some(claim), .. } = act
                && !model.volumes.contains_key(&format!("v{name}"))
            {
                kept.insert(format!("v{name}"), format!("c{claim}"));
            }
            model.act(act);
            model.check_always();
        }
        model.settle();
        model.check_always();
        model.check_settled();
        for (volume, claim) in &kept {
            let found = claimant_key(&model.volumes[volume]).map(|key| key.name);
            prop_assert_eq!(found.as_ref(), Some(claim), "a pair that a person made is kept");
        }
    }
}
