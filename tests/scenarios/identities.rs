//! Who is who, from binaries: certificates, tokens, and what a kubelet may do.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use rk::{
    api::server::pki::{Credentials, Identity, Pki},
    cri::agent::KubeletApi,
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::{
    etcd::write_identity,
    harness::{Shell, scenarios},
    programs::{Components, Folder, Server, embedded, serve, status},
};

scenarios! {
    Program:
        s23_certificates_say_who_is_who,
        s24_a_token_file_names_users,
        s25_bootstrap_tokens_authenticate_until_they_expire,
        s26_a_kubelet_gets_its_certificate_through_a_request,
        s27_an_unapproved_request_gets_no_certificate,
        s30_a_kubelet_reads_and_writes_what_concerns_its_node,
        s35_tokens_are_taken_if_their_key_is_listed,
        s37_the_api_server_shows_its_certificate_to_kubelets;
    Sim:
        s25_expired_bootstrap_tokens_are_deleted;
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

/// A kubelet that has no certificate yet asks for one, by the name of its request.
pub(crate) fn ask_for_certificate(t: &Shell, node: &str) -> String {
    t.ok(&format!(
        "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
         -subj /O=system:nodes/CN=system:node:{node} -keyout {node}-key.pem -out {node}.csr 2>&1"
    ));
    let request = std::fs::read(t.directory().join(format!("{node}.csr"))).expect("it was made");
    let name = format!("node-csr-{node}");
    t.write(
        "request.yaml",
        &format!(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\n\
             metadata: {{name: {name}}}\nspec:\n  request: {}\n  \
             signerName: kubernetes.io/kube-apiserver-client-kubelet\n  \
             usages: [digital signature, client auth]\n",
            STANDARD.encode(request)
        ),
    );
    t.ok("kubectl create -f request.yaml --token=bootstrap-token");
    name
}

/// A server whose kubelets may ask for certificates, and the controllers that see to it.
fn with_signer(t: &Shell, folder: &Folder) -> (Server, Components) {
    let server = serve(t, folder, "127.0.0.2", &embedded(t, folder, &[]));
    t.ok("kubectl create clusterrolebinding kubelet-bootstrap \
          --clusterrole=system:node-bootstrapper --user=kubelet-bootstrap");
    let components = Components::new();
    let admin = server.kubeconfig(folder, &Credentials::Token("admin-token"));
    let client = components.client(&admin);
    components.controllers(client, "csrapproving,csrsigning,csrcleaner", &folder.pki);
    (server, components)
}

fn s26_a_kubelet_gets_its_certificate_through_a_request(t: &Shell) {
    let folder = Folder::new(t);
    let (server, components) = with_signer(t, &folder);
    let name = ask_for_certificate(t, "worker");
    let pending = t.ok("kubectl get csr --no-headers");
    let words: Vec<_> = pending.split_whitespace().collect();
    assert_eq!(words[0], name);
    for word in ["kubernetes.io/kube-apiserver-client-kubelet", "kubelet-bootstrap", "Pending"] {
        assert!(words.contains(&word), "{word}: {pending}");
    }
    assert_eq!(t.ok("kubectl get nodes -o name"), "");

    t.ok(&format!("kubectl certificate approve {name}"));
    t.eventually("kubectl get csr", "Approved,Issued");
    t.ok(&format!(
        "kubectl get csr {name} -o jsonpath='{{.status.certificate}}' | base64 -d > worker.pem"
    ));
    let subject = t.ok("openssl x509 -in worker.pem -noout -subject -nameopt RFC2253");
    assert_eq!(subject.trim(), "subject=CN=system:node:worker,O=system:nodes");
    t.ok("openssl verify -purpose sslclient -CAfile ssl/ca.pem worker.pem");

    // With it the kubelet writes its kubeconfig, and the Node appears.
    t.ok(&format!(
        "kubectl config --kubeconfig=kubelet.kubeconfig set-cluster c --server={} \
         --certificate-authority=ssl/ca.pem --embed-certs && \
         kubectl config --kubeconfig=kubelet.kubeconfig set-credentials u --embed-certs \
         --client-certificate=worker.pem --client-key=worker-key.pem && \
         kubectl config --kubeconfig=kubelet.kubeconfig set-context x --cluster=c --user=u && \
         kubectl config --kubeconfig=kubelet.kubeconfig use-context x",
        server.url
    ));
    let kubeconfig = std::fs::read_to_string(t.directory().join("kubelet.kubeconfig"));
    let client = components.client(&kubeconfig.expect("it was just written"));
    components.agent(components.node(client, "worker"));
    t.eventually("kubectl get nodes", "worker   Ready");
}

fn s27_an_unapproved_request_gets_no_certificate(t: &Shell) {
    let folder = Folder::new(t);
    let (_server, _components) = with_signer(t, &folder);
    let waiting = ask_for_certificate(t, "waiting");
    let denied = ask_for_certificate(t, "denied");
    let approved = ask_for_certificate(t, "approved");
    // Only who may approve for the signer can.
    let approve = |who: &str| t.fails(&format!("kubectl certificate approve {waiting} {who}"));
    let refused = approve("--token=bootstrap-token");
    assert!(refused.contains("is forbidden: User \"kubelet-bootstrap\" cannot"), "{refused}");
    t.ok("kubectl create clusterrole half --verb=get,list,update \
          --resource=certificatesigningrequests,certificatesigningrequests/approval && \
          kubectl create clusterrolebinding half --clusterrole=half --user=half");
    let refused = approve("--as=half");
    let words = "user not permitted to approve requests with signerName \
                 \"kubernetes.io/kube-apiserver-client-kubelet\"";
    assert!(refused.contains(words), "{refused}");

    t.ok(&format!("kubectl certificate deny {denied}"));
    t.ok(&format!("kubectl certificate approve {approved}"));
    // The signer has been at all of them when the last has its certificate.
    t.eventually(&format!("kubectl get csr {approved}"), "Approved,Issued");
    let certificate =
        |name: &str| t.ok(&format!("kubectl get csr {name} -o jsonpath='{{.status.certificate}}'"));
    assert_eq!((certificate(&waiting), certificate(&denied)), (String::new(), String::new()));
    assert!(t.ok(&format!("kubectl get csr {waiting}")).contains("Pending"));
    assert!(t.ok(&format!("kubectl get csr {denied}")).contains("Denied"));
}

fn s30_a_kubelet_reads_and_writes_what_concerns_its_node(t: &Shell) {
    let folder = Folder::new(t);
    let no_accounts = "--disable-admission-plugins=ServiceAccount";
    let server = serve(t, &folder, "127.0.0.2", &embedded(t, &folder, &[no_accounts]));
    for node in ["a", "b"] {
        t.write(
            &format!("{node}.yaml"),
            &format!(
                "apiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\n---\n\
                 apiVersion: v1\nkind: Secret\nmetadata: {{name: of-{node}, namespace: default}}\n---\n\
                 apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: of-{node}, namespace: default}}\n---\n\
                 apiVersion: v1\nkind: Pod\nmetadata: {{name: on-{node}, namespace: default}}\nspec:\n  \
                 nodeName: {node}\n  containers: [{{name: c, image: i}}]\n  volumes:\n  \
                 - {{name: s, secret: {{secretName: of-{node}}}}}\n  \
                 - {{name: m, configMap: {{name: of-{node}}}}}\n"
            ),
        );
        t.ok(&format!("kubectl create -f {node}.yaml"));
    }
    let identity = Credentials::Certificate { user: "system:node:a", groups: &["system:nodes"] };
    t.write("node.kubeconfig", &server.kubeconfig(&folder, &identity));
    let own = folder.pki.client("system:node:a", &["system:nodes"]).expect("names are fine");
    write_identity(&folder.path, "node", &own);
    let as_node = |line: &str| format!("kubectl --kubeconfig=node.kubeconfig -n default {line}");
    let may = |line: &str| t.ok(&as_node(line));
    let refused = |line: &str, why: &str| {
        let words = t.fails(&as_node(line));
        assert!(words.contains("orbidden") && words.contains(why), "{line}: {words}");
    };

    // It reads what Pods on its node use, and only by name.
    for kind in ["secret", "configmap"] {
        t.eventually(&as_node(&format!("get {kind} of-a -o name")), &format!("{kind}/of-a"));
        let why = "no relationship found between node 'a' and this object";
        refused(&format!("get {kind} of-b"), why);
        refused(&format!("get {kind}s"), "");
        refused(&format!("delete {kind} of-a"), "");
    }
    // Of Nodes it changes its own, and not what others decide about it.
    may("label node a topology.kubernetes.io/zone=z");
    refused(
        "label node a node-restriction.kubernetes.io/team=x",
        "is not allowed to modify labels",
    );
    refused("label node b topology.kubernetes.io/zone=z", "");
    refused(
        "patch node a -p '{\"spec\":{\"taints\":[{\"key\":\"k\",\"effect\":\"NoSchedule\"}]}}'",
        "",
    );
    // So with Pods: the status of those on it, and their end.
    // (kubectl would read the status first, which no kubelet does.)
    let patched = |path: &str| {
        t.ok(&format!(
            "curl -s -o answer -w '%{{http_code}}' --cacert ssl/ca.pem --cert ssl/node.pem \
             --key ssl/node-key.pem -X PATCH -H 'Content-Type: application/merge-patch+json' \
             -d '{{\"status\":{{\"phase\":\"Running\"}}}}' {}/api/v1/{path}/status",
            server.url
        ))
    };
    assert_eq!(patched("namespaces/default/pods/on-a"), "200");
    assert_eq!(patched("namespaces/default/pods/on-b"), "403");
    let why = "can only update pod status for pods with spec.nodeName set to itself";
    assert!(t.ok("cat answer").contains(why));
    assert_eq!((patched("nodes/a"), patched("nodes/b")), ("200".to_owned(), "403".to_owned()));
    refused("delete pod on-b --wait=false", "");
    refused("create deployment d --image=i", "");
    // And with Leases: the one of its name.
    for (name, allowed) in [("a", true), ("b", false)] {
        t.write(
            "lease.yaml",
            &format!(
                "apiVersion: coordination.k8s.io/v1\nkind: Lease\n\
                 metadata: {{name: {name}, namespace: kube-node-lease}}\n"
            ),
        );
        let create = "-n kube-node-lease create -f lease.yaml";
        match allowed {
            true => drop(may(create)),
            false => refused(create, "can only access node lease with the same name"),
        }
    }
    // When the Pod has gone, so has the right.
    may("delete pod on-a --grace-period=0 --force");
    t.until(&format!("{} 2>&1; true", as_node("get secret of-a")), "a refusal", |said| {
        said.contains("no relationship found")
    });
}

/// A kubelet's API on a port of its own, for those who show a certificate of an authority. What they
/// showed is kept.
async fn serve_kubelet(
    listener: TcpListener,
    identity: Identity,
    authority: String,
    api: KubeletApi,
    shown: Arc<Mutex<Vec<Vec<u8>>>>,
) {
    let mut roots = RootCertStore::empty();
    let der =
        |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("it is a certificate");
    roots.add(der(&authority)).expect("it is an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).expect("it is a key");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("there are versions")
        .with_client_cert_verifier(verifier.build().expect("there is an authority"))
        .with_single_cert(vec![der(&identity.certificate_pem)], key)
        .expect("the key fits");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(stream) = acceptor.accept(stream).await else { continue };
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let first = certificates.first().expect("one is asked for").to_vec();
        shown.lock().expect("nobody panicked").push(first);
        let service = TowerToHyperService::new(api.clone());
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::spawn(connection);
    }
}

fn s37_the_api_server_shows_its_certificate_to_kubelets(t: &Shell) {
    let folder = Folder::new(t);
    let own = folder.pki.client("kube-apiserver-kubelet-client", &["system:masters"]);
    write_identity(&folder.path, "kubelet-client", &own.expect("names are fine"));
    let flags = [
        folder.file("kubelet-client-certificate", "kubelet-client.pem"),
        folder.file("kubelet-client-key", "kubelet-client-key.pem"),
        folder.file("kubelet-certificate-authority", "ca.pem"),
        "--disable-admission-plugins=ServiceAccount".to_owned(),
    ];
    let flags = embedded(t, &folder, &flags.each_ref().map(String::as_str));
    let server = serve(t, &folder, "127.0.0.2", &flags);

    // A kubelet at an address of its own.
    let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 5));
    let listener = std::net::TcpListener::bind((address, 0)).expect("loopback has this address");
    listener.set_nonblocking(true).expect("it can be");
    let port = listener.local_addr().expect("it is bound").port();
    let components = Components::new();
    let identity = Credentials::Certificate { user: "system:node:n", groups: &["system:nodes"] };
    let client = components.client(&server.kubeconfig(&folder, &identity));
    let node = components.node(client, "n").node_ips([address]).kubelet_port(port);
    let serving = folder.pki.server("system:node:n", &[address.to_string()]).expect("it is fine");
    let (authority, shown) = (folder.pki.ca_pem().to_owned(), Arc::<Mutex<Vec<_>>>::default());
    let kept = shown.clone();
    components.agent_with(node, |api| async move {
        let listener = TcpListener::from_std(listener).expect("it is not blocking");
        serve_kubelet(listener, serving, authority, api, kept).await;
    });
    t.write(
        "pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: default}\nspec:\n  \
         nodeName: \"n\"\n  containers:\n  - {name: c, image: i, command: [sh, -c, \
         'while true; do echo tick; sleep 1; done']}\n",
    );
    t.eventually("kubectl get nodes", "Ready");
    t.ok("kubectl create -f pod.yaml");
    t.eventually("kubectl get pod p -n default", "Running");

    t.eventually("kubectl logs p -n default", "tick");
    assert_eq!(t.ok("kubectl exec p -n default -- echo inside").trim(), "inside");
    let attached = t.ok("timeout 4 kubectl attach p -n default; true");
    assert!(attached.contains("tick"), "{attached}");
    let pem = std::fs::read(folder.path.join("kubelet-client.pem")).expect("it was written");
    let expected = CertificateDer::from_pem_slice(&pem).expect("it is a certificate");
    let shown = shown.lock().expect("nobody panicked").clone();
    assert!(shown.len() >= 3 && shown.iter().all(|it| it.as_slice() == expected.as_ref()));

    // Who shows none is refused, and who shows that of another authority.
    let ask =
        format!("curl -s --cacert ssl/ca.pem https://{address}:{port}/containerLogs/default/p/c");
    t.fails(&ask);
    let stranger = Pki::generate().expect("keys").client("kube-apiserver-kubelet-client", &[]);
    write_identity(&folder.path, "stranger", &stranger.expect("names are fine"));
    t.fails(&format!("{ask} --cert ssl/stranger.pem --key ssl/stranger-key.pem"));
    t.ok(&format!("{ask} --cert ssl/kubelet-client.pem --key ssl/kubelet-client-key.pem"));
}
