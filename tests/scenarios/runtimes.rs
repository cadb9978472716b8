//! Section G of the scenarios, on: which runtimes run Pods.

use crate::harness::{Shell, apply, rows, scenarios};

scenarios! {
    Containerd:
        s161_containerd_runs_pods_over_cri;
    OverCri:
        s164_whatever_speaks_cri_runs_pods;
}

/// The last column of a node's row.
fn runtime_of(t: &Shell, node: &str) -> String {
    let row = t.ok(&format!("kubectl get node {node} -o wide --no-headers"));
    rows(&row)[0].last().map(|&version| version.to_owned()).unwrap_or_default()
}

fn s161_containerd_runs_pods_over_cri(t: &Shell) {
    let version = runtime_of(t, "server3");
    assert!(version.starts_with("containerd://1."), "{version}");

    // Its image is pulled by its name, and listed on the node.
    let spec = "terminationGracePeriodSeconds: 2\ncontainers:\n\
                - {name: shell, image: 'busybox:1.28.4', imagePullPolicy: Always, command: [sh, -c, \
                'echo begun; trap \"echo stopped; exit 0\" TERM; while read line; do echo \"got $line\"; done; \
                while :; do sleep 0.1; done'], stdin: true}\n\
                - {name: web, image: 'myapp:v1'}";
    apply(t, "whole", spec);
    t.eventually("kubectl get pod whole", "2/2");
    t.eventually("kubectl get events", "Successfully pulled image \"busybox:1.28.4\"");
    t.eventually(
        "kubectl get node server3 -o 'jsonpath={.status.images[*].names}'",
        "busybox:1.28.4",
    );
    let of = |path: &str| t.ok(&format!("kubectl get pod whole -o 'jsonpath={{.status.{path}}}'"));
    let ids = of("containerStatuses[*].containerID");
    assert!(ids.split(' ').all(|id| id.starts_with("containerd://")), "{ids}");
    assert!(of("containerStatuses[0].imageID").contains("sha256:"));

    // Exec with input and an exit code, attach to the first process, logs of it all.
    let done = t.sh_with_input("kubectl exec -i whole -c shell -- sh -c 'cat; exit 3'", "typed\n");
    assert_eq!((done.stdout.as_str(), done.code), ("typed\n", 3), "{}", done.stderr);
    t.sh("(echo hello; sleep 8) | timeout 5 kubectl attach whole -c shell -i");
    t.eventually("kubectl logs whole -c shell", "got hello");
    assert!(t.ok("kubectl logs whole -c shell").starts_with("begun\n"));
    let address = of("podIP");
    let page = format!("kubectl exec whole -c shell -- wget -qO- http://{address}/");
    t.eventually(&page, "Version: v1");

    let summary = t.until(
        "kubectl get --raw /api/v1/nodes/server3/proxy/stats/summary",
        "figures of its containers",
        |out| {
            let summary: serde_json::Value = serde_json::from_str(out).unwrap_or_default();
            let pods = summary["pods"].as_array().into_iter().flatten();
            let mut containers = pods
                .filter(|it| it["podRef"]["namespace"] == t.namespace())
                .flat_map(|it| it["containers"].as_array().into_iter().flatten());
            containers
                .any(|it| it["name"] == "web" && it["memory"]["workingSetBytes"].as_u64() > Some(0))
        },
    );
    assert!(summary.contains("server3"));

    // A container that ends is made anew, in the same sandbox.
    t.ok("kubectl exec whole -c web -- kill -TERM 1; true");
    t.until(
        "kubectl get pod whole -o 'jsonpath={.status.containerStatuses[1].restartCount}'",
        "a restart",
        |out| out == "1",
    );
    t.eventually("kubectl get pod whole", "2/2");
    assert_eq!(of("podIP"), address);

    t.ok("kubectl delete pod whole");
    let id = ids.split(' ').next().and_then(|id| id.strip_prefix("containerd://"));
    let id = id.expect("an id");
    let left = format!("find /sys/fs/cgroup -path '*{id}*' -name cgroup.procs");
    t.until(&left, "nothing of it", str::is_empty);
}

fn s164_whatever_speaks_cri_runs_pods(t: &Shell) {
    for node in ["node-1", "node-2", "node-3"] {
        let version = runtime_of(t, node);
        assert!(version.starts_with("rk-sim://"), "{version}");
    }
    t.ok("kubectl create deployment web --image=nginx --replicas=6");
    t.ok("kubectl rollout status deployment web --timeout=50s");
    let ids =
        t.ok("kubectl get pods -o 'jsonpath={.items[*].status.containerStatuses[*].containerID}'");
    assert_eq!(ids.split(' ').filter(|id| id.starts_with("rk-sim://")).count(), 6, "{ids}");

    apply(
        t,
        "task",
        "restartPolicy: OnFailure\ninitContainers: [{name: first, image: busybox, command: [sh, -c, 'echo one']}]\n\
         containers: [{name: c, image: busybox, command: [sh, -c, 'echo two; exit 0']}]",
    );
    t.eventually("kubectl get pod task", "Completed");
    let codes = "kubectl get pod task -o 'jsonpath={.status.initContainerStatuses[0].state.terminated.exitCode} \
                 {.status.containerStatuses[0].state.terminated.exitCode}'";
    assert_eq!(t.ok(codes), "0 0");
    apply(t, "fails", "containers: [{name: c, image: busybox, command: [sh, -c, 'exit 3']}]");
    t.until(
        "kubectl get pod fails -o 'jsonpath={.status.containerStatuses[0].lastState.terminated.exitCode}'",
        "its exit code",
        |out| out == "3",
    );
    apply(t, "missing", "containers: [{name: c, image: 'missing/httpd:3'}]");
    t.eventually("kubectl get pod missing", "ImagePull");

    t.ok("kubectl delete deployment web");
    t.ok("kubectl delete pod task fails missing");
    t.until("kubectl get pods -o name", "no Pod", str::is_empty);
}
