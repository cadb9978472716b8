//! Kubernetes' conformance requirements for kubectl, and quotas as kubectl shows them.

use serde_json::Value;

use crate::harness::{Shell, apply, rows, scenarios};

scenarios! {
    Sim:
        s34_a_quota_counts_and_refuses,
        api_versions_name_v1,
        cluster_info_says_where_the_control_plane_is,
        describe_tells_all_of_controllers_pods_services_nodes_and_namespaces,
        diff_finds_the_changes_of_a_deployment,
        controllers_and_services_are_exposed,
        a_label_is_set_shown_and_removed,
        the_pods_of_a_controller_are_annotated_by_patches,
        replace_changes_the_image_of_a_pod,
        run_makes_a_pod_that_does_not_restart,
        a_dry_run_on_the_server_changes_nothing,
        version_tells_of_client_and_server,
        a_proxy_listens_on_a_socket,
        a_proxy_finds_a_port_of_its_own,
        get_watch_and_chunks_show_all;
    Real:
        a_controller_is_created_and_deleted_with_its_pods,
        a_controller_is_scaled_down_and_up,
        logs_are_filtered;
}

fn s34_a_quota_counts_and_refuses(t: &Shell) {
    t.ok("kubectl create quota two --hard=pods=2,requests.cpu=1");
    let used = "kubectl get quota two -o 'jsonpath={.status.used}'";
    t.eventually(used, r#"{"pods":"0","requests.cpu":"0"}"#);
    let spec = |cpu: &str| {
        format!("containers: [{{name: c, image: nginx, resources: {{requests: {{cpu: {cpu}}}}}}}]")
    };
    apply(t, "one", &spec("300m"));
    apply(t, "two", &spec("200m"));
    t.eventually(used, r#"{"pods":"2","requests.cpu":"500m"}"#);

    let third = "--overrides='{\"spec\":{\"containers\":[{\"name\":\"third\",\"image\":\"nginx\",\
                         \"resources\":{\"requests\":{\"cpu\":\"100m\"}}}]}}'";
    let refused = t.fails(&format!("kubectl run third --image=nginx {third}"));
    let why = "pods \"third\" is forbidden: exceeded quota: two, requested: pods=1, used: pods=2, \
               limited: pods=2";
    assert!(refused.contains(why), "{refused}");
    // Other namespaces have nothing to do with it.
    t.ok(&format!("kubectl run {} --image=nginx -n default", t.namespace()));
    t.ok(&format!("kubectl delete pod {} -n default --wait=false", t.namespace()));

    t.ok("kubectl delete pod one");
    t.eventually(used, r#"{"pods":"1","requests.cpu":"200m"}"#);
    let silent = t.fails("kubectl run silent --image=nginx");
    assert!(
        silent.contains("failed quota: two: must specify requests.cpu for: silent"),
        "{silent}"
    );
    t.ok(&format!("kubectl run third --image=nginx {third}"));
    t.eventually(used, r#"{"pods":"2","requests.cpu":"300m"}"#);
    let described = t.ok("kubectl describe quota two");
    assert!(described.contains("requests.cpu  300m  1"), "{described}");
}

// Conformance: Kubectl, check version v1
fn api_versions_name_v1(t: &Shell) {
    assert!(t.ok("kubectl api-versions").lines().any(|line| line == "v1"));
}

// Conformance: Kubectl, cluster info
fn cluster_info_says_where_the_control_plane_is(t: &Shell) {
    let info = t.ok("kubectl cluster-info");
    for text in ["Kubernetes control plane", "is running at", "https://"] {
        assert!(info.contains(text), "{text} in {info}");
    }
}

const PRIMARY: &str = "\
apiVersion: v1
kind: ReplicationController
metadata: {name: agnhost-primary, labels: {app: agnhost, role: primary}}
spec:
  replicas: 1
  selector: {app: agnhost, role: primary}
  template:
    metadata: {labels: {app: agnhost, role: primary}}
    spec: {containers: [{name: agnhost-primary, image: agnhost, ports: [{name: agnhost-server, containerPort: 6379}]}]}
";

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: agnhost-primary, labels: {app: agnhost, role: primary}}
spec:
  ports: [{port: 6379, targetPort: agnhost-server}]
  selector: {app: agnhost, role: primary}
";

/// A controller of one Pod, which runs; the Pod's name.
fn primary(t: &Shell) -> String {
    t.write("primary.yaml", PRIMARY);
    t.ok("kubectl create -f primary.yaml");
    let pod = "kubectl get pods -l app=agnhost --no-headers";
    rows(&t.eventually(pod, "Running"))[0][0].to_owned()
}

#[track_caller]
fn tells(t: &Shell, what: &str, lines: &[&[&str]]) {
    let described = t.ok(&format!("kubectl describe {what}"));
    for words in lines {
        let has = described.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(has, "{words:?} in {described}");
    }
}

// Conformance: Kubectl, describe pod or rc
fn describe_tells_all_of_controllers_pods_services_nodes_and_namespaces(t: &Shell) {
    let pod = primary(t);
    t.write("service.yaml", SERVICE);
    t.ok("kubectl create -f service.yaml");
    let namespace = t.namespace().to_owned();
    tells(
        t,
        &format!("pod {pod}"),
        &[
            &["Name:", "agnhost-primary-"],
            &["Namespace:", &namespace],
            &["Node:"],
            &["Labels:", "app=agnhost"],
            &["role=primary"],
            &["Annotations:"],
            &["Status:", "Running"],
            &["IP:"],
            &["Controlled By:", "ReplicationController/agnhost-primary"],
            &["Image:", "agnhost"],
            &["State:", "Running"],
            &["QoS Class:", "BestEffort"],
        ],
    );
    t.eventually("kubectl describe rc agnhost-primary", "SuccessfulCreate");
    tells(
        t,
        "rc agnhost-primary",
        &[
            &["Name:", "agnhost-primary"],
            &["Namespace:", &namespace],
            &["Selector:", "app=agnhost,role=primary"],
            &["Labels:", "app=agnhost"],
            &["role=primary"],
            &["Annotations:"],
            &["Replicas:", "1 current", "1 desired"],
            &["Pods Status:", "1 Running", "0 Waiting", "0 Succeeded", "0 Failed"],
            &["Pod Template:"],
            &["Image:", "agnhost"],
            &["Events:"],
        ],
    );
    tells(
        t,
        "service agnhost-primary",
        &[
            &["Name:", "agnhost-primary"],
            &["Namespace:", &namespace],
            &["Labels:", "app=agnhost"],
            &["role=primary"],
            &["Annotations:"],
            &["Selector:", "app=agnhost", "role=primary"],
            &["Type:", "ClusterIP"],
            &["IP:"],
            &["Port:", "<unset>", "6379/TCP"],
            &["Endpoints:"],
            &["Session Affinity:", "None"],
        ],
    );
    let node = t.ok("kubectl get nodes -o 'jsonpath={.items[0].metadata.name}'");
    tells(
        t,
        &format!("node {node}"),
        &[
            &["Name:", &node],
            &["Labels:"],
            &["Annotations:"],
            &["CreationTimestamp:"],
            &["Conditions:"],
            &["Type", "Status", "LastHeartbeatTime", "LastTransitionTime", "Reason", "Message"],
            &["Addresses:"],
            &["Capacity:"],
            &["Version:"],
            &["Kernel Version:"],
            &["Container Runtime Version:"],
            &["Kubelet Version:"],
            &["Pods:"],
        ],
    );
    tells(
        t,
        &format!("namespace {namespace}"),
        &[&["Name:", &namespace], &["Labels:"], &["Annotations:"], &["Status:", "Active"]],
    );
}

// Conformance: Kubectl, diff Deployment
fn diff_finds_the_changes_of_a_deployment(t: &Shell) {
    t.write(
        "deployment.yaml",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: httpd-deployment}\nspec:\n  \
         replicas: 3\n  selector: {matchLabels: {app: httpd}}\n  template:\n    \
         metadata: {labels: {app: httpd}}\n    spec:\n      containers:\n      \
         - {name: httpd, image: httpd, ports: [{containerPort: 80}]}\n",
    );
    t.ok("kubectl create -f deployment.yaml");
    t.ok("sed -i 's/image: httpd/image: busybox/; s/replicas: 3/replicas: 2/' deployment.yaml");
    let diff = t.sh("kubectl diff -f - < deployment.yaml");
    assert_eq!(diff.code, 1, "{diff:?}");
    for line in
        ["-      - image: httpd", "+      - image: busybox", "-  replicas: 3", "+  replicas: 2"]
    {
        assert!(diff.stdout.lines().any(|found| found.starts_with(line)), "{line} in {diff:?}");
    }
}

/// The address and port that a service leads to.
fn leads_to(t: &Shell, service: &str) -> String {
    let query = "{.subsets[0].addresses[0].ip}:{.subsets[0].ports[0].port}";
    let endpoints = format!("kubectl get endpoints {service} -o 'jsonpath={query}'");
    t.until(&endpoints, "an address", |found| found.len() > 1 && !found.starts_with(':'))
}

// Conformance: Kubectl, create service, replication controller
fn controllers_and_services_are_exposed(t: &Shell) {
    let pod = primary(t);
    let address = t.ok(&format!("kubectl get pod {pod} -o 'jsonpath={{.status.podIP}}'"));
    t.ok("kubectl expose rc agnhost-primary --name=rm2 --port=1234 --target-port=6379");
    assert_eq!(leads_to(t, "rm2"), format!("{address}:6379"));
    assert_eq!(t.ok("kubectl get service rm2 -o 'jsonpath={.spec.ports[0].port}'"), "1234");
    t.ok("kubectl expose service rm2 --name=rm3 --port=2345 --target-port=6379");
    assert_eq!(leads_to(t, "rm3"), format!("{address}:6379"));
    assert_eq!(t.ok("kubectl get service rm3 -o 'jsonpath={.spec.ports[0].port}'"), "2345");
}

// Conformance: Kubectl, label update
fn a_label_is_set_shown_and_removed(t: &Shell) {
    t.ok("kubectl run pause --image=pause");
    t.eventually("kubectl get pod pause", "Running");
    t.ok("kubectl label pods pause testing-label=testing-label-value");
    let shown = t.ok("kubectl get pod pause -L testing-label");
    assert!(shown.contains("testing-label-value"), "{shown}");
    t.ok("kubectl label pods pause testing-label-");
    let shown = t.ok("kubectl get pod pause -L testing-label");
    assert!(!shown.contains("testing-label-value"), "{shown}");
}

// Conformance: Kubectl, patch to annotate
fn the_pods_of_a_controller_are_annotated_by_patches(t: &Shell) {
    let pod = primary(t);
    t.ok(&format!(
        "kubectl patch pod {pod} -p '{{\"metadata\":{{\"annotations\":{{\"x\":\"y\"}}}}}}'"
    ));
    let annotated =
        "kubectl get pods -l app=agnhost -o 'jsonpath={.items[*].metadata.annotations.x}'";
    assert_eq!(t.ok(annotated), "y");
}

fn httpd(t: &Shell) {
    t.ok("kubectl run e2e-test-httpd-pod --image=httpd --labels=run=e2e-test-httpd-pod");
    t.eventually("kubectl get pods -l run=e2e-test-httpd-pod", "Running");
}

const IMAGE: &str = "kubectl get pod e2e-test-httpd-pod -o 'jsonpath={.spec.containers[0].image}'";

// Conformance: Kubectl, replace
fn replace_changes_the_image_of_a_pod(t: &Shell) {
    httpd(t);
    t.ok("kubectl get pod e2e-test-httpd-pod -o json | sed 's/\"image\": \"httpd\"/\"image\": \"busybox\"/' \
          > pod.json");
    t.ok("kubectl replace -f - < pod.json");
    assert_eq!(t.ok(IMAGE), "busybox");
}

// Conformance: Kubectl, run pod
fn run_makes_a_pod_that_does_not_restart(t: &Shell) {
    t.ok("kubectl run e2e-test-httpd-pod --restart=Never --pod-running-timeout=2m0s --image=httpd");
    let query = "{.spec.containers[0].image} {.spec.restartPolicy}";
    let pod = format!("kubectl get pod e2e-test-httpd-pod -o 'jsonpath={query}'");
    assert_eq!(t.ok(&pod), "httpd Never");
    t.ok("kubectl delete pods e2e-test-httpd-pod");
}

// Conformance: Kubectl, server-side dry-run Pod
fn a_dry_run_on_the_server_changes_nothing(t: &Shell) {
    httpd(t);
    let patch = r#"{"spec":{"containers":[{"name":"e2e-test-httpd-pod","image":"busybox"}]}}"#;
    t.ok(&format!("kubectl patch pod e2e-test-httpd-pod -p '{patch}' --dry-run=server"));
    assert_eq!(t.ok(IMAGE), "httpd");
    t.ok("kubectl delete pods e2e-test-httpd-pod");
}

// Conformance: Kubectl, version
fn version_tells_of_client_and_server(t: &Shell) {
    let version = t.ok("kubectl version");
    for text in ["Client Version:", "Server Version:"] {
        assert!(version.contains(text), "{text} in {version}");
    }
    let version: Value = serde_json::from_str(&t.ok("kubectl version -o json")).expect("JSON");
    for side in ["clientVersion", "serverVersion"] {
        for key in ["major", "minor", "gitVersion", "gitCommit", "goVersion", "platform"] {
            assert!(version[side][key].is_string(), "{side}.{key} in {version}");
        }
    }
}

// Conformance: Kubectl, proxy socket
fn a_proxy_listens_on_a_socket(t: &Shell) {
    t.ok("(timeout 30 kubectl proxy --unix-socket=./test.sock > proxy.out 2>&1 &)");
    t.eventually("cat proxy.out", "Starting to serve on");
    let answer = t.ok("curl -s --unix-socket ./test.sock http://localhost/api/");
    assert!(answer.contains("APIVersions"), "{answer}");
}

// Conformance: Kubectl, proxy port zero
fn a_proxy_finds_a_port_of_its_own(t: &Shell) {
    t.ok("(timeout 30 kubectl proxy -p 0 --disable-filter > proxy.out 2>&1 &)");
    let said = t.eventually("cat proxy.out", "Starting to serve on");
    let address = said.split_whitespace().last().expect("an address").to_owned();
    assert!(!address.ends_with(":0"), "{address}");
    let answer = t.ok(&format!("curl -s http://{address}/api/"));
    assert!(answer.contains("APIVersions"), "{answer}");
}

fn get_watch_and_chunks_show_all(t: &Shell) {
    t.ok("for i in 1 2 3 4 5; do kubectl create configmap m$i -o name || exit 1; done");
    let names = "kubectl get configmaps -o name";
    let chunked = t.ok(&format!("{names} --chunk-size=2 -v=6 2> log"));
    assert_eq!(chunked, t.ok(names));
    let requests = t.ok("grep -c 'configmaps?.*limit=2' log");
    assert_eq!(requests.trim(), "3");
    t.ok("(timeout 20 kubectl get configmaps -w --output-watch-events > watch.out 2>&1 &)");
    t.eventually("cat watch.out", "m5");
    t.ok("kubectl create configmap later && kubectl delete configmap m1");
    let watched = t.until("cat watch.out", "both changes", |watched| {
        watched.lines().any(|line| line.starts_with("DELETED") && line.contains("m1"))
    });
    assert!(
        watched.lines().any(|line| line.starts_with("ADDED") && line.contains("later")),
        "{watched}"
    );
}

const UPDATE_DEMO: &str = "\
apiVersion: v1
kind: ReplicationController
metadata: {name: update-demo-nautilus, labels: {name: update-demo, version: nautilus}}
spec:
  replicas: 2
  selector: {name: update-demo, version: nautilus}
  template:
    metadata: {labels: {name: update-demo, version: nautilus}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: update-demo
        image: busybox
        command:
        - sh
        - -c
        - >-
          mkdir /www; echo '{\"image\":\"nautilus.jpg\"}' >/www/data.json;
          exec httpd -f -p 80 -h /www
        ports: [{containerPort: 80}]
";

/// So many Pods of the demonstration run its image, and answer through the API server.
fn update_demo_has(t: &Shell, pods: usize) {
    let list = "kubectl get pods -l name=update-demo -o template \
                --template='{{range .items}}{{.metadata.name}} {{end}}'";
    let names = t.until(list, "the Pods", |names| names.split_whitespace().count() == pods);
    for name in names.split_whitespace() {
        let running = "{{if (exists . \"status\" \"containerStatuses\")}}\
                       {{range .status.containerStatuses}}{{if (and (eq .name \"update-demo\") \
                       (exists . \"state\" \"running\"))}}true{{end}}{{end}}{{end}}";
        let pod = format!("kubectl get pods {name} -o template --template='");
        t.until(&format!("{pod}{running}'"), "running", |found| found == "true");
        let image = "{{if (exists . \"spec\" \"containers\")}}{{range .spec.containers}}\
                     {{if eq .name \"update-demo\"}}{{.image}}{{end}}{{end}}{{end}}";
        assert_eq!(t.ok(&format!("{pod}{image}'")), "busybox");
        let path = format!("/api/v1/namespaces/{}/pods/{name}/proxy/data.json", t.namespace());
        t.eventually(&format!("kubectl get --raw {path}"), r#""image":"nautilus.jpg""#);
    }
}

// Conformance: Kubectl, replication controller
fn a_controller_is_created_and_deleted_with_its_pods(t: &Shell) {
    t.write("update-demo.yaml", UPDATE_DEMO);
    t.ok("kubectl create -f - < update-demo.yaml");
    update_demo_has(t, 2);
    t.ok("kubectl delete --grace-period=0 --force -f - < update-demo.yaml");
    assert_eq!(t.ok("kubectl get rc,svc -l name=update-demo --no-headers"), "");
    t.until("kubectl get pods -l name=update-demo -o name", "no Pods", str::is_empty);
}

// Conformance: Kubectl, scale replication controller
fn a_controller_is_scaled_down_and_up(t: &Shell) {
    t.write("update-demo.yaml", UPDATE_DEMO);
    t.ok("kubectl create -f - < update-demo.yaml");
    update_demo_has(t, 2);
    for replicas in [1, 2] {
        t.ok(&format!("kubectl scale rc update-demo-nautilus --replicas={replicas} --timeout=5m"));
        update_demo_has(t, replicas);
    }
    t.ok("kubectl delete --grace-period=0 --force -f - < update-demo.yaml");
}

// Conformance: Kubectl, logs
fn logs_are_filtered(t: &Shell) {
    let spec = "restartPolicy: Never\ncontainers:\n- name: logs-generator\n  image: busybox\n  \
                imagePullPolicy: IfNotPresent\n  command: [sh, -c, 'i=0; while :; do \
                echo I0101 put /api/v1/namespaces/default/pods/$i 200; i=$((i+1)); sleep 0.5; done']";
    apply(t, "logs-generator", spec);
    t.eventually("kubectl logs logs-generator logs-generator", "/api/v1/namespaces/");
    let lines = |line: &str| t.ok(line).lines().count();
    assert_eq!(lines("kubectl logs logs-generator logs-generator --tail=1"), 1);
    assert_eq!(t.ok("kubectl logs logs-generator logs-generator --limit-bytes=1").len(), 1);
    let stamped = t.ok("kubectl logs logs-generator logs-generator --tail=1 --timestamps");
    let time = stamped.split_whitespace().next().expect("a time");
    assert!(time.contains('T') && time.ends_with('Z'), "{stamped}");
    assert_eq!(stamped.lines().count(), 1);
    t.ok("sleep 3");
    let recent = lines("kubectl logs logs-generator logs-generator --since=1s");
    let all = lines("kubectl logs logs-generator logs-generator --since=24h");
    assert!(recent < all, "{recent} of {all}");
    t.ok("kubectl delete pod logs-generator --grace-period=1");
}
