//! Controllers as programs of their own: the `controller-manager` example with the stock flags, and
//! the `labeler` example, against the `apiserver` example, all on loopback.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use rk::{
    api::{
        client::{LeaderElectionConfig, LeaderElector},
        server::pki::Credentials,
    },
    cri::{agent::Agent, sim::SimRuntime},
    kube,
    sched::Scheduler,
};
use tokio_util::sync::CancellationToken;

use crate::{
    etcd::free_ports,
    harness::{Shell, scenarios},
    identities::ask_for_certificate,
    programs::{Components, Folder, Server, embedded, example, serve},
};

scenarios! {
    Program:
        s42_each_node_gets_a_range_of_the_clusters,
        s44_schedulers_and_managers_elect_one_leader,
        a_manager_writes_as_the_service_accounts_of_its_controllers,
        a_manager_signs_with_the_keys_that_it_is_given,
        a_manager_leaves_out_what_an_old_api_server_lacks,
        wrong_flags_of_a_manager_are_named,
        a_controller_of_ones_own_runs_against_any_cluster;
}

/// The built manager.
fn manager() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example("controller-manager"))
}

/// A program, gone with its value.
pub(crate) struct Program {
    process: Child,
    log: PathBuf,
}

impl Program {
    /// Starts it; its log is `<name>.log` in the folder that commands run in.
    pub(crate) fn start(t: &Shell, name: &str, program: &Path, flags: &[String]) -> Self {
        let log = t.directory().join(format!("{name}.log"));
        let process = Command::new(program)
            .args(flags)
            .current_dir(t.directory())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("it takes files"))
            .spawn();
        Self { process: process.expect("it was built"), log }
    }

    /// Asks it to end, and says how it did.
    pub(crate) fn stop(mut self) -> ExitStatus {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status();
        assert!(sent.expect("there is kill").success());
        let begin = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().expect("it is ours") {
                return status;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "it does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("{}:\n{log}", self.log.display());
        }
    }
}

/// A kubeconfig file of a user, for a program.
fn kubeconfig(t: &Shell, folder: &Folder, server: &Server, user: &str) -> String {
    let who = Credentials::Certificate { user, groups: &[] };
    let name = format!("{}.conf", user.replace(':', "-"));
    t.write(&name, &server.kubeconfig(folder, &who));
    t.directory().join(name).display().to_string()
}

/// Starts a manager as the stock user, who has the rights to act as its controllers' accounts and few
/// others, with nothing served unless `more` says so.
fn manage(t: &Shell, folder: &Folder, server: &Server, name: &str, more: &[&str]) -> Program {
    let conf = kubeconfig(t, folder, server, "system:kube-controller-manager");
    let mut flags = vec![
        format!("--kubeconfig={conf}"),
        folder.file("root-ca-file", "ca.pem"),
        "--use-service-account-credentials=true".to_owned(),
    ];
    if !more.iter().any(|flag| flag.starts_with("--secure-port")) {
        flags.push("--secure-port=0".to_owned());
    }
    flags.extend(more.iter().map(|flag| (*flag).to_owned()));
    Program::start(t, name, manager(), &flags)
}

fn administrator(components: &Components, folder: &Folder, server: &Server) -> kube::Client {
    components.client(&server.kubeconfig(folder, &Credentials::Token("admin-token")))
}

fn schedule(components: &Components, client: kube::Client) {
    components.spawn(|stop| Scheduler::builder(client).build().run(stop));
}

/// How many Pods of the namespace default run.
const RUNNING: &str =
    "kubectl get pods -n default --field-selector=status.phase=Running -o name | wc -l";

fn is(count: usize) -> impl Fn(&str) -> bool {
    move |output| output.trim() == count.to_string()
}

fn s42_each_node_gets_a_range_of_the_clusters(t: &Shell) {
    let folder = Folder::new(t);
    let server = serve(t, &folder, "127.0.0.2", &embedded(t, &folder, &[]));
    let ranges = ["--allocate-node-cidrs", "--cluster-cidr=10.244.0.0/16"];
    let _manager = manage(t, &folder, &server, "manager", &ranges);
    let components = Components::new();
    let client = administrator(&components, &folder, &server);
    schedule(&components, client.clone());

    let mut seen = Vec::new();
    for node in ["node-1", "node-2", "node-3"] {
        t.write("node.yaml", &format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\n"));
        t.ok("kubectl create -f node.yaml");
        let read = format!("kubectl get node {node} -o jsonpath='{{.spec.podCIDR}}'");
        let range = t.eventually(&read, "/24");
        assert!(range.starts_with("10.244.") && !seen.contains(&range), "{range}, {seen:?}");
        // The node's network takes its range from there, as those of the documents do.
        let runtime = SimRuntime::builder().pod_cidr(&range).build().expect("it is a range");
        components.agent(Agent::builder(client.clone(), Arc::new(runtime)).node_name(node));
        seen.push(range);
    }
    t.ok("kubectl create deployment web -n default --image=nginx --replicas=6");
    t.until(RUNNING, "6 Pods", is(6));
    let pods = "kubectl get pods -n default -o jsonpath='{range .items[*]}{.spec.nodeName} {.status.podIP}{\"\\n\"}{end}'";
    for line in t.ok(pods).lines() {
        let (node, address) = line.split_once(' ').expect("both");
        let index: usize = node.trim_start_matches("node-").parse().expect("a number");
        let network = seen[index - 1].trim_end_matches("0/24");
        assert!(address.starts_with(network), "{line}: {seen:?}");
    }
}

const HOLDER: &str = "-n kube-system -o jsonpath='{.spec.holderIdentity}'";

fn s44_schedulers_and_managers_elect_one_leader(t: &Shell) {
    let folder = Folder::new(t);
    let server = serve(t, &folder, "127.0.0.2", &embedded(t, &folder, &[]));
    let components = Components::new();
    let client = administrator(&components, &folder, &server);
    components.agent(components.node(client.clone(), "node-1"));
    let manager_lease = format!("kubectl get lease kube-controller-manager {HOLDER}");
    let scheduler_lease = format!("kubectl get lease kube-scheduler {HOLDER}");
    let scheduler = || {
        let (client, stop) = (client.clone(), CancellationToken::new());
        let (scheduler, token) = (Scheduler::builder(client.clone()).build(), stop.clone());
        let elector = LeaderElector::new(client, LeaderElectionConfig::new("kube-scheduler"));
        components.spawn(move |end| async move {
            let work = |leading| scheduler.run(leading);
            end.run_until_cancelled(elector.run(token, work)).await;
        });
        stop
    };

    let first = manage(t, &folder, &server, "first", &[]);
    let first_scheduler = scheduler();
    let leader = t.until(&manager_lease, "a leader", |holder| !holder.is_empty());
    let active = t.until(&scheduler_lease, "a leader", |holder| !holder.is_empty());
    let second = manage(t, &folder, &server, "second", &[]);
    let second_scheduler = scheduler();
    t.ok("kubectl create deployment web -n default --image=nginx --replicas=3");
    t.until(RUNNING, "3 Pods", is(3));
    assert_eq!((t.ok(&manager_lease), t.ok(&scheduler_lease)), (leader.clone(), active.clone()));
    assert!(!t.ok("cat second.log").contains("became the leader"));

    // One dies, the other gives up its Lease: their successors come within the lease time.
    drop(first);
    first_scheduler.cancel();
    t.until(&manager_lease, "another leader", |holder| !holder.is_empty() && holder != leader);
    t.until(&scheduler_lease, "another leader", |holder| !holder.is_empty() && holder != active);
    t.ok("kubectl scale deployment web -n default --replicas=6");
    t.until(RUNNING, "6 Pods", is(6));

    // Neither a Pod too many was made, nor one bound twice.
    let events = |reason: &str| {
        format!(
            "kubectl get events -n default --field-selector reason={reason} \
             -o jsonpath='{{range .items[*]}}{{.involvedObject.name}} {{.count}}{{\"\\n\"}}{{end}}'"
        )
    };
    let bound = t.until(&events("Scheduled"), "6 events", |lines| lines.lines().count() >= 6);
    assert_eq!(bound.lines().count(), 6, "{bound}");
    let all = "kubectl get pods -n default -o name | wc -l";
    assert_eq!(t.ok(all).trim(), "6");
    let made = t.until(&events("SuccessfulCreate"), "6 events", |lines| lines.lines().count() >= 6);
    assert_eq!(made.lines().count(), 6, "{made}");

    // Who is asked to end gives the Lease up, and ends well.
    assert!(second.stop().success());
    assert_eq!(t.ok(&manager_lease), "");
    let _third = manage(t, &folder, &server, "third", &[]);
    t.until(&manager_lease, "a third leader", |holder| !holder.is_empty());
    second_scheduler.cancel();
}

fn a_manager_writes_as_the_service_accounts_of_its_controllers(t: &Shell) {
    let folder = Folder::new(t);
    t.write(
        "policy.yaml",
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
         - {level: Metadata, verbs: [create]}\n- {level: None}\n",
    );
    let audit = format!("--audit-log-path={}", t.directory().join("audit.log").display());
    let policy = format!("--audit-policy-file={}", t.directory().join("policy.yaml").display());
    let server = serve(t, &folder, "127.0.0.2", &embedded(t, &folder, &[&audit, &policy]));
    let conf = kubeconfig(t, &folder, &server, "system:kube-controller-manager");
    let port = free_ports("127.0.0.1", 1)[0];
    let flags = [
        format!("--authentication-kubeconfig={conf}"),
        format!("--authorization-kubeconfig={conf}"),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={port}"),
        "--controllers=*,bootstrapsigner,tokencleaner".to_owned(),
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=300".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let manager = manage(t, &folder, &server, "manager", &flags);

    // Without the account nobody may make Pods: it is the manager's doing too.
    t.eventually("kubectl get serviceaccount default -n default -o name", "default");
    t.eventually("kubectl get configmap kube-root-ca.crt -n default -o name", "kube-root-ca.crt");
    t.ok("kubectl create deployment web -n default --image=nginx --replicas=2");
    let pods = "kubectl get pods -n default -o name | wc -l";
    t.until(pods, "2 Pods", is(2));
    for (resource, account) in [
        ("replicasets", "deployment-controller"),
        ("pods", "replicaset-controller"),
        ("serviceaccounts", "service-account-controller"),
        ("configmaps", "root-ca-cert-publisher"),
    ] {
        let find = format!("grep '\"resource\":\"{resource}\"' audit.log");
        t.eventually(&find, &format!("system:serviceaccount:kube-system:{account}"));
    }

    // Its health is for everybody, its metrics for whom the cluster lets read them.
    let url = format!("https://127.0.0.1:{port}");
    let ask = |more: &str, path: &str| {
        format!("curl -sk -o answer -w '%{{http_code}}' {more} {url}{path} && cat answer")
    };
    assert_eq!(t.eventually(&ask("", "/healthz"), "200"), "200ok");
    let code = |more: &str| t.ok(&ask(more, "/metrics"))[..3].to_owned();
    assert_eq!(code(""), "403");
    assert_eq!(code("-H 'Authorization: Bearer nonsense'"), "401");
    assert_eq!(code("-H 'Authorization: Bearer bootstrap-token'"), "403");
    assert_eq!(code("--cert ssl/admin.pem --key ssl/admin-key.pem"), "200");
    let metrics = t.ok(&ask("-H 'Authorization: Bearer admin-token'", "/metrics"));
    assert!(
        metrics.contains("controller=\"replicaset-controller\",result=\"success\""),
        "{metrics}"
    );
    t.ok("kubectl create clusterrole metrics --verb=get --non-resource-url=/metrics && \
          kubectl create clusterrolebinding metrics --clusterrole=metrics --user=kubelet-bootstrap");
    let allowed = ask("-H 'Authorization: Bearer bootstrap-token'", "/metrics");
    t.until(&allowed, "an answer", |answer| answer.starts_with("200"));
    assert!(manager.stop().success());
}

fn a_manager_signs_with_the_keys_that_it_is_given(t: &Shell) {
    let folder = Folder::new(t);
    let tokens = [
        folder.file("service-account-signing-key-file", "apiserver-key.pem"),
        folder.file("service-account-key-file", "apiserver.pem"),
    ];
    let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let server = serve(t, &folder, "127.0.0.2", &embedded(t, &folder, &tokens));
    // An authority as kubeadm makes it: RSA, the key in PKCS #1.
    t.ok("openssl genrsa -traditional -out rsa.key 2048 2>&1 && \
          openssl req -x509 -new -key rsa.key -subj /CN=nodes -days 10 -out rsa.crt 2>&1");
    let flags = [
        folder.file("service-account-private-key-file", "apiserver-key.pem"),
        "--cluster-signing-kubelet-client-cert-file=rsa.crt".to_owned(),
        "--cluster-signing-kubelet-client-key-file=rsa.key".to_owned(),
        "--cluster-signing-duration=48h".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let _manager = manage(t, &folder, &server, "manager", &flags);

    t.ok("kubectl create clusterrolebinding kubelet-bootstrap \
          --clusterrole=system:node-bootstrapper --user=kubelet-bootstrap");
    let name = ask_for_certificate(t, "worker");
    t.ok(&format!("kubectl certificate approve {name}"));
    t.eventually("kubectl get csr", "Approved,Issued");
    t.ok(&format!(
        "kubectl get csr {name} -o jsonpath='{{.status.certificate}}' | base64 -d > worker.pem"
    ));
    t.ok("openssl verify -purpose sslclient -CAfile rsa.crt worker.pem");
    // It ends after two days and not after one.
    t.ok("openssl x509 -in worker.pem -noout -checkend 86400");
    t.fails("openssl x509 -in worker.pem -noout -checkend 172800");

    t.ok("kubectl create serviceaccount builder -n default");
    t.write(
        "secret.yaml",
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/service-account-token\nmetadata:\n  \
         name: builder\n  namespace: default\n  \
         annotations: {kubernetes.io/service-account.name: builder}\n",
    );
    t.ok("kubectl apply -f secret.yaml");
    let read = "kubectl get secret builder -n default -o jsonpath='{.data.token}'";
    t.until(read, "a token", |token| !token.is_empty());
    let who = t.ok(&format!("kubectl auth whoami --token=$({read} | base64 -d)"));
    assert!(who.contains("system:serviceaccount:default:builder"), "{who}");
}

fn a_manager_leaves_out_what_an_old_api_server_lacks(t: &Shell) {
    let folder = Folder::new(t);
    // As 1.20 had it.
    let old = "--runtime-config=policy/v1=false,discovery.k8s.io/v1=false,autoscaling/v2=false";
    let server = serve(t, &folder, "127.0.0.2", &embedded(t, &folder, &[old]));
    let _manager = manage(t, &folder, &server, "manager", &[]);
    t.ok("kubectl create deployment web -n default --image=nginx --replicas=2");
    t.until("kubectl get pods -n default -o name | wc -l", "2 Pods", is(2));
    for lacking in [
        "poddisruptionbudgets of policy/v1",
        "endpointslices of discovery.k8s.io/v1",
        "horizontalpodautoscalers of autoscaling/v2",
    ] {
        t.eventually("cat manager.log", &format!("the API server does not serve {lacking}"));
    }
}

fn wrong_flags_of_a_manager_are_named(t: &Shell) {
    let program = manager().display();
    t.write("none.conf", "apiVersion: v1\nkind: Config\n");
    for (flags, expected) in [
        ("--no-such-flag", "unknown flag: --no-such-flag"),
        ("--kubeconfig=/no/file", "--kubeconfig=/no/file: "),
        ("--kubeconfig=none.conf", "--kubeconfig=none.conf: "),
        ("--port=10252", "--port must be 0"),
        ("--leader-elect-resource-lock=endpoints", "--leader-elect-resource-lock must be leases"),
        ("--allocate-node-cidrs", "--allocate-node-cidrs needs --cluster-cidr"),
    ] {
        let refused = t.fails(&format!("{program} {flags}"));
        assert!(refused.contains(expected), "{refused}");
    }
    let conf = t.ok("echo $KUBECONFIG");
    let conf = format!("--kubeconfig={} --secure-port=0", conf.trim());
    for (flags, expected) in [
        ("--controllers=*,-nonsense", "there is no controller \"nonsense\""),
        ("--root-ca-file=/no/file", "--root-ca-file=/no/file: No such file or directory"),
        ("--cluster-cidr=10.0.0.0", "cluster_cidr \"10.0.0.0\" is not a range"),
    ] {
        let refused = t.fails(&format!("{program} {conf} {flags}"));
        assert!(refused.contains(expected), "{refused}");
    }
    let help = t.ok(&format!("{program} --help"));
    for group in ["Leader election flags:", "Certificate signing flags:", "Node flags:"] {
        assert!(help.contains(group), "{group}");
    }
}

fn a_controller_of_ones_own_runs_against_any_cluster(t: &Shell) {
    let folder = Folder::new(t);
    let no_accounts = "--disable-admission-plugins=ServiceAccount";
    let server = serve(t, &folder, "127.0.0.2", &embedded(t, &folder, &[no_accounts]));
    t.write("labeler.conf", &server.kubeconfig(&folder, &Credentials::Token("admin-token")));
    let labeler = example("labeler");
    let flags = [
        "--kubeconfig=labeler.conf",
        "--label=zone",
        "--as=pod-zone",
        "--metrics-address=127.0.0.1:0",
    ];
    let flags = flags.map(ToOwned::to_owned);
    let first = Program::start(t, "first", &labeler, &flags);
    t.eventually("cat first.log", "became the leader");
    let second = Program::start(t, "second", &labeler, &flags);

    let object = |kind: &str, name: &str, more: &str| {
        format!("{{apiVersion: v1, kind: {kind}, metadata: {{name: {name}{more}}}")
    };
    let pod = |name: &str, node: &str| {
        let pod = object("Pod", name, ", namespace: default");
        format!(
            "---\n{pod}, spec: {{nodeName: {node}, containers: [{{name: c, image: nginx}}]}}}}\n"
        )
    };
    // What begins with a brace is taken for JSON.
    let nodes = format!(
        "---\n{}}}\n---\n{}}}\n",
        object("Node", "north", ", labels: {zone: polar}"),
        object("Node", "bare", "")
    );
    t.write("objects.yaml", &(nodes + &pod("a", "north") + &pod("b", "bare")));
    t.ok("kubectl apply -f objects.yaml");
    let zone = |name: &str| {
        format!("kubectl get pod {name} -n default -o jsonpath='{{.metadata.labels.pod-zone}}'")
    };
    t.eventually(&zone("a"), "polar");
    assert_eq!(t.ok(&zone("b")), "");
    // It follows the nodes, and puts right what others change.
    t.ok("kubectl label node bare zone=late && kubectl label node north zone-");
    t.eventually(&zone("b"), "late");
    t.until(&zone("a"), "no label", str::is_empty);
    t.ok("kubectl label pod b -n default --overwrite pod-zone=wrong");
    t.until(&zone("b"), "the right label", |label| label == "late");

    let url = "http://$(grep -o '127.0.0.1:[0-9]*' first.log | head -1)";
    assert_eq!(t.ok(&format!("curl -s {url}/healthz")), "ok");
    let metrics = t.ok(&format!("curl -s {url}/metrics"));
    let done = "controller_runtime_reconcile_total{controller=\"labeler\",result=\"success\"}";
    assert!(metrics.contains(done), "{metrics}");

    // The first ends well, and the second takes over.
    assert!(!t.ok("cat second.log").contains("became the leader"));
    assert!(first.stop().success());
    t.eventually("cat second.log", "became the leader");
    t.ok("kubectl label node north zone=again");
    t.eventually(&zone("a"), "again");
    assert!(second.stop().success());
}
