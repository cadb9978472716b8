//! DefaultIngressClass: an Ingress that names no class gets the default one.

use async_trait::async_trait;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

use super::{Admission, AdmissionRequest, Operation, default_storage_class::newest};
use crate::server::{reader::Reader, status::Result};

const IS_DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
/// Where an Ingress named its class before there was a field for it.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct DefaultIngressClass(pub(super) Reader);

#[async_trait]
impl Admission for DefaultIngressClass {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.operation == Operation::Create
            // In whichever group it is asked for: extensions has the same objects.
            && request.resource.plural == "ingresses"
            && request.subresource.is_empty()
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        let Some(ingress) = request.object_as::<Ingress>() else { return Ok(()) };
        let annotations = ingress.metadata.annotations.as_ref();
        if annotations.is_some_and(|all| all.contains_key(OLD_CLASS)) {
            return Ok(());
        }
        let spec = ingress.spec.get_or_insert_default();
        if spec.ingress_class_name.is_some() {
            return Ok(());
        }
        let classes = self.0.list::<IngressClass>(None)?.into_iter();
        let classes = classes.map(|class| class.metadata).filter(|class| {
            let annotations = class.annotations.as_ref();
            annotations.and_then(|all| all.get(IS_DEFAULT)).is_some_and(|value| value == "true")
        });
        spec.ingress_class_name = newest(classes).and_then(|class| class.name);
        Ok(())
    }
}
