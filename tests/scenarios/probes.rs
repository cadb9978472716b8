//! Probes, init containers that wait, and what becomes of Pods that are taken away.

use std::time::Duration;

use rk::{
    Cluster,
    cri::{SimRuntime, agent::Agent},
};
use tokio_util::sync::CancellationToken;

use crate::harness::{Shell, apply, rows, scenarios};

scenarios! {
    Sim:
        s122_a_bare_pod_does_not_come_back,
        s122_a_controllers_pod_moves_off_a_lost_node;
    Both:
        s105_a_missing_image_is_tried_with_growing_pauses,
        s112_an_init_container_keeps_the_others_waiting,
        s117_a_tcp_liveness_probe_restarts_the_container,
        s118_an_http_readiness_probe_moves_the_pod_in_and_out_of_endpoints,
        s119_a_startup_probe_holds_back_the_others,
        s120_what_counts_as_success,
        s121_what_holds_without_probes_and_before_the_first;
}

fn restarts(pod: &str) -> String {
    format!("kubectl get pod {pod} -o 'jsonpath={{.status.containerStatuses[0].restartCount}}'")
}

fn s105_a_missing_image_is_tried_with_growing_pauses(t: &Shell) {
    apply(t, "absent", "containers:\n- {name: c, image: 'nowhere/app:v9'}");
    t.eventually("kubectl get pod absent", "ErrImagePull");
    t.eventually("kubectl get pod absent", "ImagePullBackOff");
    let pulls = "kubectl get events --field-selector involvedObject.name=absent,reason=Pulling \
         -o 'jsonpath={range .items[*]}{.count} {end}'";
    // After 10 s, then 20 s: the third try comes about half a minute after the first.
    t.until(pulls, "three tries", |out| {
        out.split_whitespace().filter_map(|n| n.parse::<u32>().ok()).sum::<u32>() >= 3
    });
    let message = t.ok(
        "kubectl get pod absent -o 'jsonpath={.status.containerStatuses[0].state.waiting.message}'",
    );
    assert!(message.contains("nowhere/app:v9"), "{message}");
    apply(t, "never", "containers:\n- {name: c, image: 'nowhere/app:v9', imagePullPolicy: Never}");
    t.eventually("kubectl get pod never", "ErrImageNeverPull");
}

fn s112_an_init_container_keeps_the_others_waiting(t: &Shell) {
    t.manifest("03-pod-init-container.yaml");
    t.ok("sed -i 's/image: busybox/image: busybox\\n    imagePullPolicy: IfNotPresent/' 03-pod-init-container.yaml");
    t.ok("kubectl apply -f 03-pod-init-container.yaml");
    t.eventually("kubectl get pod nginx", "Init:0/1");
    t.eventually("kubectl logs nginx -c init-container", "waiting for myservice");
    let state = "kubectl get pod nginx -o 'jsonpath={.status.containerStatuses[0].state.waiting.reason} \
         {.status.conditions[?(@.type==\"Initialized\")].status} {.status.phase}'";
    assert_eq!(t.ok(state), "PodInitializing False Pending");
    let early = t.fails("kubectl logs nginx -c nginx");
    assert!(early.contains("is waiting to start: PodInitializing"), "{early}");
    t.ok("kubectl delete pod nginx --grace-period=1");
}

fn s117_a_tcp_liveness_probe_restarts_the_container(t: &Shell) {
    apply(
        t,
        "live",
        "containers:\n- name: c\n  image: 'myapp:v1'\n  \
         command: [sh, -c, 'httpd -f -h /www & echo $! > /pid; while true; do sleep 1; done']\n  \
         livenessProbe: {tcpSocket: {port: 80}, initialDelaySeconds: 2, periodSeconds: 3, timeoutSeconds: 1, \
         terminationGracePeriodSeconds: 1}",
    );
    t.eventually("kubectl get pod live", "1/1");
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(t.ok(&restarts("live")), "0");
    t.ok("kubectl exec live -- sh -c 'kill $(cat /pid)'");
    t.eventually(&restarts("live"), "1");
    let events = t.ok("kubectl get events --field-selector involvedObject.name=live");
    assert!(
        events.contains("Unhealthy") && events.contains("Liveness probe failed: dial tcp"),
        "{events}"
    );
    assert!(events.contains("failed liveness probe, will be restarted"), "{events}");
    t.eventually("kubectl get pod live", "1/1");
}

fn s118_an_http_readiness_probe_moves_the_pod_in_and_out_of_endpoints(t: &Shell) {
    t.manifest("05-pod-liveness-http.yaml");
    t.manifest("06-service-myservice-liveness.yaml");
    t.ok("kubectl apply -f 05-pod-liveness-http.yaml -f 06-service-myservice-liveness.yaml");
    apply(
        t,
        "client",
        "containers:\n- {name: c, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, 1d]}",
    );
    t.eventually("kubectl get pod client", "1/1");
    let row = t.eventually("kubectl get pod liveness-http --no-headers", "Running");
    assert_eq!(rows(&row)[0][1], "0/1");
    let ready = "kubectl get endpoints myservice -o 'jsonpath={.subsets[*].addresses[*].ip}'";
    assert_eq!(t.ok(ready), "");
    let service = t.ok("kubectl get service myservice -o 'jsonpath={.spec.clusterIP}'");
    let ask = format!(
        "kubectl exec client -- sh -c 'printf \"GET /test.html HTTP/1.0\\r\\n\\r\\n\" | nc -w 2 {service} 80'"
    );
    assert_ne!(t.sh(&ask).code, 0, "no traffic before it is ready");

    t.ok("kubectl exec liveness-http -- sh -c 'echo made > /www/test.html'");
    t.eventually("kubectl get pod liveness-http", "1/1");
    let address = t.ok("kubectl get pod liveness-http -o 'jsonpath={.status.podIP}'");
    t.eventually(ready, &address);
    t.eventually(&ask, "made");

    t.ok("kubectl exec liveness-http -- rm /www/test.html");
    t.eventually("kubectl get pod liveness-http", "0/1");
    t.until(ready, "no ready address", str::is_empty);
    assert_eq!(t.ok(&restarts("liveness-http")), "0");
    t.eventually(
        "kubectl get events",
        "Readiness probe failed: HTTP probe failed with statuscode: 404",
    );
}

fn s119_a_startup_probe_holds_back_the_others(t: &Shell) {
    let pod = |name: &str, threshold: u32, policy: &str| {
        apply(
            t,
            name,
            &format!(
                "restartPolicy: {policy}\nterminationGracePeriodSeconds: 1\ncontainers:\n- name: c\n  image: busybox\n  \
                 imagePullPolicy: IfNotPresent\n  command: [sleep, 1d]\n  \
                 startupProbe: {{exec: {{command: [test, -f, /started]}}, periodSeconds: 1, failureThreshold: {threshold}}}\n  \
                 livenessProbe: {{exec: {{command: [test, -f, /alive]}}, periodSeconds: 1, failureThreshold: 1}}\n  \
                 readinessProbe: {{exec: {{command: ['true']}}, periodSeconds: 1}}"
            ),
        );
    };
    pod("slow", 60, "Always");
    t.eventually("kubectl get pod slow", "Running");
    std::thread::sleep(Duration::from_secs(4));
    let status = "kubectl get pod slow -o 'jsonpath={.status.containerStatuses[0].started} \
         {.status.containerStatuses[0].ready} {.status.containerStatuses[0].restartCount}'";
    assert_eq!(t.ok(status), "false false 0");
    t.ok("kubectl exec slow -- touch /alive /started");
    t.eventually(status, "true true 0");
    t.ok("kubectl exec slow -- rm /alive");
    t.eventually(&restarts("slow"), "1");

    pod("given-up", 2, "Always");
    t.eventually(&restarts("given-up"), "1");
    pod("given-up-for-good", 2, "Never");
    t.eventually("kubectl get pod given-up-for-good -o 'jsonpath={.status.phase}'", "Failed");
    assert_eq!(t.ok(&restarts("given-up-for-good")), "0");
    t.eventually("kubectl get events", "failed startup probe, will be restarted");
}

/// A web server that answers `/CODE` with that code; `/ask` only to a certain header, `/moved` with
/// a redirect to `/200`, `/lost` with one to `/500`.
const SERVER: &str = r#"
read method path rest
asked=no
while read line; do
  line=$(echo "$line" | tr -d '\r')
  case "$line" in [Xx]-[Aa]sk:*yes) asked=yes;; '') break;; esac
done
code=${path#/}; more=
case "$path" in
  /ask) code=403; [ $asked = yes ] && code=200;;
  /moved) code=302; more='Location: /200\r\n';;
  /lost) code=302; more='Location: /500\r\n';;
esac
printf "HTTP/1.1 $code X\r\n${more}Content-Length: 0\r\nConnection: close\r\n\r\n"
"#;

fn s120_what_counts_as_success(t: &Shell) {
    t.write("server.sh", SERVER);
    t.ok("kubectl create configmap server --from-file=server.sh");
    let cases = [
        ("exec-0", "exec: {command: ['true']}", true),
        ("exec-1", "exec: {command: ['false']}", false),
        ("exec-missing", "exec: {command: [no-such-program]}", false),
        ("tcp-open", "tcpSocket: {port: 8080}", true),
        ("tcp-closed", "tcpSocket: {port: 8081}", false),
        ("http-200", "httpGet: {path: /200, port: 8080}", true),
        ("http-399", "httpGet: {path: /399, port: 8080}", true),
        ("http-400", "httpGet: {path: /400, port: 8080}", false),
        ("http-500", "httpGet: {path: /500, port: 8080}", false),
        ("http-199", "httpGet: {path: /199, port: 8080}", false),
        (
            "http-header",
            "httpGet: {path: /ask, port: 8080, httpHeaders: [{name: X-Ask, value: 'yes'}]}",
            true,
        ),
        ("http-no-header", "httpGet: {path: /ask, port: 8080}", false),
        ("http-moved", "httpGet: {path: /moved, port: 8080}", true),
        ("http-lost", "httpGet: {path: /lost, port: 8080}", false),
        ("https-plain", "httpGet: {scheme: HTTPS, path: /200, port: 8080}", false),
        ("grpc-none", "grpc: {port: 8080}", false),
    ];
    let mut spec = String::from(
        "volumes: [{name: v, configMap: {name: server}}]\nterminationGracePeriodSeconds: 1\ncontainers:\n\
         - {name: server, image: busybox, imagePullPolicy: IfNotPresent, volumeMounts: [{name: v, mountPath: /v}], \
         command: [nc, -ll, -p, '8080', -e, sh, /v/server.sh]}\n",
    );
    for (name, probe, _) in cases {
        spec += &format!(
            "- {{name: {name}, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, 1d], \
             readinessProbe: {{{probe}, periodSeconds: 1, timeoutSeconds: 2}}}}\n"
        );
    }
    apply(t, "all", &spec);
    let ready = "kubectl get pod all -o 'jsonpath={range .status.containerStatuses[?(@.ready==true)]}{.name} {end}'";
    let good: Vec<_> = cases.iter().filter(|case| case.2).map(|case| case.0).collect();
    t.until(ready, "all good ones ready", |out| {
        good.iter().all(|name| out.split_whitespace().any(|word| word == *name))
    });
    std::thread::sleep(Duration::from_secs(3));
    let ready = t.ok(ready);
    for (name, _, success) in cases {
        assert_eq!(ready.split_whitespace().any(|word| word == name), success, "{name} in {ready}");
    }

    // The same actions as liveness and startup probes.
    for (kind, action) in [
        ("livenessProbe", "exec: {command: ['false']}"),
        ("livenessProbe", "httpGet: {path: /, port: 9}"),
        ("livenessProbe", "tcpSocket: {port: 9}"),
        ("startupProbe", "exec: {command: ['false']}"),
        ("startupProbe", "httpGet: {path: /, port: 9}"),
        ("startupProbe", "tcpSocket: {port: 9}"),
    ] {
        let word: String = action.chars().take_while(char::is_ascii_alphabetic).collect();
        let name = format!("{}-{}", kind.to_lowercase(), word.to_lowercase());
        apply(
            t,
            &name,
            &format!(
                "restartPolicy: Never\nterminationGracePeriodSeconds: 1\ncontainers:\n- {{name: c, image: busybox, \
                 imagePullPolicy: IfNotPresent, command: [sleep, 1d], {kind}: {{{action}, periodSeconds: 1, failureThreshold: 2}}}}"
            ),
        );
        t.eventually(&format!("kubectl get pod {name} -o 'jsonpath={{.status.phase}}'"), "Failed");
    }
}

fn s121_what_holds_without_probes_and_before_the_first(t: &Shell) {
    let container = |probe: &str| {
        format!(
            "containers:\n- {{name: c, image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, 1d]{probe}}}"
        )
    };
    apply(t, "none", &container(""));
    let probe =
        ", readinessProbe: {exec: {command: ['true']}, initialDelaySeconds: 8, periodSeconds: 1}";
    apply(t, "later", &container(probe));
    t.eventually("kubectl get pod none", "1/1");
    t.eventually("kubectl get pod later", "Running");
    assert_eq!(rows(&t.ok("kubectl get pod later --no-headers"))[0][1], "0/1");
    t.eventually("kubectl get pod later", "1/1");
    // Not before the delay was over: at the earliest 8 s after the start, to the second.
    let times = t.ok(
        "kubectl get pod later -o 'jsonpath={.status.containerStatuses[0].state.running.startedAt} \
         {.status.conditions[?(@.type==\"Ready\")].lastTransitionTime}'",
    );
    let times: Vec<rk::k8s_openapi::jiff::Timestamp> =
        times.split(' ').map(|time| time.parse().expect("a time")).collect();
    assert!(times[1].duration_since(times[0]).as_secs() >= 7, "{times:?}");
    assert_eq!(t.ok(&restarts("none")), "0");
}

fn s122_a_bare_pod_does_not_come_back(t: &Shell) {
    t.ok("kubectl run bare --image=nginx");
    t.ok("kubectl create deployment kept --image=nginx");
    t.eventually("kubectl get pod bare", "Running");
    t.ok("kubectl rollout status deployment kept --timeout=50s");
    let before = t.ok("kubectl get pods -l app=kept -o name");
    t.ok("kubectl delete pod bare");
    t.ok(&format!("kubectl delete {before}"));
    t.until("kubectl get pods -l app=kept --no-headers", "another one that runs", |out| {
        let rows = rows(out);
        rows.len() == 1 && rows[0][2] == "Running" && !before.contains(rows[0][0])
    });
    assert!(t.fails("kubectl get pod bare").contains("NotFound"));
}

/// In a cluster of its own, whose clock is wound forward: a node is believed lost after 40 s, and
/// its Pods are evicted after 5 minutes more.
fn s122_a_controllers_pod_moves_off_a_lost_node(_: &Shell) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        use rk::{
            k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod},
            kube::{
                Api,
                api::{ListParams, PostParams},
            },
        };
        let cluster = Cluster::builder().nodes(1).start().await.expect("it starts");
        let client = cluster.client();
        let simulated = std::sync::Arc::new(SimRuntime::new());
        let agent = Agent::builder(client.clone(), simulated).node_name("doomed").build();
        let token = CancellationToken::new();
        let node = tokio::spawn(agent.expect("an agent").run(token.clone()));

        let pods: Api<Pod> = Api::default_namespaced(client.clone());
        let object = |value: serde_json::Value| value;
        let template = object(serde_json::json!({"nodeSelector": {}, "containers": [{"name": "c", "image": "nginx"}]}));
        let bare: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "bare"},
            "spec": {"nodeName": "doomed", "containers": template["containers"]}}))
        .expect("a Pod");
        let deployment: Deployment = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "kept"},
            "spec": {"replicas": 4, "selector": {"matchLabels": {"app": "kept"}},
                "template": {"metadata": {"labels": {"app": "kept"}}, "spec": template}}}))
        .expect("a Deployment");
        let second = Duration::from_secs(1);
        for _ in 0..60 {
            tokio::time::sleep(second).await;
            if pods.create(&PostParams::default(), &bare).await.is_ok() {
                break;
            }
        }
        let deployments: Api<Deployment> = Api::default_namespaced(client);
        deployments.create(&PostParams::default(), &deployment).await.expect("created");
        let on = async |node: &str| {
            let all = pods.list(&ListParams::default().labels("app=kept")).await.expect("a list");
            let there = |pod: &&Pod| {
                let spec = pod.spec.as_ref();
                pod.metadata.deletion_timestamp.is_none()
                    && spec.and_then(|spec| spec.node_name.as_deref()) == Some(node)
            };
            all.items.iter().filter(there).count()
        };
        tokio::time::sleep(20 * second).await;
        assert!(on("doomed").await > 0, "the Deployment has Pods on both nodes");

        token.cancel();
        node.await.expect("the agent ends");
        tokio::time::sleep(900 * second).await;
        assert_eq!((on("doomed").await, on("node-1").await), (0, 4));
        // The bare one is not made anew elsewhere.
        let bare = pods.get_opt("bare").await.expect("asked");
        assert!(bare.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some()));
        cluster.shutdown().await;
    });
}
