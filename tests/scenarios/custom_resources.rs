//! Custom resources with kubectl.

use crate::harness::{Shell, scenarios};

scenarios! {
    Sim:
        custom_objects_are_listed_described_and_deleted,
        custom_kinds_are_explained,
        custom_objects_are_edited_patched_and_scaled,
        a_namespace_takes_its_custom_objects_with_it;
}

/// Defines a kind `Widget` in a group of its own.
fn define(t: &Shell, group: &str) {
    let definition = format!(
        r"apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: widgets.{group}
spec:
  group: {group}
  scope: Namespaced
  names: {{plural: widgets, singular: widget, kind: Widget, shortNames: [w-{short}]}}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {{}}
      scale: {{specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    additionalPrinterColumns:
    - {{name: Size, type: integer, jsonPath: .spec.size}}
    - {{name: Color, type: string, jsonPath: .spec.color, priority: 1}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            description: What the widget is to be.
            required: [size]
            properties:
              size: {{type: integer, minimum: 1, description: How large it is.}}
              color: {{type: string, default: red}}
              replicas: {{type: integer}}
          status:
            type: object
            properties:
              replicas: {{type: integer}}
",
        short = group.split('.').next().unwrap_or_default(),
    );
    t.ok(&format!("cat <<'END' | kubectl apply -f -\n{definition}END"));
    t.ok(&format!("kubectl wait --for condition=established --timeout=30s crd/widgets.{group}"));
}

fn create(t: &Shell, group: &str, namespace: &str) {
    t.ok(&format!(
        "cat <<'END' | kubectl apply {namespace} -f -\napiVersion: {group}/v1\nkind: \
         Widget\nmetadata:\n  name: x\nspec:\n  size: 3\nEND"
    ));
}

fn custom_objects_are_listed_described_and_deleted(t: &Shell) {
    let group = "listed.example.com";
    define(t, group);
    create(t, group, "");
    let shown = t.ok("kubectl get w-listed");
    let mut lines = shown.lines();
    let words = |line: Option<&str>| {
        line.unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(words(lines.next()), ["NAME", "SIZE"]);
    assert_eq!(words(lines.next()), ["x", "3"]);
    let wide = t.ok("kubectl get widgets.listed.example.com -o wide");
    assert!(wide.contains("COLOR") && wide.contains("red"), "{wide}");
    let described = t.ok("kubectl describe widget.listed.example.com x");
    assert!(described.contains("Kind:         Widget"), "{described}");
    assert!(described.contains("Color:  red"), "{described}");
    let refused = t.fails(&format!(
        "cat <<'END' | kubectl apply -f -\napiVersion: {group}/v1\nkind: Widget\nmetadata:\n  \
         name: other\nspec:\n  size: 0\nEND"
    ));
    assert!(
        refused.contains("spec.size in body should be greater than or equal to 1"),
        "{refused}"
    );
    assert!(t.ok("kubectl api-resources").contains("w-listed"));
    t.ok(&format!("kubectl delete crd widgets.{group} --timeout=60s"));
    t.fails("kubectl get widgets.listed.example.com");
}

fn custom_kinds_are_explained(t: &Shell) {
    let group = "explained.example.com";
    define(t, group);
    // `explain` is content with a kind of the same name that kubectl remembers, of another test;
    // this makes kubectl ask anew.
    t.ok("kubectl api-resources");
    let explained = t.ok("kubectl explain widgets.explained.example.com.spec");
    assert!(explained.contains("What the widget is to be."), "{explained}");
    assert!(explained.contains("size\t<integer> -required-"), "{explained}");
    t.ok(&format!("kubectl delete crd widgets.{group} --timeout=60s"));
}

fn custom_objects_are_edited_patched_and_scaled(t: &Shell) {
    let group = "edited.example.com";
    define(t, group);
    create(t, group, "");
    let field = |path: &str| {
        t.ok(&format!("kubectl get widgets.edited.example.com x -o 'jsonpath={{{path}}}'"))
    };
    t.ok("KUBE_EDITOR='sed -i s/red/blue/' kubectl edit widgets.edited.example.com x");
    assert_eq!(field(".spec.color"), "blue");
    t.ok("kubectl patch widgets.edited.example.com x --type merge -p '{\"spec\":{\"size\":7}}'");
    assert_eq!(field(".spec.size"), "7");
    t.ok("kubectl scale widgets.edited.example.com x --replicas 4");
    assert_eq!(field(".spec.replicas"), "4");
    assert_eq!(field(".metadata.generation"), "4");
    t.ok("kubectl label widgets.edited.example.com x a=b");
    assert_eq!(
        t.ok("kubectl get widgets.edited.example.com -l a=b -o name"),
        format!("widget.{group}/x\n")
    );
    t.ok(&format!("kubectl delete crd widgets.{group} --timeout=60s"));
}

fn a_namespace_takes_its_custom_objects_with_it(t: &Shell) {
    let group = "taken.example.com";
    define(t, group);
    t.ok("kubectl create namespace custom-objects-go");
    create(t, group, "-n custom-objects-go");
    t.ok("kubectl delete namespace custom-objects-go --timeout=60s");
    let left = t.ok("kubectl get widgets.taken.example.com --all-namespaces -o name");
    assert_eq!(left, "");
    t.ok(&format!("kubectl delete crd widgets.{group} --timeout=60s"));
}
