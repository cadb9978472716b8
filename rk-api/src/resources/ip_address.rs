//! IPAddress: an address that is taken from a range of Services.

use std::net::IpAddr;

use k8s_openapi::{
    api::networking::v1::{IPAddress, ParentReference},
    jiff::Timestamp,
};
use serde_json::{Value, json};

use super::{
    Column, Kind, Part, Resource,
    check::{Errors, text},
    row::Row,
};
use crate::{
    field::{ErrorList, Path},
    meta::{
        names,
        table::{NONE, age, name},
    },
};

/// The row of IPAddress.
pub(super) fn row() -> Resource {
    Row::of::<IpAddresses>().short(&["ip"]).columns(COLUMNS).done()
}

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new("ParentRef", "string", "The object that the address belongs to."),
    Column::AGE,
];

/// How an IPAddress behaves.
#[derive(Debug, Default)]
pub(super) struct IpAddresses;

impl Kind for IpAddresses {
    type Object = IPAddress;

    fn validate(address: &IPAddress) -> ErrorList {
        let mut errors = Errors::default();
        let (parent, path) = (&address.spec.parent_ref, Path::new("spec.parentRef"));
        if *parent == ParentReference::default() {
            errors.required(&path, "");
            return errors.0;
        }
        let group = text(&parent.group);
        if !group.is_empty() {
            errors.form(&path.child("group"), group, names::dns_subdomain(group, false));
        }
        let segment = |name: &str| names::path_segment(name, false);
        errors.required_form(&path.child("resource"), &parent.resource, segment);
        errors.required_form(&path.child("name"), &parent.name, segment);
        let namespace = text(&parent.namespace);
        errors.form(&path.child("namespace"), namespace, segment(namespace));
        errors.0
    }

    fn validate_update(new: &IPAddress, old: &IPAddress, _: Part) -> ErrorList {
        let mut errors = Errors::default();
        errors.immutable(&Path::new("spec.parentRef"), &new.spec.parent_ref, &old.spec.parent_ref);
        errors.0
    }

    fn validate_name(name: &str, generate_prefix: bool) -> Vec<String> {
        // The name is the address, so there is one way to write it. A part of one is no address.
        match name.parse::<IpAddr>() {
            _ if generate_prefix => Vec::new(),
            Ok(ip) if ip.to_string() == name => Vec::new(),
            Ok(_) => vec!["must be a canonical format IP address".to_owned()],
            Err(_) => vec![format!("ParseAddr({name:?}): unable to parse IP")],
        }
    }

    fn cells(address: &IPAddress, now: Timestamp) -> Vec<Value> {
        vec![
            json!(name(&address.metadata)),
            json!(parent(&address.spec.parent_ref)),
            json!(age(&address.metadata, now)),
        ]
    }
}

/// The parent as the table names it: `services/default/kubernetes`.
fn parent(parent: &ParentReference) -> String {
    if *parent == ParentReference::default() {
        return NONE.to_owned();
    }
    let group = text(&parent.group);
    let resource = match group {
        "" => parent.resource.clone(),
        group => format!("{}.{group}", parent.resource),
    };
    match text(&parent.namespace) {
        "" => format!("{}/{}", resource.to_lowercase(), parent.name),
        namespace => format!("{}/{namespace}/{}", resource.to_lowercase(), parent.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_an_address_as_it_is_written_canonically() {
        for name in ["10.96.0.1", "2001:db8::1"] {
            assert_eq!(IpAddresses::validate_name(name, false), Vec::<String>::new());
        }
        for name in ["10.96.0.01", "2001:DB8::1", "2001:db8:0::1", "x"] {
            assert_eq!(IpAddresses::validate_name(name, false).len(), 1, "{name}");
        }
    }

    #[test]
    fn the_parent_is_named_with_its_group() {
        let service = ParentReference {
            resource: "services".to_owned(),
            namespace: Some("default".to_owned()),
            name: "kubernetes".to_owned(),
            group: None,
        };
        assert_eq!(parent(&service), "services/default/kubernetes");
        let gateway = ParentReference { group: Some("x.io".to_owned()), ..service };
        assert_eq!(parent(&gateway), "services.x.io/default/kubernetes");
    }
}
