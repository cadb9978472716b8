//! Who is who, from binaries: certificates, tokens, and what a kubelet may do.

use rk::api::server::pki::Pki;

use crate::{
    etcd::write_identity,
    harness::{Shell, scenarios},
    programs::{Folder, Server, embedded, serve, status},
};

scenarios! {
    Program:
        s23_certificates_say_who_is_who,
        s24_a_token_file_names_users,
        s25_bootstrap_tokens_authenticate_until_they_expire,
        s30_a_kubelet_reads_and_writes_what_concerns_its_node,
        s35_tokens_are_taken_if_their_key_is_listed,
        s37_the_api_server_shows_its_certificate_to_kubelets;
    Sim:
        s25_expired_bootstrap_tokens_are_deleted,
        s26_a_kubelet_gets_its_certificate_through_a_request,
        s27_an_unapproved_request_gets_no_certificate;
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
