//! A group that an extension server serves, the `extension` example, behind the `apiserver` example:
//! two processes that speak HTTPS and know each other by the stock flags alone.

use std::{
    fs::File,
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use rk::api::server::pki::{Credentials, Pki};

use crate::{
    etcd::{free_ports, write_identity},
    harness::{Shell, scenarios},
    programs::{Folder, Server, embedded, example, serve},
};

scenarios! {
    Program:
        s38_a_registered_group_is_served_by_somebody_else,
        an_extension_server_is_an_api_like_any_other;
}

const GROUP: &str = "wardle.example.com";
const FLUNDERS: &str = "/apis/wardle.example.com/v1alpha1/namespaces/default/flunders";

/// An API server and an extension server, which do not know each other yet.
struct Both {
    server: Server,
    _folder: Folder,
    port: u16,
    _extension: Extension,
}

/// An extension server, gone with its value.
struct Extension(Child);

impl Extension {
    /// Starts an extension server, and waits until it listens; it and its port.
    fn start(t: &Shell, folder: &Folder) -> (Self, u16) {
        let port = free_ports("127.0.0.1", 1)[0];
        let log = t.directory().join("extension.log");
        let child = Command::new(program())
            .args([
                "--bind-address=127.0.0.1".to_owned(),
                format!("--secure-port={port}"),
                folder.file("kubeconfig", "wardle.conf"),
                folder.file("tls-cert-file", "wardle.pem"),
                folder.file("tls-private-key-file", "wardle-key.pem"),
            ])
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("it takes files"))
            .spawn()
            .expect("it was built");
        let mut extension = Self(child);
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let text = || std::fs::read_to_string(&log).unwrap_or_default();
            let ended = extension.0.try_wait().expect("it is ours");
            assert!(ended.is_none(), "the extension server ended: {}", text());
            assert!(begin.elapsed() < Duration::from_secs(60), "{}", text());
            std::thread::sleep(Duration::from_millis(50));
        }
        (extension, port)
    }
}

impl Drop for Extension {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program() -> &'static Path {
    static PROGRAM: OnceLock<std::path::PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example("extension"))
}

impl Both {
    /// Starts both. The extension server's user has what such servers need.
    fn start(t: &Shell) -> Self {
        let folder = Folder::new(t);
        let proxies = Pki::generate().expect("keys");
        std::fs::write(folder.path.join("front-proxy-ca.pem"), proxies.ca_pem()).expect("a file");
        for name in ["kubernetes", "somebody"] {
            let identity = proxies.client(name, &[]).expect("names are fine");
            write_identity(&folder.path, &format!("proxy-{name}"), &identity);
        }
        let flags = [
            folder.file("requestheader-client-ca-file", "front-proxy-ca.pem"),
            "--requestheader-allowed-names=kubernetes".to_owned(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
            "--requestheader-group-headers=X-Remote-Group".to_owned(),
            "--requestheader-username-headers=X-Remote-User".to_owned(),
            folder.file("proxy-client-cert-file", "proxy-kubernetes.pem"),
            folder.file("proxy-client-key-file", "proxy-kubernetes-key.pem"),
            "--enable-aggregator-routing=true".to_owned(),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let server = serve(t, &folder, "127.0.0.1", &embedded(t, &folder, &flags));

        t.ok("kubectl create namespace wardle");
        t.ok("kubectl create clusterrolebinding wardle --clusterrole=system:auth-delegator \
              --user=wardle");
        t.ok("kubectl -n kube-system create rolebinding wardle \
              --role=extension-apiserver-authentication-reader --user=wardle");
        t.eventually(
            "kubectl -n kube-system get configmap extension-apiserver-authentication -o yaml",
            "requestheader-client-ca-file",
        );
        let wardle = Credentials::Certificate { user: "wardle", groups: &[] };
        let kubeconfig = folder.pki.kubeconfig(&server.url, &wardle).expect("it is well formed");
        std::fs::write(folder.path.join("wardle.conf"), kubeconfig).expect("it takes files");
        let authority = Pki::generate().expect("keys");
        std::fs::write(folder.path.join("wardle-ca.pem"), authority.ca_pem()).expect("a file");
        let names = ["api.wardle.svc", "127.0.0.1"].map(ToOwned::to_owned);
        let identity = authority.server("wardle", &names).expect("names are fine");
        write_identity(&folder.path, "wardle", &identity);
        let (extension, port) = Extension::start(t, &folder);
        Self { server, port, _extension: extension, _folder: folder }
    }

    /// Tells the API server of the group, by way of a Service.
    fn register(&self, t: &Shell) {
        use std::fmt::Write;
        let bundle = t.ok("base64 -w0 ssl/wardle-ca.pem");
        let mut manifest = format!(
            "apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata:\n  name: \
             v1alpha1.{GROUP}\nspec:\n  group: {GROUP}\n  version: v1alpha1\n  \
             groupPriorityMinimum: 2000\n  versionPriority: 200\n  service:\n    namespace: \
             wardle\n    name: api\n    port: {}\n",
            self.port
        );
        writeln!(manifest, "  caBundle: {bundle}").expect("a text takes text");
        t.write("apiservice.yaml", &manifest);
        t.ok("kubectl apply -f apiservice.yaml");
    }

    /// Registers the extension server and waits until it is available.
    fn registered(t: &Shell) -> Self {
        let both = Self::start(t);
        t.ok("kubectl -n wardle create service externalname api --external-name=127.0.0.1");
        both.register(t);
        available(t, "True");
        both
    }
}

fn available(t: &Shell, status: &str) {
    t.eventually(
        &format!(
            "kubectl get apiservice v1alpha1.{GROUP} -o \
             'jsonpath={{.status.conditions[?(@.type==\"Available\")].status}}'"
        ),
        status,
    );
}

fn flunder(t: &Shell, name: &str) {
    t.write(
        &format!("{name}.yaml"),
        &format!(
            "apiVersion: {GROUP}/v1alpha1\nkind: Flunder\nmetadata:\n  name: {name}\n  labels:\n    \
             sample-label: {name}\nspec:\n  flunderReference: other\n"
        ),
    );
}

fn s38_a_registered_group_is_served_by_somebody_else(t: &Shell) {
    let both = Both::registered(t);
    assert!(t.ok("kubectl api-versions").contains("wardle.example.com/v1alpha1"));
    t.eventually(&format!("kubectl api-resources --api-group={GROUP}"), "flunders");
    flunder(t, "one");
    t.ok("kubectl create -f one.yaml");
    assert!(t.ok("kubectl get flunders").contains("one"));
    assert!(t.ok(&format!("kubectl get --raw {FLUNDERS}")).contains("\"flunderReference\""));

    // Both servers ask who it is and what they may do: the one of the cluster knows the token, the
    // other one believes the headers that come with the right certificate.
    let list = "kubectl --token=bootstrap-token get flunders";
    let refused = t.fails(list);
    assert!(refused.contains("User \"kubelet-bootstrap\" cannot list"), "{refused}");
    let may = |verb: &str| {
        t.sh(&format!("kubectl auth can-i {verb} flunders.{GROUP} --as=kubelet-bootstrap")).stdout
    };
    assert_eq!((may("list").trim(), may("create").trim()), ("no", "no"));
    t.ok(&format!(
        "kubectl create clusterrole readers --verb=get,list --resource=flunders.{GROUP}"
    ));
    t.ok(
        "kubectl create clusterrolebinding readers --clusterrole=readers --user=kubelet-bootstrap",
    );
    t.eventually(list, "one");
    assert_eq!((may("list").trim(), may("create").trim()), ("yes", "no"));
    flunder(t, "two");
    let refused = t.fails("kubectl --token=bootstrap-token create -f two.yaml");
    assert!(refused.contains("cannot create resource"), "{refused}");

    // Headers without a certificate, or with one of another name, are worth nothing.
    let url = format!("https://127.0.0.1:{}{FLUNDERS}", both.port);
    let status = |ca: &str, url: &str, more: &str| {
        t.ok(&format!(
            "curl -s -o /dev/null -w '%{{http_code}}' --cacert ssl/{ca} -H 'X-Remote-User: root' -H \
             'X-Remote-Group: system:masters' {more} {url}"
        ))
    };
    let as_proxy =
        |name: &str| format!("--cert ssl/proxy-{name}.pem --key ssl/proxy-{name}-key.pem");
    let own = format!("{}/api/v1/nodes", both.server.url);
    for (ca, url) in [("wardle-ca.pem", url.as_str()), ("ca.pem", own.as_str())] {
        assert_eq!(status(ca, url, &as_proxy("kubernetes")), "200", "{url}");
        assert_eq!(status(ca, url, &as_proxy("somebody")), "401", "{url}");
        let nobody = status(ca, url, "");
        assert!(["401", "403"].contains(&nobody.as_str()), "{url}: {nobody}");
    }
}

/// Everything that the test does with the sample API server, whose place the `extension` example
/// takes; its image is not run.
///
/// Conformance: aggregator-supports-the-sample-apiserver
fn an_extension_server_is_an_api_like_any_other(t: &Shell) {
    let _both = Both::registered(t);
    let service = format!("v1alpha1.{GROUP}");

    // A flunder by kubectl, read and deleted by path.
    flunder(t, "rest-flunder");
    let created = t.ok("kubectl create -f rest-flunder.yaml");
    assert_eq!(created, "flunder.wardle.example.com/rest-flunder created\n");
    let names = || {
        let names = "'jsonpath={.items[*].metadata.name}'";
        t.ok(&format!("kubectl get flunders -o {names}"))
    };
    assert_eq!(names(), "rest-flunder");
    assert!(t.ok(&format!("kubectl get --raw {FLUNDERS}")).contains("\"kind\":\"FlunderList\""));
    t.ok(&format!("kubectl delete --raw {FLUNDERS}/rest-flunder"));
    assert_eq!(names(), "");

    // Watches pass, and a collection is deleted by its label.
    for name in ["a", "b"] {
        flunder(t, name);
    }
    t.ok("timeout 60 kubectl get flunders -w -o name > seen.txt 2>&1 & echo $! > watch.pid");
    for name in ["a", "b"] {
        // The second one comes after the first was seen: by the watch.
        t.ok(&format!("kubectl create -f {name}.yaml"));
        t.eventually("cat seen.txt", &format!("flunder.wardle.example.com/{name}\n"));
    }
    t.ok("kill $(cat watch.pid)");
    t.ok(&format!("kubectl delete --raw '{FLUNDERS}?labelSelector=sample-label%3Da'"));
    assert_eq!(names(), "b");
    t.ok("kubectl apply -f b.yaml --server-side --force-conflicts");
    assert!(t.ok("kubectl explain flunder.spec").contains("flunderReference"));

    // The APIService is read, patched, listed, labelled, updated and replaced, with its status.
    let get = |path: &str| t.ok(&format!("kubectl get apiservice {service} -o 'jsonpath={path}'"));
    let status = t.ok(&format!(
        "kubectl get --raw /apis/apiregistration.k8s.io/v1/apiservices/{service}/status"
    ));
    assert!(status.contains("\"reason\":\"Passed\""), "{status}");
    t.ok(&format!(
        "kubectl patch apiservice {service} --type=merge -p '{{\"spec\":{{\"versionPriority\":400}}}}'"
    ));
    assert_eq!(get("{.spec.versionPriority}"), "400");
    assert!(t.ok("kubectl get apiservices -o name").contains(&service));
    t.ok(&format!("kubectl label apiservice {service} e2e=patched"));
    let condition = "{\"type\":\"StatusUpdated\",\"status\":\"True\",\"reason\":\"E2E\",\"message\":\
                     \"Set from an e2e test\"}";
    t.ok(&format!(
        "kubectl patch apiservice {service} --subresource=status --type=json -p \
         '[{{\"op\":\"add\",\"path\":\"/status/conditions/-\",\"value\":{condition}}}]'"
    ));
    assert_eq!(get("{.status.conditions[?(@.type==\"StatusUpdated\")].reason}"), "E2E");
    t.ok(&format!(
        "kubectl get apiservice {service} -o yaml | sed 's/e2e: patched/e2e: replaced/' | kubectl \
         replace -f -"
    ));
    assert_eq!(get("{.metadata.labels.e2e}"), "replaced");

    // It is taken back with its collection, and then nobody serves the group.
    t.ok("kubectl delete --raw \
          '/apis/apiregistration.k8s.io/v1/apiservices?labelSelector=e2e%3Dreplaced'");
    t.until("kubectl api-versions", "no group", |versions| {
        versions.contains("apps/v1") && !versions.contains(GROUP)
    });
    assert!(t.ok("kubectl get apiservices -o name").contains("v1.apps"));
    let gone = t.fails(&format!("kubectl get --raw {FLUNDERS}"));
    assert!(gone.contains("NotFound"), "{gone}");
}
