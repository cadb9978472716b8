//! The scenarios about kinds at several versions, and about how each kind is printed.

use crate::harness::{Shell, rows, scenarios};

scenarios! {
    Sim:
        s53_groups_versions_and_kinds_are_discovered,
        s54_a_cron_job_written_as_v1beta1_reads_as_v1,
        s75_columns_of_each_kind;
}

fn s53_groups_versions_and_kinds_are_discovered(t: &Shell) {
    let versions = t.ok("kubectl api-versions");
    for version in [
        "v1",
        "apps/v1",
        "batch/v1",
        "batch/v1beta1",
        "networking.k8s.io/v1",
        "networking.k8s.io/v1beta1",
        "extensions/v1beta1",
        "rbac.authorization.k8s.io/v1",
        "certificates.k8s.io/v1",
        "autoscaling/v1",
        "autoscaling/v2",
        "policy/v1beta1",
        "discovery.k8s.io/v1beta1",
        "events.k8s.io/v1beta1",
    ] {
        assert!(versions.lines().any(|line| line == version), "{version} in {versions}");
    }
    let kinds = t.ok("kubectl api-resources");
    for (plural, version) in [
        ("cronjobs", "batch/v1"),
        ("horizontalpodautoscalers", "autoscaling/v2"),
        ("ingresses", "networking.k8s.io/v1"),
    ] {
        let found = rows(&kinds).iter().any(|row| row[0] == plural && row.contains(&version));
        assert!(found, "{plural} of {version} in {kinds}");
    }
    t.ok("kubectl get cronjobs.v1beta1.batch");
    for (version, kind) in [("batch/v7", "CronJob"), ("example.com/v1", "Nothing")] {
        t.write("x.yaml", &format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: x}}\n"));
        let unknown = t.fails("kubectl apply -f x.yaml");
        let message = format!("no matches for kind \"{kind}\" in version \"{version}\"");
        assert!(unknown.contains(&message), "{unknown}");
    }
}

fn s54_a_cron_job_written_as_v1beta1_reads_as_v1(t: &Shell) {
    t.manifest("11-cronjob-example.yaml");
    let created = t.sh("kubectl apply -f 11-cronjob-example.yaml");
    assert_eq!(created.code, 0, "{}", created.stderr);
    assert!(
        created.stderr.contains(
            "Warning: batch/v1beta1 CronJob is deprecated in v1.21+, unavailable in v1.25+; use \
             batch/v1 CronJob"
        ),
        "{}",
        created.stderr
    );
    let name = t.ok("kubectl get cronjobs -o 'jsonpath={.items[0].metadata.name}'");
    let shown = |version: &str, path: &str| {
        t.ok(&format!("kubectl get cronjobs.{version}.batch {name} -o 'jsonpath={{{path}}}'"))
    };
    for path in [".metadata.uid", ".metadata.resourceVersion", ".spec"] {
        assert_eq!(shown("v1", path), shown("v1beta1", path), "{path}");
    }
    assert_eq!(shown("v1", ".apiVersion"), "batch/v1");
    assert_eq!(shown("v1beta1", ".apiVersion"), "batch/v1beta1");

    t.ok(&format!(
        "kubectl patch cronjobs.v1beta1.batch {name} -p '{{\"spec\":{{\"suspend\":true}}}}'"
    ));
    assert_eq!(shown("v1", ".spec.suspend"), "true");
    let explained = t.ok("kubectl explain cronjob --api-version=batch/v1beta1");
    assert!(explained.contains("VERSION:    v1beta1"), "{explained}");
    t.ok(&format!("kubectl delete cronjobs.v1beta1.batch {name}"));
    t.fails(&format!("kubectl get cronjob {name}"));
}

fn s75_columns_of_each_kind(t: &Shell) {
    t.ok("kubectl create deployment web --image=nginx");
    t.ok("kubectl expose deployment web --port=80");
    t.ok("kubectl create ingress web --rule=example.com/=web:80");
    t.ok("kubectl create secret generic token --from-literal=a=b");
    t.eventually("kubectl get rs", "web");
    let begin = "-----BEGIN CERTIFICATE REQUEST-----\nAA==\n-----END CERTIFICATE REQUEST-----\n";
    t.write("request.pem", begin);
    let request = format!("csr-{}", t.namespace());
    t.ok(&format!(
        "printf 'apiVersion: certificates.k8s.io/v1\\nkind: CertificateSigningRequest\\n\
         metadata: {{name: {request}}}\\nspec: {{signerName: example.com/s, usages: [client auth], \
         request: %s}}\\n' $(base64 -w0 request.pem) | kubectl create -f -"
    ));
    for (what, columns) in [
        ("svc", "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE"),
        ("deployment", "NAME READY UP-TO-DATE AVAILABLE AGE"),
        ("rs", "NAME DESIRED CURRENT READY AGE"),
        ("ingress", "NAME CLASS HOSTS ADDRESS PORTS AGE"),
        ("secrets", "NAME TYPE DATA AGE"),
        ("secret token", "NAME TYPE DATA AGE"),
        ("csr", "NAME AGE SIGNERNAME REQUESTOR REQUESTEDDURATION CONDITION"),
        ("cs", "NAME STATUS MESSAGE ERROR"),
        ("ns", "NAME STATUS AGE"),
        ("node", "NAME STATUS ROLES AGE VERSION"),
    ] {
        let printed = t.ok(&format!("kubectl get {what}"));
        let head: Vec<_> = rows(&printed)[0].clone();
        assert_eq!(head.join(" "), columns);
    }
    let deployment = t.ok("kubectl get deployment web");
    assert_eq!(rows(&deployment)[1][0], "web");
    let service = t.ok("kubectl get svc web");
    let row = rows(&service)[1].clone();
    assert_eq!((row[1], row[3], row[4]), ("ClusterIP", "<none>", "80/TCP"));
    let ingress = t.ok("kubectl get ingress web");
    assert_eq!(rows(&ingress)[1][..4], ["web", "<none>", "example.com", "80"]);
    let signing = t.ok(&format!("kubectl get csr {request}"));
    let row = rows(&signing)[1].clone();
    assert_eq!((row[2], row[4], row[5]), ("example.com/s", "<none>", "Pending"));
    t.ok(&format!("kubectl delete csr {request}"));
}
