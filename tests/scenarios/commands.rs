//! Commands of kubectl that no scenario is about.

use crate::harness::{Shell, scenarios};

scenarios! {
    Sim:
        set_changes_selectors_accounts_and_subjects,
        replace_by_force_makes_an_object_anew,
        wait_for_a_field,
        apply_prunes_what_is_no_longer_given,
        cluster_info_and_its_dump,
        a_kustomization_is_applied_and_deleted,
        create_makes_objects_of_many_kinds;
}

/// The value at a path of an object.
fn field(t: &Shell, object: &str, path: &str) -> String {
    t.ok(&format!("kubectl get {object} -o 'jsonpath={{{path}}}'"))
}

fn set_changes_selectors_accounts_and_subjects(t: &Shell) {
    t.ok("kubectl create service clusterip web --tcp=80");
    let set = t.ok("kubectl set selector service web tier=front");
    assert_eq!(set, "service/web selector updated\n");
    assert_eq!(field(t, "service web", ".spec.selector"), "{\"tier\":\"front\"}");

    t.ok("kubectl create serviceaccount robot");
    t.ok("kubectl create deployment web --image=nginx");
    let set = t.ok("kubectl set serviceaccount deployment web robot");
    assert_eq!(set, "deployment.apps/web serviceaccount updated\n");
    let account = field(t, "deployment web", ".spec.template.spec.serviceAccountName");
    assert_eq!(account, "robot");
    t.eventually("kubectl get pods -o 'jsonpath={.items[*].spec.serviceAccountName}'", "robot");

    let namespace = t.namespace();
    t.ok("kubectl create role reader --verb=get --resource=pods");
    t.ok("kubectl create rolebinding reads --role=reader --user=john");
    let more = format!("--user=jane --group=staff --serviceaccount={namespace}:robot");
    let set = t.ok(&format!("kubectl set subject rolebinding reads {more}"));
    assert_eq!(set, "rolebinding.rbac.authorization.k8s.io/reads subjects updated\n");
    let subjects = field(t, "rolebinding reads", ".subjects[*].name");
    for name in ["john", "jane", "staff", "robot"] {
        assert!(subjects.split(' ').any(|it| it == name), "{name}: {subjects}");
    }
}

fn map(name: &str, labels: &str, data: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, labels: {{{labels}}}}}\ndata: {{{data}}}\n"
    )
}

fn replace_by_force_makes_an_object_anew(t: &Shell) {
    t.write("map.yaml", &map("m", "", "a: before"));
    t.ok("kubectl create -f map.yaml");
    let before = field(t, "configmap m", ".metadata.uid");
    t.write("map.yaml", &map("m", "", "a: after"));
    let replaced = t.ok("kubectl replace --force -f map.yaml");
    assert!(replaced.ends_with("configmap/m replaced\n"), "{replaced}");
    assert_eq!(field(t, "configmap m", ".data.a"), "after");
    assert_ne!(field(t, "configmap m", ".metadata.uid"), before);
}

fn wait_for_a_field(t: &Shell) {
    t.ok("kubectl create configmap m --from-literal=state=cold");
    let wait = "kubectl wait --timeout=50s configmap/m";
    let met = t.ok(&format!(
        "{wait} --for=jsonpath='{{.data.state}}'=warm & waiting=$!; \
         kubectl patch configmap m --type=merge -p '{{\"data\": {{\"state\": \"warm\"}}}}' >&2; wait $waiting"
    ));
    assert_eq!(met, "configmap/m condition met\n");
    assert_eq!(t.ok(&format!("{wait} --for=jsonpath='{{.data.state}}'")), met);
    assert_eq!(t.ok(&format!("{wait} --for=create")), met);
    t.fails("kubectl wait --timeout=1s configmap/m --for=jsonpath='{.data.state}'=hot");
}

fn apply_prunes_what_is_no_longer_given(t: &Shell) {
    let names = |selector: &str| t.ok(&format!("kubectl get configmaps {selector} -o name"));
    t.ok("mkdir all");
    t.write("all/a.yaml", &map("a", "set: one", "x: one"));
    t.write("all/b.yaml", &map("b", "set: one", "x: one"));
    t.ok("kubectl create configmap c && kubectl label configmap c set=one");
    let apply = "kubectl apply -f all --prune -l set=one --prune-allowlist=core/v1/ConfigMap";
    t.ok(apply);
    t.ok("rm all/b.yaml");
    let pruned = t.ok(apply);
    assert!(pruned.contains("configmap/b pruned"), "{pruned}");
    // What nobody has applied is not pruned.
    assert_eq!(names("-l set=one"), "configmap/a\nconfigmap/c\n");

    // The same by a set that remembers what is in it (KEP-3659).
    t.ok("mkdir set");
    t.write("set/d.yaml", &map("d", "", "x: one"));
    t.write("set/e.yaml", &map("e", "", "x: one"));
    let namespace = t.namespace();
    let apply = format!(
        "KUBECTL_APPLYSET=true kubectl apply -n {namespace} -f set --prune --applyset=members"
    );
    t.ok(&apply);
    let members = names("-l applyset.kubernetes.io/part-of");
    assert_eq!(members, "configmap/d\nconfigmap/e\n");
    let kinds = r".metadata.annotations.applyset\.kubernetes\.io/contains-group-kinds";
    assert_eq!(field(t, "secret members", kinds), "ConfigMap");
    t.ok("rm set/e.yaml");
    let pruned = t.ok(&apply);
    assert!(pruned.contains("configmap/e pruned"), "{pruned}");
    assert_eq!(names("-l applyset.kubernetes.io/part-of"), "configmap/d\n");
}

fn cluster_info_and_its_dump(t: &Shell) {
    let info = t.ok("kubectl cluster-info");
    assert!(info.contains("control plane") && info.contains("https://"), "{info}");
    t.ok("kubectl run demo --image=nginx");
    t.ok("kubectl wait --for=condition=Ready pod/demo --timeout=50s");
    let namespace = t.namespace();
    t.ok(&format!("kubectl cluster-info dump --namespaces={namespace} --output-directory=dump"));
    assert!(t.ok("cat dump/nodes.json").contains("\"NodeList\""));
    assert!(t.ok(&format!("cat dump/{namespace}/pods.json")).contains("\"demo\""));
    t.ok(&format!("test -f dump/{namespace}/demo/logs.txt"));
}

fn a_kustomization_is_applied_and_deleted(t: &Shell) {
    t.ok("mkdir base top");
    t.write(
        "base/kustomization.yaml",
        "resources: [web.yaml]\nconfigMapGenerator:\n- {name: settings, literals: [color=blue]}\n",
    );
    t.write(
        "base/web.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n",
    );
    t.write(
        "top/kustomization.yaml",
        "resources: [../base]\nnamePrefix: my-\nlabels:\n- {pairs: {stage: test}}\n",
    );
    let built = t.ok("kubectl kustomize top");
    assert!(built.contains("name: my-web") && built.contains("color: blue"), "{built}");
    let applied = t.ok("kubectl apply -k top");
    assert!(applied.contains("service/my-web created"), "{applied}");
    assert_eq!(field(t, "service my-web", ".metadata.labels.stage"), "test");
    let generated = t.ok("kubectl get configmaps -l stage=test -o name");
    assert!(generated.starts_with("configmap/my-settings-"), "{generated}");
    t.ok("kubectl delete -k top");
    assert_eq!(t.ok("kubectl get services,configmaps -l stage=test -o name"), "");
}

fn create_makes_objects_of_many_kinds(t: &Shell) {
    let namespace = t.namespace();
    let class = format!("urgent-{namespace}");
    t.ok(&format!("kubectl create priorityclass {class} --value=1000 --description=soon"));
    assert_eq!(field(t, &format!("priorityclass {class}"), ".value"), "1000");
    t.ok(&format!("kubectl run demo --image=nginx --overrides='{{\"spec\": {{\"priorityClassName\": \"{class}\"}}}}'"));
    assert_eq!(field(t, "pod demo", ".spec.priority"), "1000");
    t.ok(&format!("kubectl delete priorityclass {class}"));

    t.ok("kubectl create role reader --verb=get,list --resource=pods,deployments.apps");
    assert_eq!(field(t, "role reader", ".rules[*].resources"), "[\"pods\"] [\"deployments\"]");
    let role = format!("reader-{namespace}");
    t.ok(&format!("kubectl create clusterrole {role} --verb=get --non-resource-url=/healthz"));
    let urls = field(t, &format!("clusterrole {role}"), ".rules[0].nonResourceURLs");
    assert_eq!(urls, "[\"/healthz\"]");
    t.ok(&format!("kubectl delete clusterrole {role}"));

    t.ok("kubectl create quota few --hard=configmaps=9,pods=5");
    t.eventually("kubectl get quota few -o 'jsonpath={.status.used.pods}'", "1");
    t.ok("kubectl create pdb half --selector=app=web --min-available=50%");
    assert_eq!(field(t, "pdb half", ".spec.minAvailable"), "50%");
    t.ok("kubectl create ingress door --rule='example.com/path*=web:80,tls=cert'");
    let path = ".spec.rules[0].http.paths[0]";
    let found =
        field(t, "ingress door", &format!("{path}.pathType}} {{{path}.backend.service.name"));
    assert_eq!(found, "Prefix web");
    assert_eq!(field(t, "ingress door", ".spec.tls[0].secretName"), "cert");
    let token = t.ok("kubectl create token default --duration=10m");
    assert_eq!(token.trim().split('.').count(), 3, "{token}");
}
