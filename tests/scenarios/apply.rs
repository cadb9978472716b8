//! Server-side apply with kubectl.

use crate::harness::{Shell, scenarios};

scenarios! {
    Sim:
        server_side_apply_creates_and_changes,
        server_side_apply_tells_of_conflicts,
        server_side_apply_takes_over_from_client_side_apply,
        managed_fields_are_shown_on_demand,
        server_side_diff_shows_a_change;
}

/// A shell command that applies a ConfigMap on the server's side.
fn apply(value: &str, options: &str) -> String {
    format!("{} | kubectl apply --server-side {options} -f -", map(value))
}

fn map(value: &str) -> String {
    format!(
        "printf 'apiVersion: v1\\nkind: ConfigMap\\nmetadata:\\n  name: m\\ndata:\\n  k: {value}\\n'"
    )
}

fn managers(t: &Shell) -> String {
    t.ok("kubectl get configmap m --show-managed-fields \
          -o 'jsonpath={range .metadata.managedFields[*]}{.manager}/{.operation} {end}'")
}

fn server_side_apply_creates_and_changes(t: &Shell) {
    assert_eq!(t.ok(&apply("one", "")), "configmap/m serverside-applied\n");
    assert_eq!(t.ok(&apply("two", "")), "configmap/m serverside-applied\n");
    assert_eq!(t.ok("kubectl get configmap m -o 'jsonpath={.data}'"), r#"{"k":"two"}"#);
    assert_eq!(managers(t), "kubectl/Apply ");
    let version = "kubectl get configmap m -o 'jsonpath={.metadata.resourceVersion}'";
    let before = t.ok(version);
    t.ok(&apply("two", ""));
    assert_eq!(t.ok(version), before);
}

fn server_side_apply_tells_of_conflicts(t: &Shell) {
    t.ok(&apply("one", "--field-manager=first"));
    let refused = t.fails(&apply("two", "--field-manager=second"));
    assert!(
        refused.contains("Apply failed with 1 conflict: conflict with \"first\": .data.k"),
        "{refused}"
    );
    assert!(refused.contains("--force-conflicts"), "{refused}");
    t.ok(&apply("two", "--field-manager=second --force-conflicts"));
    assert_eq!(managers(t), "second/Apply ");
}

fn server_side_apply_takes_over_from_client_side_apply(t: &Shell) {
    t.ok(&format!("{} | kubectl apply -f -", map("one")));
    assert_eq!(managers(t), "kubectl-client-side-apply/Update ");
    assert_eq!(t.ok(&apply("two", "")), "configmap/m serverside-applied\n");
    // The annotation has a manager of its own and is kept true, so that going back is possible.
    let managers = managers(t);
    let mut managers: Vec<_> = managers.split_whitespace().collect();
    managers.sort_unstable();
    assert_eq!(managers, ["kubectl-last-applied/Apply", "kubectl/Apply"]);
    let last = t.ok("kubectl apply view-last-applied configmap/m");
    assert!(last.contains("k: two"), "{last}");
    t.ok(&format!("{} | kubectl apply -f -", map("two")));
}

fn managed_fields_are_shown_on_demand(t: &Shell) {
    t.ok("kubectl create configmap m --from-literal=k=v");
    assert!(!t.ok("kubectl get configmap m -o yaml").contains("managedFields"));
    let shown = t.ok("kubectl get configmap m -o yaml --show-managed-fields");
    for part in
        ["managedFields:", "f:data:", "f:k: {}", "manager: kubectl-create", "operation: Update"]
    {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    t.ok("kubectl label configmap m a=b");
    assert_eq!(managers(t), "kubectl-create/Update kubectl-label/Update ");
}

fn server_side_diff_shows_a_change(t: &Shell) {
    t.ok(&apply("one", ""));
    let changed = t.sh(&format!("{} | kubectl diff --server-side -f -", map("two")));
    assert_eq!(changed.code, 1, "{}", changed.stderr);
    let changed = changed.stdout;
    assert!(changed.contains("-  k: one") && changed.contains("+  k: two"), "{changed}");
    t.ok(&format!("{} | kubectl diff --server-side -f -", map("one")));
}
