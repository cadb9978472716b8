use super::*;

#[test]
fn every_reference_resolves() {
    let graph = graph();
    fn check(graph: &Graph, kind: &Type) {
        match kind {
            Type::Named(name) => assert!(graph.get(name).is_some(), "{name}"),
            Type::Map(of) | Type::List(of) => check(graph, of),
            _ => {}
        }
    }
    for name in graph.names() {
        let definition = graph.get(name).unwrap();
        for field in definition.field_names() {
            check(graph, &definition.field(field).unwrap().kind);
        }
    }
}

#[test]
fn every_fact_is_about_a_field_that_exists() {
    let graph = graph();
    for (name, field, merge) in facts::facts().all() {
        // Alpha and beta versions are in the table, but not served.
        let Some(definition) = graph.get(name) else { continue };
        let field = definition.field(field).unwrap_or_else(|| panic!("{name} has no {field}"));
        assert_eq!(&field.merge, merge);
        if merge.merges()
            && matches!(&field.kind, Type::List(item) if matches!(**item, Type::Named(_)))
        {
            assert!(merge.patch_merge_key.is_some(), "{name}");
        }
    }
}

#[test]
fn definitions_are_the_named_types_and_what_they_need() {
    let definitions = definitions(["io.k8s.api.core.v1.ConfigMap", "no.such.Type"]);

    assert!(definitions.contains_key("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"));
    assert!(!definitions.contains_key("io.k8s.api.core.v1.Pod"));
    assert!(!definitions.contains_key("no.such.Type"));
}

#[test]
fn types_are_read_from_schemas() {
    let spec = graph().get("io.k8s.api.core.v1.PodSpec").unwrap();
    let kind = |field| spec.field(field).unwrap().kind.clone();

    assert_eq!(
        kind("containers"),
        Type::List(Box::new(Type::Named("io.k8s.api.core.v1.Container".into())))
    );
    assert_eq!(kind("nodeSelector"), Type::Map(Box::new(Type::String)));
    assert_eq!(kind("hostNetwork"), Type::Boolean);
    assert_eq!(kind("activeDeadlineSeconds"), Type::Integer);
    let quantity = graph().get("io.k8s.apimachinery.pkg.api.resource.Quantity").unwrap();
    assert_eq!(quantity.plain, Some(Type::IntOrString));
}

#[test]
fn a_kind_need_not_have_metadata() {
    let pod = &definitions(["io.k8s.api.core.v1.Pod"])["io.k8s.api.core.v1.Pod"];
    assert_eq!(pod.get("required"), None);
}

#[test]
fn keys_of_map_lists_can_be_told_apart_when_left_out() {
    let graph = graph();
    for (name, field, merge) in facts::facts().all() {
        let Some(field) = graph.get(name).and_then(|definition| definition.field(field)) else {
            continue;
        };
        let Type::List(item) = &field.kind else { continue };
        let Type::Named(item) = &**item else { continue };
        for key in &merge.list_map_keys {
            let key = graph
                .get(item)
                .unwrap()
                .field(key)
                .unwrap_or_else(|| panic!("{item} has no {key}"));
            // A string left out is an empty one.
            assert!(key.required || key.default.is_some() || key.kind == Type::String, "{item}");
        }
    }
}
