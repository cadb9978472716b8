//! Ingress v1beta1, of networking.k8s.io and extensions: a backend names a Service and its port
//! side by side, and a path needs no type.

use serde_json::{Map, Value, json};

use super::{Conversion, tree};

/// v1beta1.
pub(super) const V1BETA1: Conversion = Conversion { read, write };

fn read(ingress: &mut Value, unknown: &mut Vec<String>) {
    let Some(spec) = tree::object(ingress, &["spec"]) else { return };
    tree::refuse(spec, "defaultBackend", "spec.", unknown);
    if let Some(mut backend) = tree::take(spec, "backend") {
        read_backend(&mut backend, "spec.backend.", unknown);
        spec.insert("defaultBackend".to_owned(), backend);
    }
    for (i, rule) in tree::items(spec.get_mut("rules")) {
        let paths = tree::object(rule, &["http"]).and_then(|http| http.get_mut("paths"));
        for (j, path) in tree::items(paths) {
            if let Some(path) = path.as_object_mut() {
                tree::default(path, "pathType", "ImplementationSpecific");
            }
            if let Some(backend) = path.get_mut("backend") {
                let at = format!("spec.rules[{i}].http.paths[{j}].backend.");
                read_backend(backend, &at, unknown);
            }
        }
    }
}

fn write(ingress: &mut Value) {
    let Some(spec) = tree::object(ingress, &["spec"]) else { return };
    if let Some(mut backend) = tree::take(spec, "defaultBackend") {
        write_backend(&mut backend);
        spec.insert("backend".to_owned(), backend);
    }
    for (_, rule) in tree::items(spec.get_mut("rules")) {
        let paths = tree::object(rule, &["http"]).and_then(|http| http.get_mut("paths"));
        for (_, path) in tree::items(paths) {
            if let Some(backend) = path.get_mut("backend") {
                write_backend(backend);
            }
        }
    }
}

fn read_backend(backend: &mut Value, path: &str, unknown: &mut Vec<String>) {
    let Some(backend) = backend.as_object_mut() else { return };
    tree::refuse(backend, "service", path, unknown);
    let name = tree::take(backend, "serviceName");
    let port = tree::take(backend, "servicePort");
    if name.is_none() && port.is_none() {
        return;
    }
    let mut service = Map::new();
    service.insert("name".to_owned(), name.unwrap_or_else(|| "".into()));
    match port {
        None => {}
        // An unset port is number 0 in this version.
        Some(port) if port.as_i64() == Some(0) => {}
        Some(port) if port.is_string() => _ = service.insert("port".into(), json!({"name": port})),
        Some(port) => _ = service.insert("port".into(), json!({"number": port})),
    }
    backend.insert("service".to_owned(), service.into());
}

fn write_backend(backend: &mut Value) {
    let Some(backend) = backend.as_object_mut() else { return };
    let Some(mut service) = tree::take(backend, "service") else { return };
    if let Some(name) = service.get_mut("name") {
        backend.insert("serviceName".to_owned(), name.take());
    }
    let port = service.get("port");
    let of = |field: &str| port.and_then(|port| port.get(field)).cloned();
    let name = of("name").filter(|name| name != "");
    let port = name.or_else(|| of("number")).unwrap_or_else(|| 0.into());
    backend.insert("servicePort".to_owned(), port);
}
