//! The webhooks that are configured, ready to be asked.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhookConfiguration, RuleWithOperations,
    ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use super::{
    super::{expressions::Conditions, matching::Matcher},
    review::Version,
};
use crate::{
    meta::selectors::LabelQuery,
    server::{
        cache::Observer,
        object::CachedObject,
        outbound::{Endpoint, OutboundError, Trust},
        reader::Reader,
    },
};

/// One webhook.
#[derive(Debug)]
pub(super) struct Hook {
    /// Its name, as messages show it.
    pub name: String,
    /// The configuration that has it.
    pub configuration: String,
    /// Its name among all.
    pub uid: String,
    pub matcher: Matcher,
    pub endpoint: Result<Endpoint, OutboundError>,
    pub timeout: Duration,
    /// Whether requests go on when it fails.
    pub fails_open: bool,
    /// Whether it may be asked in dry runs.
    pub harmless: bool,
    /// Whether it wants to be asked again when others change the object after it.
    pub reinvocable: bool,
    /// The version of AdmissionReview that it is asked in; `None` when it knows none that is known.
    pub review: Option<Version>,
    /// What must hold of a request, besides the rules.
    pub conditions: Conditions,
}

/// A kind of configuration.
pub(super) trait Configuration: k8s_openapi::Resource + DeserializeOwned {
    /// Its webhooks.
    fn hooks(&self, name: &str) -> Vec<Hook>;
}

/// What both kinds of webhooks have.
struct Parts<'a> {
    name: &'a str,
    client: &'a WebhookClientConfig,
    rules: &'a Option<Vec<RuleWithOperations>>,
    match_policy: &'a Option<String>,
    namespaces: &'a Option<LabelSelector>,
    objects: &'a Option<LabelSelector>,
    failure_policy: &'a Option<String>,
    side_effects: &'a str,
    timeout_seconds: Option<i32>,
    review_versions: &'a [String],
    conditions: &'a Option<Vec<MatchCondition>>,
    reinvocable: bool,
}

/// The two kinds have the same fields, but for whether a webhook may be asked again.
macro_rules! configuration {
    ($kind:ty, |$hook:ident| $reinvocable:expr) => {
        impl Configuration for $kind {
            fn hooks(&self, name: &str) -> Vec<Hook> {
                let hooks = self.webhooks.iter().flatten().enumerate();
                let made = hooks.map(|(index, $hook)| {
                    let parts = Parts {
                        name: &$hook.name,
                        client: &$hook.client_config,
                        rules: &$hook.rules,
                        match_policy: &$hook.match_policy,
                        namespaces: &$hook.namespace_selector,
                        objects: &$hook.object_selector,
                        failure_policy: &$hook.failure_policy,
                        side_effects: &$hook.side_effects,
                        timeout_seconds: $hook.timeout_seconds,
                        review_versions: &$hook.admission_review_versions,
                        conditions: &$hook.match_conditions,
                        reinvocable: $reinvocable,
                    };
                    parts.hook(name, index)
                });
                made.collect()
            }
        }
    };
}

configuration!(MutatingWebhookConfiguration, |hook| {
    hook.reinvocation_policy.as_deref() == Some("IfNeeded")
});
configuration!(ValidatingWebhookConfiguration, |hook| false);

impl Parts<'_> {
    fn hook(self, configuration: &str, index: usize) -> Hook {
        let query = |selector: &Option<LabelSelector>| {
            selector.as_ref().map_or_else(LabelQuery::everything, LabelQuery::from_selector)
        };
        let matcher = Matcher {
            rules: self.rules.iter().flatten().map(Into::into).collect(),
            excluded: Vec::new(),
            everything: false,
            equivalent: self.match_policy.as_deref() != Some("Exact"),
            namespaces: query(self.namespaces),
            objects: query(self.objects),
        };
        let seconds = self.timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        Hook {
            name: self.name.to_owned(),
            configuration: configuration.to_owned(),
            uid: format!("{configuration}/{}/{index}", self.name),
            matcher,
            endpoint: endpoint(self.client),
            timeout: Duration::from_secs(seconds.unwrap_or(10)),
            fails_open: self.failure_policy.as_deref() == Some("Ignore"),
            harmless: ["None", "NoneOnDryRun"].contains(&self.side_effects),
            reinvocable: self.reinvocable,
            review: self.review_versions.iter().find_map(|version| Version::parse(version)),
            conditions: Conditions::new(self.conditions.as_deref().unwrap_or_default(), false),
        }
    }
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
        Some(bundle) if !bundle.0.is_empty() => {
            endpoint.trusting(Trust::Authorities(bundle.0.clone()))
        }
        _ => endpoint,
    })
}

/// All webhooks of one kind of configuration, by the names of the configurations.
#[derive(Default)]
pub(super) struct Hooks {
    by_configuration: Mutex<BTreeMap<String, Vec<Arc<Hook>>>>,
    all: ArcSwap<Vec<Arc<Hook>>>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.load().iter().map(|hook| &hook.uid)).finish()
    }
}

impl Hooks {
    /// Follows the configurations of a server.
    pub(super) fn of<C: Configuration + Send + Sync + 'static>(reader: &Reader) -> Arc<Self> {
        let hooks = Arc::new(Self::default());
        if let Some(table) = reader.table::<C>() {
            let kind = std::marker::PhantomData::<fn() -> C>;
            table.observe(Arc::new(Follower { hooks: hooks.clone(), kind }));
        }
        hooks
    }

    /// All webhooks in the order in which they are asked.
    pub(super) fn all(&self) -> Arc<Vec<Arc<Hook>>> {
        self.all.load_full()
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.all.load().is_empty()
    }

    fn publish(&self, by_configuration: &BTreeMap<String, Vec<Arc<Hook>>>) {
        self.all.store(Arc::new(by_configuration.values().flatten().cloned().collect()));
    }
}

/// Tells the index what happens to configurations.
struct Follower<C> {
    hooks: Arc<Hooks>,
    kind: std::marker::PhantomData<fn() -> C>,
}

impl<C> fmt::Debug for Follower<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Follower").field(&self.hooks).finish()
    }
}

impl<C: Configuration> Follower<C> {
    fn read(object: &CachedObject) -> Vec<Arc<Hook>> {
        match crate::json::from_slice::<C>(&object.stored.plain()) {
            Ok(found) => found.hooks(object.name()).into_iter().map(Arc::new).collect(),
            Err(error) => {
                tracing::error!(%error, key = %object.key, "webhooks cannot be read");
                Vec::new()
            }
        }
    }
}

impl<C: Configuration + Send + Sync + 'static> Observer for Follower<C> {
    fn changed(&self, new: Option<&Arc<CachedObject>>, old: Option<&Arc<CachedObject>>) {
        let mut all = self.hooks.by_configuration.lock();
        match (new, old) {
            (Some(new), _) => drop(all.insert(new.name().to_owned(), Self::read(new))),
            (None, Some(old)) => drop(all.remove(old.name())),
            (None, None) => {}
        }
        self.hooks.publish(&all);
    }

    fn replaced(&self, objects: &mut dyn Iterator<Item = &Arc<CachedObject>>) {
        let mut all = self.hooks.by_configuration.lock();
        *all = objects.map(|object| (object.name().to_owned(), Self::read(object))).collect();
        self.hooks.publish(&all);
    }
}
