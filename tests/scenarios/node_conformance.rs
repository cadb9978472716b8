//! How containers start, are probed and end, and what looks into them: the requirements of sig-node
//! that other scenarios do not show.

use std::time::Duration;

use crate::{
    containers::run,
    harness::{Shell, apply, scenarios},
};

scenarios! {
    Both:
        init_containers_let_the_others_start_or_not,
        hooks_ask_for_pages,
        restart_policies_decide_how_a_pod_ends,
        containers_may_be_added_to_look_at_others,
        services_are_in_the_environment,
        liveness_probes_restart_what_fails_and_nothing_else,
        a_sub_path_that_failed_may_become_right,
        commands_run_over_websockets;
}

const BUSYBOX: &str = "image: busybox, imagePullPolicy: IfNotPresent";

fn of_pod(name: &str, path: &str) -> String {
    format!("kubectl get pod {name} -o 'jsonpath={{.status.{path}}}'")
}

fn number(text: &str) -> u32 {
    text.parse().unwrap_or_default()
}

// Conformance: init-container-starts-app-restartnever-pod
// Conformance: init-container-starts-app-restartalways-pod
// Conformance: init-container-fails-stops-app-restartnever-pod
// Conformance: init-container-fails-stops-app-restartalways-pod
fn init_containers_let_the_others_start_or_not(t: &Shell) {
    let spec = |policy: &str, inits: [&str; 2], app: &str| {
        format!(
            "restartPolicy: {policy}\nterminationGracePeriodSeconds: 1\ninitContainers:\n\
             - {{name: init1, {BUSYBOX}, command: [{}]}}\n- {{name: init2, {BUSYBOX}, command: [{}]}}\n\
             containers:\n- {{name: run1, {BUSYBOX}, command: [{app}]}}",
            inits[0], inits[1]
        )
    };
    let initialized = |name: &str| of_pod(name, "conditions[?(@.type==\"Initialized\")].status");
    apply(t, "never", &spec("Never", ["'true'", "'true'"], "'true'"));
    apply(t, "always", &spec("Always", ["'true'", "'true'"], "sleep, 1d"));
    apply(t, "never-fails", &spec("Never", ["'true'", "'false'"], "'true'"));
    apply(t, "always-fails", &spec("Always", ["'false'", "'true'"], "sleep, 1d"));

    t.eventually(&of_pod("never", "phase"), "Succeeded");
    t.eventually(&of_pod("always", "phase"), "Running");
    for name in ["never", "always"] {
        assert_eq!(t.ok(&initialized(name)), "True");
        let codes = t.ok(&of_pod(name, "initContainerStatuses[*].state.terminated.exitCode"));
        let ready = t.ok(&of_pod(name, "initContainerStatuses[*].ready"));
        assert_eq!((codes.as_str(), ready.as_str()), ("0 0", "true true"), "{name}");
    }

    // The second one fails once and for all.
    t.eventually(&of_pod("never-fails", "phase"), "Failed");
    assert_eq!(t.ok(&initialized("never-fails")), "False");
    let codes = of_pod("never-fails", "initContainerStatuses[*].state.terminated.exitCode");
    assert_eq!(t.ok(&codes), "0 1");
    // The first one is tried again and again, the others wait for it.
    t.until(
        &of_pod("always-fails", "initContainerStatuses[0].restartCount"),
        "3 restarts",
        |out| number(out) >= 3,
    );
    assert_eq!(t.ok(&of_pod("always-fails", "phase")), "Pending");
    assert_eq!(t.ok(&initialized("always-fails")), "False");
    let second = of_pod("always-fails", "initContainerStatuses[1].state.waiting.reason");
    assert_eq!(t.ok(&second), "PodInitializing");
    for name in ["never-fails", "always-fails"] {
        let app = t.ok(&of_pod(name, "containerStatuses[0].state.waiting.reason"));
        let started = t.ok(&of_pod(name, "containerStatuses[0].started"));
        assert_eq!((app.as_str(), started.as_str()), ("PodInitializing", "false"), "{name}");
        assert_eq!(t.ok(&of_pod(name, "containerStatuses[0].restartCount")), "0");
    }
}

/// A container that answers every request with a page, and keeps what it was asked for in `/heard`.
const WITNESS: &str = "command: [nc, -ll, -p, '8080', -e, sh, -c, \
                       'read line; while read more && [ ${#more} -gt 1 ]; do :; done; \
                       echo \"$line\" >> /heard; printf \"HTTP/1.0 200 OK\\r\\n\\r\\n\"']";

// Conformance: Pod Lifecycle, post start http hook
// Conformance: Pod Lifecycle, prestop http hook
fn hooks_ask_for_pages(t: &Shell) {
    apply(t, "witness", &format!("containers:\n- {{name: c, {BUSYBOX}, {WITNESS}}}"));
    t.eventually("kubectl get pod witness", "1/1");
    let ip = t.ok(&of_pod("witness", "podIP"));
    let ask =
        |word: &str| format!("{{httpGet: {{host: {ip}, port: 8080, path: '/echo?msg={word}'}}}}");
    apply(
        t,
        "hooked",
        &format!(
            "terminationGracePeriodSeconds: 15\ncontainers:\n- {{name: c, {BUSYBOX}, \
             command: [sh, -c, 'trap \"exit 0\" TERM; while :; do sleep 0.1; done'], \
             lifecycle: {{postStart: {}, preStop: {}}}}}",
            ask("started"),
            ask("stopping")
        ),
    );
    t.eventually("kubectl get pod hooked", "1/1");
    // It was not ready before it had been said.
    assert!(t.ok("kubectl exec witness -- cat /heard").contains("GET /echo?msg=started"));
    t.ok("kubectl delete pod hooked");
    assert!(t.ok("kubectl exec witness -- cat /heard").contains("GET /echo?msg=stopping"));
}

// Conformance: Container Runtime, Restart Policy, Pod Phases
// Conformance: Kubelet, failed pod, delete
fn restart_policies_decide_how_a_pod_ends(t: &Shell) {
    // Fails the first time, ends well the second, stays the third.
    let script = "echo x >> /v/starts; n=$(wc -l < /v/starts); if [ $n = 1 ]; then exit 1; \
                  elif [ $n = 2 ]; then exit 0; fi; sleep 1d";
    for policy in ["Always", "OnFailure", "Never"] {
        apply(
            t,
            &policy.to_lowercase(),
            &format!(
                "restartPolicy: {policy}\nterminationGracePeriodSeconds: 1\nvolumes: [{{name: v, emptyDir: {{}}}}]\n\
                 containers:\n- {{name: c, {BUSYBOX}, command: [sh, -c, '{script}'], \
                 volumeMounts: [{{name: v, mountPath: /v}}]}}"
            ),
        );
    }
    let restarts = |name: &str| of_pod(name, "containerStatuses[0].restartCount");
    let ready = |name: &str| of_pod(name, "containerStatuses[0].ready");
    t.until(&restarts("always"), "2 restarts", |out| out == "2");
    t.eventually(&ready("always"), "true");
    assert_eq!(t.ok(&of_pod("always", "phase")), "Running");
    assert!(t.ok(&of_pod("always", "containerStatuses[0].state")).contains("running"));
    for (name, phase, count) in [("onfailure", "Succeeded", "1"), ("never", "Failed", "0")] {
        t.eventually(&of_pod(name, "phase"), phase);
        assert_eq!(t.ok(&restarts(name)), count);
        assert_eq!(t.ok(&ready(name)), "false");
        assert!(t.ok(&of_pod(name, "containerStatuses[0].state")).contains("terminated"));
    }
    t.ok("kubectl delete pod never");
    assert!(t.fails("kubectl get pod never").contains("NotFound"));
}

// Conformance: Ephemeral Container Creation
// Conformance: Ephemeral Container, update ephemeral containers
fn containers_may_be_added_to_look_at_others(t: &Shell) {
    apply(t, "web", &format!("containers:\n- {{name: c, {BUSYBOX}, command: [sleep, 1d]}}"));
    t.eventually("kubectl get pod web", "1/1");
    let statuses = of_pod("web", "ephemeralContainerStatuses[?(@.state.running)].name");
    t.ok("kubectl debug web --image=busybox --image-pull-policy=IfNotPresent -c one \
          -- sh -c 'echo polo; sleep 1d'");
    t.until(&statuses, "one that runs", |out| out == "one");
    t.eventually("kubectl logs web -c one", "polo");
    let names = "kubectl get pod web -o 'jsonpath={.spec.ephemeralContainers[*].name}'";
    assert_eq!(t.ok(names), "one");

    // By an update of the subresource, once more if somebody wrote the status in between.
    let path = format!("/api/v1/namespaces/{}/pods/web", t.namespace());
    let added = serde_json::json!({
        "name": "two", "image": "busybox", "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "1d"],
    });
    t.until("true", "the update", |_| {
        let text = t.ok(&format!("kubectl get --raw {path}"));
        let mut object: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let list = object["spec"]["ephemeralContainers"].as_array_mut().expect("there is one");
        list.push(added.clone());
        t.write("web.json", &object.to_string());
        t.sh(&format!("kubectl replace --raw {path}/ephemeralcontainers -f web.json")).code == 0
    });
    assert_eq!(t.ok(names), "one two");
    t.until(&statuses, "two that run", |out| out == "one two");
}

// Conformance: Pods, service environment variables
fn services_are_in_the_environment(t: &Shell) {
    t.ok("kubectl create service clusterip fooservice --tcp=8765:8080");
    let address = t.ok("kubectl get service fooservice -o 'jsonpath={.spec.clusterIP}'");
    let spec = format!("containers:\n- {{name: c, {BUSYBOX}, command: [env]}}");
    // The node hears of Services by a watch of its own: one of the Pods comes after it.
    let expected = [
        format!("FOOSERVICE_SERVICE_HOST={address}"),
        "FOOSERVICE_SERVICE_PORT=8765".to_owned(),
        format!("FOOSERVICE_PORT=tcp://{address}:8765"),
        format!("FOOSERVICE_PORT_8765_TCP=tcp://{address}:8765"),
        "FOOSERVICE_PORT_8765_TCP_PROTO=tcp".to_owned(),
        "FOOSERVICE_PORT_8765_TCP_PORT=8765".to_owned(),
        format!("FOOSERVICE_PORT_8765_TCP_ADDR={address}"),
    ];
    let mut shown = String::new();
    for attempt in 0..20 {
        shown = run(t, &format!("client-{attempt}"), &spec);
        if shown.contains("FOOSERVICE") {
            break;
        }
    }
    for line in expected {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
}

// Conformance: Pod liveness probe, using local file, restart
// Conformance: Pod liveness probe, using local file, no restart
// Conformance: Pod liveness probe, using http endpoint, restart
// Conformance: Pod liveness probe, using http endpoint, failure
// Conformance: Pod liveness probe, using tcp socket, no restart
// Conformance: Pod liveness probe, using grpc call, failure
// Conformance: Pod readiness probe, failure
fn liveness_probes_restart_what_fails_and_nothing_else(t: &Shell) {
    let timing = "initialDelaySeconds: 1, periodSeconds: 1, timeoutSeconds: 3, failureThreshold: 2";
    // The page and the file are there at first, and go.
    let served = "mkdir /www; echo ok > /www/healthz; httpd -p 8080 -h /www";
    let cases = [
        (
            "file-stays",
            "touch /tmp/health; sleep 1d",
            "livenessProbe",
            "exec: {command: [cat, /tmp/health]}",
        ),
        (
            "file-goes",
            "touch /tmp/health; sleep 4; rm /tmp/health; sleep 1d",
            "livenessProbe",
            "exec: {command: [cat, /tmp/health]}",
        ),
        (
            "page-stays",
            &format!("{served}; sleep 1d"),
            "livenessProbe",
            "httpGet: {path: /healthz, port: 8080}",
        ),
        (
            "page-goes",
            &format!("{served}; sleep 4; rm /www/healthz; sleep 1d"),
            "livenessProbe",
            "httpGet: {path: /healthz, port: 8080}",
        ),
        ("port-stays", &format!("{served}; sleep 1d"), "livenessProbe", "tcpSocket: {port: 8080}"),
        ("grpc-fails", &format!("{served}; sleep 1d"), "livenessProbe", "grpc: {port: 2333}"),
        ("never-ready", "sleep 1d", "readinessProbe", "exec: {command: ['false']}"),
    ];
    for (name, script, kind, probe) in cases {
        apply(
            t,
            name,
            &format!(
                "terminationGracePeriodSeconds: 1\ncontainers:\n- {{name: c, {BUSYBOX}, \
                 command: [sh, -c, '{script}'], {kind}: {{{probe}, {timing}}}}}"
            ),
        );
    }
    let restarts = |name: &str| of_pod(name, "containerStatuses[0].restartCount");
    let ready = |name: &str| of_pod(name, "containerStatuses[0].ready");
    for name in ["file-goes", "page-goes", "grpc-fails"] {
        t.until(&restarts(name), "a restart", |out| number(out) >= 1);
    }
    // The others were probed as often meanwhile, and on.
    std::thread::sleep(Duration::from_secs(5));
    for name in ["file-stays", "page-stays", "port-stays"] {
        let seen = [t.ok(&restarts(name)), t.ok(&ready(name))];
        assert_eq!(seen, ["0", "true"], "{name}");
    }
    let seen = [t.ok(&restarts("never-ready")), t.ok(&ready("never-ready"))];
    assert_eq!(seen, ["0", "false"]);
    let ready = t.ok(&of_pod("never-ready", "conditions[?(@.type==\"Ready\")].status"));
    assert_eq!(ready, "False");
}

// Conformance: VolumeSubpathEnvExpansion, subpath ready from failed state
fn a_sub_path_that_failed_may_become_right(t: &Shell) {
    let env = "env: [{name: PART, valueFrom: {fieldRef: {fieldPath: \"metadata.annotations['mysubpath']\"}}}]";
    let text = crate::harness::pod(
        "later",
        &format!(
            "terminationGracePeriodSeconds: 1\nvolumes: [{{name: v, emptyDir: {{}}}}]\ncontainers:\n\
             - {{name: c, {BUSYBOX}, command: [sh, -c, 'touch /sub/file; sleep 1d'], {env}, volumeMounts: \
             [{{name: v, mountPath: /sub, subPathExpr: $(PART)}}, {{name: v, mountPath: /all}}]}}"
        ),
    );
    t.write("later.yaml", &text);
    t.ok("kubectl annotate --local -f later.yaml mysubpath=/tmp -o yaml | kubectl apply -f -");
    t.eventually("kubectl get pod later", "CreateContainerConfigError");
    assert_eq!(t.ok(&of_pod("later", "containerStatuses[0].state.running")), "");
    t.ok("kubectl annotate pod later mysubpath=mypath --overwrite");
    t.eventually("kubectl get pod later", "1/1");
    t.eventually("kubectl exec later -- ls /all/mypath", "file");
}

// Conformance: Pods, remote command execution over websocket
fn commands_run_over_websockets(t: &Shell) {
    apply(t, "shell", &format!("containers:\n- {{name: c, {BUSYBOX}, command: [sleep, 1d]}}"));
    t.eventually("kubectl get pod shell", "1/1");
    let line = "KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true kubectl -v=8 exec shell -- \
                sh -c 'echo remote execution test; echo other >&2; exit 3'";
    let done = t.sh(line);
    assert_eq!(
        (done.stdout.as_str(), done.code),
        ("remote execution test\n", 3),
        "{}",
        done.stderr
    );
    assert!(done.stderr.contains("other\n"), "{}", done.stderr);
    assert!(done.stderr.to_lowercase().contains("upgrade: websocket"), "{}", done.stderr);
}
