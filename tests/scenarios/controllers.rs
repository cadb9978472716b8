//! Section F of the scenarios: controllers.

use crate::harness::{Shell, rows, scenarios};

scenarios! {
    Sim:
        s125_a_replication_controller_keeps_its_count,
        s126_a_replica_set_replaces_and_scales,
        s127_a_relabelled_pod_is_released_and_replaced,
        s128_matching_pods_are_adopted,
        s129_selectors_with_expressions,
        s130_a_deployment_owns_one_replica_set,
        s131_a_rolling_update_keeps_within_its_bounds,
        s132_going_back_uses_the_old_replica_set,
        s133_recreate_never_runs_both_versions,
        s134_a_paused_deployment_collects_changes,
        node_loss_moves_a_deployments_pods;
}

fn running(t: &Shell, selector: &str, count: usize) -> Vec<String> {
    let out = t.until(
        &format!("kubectl get pods -l '{selector}' --no-headers"),
        &format!("{count} running pods"),
        |out| {
            let rows = rows(out);
            rows.len() == count && rows.iter().all(|row| row[1] == "1/1" && row[2] == "Running")
        },
    );
    rows(&out).iter().map(|row| row[0].to_owned()).collect()
}

fn s125_a_replication_controller_keeps_its_count(t: &Shell) {
    let manifest = "apiVersion: v1\nkind: ReplicationController\nmetadata: {name: rc}\nspec:\n  replicas: 2\n  \
                    selector: {app: rc}\n  template:\n    metadata: {labels: {app: rc}}\n    spec: \
                    {containers: [{name: c, image: nginx}]}\n";
    t.write("rc.yaml", manifest);
    t.ok("kubectl apply -f rc.yaml");
    let pods = running(t, "app=rc", 2);
    t.ok(&format!("kubectl delete pod {}", pods[0]));
    running(t, "app=rc", 2);
    t.write(
        "set.yaml",
        &manifest
            .replace("name: rc}", "name: set}")
            .replace("{app: rc}\n  template", "{matchLabels: {app: rc}}\n  template"),
    );
    t.fails("kubectl create -f set.yaml");
    t.write(
        "never.yaml",
        &manifest
            .replace("name: rc}", "name: never}")
            .replace("spec: {containers", "spec: {restartPolicy: Never, containers"),
    );
    let refused = t.fails("kubectl create -f never.yaml");
    assert!(
        refused.contains("spec.template.spec.restartPolicy: Unsupported value: \"Never\""),
        "{refused}"
    );
}

fn s126_a_replica_set_replaces_and_scales(t: &Shell) {
    t.manifest("07-replicaset-example.yaml");
    t.ok("kubectl apply -f 07-replicaset-example.yaml");
    let pods = running(t, "app=nginx", 3);
    t.until("kubectl get rs --no-headers", "3 3 3", |out| {
        rows(out).first().is_some_and(|row| row[1..4] == ["3", "3", "3"])
    });
    t.ok(&format!("kubectl delete pod {}", pods[0]));
    running(t, "app=nginx", 3);
    t.ok("kubectl scale rs replicaset-example --replicas=5");
    running(t, "app=nginx", 5);
    t.ok("kubectl scale rs replicaset-example --replicas=1");
    running(t, "app=nginx", 1);
}

fn s127_a_relabelled_pod_is_released_and_replaced(t: &Shell) {
    t.manifest("07-replicaset-example.yaml");
    t.ok("kubectl apply -f 07-replicaset-example.yaml");
    let pods = running(t, "app=nginx", 3);
    let pod = &pods[0];
    let owner =
        format!("kubectl get pod {pod} -o 'jsonpath={{.metadata.ownerReferences[*].name}}'");
    let container =
        format!("kubectl get pod {pod} -o 'jsonpath={{.status.containerStatuses[0].containerID}}'");
    let before = t.ok(&container);
    t.ok(&format!("kubectl label pod {pod} app=myapp --overwrite"));
    running(t, "app=nginx", 3);
    t.until(&owner, "no owner", str::is_empty);
    assert_eq!(t.ok(&container), before);
    assert_eq!(rows(&t.ok("kubectl get pods --no-headers --show-labels")).len(), 4);
    t.ok(&format!("kubectl label pod {pod} app=nginx --overwrite"));
    running(t, "app=nginx", 3);
}

fn s128_matching_pods_are_adopted(t: &Shell) {
    t.ok("kubectl run bare --image=nginx --labels=tier=frontend");
    t.ok("kubectl create deployment other --image=nginx");
    t.eventually("kubectl get pods -l app=other", "1/1");
    let others = t.ok("kubectl get pods -l app=other -o name").trim().to_owned();
    t.ok(&format!("kubectl label {others} tier=frontend"));
    t.manifest("49-replicaset-frontend.yaml");
    t.ok("kubectl apply -f 49-replicaset-frontend.yaml");
    let owner = "kubectl get pod bare -o 'jsonpath={.metadata.ownerReferences[0].name}'";
    t.until(owner, "adopted", |owner| owner == "frontend");
    let count = "kubectl get rs frontend --no-headers";
    t.until(count, "3 3 3", |out| {
        rows(out).first().is_some_and(|row| row[1..4] == ["3", "3", "3"])
    });
    let kept =
        t.ok(&format!("kubectl get {others} -o 'jsonpath={{.metadata.ownerReferences[0].name}}'"));
    assert!(kept.starts_with("other-"), "{kept}");
    t.ok("kubectl run late --image=nginx --labels=tier=frontend");
    t.until("kubectl get pods -l tier=frontend --no-headers", "three and the other's", |out| {
        rows(out).iter().filter(|row| row[2] == "Running").count() == 4 && rows(out).len() == 4
    });
}

fn s129_selectors_with_expressions(t: &Shell) {
    let manifest = |label: &str| {
        format!(
            "apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {{name: picky}}\nspec:\n  replicas: 2\n  selector:\n    \
             matchExpressions:\n    - {{key: app, operator: In, values: [a, b]}}\n    - {{key: app, operator: NotIn, values: [b]}}\n    \
             - {{key: tier, operator: Exists}}\n    - {{key: old, operator: DoesNotExist}}\n  template:\n    metadata: \
             {{labels: {{app: {label}, tier: x}}}}\n    spec: {{containers: [{{name: c, image: nginx}}]}}\n"
        )
    };
    t.write("right.yaml", &manifest("a"));
    t.ok("kubectl apply -f right.yaml");
    running(t, "tier=x", 2);
    t.write("wrong.yaml", &manifest("b").replace("picky", "wrong"));
    let refused = t.fails("kubectl apply -f wrong.yaml");
    assert!(refused.contains("`selector` does not match template `labels`"), "{refused}");
}

fn s130_a_deployment_owns_one_replica_set(t: &Shell) {
    t.manifest("08-deployment-nginx.yaml");
    t.ok("kubectl apply -f 08-deployment-nginx.yaml");
    let pods = running(t, "app=nginx", 3);
    let sets = t.ok("kubectl get rs -o 'jsonpath={.items[*].metadata.name}'");
    let hash = sets.strip_prefix("deployment-nginx-").expect("one replica set").to_owned();
    assert!(!hash.contains(' ') && !hash.is_empty(), "{sets}");
    running(t, &format!("pod-template-hash={hash}"), 3);
    t.ok(&format!("kubectl label pod {} app=else --overwrite", pods[0]));
    running(t, "app=nginx", 3);
}

fn s131_a_rolling_update_keeps_within_its_bounds(t: &Shell) {
    t.manifest("53-deployment-httpd-test.yaml");
    t.ok("kubectl apply -f 53-deployment-httpd-test.yaml");
    running(t, "app=test01", 3);
    t.ok(
        "(timeout 30 kubectl get pods -l app=test01 -w -o \
         'jsonpath={.metadata.name} {.metadata.deletionTimestamp} {.status.phase}{\"\\n\"}' > watch.out 2>&1 &)",
    );
    t.ok("kubectl set image deployment test test=example/httpd:2");
    for _ in 0..20 {
        let pods = t.ok("kubectl get pods -l app=test01 --no-headers");
        let rows = rows(&pods);
        let going = ["Terminating", "Completed"];
        let live = rows.iter().filter(|row| !going.contains(&row[2])).count();
        let available = rows.iter().filter(|row| row[1] == "1/1" && row[2] == "Running").count();
        assert!(live <= 4, "{pods}");
        assert!(available >= 3, "{pods}");
    }
    t.ok("kubectl rollout status deployment test --timeout=50s");
    t.until("kubectl get deployment test --no-headers", "3 up to date", |out| {
        rows(out).first().is_some_and(|row| row[1..4] == ["3/3", "3", "3"])
    });
    t.ok("kubectl set image deployment test test=missing/httpd:3");
    t.eventually("kubectl get pods -l app=test01", "ImagePullBackOff");
    t.until("kubectl get pods -l app=test01 --no-headers", "the old ones stay", |out| {
        rows(out).iter().filter(|row| row[1] == "1/1" && row[2] == "Running").count() == 3
    });
}

fn s132_going_back_uses_the_old_replica_set(t: &Shell) {
    t.manifest("15-deployment-nginx-with-service.yaml");
    t.ok("kubectl apply -f 15-deployment-nginx-with-service.yaml");
    running(t, "app=nginx", 3);
    let first = t.ok("kubectl get rs -o name");
    t.ok("sed -i s/v1$/v2/ 15-deployment-nginx-with-service.yaml");
    t.ok("sed -i s/apps.v2/apps\\\\/v1/\\;s/^apiVersion:.v2/apiVersion:\\ v1/ 15-deployment-nginx-with-service.yaml");
    t.ok("kubectl apply -f 15-deployment-nginx-with-service.yaml");
    t.ok("kubectl rollout status deployment deployment-nginx --timeout=50s");
    t.until("kubectl get rs --no-headers", "3 and 0", |out| {
        let mut desired: Vec<_> = rows(out).iter().map(|row| row[1].to_owned()).collect();
        desired.sort();
        desired == ["0", "3"]
    });
    t.ok("sed -i s/myapp:v2/myapp:v1/ 15-deployment-nginx-with-service.yaml");
    t.ok("kubectl apply -f 15-deployment-nginx-with-service.yaml");
    t.ok("kubectl rollout status deployment deployment-nginx --timeout=50s");
    assert_eq!(rows(&t.ok("kubectl get rs --no-headers")).len(), 2);
    let replicas = t.ok(&format!("kubectl get {} -o 'jsonpath={{.spec.replicas}}'", first.trim()));
    assert_eq!(replicas, "3");
}

fn s133_recreate_never_runs_both_versions(t: &Shell) {
    t.ok("kubectl create deployment r --image=nginx:1 --replicas=3 --dry-run=client -o yaml > r.yaml");
    t.ok("sed -i 's/strategy: {}/strategy: {type: Recreate}/' r.yaml && kubectl apply -f r.yaml");
    running(t, "app=r", 3);
    t.ok("kubectl set image deployment r nginx=nginx:2");
    for _ in 0..15 {
        let images =
            t.ok("kubectl get pods -l app=r -o 'jsonpath={.items[*].spec.containers[0].image}'");
        assert!(!(images.contains("nginx:1") && images.contains("nginx:2")), "{images}");
    }
    running(t, "app=r", 3);
}

fn s134_a_paused_deployment_collects_changes(t: &Shell) {
    t.ok("kubectl create deployment p --image=nginx:1");
    running(t, "app=p", 1);
    t.ok("kubectl rollout pause deployment p");
    t.ok("kubectl set image deployment p nginx=nginx:2");
    t.ok("kubectl set resources deployment p --limits=cpu=200m,memory=512Mi");
    t.ok("sleep 1");
    assert_eq!(rows(&t.ok("kubectl get rs --no-headers")).len(), 1);
    t.ok("kubectl rollout resume deployment p");
    t.ok("kubectl rollout status deployment p --timeout=50s");
    assert_eq!(rows(&t.ok("kubectl get rs --no-headers")).len(), 2);
}

fn node_loss_moves_a_deployments_pods(t: &Shell) {
    t.ok("kubectl create deployment d --image=nginx --replicas=2");
    running(t, "app=d", 2);
    // A node nobody runs: its Pods are collected with it, and the Deployment makes new ones.
    let node = format!("{}-lost", t.namespace());
    t.write("node.yaml", &format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\n"));
    t.ok("kubectl create -f node.yaml");
    t.write(
        "pod.yaml",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: stranded}}\nspec:\n  nodeName: {node}\n  \
         containers: [{{name: c, image: nginx}}]\n"
        ),
    );
    t.ok("kubectl create -f pod.yaml");
    t.ok(&format!("kubectl delete node {node}"));
    t.until("kubectl get pods -o name", "the stranded pod gone", |out| !out.contains("stranded"));
}
