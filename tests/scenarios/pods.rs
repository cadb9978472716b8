//! Section E of the scenarios: Pods and their life.

use crate::harness::{Shell, apply, pod, rows, scenarios};

scenarios! {
    Simulated:
        s102_a_node_selector_waits_for_its_label,
        s108_every_pod_has_its_own_address,
        s110_a_readiness_gate_holds_back_ready,
        insufficient_resources_keep_a_pod_pending,
        a_host_port_is_taken_once_per_node;
    Both:
        s99_the_documents_first_pod_runs,
        s101_host_network_shows_the_nodes_interfaces,
        s103_limits_are_enforced,
        s104_a_shell_with_a_terminal_keeps_running,
        s105_image_policies_and_missing_images,
        s106_three_containers_share_an_address,
        s107_containers_of_a_pod_share_some_namespaces,
        s109_phases_and_conditions,
        s111_restart_policies,
        s114_init_containers_run_in_order,
        s115_a_secret_only_the_init_container_sees,
        s116_environment_from_a_config_map,
        s123_a_pods_volume_outlives_its_containers,
        host_port_is_answered_by_the_pod,
        a_service_address_reaches_its_pods;
}

fn s99_the_documents_first_pod_runs(t: &Shell) {
    t.manifest("02-pod-demo.yaml");
    t.ok("kubectl apply -f 02-pod-demo.yaml");
    t.eventually("kubectl get pod demo", "2/2");
    let row = t.eventually("kubectl get pod demo -o wide --no-headers", "Running");
    assert_eq!(rows(&row)[0][6], "server3");
    let node = t.ok("kubectl describe node server3");
    let counted = node.lines().any(|line| {
        line.contains(t.namespace()) && line.contains("500m") && line.contains("100Mi")
    });
    assert!(counted, "{node}");
    let id = t.ok("kubectl get pod demo -o 'jsonpath={.status.containerStatuses[?(@.name==\"myapp\")].containerID}'");
    assert!(id.contains("://"), "{id}");
    // As the kernel has it, on the node: cgroup version 1 or 2.
    let limits = t.ok(&format!(
        "find /sys/fs/cgroup -path '*{}*' \\( -name memory.limit_in_bytes -o -name memory.max \\) \
         -exec cat {{}} +",
        id.rsplit('/').next().unwrap_or_default()
    ));
    assert!(limits.lines().any(|line| line == (200 * 1024 * 1024).to_string()), "{limits}");
    // Its port 80 is the node's: a second one does not fit.
    t.write("second.yaml", &t.ok("sed 's/name: demo/name: second/' 02-pod-demo.yaml"));
    t.ok("kubectl apply -f second.yaml");
    t.eventually("kubectl get events", "didn't have free ports for the requested pod ports");
    t.ok("kubectl delete pod demo second --grace-period=1");
}

fn s101_host_network_shows_the_nodes_interfaces(t: &Shell) {
    apply(
        t,
        "host",
        "hostNetwork: true\ncontainers:\n- {name: c, image: busybox, command: [sleep, 1d]}",
    );
    t.eventually("kubectl get pod host", "Running");
    let ips = t.ok("kubectl get pod host -o 'jsonpath={.status.podIP} {.status.hostIP}'");
    let (pod, host) = ips.split_once(' ').expect("two addresses");
    assert_eq!(pod, host);
    let interfaces = t.ok("kubectl exec host -- ip addr");
    assert!(interfaces.contains(host), "{interfaces}");
    apply(t, "own", "containers:\n- {name: c, image: busybox, command: [sleep, 1d]}");
    t.eventually("kubectl get pod own", "Running");
    let own = t.ok("kubectl exec own -- ip addr");
    assert!(own.contains("eth0") && !own.contains(&format!("{host}/")), "{own}");
}

fn s102_a_node_selector_waits_for_its_label(t: &Shell) {
    let label = t.namespace().to_owned();
    apply(
        t,
        "picky",
        &format!("nodeSelector: {{{label}: 'yes'}}\ncontainers:\n- {{name: c, image: nginx}}"),
    );
    t.eventually("kubectl get events", "node(s) didn't match Pod's node affinity/selector");
    assert!(t.ok("kubectl get pod picky").contains("Pending"));
    let node = t.ok("kubectl get nodes -o 'jsonpath={.items[1].metadata.name}'");
    t.ok(&format!("kubectl label node {node} {label}=yes"));
    t.eventually("kubectl get pod picky", "Running");
    assert_eq!(t.ok("kubectl get pod picky -o 'jsonpath={.spec.nodeName}'"), node);
    apply(
        t,
        "named",
        &format!(
            "nodeSelector: {{kubernetes.io/hostname: {node}}}\ncontainers:\n- {{name: c, image: nginx}}"
        ),
    );
    t.eventually("kubectl get pod named", "Running");
    assert_eq!(t.ok("kubectl get pod named -o 'jsonpath={.spec.nodeName}'"), node);
    t.ok(&format!("kubectl label node {node} {label}-"));
}

fn insufficient_resources_keep_a_pod_pending(t: &Shell) {
    apply(t, "cpu", "containers:\n- {name: c, image: nginx, resources: {requests: {cpu: 9000}}}");
    apply(
        t,
        "memory",
        "containers:\n- {name: c, image: nginx, resources: {requests: {memory: 900Ti}}}",
    );
    t.eventually("kubectl get events", "Insufficient cpu");
    t.eventually("kubectl get events", "Insufficient memory");
    assert!(t.ok("kubectl get pods").matches("Pending").count() == 2);
    let message = t.ok("kubectl get pod cpu -o 'jsonpath={.status.conditions[0].message}'");
    assert!(message.contains("nodes are available"), "{message}");
}

fn s103_limits_are_enforced(t: &Shell) {
    apply(
        t,
        "huge",
        "containers:\n- {name: c, image: busybox, resources: {requests: {cpu: 9000}}}",
    );
    t.eventually("kubectl get events", "Insufficient cpu");
    t.write("wrong.yaml", &pod("wrong",
        "containers:\n- {name: c, image: busybox, resources: {requests: {cpu: 2}, limits: {cpu: 1}}}"));
    let refused = t.fails("kubectl apply -f wrong.yaml");
    assert!(refused.contains("must be less than or equal to cpu limit"), "{refused}");
    apply(
        t,
        "eater",
        "restartPolicy: Never\ncontainers:\n- name: c\n  image: busybox\n  \
         command: [sh, -c, 'x=a; while true; do x=$x$x$x; done']\n  resources: {limits: {memory: 20Mi}}",
    );
    t.eventually("kubectl get pod eater", "OOMKilled");
    apply(
        t,
        "throttled",
        "containers:\n- name: c\n  image: busybox\n  command: [sh, -c, 'while true; do :; done']\n  \
         resources: {limits: {cpu: 100m}}",
    );
    t.eventually("kubectl get pod throttled", "Running");
    let id = "kubectl get pod throttled -o 'jsonpath={.status.containerStatuses[0].containerID}'";
    let id = t.ok(id);
    let id = id.rsplit('/').next().unwrap_or_default();
    let throttled = format!("find /sys/fs/cgroup -path '*{id}*' -name cpu.stat -exec cat {{}} +");
    t.until(&throttled, "throttled periods", |out| {
        rows(out).iter().any(|row| row[0] == "nr_throttled" && row[1] != "0")
    });
    t.ok("kubectl delete pod throttled --grace-period=1");
}

fn s104_a_shell_with_a_terminal_keeps_running(t: &Shell) {
    apply(
        t,
        "shell",
        "containers:\n- {name: c, image: busybox, command: [sh], stdin: true, tty: true}",
    );
    apply(t, "none", "containers:\n- {name: c, image: busybox, command: [sh]}");
    t.eventually("kubectl get pod shell", "Running");
    let attached = t.ok("(sleep 2; echo 'echo $((6*7))'; sleep 8) | \
         timeout 5 script -qec 'kubectl attach shell -c c -it' /dev/null; true");
    assert!(attached.contains("42"), "{attached}");
    assert_eq!(
        t.ok("kubectl get pod shell -o 'jsonpath={.status.containerStatuses[0].restartCount}'"),
        "0"
    );
    t.until(
        "kubectl get pod none -o 'jsonpath={.status.containerStatuses[0].restartCount}'",
        "a restart",
        |count| count.parse::<u32>().is_ok_and(|count| count >= 1),
    );
}

fn s105_image_policies_and_missing_images(t: &Shell) {
    apply(t, "local", "containers:\n- {name: c, image: 'myapp:v1', imagePullPolicy: IfNotPresent}");
    t.eventually("kubectl get pod local", "Running");
    t.eventually("kubectl get events", "already present on machine");
    let policy = |name: &str| {
        t.ok(&format!(
            "kubectl get pod {name} -o 'jsonpath={{.spec.containers[0].imagePullPolicy}}'"
        ))
    };
    apply(t, "latest", "containers:\n- {name: c, image: missing}");
    apply(t, "tagged", "containers:\n- {name: c, image: 'missing:v1'}");
    assert_eq!((policy("latest").as_str(), policy("tagged").as_str()), ("Always", "IfNotPresent"));
    t.eventually("kubectl get pod latest", "ErrImagePull");
    t.eventually("kubectl get pod latest", "ImagePullBackOff");
    t.eventually("kubectl get events", "Back-off pulling image");
}

fn s106_three_containers_share_an_address(t: &Shell) {
    t.manifest("54-pod-three-containers.yaml");
    t.ok("sed -i 's/\\(image: .*\\)/\\1\\n    imagePullPolicy: IfNotPresent/' 54-pod-three-containers.yaml");
    t.ok("kubectl apply -f 54-pod-three-containers.yaml");
    t.eventually("kubectl get pod test", "3/3");
    for port in [80, 6379, 11211] {
        t.ok(&format!(
            "kubectl exec test -c nginx -- sh -c 'nc -w 2 127.0.0.1 {port} < /dev/null'"
        ));
    }
}

fn s107_containers_of_a_pod_share_some_namespaces(t: &Shell) {
    apply(
        t,
        "two",
        "containers:\n- {name: a, image: busybox, command: [sh, -c, 'echo a > /only-a; sleep 1d']}\n\
         - {name: b, image: busybox, command: [sleep, 1d]}",
    );
    t.eventually("kubectl get pod two", "2/2");
    let inside = |container: &str, command: &str| {
        t.ok(&format!("kubectl exec two -c {container} -- {command}"))
    };
    assert_eq!(inside("a", "hostname"), "two\n");
    assert_eq!(inside("b", "hostname"), "two\n");
    for namespace in ["net", "ipc", "uts"] {
        let link = format!("readlink /proc/self/ns/{namespace}");
        assert_eq!(inside("a", &link), inside("b", &link));
    }
    for namespace in ["mnt", "pid"] {
        let link = format!("readlink /proc/self/ns/{namespace}");
        assert_ne!(inside("a", &link), inside("b", &link));
    }
    assert!(!inside("b", "ls /").contains("only-a"));
    t.ok("kubectl exec two -c a -- sh -c 'nc -ll -p 7000 -e echo hello >/dev/null 2>&1 &'");
    t.until("kubectl exec two -c b -- nc -w 2 127.0.0.1 7000", "an answer over lo", |out| {
        out.contains("hello")
    });
    assert_ne!(t.sh("kubectl exec two -c b -- nc -l -p 7000").code, 0, "the port is taken");

    let address = t.ok("kubectl get pod two -o 'jsonpath={.status.podIP}'");
    t.sh("kubectl exec two -c a -- kill 1; kubectl exec two -c a -- kill -9 1");
    t.ok("kubectl exec two -c b -- true");
    assert_eq!(t.ok("kubectl get pod two -o 'jsonpath={.status.podIP}'"), address);
}

fn s108_every_pod_has_its_own_address(t: &Shell) {
    t.ok("kubectl create deployment many --image=nginx --replicas=12");
    t.ok("kubectl rollout status deployment many --timeout=50s");
    let addresses = t.ok("kubectl get pods -o 'jsonpath={.items[*].status.podIP}'");
    let mut addresses: Vec<_> = addresses.split_whitespace().collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 12, "{addresses:?}");
    let nodes = t.ok("kubectl get pods -o 'jsonpath={.items[*].spec.nodeName}'");
    let mut nodes: Vec<_> = nodes.split_whitespace().collect();
    nodes.sort_unstable();
    nodes.dedup();
    assert!(nodes.len() > 1, "{nodes:?}");
}

fn s109_phases_and_conditions(t: &Shell) {
    apply(
        t,
        "good",
        "restartPolicy: Never\ncontainers:\n- {name: c, image: busybox, command: [sleep, '2']}",
    );
    apply(
        t,
        "bad",
        "restartPolicy: Never\ncontainers:\n- {name: c, image: busybox, command: ['false']}",
    );
    let phase = |name: &str| format!("kubectl get pod {name} -o 'jsonpath={{.status.phase}}'");
    t.eventually(&phase("good"), "Running");
    let conditions = t.ok("kubectl get pod good -o \
         'jsonpath={range .status.conditions[*]}{.type}={.status}/{.lastTransitionTime} {end}'");
    for condition in
        ["PodScheduled=True/2", "Initialized=True/2", "ContainersReady=True/2", "Ready=True/2"]
    {
        assert!(conditions.contains(condition), "{condition} in {conditions}");
    }
    t.eventually(&phase("good"), "Succeeded");
    t.eventually(&phase("bad"), "Failed");
    let node = t.ok("kubectl get pod good -o 'jsonpath={.spec.nodeName}'");
    let moved = t.fails("kubectl patch pod good -p '{\"spec\":{\"nodeName\":\"elsewhere\"}}'");
    assert!(moved.contains("pod updates may not change fields"), "{moved}");
    assert_eq!(t.ok("kubectl get pod good -o 'jsonpath={.spec.nodeName}'"), node);
}

fn s110_a_readiness_gate_holds_back_ready(t: &Shell) {
    apply(
        t,
        "gated",
        "readinessGates: [{conditionType: example.com/checked}]\ncontainers:\n- {name: c, image: nginx}",
    );
    let condition = |kind: &str| {
        format!(
            "kubectl get pod gated -o 'jsonpath={{.status.conditions[?(@.type==\"{kind}\")].status}}'"
        )
    };
    t.eventually(&condition("ContainersReady"), "True");
    assert_eq!(t.ok(&condition("Ready")), "False");
    t.ok("kubectl patch pod gated --subresource=status -p \
         '{\"status\":{\"conditions\":[{\"type\":\"example.com/checked\",\"status\":\"True\"}]}}'");
    t.eventually(&condition("Ready"), "True");
}

fn s111_restart_policies(t: &Shell) {
    for policy in ["Always", "OnFailure", "Never"] {
        for code in [0, 1] {
            let name = format!("{}-{code}", policy.to_lowercase());
            apply(
                t,
                &name,
                &format!(
                    "restartPolicy: {policy}\ncontainers:\n- {{name: c, image: busybox, command: [sh, -c, 'exit {code}']}}"
                ),
            );
        }
    }
    let status = |name: &str| format!("kubectl get pod {name} --no-headers");
    t.eventually(&status("never-0"), "Completed");
    t.eventually(&status("never-1"), "Error");
    t.eventually(&status("onfailure-0"), "Completed");
    for name in ["always-0", "always-1", "onfailure-1"] {
        t.eventually(&status(name), "CrashLoopBackOff");
        t.until(&status(name), "a restart", |out| {
            rows(out).first().is_some_and(|row| row[3].parse::<u32>().is_ok_and(|n| n >= 1))
        });
    }
    apply(t, "default", "containers:\n- {name: c, image: busybox, command: [sleep, 1d]}");
    assert_eq!(t.ok("kubectl get pod default -o 'jsonpath={.spec.restartPolicy}'"), "Always");
    for name in ["never-0", "never-1", "onfailure-0"] {
        assert_eq!(rows(&t.ok(&status(name)))[0][3], "0");
    }
}

fn s114_init_containers_run_in_order(t: &Shell) {
    apply(
        t,
        "steps",
        "volumes: [{name: v, emptyDir: {}}]\ninitContainers:\n\
         - {name: one, image: busybox, command: [sh, -c, 'sleep 1; echo one >> /v/log'], volumeMounts: [{name: v, mountPath: /v}]}\n\
         - {name: two, image: busybox, command: [sh, -c, 'echo two >> /v/log'], volumeMounts: [{name: v, mountPath: /v}]}\n\
         containers:\n\
         - {name: app, image: busybox, command: [sh, -c, 'cat /v/log; sleep 1d'], volumeMounts: [{name: v, mountPath: /v}]}",
    );
    t.eventually("kubectl get pod steps", "1/1");
    assert_eq!(t.ok("kubectl logs steps -c app"), "one\ntwo\n");
    apply(
        t,
        "retried",
        "initContainers:\n- {name: i, image: busybox, command: ['false']}\ncontainers:\n- {name: c, image: busybox}",
    );
    t.eventually("kubectl get pod retried", "Init:CrashLoopBackOff");
    apply(
        t,
        "failed",
        "restartPolicy: Never\ninitContainers:\n- {name: i, image: busybox, command: ['false']}\n\
         containers:\n- {name: c, image: busybox}",
    );
    t.eventually("kubectl get pod failed", "Init:Error");
    assert_eq!(t.ok("kubectl get pod failed -o 'jsonpath={.status.phase}'"), "Failed");
    t.write("probed.yaml", &pod("probed",
        "initContainers:\n- {name: i, image: busybox, readinessProbe: {exec: {command: ['true']}}}\n\
         containers:\n- {name: c, image: busybox}"));
    let refused = t.fails("kubectl apply -f probed.yaml");
    assert!(refused.contains("spec.initContainers[0].readinessProbe: Forbidden"), "{refused}");
}

fn s115_a_secret_only_the_init_container_sees(t: &Shell) {
    t.ok("kubectl create secret generic s --from-literal=key=hidden");
    apply(
        t,
        "shy",
        "volumes: [{name: v, secret: {secretName: s}}]\ninitContainers:\n\
         - {name: i, image: busybox, command: [sh, -c, 'cat /s/key; sleep 1'], volumeMounts: [{name: v, mountPath: /s}]}\n\
         containers:\n- {name: c, image: busybox, command: [sleep, 1d]}",
    );
    t.eventually("kubectl get pod shy", "1/1");
    assert_eq!(t.ok("kubectl logs shy -c i"), "hidden");
    t.fails("kubectl exec shy -- ls /s");
}

fn s116_environment_from_a_config_map(t: &Shell) {
    t.manifest("50-pod-webserver-env.yaml");
    t.manifest("51-configmap-test-cm.yaml");
    t.ok(
        "sed -i 's/mkdir -p test/mkdir -p test; pwd; ls; env; sleep 1/' 50-pod-webserver-env.yaml",
    );
    t.ok("sed -i 's/image: busybox:latest/image: busybox:latest\\n    imagePullPolicy: IfNotPresent/' 50-pod-webserver-env.yaml");
    t.ok("kubectl apply -f 50-pod-webserver-env.yaml");
    t.eventually("kubectl get pod webserver", "CreateContainerConfigError");
    t.ok("kubectl apply -f 51-configmap-test-cm.yaml");
    t.eventually("kubectl get pod webserver", "1/1");
    let log = t.ok("kubectl logs webserver -c init-dir");
    for text in ["/tmp\n", "test\n", "MY_ENV=123456", "ANOTHER_ENV=abcdef"] {
        assert!(log.contains(text), "{text} in {log}");
    }
}

fn s123_a_pods_volume_outlives_its_containers(t: &Shell) {
    apply(
        t,
        "keeper",
        "volumes: [{name: v, emptyDir: {}}]\ncontainers:\n\
         - {name: c, image: busybox, command: [sh, -c, 'echo run >> /v/log; cat /v/log; sleep 3'], \
         volumeMounts: [{name: v, mountPath: /v}]}",
    );
    t.until("kubectl logs keeper", "two runs", |out| out.matches("run").count() >= 2);
    t.ok("kubectl delete pod keeper --grace-period=1");
    t.ok("kubectl apply -f keeper.yaml");
    t.until("kubectl logs keeper", "one run", |out| out.matches("run").count() == 1);
}

fn a_host_port_is_taken_once_per_node(t: &Shell) {
    let spec = "nodeSelector: {kubernetes.io/hostname: NODE}\ncontainers:\n- {name: c, image: nginx, ports: [{containerPort: 80, hostPort: 8099}]}";
    let node = t.ok("kubectl get nodes -o 'jsonpath={.items[2].metadata.name}'");
    apply(t, "one", &spec.replace("NODE", &node));
    t.eventually("kubectl get pod one", "Running");
    apply(t, "two", &spec.replace("NODE", &node));
    t.eventually("kubectl get events", "didn't have free ports for the requested pod ports");
    t.write("host.yaml", &pod("host",
        "hostNetwork: true\ncontainers:\n- {name: c, image: nginx, ports: [{containerPort: 80, hostPort: 81}]}"));
    let refused = t.fails("kubectl apply -f host.yaml");
    assert!(refused.contains("must match `hostPort` when `hostNetwork` is true"), "{refused}");
}

fn host_port_is_answered_by_the_pod(t: &Shell) {
    apply(
        t,
        "served",
        "containers:\n- {name: c, image: 'myapp:v1', ports: [{containerPort: 80, hostPort: 8098}]}",
    );
    apply(
        t,
        "client",
        "hostNetwork: true\ncontainers:\n- {name: c, image: busybox, command: [sleep, 1d]}",
    );
    t.eventually("kubectl get pod served", "1/1");
    t.eventually("kubectl get pod client", "1/1");
    let node = t.ok("kubectl get pod served -o 'jsonpath={.status.hostIP}'");
    let pod = t.ok("kubectl get pod served -o 'jsonpath={.status.podIP}'");
    t.eventually(
        &format!(
            "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | kubectl exec -i client -- nc -w 3 {pod} 80"
        ),
        "Version: v1",
    );
    t.eventually(
        &format!(
            "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | kubectl exec -i client -- nc -w 3 {node} 8098"
        ),
        "Version: v1",
    );
}

fn a_service_address_reaches_its_pods(t: &Shell) {
    t.ok("kubectl create deployment web --image=myapp:v1 --replicas=2");
    t.ok("kubectl expose deployment web --port=80");
    apply(
        t,
        "client",
        "containers:\n- {name: c, image: busybox, command: [sleep, 1d], imagePullPolicy: IfNotPresent}",
    );
    t.ok("kubectl rollout status deployment web --timeout=50s");
    t.eventually("kubectl get pod client", "1/1");
    let address = t.ok("kubectl get service web -o 'jsonpath={.spec.clusterIP}'");
    t.eventually(
        &format!(
            "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | kubectl exec -i client -- nc -w 3 {address} 80"
        ),
        "Version: v1",
    );
}
