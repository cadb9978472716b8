//! APIService: who serves a version of an API group.

use k8s_openapi::{
    jiff::Timestamp,
    kube_aggregator::pkg::apis::apiregistration::v1::{
        APIService, APIServiceCondition, APIServiceSpec, APIServiceStatus,
    },
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, list, text},
    row::Row,
};
use crate::{
    clock,
    field::{ErrorList, Path},
    meta::{
        names,
        table::{age, name},
    },
};

/// The row of APIService.
pub(super) fn row() -> Resource {
    let mut row = Row::of::<ApiServices>()
        .stored_in("apiregistration.k8s.io/apiservices")
        .status()
        .columns(COLUMNS)
        .done();
    row.categories.push("api-extensions".into());
    row
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("Service", "string", "The Service that serves it, or Local."),
    Column::new("Available", "string", "Whether it is served."),
    Column::AGE,
];

/// How an APIService behaves. One without a Service is served by this server.
#[derive(Debug, Default)]
pub(super) struct ApiServices;

impl Kind for ApiServices {
    type Object = APIService;

    fn default(object: &mut APIService) {
        let spec = object.spec.get_or_insert_default();
        if let Some(service) = &mut spec.service {
            service.port.get_or_insert(443);
        }
        object.status.get_or_insert_default();
    }

    fn prepare_create(object: &mut APIService) {
        let is_local = object.spec.as_ref().is_none_or(|spec| spec.service.is_none());
        let available = is_local.then(|| APIServiceCondition {
            type_: "Available".to_owned(),
            status: "True".to_owned(),
            last_transition_time: Some(clock::now_seconds()),
            reason: Some("Local".to_owned()),
            message: Some("Local APIServices are always available".to_owned()),
        });
        object.status =
            Some(APIServiceStatus { conditions: available.map(|available| vec![available]) });
    }

    fn prepare_update(new: &mut APIService, old: &APIService, part: Part) {
        if part == Part::Status {
            new.spec = old.spec.clone();
        } else {
            new.status = old.status.clone();
        }
    }

    fn validate(object: &APIService) -> ErrorList {
        let none = APIServiceSpec::default();
        let (spec, path) = (object.spec.as_ref().unwrap_or(&none), Path::new("spec"));
        let mut errors = Errors::default();
        let (group, version) = (text(&spec.group), text(&spec.version));
        let (own_name, wanted) = (name(&object.metadata), format!("{version}.{group}"));
        if !own_name.is_empty() && own_name != wanted {
            let wrong = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            errors.invalid(&Path::new("metadata.name"), own_name, wrong);
        }
        if group.is_empty() && version != "v1" {
            let wrong = "only v1 may have an empty group and it better be legacy kube";
            errors.required(&path.child("group"), wrong);
        }
        if !group.is_empty() {
            let wrong = names::dns_subdomain(group, false).into_iter().take(1);
            errors.form(&path.child("group"), group, wrong);
        }
        let wrong = names::dns1035_label(version, false).into_iter().take(1);
        errors.form(&path.child("version"), version, wrong);
        for (field, priority, max) in [
            ("groupPriorityMinimum", spec.group_priority_minimum, 20_000),
            ("versionPriority", spec.version_priority, 1000),
        ] {
            if !(1..=max).contains(&priority) {
                let wrong = format!("must be positive and less than {max}");
                errors.invalid(&path.child(field), priority, wrong);
            }
        }
        backend(&mut errors, spec, &path);
        errors.0
    }

    fn validate_update(new: &APIService, _: &APIService, part: Part) -> ErrorList {
        let mut errors = Errors::default();
        let conditions = new.status.iter().flat_map(|status| list(&status.conditions));
        for (i, condition) in conditions.enumerate().filter(|_| part == Part::Status) {
            let at = Path::new("status.conditions").index(i).child("status");
            errors.one_of(&at, &condition.status, &["True", "False", "Unknown"]);
        }
        errors.0
    }

    fn validate_name(name: &str, generate_prefix: bool) -> Vec<String> {
        names::path_segment(name, generate_prefix)
    }

    fn cells(object: &APIService, now: Timestamp) -> Vec<Value> {
        let service = object.spec.as_ref().and_then(|spec| spec.service.as_ref());
        let service = match service {
            Some(service) => format!("{}/{}", text(&service.namespace), text(&service.name)),
            None => "Local".to_owned(),
        };
        let conditions = object.status.as_ref().map_or(&[][..], |status| list(&status.conditions));
        let available = conditions.iter().find(|condition| condition.type_ == "Available");
        let available = match available {
            Some(condition) if condition.status == "True" => condition.status.clone(),
            Some(condition) => format!("{} ({})", condition.status, text(&condition.reason)),
            None => "Unknown".to_owned(),
        };
        vec![
            json!(name(&object.metadata)),
            json!(service),
            json!(available),
            json!(age(&object.metadata, now)),
        ]
    }

    const UNCONDITIONAL_UPDATE: bool = false;
}

/// The Service, if another server serves it, and how that one is known to be the right one.
fn backend(errors: &mut Errors, spec: &APIServiceSpec, path: &Path) {
    let bundle = spec.ca_bundle.as_ref().map_or(0, |bundle| bundle.0.len());
    let insecure = spec.insecure_skip_tls_verify == Some(true);
    let insecure_at = path.child("insecureSkipTLSVerify");
    let Some(service) = &spec.service else {
        if bundle > 0 {
            errors.invalid(
                &path.child("caBundle"),
                format!("{bundle} bytes"),
                "local APIServices may not have a caBundle",
            );
        }
        if insecure {
            let wrong = "local APIServices may not have insecureSkipTLSVerify";
            errors.invalid(&insecure_at, insecure, wrong);
        }
        return;
    };
    let at = path.child("service");
    for (field, value) in [("namespace", &service.namespace), ("name", &service.name)] {
        if text(value).is_empty() {
            errors.required(&at.child(field), "");
        }
    }
    let port = service.port.unwrap_or(0);
    let wrong = names::port_number(port);
    if !wrong.is_empty() {
        let wrong = format!("port is not valid: {}", wrong.join(", "));
        errors.invalid(&at.child("port"), port, wrong);
    }
    if insecure && bundle > 0 {
        errors.invalid(&insecure_at, insecure, "may not be true if caBundle is present");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_version_and_the_group() {
        let mut object = APIService::default();
        object.metadata.name = Some("v1.example.com".to_owned());
        object.spec = Some(APIServiceSpec {
            group: Some("example.com".to_owned()),
            version: Some("v1".to_owned()),
            group_priority_minimum: 1000,
            version_priority: 15,
            ..APIServiceSpec::default()
        });
        assert_eq!(ApiServices::validate(&object), []);
        object.metadata.name = Some("v2.example.com".to_owned());
        assert_eq!(ApiServices::validate(&object).len(), 1);
    }
}
