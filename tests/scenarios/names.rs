//! Cluster DNS, asked from within Pods: by busybox's `nslookup`, and by what resolves names as the C
//! library does. The former asks for a name without dots in all domains of the search list, and
//! prints all answers; others it asks for as they are.

use std::collections::BTreeSet;

use rk::{Cluster, ClusterDns, NativeNode};

use crate::harness::{Shell, apply, rows, scenarios};

scenarios! {
    Real:
        s113_an_init_container_ends_when_its_service_resolves,
        s139_stateful_pods_are_found_by_their_names,
        s139_names_end_in_the_clusters_domain,
        s140_without_its_service_a_stateful_set_has_no_names,
        s171_an_external_name_is_an_alias,
        s173_a_headless_service_resolves_to_its_ready_pods,
        s184_a_pod_finds_the_api_server_by_name,
        s185_short_and_full_names_of_a_service,
        s186_a_name_comes_and_goes_with_its_service,
        s187_a_client_by_name_reaches_all_back_ends,
        a_service_of_ones_own_takes_the_place_of_cluster_dns;
}

/// Runs the Pod `client`, which only sleeps.
fn client(t: &Shell) {
    let spec = "containers:\n- {name: c, image: busybox, command: [sleep, 1d], imagePullPolicy: IfNotPresent}";
    apply(t, "client", spec);
    t.eventually("kubectl get pod client", "1/1");
}

/// Looks a name up from the Pod `client`, whatever comes of it.
fn look_up(name: &str) -> String {
    format!("kubectl exec client -- nslookup -type=a {name} 2>&1; true")
}

/// The addresses that such an answer has, besides the server's.
fn addresses(answer: &str) -> BTreeSet<&str> {
    let rows = answer.lines().filter_map(|line| line.strip_prefix("Address: "));
    rows.map(str::trim).collect()
}

/// Waits until a name has these addresses, or, for none, until there is no such name.
#[track_caller]
fn resolves(t: &Shell, name: &str, to: &[&str]) {
    let to = to.iter().copied().collect::<BTreeSet<_>>();
    t.until(&look_up(name), &format!("{name} is {to:?}"), |answer| {
        addresses(answer) == to && (!to.is_empty() || answer.contains("NXDOMAIN"))
    });
}

/// Looks up a name as programs do that connect to it, with the search list.
#[track_caller]
fn connects(t: &Shell, name: &str, to: &str) {
    let ping = t.sh(&format!("kubectl exec client -- ping -c 1 -W 1 {name} 2>&1")).stdout;
    assert!(ping.starts_with(&format!("PING {name} ({to})")), "{ping}");
}

/// The addresses of all Pods of a label, once so many are ready.
#[track_caller]
fn pods(t: &Shell, label: &str, count: usize) -> String {
    t.until(&format!("kubectl get pods -l {label} --no-headers"), "all ready", |out| {
        rows(out).len() == count && rows(out).iter().all(|row| row[1..3] == ["1/1", "Running"])
    });
    t.ok(&format!("kubectl get pods -l {label} -o 'jsonpath={{.items[*].status.podIP}}'"))
}

// The manifest names the namespace `default`, which all tests share: its place takes the test's own.
fn s113_an_init_container_ends_when_its_service_resolves(t: &Shell) {
    t.manifest("03-pod-init-container.yaml");
    t.manifest("04-service-myservice-no-selector.yaml");
    let (namespace, name) =
        (t.namespace(), format!("myservice.{}.svc.cluster.local", t.namespace()));
    t.ok(&format!(
        "sed -i 's/image: busybox/image: busybox\\n    imagePullPolicy: IfNotPresent/; s/default/{namespace}/' \
         03-pod-init-container.yaml"
    ));
    t.ok("kubectl apply -f 03-pod-init-container.yaml");
    t.eventually("kubectl logs nginx -c init-container", "waiting for myservice");
    assert!(t.ok("kubectl get pod nginx").contains("Init:0/1"));
    t.ok("kubectl apply -f 04-service-myservice-no-selector.yaml");
    t.eventually("kubectl get pod nginx", "1/1");
    let address = t.ok("kubectl get service myservice -o 'jsonpath={.spec.clusterIP}'");
    assert!(t.ok("kubectl logs nginx -c init-container").contains(&format!("Address: {address}")));
    client(t);
    resolves(t, &name, &[&address]);
    t.ok("kubectl delete -f 04-service-myservice-no-selector.yaml");
    resolves(t, &name, &[]);
    t.ok("kubectl delete pod nginx --grace-period=1 --wait=false");
}

/// The manifest of a StatefulSet without its volumes, which are not what is asked for here.
fn stateful(t: &Shell, manifest: &str) {
    t.manifest(manifest);
    t.ok(&format!(
        "sed -i -e '/volumeMounts:/,$d' -e 's/namespace: default/namespace: {}/' \
         -e 's/^\\( *\\)image: nginx/\\1image: nginx\\n\\1imagePullPolicy: IfNotPresent/' {manifest}",
        t.namespace()
    ));
}

fn s139_stateful_pods_are_found_by_their_names(t: &Shell) {
    client(t);
    stateful(t, "46-statefulset-web.yaml");
    t.ok("kubectl apply -f 46-statefulset-web.yaml");
    let all = pods(t, "app=nginx", 3);
    let name = format!("nginx.{}.svc.cluster.local", t.namespace());
    resolves(t, &name, &all.split(' ').collect::<Vec<_>>());
    let ip = |pod: &str| t.ok(&format!("kubectl get pod {pod} -o 'jsonpath={{.status.podIP}}'"));
    for pod in ["web-0", "web-1", "web-2"] {
        assert_eq!(t.ok(&format!("kubectl exec {pod} -- hostname")).trim(), pod);
        resolves(t, &format!("{pod}.{name}"), &[&ip(pod)]);
    }
    resolves(t, &format!("web-3.{name}"), &[]);

    let uid = "kubectl get pod web-1 --ignore-not-found -o 'jsonpath={.metadata.uid}'";
    let before = t.ok(uid);
    t.ok("kubectl delete pod web-1 --grace-period=1 --wait=false");
    t.until(uid, "another Pod of the name", |uid| !uid.is_empty() && uid != before);
    pods(t, "app=nginx", 3);
    resolves(t, &format!("web-1.{name}"), &[&ip("web-1")]);
}

/// A cluster of the test's own, gone with its value. Its kubeconfig is the shell's.
struct Own {
    runtime: tokio::runtime::Runtime,
    cluster: Cluster,
}

impl Own {
    fn start(t: &Shell, dns: ClusterDns) -> Self {
        let images = t.directory().parent().expect("it is in the run's").join("images.tar");
        let node = NativeNode::new().root(t.directory().join("node")).name("own").load([images]);
        let runtime = tokio::runtime::Runtime::new().expect("threads can be made");
        let cluster = Cluster::builder().native(node).dns(dns).listen(([127, 0, 0, 1], 0));
        let cluster = runtime.block_on(cluster.start()).expect("the cluster starts");
        t.write("kubeconfig", cluster.kubeconfig().expect("it listens"));
        let own = Self { runtime, cluster };
        t.eventually("kubectl get serviceaccount default -o name", "serviceaccount/default");
        own
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.runtime.block_on(self.cluster.shutdown());
    }
}

fn s139_names_end_in_the_clusters_domain(t: &Shell) {
    stateful(t, "47-statefulset-web-foo.yaml");
    for domain in ["cluster.local", "kube.local"] {
        let kubeconfig = t.ok("cat kubeconfig");
        let own = Own::start(t, ClusterDns::new().domain(domain));
        client(t);
        t.ok("kubectl apply -f 47-statefulset-web-foo.yaml");
        t.until("kubectl get pods -n foo --no-headers", "three", |out| {
            rows(out).iter().filter(|row| row[1] == "1/1").count() == 3
        });
        for pod in ["web-0", "web-1", "web-2"] {
            let ip = t.ok(&format!("kubectl get pod -n foo {pod} -o 'jsonpath={{.status.podIP}}'"));
            let name = format!("{pod}.nginx.foo.svc.{domain}");
            assert_eq!(t.ok(&format!("kubectl exec -n foo {pod} -- hostname -f")).trim(), name);
            resolves(t, &name, &[&ip]);
            connects(t, &format!("{pod}.nginx.foo"), &ip);
        }
        drop(own);
        t.write("kubeconfig", &kubeconfig);
    }
}

fn s140_without_its_service_a_stateful_set_has_no_names(t: &Shell) {
    client(t);
    stateful(t, "46-statefulset-web.yaml");
    t.ok("sed '1,/^---$/d' 46-statefulset-web.yaml > set.yaml");
    t.ok("sed '/^---$/,$d' 46-statefulset-web.yaml > service.yaml");
    t.ok("kubectl apply -f set.yaml");
    pods(t, "app=nginx", 3);
    let name = format!("web-0.nginx.{}.svc.cluster.local", t.namespace());
    resolves(t, &name, &[]);
    t.ok("kubectl apply -f service.yaml");
    let ip = t.ok("kubectl get pod web-0 -o 'jsonpath={.status.podIP}'");
    resolves(t, &name, &[&ip]);
}

/// The rules of the cluster's Services.
fn rules(t: &Shell) -> String {
    let netns = t.directory().parent().expect("it is in the run's").join("node/netns/node");
    t.ok(&format!("nsenter --net={} nft list ruleset", netns.display()))
}

fn s171_an_external_name_is_an_alias(t: &Shell) {
    client(t);
    t.manifest("26-service-externalname.yaml");
    t.ok("kubectl apply -f 26-service-externalname.yaml");
    let name = format!("ex-service.{}.svc.cluster.local", t.namespace());
    t.eventually(&look_up(&name), &format!("{name}\tcanonical name = test.westos.org"));
    let spec = "kubectl get service ex-service -o 'jsonpath={.spec.clusterIP}{.spec.clusterIPs}'";
    assert_eq!(t.ok(spec), "");
    let slices = "kubectl get endpointslices -l kubernetes.io/service-name=ex-service -o name";
    assert_eq!(t.ok(slices), "");
    // A later one, whose rules are there, says that the proxy has seen both.
    t.ok("kubectl create service clusterip later --tcp=80");
    let later = t.ok("kubectl get service later -o 'jsonpath={.spec.clusterIP}'");
    t.until("true", "rules of the later one", |_| rules(t).contains(&later));
    assert!(!rules(t).contains(&format!("{}/ex-service", t.namespace())));
    t.ok(
        "kubectl patch service ex-service -p '{\"spec\": {\"externalName\": \"www.westos.org\"}}'",
    );
    t.eventually(&look_up(&name), &format!("{name}\tcanonical name = www.westos.org"));
}

fn s173_a_headless_service_resolves_to_its_ready_pods(t: &Shell) {
    client(t);
    t.manifest("20-service-headless.yaml");
    t.ok("kubectl apply -f 20-service-headless.yaml");
    t.ok("kubectl create deployment nginx --image=myapp:v1 --replicas=3");
    assert!(t.ok("kubectl get service nginx-svc").contains("None"));
    let name = format!("nginx-svc.{}.svc.cluster.local", t.namespace());
    resolves(t, &name, &pods(t, "app=nginx", 3).split(' ').collect::<Vec<_>>());
    t.ok("kubectl scale deployment nginx --replicas=1");
    resolves(t, &name, &[&pods(t, "app=nginx", 1)]);
    // One that never gets ready is not in the answer.
    t.ok("kubectl run late --image=myapp:v1 --labels=app=nginx --overrides='{\"spec\": {\"readinessGates\": [{\"conditionType\": \"example.com/ok\"}]}}'");
    let slices = "kubectl get endpointslices -l kubernetes.io/service-name=nginx-svc -o yaml";
    t.eventually(slices, "ready: false");
    let ready = t.ok(
        "kubectl get pods -l app=nginx,pod-template-hash -o 'jsonpath={.items[*].status.podIP}'",
    );
    resolves(t, &name, &[&ready]);
    assert!(!rules(t).contains(&format!("{}/nginx-svc", t.namespace())));
}

fn s184_a_pod_finds_the_api_server_by_name(t: &Shell) {
    // As in the document the Pod is in `default`, as the Service is.
    let pod = format!("client-{}", t.namespace());
    t.ok(&format!("kubectl run {pod} -n default --image=busybox:1.28.4 -- sleep 1d"));
    t.eventually(&format!("kubectl get pod {pod} -n default"), "1/1");
    let exec = |command: &str| format!("kubectl exec -n default {pod} -- {command}");
    let conf = t.ok(&exec("cat /etc/resolv.conf"));
    let [search, server, options] = &conf.lines().collect::<Vec<_>>()[..] else {
        panic!("{conf}");
    };
    assert!(search.starts_with("search default.svc.cluster.local svc.cluster.local cluster.local"));
    assert_eq!(*server, "nameserver 10.96.0.10");
    assert!(options.contains("ndots:5"));

    let answer =
        t.eventually(&exec("nslookup -type=a kubernetes 2>&1; true"), "kubernetes.default");
    assert_eq!(rows(&answer)[0], ["Server:", "10.96.0.10"]);
    assert_eq!(rows(&answer)[1], ["Address:", "10.96.0.10:53"]);
    assert!(
        answer.contains("Name:\tkubernetes.default.svc.cluster.local\nAddress: 10.96.0.1\n"),
        "{answer}"
    );
    // Older ones print the server's name, which they ask for so.
    let reverse = t.ok(&exec("nslookup 10.96.0.10"));
    assert!(
        reverse.contains("10.0.96.10.in-addr.arpa\tname = kube-dns.kube-system.svc.cluster.local"),
        "{reverse}"
    );
    t.ok(&format!("kubectl delete pod {pod} -n default --grace-period=1 --wait=false"));
}

fn s185_short_and_full_names_of_a_service(t: &Shell) {
    client(t);
    t.manifest("04-service-myservice-no-selector.yaml");
    t.ok("kubectl apply -f 04-service-myservice-no-selector.yaml");
    let address = t.ok("kubectl get service myservice -o 'jsonpath={.spec.clusterIP}'");
    let full = format!("myservice.{}.svc.cluster.local.", t.namespace());
    for name in [&*full, "myservice", &format!("{full} 10.96.0.10")] {
        resolves(t, name, &[&address]);
    }
    connects(t, "myservice", &address);
    resolves(t, "yourservice", &[]);
    resolves(t, &full.replace("myservice", "yourservice"), &[]);
}

fn s186_a_name_comes_and_goes_with_its_service(t: &Shell) {
    client(t);
    let name = format!("web.{}.svc.cluster.local", t.namespace());
    resolves(t, &name, &[]);
    for _ in 0..2 {
        t.ok("kubectl create service clusterip web --tcp=80");
        let address = t.ok("kubectl get service web -o 'jsonpath={.spec.clusterIP}'");
        resolves(t, &name, &[&address]);
        t.ok("kubectl delete service web");
        resolves(t, &name, &[]);
    }
}

fn s187_a_client_by_name_reaches_all_back_ends(t: &Shell) {
    client(t);
    t.manifest("15-deployment-nginx-with-service.yaml");
    t.ok("sed -i 's/replicas: 3/replicas: 2/' 15-deployment-nginx-with-service.yaml");
    t.ok("kubectl apply -f 15-deployment-nginx-with-service.yaml");
    pods(t, "app=nginx", 2);
    let names = t.ok("kubectl get pods -l app=nginx -o 'jsonpath={.items[*].metadata.name}'");
    let mut missing: BTreeSet<_> = names.split(' ').collect();
    // Not by `wget`: a statically linked one may crash when it resolves a name.
    let ask = "printf 'GET /hostname.html HTTP/1.0\\r\\n\\r\\n' | kubectl exec -i client -- nc -w 5 myservice 80 | tail -1";
    while !missing.is_empty() {
        // Each answer is from any of them: it is asked until those that are missing answered.
        let name =
            t.until(ask, &format!("one of {missing:?}"), |name| missing.contains(name.trim()));
        missing.remove(name.trim());
    }
}

fn a_service_of_ones_own_takes_the_place_of_cluster_dns(t: &Shell) {
    let kubeconfig = t.ok("cat kubeconfig");
    let own = Own::start(t, ClusterDns::new());
    let slices = "kubectl get endpointslices -n kube-system -l kubernetes.io/service-name=kube-dns \
                  --no-headers -o custom-columns=M:.metadata.labels.endpointslice\\\\.kubernetes\\\\.io/managed-by";
    t.eventually(slices, "cluster-dns.rk.dev");
    t.manifest("56-coredns.yaml");
    t.ok("sed -i 's/clusterIP: 10.0.0.2/clusterIP: 10.96.0.10/' 56-coredns.yaml");
    t.ok("kubectl apply -f 56-coredns.yaml");
    t.until(slices, "only the selected Pods'", |out| {
        rows(out).concat() == ["endpointslice-controller.k8s.io"]
    });
    // And back.
    t.ok("kubectl patch service kube-dns -n kube-system --type=merge -p '{\"spec\": {\"selector\": null}}'");
    t.eventually(slices, "cluster-dns.rk.dev");
    drop(own);
    t.write("kubeconfig", &kubeconfig);
}
