//! Nodes as programs of their own: the `node` example with the kubelet's flags and configuration,
//! against the `apiserver` example, all on loopback.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rk::api::server::pki::Credentials;

use crate::{
    etcd::{free_ports, write_identity},
    harness::{Shell, scenarios},
    managers::Program,
    programs::{Components, Folder, Server, embedded, example, serve},
};

scenarios! {
    Program:
        a_node_gets_its_certificates_from_the_cluster,
        a_kubelet_answers_those_who_may_ask,
        s160_static_pods_and_their_mirrors,
        wrong_flags_and_fields_of_a_node_are_named;
}

/// The built node.
fn node() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example("node"))
}

/// An API server that reaches kubelets.
fn api_server(t: &Shell, folder: &Folder) -> Server {
    let client = folder.pki.client("kube-apiserver-kubelet-client", &["system:masters"]);
    write_identity(&folder.path, "kubelet-client", &client.expect("names are fine"));
    let more = [
        folder.file("kubelet-client-certificate", "kubelet-client.pem"),
        folder.file("kubelet-client-key", "kubelet-client-key.pem"),
        "--disable-admission-plugins=ServiceAccount".to_owned(),
    ];
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    serve(t, folder, "127.0.0.2", &embedded(t, folder, &more))
}

/// What a node of a test is told.
struct Kubelet {
    port: u16,
    flags: Vec<String>,
}

/// A simulated node of a folder of its own, whose configuration has these fields too.
fn kubelet(t: &Shell, folder: &Folder, name: &str, fields: &str) -> Kubelet {
    let ports = free_ports("127.0.0.1", 2);
    let (port, health) = (ports[0], ports[1]);
    let ca = folder.path.join("ca.pem");
    t.write(
        &format!("{name}.yaml"),
        &format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
             address: 127.0.0.1\nport: {port}\nhealthzPort: {health}\n\
             authentication:\n  x509: {{clientCAFile: {}}}\n{fields}",
            ca.display()
        ),
    );
    let flags = vec![
        format!("--config={name}.yaml"),
        format!("--kubeconfig={name}.conf"),
        format!("--root-dir={name}"),
        format!("--hostname-override={name}"),
        "--node-ip=127.0.0.1".to_owned(),
        "--runtime=sim".to_owned(),
    ];
    Kubelet { port, flags }
}

impl Kubelet {
    fn start(&self, t: &Shell, name: &str, more: &[&str]) -> Program {
        let mut flags = self.flags.clone();
        flags.extend(more.iter().map(|flag| (*flag).to_owned()));
        Program::start(t, name, node(), &flags)
    }
}

/// Writes the kubeconfig with which a node is known at once.
fn known(t: &Shell, folder: &Folder, server: &Server, name: &str) {
    let user = format!("system:node:{name}");
    let who = Credentials::Certificate { user: &user, groups: &["system:nodes"] };
    t.write(&format!("{name}.conf"), &server.kubeconfig(folder, &who));
}

fn ready(name: &str) -> String {
    format!(
        "kubectl get node {name} -o jsonpath='{{.status.conditions[?(@.type==\"Ready\")].status}}'"
    )
}

fn a_node_gets_its_certificates_from_the_cluster(t: &Shell) {
    let folder = Folder::new(t);
    let server = api_server(t, &folder);
    let components = Components::new();
    let administrator =
        components.client(&server.kubeconfig(&folder, &Credentials::Token("admin-token")));
    let names = "csrapproving,csrsigning";
    components.controllers(administrator, names, &folder.pki);
    // What kubeadm grants: whoever has a bootstrap's token may become a node, and stay one.
    let node_client = "system:certificates.k8s.io:certificatesigningrequests";
    t.ok(&format!(
        "kubectl create clusterrolebinding bootstrap --clusterrole=system:node-bootstrapper \
         --group=system:node-bootstrapper && \
         kubectl create clusterrolebinding approve --clusterrole={node_client}:nodeclient \
         --group=system:node-bootstrapper"
    ));
    let who = Credentials::Token("bootstrap-token");
    t.write("bootstrap.conf", &server.kubeconfig(&folder, &who));
    let kubelet =
        kubelet(t, &folder, "worker", "rotateCertificates: true\nserverTLSBootstrap: true\n");
    let running = kubelet.start(
        t,
        "worker",
        &["--bootstrap-kubeconfig=bootstrap.conf", "--node-labels=tier=front"],
    );
    t.eventually(&ready("worker"), "True");
    t.eventually("kubectl get node worker -o jsonpath='{.metadata.labels.tier}'", "front");
    // Whose it is now is in a file of its own, and the token is in none.
    t.ok("openssl x509 -in worker/pki/kubelet-client-current.pem -noout -subject | \
          grep system:node:worker");
    assert!(!t.ok("cat worker.conf").contains("bootstrap-token"));

    // The certificate that it serves with has to be approved by somebody.
    let serving = "kubectl get csr -o jsonpath='{range .items[?(@.spec.signerName==\"kubernetes.io/kubelet-serving\")]}{.metadata.name}{end}'";
    let request = t.until(serving, "a request", |name| !name.trim().is_empty());
    t.ok(&format!("kubectl certificate approve {}", request.trim()));
    let shown = format!(
        "curl -s -o /dev/null -w '%{{http_code}}' --cacert ssl/ca.pem --cert ssl/admin.pem \
         --key ssl/admin-key.pem https://127.0.0.1:{}/healthz; true",
        kubelet.port
    );
    t.eventually(&shown, "200");

    // Begun again, it needs no bootstrap.
    assert!(running.stop().success());
    t.ok("rm bootstrap.conf");
    let _running = kubelet.start(t, "worker", &[]);
    t.eventually(&shown, "200");
    let requests = "kubectl get csr -o name | wc -l";
    assert_eq!(t.ok(requests).trim(), "2");
}

fn a_kubelet_answers_those_who_may_ask(t: &Shell) {
    let folder = Folder::new(t);
    let server = api_server(t, &folder);
    known(t, &folder, &server, "n1");
    let kubelet = kubelet(t, &folder, "n1", "");
    let _running = kubelet.start(t, "n1", &[]);
    t.eventually(&ready("n1"), "True");
    t.write(
        "pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: default}\nspec:\n  \
         nodeName: n1\n  containers:\n  - name: c\n    image: app:v1\n    \
         command: [sh, -c, 'echo hello; sleep 100000']\n",
    );
    t.ok("kubectl apply -f pod.yaml");
    t.eventually("kubectl get pod web -n default -o jsonpath='{.status.phase}'", "Running");

    // By way of the API server, as kubectl does.
    t.eventually("kubectl logs web -n default", "hello");
    for (page, part) in [
        ("healthz", "ok"),
        ("pods", "\"name\":\"web\""),
        ("runningpods", "\"name\":\"web\""),
        ("stats/summary", "\"nodeName\":\"n1\""),
        ("configz", "\"port\":"),
        ("metrics", "kubelet_running_pods 1"),
        ("metrics/resource", "container_cpu_usage_seconds_total"),
        ("metrics/cadvisor", "container_memory_working_set_bytes"),
        ("metrics/probes", "prober_probe_total"),
    ] {
        t.eventually(&format!("kubectl get --raw /api/v1/nodes/n1/proxy/{page}"), part);
    }
    t.fails("kubectl get --raw /api/v1/nodes/n1/proxy/checkpoint/default/web/c");

    // Directly: by certificate or token, and only what one may.
    let ask = |who: &str, path: &str| {
        t.ok(&format!(
            "curl -sk -o answer -w '%{{http_code}}' {who} https://127.0.0.1:{}{path}",
            kubelet.port
        ))
    };
    assert_eq!(ask("", "/pods"), "401");
    assert_eq!(ask("-H 'Authorization: Bearer wrong'", "/pods"), "401");
    let admin = "-H 'Authorization: Bearer admin-token'";
    assert_eq!(ask(admin, "/pods"), "200");
    assert_eq!(ask("--cert ssl/admin.pem --key ssl/admin-key.pem", "/pods"), "200");
    let reader = folder.pki.client("reader", &["readers"]).expect("names are fine");
    write_identity(&folder.path, "reader", &reader);
    t.ok("kubectl create clusterrole metrics --verb=get --resource=nodes/metrics,nodes/pods && \
          kubectl create clusterrolebinding metrics --clusterrole=metrics --user=reader");
    let reader = "--cert ssl/reader.pem --key ssl/reader-key.pem";
    assert_eq!(ask(reader, "/metrics/resource"), "200");
    assert_eq!(ask(reader, "/pods"), "200");
    assert_eq!(ask(reader, "/configz"), "403");
    let said = t.ok("cat answer");
    assert_eq!(
        said,
        "Forbidden (user=reader, verb=get, resource=nodes, subresource(s)=[configz proxy])"
    );
    assert_eq!(ask(reader, "/containerLogs/default/web/c"), "403");
    assert_eq!(ask(admin, "/containerLogs/default/web/c"), "200");
    assert_eq!(t.ok("cat answer"), "hello\n");
    assert_eq!(ask(admin, "/nothing"), "404");
}

fn s160_static_pods_and_their_mirrors(t: &Shell) {
    let folder = Folder::new(t);
    let server = api_server(t, &folder);
    known(t, &folder, &server, "n1");
    let kubelet = kubelet(t, &folder, "n1", "");
    t.ok("mkdir manifests");
    let manifest = |image: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, namespace: kube-system}}\nspec:\n  \
             containers:\n  - {{name: c, image: '{image}'}}\n"
        )
    };
    t.write("manifests/web.yaml", &manifest("app:v1"));
    let running = kubelet.start(t, "n1", &["--pod-manifest-path=manifests"]);
    let image = "kubectl get pod web-n1 -n kube-system \
                 -o jsonpath='{.status.phase} {.spec.containers[0].image}'";
    t.eventually(image, "Running app:v1");
    // Who deletes the mirror gets another one, of the container that runs on.
    let container = "kubectl get pod web-n1 -n kube-system \
                     -o jsonpath='{.status.containerStatuses[0].containerID}'";
    let uid = "kubectl get pod web-n1 -n kube-system -o jsonpath='{.metadata.uid}'";
    let (first, runs) = (t.ok(uid), t.ok(container));
    assert!(runs.contains("://"), "{runs}");
    t.ok("kubectl delete pod web-n1 -n kube-system --wait=false");
    t.until(uid, "another mirror", |uid| uid.trim().len() == 36 && uid != first);
    t.eventually(container, &runs);
    // The file decides what runs, and whether.
    t.write("manifests/web.yaml", &manifest("app:v2.0"));
    t.eventually(image, "Running app:v2.0");
    assert_ne!(t.ok(container), runs);
    t.ok("rm manifests/web.yaml");
    let names = "kubectl get pod -n kube-system -o name";
    t.until(names, "no Pod", |names| names.trim().is_empty());
    // It ends when it is asked to.
    assert!(running.stop().success());
}

fn wrong_flags_and_fields_of_a_node_are_named(t: &Shell) {
    let node = node().display();
    t.write("bad.yaml", "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nevictionHard: {memory.free: 1Gi}\n");
    for (flags, expected) in [
        ("", "--kubeconfig is required"),
        ("--no-such-flag", "unknown flag: --no-such-flag"),
        ("--kubeconfig=none.conf", "--kubeconfig=none.conf"),
        ("--kubeconfig=k --config=bad.yaml", "evictionHard: unknown eviction signal memory.free"),
    ] {
        let said = t.fails(&format!("timeout 30 {node} --hostname-override=n1 {flags}"));
        assert!(said.contains("error: ") && said.contains(expected), "{flags}: {said}");
    }
    assert!(t.ok(&format!("{node} --help")).contains("--pod-manifest-path"));
}
