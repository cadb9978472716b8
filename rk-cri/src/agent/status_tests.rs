use k8s_openapi::jiff::SignedDuration;

use super::*;
use crate::{
    agent::{backoff::BackOff, plan::Health},
    runtime::{ContainerConfig, PodRuntimeStatus, SandboxConfig, SandboxStatus},
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

struct Fake(Health);
impl Remembered for Fake {
    fn back_off(&self, _: &str) -> BackOff {
        BackOff::default()
    }
    fn health(&self, _: &ContainerStatus) -> Health {
        self.0
    }
}

/// What the pod under test looks like; each test sets what it is about.
struct Case {
    spec: Value,
    old: Value,
    containers: Vec<ContainerStatus>,
    waiting: Vec<(&'static str, &'static str)>,
    health: Health,
    terminal: bool,
}

fn case(spec: Value) -> Case {
    Case {
        spec,
        old: json!({}),
        containers: vec![],
        waiting: vec![],
        health: Health::GOOD,
        terminal: false,
    }
}

fn one(policy: &str) -> Value {
    json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i:v1"}]})
}

fn with_init(policy: &str) -> Value {
    let mut spec = one(policy);
    spec["initContainers"] = json!([{"name": "init", "image": "i:v1"}]);
    spec
}

fn container(name: &str, attempt: u32, code: Option<i32>) -> ContainerStatus {
    ContainerStatus {
        id: format!("{name}{attempt}"),
        sandbox_id: "s".into(),
        config: ContainerConfig {
            name: name.into(),
            attempt,
            image: "i:v1".into(),
            ..Default::default()
        },
        state: if code.is_some() { ContainerState::Exited } else { ContainerState::Running },
        created_at: at(0),
        started_at: Some(at(1)),
        finished_at: code.map(|_| at(2)),
        exit_code: code,
        reason: code
            .map(|code| if code == 0 { "Completed" } else { "Error" })
            .unwrap_or_default()
            .into(),
        message: String::new(),
        image_id: "sha256:1".into(),
        log_path: Default::default(),
    }
}

impl Case {
    fn pod(&self) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "default", "uid": "u", "generation": 4},
            "spec": self.spec, "status": self.old,
        }))
        .unwrap()
    }

    fn status(&self) -> PodStatus {
        let sandbox = SandboxStatus {
            id: "s".into(),
            config: SandboxConfig::default(),
            ready: true,
            created_at: at(0),
            ips: vec!["10.0.0.7".parse().unwrap()],
        };
        let observed = Observed::new(PodRuntimeStatus {
            sandboxes: vec![sandbox],
            containers: self.containers.clone(),
        });
        let waiting = self
            .waiting
            .iter()
            .map(|(name, reason)| {
                (name.to_string(), Waiting { reason: reason.to_string(), message: None })
            })
            .collect();
        let inputs = Inputs {
            memory: &Fake(self.health),
            waiting: &waiting,
            ended: None,
            terminal: self.terminal,
            rejected: false,
            disrupted: false,
            host_ips: &["192.168.0.1".parse().unwrap()],
            scheme: "rk",
            allocation: None,
            now: at(100),
        };
        pod_status(&self.pod(), &observed, &inputs)
    }

    #[track_caller]
    fn phase(self, expected: &str) {
        assert_eq!(self.status().phase.as_deref(), Some(expected));
    }
}

fn condition<'a>(status: &'a PodStatus, kind: &str) -> &'a PodCondition {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind).unwrap()
}

#[test]
fn phases_follow_from_containers_and_policy() {
    let with = |spec: Value, containers: Vec<ContainerStatus>| Case { containers, ..case(spec) };
    let ended = |code| vec![container("a", 0, Some(code))];
    with(one("Always"), vec![]).phase("Pending");
    with(one("Always"), vec![container("a", 0, None)]).phase("Running");
    for (policy, code, expected) in [
        ("Always", 0, "Running"),
        ("Always", 1, "Running"),
        ("OnFailure", 0, "Succeeded"),
        ("OnFailure", 1, "Running"),
        ("Never", 0, "Succeeded"),
        ("Never", 1, "Failed"),
    ] {
        with(one(policy), ended(code)).phase(expected);
    }
    let back = Case {
        containers: vec![container("a", 1, Some(1))],
        waiting: vec![("a", "CrashLoopBackOff")],
        ..case(one("Always"))
    };
    back.phase("Running");
    let pulling = Case { waiting: vec![("a", "ErrImagePull")], ..case(one("Always")) };
    pulling.phase("Pending");
}

#[test]
fn a_pod_is_pending_until_its_init_containers_are_done() {
    let with = |policy: &str, containers| Case { containers, ..case(with_init(policy)) };
    with("Always", vec![container("init", 0, None)]).phase("Pending");
    with("Always", vec![container("init", 0, Some(1))]).phase("Pending");
    with("Never", vec![container("init", 0, Some(1))]).phase("Failed");
    with("Always", vec![container("init", 0, Some(0))]).phase("Pending");
    with("Always", vec![container("init", 0, Some(0)), container("a", 0, None)]).phase("Running");

    let status = with("Always", vec![container("init", 0, None)]).status();
    let initialized = condition(&status, "Initialized");
    assert_eq!(initialized.status, "False");
    assert_eq!(initialized.reason.as_deref(), Some("ContainersNotInitialized"));
    assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [init]"));
    let waiting = &status.container_statuses.unwrap()[0].state.clone().unwrap().waiting.unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("PodInitializing"));
}

#[test]
fn a_deleted_pod_ends_by_its_exit_codes() {
    let ended = |code| Case {
        containers: vec![container("a", 0, Some(code))],
        terminal: true,
        ..case(one("Always"))
    };
    ended(0).phase("Succeeded");
    ended(143).phase("Failed");
    Case { terminal: true, ..case(one("Always")) }.phase("Failed");
    let over = Case {
        old: json!({"phase": "Failed"}),
        containers: vec![container("a", 0, Some(0))],
        ..case(one("Never"))
    };
    over.phase("Failed");
}

#[test]
fn a_running_container_is_shown_with_its_last_end() {
    let status = Case {
        containers: vec![container("a", 2, None), container("a", 1, Some(3))],
        ..case(one("Always"))
    }
    .status();
    let shown = &status.container_statuses.unwrap()[0];
    assert_eq!((shown.restart_count, shown.ready, shown.started), (2, true, Some(true)));
    assert_eq!(shown.container_id.as_deref(), Some("rk://a2"));
    assert_eq!(shown.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 3);
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.7"));
    assert_eq!(status.host_ip.as_deref(), Some("192.168.0.1"));
    assert_eq!(status.observed_generation, Some(4));
}

#[test]
fn a_container_in_back_off_shows_its_end_as_last_state() {
    let status = Case {
        containers: vec![container("a", 1, Some(3))],
        waiting: vec![("a", "CrashLoopBackOff")],
        ..case(one("Always"))
    }
    .status();
    let shown = &status.container_statuses.unwrap()[0];
    assert_eq!(
        shown.state.clone().unwrap().waiting.unwrap().reason.as_deref(),
        Some("CrashLoopBackOff")
    );
    assert_eq!(shown.last_state.clone().unwrap().terminated.unwrap().exit_code, 3);
}

#[test]
fn a_pod_is_ready_when_containers_and_gates_are() {
    let mut spec = one("Always");
    spec["readinessGates"] = json!([{"conditionType": "example.com/lb"}]);
    let running = |old: Value, ready| {
        let health = Health { ready, ..Health::GOOD };
        Case { containers: vec![container("a", 0, None)], old, health, ..case(spec.clone()) }
            .status()
    };
    let ready = |status: &PodStatus| {
        let condition = condition(status, "Ready");
        (condition.status.clone(), condition.reason.clone(), condition.message.clone())
    };

    let status = running(json!({}), false);
    assert_eq!(
        condition(&status, "ContainersReady").message.as_deref(),
        Some("containers with unready status: [a]")
    );
    let status = running(json!({}), true);
    let (value, reason, message) = ready(&status);
    assert_eq!((value.as_str(), reason.as_deref()), ("False", Some("ReadinessGatesNotReady")));
    assert!(message.unwrap().contains("\"example.com/lb\" does not exist"));
    let gate = |value: &str| json!({"conditions": [{"type": "example.com/lb", "status": value}]});
    assert_eq!(ready(&running(gate("False"), true)).0, "False");
    let status = running(gate("True"), true);
    assert_eq!(ready(&status), ("True".into(), None, None));
    assert_eq!(condition(&status, "example.com/lb").status, "True");
}

#[test]
fn a_condition_keeps_its_time_until_it_changes() {
    let earlier = at(100).saturating_sub(SignedDuration::from_secs(60)).unwrap();
    let old = json!({"conditions": [
        {"type": "Ready", "status": "False", "lastTransitionTime": earlier},
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": earlier},
    ]});
    let status =
        Case { containers: vec![container("a", 0, None)], old, ..case(one("Always")) }.status();
    assert_eq!(condition(&status, "Ready").last_transition_time.as_ref().unwrap().0, at(100));
    assert_eq!(
        condition(&status, "PodScheduled").last_transition_time.as_ref().unwrap().0,
        earlier
    );
}

#[test]
fn the_patch_holds_only_what_changed() {
    let case = Case { containers: vec![container("a", 0, None)], ..case(one("Always")) };
    let status = case.status();
    assert_eq!(patch("u", &status, &status), None);

    let mut later = status.clone();
    later.conditions.as_mut().unwrap()[2].status = "False".into();
    later.pod_ips = Some(vec![PodIP { ip: "10.0.0.8".into() }]);
    later.pod_ip = None;
    let patch = patch("u", &status, &later).unwrap();
    assert_eq!(patch["metadata"], json!({"uid": "u"}));
    assert_eq!(patch["status"]["conditions"].as_array().unwrap().len(), 1);
    assert_eq!(patch["status"]["podIPs"], json!([{"ip": "10.0.0.8"}, {"$patch": "replace"}]));
    assert_eq!(patch["status"]["podIP"], Value::Null);
    assert_eq!(patch["status"].as_object().unwrap().len(), 3);
}

#[test]
fn a_status_names_one_address_of_each_family() {
    let addresses = ["10.0.0.1", "10.244.0.1", "fd00::1", "fd00::2"].map(|ip| ip.parse().unwrap());
    let kept = ["10.0.0.1", "fd00::1"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap());
    assert_eq!(one_of_each_family(&addresses), kept);
}
