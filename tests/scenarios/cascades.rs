//! What becomes of what an object owns, when it is deleted.

use crate::harness::{Shell, scenarios};

scenarios! {
    Sim:
        s154_deletion_takes_dependents_along_or_leaves_them;
}

/// Owners, with Pods labelled `app=<kind>`.
const OWNERS: &[(&str, &str, &str)] = &[
    ("deployment", "apps/v1", "Deployment"),
    ("replicaset", "apps/v1", "ReplicaSet"),
    ("daemonset", "apps/v1", "DaemonSet"),
    ("job", "batch/v1", "Job"),
];

fn owner(kind: &str, version: &str, name: &str) -> String {
    let (selector, restart) = match kind {
        "Job" => ("", ", restartPolicy: Never"),
        _ => ("selector: {matchLabels: {app: NAME}}, ", ""),
    };
    // A Pod that ends is of no use here, and simulated ones go on unless they are told otherwise.
    format!(
        "{{apiVersion: {version}, kind: {kind}, metadata: {{name: NAME}}, spec: {{{selector}\
         template: {{metadata: {{labels: {{app: NAME}}}}, \
         spec: {{containers: [{{name: c, image: nginx}}]{restart}}}}}}}}}\n---\n"
    )
    .replace("NAME", name)
}

fn s154_deletion_takes_dependents_along_or_leaves_them(t: &Shell) {
    let all: String =
        OWNERS.iter().map(|(name, version, kind)| owner(kind, version, name)).collect();
    t.write("owners.yaml", &all);
    let pods = |name: &str| format!("kubectl get pods -l app={name} -o name");
    let some = |names: &str| !names.is_empty();

    // In the background, which is how kubectl does it, and in the foreground.
    for cascade in ["background", "foreground"] {
        t.ok("kubectl apply -f owners.yaml");
        for (name, ..) in OWNERS {
            t.until(&pods(name), "a Pod", some);
            t.ok(&format!("kubectl delete {name} {name} --cascade={cascade} --wait=false"));
        }
        for (name, ..) in OWNERS {
            t.until(&pods(name), "no Pod", str::is_empty);
            t.until(&format!("kubectl get {name} -o name"), "no owner", str::is_empty);
        }
        t.until("kubectl get replicasets -o name", "the Deployment's went too", str::is_empty);
    }

    t.ok("kubectl apply -f owners.yaml");
    let fields = "jsonpath='{range .items[*]}{.metadata.uid} {.metadata.ownerReferences[*].kind}{\"\\n\"}{end}'";
    for (name, ..) in OWNERS {
        t.until(&pods(name), "a Pod", some);
    }
    let children = |name: &str| match name {
        // Its Pods have an owner that stays: its ReplicaSet.
        "deployment" => format!("kubectl get replicasets -l app={name} -o {fields}"),
        _ => format!("kubectl get pods -l app={name} -o {fields}"),
    };
    let mut left = Vec::new();
    for (name, _, kind) in OWNERS {
        let owned = t.ok(&children(name));
        assert!(owned.lines().all(|line| line.ends_with(&format!(" {kind}"))), "{owned}");
        t.ok(&format!("kubectl delete {name} {name} --cascade=orphan"));
        left.push((name, owned.replace(&format!(" {kind}"), " ")));
    }
    for (name, expected) in left {
        t.until(
            &format!("kubectl get {name} {name} -o name --ignore-not-found"),
            "it is gone",
            str::is_empty,
        );
        t.until(&children(name), &format!("the same without owner: {expected}"), |now| {
            now.trim_end_matches('\n') == expected.trim_end_matches('\n')
        });
    }
    // An orphaned ReplicaSet still has its Pods.
    let owners = "kubectl get pods -l app=deployment -o jsonpath='{.items[*].metadata.ownerReferences[*].kind}'";
    t.until(owners, "a ReplicaSet's Pods", |kinds| kinds.contains("ReplicaSet"));
}
