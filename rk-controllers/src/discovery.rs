//! What the API server serves.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIResource, APIResourceList};
use kube::{Client, core::ApiResource};
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
            let kind = served_kind(resource, group, version);
            let better = self
                .preferred
                .iter()
                .any(|other| other.group == kind.group && other.plural == kind.plural);
            if !better {
                self.preferred.push(kind.clone());
            }
            self.all.push(kind);
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
