//! What a cluster has from the start, and what it admits.

use crate::harness::{Shell, rows, scenarios};

scenarios! {
    Sim:
        s17_nodes_in_all_forms,
        s18_namespaces_of_a_new_cluster,
        s31_missing_terminating_and_protected_namespaces,
        s32_limit_ranges_fill_in_and_refuse,
        s33_a_pod_gets_its_namespaces_account,
        s79_describe_shows_an_accounts_token,
        s152_endpoints_follow_the_ready_pods,
        s169_a_node_port_is_given_once;
}

fn s17_nodes_in_all_forms(t: &Shell) {
    for resource in ["node", "nodes"] {
        let out = t.ok(&format!("kubectl get {resource}"));
        assert_eq!(rows(&out)[0], ["NAME", "STATUS", "ROLES", "AGE", "VERSION"], "{out}");
    }
    let wide = t.ok("kubectl get nodes -o wide");
    let head = wide.lines().next().unwrap_or_default();
    for column in ["INTERNAL-IP", "EXTERNAL-IP", "OS-IMAGE", "KERNEL-VERSION", "CONTAINER-RUNTIME"]
    {
        assert!(head.contains(column), "{wide}");
    }
    let labelled = t.ok("kubectl get nodes --show-labels --no-headers");
    for row in rows(&labelled) {
        let hostname = format!("kubernetes.io/hostname={}", row[0]);
        assert!(row[5].split(',').any(|label| label == hostname), "{labelled}");
    }
}

fn s18_namespaces_of_a_new_cluster(t: &Shell) {
    let out = t.ok("kubectl get ns --no-headers");
    for name in ["default", "kube-node-lease", "kube-public", "kube-system"] {
        assert!(rows(&out).iter().any(|row| row[..2] == [name, "Active"]), "{out}");
    }
    let nodes = t.ok("kubectl get nodes -o name --sort-by=.metadata.name");
    let leases = t.ok("kubectl get leases -n kube-node-lease -o name");
    for node in nodes.lines().filter_map(|line| line.split('/').nth(1)) {
        assert!(leases.lines().any(|lease| lease.ends_with(&format!("/{node}"))), "{leases}");
    }
    let node = nodes.lines().next().and_then(|line| line.split('/').nth(1)).expect("a node");
    let renewed =
        format!("kubectl get lease {node} -n kube-node-lease -o 'jsonpath={{.spec.renewTime}}'");
    let before = t.ok(&renewed);
    t.until(&renewed, "a later time", |now| now > before.as_str());
}

fn s31_missing_terminating_and_protected_namespaces(t: &Shell) {
    let missing = t.fails("kubectl create configmap lost -n nowhere");
    assert!(missing.contains("namespaces \"nowhere\" not found"), "{missing}");

    let going = format!("going-{}", t.namespace());
    t.ok(&format!("kubectl create namespace {going}"));
    t.ok(&format!("kubectl create configmap held -n {going}"));
    let hold = "'{\"metadata\": {\"finalizers\": [\"example.com/hold\"]}}'";
    t.ok(&format!("kubectl patch configmap held -n {going} --type=merge -p {hold}"));
    t.ok(&format!("kubectl delete namespace {going} --wait=false"));
    t.eventually(&format!("kubectl get namespace {going}"), "Terminating");
    let refused = t.fails(&format!("kubectl create configmap late -n {going}"));
    assert!(
        refused.contains("forbidden") && refused.contains("because it is being terminated"),
        "{refused}"
    );
    let release = "'{\"metadata\": {\"finalizers\": null}}'";
    t.ok(&format!("kubectl patch configmap held -n {going} --type=merge -p {release}"));
    t.until(&format!("kubectl get namespace {going} --ignore-not-found"), "gone", str::is_empty);

    for protected in ["default", "kube-system", "kube-public"] {
        let refused = t.fails(&format!("kubectl delete namespace {protected}"));
        assert!(
            refused.contains("(Forbidden)") && refused.contains("may not be deleted"),
            "{refused}"
        );
    }
}

fn s32_limit_ranges_fill_in_and_refuse(t: &Shell) {
    t.write(
        "range.yaml",
        "apiVersion: v1\nkind: LimitRange\nmetadata: {name: range}\nspec:\n  limits:\n  - type: Container\n    \
         default: {cpu: 200m, memory: 64Mi}\n    defaultRequest: {cpu: 100m}\n    max: {cpu: 500m}\n",
    );
    t.ok("kubectl apply -f range.yaml");
    t.ok("kubectl run plain --image=nginx");
    let resources = "kubectl get pod plain -o 'jsonpath={.spec.containers[0].resources}'";
    assert_eq!(
        t.ok(resources),
        r#"{"limits":{"cpu":"200m","memory":"64Mi"},"requests":{"cpu":"100m","memory":"64Mi"}}"#
    );
    t.write(
        "big.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: big}\nspec:\n  containers:\n  \
         - {name: c, image: nginx, resources: {limits: {cpu: \"1\"}}}\n",
    );
    let refused = t.fails("kubectl apply -f big.yaml");
    assert!(
        refused.contains("maximum cpu usage per Container is 500m, but limit is 1"),
        "{refused}"
    );
}

fn s33_a_pod_gets_its_namespaces_account(t: &Shell) {
    t.ok("kubectl run plain --image=nginx");
    let pod = "kubectl get pod plain -o";
    assert_eq!(t.ok(&format!("{pod} 'jsonpath={{.spec.serviceAccountName}}'")), "default");
    let mounted = t.ok(&format!("{pod} 'jsonpath={{.spec.containers[0].volumeMounts}}'"));
    assert!(mounted.contains("/var/run/secrets/kubernetes.io/serviceaccount"), "{mounted}");
    let volumes = t.ok(&format!("{pod} 'jsonpath={{.spec.volumes}}'"));
    assert!(volumes.contains("serviceAccountToken"), "{volumes}");
    let overrides = "'{\"spec\": {\"serviceAccountName\": \"nobody\"}}'";
    let refused = t.fails(&format!("kubectl run other --image=nginx --overrides={overrides}"));
    assert!(refused.contains("serviceaccount \"nobody\" not found"), "{refused}");
}

fn s79_describe_shows_an_accounts_token(t: &Shell) {
    t.ok("kubectl create serviceaccount dashboard-admin");
    t.eventually("kubectl get secret", "dashboard-admin-token-");
    let described =
        t.ok("kubectl describe secrets $(kubectl get secret | awk '/dashboard-admin/{print $1}')");
    let value = |key: &str| {
        let line = described.lines().find_map(|line| line.strip_prefix(&format!("{key}:")));
        line.unwrap_or_default().trim().to_owned()
    };
    assert_eq!(value("token").split('.').count(), 3, "{described}");
    assert!(value("ca.crt").ends_with("bytes"), "{described}");
    assert_eq!(value("namespace"), format!("{} bytes", t.namespace().len()), "{described}");

    t.ok("kubectl create secret generic hidden --from-literal=password=in-the-open");
    let described = t.ok("kubectl describe secret hidden");
    assert!(described.contains("password:  11 bytes"), "{described}");
    assert!(!described.contains("in-the-open"), "{described}");
}

fn s152_endpoints_follow_the_ready_pods(t: &Shell) {
    t.manifest("15-deployment-nginx-with-service.yaml");
    // A gate of our own says which of the Pods are ready.
    t.ok("sed -i 's/^    spec:$/    spec:\\n      readinessGates: [{conditionType: example.com\\/in}]/' \
          15-deployment-nginx-with-service.yaml");
    t.ok("kubectl apply -f 15-deployment-nginx-with-service.yaml");
    let pods = t.until(
        "kubectl get pods -l app=nginx --no-headers -o custom-columns=N:.metadata.name,I:.status.podIP",
        "three addresses",
        |out| rows(out).len() == 3 && rows(out).iter().all(|row| row[1] != "<none>"),
    );
    let pods: Vec<(&str, &str)> = rows(&pods).iter().map(|row| (row[0], row[1])).collect();
    let listed = |addresses: &[&str]| {
        let mut wanted: Vec<String> = addresses.iter().map(|it| format!("{it}:80")).collect();
        wanted.sort();
        let endpoints = "kubectl get endpoints myservice -o 'jsonpath={range .subsets[*].addresses[*]}\
                         {.ip}:80{\"\\n\"}{end}'";
        let slices = "kubectl get endpointslices -l kubernetes.io/service-name=myservice -o \
                      'jsonpath={range .items[*].endpoints[?(@.conditions.ready==true)]}\
                      {.addresses[0]}:80{\"\\n\"}{end}'";
        for line in [endpoints, slices] {
            t.until(line, &wanted.join(" "), |out| {
                let mut found: Vec<_> = out.lines().map(str::to_owned).collect();
                found.sort();
                found == wanted
            });
        }
    };
    let gate = |pod: &str, status: &str| {
        t.ok(&format!(
            "kubectl patch pod {pod} --subresource=status -p \
             '{{\"status\": {{\"conditions\": [{{\"type\": \"example.com/in\", \"status\": \"{status}\"}}]}}}}'"
        ));
    };
    listed(&[]);
    gate(pods[0].0, "True");
    gate(pods[1].0, "True");
    listed(&[pods[0].1, pods[1].1]);
    let ports = "kubectl get endpoints myservice -o 'jsonpath={.subsets[0].ports[0].port}'";
    assert_eq!(t.ok(ports), "80");
    gate(pods[0].0, "False");
    listed(&[pods[1].1]);
    t.ok(&format!("kubectl delete pod {} --wait=false", pods[1].0));
    listed(&[]);

    t.manifest("04-service-myservice-no-selector.yaml");
    t.ok("sed -i 's/name: myservice/name: without/' 04-service-myservice-no-selector.yaml");
    t.ok("kubectl apply -f 04-service-myservice-no-selector.yaml");
    t.fails("kubectl get endpoints without");
    assert_eq!(t.ok("kubectl get endpointslices -l kubernetes.io/service-name=without"), "");
}

fn s169_a_node_port_is_given_once(t: &Shell) {
    let service = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: NodePort\n  \
             selector: {{app: {name}}}\n  ports: [{{port: 443, targetPort: 8443, nodePort: 30001}}]\n"
        )
    };
    t.write("one.yaml", &service("one"));
    t.write("two.yaml", &service("two"));
    t.ok("kubectl apply -f one.yaml");
    assert!(t.ok("kubectl get service one").contains("443:30001/TCP"));
    let refused = t.fails("kubectl apply -f two.yaml");
    assert!(
        refused.contains("spec.ports[0].nodePort")
            && refused.contains("provided port is already allocated"),
        "{refused}"
    );
}
