//! Whether an APIService is available: conditions, with kube-aggregator's reasons and words.

use k8s_openapi::{
    api::{core::v1::Service, discovery::v1::EndpointSlice},
    kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceCondition},
};

use super::backend::Backend;
use crate::clock;

const AVAILABLE: &str = "Available";

/// What a check finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// Whether it is available.
    pub available: bool,
    /// Why, in a word.
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
}

impl Finding {
    /// What is served here is available.
    pub(super) fn local() -> Self {
        let message = "Local APIServices are always available".to_owned();
        Self { available: true, reason: "Local", message }
    }

    /// All checks have passed.
    pub(super) fn passed() -> Self {
        Self { available: true, reason: "Passed", message: "all checks passed".to_owned() }
    }

    /// A check has failed.
    pub(super) fn failed(reason: &'static str, message: String) -> Self {
        Self { available: false, reason, message }
    }

    /// Whether an APIService says this already.
    pub(super) fn is_said_by(&self, service: &APIService) -> bool {
        condition(service).is_some_and(|said| {
            said.status == self.status()
                && said.reason.as_deref() == Some(self.reason)
                && said.message.as_deref() == Some(self.message.as_str())
        })
    }

    /// Lets an APIService say this.
    pub(super) fn say(&self, service: &mut APIService) {
        let conditions = service.status.get_or_insert_default().conditions.get_or_insert_default();
        let new = APIServiceCondition {
            type_: AVAILABLE.to_owned(),
            status: self.status().to_owned(),
            last_transition_time: Some(clock::now_seconds()),
            reason: Some(self.reason.to_owned()),
            message: Some(self.message.clone()),
        };
        match conditions.iter_mut().find(|condition| condition.type_ == AVAILABLE) {
            Some(said) => {
                let since = said.last_transition_time.take();
                let same = said.status == new.status;
                *said = new;
                if same {
                    said.last_transition_time = since;
                }
            }
            None => conditions.push(new),
        }
    }

    fn status(&self) -> &'static str {
        if self.available { "True" } else { "False" }
    }
}

fn condition(service: &APIService) -> Option<&APIServiceCondition> {
    let conditions = service.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == AVAILABLE)
}

/// Whether an APIService says that it is available.
pub(super) fn is_available(service: &APIService) -> bool {
    condition(service).is_some_and(|condition| condition.status == "True")
}

/// What is wrong with a backend's Service and its endpoints; `None` when it can be asked.
pub(super) fn unreachable(
    backend: &Backend,
    service: Option<&Service>,
    slices: &[EndpointSlice],
) -> Option<Finding> {
    let (namespace, name, port) = &backend.service;
    let the_service = format!("service/{name} in {namespace:?}");
    let Some(service) = service else {
        let message = format!("{the_service} is not present");
        return Some(Finding::failed("ServiceNotFound", message));
    };
    let spec = service.spec.as_ref();
    let kind = spec.and_then(|spec| spec.type_.as_deref()).unwrap_or("ClusterIP");
    if kind != "ClusterIP" {
        return None;
    }
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let Some(found) = ports.iter().find(|found| found.port == i32::from(*port)) else {
        let message = format!("{the_service} is not listening on port {port}");
        return Some(Finding::failed("ServicePortError", message));
    };
    if slices.is_empty() {
        let message = format!("cannot find endpointslices for {the_service}");
        return Some(Finding::failed("EndpointsNotFound", message));
    }
    let port_name = found.name.as_deref().unwrap_or_default();
    let is_ready = |slice: &EndpointSlice| {
        let ready = slice.endpoints.iter().flatten().any(|endpoint| {
            let conditions = endpoint.conditions.as_ref();
            conditions.and_then(|conditions| conditions.ready).unwrap_or(true)
        });
        let ports = slice.ports.as_deref().unwrap_or_default();
        ready
            && ports.iter().any(|port| {
                port.name.as_deref().unwrap_or_default() == port_name && port.port.is_some()
            })
    };
    if slices.iter().any(is_ready) {
        return None;
    }
    let message =
        format!("endpointslices for {the_service} have no addresses with port name {port_name:?}");
    Some(Finding::failed("MissingEndpoints", message))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn api_service() -> APIService {
        serde_json::from_value(json!({
            "metadata": { "name": "v1.g" },
            "spec": {
                "group": "g", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1,
                "service": { "namespace": "ns", "name": "s", "port": 443 },
            },
        }))
        .unwrap()
    }

    #[track_caller]
    fn check(service: Option<Value>, slices: Vec<Value>, expected: &str) {
        let backend = Backend::of(&api_service(), None).unwrap();
        let service = service.map(|spec| serde_json::from_value(json!({ "spec": spec })).unwrap());
        let slices: Vec<EndpointSlice> =
            slices.into_iter().map(|slice| serde_json::from_value(slice).unwrap()).collect();
        let found = unreachable(&backend, service.as_ref(), &slices);
        let found = found.map(|found| format!("{}: {}", found.reason, found.message));
        assert_eq!(found.unwrap_or_default(), expected);
    }

    #[test]
    fn a_backend_needs_a_service_with_its_port_and_a_ready_endpoint() {
        check(None, vec![], "ServiceNotFound: service/s in \"ns\" is not present");
        let wrong = json!({ "ports": [{ "port": 80 }] });
        check(
            Some(wrong),
            vec![],
            "ServicePortError: service/s in \"ns\" is not listening on port 443",
        );
        let service = || Some(json!({ "ports": [{ "port": 443, "name": "https" }] }));
        let missing = "EndpointsNotFound: cannot find endpointslices for service/s in \"ns\"";
        check(service(), vec![], missing);
        let slice = |ready: bool| {
            json!({
                "addressType": "IPv4",
                "ports": [{ "name": "https", "port": 8443 }],
                "endpoints": [{ "addresses": ["10.0.0.1"], "conditions": { "ready": ready } }],
            })
        };
        let nobody = "MissingEndpoints: endpointslices for service/s in \"ns\" have no addresses \
                      with port name \"https\"";
        check(service(), vec![slice(false)], nobody);
        check(service(), vec![slice(false), slice(true)], "");
        check(Some(json!({ "type": "ExternalName" })), vec![], "");
    }

    #[test]
    fn the_time_of_a_condition_is_that_of_its_last_change() {
        let mut service = api_service();
        Finding::failed("ServiceNotFound", "a".to_owned()).say(&mut service);
        let since = condition(&service).unwrap().last_transition_time.clone();
        let other = Finding::failed("MissingEndpoints", "b".to_owned());
        assert!(!other.is_said_by(&service));
        other.say(&mut service);
        assert!(other.is_said_by(&service) && !is_available(&service));
        assert_eq!(condition(&service).unwrap().last_transition_time, since);
    }
}
