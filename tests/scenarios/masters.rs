//! The control plane from binaries: the `apiserver` example with the stock flags, real etcd, real
//! kubectl, all on loopback.

use std::{net::TcpStream, path::Path};

use rk::{
    Cluster, Component,
    api::server::pki::{Credentials, Pki},
};

use crate::{
    etcd::{Etcd, write_identity},
    harness::{Shell, rows, scenarios},
    programs::{Components, Folder, Server, embedded, program, serve},
};

scenarios! {
    Program:
        s16_component_statuses_show_what_does_not_run,
        a_control_plane_on_one_machine_is_asked_for_its_health,
        s19_wrong_flags_and_missing_files_are_named,
        s36_addresses_and_ports_come_from_their_ranges,
        s39_the_audit_log_has_a_line_for_each_call_and_rotates,
        s40_logs_are_in_their_folder,
        s41_privileged_pods_are_allowed_or_refused,
        a_directory_is_a_store_too;
    Etcd:
        s19_the_stock_flags_take_effect,
        s20_one_of_three_members_may_stop,
        s21_only_the_api_server_speaks_to_the_store,
        s22_a_backup_brings_everything_back,
        s43_a_second_master_shows_the_same;
}

fn s16_component_statuses_show_what_does_not_run(t: &Shell) {
    let runtime = tokio::runtime::Runtime::new().expect("there are threads");
    let cluster = Cluster::builder().nodes(0).listen(([127, 0, 0, 1], 0)).start();
    let cluster = runtime.block_on(cluster).expect("a cluster starts");
    t.write("kubeconfig", cluster.kubeconfig().expect("it listens"));
    let healthy = |output: &str| {
        rows(output).iter().filter(|row| row[1] == "Healthy").map(|row| row[0].to_owned()).collect()
    };
    let all: Vec<String> = healthy(&t.ok("kubectl get cs --no-headers"));
    assert_eq!(all, ["controller-manager", "scheduler", "etcd-0"]);

    assert!(cluster.stop(Component::Scheduler));
    let left: Vec<String> = healthy(&t.ok("kubectl get componentstatuses --no-headers"));
    assert_eq!(left, ["controller-manager", "etcd-0"]);
    assert!(t.ok("kubectl get cs scheduler").contains("Unhealthy"));
    t.fails("kubectl get cs nobody");
    runtime.block_on(cluster.shutdown());
}

fn s19_the_stock_flags_take_effect(t: &Shell) {
    let folder = Folder::new(t);
    let etcd = Etcd::start(&t.directory().join("etcd"), 3, &Pki::generate().expect("keys"));
    let logs = t.directory().join("logs");
    std::fs::create_dir_all(&logs).expect("it takes folders");
    let mut flags = etcd.flags();
    flags.extend([
        "--logtostderr=false".to_owned(),
        "--v=2".to_owned(),
        format!("--log-dir={}", logs.display()),
        "--advertise-address=20.0.0.71".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        "--enable-admission-plugins=NamespaceLifecycle,LimitRanger,ServiceAccount,ResourceQuota,NodeRestriction".to_owned(),
        "--authorization-mode=RBAC,Node".to_owned(),
        "--enable-bootstrap-token-auth=true".to_owned(),
        folder.file("token-auth-file", "token.csv"),
        "--service-node-port-range=30000-50000".to_owned(),
        folder.file("kubelet-client-certificate", "apiserver.pem"),
        folder.file("kubelet-client-key", "apiserver-key.pem"),
        folder.file("tls-cert-file", "apiserver.pem"),
        folder.file("tls-private-key-file", "apiserver-key.pem"),
        folder.file("client-ca-file", "ca.pem"),
        folder.file("service-account-key-file", "ca-key.pem"),
        "--service-account-issuer=api".to_owned(),
        folder.file("service-account-signing-key-file", "apiserver-key.pem"),
        folder.file("requestheader-client-ca-file", "ca.pem"),
        folder.file("proxy-client-cert-file", "apiserver.pem"),
        folder.file("proxy-client-key-file", "apiserver-key.pem"),
        "--requestheader-allowed-names=kubernetes".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--enable-aggregator-routing=true".to_owned(),
        "--audit-log-maxage=30".to_owned(),
        "--audit-log-maxbackup=3".to_owned(),
        "--audit-log-maxsize=100".to_owned(),
        format!("--audit-log-path={}", logs.join("k8s-audit.log").display()),
    ]);
    let server = serve(t, &folder, "127.0.0.2", &flags);
    // What the endpoints show is the address that is advertised, with the port.
    let port = server.url.rsplit(':').next().expect("it has a port");
    t.eventually("kubectl get endpoints kubernetes", &format!("20.0.0.71:{port}"));
    t.eventually("kubectl get endpointslices kubernetes", "20.0.0.71");
    assert!(t.ok("kubectl get service kubernetes").contains("10.0.0.1"));
    let said = t.ok("cat logs/kube-apiserver.INFO");
    assert!(!said.contains("has no effect"), "{said}");
    // It listens where it was told to, and nowhere else.
    assert!(TcpStream::connect(format!("127.0.0.1:{port}")).is_err());
}

fn s19_wrong_flags_and_missing_files_are_named(t: &Shell) {
    let program = program().display();
    let refused = t.fails(&format!("{program} --data-dir=data --no-such-flag=1"));
    assert!(refused.contains("unknown flag: --no-such-flag"), "{refused}");
    for flag in [
        "client-ca-file",
        "token-auth-file",
        "service-account-signing-key-file",
        "audit-policy-file",
        "authentication-token-webhook-config-file",
        "requestheader-client-ca-file",
        "admission-control-config-file",
    ] {
        let missing = t.fails(&format!(
            "{program} --data-dir=data --cert-dir=certs --secure-port=0 --{flag}=/no/file"
        ));
        let expected = format!("--{flag}=/no/file: No such file or directory");
        assert!(missing.contains(&expected), "{missing}");
    }
    let help = t.ok(&format!("{program} --help"));
    for group in ["Storage flags:", "Authentication flags:", "Auditing flags:"] {
        assert!(help.contains(group), "{group}");
    }
}

fn s20_one_of_three_members_may_stop(t: &Shell) {
    let folder = Folder::new(t);
    let pki = Pki::generate().expect("keys");
    let mut etcd = Etcd::start(&t.directory().join("etcd"), 3, &pki);
    let mut flags = folder.flags();
    flags.extend(etcd.flags());
    let _server = serve(t, &folder, "127.0.0.2", &flags);
    t.ok("kubectl create configmap first --from-literal=a=1");

    // One member less, whichever it is: reads and writes go on.
    for member in 0..3 {
        etcd.kill(member);
        make_anyhow(t, &format!("without-{member}"));
        t.ok("kubectl get configmap first");
        etcd.run(member);
        etcd.ready();
    }
    // Two members less: writes fail, and nothing is lost.
    etcd.kill(0);
    etcd.kill(1);
    let refused = t.fails("kubectl create configmap refused --request-timeout=20s");
    assert!(!refused.is_empty());
    etcd.run(0);
    etcd.run(1);
    etcd.ready();
    make_anyhow(t, "again");
    let all = t.eventually("kubectl get configmaps -o name", "configmap/again");
    for name in ["first", "without-0", "without-1", "without-2"] {
        assert!(all.contains(name), "{name} is lost: {all}");
    }

    // A client whose certificate another authority signed is refused.
    let other = Pki::generate().expect("keys").client("apiserver", &[]).expect("names are fine");
    write_identity(etcd.directory(), "other", &other);
    let d = etcd.directory().display();
    let refused = t.fails(&format!(
        "{} --data-dir= --etcd-servers={} --etcd-cafile={d}/ca.pem --etcd-certfile={d}/other.pem \
         --etcd-keyfile={d}/other-key.pem --cert-dir=certs --bind-address=127.0.0.3 --secure-port=0",
        program().display(),
        etcd.servers()
    ));
    assert!(refused.contains("--etcd-servers: "), "{refused}");
}

/// Creates a ConfigMap, again if need be: of a write that was not answered nobody knows whether it
/// happened.
fn make_anyhow(t: &Shell, name: &str) {
    let line = format!("kubectl create configmap {name}; kubectl get configmap {name} -o name");
    t.eventually(&line, &format!("configmap/{name}"));
}

fn s21_only_the_api_server_speaks_to_the_store(t: &Shell) {
    let folder = Folder::new(t);
    let etcd = Etcd::start(&t.directory().join("etcd"), 1, &Pki::generate().expect("keys"));
    let mut flags = folder.flags();
    flags.extend(etcd.flags());
    let server = serve(t, &folder, "127.0.0.2", &flags);

    // A scheduler, controllers and a node do their work by way of it.
    let admin = server.kubeconfig(&folder, &Credentials::Token("admin-token"));
    let components = Components::new();
    let client = components.client(&admin);
    components.controllers(client.clone(), "*", &folder.pki);
    let scheduler = client.clone();
    components.spawn(|stop| rk::sched::Scheduler::builder(scheduler).build().run(stop));
    components.agent(components.node(client, "node-1"));
    t.ok("kubectl create deployment web -n default --image=nginx --replicas=2");
    let running =
        "kubectl get pods -n default --field-selector=status.phase=Running -o name | wc -l";
    t.eventually(running, "2");

    // All of it is in the store, and all connections to the store are the API server's.
    assert!(t.ok(&etcd.etcdctl("get --prefix --keys-only /registry/pods/")).contains("/web-"));
    let connections = connections_to(etcd.port());
    assert!(!connections.is_empty());
    for socket in connections {
        let held = t.ok(&format!("ls -l /proc/{}/fd", server.id()));
        // One that was closed in between is nobody's any more.
        let is_its_own = held.contains(&format!("socket:[{socket}]"))
            || !connections_to(etcd.port()).contains(&socket);
        assert!(is_its_own, "{socket} is not the API server's");
    }
    // Nobody else is let in.
    let port = etcd.port();
    let ca = etcd.directory().join("ca.pem");
    let ask = format!("curl -s --cacert {} https://127.0.0.1:{port}/version", ca.display());
    t.fails(&ask);
    let client = etcd.directory().join("server");
    let ask = format!("{ask} --cert {0}.pem --key {0}-key.pem", client.display());
    assert!(t.ok(&ask).contains("etcdserver"));
    // Nor do they know it: what they are built of has no part in it.
    let tree = format!("{} tree --locked --offline -e normal --manifest-path", env!("CARGO"));
    for part in ["rk-sched", "rk-controllers", "rk-proxy"] {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join(part).join("Cargo.toml");
        let needs = t.ok(&format!("{tree} {}", manifest.display()));
        assert!(needs.contains("rk-api") && !needs.contains("rk-store"), "{needs}");
    }
}

/// The sockets on this machine that are connected to a port on loopback.
fn connections_to(port: u16) -> Vec<String> {
    let remote = format!(":{port:04X}");
    let table = ["/proc/net/tcp", "/proc/net/tcp6"].map(std::fs::read_to_string);
    let lines: Vec<String> = table
        .into_iter()
        .flatten()
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let columns = lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // Local address, remote address, state (01 is established), …, inode.
    let established =
        columns.filter(|it| it.len() > 9 && it[3] == "01" && it[2].ends_with(&remote));
    established.map(|columns| columns[9].to_owned()).collect()
}

fn s22_a_backup_brings_everything_back(t: &Shell) {
    let folder = Folder::new(t);
    let pki = Pki::generate().expect("keys");
    let mut etcd = Etcd::start(&t.directory().join("etcd"), 1, &pki);
    let mut flags = folder.flags();
    flags.extend(etcd.flags());
    let server = serve(t, &folder, "127.0.0.2", &flags);
    t.ok("kubectl create configmap kept --from-literal=a=1");
    t.ok("kubectl create deployment web --image=nginx --replicas=2");
    t.ok("kubectl create service nodeport web --tcp=80");
    let uids = "kubectl get namespaces,configmaps,deployments,services,ipaddresses -A \
                -o custom-columns=K:.kind,N:.metadata.name,U:.metadata.uid --no-headers | sort";
    let before = t.ok(uids);
    t.ok(&etcd.etcdctl("snapshot save backup.db"));
    t.ok("kubectl delete configmap kept");

    server.stop();
    etcd.destroy();
    let restored = t.directory().join("etcd/m0");
    let peer = etcd.peer(0);
    t.ok(&format!(
        "tool=etcdctl; command -v etcdutl >/dev/null && tool=etcdutl; \
         ETCDCTL_API=3 $tool snapshot restore backup.db --name m0 --data-dir {} \
         --initial-cluster m0={peer} --initial-advertise-peer-urls {peer}",
        restored.display()
    ));
    etcd.run(0);
    etcd.ready();
    let _server = serve(t, &folder, "127.0.0.2", &flags);
    assert_eq!(t.ok(uids), before);
    t.ok("kubectl scale deployment web --replicas=3");
}

fn s36_addresses_and_ports_come_from_their_ranges(t: &Shell) {
    let folder = Folder::new(t);
    let flags = embedded(
        t,
        &folder,
        &["--service-cluster-ip-range=10.0.0.0/28", "--service-node-port-range=30000-30004"],
    );
    let server = serve(t, &folder, "127.0.0.2", &flags);
    assert!(t.ok("kubectl get service kubernetes").contains("10.0.0.1 "));
    let refused = t.fails("kubectl create service nodeport far --tcp=80 --node-port=30005");
    assert!(refused.contains("The range of valid ports is 30000-30004"), "{refused}");
    let taken = t.ok("kubectl create service nodeport first --tcp=80 --node-port=30001");
    assert!(taken.contains("created"));
    let refused = t.fails("kubectl create service nodeport second --tcp=80 --node-port=30001");
    assert!(refused.contains("provided port is already allocated"), "{refused}");
    for number in 0..4 {
        t.ok(&format!("kubectl create service nodeport port-{number} --tcp=80"));
    }
    let refused = t.fails("kubectl create service nodeport more --tcp=80");
    assert!(refused.contains("failed to allocate a nodePort: range is full"), "{refused}");
    // Of the 14 addresses 6 are in use: a refused Service keeps none.
    for number in 0..8 {
        t.ok(&format!("kubectl create service clusterip address-{number} --tcp=80"));
    }
    let refused = t.fails("kubectl create service clusterip more --tcp=80");
    assert!(refused.contains("range is full"), "{refused}");
    let all = t.ok("kubectl get services -A -o jsonpath='{range .items[*]}{.spec.clusterIP}{\"\\n\"}{end}' | sort -u");
    assert_eq!(all.lines().count(), 14, "{all}");
    assert!(all.lines().all(|address| address.starts_with("10.0.0.")), "{all}");
    let accounts = t.ok("kubectl get ipaddresses -o name");
    assert_eq!(accounts.lines().count(), 14, "{accounts}");
    t.ok("kubectl delete service address-0 port-0");
    t.ok("kubectl create service nodeport more --tcp=80");
    server.stop();

    // Without the flags the ranges are the usual ones.
    std::fs::remove_dir_all(t.directory().join("data")).expect("it was there");
    let _server = serve(t, &folder, "127.0.0.2", &embedded(t, &folder, &[]));
    assert!(t.ok("kubectl get service kubernetes").contains("10.96.0.1 "));
    let refused = t.fails("kubectl create service nodeport far --tcp=80 --node-port=29999");
    assert!(refused.contains("The range of valid ports is 30000-32767"), "{refused}");
}

fn s39_the_audit_log_has_a_line_for_each_call_and_rotates(t: &Shell) {
    let folder = Folder::new(t);
    let policy = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
                  - {level: RequestResponse, resources: [{resources: [configmaps]}], namespaces: [default]}\n\
                  - {level: Metadata, users: [admin]}\n";
    t.write("policy.yaml", policy);
    // What was there before; only its age is in its name.
    t.ok("mkdir logs && echo '{}' > logs/k8s-audit-2020-01-01T00-00-00.000.log");
    let log = format!("--audit-log-path={}", t.directory().join("logs/k8s-audit.log").display());
    let policy = format!("--audit-policy-file={}", t.directory().join("policy.yaml").display());
    let flags = ["--audit-log-maxage=30", "--audit-log-maxbackup=3", "--audit-log-maxsize=1"];
    let flags = [flags.as_slice(), &[log.as_str(), policy.as_str()]].concat();
    let server = serve(t, &folder, "127.0.0.2", &embedded(t, &folder, &flags));

    t.ok("kubectl create namespace audited");
    t.fails("kubectl get configmap nobody -n audited");
    // The event of what was done to the object that is named so.
    let event = |verb: &str, name: &str| -> serde_json::Value {
        let about = format!("\"name\":\"{name}\"");
        let find =
            format!("grep -h '{about}' logs/k8s-audit*.log | grep '\"verb\":\"{verb}\"' | tail -1");
        serde_json::from_str(&t.eventually(&find, &about)).expect("each line is an event")
    };
    let created = event("create", "audited");
    assert_eq!(created["user"]["username"], "admin");
    assert_eq!(created["objectRef"]["resource"], "namespaces");
    assert_eq!(created["responseStatus"]["code"], 201);
    assert_eq!(created["sourceIPs"][0], "127.0.0.1");
    assert!(created["userAgent"].as_str().is_some_and(|agent| agent.starts_with("kubectl/")));
    assert_eq!(event("get", "nobody")["responseStatus"]["reason"], "NotFound");

    // Each is in the log twice, as it was sent and as it was stored: two are more than a file holds.
    t.ok("head -c 300000 /dev/zero | tr '\\0' x > large");
    let large = |number: usize| {
        t.ok(&format!("kubectl create configmap large-{number} -n default --from-file=large"));
        event("create", &format!("large-{number}"));
    };
    (0..3).for_each(large);
    t.until("ls logs", "no file of long ago", |names| !names.contains("2020-01-01"));
    (3..12).for_each(large);
    t.eventually("ls logs | grep -c '^k8s-audit-.*[.]log$'", "3");
    t.ok("test $(stat -c %s logs/k8s-audit.log) -le 1048576");
    server.stop();
}

fn s40_logs_are_in_their_folder(t: &Shell) {
    let folder = Folder::new(t);
    let lines = |level: &str| {
        let logs = t.directory().join(format!("logs-{level}"));
        std::fs::create_dir_all(&logs).expect("it takes folders");
        let (level, logs) = (format!("--v={level}"), format!("--log-dir={}", logs.display()));
        let flags = embedded(t, &folder, &["--logtostderr=false", &level, &logs]);
        let server = serve(t, &folder, "127.0.0.2", &flags);
        t.ok("kubectl get namespaces");
        server.stop();
        let on_stderr = std::fs::read_to_string(t.directory().join("127.0.0.2.log"));
        assert_eq!(on_stderr.expect("it is there"), "");
        let log = logs.trim_start_matches("--log-dir=");
        let text = std::fs::read_to_string(format!("{log}/kube-apiserver.INFO"));
        text.expect("the log is there").lines().count()
    };
    let (few, many) = (lines("2"), lines("6"));
    assert!(few > 0 && many > few, "{few} lines, and {many} with more");
}

fn s41_privileged_pods_are_allowed_or_refused(t: &Shell) {
    let folder = Folder::new(t);
    let no_accounts = "--disable-admission-plugins=ServiceAccount";
    let allow = embedded(t, &folder, &["--allow-privileged=true", no_accounts]);
    let server = serve(t, &folder, "127.0.0.2", &allow);
    t.write(
        "privileged.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: privileged}\nspec:\n  containers:\n  \
         - {name: c, image: calico, securityContext: {privileged: true}}\n",
    );
    t.manifest("40-calico.yaml");
    t.ok("kubectl create -f privileged.yaml");
    t.ok("kubectl apply -f 40-calico.yaml");
    server.stop();
    std::fs::remove_dir_all(t.directory().join("data")).expect("it was there");
    let refuse = embedded(t, &folder, &["--allow-privileged=false", no_accounts]);
    let _server = serve(t, &folder, "127.0.0.2", &refuse);
    let refused = t.fails("kubectl create -f privileged.yaml");
    let expected =
        "spec.containers[0].securityContext.privileged: Forbidden: disallowed by cluster policy";
    assert!(refused.contains(expected), "{refused}");
    let refused = t.fails("kubectl apply -f 40-calico.yaml");
    assert!(refused.contains("disallowed by cluster policy"), "{refused}");
}

fn s43_a_second_master_shows_the_same(t: &Shell) {
    let folder = Folder::new(t);
    let etcd = Etcd::start(&t.directory().join("etcd"), 1, &Pki::generate().expect("keys"));
    let start = |address: &str, advertised: &str| {
        let mut flags = folder.flags();
        flags.extend(etcd.flags());
        flags.push(format!("--advertise-address={advertised}"));
        flags.push("--service-cluster-ip-range=10.0.0.0/24".to_owned());
        serve(t, &folder, address, &flags)
    };
    let first = start("127.0.0.2", "20.0.0.70");
    let second = start("127.0.0.3", "20.0.0.71");
    let on = |server: &Server| format!("kubectl --server={}", server.url);
    let (one, other) = (on(&first), on(&second));

    // What is made through one is seen through the other at once, and both watches see it.
    for (from, to, name) in [(&one, &other, "a"), (&other, &one, "b")] {
        t.ok(&format!("({to} get configmaps --watch-only -o name >seen-{name} 2>&1 </dev/null & echo $! >watch-{name}; sleep 1)"));
        t.ok(&format!("{from} create configmap from-{name}"));
        t.ok(&format!("{to} get configmap from-{name}"));
        t.eventually(&format!("cat seen-{name}"), &format!("configmap/from-{name}"));
        t.ok(&format!("kill $(cat watch-{name})"));
    }
    // The endpoints are both, and one when the other has left.
    t.until(&format!("{one} get endpoints kubernetes"), "both addresses", |endpoints| {
        endpoints.contains("20.0.0.70") && endpoints.contains("20.0.0.71")
    });
    // Services that are made through both at the same time never get one address or port twice.
    let make = |kubectl: &str, name: &str| {
        format!(
            "for i in 1 2 3 4 5 6 7 8 9 10; do {kubectl} create service nodeport {name}-$i --tcp=80 >/dev/null || exit 1; done"
        )
    };
    t.ok(&format!("({}) & p=$!; ({}) && wait $p", make(&one, "one"), make(&other, "other")));
    let distinct = |path: &str| {
        let list = format!(
            "{one} get services -l app -o jsonpath='{{range .items[*]}}{{{path}}}{{\"\\n\"}}{{end}}' | sort -u"
        );
        t.ok(&list).lines().count()
    };
    assert_eq!(distinct(".spec.clusterIP"), 20);
    assert_eq!(distinct(".spec.ports[0].nodePort"), 20);
    second.stop();
    t.until(&format!("{one} get endpoints kubernetes"), "one address", |endpoints| {
        endpoints.contains("20.0.0.70") && !endpoints.contains("20.0.0.71")
    });
}

fn a_control_plane_on_one_machine_is_asked_for_its_health(t: &Shell) {
    let folder = Folder::new(t);
    let _server = serve(t, &folder, "127.0.0.2", &embedded(t, &folder, &[]));
    let all = t.ok("kubectl get cs");
    // Nothing else runs here.
    let refused = "Get \"https://127.0.0.1:10259/healthz\": dial tcp 127.0.0.1:10259: connect: connection refused";
    assert!(all.contains(refused), "{all}");
    assert!(all.contains("controller-manager") && all.contains("etcd-0"), "{all}");
}

fn a_directory_is_a_store_too(t: &Shell) {
    let folder = Folder::new(t);
    let server = serve(t, &folder, "127.0.0.2", &embedded(t, &folder, &[]));
    t.ok("kubectl create configmap kept --from-literal=a=1");
    server.stop();
    let _server = serve(t, &folder, "127.0.0.2", &embedded(t, &folder, &[]));
    t.ok("kubectl get configmap kept");
}
