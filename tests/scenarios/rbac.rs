//! Who may do what, by kubectl: roles, bindings, reviews, anonymous access.

use crate::harness::{Shell, scenarios};

scenarios! {
    Sim:
        s28_a_binding_for_anonymous_opens_the_cluster,
        s29_a_binding_gives_rights_where_it_is,
        s29_nobody_grants_what_they_do_not_hold,
        s98_a_service_account_becomes_administrator,
        who_am_i_and_what_can_i_do,
        roles_are_created_and_reconciled,
        aggregated_roles_have_the_rules_of_others;
}

fn s28_a_binding_for_anonymous_opens_the_cluster(t: &Shell) {
    let server = t.ok("kubectl config view --minify -o 'jsonpath={.clusters[0].cluster.server}'");
    let ask = format!("curl -sk {server}/api/v1/namespaces");
    let before = t.ok(&ask);
    assert!(before.contains("\"code\": 403") && before.contains("system:anonymous"), "{before}");
    t.ok("kubectl create clusterrolebinding cluster-system-anonymous --clusterrole=cluster-admin \
          --user=system:anonymous");
    let open = t.ok(&ask);
    assert!(open.contains("\"kind\": \"NamespaceList\""), "{open}");
    t.ok("kubectl delete clusterrolebinding cluster-system-anonymous");
    let after = t.ok(&ask);
    assert!(after.contains("\"code\": 403"), "{after}");
}

fn s29_a_binding_gives_rights_where_it_is(t: &Shell) {
    let refused = t.fails("kubectl get pods --as=jane");
    let expected = format!(
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the \
         namespace \"{}\"",
        t.namespace()
    );
    assert!(refused.contains(&expected), "{refused}");
    t.ok("kubectl create role pod-reader --verb=get,list,watch --resource=pods,pods/log");
    t.ok("kubectl create rolebinding jane --role=pod-reader --user=jane");
    t.ok("kubectl get pods --as=jane");
    t.fails("kubectl get pods -n default --as=jane");
    t.fails("kubectl get secrets --as=jane");
    let name = format!("reader-{}", t.namespace());
    t.ok(&format!("kubectl create clusterrole {name} --verb=list --resource=configmaps"));
    t.ok(&format!("kubectl create clusterrolebinding {name} --clusterrole={name} --group={name}"));
    t.ok(&format!("kubectl get configmaps -A --as=jane --as-group={name}"));
    t.fails("kubectl get configmaps -A --as=jane");
    t.ok(&format!("kubectl delete clusterrolebinding,clusterrole {name}"));
}

fn s29_nobody_grants_what_they_do_not_hold(t: &Shell) {
    t.ok("kubectl create role granter --verb=create,get,list --resource=roles,rolebindings");
    t.ok("kubectl create rolebinding granter --role=granter --user=jane");
    let refused = t.fails("kubectl create role more --verb=get --resource=secrets --as=jane");
    assert!(
        refused.contains("is attempting to grant RBAC permissions not currently held")
            && refused.contains("{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}"),
        "{refused}"
    );
    t.fails("kubectl create rolebinding more --clusterrole=cluster-admin --user=jane --as=jane");
    t.ok("kubectl create rolebinding same --role=granter --user=bob --as=jane");
}

fn s98_a_service_account_becomes_administrator(t: &Shell) {
    let (namespace, name) = (t.namespace(), format!("admin-{}", t.namespace()));
    t.ok("kubectl create serviceaccount dashboard-admin");
    let account = format!("system:serviceaccount:{namespace}:dashboard-admin");
    t.fails(&format!("kubectl get nodes --as={account}"));
    let wrong = t.fails(&format!(
        "kubectl create clusterrolebinding {name} --clusterrole=cluster-admin \
         --serviceaccount=dashboard-admin"
    ));
    assert!(wrong.contains("serviceaccount must be <namespace>:<name>"), "{wrong}");
    t.ok(&format!(
        "kubectl create clusterrolebinding {name} --clusterrole=cluster-admin \
         --serviceaccount={namespace}:dashboard-admin"
    ));
    t.ok(&format!("kubectl get nodes --as={account}"));
    let token = t.ok("kubectl create token dashboard-admin");
    let server = t.ok("kubectl config view --minify -o 'jsonpath={.clusters[0].cluster.server}'");
    let secrets = t.ok(&format!(
        "curl -sk -H 'Authorization: Bearer {}' {server}/api/v1/namespaces/kube-system/secrets",
        token.trim()
    ));
    assert!(secrets.contains("\"kind\": \"SecretList\""), "{secrets}");
    t.ok(&format!("kubectl delete clusterrolebinding {name}"));
    t.fails(&format!("kubectl get nodes --as={account}"));
}

fn who_am_i_and_what_can_i_do(t: &Shell) {
    let whoami = t.ok("kubectl auth whoami -o json");
    assert!(whoami.contains("\"system:masters\""), "{whoami}");
    assert!(t.ok("kubectl auth whoami --as=jane").contains("jane"));
    assert_eq!(t.ok("kubectl auth can-i '*' '*'").trim(), "yes");
    assert_eq!(t.sh("kubectl auth can-i get pods --as=jane").stdout.trim(), "no");
    t.ok("kubectl create role r --verb=get --resource=pods --resource-name=one");
    t.ok("kubectl create rolebinding r --role=r --user=jane");
    assert_eq!(t.ok("kubectl auth can-i get pods/one --as=jane").trim(), "yes");
    assert_eq!(t.ok("kubectl auth can-i get /version --as=jane").trim(), "yes");
    let list = t.ok("kubectl auth can-i --list --as=jane");
    for text in ["pods", "[one]", "[get]", "selfsubjectaccessreviews.authorization.k8s.io"] {
        assert!(list.contains(text), "{text} in {list}");
    }
}

fn roles_are_created_and_reconciled(t: &Shell) {
    let name = format!("monitor-{}", t.namespace());
    t.ok(&format!("kubectl create clusterrole {name} --verb=get --non-resource-url=/metrics"));
    t.ok(&format!("kubectl delete clusterrole {name}"));
    // It takes the namespace from the file alone.
    let namespace = t.namespace();
    t.write(
        "rbac.yaml",
        &format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\n\
             metadata: {{name: kept, namespace: {namespace}}}\nrules:\n\
             - {{apiGroups: [''], resources: [pods], verbs: [get, list]}}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\n\
             metadata: {{name: kept, namespace: {namespace}}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: kept}}\nsubjects:\n\
             - {{kind: User, name: jane, apiGroup: rbac.authorization.k8s.io}}\n"
        ),
    );
    let first = t.ok("kubectl auth reconcile -f rbac.yaml");
    assert!(first.contains("role.rbac.authorization.k8s.io/kept reconciled"), "{first}");
    t.ok("kubectl patch role kept --type=json -p '[{\"op\":\"remove\",\"path\":\"/rules/0/verbs/1\"}]'");
    t.fails("kubectl get pods --as=jane");
    t.ok("kubectl auth reconcile -f rbac.yaml");
    t.ok("kubectl get pods --as=jane");
}

fn aggregated_roles_have_the_rules_of_others(t: &Shell) {
    t.until("kubectl get clusterrole view -o yaml", "rules of view", |out| {
        out.contains("configmaps")
    });
    t.until("kubectl get clusterrole admin -o yaml", "rules of admin", |out| {
        out.contains("rolebindings") && out.contains("pods/exec") && out.contains("endpoints")
    });
    t.ok("kubectl create rolebinding viewer --clusterrole=view --user=jane");
    t.ok("kubectl get configmaps --as=jane");
    t.fails("kubectl get secrets --as=jane");
    t.fails("kubectl create configmap x --as=jane");
}
