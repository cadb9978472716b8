//! What the API server serves.
//!
//! It is read in the aggregated form (KEP-3352), which is two documents, each of which the server
//! need not send again when it has not changed. Servers before Kubernetes 1.27 do not have it; they
//! are asked for each version of each group.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use http::{Request, StatusCode, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIResource, APIResourceList};
use kube::{
    Client,
    client::Body,
    core::{
        ApiResource, Status,
        discovery::v2::{
            ACCEPT_AGGREGATED_DISCOVERY_V2, APIGroupDiscoveryList, APIResourceDiscovery,
        },
    },
};
use rk_api::client::Backoff;

/// A kind that can be listed and written, at the version that the server prefers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ServedKind {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub namespaced: bool,
    pub verbs: BTreeSet<String>,
}

impl ServedKind {
    /// As kube's dynamic API takes it.
    pub fn api_resource(&self) -> ApiResource {
        let api_version = match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        };
        ApiResource {
            group: self.group.clone(),
            version: self.version.clone(),
            api_version,
            kind: self.kind.clone(),
            plural: self.plural.clone(),
        }
    }

    /// Whether every one of these verbs is there.
    pub fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.contains(*verb))
    }
}

/// Everything the API server serves, subresources left out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Served {
    /// In every version.
    all: Vec<ServedKind>,
    /// In the preferred version of their groups.
    preferred: Vec<ServedKind>,
    /// Groups whose resources could not be read: an aggregated server that is down. What is in
    /// them is unknown, which is not the same as nothing.
    pub unreadable: Vec<String>,
}

impl Served {
    /// Asks the API server until it answers.
    pub async fn discover(client: &Client) -> Self {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        loop {
            match Self::read(client).await {
                Ok(served) => return served,
                Err(error) => {
                    tracing::warn!(%error, "discovery failed, trying again");
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
        }
    }

    /// Asks the API server once.
    pub async fn read(client: &Client) -> Result<Self, kube::Error> {
        let mut discovery = Discovery::default();
        Ok(Arc::unwrap_or_clone(discovery.read(client).await?))
    }

    /// Asks for each group version apart.
    async fn read_each(client: &Client) -> Result<Self, kube::Error> {
        let mut served = Self::default();
        for version in client.list_core_api_versions().await?.versions {
            let list = client.list_core_api_resources(&version).await?;
            served.add(list, "", &version);
        }
        for group in client.list_api_groups().await?.groups {
            let preferred = group.preferred_version.as_ref().map(|version| version.version.clone());
            // The preferred version first; of the others only what it lacks is preferred too.
            let mut versions = group.versions.clone();
            versions.sort_by_key(|version| Some(&version.version) != preferred.as_ref());
            for version in versions {
                match client.list_api_group_resources(&version.group_version).await {
                    Ok(list) => served.add(list, &group.name, &version.version),
                    Err(error) => {
                        tracing::warn!(group_version = version.group_version, %error, "discovery of a group failed");
                        served.unreadable.push(version.group_version);
                    }
                }
            }
        }
        Ok(served)
    }

    fn add(&mut self, list: APIResourceList, group: &str, version: &str) {
        for resource in list.resources.into_iter().filter(|resource| !resource.name.contains('/')) {
            self.add_kind(served_kind(resource, group, version));
        }
    }

    /// The first version of a kind that comes is the preferred one.
    fn add_kind(&mut self, kind: ServedKind) {
        let better = self
            .preferred
            .iter()
            .any(|other| other.group == kind.group && other.plural == kind.plural);
        if !better {
            self.preferred.push(kind.clone());
        }
        self.all.push(kind);
    }

    /// Adds a document, which has the preferred version of each group first.
    fn add_aggregated(&mut self, document: &APIGroupDiscoveryList) {
        for group in &document.items {
            let meta = group.metadata.as_ref();
            let name = meta.and_then(|meta| meta.name.as_deref()).unwrap_or_default();
            for version in &group.versions {
                let number = version.version.as_deref().unwrap_or_default();
                if version.freshness.as_deref() == Some(STALE) {
                    tracing::warn!(group = name, version = number, "discovery of a group failed");
                    self.unreadable.push(match name {
                        "" => number.to_owned(),
                        name => format!("{name}/{number}"),
                    });
                    continue;
                }
                for resource in &version.resources {
                    if let Some(kind) = aggregated_kind(resource, name, number) {
                        self.add_kind(kind);
                    }
                }
            }
        }
    }

    /// Whether `plural` is served in an API version such as `v1` or `apps/v1`.
    pub fn has(&self, api_version: &str, plural: &str) -> bool {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.all
            .iter()
            .any(|kind| kind.group == group && kind.version == version && kind.plural == plural)
    }

    /// A kind as an owner reference names it, in any version that is served.
    pub fn kind(&self, api_version: &str, kind: &str) -> Option<&ServedKind> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let mut found =
            self.all.iter().filter(|served| served.group == group && served.kind == kind);
        let exact = found.clone().find(|served| served.version == version);
        exact.or_else(|| found.next())
    }

    /// Each kind once, in its preferred version.
    pub fn preferred(&self) -> &[ServedKind] {
        &self.preferred
    }
}

/// What a version is that the server knows of and could not read.
const STALE: &str = "Stale";

/// Follows what an API server serves, with little to do while that stays the same.
#[derive(Debug, Default)]
pub(crate) struct Discovery {
    core: Option<Known>,
    groups: Option<Known>,
    served: Option<Arc<Served>>,
}

/// A document, and what the server calls this state of it.
#[derive(Debug)]
struct Known {
    tag: String,
    document: APIGroupDiscoveryList,
}

impl Discovery {
    /// Asks the API server once. While nothing has changed the result is the same [`Arc`].
    pub async fn read(&mut self, client: &Client) -> Result<Arc<Served>, kube::Error> {
        let core = refresh(client, "/api", &mut self.core).await?;
        let groups = match core {
            Answer::Unknown => Answer::Unknown,
            _ => refresh(client, "/apis", &mut self.groups).await?,
        };
        let served = match (core, groups, &self.served) {
            (Answer::Unknown, ..) | (_, Answer::Unknown, _) => {
                Arc::new(Served::read_each(client).await?)
            }
            (Answer::Same, Answer::Same, Some(served)) => return Ok(served.clone()),
            _ => {
                let mut served = Served::default();
                for known in [&self.core, &self.groups].into_iter().flatten() {
                    served.add_aggregated(&known.document);
                }
                Arc::new(served)
            }
        };
        self.served = Some(served.clone());
        Ok(served)
    }
}

/// What the server says of a document.
enum Answer {
    /// It is as it was.
    Same,
    New,
    /// The server does not have it in this form.
    Unknown,
}

async fn refresh(
    client: &Client,
    path: &str,
    known: &mut Option<Known>,
) -> Result<Answer, kube::Error> {
    let mut request = Request::get(path).header(header::ACCEPT, ACCEPT_AGGREGATED_DISCOVERY_V2);
    if let Some(known) = known.as_ref().filter(|known| !known.tag.is_empty()) {
        request = request.header(header::IF_NONE_MATCH, &known.tag);
    }
    let request = request.body(Body::empty()).map_err(kube::Error::HttpError)?;
    let (parts, body) = client.send(request).await?.into_parts();
    if parts.status == StatusCode::NOT_MODIFIED && known.is_some() {
        return Ok(Answer::Same);
    }
    let body = body.collect_bytes().await?;
    if !parts.status.is_success() {
        let status = serde_json::from_slice::<Status>(&body).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&body);
            Status::failure(&text, "").with_code(parts.status.as_u16())
        });
        return Err(kube::Error::Api(status.boxed()));
    }
    let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
    // A server that does not know the form answers with the classic one.
    if !text(header::CONTENT_TYPE).is_some_and(|kind| kind.contains("as=APIGroupDiscoveryList")) {
        *known = None;
        return Ok(Answer::Unknown);
    }
    let document = serde_json::from_slice(&body).map_err(kube::Error::SerdeError)?;
    *known = Some(Known { tag: text(header::ETAG).unwrap_or_default().to_owned(), document });
    Ok(Answer::New)
}

/// `None` for what only has subresources.
fn aggregated_kind(
    resource: &APIResourceDiscovery,
    group: &str,
    version: &str,
) -> Option<ServedKind> {
    let kind = resource.response_kind.as_ref().filter(|_| !resource.verbs.is_empty())?;
    let or = |value: &Option<String>, default: &str| {
        let value = value.as_deref().filter(|value| !value.is_empty());
        value.unwrap_or(default).to_owned()
    };
    Some(ServedKind {
        group: or(&kind.group, group),
        version: or(&kind.version, version),
        kind: kind.kind.clone()?,
        plural: resource.resource.clone()?,
        namespaced: resource.scope.as_deref() == Some("Namespaced"),
        verbs: resource.verbs.iter().cloned().collect(),
    })
}

pub(crate) fn served_kind(resource: APIResource, group: &str, version: &str) -> ServedKind {
    let or = |value: Option<String>, default: &str| {
        value.filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned())
    };
    ServedKind {
        group: or(resource.group, group),
        version: or(resource.version, version),
        kind: resource.kind,
        plural: resource.name,
        namespaced: resource.namespaced,
        verbs: resource.verbs.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use rk_api::server::ApiServer;
    use rk_store::EmbeddedStore;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_version_of_a_group_is_preferred_and_what_is_stale_is_unreadable() {
        let resource = |plural: &str, kind: &str| {
            json!({"resource": plural, "scope": "Namespaced", "verbs": ["list"],
                   "responseKind": {"group": "", "version": "", "kind": kind}})
        };
        let document = serde_json::from_value(json!({"items": [
            {"metadata": {"name": "example.com"}, "versions": [
                {"version": "v2", "resources": [resource("as", "A")]},
                {"version": "v1", "resources": [resource("as", "A"), resource("bs", "B")]},
                {"version": "v0", "freshness": "Stale", "resources": [resource("cs", "C")]},
            ]},
        ]}));
        let mut served = Served::default();
        served.add_aggregated(&document.unwrap());

        let names = |kinds: &[ServedKind]| {
            let name = |kind: &ServedKind| format!("{}/{}", kind.version, kind.plural);
            kinds.iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(names(served.preferred()), ["v2/as", "v1/bs"]);
        assert_eq!(names(&served.all), ["v2/as", "v1/as", "v1/bs"]);
        assert_eq!(served.unreadable, ["example.com/v0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn both_forms_of_discovery_say_the_same_and_what_has_not_changed_is_not_read_again() {
        let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory()));
        let server = server.start().await.unwrap();
        let client = server.client();
        let mut discovery = Discovery::default();
        let first = discovery.read(&client).await.unwrap();
        let again = discovery.read(&client).await.unwrap();
        assert!(Arc::ptr_eq(&first, &again));

        let sorted = |mut kinds: Vec<ServedKind>| {
            kinds.sort();
            kinds
        };
        let each = Served::read_each(&client).await.unwrap();
        let differ = |a: &[ServedKind], b: &[ServedKind]| {
            let (a, b) = (sorted(a.to_vec()), sorted(b.to_vec()));
            a.into_iter().filter(|kind| !b.contains(kind)).collect::<Vec<_>>()
        };
        assert_eq!(differ(&first.all, &each.all), []);
        assert_eq!(differ(&each.preferred, &first.preferred), []);
        assert_eq!(differ(&first.preferred, &each.preferred), []);
    }
}
