//! What creating, updating and deleting a Pod does.

use serde_json::json;

use super::*;

fn pod(spec: Value) -> Pod {
    let mut pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]},
    }))
    .unwrap();
    let mut json = json!(pod);
    for (field, value) in spec.as_object().unwrap() {
        json["spec"][field] = value.clone();
    }
    pod = serde_json::from_value(json).unwrap();
    <Pods as Kind>::default(&mut pod);
    Pods::prepare_create(&mut pod);
    pod
}

#[track_caller]
fn check_update(old: Value, new: Value, wrong: &[&str]) {
    let (old, mut new) = (pod(old), pod(new));
    Pods::prepare_update(&mut new, &old, Part::Main);
    let errors = Pods::validate_update(&new, &old, Part::Main);
    let messages: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(messages.len(), wrong.len(), "{messages:?}");
    for (message, wrong) in messages.iter().zip(wrong) {
        assert!(message.starts_with(wrong), "{message}");
    }
}

#[test]
fn an_update_changes_images_deadlines_and_tolerations() {
    let toleration = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute"});
    check_update(json!({}), json!({}), &[]);
    check_update(json!({}), json!({"containers": [{"name": "c", "image": "i:2"}]}), &[]);
    check_update(json!({}), json!({"activeDeadlineSeconds": 5}), &[]);
    check_update(json!({"activeDeadlineSeconds": 5}), json!({"activeDeadlineSeconds": 4}), &[]);
    check_update(
        json!({"activeDeadlineSeconds": 5}),
        json!({"activeDeadlineSeconds": 6}),
        &["spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous"],
    );
    check_update(
        json!({"activeDeadlineSeconds": 5}),
        json!({}),
        &["spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive"],
    );
    check_update(
        json!({"tolerations": [toleration("a")]}),
        json!({"tolerations": [toleration("b"), toleration("a")]}),
        &[],
    );
    check_update(
        json!({"tolerations": [toleration("a")]}),
        json!({"tolerations": [toleration("b")]}),
        &["spec.tolerations: Forbidden: existing toleration can not be modified except its"],
    );
}

#[test]
fn an_update_changes_nothing_else() {
    check_update(
        json!({}),
        json!({"nodeSelector": {"a": "b"}}),
        &["spec: Forbidden: pod updates may not change fields other than \
           `spec.containers[*].image`,`spec.initContainers[*].image`,\
           `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
           tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
           previously negative)\n+  nodeSelector: {\"a\":\"b\"}"],
    );
    check_update(
        json!({}),
        json!({"containers": [{"name": "c", "image": "i:1"}, {"name": "d", "image": "i:1"}]}),
        &["spec.containers: Forbidden: pod updates may not add or remove containers"],
    );
    let limits = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    check_update(
        json!({}),
        json!({"containers": [{"name": "c", "image": "i:1", "resources": limits}]}),
        &["metadata: Invalid value: \"Guaranteed\": Pod QoS is immutable", "spec: Forbidden: pod"],
    );
}

#[test]
fn scheduling_gates_only_go_and_let_the_choice_of_nodes_narrow() {
    let gated =
        |selector: Value| json!({"schedulingGates": [{"name": "g"}], "nodeSelector": selector});
    check_update(gated(json!({})), json!({"nodeSelector": {}}), &[]);
    check_update(gated(json!({"a": "b"})), gated(json!({"a": "b", "c": "d"})), &[]);
    check_update(gated(json!({"a": "b"})), gated(json!({"a": "c"})), &["spec: Forbidden: pod"]);
    check_update(
        json!({}),
        json!({"schedulingGates": [{"name": "g"}]}),
        &["spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new"],
    );
}

#[test]
fn each_part_changes_its_own_alone() {
    let old = pod(json!({}));
    let wanted = pod(json!({
        "containers": [{"name": "c", "image": "i:2", "resources": {"requests": {"cpu": "2"}}}],
        "ephemeralContainers": [{"name": "e", "image": "i:1"}],
    }));

    let mut resized = wanted.clone();
    Pods::prepare_update(&mut resized, &old, Part::Resize);
    let spec = resized.spec.unwrap();
    assert_eq!(spec.containers[0].image.as_deref(), Some("i:1"));
    assert_eq!(spec.containers[0].resources, wanted.spec.as_ref().unwrap().containers[0].resources);
    assert_eq!(spec.ephemeral_containers, None);

    let mut debugged = wanted.clone();
    Pods::prepare_update(&mut debugged, &old, Part::EphemeralContainers);
    let spec = debugged.spec.unwrap();
    assert_eq!(spec.containers, old.spec.as_ref().unwrap().containers);
    assert_eq!(list(&spec.ephemeral_containers).len(), 1);
    assert_eq!(debugged.metadata.generation, Some(2));

    let mut reported = wanted;
    reported.status.get_or_insert_default().phase = Some("Running".to_owned());
    Pods::prepare_update(&mut reported, &old, Part::Status);
    assert_eq!(reported.spec, old.spec);
    assert_eq!(reported.metadata.generation, Some(1));
    assert_eq!(Pods::fields(&reported)[5], ("status.phase", "Running".to_owned()));
}

#[test]
fn a_container_that_ended_for_good_stays_ended() {
    #[track_caller]
    fn check(policy: &str, exit_code: i32, wrong: &[&str]) {
        let with_state = |state: Value| {
            let mut pod = pod(json!({"restartPolicy": policy}));
            let status = json!({"qosClass": "BestEffort", "containerStatuses": [
                {"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                 "state": state},
            ]});
            pod.status = serde_json::from_value(status).unwrap();
            pod
        };
        let old = with_state(json!({"terminated": {"exitCode": exit_code}}));
        let new = with_state(json!({"running": {}}));
        let errors = Pods::validate_update(&new, &old, Part::Status);
        let fields: Vec<_> = errors.iter().map(|error| error.path.to_string()).collect();
        assert_eq!(fields, wrong, "{errors:?}");
    }
    check("Always", 0, &[]);
    check("OnFailure", 1, &[]);
    check("OnFailure", 0, &["status.containerStatuses[0].state"]);
    check("Never", 1, &["status.containerStatuses[0].state"]);
}

#[test]
fn a_new_pod_is_pending_and_has_no_ephemeral_containers() {
    let mut created = pod(json!({"ephemeralContainers": [{"name": "e", "image": "i"}]}));
    assert_eq!(created.metadata.generation, Some(1));
    let status = created.status.clone().unwrap();
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    let errors = Pods::validate_create(&created);
    assert_eq!(
        errors[0].to_string(),
        "spec.ephemeralContainers: Forbidden: cannot be set on create"
    );
    created.spec.as_mut().unwrap().ephemeral_containers = None;
    assert_eq!(Pods::validate_create(&created), []);
    assert_eq!(Pods::validate(&created), []);
}

#[test]
fn a_pod_on_a_node_is_given_time_to_end() {
    #[track_caller]
    fn check(spec: Value, asked: Option<i64>, seconds: i64) {
        let options = DeleteOptions { grace_period_seconds: asked, ..DeleteOptions::default() };
        assert_eq!(Pods::grace_period_seconds(&pod(spec), &options), Some(seconds));
    }
    check(json!({}), None, 0);
    check(json!({"nodeName": "n"}), None, 30);
    check(json!({"nodeName": "n", "terminationGracePeriodSeconds": 5}), None, 5);
    check(json!({"nodeName": "n"}), Some(0), 0);
    check(json!({"nodeName": "n"}), Some(-1), 1);
    check(json!({}), Some(9), 0);
}
