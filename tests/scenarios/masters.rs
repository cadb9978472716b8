//! The control plane from binaries: the `apiserver` example with the stock flags, real etcd, real
//! kubectl, all on loopback.

use std::{
    fs::File,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use rk::api::server::pki::{Credentials, Pki};

use crate::{
    etcd::{Etcd, free_ports, write_identity},
    harness::{Shell, scenarios},
};

scenarios! {
    Program:
        s19_wrong_flags_and_missing_files_are_named,
        s23_certificates_say_who_is_who,
        s24_a_token_file_names_users,
        s25_bootstrap_tokens_authenticate_until_they_expire,
        s35_tokens_are_taken_if_their_key_is_listed,
        s36_addresses_and_ports_come_from_their_ranges,
        s40_logs_are_in_their_folder,
        s41_privileged_pods_are_allowed_or_refused,
        a_directory_is_a_store_too;
    Etcd:
        s19_the_stock_flags_take_effect,
        s20_one_of_three_members_may_stop,
        s22_a_backup_brings_everything_back,
        s43_a_second_master_shows_the_same;
    Sim:
        s25_expired_bootstrap_tokens_are_deleted;
}

/// The built API server.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example("apiserver"))
}

/// Builds an example.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test has a path");
    let profile = test.ancestors().nth(2).expect("target/profile/deps/test");
    let mut build = Command::new(env!("CARGO"));
    // With the whole workspace, as it was tested: other features would build everything anew.
    build.args(["build", "--workspace", "--locked", "--quiet", "--example", name]);
    if cfg!(feature = "etcd") {
        build.args(["--features", "rk/etcd,rk-store/etcd"]);
    }
    if profile.ends_with("release") {
        build.arg("--release");
    }
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(build.status().expect("cargo runs").success(), "the example builds");
    profile.join("examples").join(name)
}

/// An API server, gone with its value.
pub(crate) struct Server {
    process: Child,
    pub(crate) url: String,
}

/// A folder with certificates of one authority: `ca.pem`, `ca-key.pem`, `apiserver.pem` and its key,
/// `admin.pem` and its key, and a token file.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    pub(crate) pki: Pki,
}

const TOKENS: &str = "admin-token,admin,1,\"system:masters\"\n\
                      bootstrap-token,kubelet-bootstrap,10001,\"system:node-bootstrapper\"\n";

impl Folder {
    pub(crate) fn new(t: &Shell) -> Self {
        let path = t.directory().join("ssl");
        std::fs::create_dir_all(&path).expect("the test's folder takes folders");
        let pki = Pki::load_or_create(&path).expect("certificates can be made");
        std::fs::rename(path.join("ca.crt"), path.join("ca.pem")).expect("it was just made");
        std::fs::rename(path.join("ca.key"), path.join("ca-key.pem")).expect("it was just made");
        let names = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "10.0.0.1"].map(ToOwned::to_owned);
        // Not the authority's name, which would make it look self-signed.
        let server = pki.server("kube-apiserver", &names).expect("names are fine");
        write_identity(&path, "apiserver", &server);
        let admin = pki.client("kubernetes-admin", &["system:masters"]).expect("names are fine");
        write_identity(&path, "admin", &admin);
        std::fs::write(path.join("token.csv"), TOKENS).expect("it takes files");
        Self { path, pki }
    }

    pub(crate) fn file(&self, flag: &str, name: &str) -> String {
        format!("--{flag}={}", self.path.join(name).display())
    }

    /// The flags that every server here has.
    fn flags(&self) -> Vec<String> {
        vec![
            self.file("tls-cert-file", "apiserver.pem"),
            self.file("tls-private-key-file", "apiserver-key.pem"),
            self.file("client-ca-file", "ca.pem"),
            self.file("token-auth-file", "token.csv"),
            "--authorization-mode=RBAC,Node".to_owned(),
        ]
    }
}

/// The flags of a server whose store is a folder of its own.
pub(crate) fn embedded(t: &Shell, folder: &Folder, more: &[&str]) -> Vec<String> {
    let mut flags = folder.flags();
    flags.push(format!("--data-dir={}", t.directory().join("data").display()));
    flags.extend(more.iter().map(|flag| (*flag).to_owned()));
    flags
}

/// Starts a server at an address, waits until it is ready, and makes kubectl talk to it.
pub(crate) fn serve(t: &Shell, folder: &Folder, address: &str, flags: &[String]) -> Server {
    let port = free_ports(address, 1)[0];
    let log = File::create(t.directory().join(format!("{address}.log"))).expect("it takes files");
    let process = Command::new(program())
        .args([format!("--bind-address={address}"), format!("--secure-port={port}")])
        .args(flags)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("it was built");
    let mut server = Server { process, url: format!("https://{address}:{port}") };
    let begin = Instant::now();
    while TcpStream::connect((address, port)).is_err() {
        let log = || std::fs::read_to_string(t.directory().join(format!("{address}.log")));
        let ended = server.process.try_wait().expect("it is ours");
        assert!(ended.is_none(), "the server ended: {}", log().unwrap_or_default());
        assert!(begin.elapsed() < Duration::from_secs(60), "{}", log().unwrap_or_default());
        std::thread::sleep(Duration::from_millis(50));
    }
    server.use_it(t, folder);
    t.eventually("kubectl get --raw /readyz", "ok");
    server
}

impl Server {
    /// Makes kubectl talk to it, as the administrator.
    fn use_it(&self, t: &Shell, folder: &Folder) {
        let admin = Credentials::Token("admin-token");
        let text = folder.pki.kubeconfig(&self.url, &admin).expect("it is well formed");
        t.write("kubeconfig", &text);
    }

    /// Asks it to end, and waits.
    pub(crate) fn stop(mut self) {
        let id = self.process.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status();
        assert!(sent.expect("there is kill").success());
        let begin = Instant::now();
        while self.process.try_wait().expect("it is ours").is_none() {
            assert!(begin.elapsed() < Duration::from_secs(30), "it does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `curl` with a token, for the status alone.
fn status(t: &Shell, server: &Server, more: &str) -> String {
    t.ok(&format!(
        "curl -s -o /dev/null -w '%{{http_code}}' --cacert ssl/ca.pem {more} {}/api",
        server.url
    ))
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

fn s23_certificates_say_who_is_who(t: &Shell) {
    let folder = Folder::new(t);
    let server = serve(t, &folder, "127.0.0.2", &embedded(t, &folder, &[]));
    // The server is who it says: with another authority a client does not believe it.
    assert_eq!(status(t, &server, "--cert ssl/admin.pem --key ssl/admin-key.pem"), "200");
    let other = Pki::generate().expect("keys");
    std::fs::write(folder.path.join("other-ca.pem"), other.ca_pem()).expect("it takes files");
    t.fails(&format!("curl -s --cacert ssl/other-ca.pem {}/api", server.url));
    // The common name is the user, the organizations are the groups.
    t.write("extensions", "extendedKeyUsage=clientAuth\n");
    t.ok("openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
          -subj /O=devs/O=testers/CN=jane -keyout ssl/jane-key.pem -out jane.csr 2>&1 && \
          openssl x509 -req -in jane.csr -CA ssl/ca.pem -CAkey ssl/ca-key.pem -CAcreateserial \
          -days 1 -extfile extensions -out ssl/jane.pem 2>&1");
    let whoami = "kubectl auth whoami --token= --client-certificate=ssl/jane.pem \
                  --client-key=ssl/jane-key.pem --kubeconfig=/dev/null --certificate-authority=ssl/ca.pem";
    let jane = t.ok(&format!("{whoami} --server={}", server.url));
    assert!(
        jane.contains("jane") && jane.contains("[devs testers system:authenticated]"),
        "{jane}"
    );
    // A certificate of another authority is nobody's.
    let stranger = other.client("admin", &["system:masters"]).expect("names are fine");
    write_identity(&folder.path, "stranger", &stranger);
    assert_eq!(status(t, &server, "--cert ssl/stranger.pem --key ssl/stranger-key.pem"), "401");
}

fn s24_a_token_file_names_users(t: &Shell) {
    let folder = Folder::new(t);
    let server = serve(t, &folder, "127.0.0.2", &embedded(t, &folder, &[]));
    let whoami = t.ok("kubectl auth whoami --token=bootstrap-token -o yaml");
    for part in ["kubelet-bootstrap", "system:node-bootstrapper", "\"10001\""] {
        assert!(whoami.contains(part), "{part}: {whoami}");
    }
    assert_eq!(status(t, &server, "-H 'Authorization: Bearer admin-token'"), "200");
    assert_eq!(status(t, &server, "-H 'Authorization: Bearer unlisted'"), "401");
}

/// Writes a bootstrap token Secret.
fn bootstrap_token(t: &Shell, id: &str, expires: &str, usage: &str) {
    t.write(
        &format!("{id}.yaml"),
        &format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: bootstrap-token-{id}, namespace: kube-system}}\n\
             type: bootstrap.kubernetes.io/token\nstringData:\n  token-id: {id}\n  \
             token-secret: 0123456789abcdef\n  expiration: \"{expires}\"\n  \
             usage-bootstrap-{usage}: \"true\"\n"
        ),
    );
    t.ok(&format!("kubectl apply -f {id}.yaml"));
}

fn s25_bootstrap_tokens_authenticate_until_they_expire(t: &Shell) {
    let folder = Folder::new(t);
    let flags = embedded(t, &folder, &["--enable-bootstrap-token-auth=true"]);
    let server = serve(t, &folder, "127.0.0.2", &flags);
    bootstrap_token(t, "goodid", "2099-01-01T00:00:00Z", "authentication");
    bootstrap_token(t, "oldold", "2020-01-01T00:00:00Z", "authentication");
    bootstrap_token(t, "signer", "2099-01-01T00:00:00Z", "signing");
    let ask = |server: &Server, id: &str| {
        status(t, server, &format!("-H 'Authorization: Bearer {id}.0123456789abcdef'"))
    };
    let whoami = t.ok("kubectl auth whoami --token=goodid.0123456789abcdef");
    assert!(whoami.contains("system:bootstrap:goodid"), "{whoami}");
    assert!(whoami.contains("system:bootstrappers"), "{whoami}");
    assert_eq!(ask(&server, "oldold"), "401", "it has expired");
    assert_eq!(ask(&server, "signer"), "401", "it is for something else");
    server.stop();
    let server = serve(t, &folder, "127.0.0.2", &embedded(t, &folder, &[]));
    assert_eq!(ask(&server, "goodid"), "401", "the flag is off");
}

fn s25_expired_bootstrap_tokens_are_deleted(t: &Shell) {
    bootstrap_token(t, "stays0", "2099-01-01T00:00:00Z", "authentication");
    bootstrap_token(t, "late00", "2020-01-01T00:00:00Z", "authentication");
    let soon = t.ok("date -u -d '+3 seconds' +%Y-%m-%dT%H:%M:%SZ");
    bootstrap_token(t, "soon00", soon.trim(), "authentication");
    t.until("kubectl get secrets -n kube-system -o name", "only the one that lasts", |names| {
        names.contains("stays0") && !names.contains("late00") && !names.contains("soon00")
    });
    t.ok("kubectl delete secret -n kube-system bootstrap-token-stays0");
}

fn s35_tokens_are_taken_if_their_key_is_listed(t: &Shell) {
    let folder = Folder::new(t);
    let signing = folder.file("service-account-signing-key-file", "apiserver-key.pem");
    let issuer = "--service-account-issuer=api";
    let listed = folder.file("service-account-key-file", "apiserver-key.pem");
    let other = folder.file("service-account-key-file", "ca-key.pem");
    let server =
        serve(t, &folder, "127.0.0.2", &embedded(t, &folder, &[&signing, issuer, &other, &listed]));
    t.ok("kubectl create serviceaccount robot -n default");
    let token = t.ok("kubectl create token robot -n default");
    let bearer = format!("-H 'Authorization: Bearer {}'", token.trim());
    assert_eq!(status(t, &server, &bearer), "200");
    let whoami = t.ok(&format!("kubectl auth whoami --token={}", token.trim()));
    assert!(whoami.contains("system:serviceaccount:default:robot"), "{whoami}");
    let document = t.ok("kubectl get --raw /.well-known/openid-configuration");
    assert!(document.contains("\"issuer\":\"api\""), "{document}");
    server.stop();
    // The key that signs is not listed: what it signs is not taken.
    let server = serve(t, &folder, "127.0.0.2", &embedded(t, &folder, &[&signing, issuer, &other]));
    assert_eq!(status(t, &server, &bearer), "401");
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

fn a_directory_is_a_store_too(t: &Shell) {
    let folder = Folder::new(t);
    let server = serve(t, &folder, "127.0.0.2", &embedded(t, &folder, &[]));
    t.ok("kubectl create configmap kept --from-literal=a=1");
    server.stop();
    let _server = serve(t, &folder, "127.0.0.2", &embedded(t, &folder, &[]));
    t.ok("kubectl get configmap kept");
}
