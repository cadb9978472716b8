//! Metrics and what follows from them: `kubectl top`, and replicas that follow the load.

use crate::harness::{Shell, rows, scenarios};

scenarios! {
    Sim:
        s151_replicas_follow_the_load_and_stay_without_metrics,
        nodes_and_pods_are_measured_and_sorted;
    Real:
        s258_use_is_near_what_the_kernel_counts,
        s259_load_on_the_pods_makes_more_of_them;
}

/// A Deployment and an autoscaler that wants half of what a Pod requests.
fn deploy(t: &Shell, annotations: &str, container: &str, behavior: &str) {
    t.write(
        "web.yaml",
        &format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  selector: \
             {{matchLabels: {{app: web}}}}\n  template:\n    metadata: {{labels: {{app: web}}, \
             annotations: {annotations}}}\n    spec:\n      terminationGracePeriodSeconds: 0\n      \
             containers: [{container}]\n---\napiVersion: autoscaling/v2\nkind: \
             HorizontalPodAutoscaler\nmetadata: {{name: web}}\nspec:\n  scaleTargetRef: {{apiVersion: \
             apps/v1, kind: Deployment, name: web}}\n  maxReplicas: 4\n  metrics: [{{type: Resource, \
             resource: {{name: cpu, target: {{type: Utilization, averageUtilization: 50}}}}}}]\n  \
             behavior: {behavior}\n"
        ),
    );
    t.ok("kubectl apply -f web.yaml");
}

/// Down as soon as fifteen quiet seconds have passed, which is soon enough to wait for.
const QUICK: &str = "{scaleDown: {stabilizationWindowSeconds: 15}}";

fn replicas(t: &Shell, kind: &str, name: &str, wanted: &str) {
    t.until(
        &format!("kubectl get {kind} {name} -o 'jsonpath={{.spec.replicas}}'"),
        &format!("{wanted} replicas"),
        |out| out == wanted,
    );
}

fn load(t: &Shell, cpu: &str) {
    t.ok(&format!("kubectl annotate pods -l app=web sim.rk.dev/cpu={cpu} --overwrite"));
}

fn s151_replicas_follow_the_load_and_stay_without_metrics(t: &Shell) {
    let web = "{name: web, image: nginx, resources: {requests: {cpu: 100m}}}";
    deploy(t, "{sim.rk.dev/cpu: 52m}", web, QUICK);
    t.eventually(
        "kubectl get hpa web -o 'jsonpath={.status.conditions[*].reason}'",
        "ValidMetricFound",
    );
    let shown = t.ok("kubectl get hpa web --no-headers");
    let shown = rows(&shown);
    assert_eq!(shown[0][1..3], ["Deployment/web", "cpu:"], "{shown:?}");
    let percent = shown[0][3].strip_suffix("%/50%").and_then(|percent| percent.parse::<u32>().ok());
    assert!(percent.is_some_and(|percent| (50..=54).contains(&percent)), "{shown:?}");
    replicas(t, "deployment", "web", "1");

    load(t, "400m");
    replicas(t, "deployment", "web", "4");
    let described = t.ok("kubectl describe hpa web");
    let event =
        "New size: 4; reason: cpu resource utilization (percentage of request) above target";
    assert!(described.contains(event), "{described}");
    t.until("kubectl get pods -l app=web --no-headers", "4 running pods", |out| {
        let rows = rows(out);
        rows.len() == 4 && rows.iter().all(|row| row[2] == "Running")
    });
    load(t, "5m");
    replicas(t, "deployment", "web", "1");

    // A ReplicaSet is scaled like a Deployment, here by what is typed.
    t.manifest("07-replicaset-example.yaml");
    t.ok("kubectl apply -f 07-replicaset-example.yaml");
    t.ok("kubectl autoscale rs replicaset-example --min=1 --max=5 --cpu-percent=80");
    // Its Pods request nothing, so that no percentage can be said: nothing is done.
    let why = t.eventually(
        "kubectl get hpa replicaset-example -o 'jsonpath={.status.conditions}'",
        "missing request for cpu in container",
    );
    assert!(why.contains("FailedGetResourceMetric"), "{why}");
    replicas(t, "rs", "replicaset-example", "3");
}

fn nodes_and_pods_are_measured_and_sorted(t: &Shell) {
    let pod = |name: &str, cpu: &str, memory: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{top: this}}, \
             annotations: {{sim.rk.dev/cpu: {cpu}, sim.rk.dev/memory: {memory}, \
             sim.rk.dev/cpu.side: 30m}}}}\nspec:\n  containers: [{{name: web, image: nginx}}, \
             {{name: side, image: nginx}}]\n---\n"
        )
    };
    t.write("pods.yaml", &(pod("small", "250m", "64Mi") + &pod("large", "1500m", "32Mi")));
    t.ok("kubectl apply -f pods.yaml");
    let top = |arguments: &str, count: usize| {
        t.until(
            &format!("kubectl top pods -l top=this --no-headers {arguments}"),
            &format!("{count} rows"),
            |out| rows(out).len() == count,
        )
    };
    let near = |shown: &str, wanted: i64| {
        let shown: i64 = shown.trim_end_matches('m').parse().expect("millicores");
        assert!((shown - wanted).abs() <= wanted / 20 + 1, "{shown} for {wanted}");
    };
    let by_cpu = top("--sort-by=cpu", 2);
    let by_cpu = rows(&by_cpu);
    assert_eq!((by_cpu[0][0], by_cpu[1][0]), ("large", "small"));
    near(by_cpu[0][1], 1530);
    near(by_cpu[1][1], 280);
    let by_memory = top("--sort-by=memory", 2);
    let by_memory = rows(&by_memory);
    assert_eq!(by_memory[0][0], "small");
    assert_eq!((by_memory[0][2], by_memory[1][2]), ("128Mi", "64Mi"));
    let containers = top("--containers", 4);
    let side = rows(&containers).into_iter().find(|row| row[..2] == ["small", "side"]);
    near(side.expect("the second container")[2], 30);

    let nodes = t.until("kubectl top nodes --no-headers", "three nodes", |out| {
        rows(out).len() == 3 && !out.contains("unknown")
    });
    assert!(
        rows(&nodes).iter().all(|row| row[1].ends_with('m') && row[2].ends_with('%')),
        "{nodes}"
    );
    let table = t.ok("kubectl get pods.metrics.k8s.io -l top=this");
    assert_eq!(rows(&table)[0], ["NAME", "CPU", "MEMORY", "WINDOW"]);
    let missing = t.fails("kubectl top pod nobody");
    assert!(missing.contains("/nobody\" not found"), "{missing}");
    // Who may see Pods may see what they use.
    t.ok(&format!(
        "kubectl create rolebinding viewer --clusterrole=view --user=viewer -n {}",
        t.namespace()
    ));
    t.ok("kubectl auth can-i list pods.metrics.k8s.io --as viewer");
    t.fails("kubectl top nodes --as viewer");
}

/// A container that keeps one CPU busy while a file is there.
const WORKER: &str = "{name: web, image: busybox, command: [sh, -c, 'while :; do if [ -e /tmp/load ]; \
                      then :; else sleep 1; fi; done'], resources: {requests: {cpu: 100m}, limits: \
                      {cpu: 400m}}}";

fn s258_use_is_near_what_the_kernel_counts(t: &Shell) {
    let served = t.ok("kubectl get --raw /apis/metrics.k8s.io/v1beta1");
    assert!(served.contains("PodMetrics") && served.contains("NodeMetrics"), "{served}");
    t.ok("kubectl wait apiservice v1beta1.metrics.k8s.io --for=condition=Available --timeout=30s");
    t.write(
        "busy.yaml",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: busy}}\nspec:\n  \
                  terminationGracePeriodSeconds: 0\n  containers: [{WORKER}]\n"
        ),
    );
    t.ok("kubectl apply -f busy.yaml");
    t.ok("kubectl wait pod busy --for=condition=Ready --timeout=60s");
    t.ok("kubectl exec busy -- touch /tmp/load");
    let cpu = |out: &str| rows(out).first()?[1].strip_suffix('m')?.parse::<u32>().ok();
    t.until("kubectl top pod busy --no-headers", "a good part of its limit of 400m", |out| {
        cpu(out).is_some_and(|cpu| (100..=450).contains(&cpu))
    });
    let counted = t.ok("kubectl get --raw /api/v1/nodes/server3/proxy/metrics/resource");
    let of_pod = format!("container=\"web\",namespace=\"{}\",pod=\"busy\"", t.namespace());
    for family in ["container_cpu_usage_seconds_total", "container_memory_working_set_bytes"] {
        assert!(counted.contains(&format!("{family}{{{of_pod}}}")), "{counted}");
    }
    t.until("kubectl top node server3 --no-headers", "what the node uses", |out| {
        cpu(out).is_some_and(|cpu| cpu >= 100)
    });
}

fn s259_load_on_the_pods_makes_more_of_them(t: &Shell) {
    deploy(t, "{}", WORKER, QUICK);
    t.ok("kubectl wait deployment web --for=condition=Available --timeout=60s");
    let pod = t.ok("kubectl get pods -l app=web -o 'jsonpath={.items[0].metadata.name}'");
    t.ok(&format!("kubectl exec {pod} -- touch /tmp/load"));
    t.until("kubectl get deployment web -o 'jsonpath={.spec.replicas}'", "more than one", |out| {
        out.parse::<u32>().is_ok_and(|replicas| replicas > 1)
    });
    t.ok(&format!("kubectl exec {pod} -- rm /tmp/load"));
    replicas(t, "deployment", "web", "1");
}
