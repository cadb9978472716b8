//! DaemonSets and StatefulSets.

use crate::{
    harness::{Shell, rows, scenarios},
    own::Own,
};

scenarios! {
    Sim:
        s15_a_node_that_joins_gets_its_daemons,
        s135_a_daemon_on_each_node_that_may_have_one,
        s136_a_daemon_that_tolerates_masters_is_updated_node_by_node,
        s137_labels_of_nodes_decide_about_daemons,
        s138_a_surging_daemon_is_ready_before_the_old_one_goes,
        s141_stateful_pods_come_and_go_in_order,
        s142_parallel_stateful_pods_come_and_go_at_once,
        s144_a_service_for_one_stateful_pod,
        s145_stateful_updates_roll_or_wait_for_a_hand,
        s146_a_stuck_stateful_update_waits_for_a_hand,
        s147_a_stateful_set_is_deleted_at_once_or_after_scaling_to_0,
        daemon_set_rollouts_are_listed_and_undone,
        stateful_claims_outlive_their_pods;
    Both:
        s85_daemons_deleted_by_a_pipeline_read_the_new_config;
    Real:
        s136_a_daemon_sees_the_nodes_folders,
        stateful_pods_know_their_names;
}

fn s15_a_node_that_joins_gets_its_daemons(t: &Shell) {
    let own = Own::start(t, 1);
    t.manifest("09-daemonset-example.yaml");
    own.ok("apply -f 09-daemonset-example.yaml");
    own.daemons("name=zabbix-agent", &["node-1"]);
    let token = own.join("late");
    own.daemons("name=zabbix-agent", &["late", "node-1"]);
    own.ok("create deployment web --image=nginx --replicas=4");
    own.until("get pods -l app=web -o wide --no-headers", "some on the new node", |out| {
        rows(out).iter().any(|row| row[2] == "Running" && row[6] == "late")
    });
    token.cancel();
    own.stop();
}

fn s135_a_daemon_on_each_node_that_may_have_one(t: &Shell) {
    let own = Own::start(t, 3);
    own.ok("taint node node-1 node-role.kubernetes.io/control-plane:NoSchedule");
    t.manifest("09-daemonset-example.yaml");
    own.ok("apply -f 09-daemonset-example.yaml");
    own.daemons("name=zabbix-agent", &["node-2", "node-3"]);
    let row = own.until("get ds daemonset-example --no-headers", "2 of all", |out| {
        rows(out).first().is_some_and(|row| row[1..6] == ["2"; 5])
    });
    assert_eq!(rows(&row)[0][6], "<none>", "no node selector");
    let spec = own.ok("get ds daemonset-example -o 'jsonpath={.spec.replicas}'");
    assert_eq!(spec, "", "no replica count");
    let token = own.join("node-4");
    own.daemons("name=zabbix-agent", &["node-2", "node-3", "node-4"]);
    token.cancel();
    own.ok("delete node node-4");
    own.daemons("name=zabbix-agent", &["node-2", "node-3"]);
    own.ok("delete ds daemonset-example");
    own.daemons("name=zabbix-agent", &[]);
    own.stop();
}

fn s136_a_daemon_that_tolerates_masters_is_updated_node_by_node(t: &Shell) {
    let own = Own::start(t, 3);
    own.ok("taint node node-1 node-role.kubernetes.io/master:NoSchedule");
    t.manifest("44-daemonset-fluentd.yaml");
    t.manifest("45-daemonset-fluentd-no-surge.yaml");
    let refused = t.fails(&Own::line("apply -f 44-daemonset-fluentd.yaml"));
    assert!(refused.contains("spec.updateStrategy.rollingUpdate.maxSurge"), "{refused}");
    own.ok("apply -f 45-daemonset-fluentd-no-surge.yaml");
    let all = ["node-1", "node-2", "node-3"];
    own.daemons("name=fluentd-elasticsearch", &all);

    // One that cannot start holds the update up: one node at a time.
    let image =
        |image: &str| format!("set image ds/fluentd-elasticsearch -n kube-system *={image}");
    own.ok(&image("missing/httpd:3"));
    let ready = "get ds fluentd-elasticsearch -n kube-system --no-headers";
    own.until(ready, "one being updated", |out| {
        rows(out).first().is_some_and(|row| row[1..6] == ["3", "3", "2", "1", "2"])
    });
    own.ok(&image("fluentd:v3"));
    own.ok("rollout status ds/fluentd-elasticsearch -n kube-system --timeout=50s");
    let images = "get pods -n kube-system -l name=fluentd-elasticsearch -o 'jsonpath={.items[*].spec.containers[0].image}'";
    own.until(images, "three new ones", |out| out == ["fluentd:v3"; 3].join(" "));
    own.daemons("name=fluentd-elasticsearch", &all);
    own.stop();
}

fn s137_labels_of_nodes_decide_about_daemons(t: &Shell) {
    let own = Own::start(t, 2);
    t.manifest("45-daemonset-fluentd-no-surge.yaml");
    t.ok("sed -i 's/# nodeSelector/nodeSelector/; s/#   node-role/  node-role/' 45-daemonset-fluentd-no-surge.yaml");
    own.ok("apply -f 45-daemonset-fluentd-no-surge.yaml");
    let label = "name=fluentd-elasticsearch";
    own.until("get ds -n kube-system --no-headers", "none wanted", |out| {
        rows(out).first().is_some_and(|row| row[1] == "0" && row[6].ends_with("worker=true"))
    });
    own.ok("label node node-2 node-role.kubernetes.io/worker=true");
    own.daemons(label, &["node-2"]);
    own.ok("label node node-2 node-role.kubernetes.io/worker-");
    own.daemons(label, &[]);
    own.stop();
}

fn s138_a_surging_daemon_is_ready_before_the_old_one_goes(t: &Shell) {
    let own = Own::start(t, 2);
    let manifest = "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: log}\nspec:\n  selector: {matchLabels: {app: log}}\n  \
                    updateStrategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: \"100%\"}}\n  template:\n    \
                    metadata: {labels: {app: log}}\n    spec: {containers: [{name: c, image: nginx}]}\n";
    t.write("log.yaml", manifest);
    own.ok("apply -f log.yaml");
    own.daemons("app=log", &["node-1", "node-2"]);
    let first = own.ok("get pods -l app=log -o name --sort-by=.metadata.name");
    own.ok("set image ds/log c=missing/httpd:3");
    // The new ones cannot start: one more on each node, and the old ones serve on.
    let pods = "get pods -l app=log --no-headers --sort-by=.metadata.name";
    own.until(pods, "two and two", |out| {
        let ready = rows(out).iter().filter(|row| row[1] == "1/1").count();
        (rows(out).len(), ready) == (4, 2)
    });
    for pod in first.lines() {
        own.ok(&format!("get {pod}"));
    }
    own.ok("set image ds/log c=nginx:2");
    own.ok("rollout status ds/log --timeout=50s");
    own.daemons("app=log", &["node-1", "node-2"]);
    own.stop();
}

fn daemon_set_rollouts_are_listed_and_undone(t: &Shell) {
    let own = Own::start(t, 2);
    t.manifest("09-daemonset-example.yaml");
    own.ok("apply -f 09-daemonset-example.yaml");
    own.ok("rollout status ds/daemonset-example --timeout=50s");
    own.ok("set image ds/daemonset-example zabbix-agent=nginx:2");
    own.ok("annotate ds daemonset-example kubernetes.io/change-cause=second");
    own.ok("rollout status ds/daemonset-example --timeout=50s");
    let history = own.ok("rollout history ds/daemonset-example");
    let numbers: Vec<_> =
        rows(&history).iter().filter_map(|row| row.first()?.parse::<u32>().ok()).collect();
    assert_eq!(numbers, [1, 2], "{history}");
    let detail = own.ok("rollout history ds/daemonset-example --revision=1");
    assert!(detail.contains("Image:\tnginx\n"), "{detail}");
    own.ok("rollout undo ds/daemonset-example");
    own.ok("rollout status ds/daemonset-example --timeout=50s");
    own.until(
        "get ds daemonset-example -o 'jsonpath={.spec.template.spec.containers[0].image}'",
        "the first image",
        |out| out == "nginx",
    );
    own.until("rollout history ds/daemonset-example", "revisions 2 and 3", |out| {
        rows(out).iter().filter_map(|row| row.first()?.parse::<u32>().ok()).eq([2, 3])
    });
    own.stop();
}

/// A StatefulSet, with lines of its spec and of its Pods' spec.
fn stateful(name: &str, spec: &str, pod: &str) -> String {
    let indented =
        |text: &str, by: &str| text.lines().map(|line| format!("{by}{line}\n")).collect::<String>();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: nginx}}\nspec: {{clusterIP: None, selector: {{app: {name}}}, \
         ports: [{{port: 80}}]}}\n---\napiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: {name}}}\nspec:\n  \
         serviceName: nginx\n  selector: {{matchLabels: {{app: {name}}}}}\n{}  template:\n    metadata: {{labels: {{app: {name}}}}}\n    \
         spec:\n      containers: [{{name: c, image: nginx}}]\n{}",
        indented(spec, "  "),
        indented(pod, "      ")
    )
}

/// What a watch saw of Pods, in its order: what happened, to which, and its state.
struct Watch<'a>(&'a Shell);

impl<'a> Watch<'a> {
    fn start(t: &'a Shell) -> Self {
        t.ok("timeout 120 kubectl get pods -w --output-watch-events --no-headers >watch.txt 2>&1 </dev/null & echo $! >watch.pid");
        // It sees everything from its first answer on, so that has to be in.
        t.ok("kubectl create configmap watched >/dev/null 2>&1 || true");
        Self(t)
    }

    fn stop(self) -> Vec<Vec<String>> {
        let seen = self.0.ok("kill $(cat watch.pid); cat watch.txt");
        rows(&seen).iter().map(|row| row.iter().map(|word| (*word).to_owned()).collect()).collect()
    }
}

/// Where the first line of the watch is that is so.
#[track_caller]
fn at(seen: &[Vec<String>], what: &str, so: impl Fn(&[&str]) -> bool) -> usize {
    let found = seen.iter().position(|row| {
        let row: Vec<_> = row.iter().map(String::as_str).collect();
        row.len() >= 4 && so(&row)
    });
    found.unwrap_or_else(|| panic!("never {what}: {seen:#?}"))
}

#[track_caller]
fn settled(t: &Shell, name: &str, replicas: usize) {
    t.until(
        &format!("kubectl get pods -l app={name} --no-headers"),
        &format!("{replicas} ready"),
        |out| {
            let there = rows(out);
            there.len() == replicas && there.iter().all(|row| row[1..3] == ["1/1", "Running"])
        },
    );
}

fn s141_stateful_pods_come_and_go_in_order(t: &Shell) {
    let watch = Watch::start(t);
    t.write("web.yaml", &stateful("web", "replicas: 3", ""));
    t.ok("kubectl apply -f web.yaml");
    settled(t, "web", 3);
    t.ok("kubectl scale sts web --replicas=5");
    settled(t, "web", 5);
    t.ok("kubectl scale sts web --replicas=2");
    settled(t, "web", 2);
    let seen = watch.stop();
    for number in 1..5 {
        let (before, name) = (format!("web-{}", number - 1), format!("web-{number}"));
        let ready = at(&seen, "ready", |row| row[1..4] == [&before, "1/1", "Running"]);
        let made = at(&seen, "made", |row| row[..2] == ["ADDED", &name]);
        assert!(ready < made, "{name} before {before} was ready: {seen:#?}");
    }
    let gone = at(&seen, "gone", |row| row[..2] == ["DELETED", "web-4"]);
    let going = at(&seen, "going", |row| row[1] == "web-3" && row[3] == "Terminating");
    assert!(gone < going, "{seen:#?}");

    // A Pod that is not ready holds up those after it.
    t.write(
        "db.yaml",
        &stateful("db", "replicas: 2", "readinessGates: [{conditionType: example.com/ok}]"),
    );
    t.ok("kubectl apply -f db.yaml");
    t.until("kubectl get pods -l app=db --no-headers", "the first runs", |out| {
        rows(out).first().is_some_and(|row| row[2] == "Running")
    });
    assert_eq!(rows(&t.ok("kubectl get pods -l app=db --no-headers")).len(), 1);
    for pod in ["db-0", "db-1"] {
        let open = "{\"status\": {\"conditions\": [{\"type\": \"example.com/ok\", \"status\": \"True\"}]}}";
        t.until(
            &format!("kubectl get pods {pod} --no-headers --ignore-not-found"),
            "it runs",
            |out| out.contains("Running"),
        );
        t.ok(&format!("kubectl patch pod {pod} --subresource=status -p '{open}'"));
    }
    settled(t, "db", 2);
}

fn s142_parallel_stateful_pods_come_and_go_at_once(t: &Shell) {
    // None of them ever gets ready.
    let set = stateful("web", "replicas: 3\npodManagementPolicy: Parallel", "")
        .replace("image: nginx", "image: missing/httpd:3");
    t.write("web.yaml", &set);
    t.ok("kubectl apply -f web.yaml");
    let count = |number: usize| {
        t.until("kubectl get pods -l app=web --no-headers", "so many", |out| {
            rows(out).len() == number
        });
    };
    count(3);
    t.ok("kubectl scale sts web --replicas=5");
    count(5);
    t.ok("kubectl scale sts web --replicas=0");
    count(0);

    // Updates go one by one all the same.
    t.write("db.yaml", &stateful("db", "replicas: 3\npodManagementPolicy: Parallel", ""));
    t.ok("kubectl apply -f db.yaml");
    settled(t, "db", 3);
    t.ok("kubectl set image sts/db c=missing/httpd:3");
    t.until("kubectl get pods db-2 --no-headers", "it is broken", |out| {
        out.contains("0/1") && !out.contains("Terminating")
    });
    for pod in ["db-0", "db-1"] {
        assert!(t.ok(&format!("kubectl get pods {pod} --no-headers")).contains("1/1"));
    }
}

fn s144_a_service_for_one_stateful_pod(t: &Shell) {
    t.write("web.yaml", &stateful("web", "replicas: 3", ""));
    t.ok("kubectl apply -f web.yaml");
    settled(t, "web", 3);
    t.write("one.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: one}\nspec:\n  selector: {statefulset.kubernetes.io/pod-name: web-1}\n  ports: [{port: 80}]\n");
    t.ok("kubectl apply -f one.yaml");
    let ip = t.ok("kubectl get pod web-1 -o 'jsonpath={.status.podIP}'");
    t.until("kubectl get endpointslices -l kubernetes.io/service-name=one -o 'jsonpath={.items[*].endpoints[*].addresses[*]}'", "its address", |out| out == ip);
    for number in 0..3 {
        let label = format!(
            "kubectl get pods -l statefulset.kubernetes.io/pod-name=web-{number} --no-headers"
        );
        assert_eq!(rows(&t.ok(&label)).len(), 1);
    }
}

fn s145_stateful_updates_roll_or_wait_for_a_hand(t: &Shell) {
    t.write("web.yaml", &stateful("web", "replicas: 3", ""));
    t.ok("kubectl apply -f web.yaml");
    settled(t, "web", 3);
    let watch = Watch::start(t);
    t.until("cat watch.txt", "the three", |out| rows(out).len() == 3);
    t.ok("kubectl set image sts/web c=nginx:2");
    t.ok("kubectl rollout status sts/web --timeout=50s");
    let seen = watch.stop();
    for number in 0..2 {
        let (after, name) = (format!("web-{}", number + 1), format!("web-{number}"));
        let gone = at(&seen, "gone", |row| row[..2] == ["DELETED", &after]);
        let ready =
            gone + at(&seen[gone..], "ready", |row| row[1..4] == [&after, "1/1", "Running"]);
        let going = at(&seen, "going", |row| row[1] == name && row[3] == "Terminating");
        assert!(ready < going, "{name} before {after} was ready again: {seen:#?}");
    }
    let history = t.ok("kubectl rollout history sts/web");
    let numbers: Vec<_> =
        rows(&history).iter().filter_map(|row| row.first()?.parse::<u32>().ok()).collect();
    assert_eq!(numbers, [1, 2], "{history}");
    t.ok("kubectl rollout undo sts/web");
    t.ok("kubectl rollout status sts/web --timeout=50s");
    let images = "kubectl get pods -l app=web -o 'jsonpath={.items[*].spec.containers[0].image}'";
    t.until(images, "the old image", |out| out == "nginx nginx nginx");

    t.ok("kubectl patch sts web -p '{\"spec\": {\"updateStrategy\": {\"type\": \"OnDelete\", \"rollingUpdate\": null}}}'");
    t.ok("kubectl set image sts/web c=nginx:3");
    t.until(
        "kubectl get sts web -o 'jsonpath={.status.observedGeneration} {.metadata.generation}'",
        "it is seen",
        |out| matches!(rows(out)[..], [ref row] if row[0] == row[1]),
    );
    assert_eq!(t.ok(images), "nginx nginx nginx");
    t.ok("kubectl delete pod web-1 --wait=false");
    t.until(images, "the deleted one is new", |out| out == "nginx nginx:3 nginx");
}

fn s146_a_stuck_stateful_update_waits_for_a_hand(t: &Shell) {
    t.write("web.yaml", &stateful("web", "replicas: 3", ""));
    t.ok("kubectl apply -f web.yaml");
    settled(t, "web", 3);
    t.ok("kubectl set image sts/web c=missing/httpd:3");
    t.until("kubectl get pod web-2 --no-headers", "it cannot start", |out| {
        rows(out).first().is_some_and(|row| {
            row[1] == "0/1" && row[2].starts_with("ErrImage") || row[2].starts_with("ImagePull")
        })
    });
    let images = "kubectl get pods -l app=web -o 'jsonpath={.items[*].spec.containers[0].image}'";
    assert_eq!(t.ok(images), "nginx nginx missing/httpd:3");
    t.ok("kubectl set image sts/web c=nginx:2");
    t.until(
        "kubectl get sts web -o 'jsonpath={.status.observedGeneration} {.metadata.generation}'",
        "it is seen",
        |out| matches!(rows(out)[..], [ref row] if row[0] == row[1]),
    );
    assert_eq!(t.ok(images), "nginx nginx missing/httpd:3", "the correction alone does not help");
    t.ok("kubectl delete pod web-2 --wait=false");
    t.until(images, "all new", |out| out == "nginx:2 nginx:2 nginx:2");
}

fn s147_a_stateful_set_is_deleted_at_once_or_after_scaling_to_0(t: &Shell) {
    t.write("web.yaml", &stateful("web", "replicas: 3", ""));
    t.ok("kubectl apply -f web.yaml");
    settled(t, "web", 3);
    t.ok("kubectl delete sts web");
    t.until("kubectl get pods -l app=web -o name", "none", str::is_empty);

    t.ok("kubectl apply -f web.yaml");
    settled(t, "web", 3);
    let watch = Watch::start(t);
    t.until("cat watch.txt", "the three", |out| rows(out).len() == 3);
    t.ok("kubectl scale sts web --replicas=0");
    t.until("kubectl get pods -l app=web -o name", "none", str::is_empty);
    t.ok("kubectl delete sts web");
    t.until("cat watch.txt", "the last gone", |out| {
        out.contains("DELETED") && out.matches("DELETED").count() >= 3
    });
    let seen = watch.stop();
    let gone = |name: &str| at(&seen, "gone", |row| row[..2] == ["DELETED", name]);
    let going = |name: &str| at(&seen, "going", |row| row[1] == name && row[3] == "Terminating");
    assert!(gone("web-2") < going("web-1") && gone("web-1") < going("web-0"), "{seen:#?}");
}

fn stateful_claims_outlive_their_pods(t: &Shell) {
    let templates = "replicas: 2\nvolumeClaimTemplates:\n- metadata: {name: www}\n  spec: {accessModes: [ReadWriteOnce], \
                     resources: {requests: {storage: 1Gi}}}";
    t.write(
        "web.yaml",
        &stateful("web", &format!("podManagementPolicy: Parallel\n{templates}"), ""),
    );
    t.ok("kubectl apply -f web.yaml");
    let claims = "kubectl get pvc -l app=web -o 'jsonpath={.items[*].metadata.name}'";
    t.until(claims, "one for each", |out| out == "www-web-0 www-web-1");
    t.ok("kubectl scale sts web --replicas=1");
    t.until("kubectl get sts web -o 'jsonpath={.status.replicas}'", "one left", |out| out == "1");
    t.ok("kubectl delete sts web");
    t.until("kubectl get pods -l app=web -o name", "none", str::is_empty);
    assert_eq!(t.ok(claims), "www-web-0 www-web-1");
}

fn s85_daemons_deleted_by_a_pipeline_read_the_new_config(t: &Shell) {
    let manifest = "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: kube-proxy}\nspec:\n  selector: {matchLabels: {k8s-app: kube-proxy}}\n  \
                    template:\n    metadata: {labels: {k8s-app: kube-proxy}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      containers:\n      \
                    - name: kube-proxy\n        image: busybox\n        command: [sh, -c, 'cat /config/mode; echo; exec sleep 3600']\n        \
                    volumeMounts: [{name: config, mountPath: /config}]\n      volumes: [{name: config, configMap: {name: kube-proxy}}]\n";
    t.write("proxy.yaml", manifest);
    t.ok("kubectl create configmap kube-proxy --from-literal=mode=iptables");
    t.ok("kubectl apply -f proxy.yaml");
    t.ok("kubectl rollout status ds/kube-proxy --timeout=50s");
    t.eventually("kubectl logs ds/kube-proxy", "iptables");
    let pods = "kubectl get pods -o name -l k8s-app=kube-proxy";
    let before = t.ok(pods);
    t.ok("kubectl create configmap kube-proxy --from-literal=mode=ipvs -o yaml --dry-run=client | kubectl apply -f -");
    let namespace = t.namespace();
    t.ok(&format!(
        "kubectl get pod -n {namespace} | grep kube-proxy | awk '{{system(\"kubectl delete pod \"$1\" -n {namespace}\")}}'"
    ));
    t.until(pods, "another Pod", |out| {
        !out.is_empty() && out.lines().all(|pod| !before.contains(pod))
    });
    t.ok("kubectl rollout status ds/kube-proxy --timeout=50s");
    t.eventually("kubectl logs ds/kube-proxy", "ipvs");
}

fn s136_a_daemon_sees_the_nodes_folders(t: &Shell) {
    let folder = |name: &str| {
        let path = t.directory().join(name);
        std::fs::create_dir_all(&path).expect("the test's folder takes folders");
        std::fs::write(path.join("there"), name).expect("and files");
        path.display().to_string()
    };
    t.manifest("45-daemonset-fluentd-no-surge.yaml");
    let (log, docker) = (folder("log"), folder("docker"));
    t.ok(&format!(
        "sed -i 's|namespace: kube-system||; s|image: .*|image: busybox|; s|path: /var/log|path: {log}|; \
         s|path: /var/lib/docker/containers|path: {docker}|; /terminationGracePeriodSeconds/d' 45-daemonset-fluentd-no-surge.yaml"
    ));
    t.ok("kubectl create -f 45-daemonset-fluentd-no-surge.yaml");
    t.ok("kubectl patch ds fluentd-elasticsearch -p '{\"spec\": {\"template\": {\"spec\": {\"terminationGracePeriodSeconds\": 1, \"containers\": [{\"name\": \"fluentd-elasticsearch\", \"command\": [\"sleep\", \"3600\"]}]}}}}'");
    t.ok("kubectl rollout status ds/fluentd-elasticsearch --timeout=50s");
    let run = |command: &str| format!("kubectl exec ds/fluentd-elasticsearch -- sh -c '{command}'");
    t.eventually(&run("cat /var/log/there /var/lib/docker/containers/there"), "logdocker");
    t.ok(&run("echo written >/var/log/new"));
    assert_eq!(
        std::fs::read_to_string(t.directory().join("log/new")).ok().as_deref(),
        Some("written\n")
    );
    t.fails(&run("echo written >/var/lib/docker/containers/new"));
}

fn stateful_pods_know_their_names(t: &Shell) {
    let pod = "terminationGracePeriodSeconds: 1";
    let set = stateful("web", "replicas: 2", pod)
        .replace("image: nginx", "image: busybox, command: [sleep, '3600']");
    t.write("web.yaml", &set);
    t.ok("kubectl apply -f web.yaml");
    settled(t, "web", 2);
    for name in ["web-0", "web-1"] {
        assert_eq!(t.ok(&format!("kubectl exec {name} -- hostname")).trim(), name);
    }
    let address = "kubectl get pod web-0 -o 'jsonpath={.metadata.uid}'";
    let before = t.ok(address);
    t.ok("kubectl delete pod web-0 --wait=false");
    t.until(address, "another Pod of the name", |uid| !uid.is_empty() && uid != before);
    settled(t, "web", 2);
    assert_eq!(t.ok("kubectl exec web-0 -- hostname").trim(), "web-0");
}
