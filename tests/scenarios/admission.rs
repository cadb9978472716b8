//! What a cluster lets in, by kubectl: policies that refuse, change and warn.

use crate::{
    harness::{Shell, scenarios},
    programs::{Folder, embedded, serve},
};

scenarios! {
    Both:
        s124_a_pod_preset_gives_pods_what_they_lack;
    Program:
        s124_the_stock_flags_turn_pod_presets_on;
    Sim:
        a_policy_refuses_what_kubectl_asks_for,
        a_policy_changes_what_is_created,
        pod_security_warns_and_refuses;
}

/// Where a policy counts: in the test's own namespace.
fn here(t: &Shell) -> String {
    format!(
        "  matchResources:\n    namespaceSelector:\n      matchLabels:\n        \
         kubernetes.io/metadata.name: {}\n",
        t.namespace()
    )
}

fn apply(t: &Shell, manifest: &str) {
    t.ok(&format!("kubectl apply -f - <<'END'\n{manifest}\nEND"));
}

fn a_policy_refuses_what_kubectl_asks_for(t: &Shell) {
    let name = format!("replicas-{}", t.namespace());
    let policy = format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\nmetadata:\n  \
         name: {name}\nspec:\n  failurePolicy: Fail\n  matchConstraints:\n    resourceRules:\n    - \
         apiGroups: [apps]\n      apiVersions: [v1]\n      operations: [CREATE, UPDATE]\n      \
         resources: [deployments]\n  validations:\n  - expression: object.spec.replicas <= 2\n    \
         messageExpression: \"'at most 2 replicas, not ' + string(object.spec.replicas)\"\n---\n\
         apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\n\
         metadata:\n  name: {name}\nspec:\n  policyName: {name}\n  validationActions: [Deny]\n{}",
        here(t)
    );
    apply(t, &policy);
    t.ok("kubectl create deployment small --image=busybox --replicas=2");
    let refused = t.fails("kubectl create deployment large --image=busybox --replicas=3");
    let expected = format!(
        "ValidatingAdmissionPolicy '{name}' with binding '{name}' denied request: at most 2 \
         replicas, not 3"
    );
    assert!(refused.contains(&expected), "{refused}");
    let nonsense = policy.replace("object.spec.replicas <= 2", "object.spec.replicas <=");
    let refused = t.fails(&format!("kubectl apply -f - <<'END'\n{nonsense}\nEND"));
    assert!(refused.contains("compilation failed: ERROR: <input>:1:"), "{refused}");
    t.ok(&format!(
        "kubectl delete validatingadmissionpolicy,validatingadmissionpolicybinding {name}"
    ));
    t.ok("kubectl create deployment large --image=busybox --replicas=3");
}

fn a_policy_changes_what_is_created(t: &Shell) {
    let name = format!("labels-{}", t.namespace());
    let policy = format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: MutatingAdmissionPolicy\nmetadata:\n  \
         name: {name}\nspec:\n  reinvocationPolicy: Never\n  matchConstraints:\n    resourceRules:\n    \
         - apiGroups: ['']\n      apiVersions: [v1]\n      operations: [CREATE]\n      resources: \
         [configmaps]\n  mutations:\n  - patchType: ApplyConfiguration\n    applyConfiguration:\n      \
         expression: \"Object{{metadata: Object.metadata{{labels: Object.metadata.labels{{team: \
         'a'}}}}}}\"\n---\napiVersion: admissionregistration.k8s.io/v1\nkind: \
         MutatingAdmissionPolicyBinding\nmetadata:\n  name: {name}\nspec:\n  policyName: {name}\n{}",
        here(t)
    );
    apply(t, &policy);
    t.ok("kubectl create configmap settings --from-literal=a=b");
    let label = t.ok("kubectl get configmap settings -o 'jsonpath={.metadata.labels.team}'");
    assert_eq!(label, "a");
    t.ok(&format!("kubectl delete mutatingadmissionpolicy,mutatingadmissionpolicybinding {name}"));
}

fn pod_security_warns_and_refuses(t: &Shell) {
    let namespace = t.namespace();
    let label = |mode: &str| {
        format!(
            "kubectl label --overwrite namespace {namespace} \
             pod-security.kubernetes.io/{mode}=restricted"
        )
    };
    let run = |name: &str| format!("kubectl run {name} --image=busybox");
    t.ok(&label("warn"));
    let warned = t.ok(&format!("{} 2>&1", run("warned")));
    assert!(
        warned.contains("Warning: would violate PodSecurity \"restricted:latest\"")
            && warned.contains("pod/warned created"),
        "{warned}"
    );
    let stricter = t.ok(&format!("{} 2>&1", label("enforce")));
    assert!(stricter.contains("existing pods in namespace"), "{stricter}");
    let refused = t.fails(&run("refused"));
    assert!(refused.contains("violates PodSecurity \"restricted:latest\""), "{refused}");
}

/// What a preset for `app=web` gives, with one more variable.
fn preset(name: &str, variable: &str, value: &str) -> String {
    format!(
        "apiVersion: settings.k8s.io/v1alpha1\nkind: PodPreset\nmetadata:\n  name: {name}\nspec:\n  \
         selector:\n    matchLabels:\n      app: web\n  env:\n  - name: {variable}\n    value: \
         '{value}'\n"
    )
}

fn s124_a_pod_preset_gives_pods_what_they_lack(t: &Shell) {
    t.ok("kubectl create secret generic login --from-literal=USER=ann");
    t.ok("kubectl create configmap settings --from-literal=COLOUR=blue");
    let run = |name: &str, labels: &str| {
        t.ok(&format!(
            "kubectl run {name} --image=busybox --restart=Never --labels={labels} -- \
             sh -c 'env; ls -d /cache; sleep 3600'"
        ));
        let pod = format!("kubectl get pod {name} -o 'jsonpath={{.status.phase}}'");
        t.eventually(&pod, "Running");
    };
    run("before", "app=web");
    let given = preset("given", "DB_PORT", "6379")
        + "  envFrom:\n  - secretRef: {name: login}\n  - configMapRef: {name: settings}\n  \
           volumes:\n  - name: cache\n    emptyDir: {}\n  volumeMounts:\n  - name: cache\n    \
           mountPath: /cache\n";
    apply(t, &given);
    t.ok("kubectl get podpreset given");
    run("after", "app=web");
    run("other", "app=db");

    let seen = t.until("kubectl logs after", "the folder", |log| log.contains("/cache"));
    for line in ["DB_PORT=6379", "USER=ann", "COLOUR=blue"] {
        assert!(seen.lines().any(|found| found == line), "{line}: {seen}");
    }
    let mark = "{.metadata.annotations.podpreset\\.admission\\.kubernetes\\.io/podpreset-given}";
    let marked = t.ok(&format!("kubectl get pod after -o 'jsonpath={mark}'"));
    let version = t.ok("kubectl get podpreset given -o 'jsonpath={.metadata.resourceVersion}'");
    assert_eq!(marked, version);
    for name in ["before", "other"] {
        let log = t.ok(&format!("kubectl logs {name}"));
        assert!(!log.contains("DB_PORT=6379"), "{name}: {log}");
    }

    // A second preset contradicts the first: nothing is given, and an event says why.
    apply(t, &preset("another", "DB_PORT", "1"));
    run("torn", "app=web");
    assert!(!t.ok("kubectl logs torn").contains("DB_PORT"));
    let events = t.ok("kubectl get events --field-selector involvedObject.name=torn");
    assert!(events.contains("has a conflict on DB_PORT"), "{events}");
    t.ok("kubectl delete pod --all --now");
    t.ok("kubectl delete podpreset --all");
}

fn s124_the_stock_flags_turn_pod_presets_on(t: &Shell) {
    let folder = Folder::new(t);
    let on =
        ["--runtime-config=settings.k8s.io/v1alpha1=true", "--enable-admission-plugins=PodPreset"];
    let flags = embedded(t, &folder, &[on[0], on[1], "--disable-admission-plugins=ServiceAccount"]);
    let server = serve(t, &folder, "127.0.0.1", &flags);
    apply(t, &preset("given", "DB_PORT", "6379"));
    t.ok("kubectl run web --image=busybox --labels=app=web");
    let env = t.ok("kubectl get pod web -o 'jsonpath={.spec.containers[0].env[0]}'");
    assert_eq!(env, "{\"name\":\"DB_PORT\",\"value\":\"6379\"}");
    let kinds = t.ok("kubectl explain podpreset.spec");
    assert!(kinds.contains("volumeMounts"), "{kinds}");
    server.stop();
}
