//! What a cluster lets in, by kubectl: policies that refuse, change and warn.

use crate::harness::{Shell, scenarios};

scenarios! {
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
