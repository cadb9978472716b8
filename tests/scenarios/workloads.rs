//! Section F of the scenarios, on: what outlives what; and workloads whose containers are asked.

use std::time::Duration;

use rk::{
    Cluster,
    cri::{SimRuntime, agent::Agent},
    k8s_openapi::api::{
        apps::v1::{DaemonSet, Deployment},
        core::v1::{Node, Pod},
    },
    kube::{
        Api, Client,
        api::{ListParams, PostParams},
    },
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::harness::{Shell, rows, scenarios};

scenarios! {
    Sim:
        s153_a_lost_node_is_tainted_and_its_pods_move,
        s154_deletion_cascades_to_dependents_or_orphans_them;
    Real:
        s143_stateful_claims_stay_and_are_found_again,
        each_replica_serves_its_name,
        tasks_that_fail_once_are_restarted_in_place;
}

fn s143_stateful_claims_stay_and_are_found_again(t: &Shell) {
    t.manifest("46-statefulset-web.yaml");
    t.manifest("48-persistentvolumes-web.yaml");
    let (namespace, folders) = (t.namespace().to_owned(), t.directory().join("volumes"));
    for ordinal in 0..3 {
        let folder = folders.join(format!("pv-web-{ordinal}"));
        std::fs::create_dir_all(folder).expect("a folder of the node");
    }
    // Volumes have no namespace: other tests must neither have their names nor claim them.
    t.ok(&format!(
        "sed -i -e 's#/data/#{}/#; s/name: pv-web/name: {namespace}-pv-web/; s/namespace: default/namespace: {namespace}/' \
         -e 's/^\\( *\\)accessModes:/\\1storageClassName: {namespace}\\n\\1accessModes:/' \
         -e 's/^\\( *\\)image: nginx/\\1image: nginx\\n\\1imagePullPolicy: IfNotPresent/' 46-*.yaml 48-*.yaml",
        folders.display()
    ));
    t.ok("kubectl apply -f 48-persistentvolumes-web.yaml");
    let all_run = || {
        t.ok("kubectl apply -f 46-statefulset-web.yaml");
        for ordinal in 0..3 {
            t.eventually(&format!("kubectl get pod web-{ordinal} --no-headers"), "1/1");
        }
    };
    let claims = || {
        let names = t.ok("kubectl get pvc -o 'jsonpath={.items[*].metadata.name}'");
        assert_eq!(names, "www-web-0 www-web-1 www-web-2");
    };
    let file = "/usr/share/nginx/html/written";
    let data_is_there = || {
        for ordinal in 0..3 {
            let read = t.ok(&format!("kubectl exec web-{ordinal} -- cat {file}"));
            assert_eq!(read, format!("by web-{ordinal}\n"));
        }
    };
    all_run();
    for ordinal in 0..3 {
        t.ok(&format!("kubectl exec web-{ordinal} -- sh -c 'echo by web-{ordinal} > {file}'"));
    }

    t.ok("kubectl scale sts web --replicas=1");
    t.until("kubectl get pods -o name", "one Pod", |pods| pods == "pod/web-0\n");
    claims();
    all_run();
    data_is_there();

    t.ok("kubectl delete sts web");
    t.until("kubectl get pods -o name", "no Pod", str::is_empty);
    claims();
    all_run();
    data_is_there();

    t.ok("kubectl delete -f 46-statefulset-web.yaml");
    t.until("kubectl get pods -o name", "no Pod", str::is_empty);
    t.ok("kubectl delete pvc --all");
    t.ok("kubectl delete -f 48-persistentvolumes-web.yaml");
}

fn s154_deletion_cascades_to_dependents_or_orphans_them(t: &Shell) {
    let owner = |kind: &str, name: &str, more: &str| {
        let version = if kind == "Job" { "batch/v1" } else { "apps/v1" };
        format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{more}  template:\n    \
             metadata: {{labels: {{app: {name}}}}}\n    spec: {{terminationGracePeriodSeconds: 1, \
             containers: [{{name: c, image: nginx}}]{}}}\n---\n",
            if kind == "Job" { ", restartPolicy: Never" } else { "" }
        )
    };
    let selected = |name: &str| format!("  selector: {{matchLabels: {{app: {name}}}}}\n");
    let replicated = |name: &str| format!("  replicas: 2\n{}", selected(name));
    t.write(
        "owners.yaml",
        &(owner("Deployment", "d", &replicated("d"))
            + &owner("ReplicaSet", "r", &replicated("r"))
            + &owner("DaemonSet", "s", &selected("s"))
            + &owner("Job", "j", "")),
    );
    let make = || {
        t.ok("kubectl apply -f owners.yaml");
        for (name, least) in [("d", 2), ("r", 2), ("s", 1), ("j", 1)] {
            t.until(&format!("kubectl get pods -l app={name} -o name"), "its Pods", |pods| {
                pods.lines().count() >= least
            });
        }
    };
    const OWNERS: &str = "deployment/d replicaset/r daemonset/s job/j";
    let nothing_left =
        |what: &str| t.until(&format!("kubectl get {what} -o name"), "none", str::is_empty);

    make();
    t.ok(&format!("kubectl delete {OWNERS}"));
    nothing_left("replicasets,pods");

    // With this cascade an owner goes when all are gone that block it, which kubectl waits for.
    make();
    t.ok(&format!("kubectl delete --cascade=foreground {OWNERS}"));
    assert_eq!(t.ok("kubectl get replicasets,pods -o name"), "");

    make();
    t.ok(&format!("kubectl delete --cascade=orphan {OWNERS}"));
    let owners_of = |what: &str| {
        format!("kubectl get {what} -o 'jsonpath={{.items[*].metadata.ownerReferences[*].kind}}'")
    };
    for orphans in ["replicasets -l app=d", "pods -l app=r", "pods -l app=s", "pods -l app=j"] {
        t.until(&owners_of(orphans), "no owner", str::is_empty);
        assert_ne!(t.ok(&format!("kubectl get {orphans} -o name")), "", "{orphans} are left");
    }
    assert_eq!(t.ok(&owners_of("pods -l app=d")), "ReplicaSet ReplicaSet");
    t.ok("kubectl delete replicasets,pods --all --wait=false");
    nothing_left("replicasets,pods");
}

/// Waits in virtual time.
async fn until<T, F: AsyncFnMut() -> Option<T>>(what: &str, mut ask: F) -> T {
    for _ in 0..1800 {
        if let Some(answer) = ask().await {
            return answer;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("{what} did not come");
}

/// A kubelet for the node `doomed`, and what stops it.
fn kubelet(client: &Client) -> (tokio::task::JoinHandle<()>, CancellationToken) {
    let simulated = std::sync::Arc::new(SimRuntime::new());
    let agent = Agent::builder(client.clone(), simulated).node_name("doomed").build();
    let token = CancellationToken::new();
    (tokio::spawn(agent.expect("an agent").run(token.clone())), token)
}

/// The taints of the node that keep Pods away or drive them off, and its readiness.
async fn state(client: &Client) -> (Vec<String>, String) {
    let node = Api::<Node>::all(client.clone()).get("doomed").await.expect("read");
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let taints = taints.iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect();
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    (taints, ready.map(|ready| ready.status).unwrap_or_default())
}

/// The Pods of a label on a node.
async fn on(client: &Client, app: &str, node: &str) -> Vec<Pod> {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let list = pods.list(&ListParams::default().labels(&format!("app={app}"))).await;
    let mut pods = list.expect("listed").items;
    pods.retain(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node));
    pods
}

fn staying(pods: &[Pod]) -> usize {
    pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).count()
}

/// In a cluster of its own whose clock is wound forward: it takes more than five minutes.
fn s153_a_lost_node_is_tainted_and_its_pods_move(_: &Shell) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let cluster = Cluster::builder().nodes(1).start().await.expect("it starts");
        let client = cluster.client();
        let (node, stop) = kubelet(&client);
        let nodes: Api<Node> = Api::all(client.clone());
        until("the node", async || nodes.get_opt("doomed").await.expect("asked")).await;
        until("no taint", async || (state(&client).await.0.is_empty()).then_some(())).await;

        let template = |app: &str| {
            json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}})
        };
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "kept"},
            "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "kept"}}, "template": template("kept")},
        }))
        .expect("a Deployment");
        let daemons: DaemonSet = serde_json::from_value(json!({
            "metadata": {"name": "daemons"},
            "spec": {"selector": {"matchLabels": {"app": "daemon"}}, "template": template("daemon")},
        }))
        .expect("a DaemonSet");
        let (params, everywhere) = (PostParams::default(), client.clone());
        let deployments: Api<Deployment> = Api::default_namespaced(everywhere.clone());
        deployments.create(&params, &deployment).await.expect("created");
        Api::default_namespaced(everywhere).create(&params, &daemons).await.expect("created");
        let (there, daemon) = until("Pods on both nodes", async || {
            let (there, daemon) = (on(&client, "kept", "doomed").await, on(&client, "daemon", "doomed").await);
            let all = there.len() + on(&client, "kept", "node-1").await.len();
            (all == 4 && !there.is_empty() && daemon.len() == 1).then_some((there.len(), daemon))
        })
        .await;

        stop.cancel();
        node.await.expect("the agent ends");
        until("the taint", async || {
            let (taints, ready) = state(&client).await;
            let unreachable = |effect: &str| taints.contains(&format!("node.kubernetes.io/unreachable:{effect}"));
            (ready == "Unknown" && unreachable("NoSchedule") && unreachable("NoExecute")).then_some(())
        })
        .await;
        let left = staying(&on(&client, "kept", "doomed").await);
        assert_eq!(left, there, "they tolerate it for five minutes");

        until("others elsewhere", async || {
            let moved = staying(&on(&client, "kept", "node-1").await) == 4;
            (moved && staying(&on(&client, "kept", "doomed").await) == 0).then_some(())
        })
        .await;
        assert_eq!(on(&client, "kept", "doomed").await.len(), there, "nobody confirms their end");
        assert_eq!(staying(&on(&client, "daemon", "doomed").await), 1, "a daemon stays");

        let (node, stop) = kubelet(&client);
        until("the node's return", async || {
            let (taints, ready) = state(&client).await;
            let gone = on(&client, "kept", "doomed").await.is_empty();
            (taints.is_empty() && ready == "True" && gone).then_some(())
        })
        .await;
        let same = on(&client, "daemon", "doomed").await;
        assert_eq!(same[0].metadata.uid, daemon[0].metadata.uid, "it is the same daemon");
        stop.cancel();
        node.await.expect("the agent ends");
        cluster.shutdown().await;
    });
}

// Conformance: Replica Set, run basic image
// Conformance: Replication Controller, run basic image
fn each_replica_serves_its_name(t: &Shell) {
    for (version, kind, selector) in [
        ("apps/v1", "ReplicaSet", "{matchLabels: {name: replicaset}}"),
        ("v1", "ReplicationController", "{name: replicationcontroller}"),
    ] {
        let name = kind.to_lowercase();
        t.write(
            "owner.yaml",
            &format!(
                "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n  replicas: 2\n  \
                 selector: {selector}\n  template:\n    metadata: {{labels: {{name: {name}}}}}\n    spec:\n      \
                 terminationGracePeriodSeconds: 1\n      containers: [{{name: c, image: 'myapp:v1', \
                 ports: [{{containerPort: 80}}]}}]\n"
            ),
        );
        t.ok("kubectl apply -f owner.yaml");
        let pods = t.until(
            &format!("kubectl get pods -l name={name} --no-headers"),
            "two running Pods",
            |pods| {
                let pods = rows(pods);
                pods.len() == 2 && pods.iter().all(|pod| pod[1..3] == ["1/1", "Running"])
            },
        );
        for pod in rows(&pods) {
            let path = format!("/api/v1/namespaces/{}/pods/{}:80/proxy", t.namespace(), pod[0]);
            t.eventually(&format!("kubectl get --raw {path}/hostname.html"), pod[0]);
        }
        t.ok("kubectl delete -f owner.yaml");
    }
}

// Conformance: Jobs, completion after task failure
fn tasks_that_fail_once_are_restarted_in_place(t: &Shell) {
    t.write(
        "job.yaml",
        "apiVersion: batch/v1\nkind: Job\nmetadata: {name: fail-once-local}\nspec:\n  parallelism: 2\n  \
         completions: 4\n  template:\n    spec:\n      restartPolicy: OnFailure\n      \
         volumes: [{name: data, emptyDir: {}}]\n      containers:\n      - name: c\n        image: busybox\n        \
         imagePullPolicy: IfNotPresent\n        volumeMounts: [{name: data, mountPath: /data}]\n        \
         command: [sh, -c, 'if [ -r /data/foo ]; then exit 0; else touch /data/foo; exit 1; fi']\n",
    );
    t.ok("kubectl apply -f job.yaml");
    let succeeded = "kubectl get job fail-once-local -o 'jsonpath={.status.succeeded}'";
    for count in [2, 4] {
        t.until(succeeded, "successes", |out| out.parse::<u32>().is_ok_and(|out| out >= count));
    }
    let reason = "kubectl get job fail-once-local -o \
                  'jsonpath={.status.conditions[?(@.type==\"Complete\")].reason}'";
    t.eventually(reason, "CompletionsReached");
    let restarts = "kubectl get pods -l job-name=fail-once-local -o \
                    'jsonpath={.items[*].status.containerStatuses[0].restartCount}'";
    assert_eq!(t.ok(restarts), "1 1 1 1", "four Pods, each restarted once");
    assert_eq!(t.ok(succeeded), "4");
}
