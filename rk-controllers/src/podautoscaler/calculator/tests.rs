//! The figures of the tables are those that kube-controller-manager computes.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;
const WINDOW: Duration = Duration::from_secs(60);
const USUAL: Tolerances = Tolerances { up: 0.1, down: 0.1 };
const RULES: Readiness = Readiness {
    cpu_initialization: Duration::from_secs(120),
    initial_delay: Duration::from_secs(10),
    now: NOW,
};

fn name(index: usize) -> String {
    format!("pod-{index}")
}

fn ago(seconds: i64) -> Timestamp {
    NOW - SignedDuration::from_secs(seconds)
}

/// A Pod that requests CPU, started long ago, and ready since then or never.
fn pod(index: usize, request: &str, ready: bool) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name(index)},
        "spec": {"containers": [
            {"name": "web", "resources": {"requests": {"cpu": request, "memory": "1Gi"}}},
        ]},
        "status": {
            "phase": "Running",
            "startTime": ago(3600),
            "conditions": [{
                "type": "Ready",
                "status": if ready { "True" } else { "False" },
                "lastTransitionTime": ago(3600),
            }],
        },
    }))
    .unwrap()
}

fn measured(values: &[i64]) -> PodMetrics {
    let of = |value: &i64| PodMetric { timestamp: NOW, window: WINDOW, value: *value };
    values.iter().map(of).enumerate().map(|(index, metric)| (name(index), metric)).collect()
}

/// The replicas, the percentage and the average that CPU measurements of some Pods lead to.
#[track_caller]
fn check(current: i32, pods: &[Pod], levels: &[i64], percent: i32, expected: (i32, i32, i64)) {
    let pods: Vec<_> = pods.iter().cloned().map(Arc::new).collect();
    let target = Target::Utilization { percent, resource: "cpu", container: None };
    let found = over_pods(current, measured(levels), &pods, target, USUAL, &RULES).unwrap();
    assert_eq!((found.replicas, found.utilization.unwrap(), found.measured), expected);
}

fn equal(count: usize) -> Vec<Pod> {
    (0..count).map(|index| pod(index, "1", true)).collect()
}

fn ready(each: &[bool]) -> Vec<Pod> {
    each.iter().enumerate().map(|(index, ready)| pod(index, "1", *ready)).collect()
}

#[test]
fn the_ratio_of_measured_to_target_scales_the_ready_pods() {
    check(3, &equal(3), &[300, 500, 700], 30, (5, 50, 500));
    check(5, &equal(5), &[100, 300, 500, 250, 250], 50, (3, 28, 280));
    let uneven = [pod(0, "900m", true), pod(1, "1", true), pod(2, "1100m", true)];
    check(3, &uneven, &[1010, 1030, 1020], 100, (3, 102, 1020));
    // Of Pods that the selector does not find nothing is counted.
    check(4, &equal(4), &[4000, 9500, 3000, 7000, 3200, 2000], 100, (24, 587, 5875));
}

#[test]
fn an_unready_pod_counts_as_idle_on_the_way_up_and_not_at_all_on_the_way_down() {
    check(3, &ready(&[false, true, true]), &[300, 500, 700], 30, (4, 60, 600));
    check(
        5,
        &ready(&[true, true, true, false, false]),
        &[100, 300, 500, 250, 250],
        50,
        (2, 30, 300),
    );
    let mut pending = equal(5);
    for pod in &mut pending[1..] {
        pod.status.as_mut().unwrap().phase = Some("Pending".into());
    }
    check(5, &pending, &[100], 50, (1, 10, 100));
}

#[test]
fn a_pod_without_a_measurement_makes_no_change_larger_and_turns_none_around() {
    check(4, &equal(4), &[400, 95], 100, (3, 24, 247));
    check(2, &equal(2), &[1000], 100, (2, 100, 1000));
    check(2, &equal(2), &[1900], 100, (2, 190, 1900));
    check(2, &equal(2), &[600], 100, (2, 60, 600));
    check(3, &ready(&[false, true, true]), &[100, 450], 50, (3, 45, 450));
    check(3, &ready(&[false, true, true]), &[100, 2000], 50, (4, 200, 2000));
    check(2, &ready(&[true, true, false]), &[100, 100], 50, (2, 10, 100));
}

#[test]
fn a_pod_that_starts_is_believed_once_it_is_ready_and_was_measured_since() {
    let at = |started: i64, changed: i64, ready: bool| {
        let mut pod = pod(0, "1", ready);
        let status = pod.status.as_mut().unwrap();
        status.start_time.as_mut().unwrap().0 = ago(started);
        let condition = &mut status.conditions.as_mut().unwrap()[0];
        condition.last_transition_time.as_mut().unwrap().0 = ago(changed);
        pod
    };
    let metric = |age| PodMetric { timestamp: ago(age), window: WINDOW, value: 1 };
    assert!(starts_up(&at(30, 20, false), &metric(0), &RULES), "starting and unready");
    assert!(starts_up(&at(90, 30, true), &metric(0), &RULES), "measured before it was ready");
    assert!(!starts_up(&at(100, 90, true), &metric(0), &RULES), "measured since");
    assert!(starts_up(&at(300, 295, false), &metric(0), &RULES), "never was ready");
    assert!(!starts_up(&at(300, 200, false), &metric(0), &RULES), "was ready once");
    assert!(!starts_up(&at(300, 299, true), &metric(0), &RULES), "ready");
    let mut unknown = at(300, 200, true);
    unknown.status.as_mut().unwrap().conditions = None;
    assert!(starts_up(&unknown, &metric(0), &RULES), "nothing known");
}

#[test]
fn an_average_needs_no_requests() {
    let pods: Vec<_> = ready(&[true, true, true]).into_iter().map(Arc::new).collect();
    let target = Target::Average { millis: 15_000, resource: None };
    let levels = measured(&[20_000, 10_000, 30_000]);
    let found = over_pods(3, levels, &pods, target, USUAL, &RULES).unwrap();
    assert_eq!(found, Proposal { replicas: 4, measured: 20_000, utilization: None });
}

#[test]
fn the_tolerance_is_a_matter_of_direction() {
    let pods: Vec<_> = equal(100).into_iter().map(Arc::new).collect();
    let replicas = |level: i64, tolerances| {
        let target = Target::Average { millis: 1000, resource: Some("cpu") };
        let levels = measured(&vec![level; 100]);
        over_pods(100, levels, &pods, target, tolerances, &RULES).unwrap().replicas
    };
    assert_eq!((replicas(1100, USUAL), replicas(900, USUAL)), (100, 100));
    assert_eq!((replicas(1150, USUAL), replicas(890, USUAL)), (115, 89));
    let eager_up = Tolerances { up: 0.0, down: 0.5 };
    assert_eq!((replicas(1010, eager_up), replicas(500, eager_up)), (101, 100));
}

#[test]
fn requests_are_of_the_pod_or_of_all_containers_that_run_together() {
    let mut pod = pod(0, "250m", true);
    let with_sidecar = json!([
        {"name": "init", "resources": {"requests": {"cpu": "4"}}},
        {"name": "side", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
    ]);
    let spec = pod.spec.as_mut().unwrap();
    spec.init_containers = Some(serde_json::from_value(with_sidecar).unwrap());
    assert_eq!(request(&pod, "cpu", None), Ok(300));
    assert_eq!(request(&pod, "cpu", Some("side")), Ok(50));
    assert_eq!(
        request(&pod, "cpu", Some("no")).unwrap_err(),
        "container no not found in Pod pod-0"
    );
    assert_eq!(
        request(&pod, "example.com/gpu", None).unwrap_err(),
        "missing request for example.com/gpu in container web of Pod pod-0"
    );
    pod.spec.as_mut().unwrap().resources =
        Some(serde_json::from_value(json!({"requests": {"cpu": "1"}})).unwrap());
    assert_eq!(request(&pod, "cpu", None), Ok(1000));
    assert_eq!(request(&pod, "cpu", Some("side")), Ok(50));
    assert_eq!(
        request(&pod, "memory", None).unwrap_err(),
        "missing pod-level request for memory in Pod pod-0"
    );
}

#[test]
fn nothing_is_proposed_on_nothing() {
    let target = Target::Utilization { percent: 50, resource: "cpu", container: None };
    let none = over_pods(1, measured(&[1]), &[], target, USUAL, &RULES);
    assert_eq!(none.unwrap_err(), NO_PODS);
    let pods = [Arc::new(pod(0, "1", false))];
    let unready = over_pods(1, measured(&[1]), &pods, target, USUAL, &RULES);
    let expected = "did not receive metrics for targeted pods (pods might be unready)";
    assert_eq!(unready.unwrap_err(), expected);
}

#[test]
fn a_shared_metric_scales_by_the_whole_or_by_each() {
    let pods: Vec<_> = equal(3).into_iter().map(Arc::new).collect();
    let by_whole = |current, measured, target| {
        whole(current, measured, target, &pods, USUAL).unwrap().replicas
    };
    assert_eq!(by_whole(3, 20_000, 15_000), 4);
    assert_eq!(by_whole(3, 14_000, 15_000), 3, "within the tolerance");
    assert_eq!(by_whole(0, 20_000, 1_000), 20, "from zero the ratio alone counts");
    assert!(whole(3, 20_000, 15_000, &[], USUAL).is_err());

    assert_eq!(
        per_pod(3, 8_600, 2_867, USUAL),
        Proposal { replicas: 3, measured: 2867, utilization: None }
    );
    assert_eq!(per_pod(3, 8_600, 2_150, USUAL).replicas, 4);
    assert_eq!(per_pod(0, 8_600, 2_150, USUAL).replicas, 4);
    assert_eq!(per_pod(1, i64::MAX, 1, USUAL).replicas, i32::MAX);
}

proptest! {
    #[test]
    fn with_all_pods_measured_it_is_one_division(
        levels in prop::collection::vec(0_i64..5_000, 1..20),
        target in 1_i64..5_000,
    ) {
        let pods: Vec<_> = equal(levels.len()).into_iter().map(Arc::new).collect();
        let current = levels.len() as i32;
        let goal = Target::Average { millis: target, resource: None };
        let found = over_pods(current, measured(&levels), &pods, goal, USUAL, &RULES).unwrap();

        let average = levels.iter().sum::<i64>() / levels.len() as i64;
        let near = average * 10 >= target * 9 && average * 10 <= target * 11;
        let exact = (average * levels.len() as i64 + target - 1) / target;
        prop_assert_eq!(found.measured, average);
        // At the edges of the tolerance the last bit of a division may fall either way.
        let edge = average * 10 == target * 9 || average * 10 == target * 11;
        let expected = if near { i64::from(current) } else { exact };
        prop_assert!(edge || (i64::from(found.replicas) - expected).abs() <= i64::from(!near));
    }

    #[test]
    fn what_is_not_known_never_makes_a_step_larger_nor_turns_it_around(
        levels in prop::collection::vec(prop::option::of(0_i64..3_000), 1..12),
        unready in prop::collection::vec(any::<bool>(), 12),
        percent in 1..200_i32,
    ) {
        let current = levels.len() as i32;
        let pods: Vec<_> = (0..levels.len()).map(|i| Arc::new(pod(i, "1", !unready[i]))).collect();
        let metrics: PodMetrics = measured(&levels.iter().map(|l| l.unwrap_or(0)).collect::<Vec<_>>())
            .into_iter()
            .filter(|(pod, _)| levels.iter().enumerate().any(|(i, l)| l.is_some() && name(i) == *pod))
            .collect();
        let target = Target::Utilization { percent, resource: "cpu", container: None };
        let Ok(found) = over_pods(current, metrics.clone(), &pods, target, USUAL, &RULES) else {
            return Ok(());
        };
        let known: Vec<i64> = (0..levels.len())
            .filter(|i| !unready[*i])
            .filter_map(|i| levels[i])
            .collect();
        let utilization = known.iter().sum::<i64>() * 100 / (known.len() as i64 * 1000);
        prop_assert_eq!(found.utilization, Some(utilization as i32));
        let alone = (utilization as f64 / f64::from(percent) * f64::from(current)).ceil() as i32;
        if utilization as i32 > percent {
            prop_assert!(found.replicas >= current.min(known.len() as i32));
            prop_assert!(found.replicas <= alone.max(current));
        } else {
            prop_assert!(found.replicas <= current);
        }
    }
}
