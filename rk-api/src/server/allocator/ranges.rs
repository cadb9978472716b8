//! Where addresses come from: the ServiceCIDRs that are ready (KEP-1880).

use std::sync::Arc;

use k8s_openapi::api::networking::v1::ServiceCIDR;

use super::cidr::Cidr;
use crate::{
    resources::{Resource, Resources},
    server::{
        cache::Cache,
        filter::Filter,
        status::{ApiError, Result},
    },
};

/// The ranges that a server was started with, and those that objects add.
#[derive(Clone, Debug)]
pub(super) struct Ranges {
    /// One of each family, the preferred one first.
    configured: Vec<Cidr>,
    cache: Arc<Cache>,
    /// `None` on a server that does not serve ServiceCIDRs.
    resource: Option<Arc<Resource>>,
}

impl Ranges {
    pub(super) fn new(configured: Vec<Cidr>, cache: Arc<Cache>, resources: &Resources) -> Self {
        let resource = resources.get("networking.k8s.io", "v1", "servicecidrs").cloned();
        Self { configured, cache, resource }
    }

    /// What the server was started with.
    pub(super) fn configured(&self) -> &[Cidr] {
        &self.configured
    }

    /// Where new addresses are taken from, the ranges that the server was started with first.
    /// Before there is any object these are all.
    pub(super) fn ready(&self) -> Result<Vec<Cidr>> {
        self.of(is_ready)
    }

    /// Where addresses may have come from.
    pub(super) fn known(&self) -> Result<Vec<Cidr>> {
        self.of(|_| true)
    }

    fn of(&self, counts: impl Fn(&ServiceCIDR) -> bool) -> Result<Vec<Cidr>> {
        let Some(resource) = &self.resource else { return Ok(self.configured.clone()) };
        let objects = self.cache.table(resource)?.list(&Filter::default(), None, 0, 0).items;
        if objects.is_empty() {
            return Ok(self.configured.clone());
        }
        let mut ranges = Vec::new();
        for object in objects {
            let object: ServiceCIDR =
                crate::json::from_slice(&object.stored.plain()).map_err(ApiError::internal)?;
            if counts(&object) {
                ranges.extend(cidrs(&object));
            }
        }
        Ok(in_order(ranges, &self.configured))
    }
}

fn in_order(mut ranges: Vec<Cidr>, configured: &[Cidr]) -> Vec<Cidr> {
    let place =
        |range: &Cidr| configured.iter().position(|it| it == range).unwrap_or(configured.len());
    // Stable: the others stay in the order of their objects' names.
    ranges.sort_by_key(place);
    ranges.dedup();
    ranges
}

/// The ranges of an object that addresses can be taken from.
fn cidrs(object: &ServiceCIDR) -> impl Iterator<Item = Cidr> {
    let cidrs = object.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    cidrs.filter_map(|cidr| Cidr::of_object(cidr))
}

/// Whether a range gives out addresses. One that nobody has said anything about does: there may be
/// no controller.
fn is_ready(object: &ServiceCIDR) -> bool {
    let conditions = object.status.iter().flat_map(|status| status.conditions.iter().flatten());
    object.metadata.deletion_timestamp.is_none()
        && conditions.filter(|it| it.type_ == "Ready").all(|ready| ready.status == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_range_is_ready_unless_something_says_that_it_is_not() {
        let check = |more: Value, expected: bool| {
            let mut object = json!({"metadata": {"name": "r"}, "spec": {"cidrs": ["10.0.0.0/24"]}});
            object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            assert_eq!(is_ready(&serde_json::from_value(object).unwrap()), expected, "{more}");
        };
        let ready = |status: &str| {
            json!({"status": {"conditions": [
            {"type": "Ready", "status": status, "lastTransitionTime": "2030-01-01T00:00:00Z",
             "reason": "", "message": ""}]}})
        };
        check(json!({}), true);
        check(ready("True"), true);
        check(ready("False"), false);
        let metadata = json!({"name": "r", "deletionTimestamp": "2030-01-01T00:00:00Z"});
        check(json!({ "metadata": metadata }), false);
    }

    #[test]
    fn what_the_server_was_started_with_comes_first() {
        let range = |text| Cidr::of_object(text).unwrap();
        let (own, wide, other) = (range("10.0.0.0/28"), range("10.1.0.0/16"), range("9.0.0.0/24"));
        assert_eq!(in_order(vec![other, wide, own, own], &[own]), [own, other, wide]);
    }
}
