//! Ingress.

use k8s_openapi::{
    api::networking::v1::{
        HTTPIngressPath, Ingress, IngressBackend, IngressSpec, IngressStatus, IngressTLS,
    },
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, list, text},
    row::Row,
    service, workload,
};
use crate::{
    field::{ErrorList, Path},
    meta::{
        names,
        table::{NONE, age, name},
    },
};

/// The row of Ingress.
pub(super) fn row() -> Resource {
    Row::of::<Ingresses>().short(&["ing"]).stored_in("ingress").status().columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Class", "string", "The class of controller that serves it."),
    Column::new("Hosts", "string", "The hosts that it is for."),
    Column::new("Address", "string", "Where it is served."),
    Column::new("Ports", "string", "The ports that are served."),
    Column::AGE,
];

/// How an Ingress behaves.
#[derive(Debug, Default)]
pub(super) struct Ingresses;

impl Kind for Ingresses {
    type Object = Ingress;

    fn prepare_create(ingress: &mut Ingress) {
        ingress.spec.get_or_insert_default();
        ingress.status = Some(IngressStatus::default());
        workload::first_generation(&mut ingress.metadata);
    }

    fn prepare_update(new: &mut Ingress, old: &Ingress, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
        } else {
            new.status = old.status.clone();
        }
        let changed = new.spec != old.spec;
        workload::next_generation(&mut new.metadata, &old.metadata, changed);
    }

    fn validate(ingress: &Ingress) -> ErrorList {
        let none = IngressSpec::default();
        let (spec, path) = (ingress.spec.as_ref().unwrap_or(&none), Path::new("spec"));
        let mut errors = Errors::default();
        tls(&mut errors, list(&spec.tls), &path.child("tls"));
        let rules = list(&spec.rules);
        match &spec.default_backend {
            Some(backend) => self::backend(&mut errors, backend, &path.child("defaultBackend")),
            None if rules.is_empty() => errors.invalid(
                &path,
                json!([]),
                "either `defaultBackend` or `rules` must be specified",
            ),
            None => {}
        }
        for (i, rule) in rules.iter().enumerate() {
            let at = path.child("rules").index(i);
            host(&mut errors, text(&rule.host), &at.child("host"));
            let Some(http) = &rule.http else { continue };
            if http.paths.is_empty() {
                errors.required(&at.child("http.paths"), "");
            }
            for (j, path) in http.paths.iter().enumerate() {
                self::path(&mut errors, path, &at.child("http.paths").index(j));
            }
        }
        if let Some(class) = &spec.ingress_class_name {
            let wrong = names::dns_subdomain(class, false);
            errors.form(&path.child("ingressClassName"), class.as_str(), wrong);
        }
        errors.0
    }

    fn validate_update(new: &Ingress, _: &Ingress, part: Part) -> ErrorList {
        let mut errors = Errors::default();
        let status = new.status.as_ref().filter(|_| part == Part::Status);
        let points = status.and_then(|status| status.load_balancer.as_ref());
        let points = points.map_or(&[][..], |balancer| list(&balancer.ingress));
        for (i, point) in points.iter().enumerate() {
            let at = Path::new("status.loadBalancer.ingress").index(i);
            service::point_of_entry(&mut errors, text(&point.ip), text(&point.hostname), &at);
        }
        errors.0
    }

    fn warnings(ingress: &Ingress, old: Option<&Ingress>) -> Vec<String> {
        const CLASS: &str = "kubernetes.io/ingress.class";
        let annotations = ingress.metadata.annotations.as_ref();
        let is_annotated = annotations.is_some_and(|all| all.contains_key(CLASS));
        let class = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_ref());
        if old.is_some() || !is_annotated || class.is_some() {
            return Vec::new();
        }
        vec![format!(
            "annotation {CLASS:?} is deprecated, please use 'spec.ingressClassName' instead"
        )]
    }

    fn cells(ingress: &Ingress, now: Timestamp) -> Vec<Value> {
        let spec = ingress.spec.clone().unwrap_or_default();
        let annotations = ingress.metadata.annotations.as_ref();
        let old_class = annotations.and_then(|all| all.get("kubernetes.io/ingress.class"));
        let class = spec.ingress_class_name.as_deref().or(old_class.map(String::as_str));
        let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let addresses: Vec<&str> = balancer
            .map_or(&[][..], |balancer| list(&balancer.ingress))
            .iter()
            .map(|ingress| match text(&ingress.ip) {
                "" => text(&ingress.hostname),
                ip => ip,
            })
            .collect();
        let ports = if list(&spec.tls).is_empty() { "80" } else { "80, 443" };
        vec![
            json!(name(&ingress.metadata)),
            json!(class.unwrap_or(NONE)),
            json!(hosts(&spec)),
            json!(addresses.join(",")),
            json!(ports),
            json!(age(&ingress.metadata, now)),
        ]
    }

    const CREATE_ON_UPDATE: bool = false;
}

/// Three hosts at most, and how many more there are; `*` for all.
fn hosts(spec: &IngressSpec) -> String {
    let rules = list(&spec.rules).iter().filter(|rule| rule.http.is_some());
    let all: Vec<String> = rules
        .map(|rule| text(&rule.host))
        .filter(|host| !host.is_empty())
        .map(str::to_owned)
        .collect();
    if all.is_empty() { "*".to_owned() } else { super::endpoints::first_three(&all) }
}

fn host(errors: &mut Errors, host: &str, path: &Path) {
    if host.is_empty() {
        return;
    }
    if names::parse_ip(host).is_some() {
        errors.invalid(path, host, "must be a DNS name, not an IP address");
    }
    let wrong = if host.contains('*') {
        names::wildcard_dns_subdomain(host)
    } else {
        names::dns_subdomain(host, false)
    };
    errors.form(path, host, wrong);
}

fn tls(errors: &mut Errors, tls: &[IngressTLS], path: &Path) {
    for (i, tls) in tls.iter().enumerate() {
        let at = path.index(i);
        for (j, name) in list(&tls.hosts).iter().enumerate() {
            let wrong = if name.contains('*') {
                names::wildcard_dns_subdomain(name)
            } else {
                names::dns_subdomain(name, false)
            };
            errors.form(&at.child("hosts").index(j), name.as_str(), wrong);
        }
        if let Some(secret) = tls.secret_name.as_deref().filter(|name| !name.is_empty()) {
            errors.form(&at.child("secretName"), secret, names::dns_subdomain(secret, false));
        }
    }
}

fn path(errors: &mut Errors, path: &HTTPIngressPath, at: &Path) {
    let value = text(&path.path);
    let path_at = at.child("path");
    match path.path_type.as_str() {
        "" => errors.required(&at.child("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !value.starts_with('/') {
                errors.invalid(&path_at, value, "must be an absolute path");
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"] {
                if value.contains(part) {
                    errors.invalid(&path_at, value, format!("must not contain '{part}'"));
                }
            }
            for end in ["/..", "/."] {
                if value.ends_with(end) {
                    errors.invalid(&path_at, value, format!("cannot end with '{end}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !value.is_empty() && !value.starts_with('/') {
                errors.invalid(&path_at, value, "must be an absolute path");
            }
        }
        other => errors.one_of(
            &at.child("pathType"),
            other,
            &["Exact", "ImplementationSpecific", "Prefix"],
        ),
    }
    backend(errors, &path.backend, &at.child("backend"));
}

fn backend(errors: &mut Errors, backend: &IngressBackend, path: &Path) {
    match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => {
            errors.invalid(path, "", "cannot set both resource and service backends");
        }
        (None, None) => errors.invalid(path, "", "resource or service backend is required"),
        (Some(resource), None) => {
            let at = path.child("resource");
            for (field, value) in [("kind", &resource.kind), ("name", &resource.name)] {
                if value.is_empty() {
                    errors.required(&at.child(field), "");
                }
            }
        }
        (None, Some(service)) => {
            let at = path.child("service");
            errors.required_form(&at.child("name"), &service.name, |name| {
                names::dns1035_label(name, false)
            });
            let port = service.port.clone().unwrap_or_default();
            let (name, number) = (text(&port.name), port.number.unwrap_or(0));
            let at = at.child("port");
            match (name, number) {
                ("", 0) => errors.required(path, "port name or number is required"),
                ("", number) => {
                    errors.form(&at.child("number"), number, names::port_number(number));
                }
                (name, 0) => errors.form(&at.child("name"), name, names::port_name(name)),
                _ => errors.invalid(path, "", "cannot set both port name & port number"),
            }
        }
    }
}
