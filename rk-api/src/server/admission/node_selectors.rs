//! PodNodeSelector: the Pods of a namespace run on the nodes that its annotation selects.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Namespace, Pod};

use super::{Admission, AdmissionRequest, Operation};
use crate::server::{
    reader::Reader,
    status::{ApiError, Result, Subject},
};

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct PodNodeSelector(pub(super) Reader);

impl PodNodeSelector {
    async fn selector(&self, request: &AdmissionRequest<'_>) -> Result<Selector> {
        let name = request.namespace.unwrap_or_default();
        let found = self.0.get::<Namespace>(None, name).await?;
        let missing = || ApiError::not_found(&Subject::of("", "namespaces"), name);
        let annotations = found.ok_or_else(missing)?.metadata.annotations.unwrap_or_default();
        parse(annotations.get(ANNOTATION).map_or("", String::as_str))
            .ok_or_else(|| request.forbidden("invalid node selector of the namespace"))
    }
}

type Selector = BTreeMap<String, String>;

#[async_trait]
impl Admission for PodNodeSelector {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.operation == Operation::Create && request.is_about("pods")
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        let selector = self.selector(request).await?;
        let pod = request.new_as::<Pod>().and_then(|pod| pod.spec.as_ref());
        let own = pod.and_then(|spec| spec.node_selector.as_ref());
        if own.is_some_and(|own| conflicts(own, &selector)) {
            let why = "pod node label selector conflicts with its namespace node label selector";
            return Err(request.forbidden(why));
        }
        if let Some(spec) = request.object_as::<Pod>().and_then(|pod| pod.spec.as_mut())
            && !selector.is_empty()
        {
            spec.node_selector.get_or_insert_default().extend(selector);
        }
        Ok(())
    }
}

/// `a=b, c=d` as labels.
fn parse(text: &str) -> Option<Selector> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=')?;
            Some((key.trim().to_owned(), value.trim_start_matches('=').trim().to_owned()))
        })
        .collect()
}

fn conflicts(one: &Selector, other: &Selector) -> bool {
    one.iter().any(|(key, value)| other.get(key).is_some_and(|found| found != value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_conflict_where_both_name_a_label() {
        let selector = parse("zone=a, disk = ssd,").unwrap();
        assert_eq!(selector.len(), 2);
        assert!(!conflicts(&selector, &parse("zone=a,arch=x").unwrap()));
        assert!(conflicts(&selector, &parse("zone=b").unwrap()));
        assert_eq!(parse("zone"), None);
    }
}
