use serde_json::{Value, json};

use super::*;
use crate::runtime::{ContainerConfig, PodRuntimeStatus, SandboxConfig, SandboxStatus};

const START: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).unwrap()
}

fn pod(policy: &str, init: Value, containers: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "default", "uid": "u"},
        "spec": {"restartPolicy": policy, "initContainers": init, "containers": containers},
    }))
    .unwrap()
}

fn simple(policy: &str) -> Pod {
    pod(policy, json!([]), json!([{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]))
}

fn sandbox(attempt: u32, ready: bool) -> SandboxStatus {
    SandboxStatus {
        id: format!("s{attempt}"),
        config: SandboxConfig { attempt, ..Default::default() },
        ready,
        created_at: at(0),
        ips: vec![],
    }
}

/// A container in sandbox 0; `None` runs, a code ended at second 10.
fn container(name: &str, attempt: u32, code: Option<i32>) -> ContainerStatus {
    let definition = Container { name: name.into(), image: Some("i".into()), ..Default::default() };
    let annotations = [(HASH_ANNOTATION.to_string(), definition_hash(&definition))];
    ContainerStatus {
        id: format!("{name}{attempt}"),
        sandbox_id: "s0".into(),
        config: ContainerConfig {
            name: name.into(),
            attempt,
            annotations: annotations.into(),
            ..Default::default()
        },
        state: if code.is_some() { ContainerState::Exited } else { ContainerState::Running },
        created_at: at(0),
        started_at: Some(at(0)),
        finished_at: code.map(|_| at(10)),
        exit_code: code,
        reason: String::new(),
        message: String::new(),
        image_id: String::new(),
        log_path: Default::default(),
    }
}

fn observed(sandboxes: Vec<SandboxStatus>, containers: Vec<ContainerStatus>) -> Observed {
    Observed::new(PodRuntimeStatus { sandboxes, containers })
}

fn in_sandbox(containers: Vec<ContainerStatus>) -> Observed {
    observed(vec![sandbox(0, true)], containers)
}

struct Fake {
    back_off: BackOff,
    health: Health,
}

impl Remembered for Fake {
    fn back_off(&self, _: &str) -> BackOff {
        self.back_off
    }
    fn health(&self, _: &ContainerStatus) -> Health {
        self.health
    }
}

const NOTHING: Fake = Fake { back_off: BackOff::NEW, health: Health::GOOD };

#[track_caller]
fn check(pod: &Pod, observed: Observed, expected: Plan) {
    assert_eq!(plan(pod, &observed, &NOTHING, at(11)), expected);
}

fn start(names: &[&str]) -> Plan {
    Plan { start: names.iter().map(|name| name.to_string()).collect(), ..Plan::default() }
}

fn over() -> Plan {
    Plan { stop_all: true, finished: true, ..Plan::default() }
}

#[test]
fn a_new_pod_gets_a_sandbox_and_then_all_containers_at_once() {
    let pod = simple("Always");
    check(&pod, observed(vec![], vec![]), Plan { create_sandbox: Some(0), ..Plan::default() });
    check(&pod, in_sandbox(vec![]), start(&["a", "b"]));
    check(&pod, in_sandbox(vec![container("a", 0, None)]), start(&["b"]));
    let both = vec![container("a", 0, None), container("b", 0, None)];
    check(&pod, in_sandbox(both), Plan::default());
}

#[test]
fn the_restart_policy_decides_what_is_started_again() {
    let ended = |a, b| in_sandbox(vec![container("a", 0, Some(a)), container("b", 0, Some(b))]);
    check(&simple("Always"), ended(0, 1), start(&["a", "b"]));
    check(&simple("OnFailure"), ended(0, 1), start(&["b"]));
    check(&simple("OnFailure"), ended(0, 0), over());
    check(&simple("Never"), ended(0, 1), over());
    let one = in_sandbox(vec![container("a", 0, Some(1)), container("b", 0, None)]);
    check(&simple("Never"), one, Plan::default());
}

#[test]
fn a_restart_waits_for_its_pause() {
    let mut back_off = BackOff::default();
    back_off.tried(at(0), at(0), super::super::backoff::LONGEST);
    let memory = Fake { back_off, ..NOTHING };
    let observed = in_sandbox(vec![
        container("a", 1, Some(1)),
        container("a", 0, Some(1)),
        container("b", 0, None),
    ]);
    let plan = plan(&simple("Always"), &observed, &memory, at(11));
    assert_eq!(plan.start, Vec::<String>::new());
    assert_eq!(plan.backing_off["a"], Duration::from_secs(9));
}

#[test]
fn init_containers_run_one_after_the_other_before_the_rest() {
    let pod = |policy| {
        pod(
            policy,
            json!([{"name": "i1", "image": "i"}, {"name": "i2", "image": "i"}]),
            json!([{"name": "a", "image": "i"}]),
        )
    };
    let always = pod("Always");
    check(&always, in_sandbox(vec![]), start(&["i1"]));
    check(&always, in_sandbox(vec![container("i1", 0, None)]), Plan::default());
    check(&always, in_sandbox(vec![container("i1", 0, Some(0))]), start(&["i2"]));
    check(&always, in_sandbox(vec![container("i1", 0, Some(1))]), start(&["i1"]));
    check(&pod("Never"), in_sandbox(vec![container("i1", 0, Some(1))]), over());
    let done = || vec![container("i1", 0, Some(0)), container("i2", 0, Some(0))];
    check(&always, in_sandbox(done()), start(&["a"]));
    // Once the app containers have begun, what became of the init containers does not matter.
    check(&always, in_sandbox(vec![container("a", 0, None)]), Plan::default());
}

#[test]
fn a_sidecar_stays_beside_the_others_and_does_not_keep_the_pod_alive() {
    let pod = pod(
        "Never",
        json!([{"name": "side", "image": "i", "restartPolicy": "Always"}, {"name": "i1", "image": "i"}]),
        json!([{"name": "a", "image": "i"}]),
    );
    check(&pod, in_sandbox(vec![]), start(&["side"]));
    check(&pod, in_sandbox(vec![container("side", 0, None)]), start(&["i1"]));
    let ready = || vec![container("side", 0, None), container("i1", 0, Some(0))];
    check(&pod, in_sandbox(ready()), start(&["a"]));
    let lost = vec![container("side", 0, Some(0)), container("a", 0, None)];
    check(&pod, in_sandbox(lost), start(&["side"]));
    let done = vec![container("side", 0, None), container("a", 0, Some(0))];
    check(&pod, in_sandbox(done), over());
}

#[test]
fn a_lost_sandbox_is_replaced_and_everything_started_again() {
    let lost = || {
        observed(
            vec![sandbox(0, false)],
            vec![container("a", 0, Some(137)), container("b", 0, Some(0))],
        )
    };
    check(&simple("Always"), lost(), Plan { create_sandbox: Some(1), ..Plan::default() });
    check(&simple("OnFailure"), lost(), Plan { create_sandbox: Some(1), ..Plan::default() });
    check(&simple("Never"), lost(), over());
    let replaced = observed(
        vec![sandbox(0, false), sandbox(1, true)],
        vec![container("a", 0, Some(137)), container("b", 0, Some(0))],
    );
    check(&simple("OnFailure"), replaced, start(&["a"]));
    // A node that crashed while the pod was being set up.
    check(
        &simple("Never"),
        observed(vec![sandbox(0, false)], vec![]),
        Plan { create_sandbox: Some(1), ..Plan::default() },
    );
}

#[test]
fn a_changed_image_replaces_the_container() {
    let pod = pod("Never", json!([]), json!([{"name": "a", "image": "other"}]));
    let expected = Plan {
        stop: vec![("a0".into(), "Container a definition changed, will be restarted".into())],
        ..start(&["a"])
    };
    check(&pod, in_sandbox(vec![container("a", 0, None)]), expected);
}

#[test]
fn a_failed_probe_stops_the_container() {
    let health = Health { ready: false, started: true, failed: Some("liveness") };
    let memory = Fake { health, ..NOTHING };
    let observed = in_sandbox(vec![container("a", 0, None), container("b", 0, None)]);
    let plan = plan(&simple("Always"), &observed, &memory, at(11));
    assert_eq!(
        plan.stop[0],
        ("a0".into(), "Container a failed liveness probe, will be restarted".into())
    );
    assert_eq!(plan.start, Vec::<String>::new());
}

#[test]
fn an_ephemeral_container_is_started_once() {
    let mut pod = simple("Always");
    let debugger = json!([{"name": "debugger", "image": "i"}]);
    pod.spec.as_mut().unwrap().ephemeral_containers = serde_json::from_value(debugger).unwrap();
    let both = vec![container("a", 0, None), container("b", 0, None)];
    check(&pod, in_sandbox(both.clone()), start(&["debugger"]));
    let ended = [both, vec![container("debugger", 0, Some(1))]].concat();
    check(&pod, in_sandbox(ended), Plan::default());
}

#[test]
fn a_container_may_have_a_policy_and_rules_of_its_own() {
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    let pod = pod(
        "Always",
        json!([]),
        json!([
            {"name": "a", "image": "i", "restartPolicy": "Never", "restartPolicyRules": rules},
            {"name": "b", "image": "i", "restartPolicy": "OnFailure"}]),
    );
    let spec = pod.spec.unwrap();
    let comes_back =
        |at: usize, code: i32| restarts_after(&spec.containers[at], "Always", Some(code));
    assert_eq!([0, 1, 42].map(|code| comes_back(0, code)), [false, false, true]);
    assert_eq!([0, 1, 42].map(|code| comes_back(1, code)), [false, true, true]);
}
