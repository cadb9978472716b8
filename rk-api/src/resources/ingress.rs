//! Ingress.

use k8s_openapi::api::networking::v1::Ingress;

use super::{Kind, Resource, row::Row};

/// The row of Ingress.
pub(super) fn row() -> Resource {
    Row::of::<Ingresses>().short(&["ing"]).stored_in("ingress").status().done()
}

/// How a Ingress behaves.
#[derive(Debug, Default)]
pub(super) struct Ingresses;

impl Kind for Ingresses {
    type Object = Ingress;
}
