//! ServiceAccount: a Pod runs as a service account of its namespace.

use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};

use super::{Admission, AdmissionRequest, Operation};
use crate::server::{reader::Reader, status::Result};

/// The account of Pods that name none.
const DEFAULT: &str = "default";

/// A namespace's default account is made by a controller, soon after the namespace: how often and
/// at which intervals it is waited for.
const TRIES: u32 = 10;
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(150);

/// See the module's documentation.
///
/// A server without controllers has nobody who makes default accounts; unless they are `required`,
/// Pods may then be created without. Any other account must always exist.
#[derive(Debug)]
pub(super) struct ServiceAccounts {
    pub(super) reader: Reader,
    pub(super) required: bool,
}

impl ServiceAccounts {
    async fn account(&self, namespace: &str, name: &str) -> Result<Option<ServiceAccount>> {
        let tries = if self.required && name == DEFAULT { TRIES } else { 1 };
        for left in (0..tries).rev() {
            let found = self.reader.get::<ServiceAccount>(Some(namespace), name).await?;
            if found.is_some() {
                return Ok(found);
            }
            if left > 0 {
                tokio::time::sleep(TRY_AGAIN_AFTER).await;
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl Admission for ServiceAccounts {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.operation == Operation::Create && request.is_about("pods")
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        let namespace = request.namespace.unwrap_or_default();
        let Some(pod) = request.object_as::<Pod>() else { return Ok(()) };
        // The mirror of a static Pod runs as nobody.
        let annotations = pod.metadata.annotations.as_ref();
        if annotations.is_some_and(|all| all.contains_key("kubernetes.io/config.mirror")) {
            return Ok(());
        }
        let Some(spec) = pod.spec.as_mut() else { return Ok(()) };
        let name = spec.service_account_name.get_or_insert_default();
        if name.is_empty() {
            DEFAULT.clone_into(name);
        }
        let name = name.clone();
        spec.service_account = Some(name.clone());
        let account = self.account(namespace, &name).await?;
        let Some(account) = account else {
            if name == DEFAULT && !self.required {
                return Ok(());
            }
            return Err(request.forbidden(&format!(
                "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
            )));
        };
        if let Some(spec) = request.object_as::<Pod>().and_then(|pod| pod.spec.as_mut())
            && spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty)
        {
            spec.image_pull_secrets = account.image_pull_secrets;
        }
        Ok(())
    }
}
