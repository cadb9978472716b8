//! Packets between Pods and through Services, on the node with real containers.

use crate::harness::{Shell, apply, rows, scenarios};

scenarios! {
    Real:
        s167_a_service_stays_while_its_pods_change,
        s174_a_service_without_selector_leads_where_it_is_told;
    Both:
        s211_containers_of_a_pod_meet_on_localhost,
        s212_pods_of_a_node_meet_on_the_bridge,
        s252_two_containers_share_an_empty_dir,
        s257_files_follow_their_objects_and_environment_does_not;
}

const SLEEPER: &str =
    "containers:\n- {name: c, image: busybox, command: [sleep, 1d], imagePullPolicy: IfNotPresent}";

/// Asks for a page from within the Pod `client`.
fn page(address: &str) -> String {
    format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | kubectl exec -i client -- nc -w 3 {address} 80")
}

fn s167_a_service_stays_while_its_pods_change(t: &Shell) {
    apply(t, "client", SLEEPER);
    t.manifest("15-deployment-nginx-with-service.yaml");
    t.ok("kubectl apply -f 15-deployment-nginx-with-service.yaml");
    t.eventually("kubectl get pod client", "1/1");
    t.ok("kubectl rollout status deployment deployment-nginx --timeout=50s");
    let address = "kubectl get service myservice -o 'jsonpath={.spec.clusterIP}'";
    let pods = "kubectl get pods -l app=nginx -o 'jsonpath={.items[*].status.podIP}'";
    let (before, pods_before) = (t.ok(address), t.ok(pods));
    t.eventually(&page(&before), "Version: v1");

    t.ok("kubectl delete pod -l app=nginx --grace-period=1");
    t.ok("kubectl rollout status deployment deployment-nginx --timeout=50s");
    let pods_after = t.until(pods, "three addresses", |out| out.split(' ').count() == 3);
    for pod in pods_after.split(' ') {
        assert!(!pods_before.split(' ').any(|before| before == pod), "{pods_before} {pods_after}");
    }
    assert_eq!(t.ok(address), before);
    t.eventually(&page(&before), "Version: v1");
}

fn s174_a_service_without_selector_leads_where_it_is_told(t: &Shell) {
    apply(t, "client", SLEEPER);
    t.ok("kubectl run web --image=myapp:v1");
    t.manifest("04-service-myservice-no-selector.yaml");
    t.ok("kubectl apply -f 04-service-myservice-no-selector.yaml");
    t.eventually("kubectl get pod client", "1/1");
    t.eventually("kubectl get pod web", "1/1");
    let address = t.ok("kubectl get service myservice -o 'jsonpath={.spec.clusterIP}'");
    t.until(&format!("kubectl exec client -- nc -w 3 {address} 80 2>&1"), "refused", |out| {
        out.contains("refused")
    });
    let pod = t.ok("kubectl get pod web -o 'jsonpath={.status.podIP}'");
    t.write(
        "endpoints.yaml",
        &format!(
            "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: myservice}}\nsubsets:\n\
             - addresses: [{{ip: {pod}}}]\n  ports: [{{port: 80}}]\n"
        ),
    );
    t.ok("kubectl apply -f endpoints.yaml");
    t.eventually(&page(&address), "Version: v1");
}

fn s211_containers_of_a_pod_meet_on_localhost(t: &Shell) {
    t.manifest("54-pod-three-containers.yaml");
    t.ok("kubectl apply -f 54-pod-three-containers.yaml");
    t.eventually("kubectl get pod test", "3/3");
    let packets = |link: &str| {
        let counters = t.ok("kubectl exec test -c nginx -- cat /proc/net/dev");
        let line = counters.lines().find_map(|line| {
            let (name, rest) = line.split_once(':')?;
            (name.trim() == link).then(|| rest.split_whitespace().nth(1).map(str::to_owned))?
        });
        line.and_then(|packets| packets.parse::<u64>().ok()).expect("the link is listed")
    };
    let before = packets("lo");
    for port in [6379, 11211] {
        let line = format!("kubectl exec test -c nginx -- nc -w 3 localhost {port} < /dev/null");
        t.eventually(&line, ":latest");
    }
    assert!(packets("lo") >= before + 8, "two conversations went over lo");
}

fn s212_pods_of_a_node_meet_on_the_bridge(t: &Shell) {
    apply(t, "client", SLEEPER);
    // It answers with its tables of connections.
    apply(
        t,
        "server",
        "containers:\n- {name: c, image: busybox, imagePullPolicy: IfNotPresent, \
         command: [nc, -ll, -p, '7000', -e, cat, /proc/net/tcp, /proc/net/tcp6]}",
    );
    t.eventually("kubectl get pod client", "1/1");
    t.eventually("kubectl get pod server", "1/1");
    let ip = |pod: &str| t.ok(&format!("kubectl get pod {pod} -o 'jsonpath={{.status.podIP}}'"));
    let (client, server) = (ip("client"), ip("server"));
    // The server sees who asks, not some address in between.
    let octets = client.split('.').rev().map(|octet| octet.parse::<u8>().expect("an octet"));
    let asks: String = octets.map(|octet| format!("{octet:02X}")).collect();
    t.eventually(
        &format!("kubectl exec client -- nc -w 3 {server} 7000 < /dev/null"),
        &format!("{asks}:"),
    );
    let hops = t.ok(&format!("kubectl exec client -- traceroute -n -m 3 -w 1 {server} 2>&1"));
    assert_eq!(rows(&hops).iter().filter(|row| row[0].parse::<u8>().is_ok()).count(), 1, "{hops}");
}

// Conformance: EmptyDir, Shared volumes between containers
fn s252_two_containers_share_an_empty_dir(t: &Shell) {
    let spec = "volumes: [{name: shared, emptyDir: {}}]\ncontainers:\n\
                - name: writer\n  image: busybox\n  imagePullPolicy: IfNotPresent\n  \
                command: [sh, -c, 'echo $$ >> /out/starts; trap \"exit 0\" TERM; sleep 1d & wait']\n  \
                volumeMounts: [{name: shared, mountPath: /out}]\n\
                - name: reader\n  image: busybox\n  imagePullPolicy: IfNotPresent\n  \
                command: [sleep, 1d]\n  volumeMounts: [{name: shared, mountPath: /in}]";
    apply(t, "pair", spec);
    t.eventually("kubectl get pod pair", "2/2");
    t.eventually("kubectl exec pair -c reader -- wc -l /in/starts", "1 /in/starts");
    // The writer starts again and finds what it wrote. Its end may take along who asked for it.
    t.ok("kubectl exec pair -c writer -- kill -TERM 1; true");
    t.eventually("kubectl exec pair -c reader -- wc -l /in/starts", "2 /in/starts");
    t.ok("kubectl delete pod pair --grace-period=1");
    apply(t, "pair", spec);
    t.eventually("kubectl get pod pair", "2/2");
    t.eventually("kubectl exec pair -c reader -- wc -l /in/starts", "1 /in/starts");
}

fn s257_files_follow_their_objects_and_environment_does_not(t: &Shell) {
    t.ok("kubectl create configmap conf --from-literal=key=first");
    t.ok("kubectl create secret generic hidden --from-literal=key=first");
    apply(
        t,
        "reads",
        "volumes:\n- {name: conf, configMap: {name: conf}}\n- {name: hidden, secret: {secretName: hidden}}\n\
         containers:\n- name: c\n  image: busybox\n  imagePullPolicy: IfNotPresent\n  command: [sleep, 1d]\n  \
         env:\n  - {name: CONF, valueFrom: {configMapKeyRef: {name: conf, key: key}}}\n  \
         - {name: HIDDEN, valueFrom: {secretKeyRef: {name: hidden, key: key}}}\n  volumeMounts:\n  \
         - {name: conf, mountPath: /conf}\n  - {name: hidden, mountPath: /hidden}",
    );
    t.eventually("kubectl get pod reads", "1/1");
    let read =
        "kubectl exec reads -- sh -c 'echo $CONF $HIDDEN $(cat /conf/key) $(cat /hidden/key)'";
    assert_eq!(t.ok(read).trim(), "first first first first");
    let second = "kubectl patch -p '{\"stringData\": {\"key\": \"second\"}}' secret hidden";
    t.ok(second);
    t.ok("kubectl patch -p '{\"data\": {\"key\": \"second\"}}' configmap conf");
    t.eventually(read, "first first second second");
}
