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
    check_update(
        gated(json!({"a": "b"})),
        gated(json!({"a": "c"})),
        &[
            "spec.nodeSelector: Invalid value: {\"a\":\"c\"}: only additions to spec.nodeSelector are \
           allowed (no mutations or deletions)",
        ],
    );
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

#[test]
fn scheduling_gates_let_terms_for_nodes_demand_more() {
    let wants = |expressions: &[&str], fields: &[&str]| {
        let of = |names: &[&str]| -> Vec<Value> {
            let one = |name: &&str| json!({"key": name, "operator": "In", "values": ["v"]});
            names.iter().map(one).collect()
        };
        json!({"matchExpressions": of(expressions), "matchFields": of(fields)})
    };
    let gated = |terms: &[Value]| {
        json!({"schedulingGates": [{"name": "g"}], "affinity": {"nodeAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
    };
    let bare = json!({"schedulingGates": [{"name": "g"}]});
    let at = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.\
              nodeSelectorTerms";
    check_update(bare.clone(), gated(&[wants(&["a"], &[])]), &[]);
    check_update(
        gated(&[wants(&["a"], &[])]),
        gated(&[wants(&["a", "b"], &["metadata.name"])]),
        &[],
    );
    check_update(
        gated(&[wants(&["a"], &[])]),
        gated(&[wants(&["b", "a"], &[])]),
        &[&format!("{at}[0]: Invalid value: ")],
    );
    check_update(
        gated(&[wants(&["a"], &[])]),
        gated(&[wants(&["a"], &[]), wants(&["b"], &[])]),
        &[&format!("{at}: Invalid value: ")],
    );
    check_update(gated(&[wants(&["a"], &[])]), bare, &[&format!("{at}: Invalid value: ")]);
}

/// A Pod of version 1 with one required anti-affinity term, of all Pods with the label `app=web`.
fn apart(fields: Value) -> Pod {
    let mut term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}});
    for (field, value) in fields.as_object().unwrap() {
        term[field] = value.clone();
    }
    let mut pod = pod(json!({"affinity": {"podAntiAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}));
    pod.metadata.labels = Some([("version".to_owned(), "1".to_owned())].into());
    Pods::prepare_create(&mut pod);
    pod
}

#[test]
fn label_keys_become_part_of_the_selectors() {
    let selector = |fields| {
        let pod = json!(apart(fields));
        pod["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            [0]["labelSelector"]
            .clone()
    };
    let one = |operator: &str| json!([{"key": "version", "operator": operator, "values": ["1"]}]);
    let found = selector(json!({"matchLabelKeys": ["version", "none"]}));
    assert_eq!(found["matchExpressions"], one("In"));
    let found = selector(json!({"mismatchLabelKeys": ["version"]}));
    assert_eq!(found["matchExpressions"], one("NotIn"));
    assert_eq!(found["matchLabels"], json!({"app": "web"}));
    assert_eq!(selector(json!({}))["matchExpressions"], Value::Null);

    let mut spread = pod(
        json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}, "matchLabelKeys": ["version"]}]}),
    );
    spread.metadata.labels = Some([("version".to_owned(), "1".to_owned())].into());
    Pods::prepare_create(&mut spread);
    let found = &json!(spread)["spec"]["topologySpreadConstraints"][0]["labelSelector"];
    assert_eq!(found["matchExpressions"], one("In"));
}

#[test]
fn label_keys_are_checked() {
    #[track_caller]
    fn check(fields: Value, wrong: &[&str]) {
        let errors = Pods::validate(&apart(fields));
        let messages: Vec<_> = errors.iter().map(ToString::to_string).collect();
        let at = "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]";
        let wrong: Vec<_> = wrong.iter().map(|wrong| format!("{at}{wrong}")).collect();
        assert_eq!(messages, wrong);
    }
    check(json!({"matchLabelKeys": ["version"], "mismatchLabelKeys": ["other"]}), &[]);
    check(
        json!({"matchLabelKeys": ["version"], "labelSelector": null}),
        &[".matchLabelKeys: Forbidden: must not be specified when labelSelector is not set"],
    );
    check(
        json!({"matchLabelKeys": ["version"], "labelSelector": {"matchLabels": {"version": "2"}}}),
        &["[0]: Invalid value: \"version\": exists in both matchLabelKeys and labelSelector"],
    );
    check(
        json!({"matchLabelKeys": ["other"], "mismatchLabelKeys": ["other"]}),
        &[".matchLabelKeys[0]: Invalid value: \"other\": exists in both matchLabelKeys and \
           mismatchLabelKeys"],
    );
}

#[track_caller]
fn check_part(part: Part, old: &Pod, new: Value, wrong: &[&str]) {
    let mut new = pod(new);
    Pods::prepare_update(&mut new, old, part);
    let errors = Pods::validate_update(&new, old, part);
    let messages: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(messages, wrong);
}

#[test]
fn ephemeral_containers_come_and_stay() {
    let with = |images: &[&str]| {
        let containers = images.iter().enumerate();
        let containers =
            containers.map(|(i, image)| json!({"name": format!("e{i}"), "image": image}));
        json!({"ephemeralContainers": containers.collect::<Vec<_>>()})
    };
    let old = pod(with(&["a"]));
    let check = |new: Value, wrong: &[&str]| {
        check_part(Part::EphemeralContainers, &old, new, wrong);
    };
    check(with(&["a", "b"]), &[]);
    let at = "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e0\" may not be";
    check(with(&[]), &[&format!("{at} removed\n")]);
    check(with(&["b"]), &[&format!("{at} changed\n-  image: \"a\"\n+  image: \"b\"")]);
    let mut mirror = old.clone();
    mirror.metadata.annotations =
        Some([("kubernetes.io/config.mirror".to_owned(), "x".to_owned())].into());
    check_part(
        Part::EphemeralContainers,
        &mirror,
        with(&["a", "b"]),
        &["[]: Forbidden: static pods do not support ephemeral containers"],
    );
}

#[test]
fn a_resize_changes_amounts_of_cpu_and_memory() {
    let with = |requests: Value| json!({"containers": [{"name": "c", "image": "i:1", "resources": {"requests": requests}}]});
    let old = pod(with(json!({"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"})));
    let check = |new: Value, wrong: &[&str]| check_part(Part::Resize, &old, new, wrong);
    let more = |cpu: &str, storage: &str| {
        with(json!({"cpu": cpu, "memory": "2Gi", "ephemeral-storage": storage}))
    };
    check(more("2", "1Gi"), &[]);
    let only = "spec: Forbidden: only cpu and memory resources are mutable";
    check(more("2", "2Gi"), &[only]);
    check(
        with(json!({"cpu": "1", "ephemeral-storage": "1Gi"})),
        &["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"],
    );
    let mut policy = more("1", "1Gi");
    policy["containers"][0]["resizePolicy"] =
        json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
    check(policy, &[only]);
    let mut sure = more("1", "1Gi");
    sure["containers"][0]["resources"]["limits"] = json!({"cpu": "1", "memory": "2Gi"});
    check(
        sure,
        &["spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of \
           resizing"],
    );
    let mut running = old.clone();
    running.status = serde_json::from_value(json!({"containerStatuses": [
        {"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
         "state": {"running": {}}},
    ]}))
    .unwrap();
    check_part(
        Part::Resize,
        &running,
        more("2", "1Gi"),
        &["spec: Forbidden: Pod running on node without support for resize"],
    );
}

#[test]
fn of_init_containers_only_sidecars_are_resized() {
    let with = |policy: Option<&str>, cpu: &str| {
        json!({"initContainers": [{"name": "s", "image": "i", "restartPolicy": policy,
            "resources": {"requests": {"cpu": cpu}}}]})
    };
    let always = Some("Always");
    check_part(Part::Resize, &pod(with(always, "1")), with(always, "2"), &[]);
    check_part(
        Part::Resize,
        &pod(with(None, "1")),
        with(None, "2"),
        &["spec: Forbidden: resources for non-sidecar init containers are immutable"],
    );
}

#[test]
fn a_status_says_what_can_be() {
    #[track_caller]
    fn check(spec: Value, status: Value, wrong: &[&str]) {
        let old = pod(spec);
        let mut new = old.clone();
        new.status = serde_json::from_value(status).unwrap();
        Pods::prepare_update(&mut new, &old, Part::Status);
        let errors = Pods::validate_update(&new, &old, Part::Status);
        let messages: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(messages, wrong);
    }
    let dual = |ips: &[&str]| {
        let ips: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        json!({"podIPs": ips})
    };
    check(json!({}), dual(&["10.0.0.1", "fd00::1"]), &[]);
    check(
        json!({}),
        dual(&["10.0.0.1", "10.0.0.1"]),
        &[
            "status.podIPs: Invalid value: [{\"ip\":\"10.0.0.1\"},{\"ip\":\"10.0.0.1\"}]: may \
             specify no more than one IP for each IP family",
            "status.podIPs[1]: Duplicate value: \"10.0.0.1\"",
        ],
    );
    let claims = json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "x"}]});
    let status = json!({"resourceClaimStatuses": [{"name": "gpu"}, {"name": "tpu"}]});
    check(
        claims,
        status,
        &[
            "status.resourceClaimStatuses[1].name: Invalid value: \"tpu\": must match the name of an \
           entry in `spec.resourceClaims`",
        ],
    );
    let of_container = |more: Value| {
        let mut status = json!({"name": "c", "image": "", "imageID": "", "ready": true,
            "restartCount": 0});
        status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"containerStatuses": [status]})
    };
    check(
        json!({}),
        of_container(json!({
            "user": {"linux": {"uid": -1, "gid": 0}},
            "allocatedResourcesStatus": [{"name": "claim:gpu", "resources": [
                {"resourceID": "a", "health": "Healthy"}, {"resourceID": "a", "health": "Odd"}]}],
        })),
        &[
            "status.containerStatuses[0].linux.uid: Invalid value: -1: must be between 0 and \
             2147483647, inclusive",
            "status.containerStatuses[0].allocatedResourcesStatus[0].name: Invalid value: \
             \"claim:gpu\": must match one of the container's resource claims in a format \
             'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty",
            "status.containerStatuses[0].allocatedResourcesStatus[0].resources[1].health: \
             Unsupported value: \"Odd\": supported values: \"Healthy\", \"Unhealthy\", \"Unknown\"",
            "status.containerStatuses[0].allocatedResourcesStatus[0].resources[1].resourceID: \
             Duplicate value: \"a\"",
        ],
    );
    check(
        json!({}),
        json!({"conditions": [{"type": "Ready", "status": "True"},
            {"type": "not a name", "status": "True"}]}),
        &["metadata.conditions[1].Type: Invalid value: \"not a name\": name part must consist of \
           alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric \
           character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
           '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"],
    );
}

#[test]
fn who_does_not_know_of_generations_does_not_remove_them() {
    let mut old = pod(json!({}));
    old.status = serde_json::from_value(json!({"observedGeneration": 3, "conditions": [
        {"type": "Ready", "status": "True", "observedGeneration": 2}]}))
    .unwrap();
    let mut new = old.clone();
    new.status = serde_json::from_value(json!({"conditions": [
        {"type": "Ready", "status": "False"}]}))
    .unwrap();
    Pods::prepare_update(&mut new, &old, Part::Status);
    let status = new.status.unwrap();
    assert_eq!(status.observed_generation, Some(3));
    assert_eq!(status.conditions.unwrap()[0].observed_generation, Some(2));
}
