//! Section C of the scenarios: the API, objects and general behaviour.

use crate::harness::{Shell, rows, scenarios};

scenarios! {
    Sim:
        s51_every_stage_of_a_request_can_refuse,
        s52_a_watch_delivers_every_change_once_in_order,
        versions_and_kinds_are_discovered,
        s56_explain_shows_fields_with_types,
        s57_verbose_output_masks_credentials,
        s58_version_shows_client_and_server,
        s59_a_name_is_unique_within_kind_and_namespace,
        s60_labels_select,
        s61_annotations_do_not_select,
        s62_a_declared_state_is_restored,
        s63_a_namespace_gets_a_service_account_with_a_token,
        s64_a_wrong_manifest_is_refused_with_its_field;
}

fn s51_every_stage_of_a_request_can_refuse(t: &Shell) {
    t.ok("kubectl create configmap kept --from-literal=a=b");

    let server = "$(kubectl config view --minify -o 'jsonpath={.clusters[0].cluster.server}')";
    let wrong = t.ok(&format!("curl -sk -H 'Authorization: Bearer no' {server}/api/v1/nodes"));
    assert!(wrong.contains("\"code\": 401"), "{wrong}");
    let forbidden = t.fails("kubectl get nodes --as=somebody");
    assert!(
        forbidden.contains("(Forbidden)") && forbidden.contains("User \"somebody\""),
        "{forbidden}"
    );
    let admission = t.fails("kubectl create configmap lost -n no-such-namespace");
    assert!(admission.contains("namespaces \"no-such-namespace\" not found"), "{admission}");
    let validation = t.fails("kubectl create configmap Upper_Case");
    assert!(validation.contains("metadata.name: Invalid value"), "{validation}");

    assert_eq!(
        t.ok("kubectl get configmaps -o name | grep -v kube-root-ca.crt"),
        "configmap/kept\n"
    );
}

fn s52_a_watch_delivers_every_change_once_in_order(t: &Shell) {
    t.ok("kubectl create configmap watched --from-literal=n=0");
    let version = t.ok("kubectl get configmap watched -o 'jsonpath={.metadata.resourceVersion}'");
    for n in 1..=5 {
        t.ok(&format!("kubectl patch configmap watched -p '{{\"data\":{{\"n\":\"{n}\"}}}}'"));
    }
    t.ok("kubectl delete configmap watched");

    let path = format!("/api/v1/namespaces/{}/configmaps", t.namespace());
    let events = t.ok(&format!(
        "kubectl get --raw '{path}?watch=1&resourceVersion={version}&timeoutSeconds=1&\
         fieldSelector=metadata.name%3Dwatched'"
    ));
    let kinds: Vec<_> = events
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("an event"))
        .map(|event| {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            (text(&event["type"]), text(&event["object"]["data"]["n"]))
        })
        .collect();
    let modified = (1..=5).map(|n| ("MODIFIED".to_owned(), n.to_string()));
    let expected: Vec<_> = modified.chain([("DELETED".to_owned(), "5".to_owned())]).collect();
    assert_eq!(kinds, expected);

    t.ok("kubectl create configmap stale --from-literal=n=0");
    t.ok("kubectl get configmap stale -o json > stale.json");
    t.ok("kubectl patch configmap stale -p '{\"data\":{\"n\":\"1\"}}'");
    let conflict = t.fails("kubectl replace -f stale.json");
    assert!(conflict.contains("the object has been modified"), "{conflict}");
}

fn versions_and_kinds_are_discovered(t: &Shell) {
    let versions = t.ok("kubectl api-versions");
    for version in ["v1", "apps/v1"] {
        assert!(versions.lines().any(|line| line == version), "{version} in {versions}");
    }
    let kinds = t.ok("kubectl api-resources");
    for (plural, short) in [("pods", "po"), ("deployments", "deploy"), ("services", "svc")] {
        assert!(
            rows(&kinds)
                .iter()
                .any(|row| row[0] == plural && row[1].split(',').any(|s| s == short)),
            "{kinds}"
        );
    }
    t.write("unknown.yaml", "apiVersion: example.com/v1\nkind: Nothing\nmetadata: {name: x}\n");
    let unknown = t.fails("kubectl apply -f unknown.yaml");
    assert!(unknown.contains("no matches for kind \"Nothing\""), "{unknown}");
}

fn s56_explain_shows_fields_with_types(t: &Shell) {
    let pod = t.ok("kubectl explain pod");
    for text in ["KIND:       Pod", "VERSION:    v1", "DESCRIPTION:", "FIELDS:", "spec\t<PodSpec>"]
    {
        assert!(pod.contains(text), "{text} in {pod}");
    }
    let spec = t.ok("kubectl explain pod.spec");
    assert!(spec.contains("containers\t<[]Container> -required-"), "{spec}");
    let container = t.ok("kubectl explain pod.spec.containers");
    assert!(container.contains("name\t<string> -required-"), "{container}");
    let missing = t.fails("kubectl explain pod.spec.nothing");
    assert!(missing.contains("field \"nothing\" does not exist"), "{missing}");
}

fn s57_verbose_output_masks_credentials(t: &Shell) {
    let verbose = t.sh("kubectl -v=8 get pod").stderr;
    for text in ["GET https://", "Request Headers", "Response Status: 200 OK", "Response Body"] {
        assert!(verbose.contains(text), "{text} in {verbose}");
    }
    let token = t.sh("kubectl -v=8 --token=secret-token get pod").stderr;
    assert!(!token.contains("secret-token"), "{token}");
}

fn s58_version_shows_client_and_server(t: &Shell) {
    let version = t.ok("kubectl version");
    assert!(version.contains("Client Version: v"), "{version}");
    assert!(version.contains("Server Version: v1.37"), "{version}");
}

fn s59_a_name_is_unique_within_kind_and_namespace(t: &Shell) {
    t.ok("kubectl run twin --image=nginx");
    let second = t.fails("kubectl run twin --image=nginx");
    assert!(second.contains("(AlreadyExists)") && second.contains("pods \"twin\" already exists"));
    let other = format!("{}-other", t.namespace());
    t.ok(&format!("kubectl create namespace {other}"));
    t.eventually(&format!("kubectl get sa default -n {other} -o name"), "serviceaccount/default");
    t.ok(&format!("kubectl run twin --image=nginx -n {other}"));
    t.ok("kubectl create service clusterip twin --tcp=80:80");
    t.ok(&format!("kubectl delete namespace {other} --wait=false"));

    t.ok("kubectl config set-context --current --namespace=");
    let name = t.namespace().to_owned();
    t.ok(&format!("kubectl create configmap {name}"));
    assert_eq!(
        t.ok(&format!(
            "kubectl get configmap {name} -n default -o 'jsonpath={{.metadata.namespace}}'"
        )),
        "default"
    );
    t.ok(&format!("kubectl delete configmap {name} -n default"));
}

fn s60_labels_select(t: &Shell) {
    for (name, labels) in
        [("a", "role=backend,tier=1"), ("b", "role=backend,tier=2"), ("c", "role=frontend")]
    {
        t.ok(&format!("kubectl run {name} --image=nginx --labels={labels}"));
    }
    let select = |selector: &str| {
        let names = t.ok(&format!("kubectl get pod -l '{selector}' -o name"));
        names.replace("pod/", "").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(select("role=backend"), "a b");
    assert_eq!(select("role!=backend"), "c");
    assert_eq!(select("tier in (1,3)"), "a");
    assert_eq!(select("tier notin (1)"), "b c");
    assert_eq!(select("tier"), "a b");
    assert_eq!(select("!tier"), "c");
    assert!(t.ok("kubectl get pod a --show-labels").contains("role=backend,tier=1"));
    t.ok("kubectl label pod c role=backend --overwrite");
    assert_eq!(select("role=backend"), "a b c");

    let key = t.fails("kubectl label pod c 'bad key=x'");
    assert!(key.contains("name part must consist of alphanumeric characters"), "{key}");
    t.write(
        "bad.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad, labels: {x: 'not valid!'}}\n",
    );
    let value = t.fails("kubectl create -f bad.yaml");
    assert!(value.contains("metadata.labels: Invalid value: \"not valid!\""), "{value}");
}

fn s61_annotations_do_not_select(t: &Shell) {
    t.ok("kubectl run noted --image=nginx");
    t.ok("kubectl annotate pod noted owner='team one'");
    assert!(t.ok("kubectl describe pod noted").contains("owner: team one"));
    assert!(t.ok("kubectl get pod noted -o yaml").contains("owner: team one"));
    assert_eq!(t.ok("kubectl get pod -l owner -o name"), "");
    let field = t.fails("kubectl get pod --field-selector metadata.annotations.owner=x");
    assert!(field.contains("field label not supported"), "{field}");
}

fn s62_a_declared_state_is_restored(t: &Shell) {
    t.manifest("08-deployment-nginx.yaml");
    t.ok("kubectl apply -f 08-deployment-nginx.yaml");
    let deployment = t.ok("kubectl get deployment -o name");
    t.ok(&format!("kubectl rollout status {deployment}").replace('\n', ""));
    let before = t.ok("kubectl get pods -o name");
    let victim = before.lines().next().expect("a pod").to_owned();
    t.ok(&format!("kubectl delete {victim}"));
    t.until("kubectl get pods --no-headers", "three ready pods again", |out| {
        rows(out).iter().filter(|row| row[1] == "1/1" && row[2] == "Running").count() == 3
            && !out.contains(victim.trim_start_matches("pod/"))
    });
}

fn s63_a_namespace_gets_a_service_account_with_a_token(t: &Shell) {
    let accounts = t.ok("kubectl get serviceaccounts --no-headers");
    assert_eq!(rows(&accounts)[0][0], "default");
    let secrets = t.eventually("kubectl get secrets", "kubernetes.io/service-account-token");
    let row = rows(&secrets).into_iter().find(|row| row[0].starts_with("default-token-"));
    assert_eq!(row.map(|row| row[2].to_owned()).as_deref(), Some("3"), "{secrets}");
    t.ok("kubectl create serviceaccount gone");
    t.eventually("kubectl get secrets -o name", "secret/gone-token-");
    t.ok("kubectl delete serviceaccount gone");
    t.until("kubectl get secrets -o name", "the account's secret gone too", |out| {
        !out.contains("gone-token-")
    });
}

fn s64_a_wrong_manifest_is_refused_with_its_field(t: &Shell) {
    let deployment = |selector: &str, label: &str, replicas: &str| {
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: wrong}}\nspec:\n  replicas: \
             {replicas}\n  {selector}\n  template:\n    metadata: {{labels: {{app: {label}}}}}\n    \
             spec: {{containers: [{{name: c, image: nginx}}]}}\n"
        )
    };
    t.write("type.yaml", &deployment("selector: {matchLabels: {app: a}}", "a", "many"));
    let kind = t.fails("kubectl apply -f type.yaml");
    assert!(kind.contains("spec.replicas"), "{kind}");
    t.write("selector.yaml", &deployment("minReadySeconds: 0", "a", "1"));
    let selector = t.fails("kubectl apply -f selector.yaml");
    assert!(selector.contains("spec.selector: Required value"), "{selector}");
    t.write("labels.yaml", &deployment("selector: {matchLabels: {app: a}}", "b", "1"));
    let labels = t.fails("kubectl apply -f labels.yaml");
    assert!(
        labels.contains("spec.template.metadata.labels: Invalid value")
            && labels.contains("`selector` does not match template `labels`"),
        "{labels}"
    );
    assert_eq!(t.ok("kubectl get deployments -o name"), "");

    t.write(
        "bare.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: bare}\nspec:\n  containers:\n  - name: c\n    \
         image: nginx\n    resources: {limits: {cpu: 1}, requests: {cpu: 0.5}}\n",
    );
    t.ok("kubectl apply -f bare.yaml");
    let cpu = t
        .ok("kubectl get pod bare -o 'jsonpath={.spec.containers[0].resources.requests.cpu} \
         {.spec.containers[0].resources.limits.cpu}'");
    assert_eq!(cpu, "500m 1");
}
