//! Section G of the scenarios: where Pods go, and what the kubelet makes of those that are its own.

use std::path::Path;

use crate::{
    harness::{Shell, apply, pod, rows, scenarios},
    own::Own,
};

scenarios! {
    Sim:
        s155_the_best_of_the_fitting_nodes_wins,
        s156_a_pod_that_fits_nowhere_says_why_and_starts_when_it_fits,
        s157_affinity_to_nodes_is_required_or_preferred,
        s157_pods_go_near_others_or_stay_apart,
        s157_one_pod_per_node_and_the_next_waits,
        s158_taints_keep_pods_off_that_do_not_tolerate_them,
        s159_containers_outlive_a_restart_of_the_kubelet;
    Both:
        s159_the_kubelet_runs_what_is_bound_to_its_node,
        s165_figures_of_containers_follow_their_load;
}

/// Creates a Pod in the test's own cluster.
fn create(t: &Shell, own: &Own<'_>, name: &str, spec: &str) {
    create_as(t, own, "none", name, spec);
}

/// Creates a Pod with the label `app`.
fn create_as(t: &Shell, own: &Own<'_>, app: &str, name: &str, spec: &str) {
    let metadata = format!("{name}, labels: {{app: {app}}}");
    t.write(
        &format!("{name}.yaml"),
        &pod(&metadata, &format!("terminationGracePeriodSeconds: 1\n{spec}")),
    );
    own.ok(&format!("create -f {name}.yaml"));
}

/// A container that asks for so much.
fn asks(cpu: &str, memory: &str) -> String {
    format!(
        "containers:\n- {{name: c, image: nginx, resources: {{requests: {{cpu: '{cpu}', memory: {memory}}}}}}}"
    )
}

const PLAIN: &str = "containers:\n- {name: c, image: nginx}";

/// Waits until the Pod runs, and returns its node.
fn node_of(own: &Own<'_>, name: &str) -> String {
    own.until(&format!("get pod {name} --no-headers"), "it runs", |out| {
        rows(out).first().is_some_and(|row| row[2] == "Running")
    });
    own.ok(&format!("get pod {name} -o 'jsonpath={{.spec.nodeName}}'"))
}

/// Waits until the scheduler has said of the Pod what contains all of these.
fn fits_nowhere(own: &Own<'_>, name: &str, why: &[&str]) {
    let events = format!("get events --field-selector involvedObject.name={name} --no-headers");
    own.until(&events, &why.join(" and "), |out| {
        out.contains("FailedScheduling") && why.iter().all(|why| out.contains(why))
    });
    let row = own.ok(&format!("get pod {name} --no-headers"));
    assert_eq!(rows(&row)[0][2], "Pending", "{row}");
}

fn s155_the_best_of_the_fitting_nodes_wins(t: &Shell) {
    let own = Own::start(t, 0);
    let capacity = |cpu, memory| [("cpu", cpu), ("memory", memory)];
    own.join_with("small", &capacity("2", "2Gi"), &[]);
    own.join_with("middle", &capacity("4", "4Gi"), &[("disk", "ssd")]);
    own.join_with("large", &capacity("8", "8Gi"), &[]);
    own.ready(3);

    // What does not fit drops out, by resources and by labels.
    create(t, &own, "six", &asks("6", "6Gi"));
    assert_eq!(node_of(&own, "six"), "large");
    create(t, &own, "three", &asks("3", "3Gi"));
    assert_eq!(node_of(&own, "three"), "middle");
    create(t, &own, "ssd", &format!("nodeSelector: {{disk: ssd}}\n{}", asks("500m", "500Mi")));
    assert_eq!(node_of(&own, "ssd"), "middle");
    own.ok("delete pod six three ssd");

    // Of those that it fits on, the one that is left with the most.
    create(t, &own, "one", &asks("1", "1Gi"));
    assert_eq!(node_of(&own, "one"), "large");

    // Equal ones win by chance: not always the same.
    own.join_with("twin-1", &capacity("4", "4Gi"), &[("twin", "yes")]);
    own.join_with("twin-2", &capacity("4", "4Gi"), &[("twin", "yes")]);
    own.ready(5);
    let mut winners = std::collections::BTreeSet::new();
    for toss in 0..60 {
        let name = format!("coin-{toss}");
        create(t, &own, &name, &format!("nodeSelector: {{twin: 'yes'}}\n{PLAIN}"));
        winners.insert(node_of(&own, &name));
        own.ok(&format!("delete pod {name}"));
        if winners.len() == 2 {
            break;
        }
    }
    assert_eq!(winners.len(), 2, "{winners:?}");
    own.stop();
}

fn s156_a_pod_that_fits_nowhere_says_why_and_starts_when_it_fits(t: &Shell) {
    let own = Own::start(t, 0);
    own.join_with("small", &[("cpu", "1")], &[]);
    own.join_with("other", &[("cpu", "8")], &[]);
    own.ready(2);
    own.ok("taint node other dedicated=others:NoSchedule");
    create(t, &own, "four", &asks("4", "1Mi"));
    fits_nowhere(
        &own,
        "four",
        &["0/2 nodes are available", "1 Insufficient cpu", "1 node(s) had untolerated taint"],
    );
    let condition = "get pod four -o 'jsonpath={.status.conditions[?(@.type==\"PodScheduled\")].status} \
                     {.status.conditions[?(@.type==\"PodScheduled\")].reason}'";
    own.until(condition, "False Unschedulable", |out| out == "False Unschedulable");

    own.join_with("large", &[("cpu", "8")], &[]);
    assert_eq!(node_of(&own, "four"), "large");
    own.until(condition, "True", |out| out.trim() == "True");
    own.stop();
}

/// A required or preferred rule about the region.
fn region(rule: &str, value: &str) -> String {
    let term = format!(
        "{{matchExpressions: [{{key: topology.kubernetes.io/region, operator: In, values: [{value}]}}]}}"
    );
    match rule {
        "required" => format!(
            "requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{term}]}}"
        ),
        _ => format!(
            "preferredDuringSchedulingIgnoredDuringExecution: [{{weight: 100, preference: {term}}}]"
        ),
    }
}

fn s157_affinity_to_nodes_is_required_or_preferred(t: &Shell) {
    let own = Own::start(t, 0);
    let at = |name: &str, region: &str, zone: &str| {
        let labels =
            [("topology.kubernetes.io/region", region), ("topology.kubernetes.io/zone", zone)];
        own.join_with(name, &[], &labels);
    };
    at("e1", "east", "east-1");
    at("e2", "east", "east-2");
    at("w1", "west", "west-1");
    own.ready(3);

    create(t, &own, "named", &format!("nodeName: e2\n{PLAIN}"));
    assert_eq!(node_of(&own, "named"), "e2");
    let selected = format!("nodeSelector: {{topology.kubernetes.io/zone: east-1}}\n{PLAIN}");
    create(t, &own, "selected", &selected);
    assert_eq!(node_of(&own, "selected"), "e1");

    let to_nodes = |name: &str, rules: &[String]| {
        let spec = format!("affinity: {{nodeAffinity: {{{}}}}}\n{PLAIN}", rules.join(", "));
        create(t, &own, name, &spec);
    };
    to_nodes("west", &[region("required", "west")]);
    assert_eq!(node_of(&own, "west"), "w1");
    to_nodes("rather-west", &[region("preferred", "west")]);
    assert_eq!(node_of(&own, "rather-west"), "w1");
    // What is preferred is not required, and what is required is not outweighed.
    to_nodes("rather-north", &[region("preferred", "north")]);
    assert!(["e1", "e2", "w1"].contains(&node_of(&own, "rather-north").as_str()));
    to_nodes("east", &[region("required", "east"), region("preferred", "west")]);
    assert!(node_of(&own, "east").starts_with('e'));
    to_nodes("north", &[region("required", "north")]);
    fits_nowhere(&own, "north", &["3 node(s) didn't match Pod's node affinity/selector"]);
    own.stop();
}

const REGION: &str = "topology.kubernetes.io/region";
const HOST: &str = "kubernetes.io/hostname";

/// A rule about Pods with this label `app`, within the domains of a node label.
fn to_pods(side: &str, rule: &str, key: &str, app: &str) -> String {
    let term = format!("{{topologyKey: {key}, labelSelector: {{matchLabels: {{app: {app}}}}}}}");
    let rule = match rule {
        "required" => format!("requiredDuringSchedulingIgnoredDuringExecution: [{term}]"),
        _ => format!(
            "preferredDuringSchedulingIgnoredDuringExecution: [{{weight: 100, podAffinityTerm: {term}}}]"
        ),
    };
    format!("{side}: {{{rule}}}")
}

fn s157_pods_go_near_others_or_stay_apart(t: &Shell) {
    let own = Own::start(t, 0);
    for (name, region) in [("e1", "east"), ("e2", "east"), ("w1", "west")] {
        own.join_with(name, &[], &[(REGION, region)]);
    }
    own.ready(3);
    let ruled = |app: &str, name: &str, rules: &[String]| {
        create_as(t, &own, app, name, &format!("affinity: {{{}}}\n{PLAIN}", rules.join(", ")));
    };
    let on = |app: &str, name: &str, node: &str| {
        create_as(t, &own, app, name, &format!("nodeSelector: {{{HOST}: {node}}}\n{PLAIN}"));
        assert_eq!(node_of(&own, name), node);
    };

    // Nobody is there yet whom it wants to be near.
    ruled("none", "beside", &[to_pods("podAffinity", "required", HOST, "db")]);
    fits_nowhere(&own, "beside", &["3 node(s) didn't match pod affinity rules"]);
    on("db", "db", "e1");
    assert_eq!(node_of(&own, "beside"), "e1");

    let east = |name: &str| assert!(node_of(&own, name).starts_with('e'), "{name}");
    ruled("none", "same-region", &[to_pods("podAffinity", "required", REGION, "db")]);
    east("same-region");
    ruled("none", "elsewhere", &[to_pods("podAntiAffinity", "required", REGION, "db")]);
    assert_eq!(node_of(&own, "elsewhere"), "w1");
    let between = [
        to_pods("podAffinity", "required", REGION, "db"),
        to_pods("podAntiAffinity", "required", HOST, "db"),
    ];
    ruled("none", "between", &between);
    assert_eq!(node_of(&own, "between"), "e2");

    // What is preferred decides among nodes, and is no condition.
    ruled("none", "rather-near", &[to_pods("podAffinity", "preferred", HOST, "db")]);
    assert_eq!(node_of(&own, "rather-near"), "e1");
    ruled("none", "rather-far", &[to_pods("podAntiAffinity", "preferred", REGION, "db")]);
    assert_eq!(node_of(&own, "rather-far"), "w1");
    ruled("none", "rather-nowhere", &[to_pods("podAffinity", "preferred", HOST, "nobody")]);
    node_of(&own, "rather-nowhere");
    let against = [
        to_pods("podAffinity", "preferred", HOST, "db"),
        to_pods("podAntiAffinity", "required", REGION, "db"),
    ];
    ruled("none", "against", &against);
    assert_eq!(node_of(&own, "against"), "w1");

    // A Pod that is there keeps others off, which say nothing themselves.
    let guard = format!(
        "affinity: {{{}}}\nnodeSelector: {{{HOST}: w1}}\n{PLAIN}",
        to_pods("podAntiAffinity", "required", REGION, "noise")
    );
    create(t, &own, "guard", &guard);
    assert_eq!(node_of(&own, "guard"), "w1");
    let west = format!("nodeSelector: {{{REGION}: west}}\n{PLAIN}");
    create_as(t, &own, "noise", "noise", &west);
    let why = "1 node(s) didn't satisfy existing pods anti-affinity rules";
    fits_nowhere(&own, "noise", &[why, "2 node(s) didn't match Pod's node affinity/selector"]);
    own.ok("delete pod guard");
    assert_eq!(node_of(&own, "noise"), "w1");
    own.stop();
}

fn s157_one_pod_per_node_and_the_next_waits(t: &Shell) {
    let own = Own::start(t, 0);
    for name in ["n1", "n2", "n3"] {
        own.join(name);
    }
    own.ready(3);
    let rule = to_pods("podAntiAffinity", "required", HOST, "alone");
    t.write(
        "alone.yaml",
        &format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: alone}}\nspec:\n  replicas: 4\n  \
             selector: {{matchLabels: {{app: alone}}}}\n  template:\n    metadata: {{labels: {{app: alone}}}}\n    \
             spec:\n      affinity: {{{rule}}}\n      containers:\n      - {{name: c, image: nginx}}\n"
        ),
    );
    own.ok("create -f alone.yaml");
    let on = |nodes: &[&str], pending: usize| {
        let list = "get pods -l app=alone -o wide --no-headers";
        own.until(list, &format!("one on each of {nodes:?}, {pending} that wait"), |out| {
            let rows = rows(out);
            let of = |status: &'static str| rows.iter().filter(move |row| row[2] == status);
            let mut running: Vec<_> = of("Running").map(|row| row[6]).collect();
            running.sort_unstable();
            running == nodes && of("Pending").count() == pending
        })
    };
    let list = on(&["n1", "n2", "n3"], 1);
    let list = rows(&list);
    let waits = list.iter().find(|row| row[2] == "Pending").map_or("", |row| row[0]);
    let why = ["0/3 nodes are available", "3 node(s) didn't match pod anti-affinity rules"];
    fits_nowhere(&own, waits, &why);
    own.join("n4");
    on(&["n1", "n2", "n3", "n4"], 0);
    own.stop();
}

fn s158_taints_keep_pods_off_that_do_not_tolerate_them(t: &Shell) {
    const TAINT: &str = "node-role.kubernetes.io/control-plane";
    let own = Own::start(t, 0);
    own.join("master");
    own.join("worker");
    own.ready(2);
    own.ok(&format!("taint node master {TAINT}:NoSchedule"));
    own.ok("create deployment web --image=nginx --replicas=6");
    let list = own.until("get pods -l app=web -o wide --no-headers", "six that run", |out| {
        let rows = rows(out);
        rows.len() == 6 && rows.iter().all(|row| row[2] == "Running")
    });
    assert!(rows(&list).iter().all(|row| row[6] == "worker"), "{list}");

    let there = "nodeSelector: {kubernetes.io/hostname: master}";
    create(t, &own, "kept-off", &format!("{there}\n{PLAIN}"));
    fits_nowhere(
        &own,
        "kept-off",
        &["1 node(s) had untolerated taint", "1 node(s) didn't match Pod's node affinity/selector"],
    );
    for (name, toleration) in [
        ("that-one", format!("{{key: {TAINT}, operator: Exists, effect: NoSchedule}}")),
        ("any", "{operator: Exists}".to_owned()),
    ] {
        create(t, &own, name, &format!("tolerations: [{toleration}]\n{there}\n{PLAIN}"));
        assert_eq!(node_of(&own, name), "master");
    }

    // A node that is not ready takes none, until it is.
    t.write(
        "late.yaml",
        "apiVersion: v1\nkind: Node\nmetadata: {name: late, labels: {kubernetes.io/hostname: late}}\n",
    );
    own.ok("create -f late.yaml");
    own.until("get node late -o 'jsonpath={.spec.taints[*].key}'", "its taint", |out| {
        out.contains("node.kubernetes.io/not-ready")
    });
    create(t, &own, "dns", &format!("nodeSelector: {{kubernetes.io/hostname: late}}\n{PLAIN}"));
    fits_nowhere(&own, "dns", &["had untolerated taint"]);
    own.join("late");
    assert_eq!(node_of(&own, "dns"), "late");
    own.stop();
}

/// How many processes of this machine have a word among their arguments.
fn processes_of(word: &str) -> usize {
    let processes = std::fs::read_dir(Path::new("/proc")).into_iter().flatten().flatten();
    let commands = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    commands.filter(|line| line.split(|byte| *byte == 0).any(|it| it == word.as_bytes())).count()
}

fn s159_the_kubelet_runs_what_is_bound_to_its_node(t: &Shell) {
    t.ok("kubectl create secret generic hidden --from-literal=word=xyzzy");
    // The last argument tells its processes from all others of this machine.
    let mark = format!("mark-of-{}", t.namespace());
    let spec = |node: &str| {
        format!(
            "nodeName: {node}\nterminationGracePeriodSeconds: 1\n\
             volumes: [{{name: s, secret: {{secretName: hidden}}}}, {{name: e, emptyDir: {{}}}}]\ncontainers:\n\
             - {{name: c, image: busybox, command: [sh, -c, 'sleep 1d; :', {mark}], \
             volumeMounts: [{{name: s, mountPath: /s}}, {{name: e, mountPath: /e}}]}}"
        )
    };
    // Nobody has scheduled them: one is the node's, and the other one's node is not there.
    apply(t, "elsewhere", &spec("nowhere"));
    apply(t, "here", &spec("server3"));
    t.eventually("kubectl get pod here", "1/1");
    assert_eq!(t.ok("kubectl exec here -- sh -c 'echo x > /e/file; cat /s/word'"), "xyzzy");
    let started = "kubectl get pod elsewhere --ignore-not-found \
                   -o 'jsonpath={.status.startTime}{.status.containerStatuses}'";
    assert_eq!(t.ok(started), "");
    assert_eq!(processes_of(&mark), 1);

    let status =
        |path: &str| t.ok(&format!("kubectl get pod here -o 'jsonpath={{.status.{path}}}'"));
    assert_eq!(status("phase"), "Running");
    assert!(status("containerStatuses[0].state").contains("startedAt"));
    assert_eq!(status("podIP"), status("podIPs[0].ip"));
    let node =
        |path: &str| t.ok(&format!("kubectl get node server3 -o 'jsonpath={{.status.{path}}}'"));
    for resource in ["cpu", "memory", "pods", "ephemeral-storage"] {
        for amount in ["capacity", "allocatable"] {
            assert_ne!(node(&format!("{amount}.{resource}")), "", "{amount} of {resource}");
        }
    }
    for condition in ["MemoryPressure", "DiskPressure", "PIDPressure"] {
        assert_eq!(node(&format!("conditions[?(@.type==\"{condition}\")].status")), "False");
    }
    assert_eq!(node("conditions[?(@.type==\"Ready\")].status"), "True");
    let address = node("addresses[?(@.type==\"InternalIP\")].address");
    assert_eq!(status("hostIP"), address.split(' ').next().unwrap_or_default());
    assert_eq!(node("addresses[?(@.type==\"Hostname\")].address"), "server3");
    assert_ne!(node("nodeInfo.containerRuntimeVersion"), "");

    t.ok("kubectl delete pod here elsewhere --wait=false --ignore-not-found");
    t.until("true", "no process of the deleted Pod", |_| processes_of(&mark) == 0);
    t.until("kubectl get pod here --ignore-not-found", "no Pod", str::is_empty);
}

fn s159_containers_outlive_a_restart_of_the_kubelet(t: &Shell) {
    let own = Own::start(t, 1);
    create(t, &own, "stays", PLAIN);
    assert_eq!(node_of(&own, "stays"), "node-1");
    let identity = "get pod stays -o 'jsonpath={.status.containerStatuses[0].containerID} \
                    {.status.containerStatuses[0].restartCount} {.status.podIP}'";
    let before = own.ok(identity);
    own.kill_node("node-1");
    // What is asked for meanwhile is done later.
    create(t, &own, "waits", &format!("nodeName: node-1\n{PLAIN}"));
    own.start_node("node-1");
    assert_eq!(node_of(&own, "waits"), "node-1");
    assert_eq!(own.ok(identity), before);
    own.stop();
}

/// What the node counts of a container, in the units of `/stats/summary`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counted {
    cpu_nanoseconds: u64,
    memory_bytes: u64,
    disk_bytes: u64,
}

/// What the kubelet says of the containers of a Pod of this namespace.
fn counted(t: &Shell, pod: &str, container: &str) -> Counted {
    let summary = t.ok("kubectl get --raw /api/v1/nodes/server3/proxy/stats/summary");
    let summary: serde_json::Value = serde_json::from_str(&summary).expect("JSON");
    for part in ["cpu", "memory", "fs"] {
        assert!(summary["node"][part].is_object(), "{part} of the node: {}", summary["node"]);
    }
    let pods = summary["pods"].as_array().into_iter().flatten();
    let mut pods = pods.filter(|it| {
        (it["podRef"]["name"].as_str(), it["podRef"]["namespace"].as_str())
            == (Some(pod), Some(t.namespace()))
    });
    let containers = pods.next().and_then(|it| it["containers"].as_array());
    let found = containers.into_iter().flatten().find(|it| it["name"] == container);
    let figure =
        |part: &str, name: &str| found.and_then(|it| it[part][name].as_u64()).unwrap_or_default();
    Counted {
        cpu_nanoseconds: figure("cpu", "usageCoreNanoSeconds"),
        memory_bytes: figure("memory", "workingSetBytes"),
        disk_bytes: figure("rootfs", "usedBytes"),
    }
}

fn s165_figures_of_containers_follow_their_load(t: &Shell) {
    let worker = "while :; do if [ -e /tmp/load ]; then :; else sleep 1; fi; done";
    apply(
        t,
        "pair",
        &format!(
            "terminationGracePeriodSeconds: 1\ncontainers:\n\
             - {{name: busy, image: busybox, command: [sh, -c, '{worker}'], resources: {{limits: {{cpu: 400m}}}}}}\n\
             - {{name: idle, image: busybox, command: [sleep, 1d]}}"
        ),
    );
    t.eventually("kubectl get pod pair", "2/2");
    let begins = |container: &str| {
        let now = std::cell::Cell::new(Counted::default());
        t.until("true", "figures", |_| {
            now.set(counted(t, "pair", container));
            now.get().memory_bytes > 0
        });
        now.get()
    };
    let (busy, idle) = (begins("busy"), begins("idle"));

    t.ok("kubectl exec pair -c busy -- sh -c 'dd if=/dev/zero of=/dev/shm/m bs=1M count=40; \
          dd if=/dev/zero of=/d bs=1M count=40; touch /tmp/load' 2>/dev/null");
    let grown = |was: Counted, now: Counted| {
        now.cpu_nanoseconds > was.cpu_nanoseconds + 1_000_000_000
            && now.memory_bytes > was.memory_bytes + (30 << 20)
            && now.disk_bytes > was.disk_bytes + (30 << 20)
    };
    t.until("true", "figures that have grown", |_| grown(busy, counted(t, "pair", "busy")));
    let now = counted(t, "pair", "idle");
    assert!(now.cpu_nanoseconds < idle.cpu_nanoseconds + 500_000_000, "{idle:?} {now:?}");
    assert!(now.memory_bytes < idle.memory_bytes + (10 << 20), "{idle:?} {now:?}");
    assert!(now.disk_bytes < idle.disk_bytes + (10 << 20), "{idle:?} {now:?}");

    // The same by way of the metrics server.
    let top = "kubectl top pod pair --containers --no-headers";
    t.until(top, "a busy and an idle container", |out| {
        let cpu = |name: &str| {
            let rows = rows(out);
            let row = rows.iter().find(|row| row.get(1) == Some(&name))?;
            row.get(2)?.strip_suffix('m')?.parse::<u32>().ok()
        };
        cpu("busy").is_some_and(|cpu| cpu >= 100) && cpu("idle").is_some_and(|cpu| cpu < 50)
    });
}
