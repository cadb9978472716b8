//! What is scaled: any kind with a `scale` subresource, custom ones too.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::api::autoscaling::v1::Scale;
use kube::{Api, Client, api::PostParams, core::DynamicObject};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    discovery::{ServedKind, served_kind},
    error,
};

/// How long a kind is taken to be what it was: a custom one may come, go and change.
const KNOWN_FOR: Duration = Duration::from_secs(30);

/// How often a write is tried that meets another.
const TRIES: usize = 5;

/// Finds scalable kinds, and reads and writes their scales.
pub(super) struct Targets {
    client: Client,
    known: Mutex<HashMap<(String, String), (Instant, ServedKind)>>,
}

impl Targets {
    pub fn new(client: Client) -> Self {
        Self { client, known: Mutex::default() }
    }

    /// The kind that a reference names. Its version is a hint: any version of the group will do.
    pub async fn kind(&self, api_version: &str, kind: &str) -> Result<ServedKind, String> {
        let (group, version) = match api_version.split('/').collect::<Vec<_>>()[..] {
            [version] => ("", version),
            [group, version] => (group, version),
            _ => return Err(format!("unexpected GroupVersion string: {api_version}")),
        };
        let key = (group.to_owned(), kind.to_owned());
        let known = self.known.lock().get(&key).cloned();
        if let Some((at, found)) = known.filter(|(at, _)| at.elapsed() < KNOWN_FOR) {
            let _ = at;
            return Ok(found);
        }
        let found = match self.served(group, version, kind).await {
            Some(found) => Some(found),
            None => self.in_another_version(group, version, kind).await,
        };
        let found =
            found.ok_or_else(|| format!("no matches for kind \"{kind}\" in group \"{group}\""))?;
        self.known.lock().insert(key, (Instant::now(), found.clone()));
        Ok(found)
    }

    async fn in_another_version(
        &self,
        group: &str,
        version: &str,
        kind: &str,
    ) -> Option<ServedKind> {
        let groups = self.client.list_api_groups().await.ok()?.groups;
        let group = groups.into_iter().find(|served| served.name == group)?;
        for other in group.versions.iter().filter(|other| other.version != version) {
            if let Some(found) = self.served(&group.name, &other.version, kind).await {
                return Some(found);
            }
        }
        None
    }

    async fn served(&self, group: &str, version: &str, kind: &str) -> Option<ServedKind> {
        if version.is_empty() {
            return None;
        }
        let list = match group {
            "" => self.client.list_core_api_resources(version).await,
            group => self.client.list_api_group_resources(&format!("{group}/{version}")).await,
        };
        let mut resources = list.ok()?.resources.into_iter();
        let found = resources.find(|each| each.kind == kind && !each.name.contains('/'))?;
        Some(served_kind(found, group, version))
    }

    pub async fn scale(
        &self,
        kind: &ServedKind,
        namespace: &str,
        name: &str,
    ) -> Result<Scale, kube::Error> {
        self.api(kind, namespace).get_scale(name).await
    }

    /// Sets the number of replicas, whoever else writes the object at the same time.
    pub async fn resize(
        &self,
        kind: &ServedKind,
        namespace: &str,
        mut scale: Scale,
        replicas: i32,
    ) -> Result<(), kube::Error> {
        let api = self.api(kind, namespace);
        let name = scale.metadata.name.clone().unwrap_or_default();
        let mut tries = 1;
        loop {
            scale.spec.get_or_insert_default().replicas = Some(replicas);
            match api.replace_scale(&name, &PostParams::default(), &scale).await {
                Err(conflict) if error::is_conflict(&conflict) && tries < TRIES => {
                    scale = api.get_scale(&name).await?;
                    tries += 1;
                }
                result => return result.map(drop),
            }
        }
    }

    fn api(&self, kind: &ServedKind, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &kind.api_resource())
    }
}
