//! Custom objects in other versions than the stored one, where only a webhook can make these.
//!
//! A form is made once for each revision of an object and kept with it. Several objects are asked
//! for at once.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::WebhookClientConfig;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use super::super::{
    object::{CachedObject, Stored},
    outbound::{Endpoint, Outbound, OutboundError, Trust},
    status::{ApiError, Result},
};
use crate::{
    resources::{
        Resource,
        custom::{Version, conversion::Webhook},
    },
    rng,
};

/// How long a webhook may take, as kube-apiserver's client has it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// So many objects are sent in one request at most.
const OBJECTS_MAX: usize = 500;

/// See the module's documentation.
#[derive(Debug)]
pub(in crate::server) struct Converter {
    outbound: Outbound,
    /// Where the webhooks are, by the names of the definitions: connections are kept there.
    endpoints: Mutex<HashMap<Arc<str>, Known>>,
}

#[derive(Debug)]
struct Known {
    webhook: Arc<Webhook>,
    endpoint: Arc<Endpoint>,
}

impl Converter {
    pub(in crate::server) fn new(outbound: Outbound) -> Self {
        Self { outbound, endpoints: Mutex::default() }
    }

    /// A definition is gone.
    pub(super) fn forget(&self, definition: &str) {
        self.endpoints.lock().remove(definition);
    }

    /// Those of the objects whose form in this version is still to be had from a webhook.
    pub(in crate::server) fn waiting<'a>(
        resource: &Resource,
        objects: impl Iterator<Item = &'a Arc<CachedObject>>,
    ) -> Vec<Arc<CachedObject>> {
        let Some((custom, _)) = converts(resource) else { return Vec::new() };
        let waits = |object: &&Arc<CachedObject>| {
            object.views.get(&custom.api_version).is_none()
                && api_version(&object.stored) != *custom.api_version
        };
        objects.filter(waits).cloned().collect()
    }

    /// Makes sure that each of the objects can be shown in this version.
    ///
    /// # Errors
    /// When a webhook does not convert them.
    pub(in crate::server) async fn show(
        &self,
        resource: &Resource,
        objects: &[Arc<CachedObject>],
    ) -> Result<()> {
        let Some((custom, webhook)) = converts(resource) else { return Ok(()) };
        let waiting = Self::waiting(resource, objects.iter());
        for objects in waiting.chunks(OBJECTS_MAX) {
            let stored: Vec<&Stored> = objects.iter().map(|object| &object.stored).collect();
            let converted = self.convert(custom, webhook, &stored, &custom.api_version).await?;
            for (object, converted) in objects.iter().zip(converted) {
                // It is pruned by its own schema, and encoded as everything else is.
                let shown = resource.strategy.shown(converted.bytes());
                let shown = shown.map_err(ApiError::internal)?.into_owned();
                let shown = Stored::new(shown.into()).unwrap_or(converted);
                object.views.keep(&custom.api_version, shown);
            }
        }
        Ok(())
    }

    /// The object in this version of its kind, where that takes a webhook; else as it is stored.
    pub(in crate::server) async fn form(
        &self,
        resource: &Resource,
        object: &Arc<CachedObject>,
    ) -> Result<Stored> {
        self.show(resource, std::slice::from_ref(object)).await?;
        let view = resource.strategy.custom().and_then(|it| object.views.get(&it.api_version));
        Ok(view.unwrap_or(&object.stored).clone())
    }

    /// What was read from the store, in this version.
    pub(in crate::server) async fn read(
        &self,
        resource: &Resource,
        stored: Stored,
    ) -> Result<Stored> {
        let Some((custom, webhook)) = converts(resource) else { return Ok(stored) };
        if api_version(&stored) == *custom.api_version {
            return Ok(stored);
        }
        let converted = self.convert(custom, webhook, &[&stored], &custom.api_version).await?;
        Ok(converted.into_iter().next().unwrap_or(stored))
    }

    /// What is to be stored of an object of this version; `None` for the object as it is.
    pub(in crate::server) async fn to_store(
        &self,
        resource: &Resource,
        stored: &Stored,
    ) -> Result<Option<Stored>> {
        let Some((custom, webhook)) = converts(resource) else { return Ok(None) };
        if api_version(stored) == *custom.stored_as {
            return Ok(None);
        }
        let converted = self.convert(custom, webhook, &[stored], &custom.stored_as).await?;
        Ok(converted.into_iter().next())
    }

    /// One object, as JSON, in a version of its kind.
    pub(in crate::server) async fn convert_one(
        &self,
        resource: &Resource,
        object: &str,
        api_version: &str,
    ) -> Result<Stored> {
        let stored = Stored::new(object.to_owned().into());
        let stored = stored.ok_or_else(|| ApiError::internal("what is converted is no object"))?;
        let Some((custom, webhook)) = converts(resource) else { return Ok(stored) };
        let converted = self.convert(custom, webhook, &[&stored], api_version).await?;
        Ok(converted.into_iter().next().unwrap_or(stored))
    }

    /// Asks the webhook.
    async fn convert(
        &self,
        custom: &Version,
        webhook: &Arc<Webhook>,
        objects: &[&Stored],
        desired: &str,
    ) -> Result<Vec<Stored>> {
        let trees = objects.iter().map(|object| serde_json::from_slice(object.bytes()));
        let originals: Vec<Value> = trees.collect::<Result<_, _>>().map_err(ApiError::internal)?;
        let failed = |why: &dyn std::fmt::Display| {
            let from = originals.first().and_then(|object| object.get("apiVersion")?.as_str());
            let (from, kind) = (from.unwrap_or_default(), &custom.kind);
            ApiError::plain(format!("conversion webhook for {from}, Kind={kind} failed: {why}"))
        };
        let uid = rng::uuid();
        let question = webhook.request(&uid, &originals, desired);
        let body = serde_json::to_vec(&question).map_err(ApiError::internal)?;
        let endpoint = self.endpoint(custom, webhook).map_err(|error| failed(&error))?;
        let answer = self.outbound.post_json(&endpoint, ANSWERED_WITHIN, body.into()).await;
        let answer = answer.map_err(|error| failed(&error))?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| failed(&error))?;
        let converted = webhook
            .response(&uid, answer, &originals, desired)
            .map_err(|error| ApiError::plain(error.to_string()))?;
        let stored = |object: Value| {
            let json = serde_json::to_vec(&object).map_err(ApiError::internal)?;
            Stored::new(json.into()).ok_or_else(|| ApiError::internal("no object was converted"))
        };
        converted.into_iter().map(stored).collect()
    }

    fn endpoint(
        &self,
        custom: &Version,
        webhook: &Arc<Webhook>,
    ) -> Result<Arc<Endpoint>, OutboundError> {
        let mut endpoints = self.endpoints.lock();
        if let Some(known) = endpoints.get(&custom.definition)
            && Arc::ptr_eq(&known.webhook, webhook)
        {
            return Ok(known.endpoint.clone());
        }
        let endpoint = Arc::new(endpoint(&webhook.client)?);
        let known = Known { webhook: webhook.clone(), endpoint: endpoint.clone() };
        endpoints.insert(custom.definition.clone(), known);
        Ok(endpoint)
    }
}

/// A kind that a webhook converts.
fn converts(resource: &Resource) -> Option<(&Version, &Arc<Webhook>)> {
    let custom = resource.strategy.custom()?;
    Some((custom, custom.conversion.as_ref()?))
}

/// The version that an object is in.
fn api_version(stored: &Stored) -> String {
    #[derive(Deserialize)]
    struct Head {
        #[serde(rename = "apiVersion")]
        api_version: String,
    }
    serde_json::from_slice(stored.bytes()).map(|head: Head| head.api_version).unwrap_or_default()
}

/// Whom a client configuration names.
fn endpoint(client: &WebhookClientConfig) -> Result<Endpoint, OutboundError> {
    let endpoint = match (&client.service, &client.url) {
        (Some(service), _) => {
            let port = service.port.and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
            let path = service.path.as_deref().unwrap_or_default();
            Endpoint::service(&service.namespace, &service.name, port, path)
        }
        (None, Some(url)) => Endpoint::url(url)?,
        (None, None) => {
            let why = "webhook configuration must have either service or URL".to_owned();
            return Err(OutboundError::Endpoint(why));
        }
    };
    Ok(match &client.ca_bundle {
        Some(bundle) if !bundle.0.trim_ascii().is_empty() => {
            endpoint.trusting(Trust::Authorities(bundle.0.clone()))
        }
        _ => endpoint,
    })
}
