//! Terminals, forwarded ports and host ports: bytes between a person and a container.

use crate::harness::{Shell, apply, rows, scenarios};

scenarios! {
    Sim:
        a_second_host_port_on_another_address_fits;
    Both:
        s82_attach_reaches_the_running_process,
        s100_host_ports_lead_into_the_pod,
        exec_and_attach_work_over_spdy,
        a_port_of_a_pod_is_forwarded,
        a_port_of_a_service_is_forwarded,
        forwarding_to_a_closed_port_says_so;
    Real:
        many_forwarded_connections_leave_nothing_open,
        a_large_answer_of_a_port_arrives_whole;
}

const SLEEPER: &str =
    "containers:\n- {name: c, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, 1d]}";
const WEB: &str = "containers:\n- {name: c, image: 'myapp:v1', ports: [{containerPort: 80}]}";

fn s82_attach_reaches_the_running_process(t: &Shell) {
    apply(
        t,
        "demo",
        "containers:\n\
         - {name: myapp, image: 'myapp:v1'}\n\
         - {name: busybox, image: busyboxplus, imagePullPolicy: IfNotPresent, stdin: true, tty: true}",
    );
    t.eventually("kubectl get pod demo", "2/2");
    let typed = "(sleep 2; echo 'ip addr'; sleep 1; echo 'echo $$-is-it'; sleep 6) | \
         timeout 5 script -qec 'kubectl attach demo -c busybox -it' /dev/null; true";
    let seen = t.ok(typed);
    assert!(seen.contains("eth0"), "{seen}");
    // It was the container's own process that answered, and it has not ended.
    assert!(seen.contains("1-is-it"), "{seen}");
    let restarts = "kubectl get pod demo -o 'jsonpath={.status.containerStatuses[*].restartCount}'";
    assert_eq!(t.ok(restarts), "0 0");
}

fn exec_and_attach_work_over_spdy(t: &Shell) {
    let spdy = "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false kubectl";
    apply(
        t,
        "shell",
        "containers:\n- {name: c, image: busybox, imagePullPolicy: IfNotPresent, command: [sh], stdin: true, tty: true}",
    );
    t.eventually("kubectl get pod shell", "1/1");
    let upgraded = t.sh(&format!("{spdy} -v=8 exec shell -- hostname"));
    assert_eq!((upgraded.stdout.as_str(), upgraded.code), ("shell\n", 0), "{}", upgraded.stderr);
    assert!(upgraded.stderr.to_lowercase().contains("upgrade: spdy/3.1"), "{}", upgraded.stderr);
    let both = t.sh(&format!("{spdy} exec shell -- sh -c 'echo out; echo err >&2; exit 3'"));
    assert_eq!((both.stdout.as_str(), both.code), ("out\n", 3));
    assert!(both.stderr.starts_with("err\n"), "{}", both.stderr);
    // Nothing is lost in either direction.
    let sum = t.ok(&format!(
        "head -c 3000000 /dev/urandom > data; {spdy} exec -i shell -- sh -c 'cat' < data | cmp - data && echo same"
    ));
    assert_eq!(sum, "same\n");
    let attached = t.ok(&format!(
        "(sleep 2; echo 'echo $((6*7)); stty size'; sleep 6) | \
         timeout 5 script -qec 'stty rows 33 cols 99; {spdy} attach shell -c c -it' /dev/null; true"
    ));
    assert!(attached.contains("42") && attached.contains("33 99"), "{attached}");
}

/// A line that forwards to `target` while `then` runs, with the local port as `$port`.
fn forward(settings: &str, target: &str, then: &str) -> String {
    format!(
        "{settings} kubectl port-forward {target} > forward.log 2>&1 & pid=$!; trap 'kill $pid' EXIT; \
         for i in $(seq 100); do port=$(sed -n 's/^Forwarding from 127.0.0.1:\\([0-9]*\\) .*/\\1/p' forward.log); \
         [ -n \"$port\" ] && break; sleep 0.1; done; [ -n \"$port\" ] || {{ cat forward.log >&2; exit 1; }}; {then}"
    )
}

fn a_port_of_a_pod_is_forwarded(t: &Shell) {
    apply(t, "web", WEB);
    t.eventually("kubectl get pod web", "1/1");
    // As a WebSocket that SPDY goes through, and as plain SPDY for clients before 1.30.
    for settings in ["", "KUBECTL_PORT_FORWARD_WEBSOCKETS=false"] {
        let page = t.ok(&forward(settings, "pod/web :80", "curl -sS http://127.0.0.1:$port/"));
        assert!(page.contains("Version: v1"), "{page}");
    }
}

fn a_large_answer_of_a_port_arrives_whole(t: &Shell) {
    apply(t, "web", WEB);
    t.eventually("kubectl get pod web", "1/1");
    t.ok(
        "head -c 5000000 /dev/urandom > big && kubectl exec -i web -- sh -c 'cat > /www/big' < big",
    );
    t.ok(&forward("", "pod/web :80", "curl -sS -o got http://127.0.0.1:$port/big && cmp big got"));
}

fn a_port_of_a_service_is_forwarded(t: &Shell) {
    t.ok("kubectl create deployment web --image=myapp:v1");
    t.ok("kubectl expose deployment web --port=8080 --target-port=80");
    t.ok("kubectl rollout status deployment web --timeout=50s");
    let page = t.ok(&forward("", "service/web :8080", "curl -sS http://127.0.0.1:$port/"));
    assert!(page.contains("Version: v1"), "{page}");
}

fn forwarding_to_a_closed_port_says_so(t: &Shell) {
    apply(t, "web", WEB);
    t.eventually("kubectl get pod web", "1/1");
    let line =
        forward("", "pod/web :81", "curl -sS http://127.0.0.1:$port/; sleep 1; cat forward.log");
    let log = t.sh(&line).stdout;
    assert!(log.contains("error forwarding port 81 to pod"), "{log}");
}

fn many_forwarded_connections_leave_nothing_open(t: &Shell) {
    apply(t, "web", WEB);
    t.eventually("kubectl get pod web", "1/1");
    let open = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let line =
        forward("", "pod/web :80", "seq 60 | xargs -P 30 -I{} curl -sS http://127.0.0.1:$port/?{}");
    t.ok(&line);
    let before = open();
    let pages = t.ok(&line);
    assert_eq!(pages.matches("Version: v1").count(), 60, "{pages}");
    // Other tests of this process open and close descriptors, too: no exact number, but not 120.
    t.until("true", "as many open descriptors as before", |_| open() < before + 60);
}

fn s100_host_ports_lead_into_the_pod(t: &Shell) {
    let served = |name: &str, port: &str| {
        apply(
            t,
            name,
            &format!(
                "containers:\n- {{name: c, image: 'myapp:v1', ports: [{{containerPort: 80, {port}}}]}}"
            ),
        );
    };
    // A Pod on the node's network is where the node's addresses can be asked.
    apply(t, "node", &format!("hostNetwork: true\n{SLEEPER}"));
    served("all", "hostPort: 8091");
    served("one", "hostPort: 8092, hostIP: 127.0.0.1");
    for pod in ["node", "all", "one"] {
        t.eventually(&format!("kubectl get pod {pod}"), "1/1");
    }
    let node = t.ok("kubectl get pod all -o 'jsonpath={.status.hostIP}'");
    let ask = |address: &str, port: u16| {
        format!(
            "kubectl exec node -- sh -c 'printf \"GET / HTTP/1.0\\r\\n\\r\\n\" | nc -w 2 {address} {port}'"
        )
    };
    t.eventually(&ask(&node, 8091), "Version: v1");
    t.eventually(&ask("127.0.0.1", 8091), "Version: v1");
    t.eventually(&ask("127.0.0.1", 8092), "Version: v1");
    let other = t.sh(&ask(&node, 8092));
    assert!(!other.stdout.contains("Version") && other.code != 0, "{other:?}");

    // The port is taken, on all addresses or on the one.
    served("second", "hostPort: 8091");
    served("third", "hostPort: 8092, hostIP: 127.0.0.1");
    for pod in ["second", "third"] {
        let events = format!("kubectl get events --field-selector involvedObject.name={pod}");
        t.eventually(&events, "didn't have free ports for the requested pod ports");
        assert_eq!(rows(&t.ok(&format!("kubectl get pod {pod} --no-headers")))[0][2], "Pending");
    }
    // It is free again when its Pod is gone.
    t.ok("kubectl delete pod all --grace-period=1");
    t.eventually("kubectl get pod second", "1/1");
    t.eventually(&ask(&node, 8091), "Version: v1");

    let unequal = "hostNetwork: true\ncontainers:\n- {name: c, image: busybox, ports: [{containerPort: 80, hostPort: 81}]}";
    t.write("unequal.yaml", &crate::harness::pod("unequal", unequal));
    let refused = t.fails("kubectl apply -f unequal.yaml");
    assert!(refused.contains("must match `hostPort` when `hostNetwork` is true"), "{refused}");
}

fn a_second_host_port_on_another_address_fits(t: &Shell) {
    let node = t.ok("kubectl get nodes -o 'jsonpath={.items[0].metadata.name}'");
    for (name, address) in [("one", "127.0.0.1"), ("two", "127.0.0.2")] {
        apply(
            t,
            name,
            &format!(
                "nodeSelector: {{kubernetes.io/hostname: {node}}}\n\
                 containers:\n- {{name: c, image: nginx, ports: [{{containerPort: 80, hostPort: 8090, hostIP: {address}}}]}}"
            ),
        );
        t.eventually(&format!("kubectl get pod {name}"), "Running");
    }
}
