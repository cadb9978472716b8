//! What a site should consist of, and what is to be said of it: pure functions.

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Service},
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta},
};
use kube::ResourceExt;
use rk::{
    api::{clock, meta::conditions},
    controllers::owners::controller_ref,
};
use serde_json::{Value, json};

use crate::site::{PUBLISHED, READY, Site, SiteStatus};

/// The Deployment that runs the replicas.
pub fn deployment(site: &Site) -> Deployment {
    Deployment {
        metadata: metadata(site),
        spec: from_json(json!({
            "replicas": site.spec.replicas,
            "selector": {"matchLabels": labels(site)},
            "template": {
                "metadata": {"labels": labels(site)},
                "spec": {"containers": [{
                    "name": "web", "image": site.spec.image, "ports": [{"containerPort": 80}],
                }]},
            },
        })),
        ..Deployment::default()
    }
}

/// The Service in front of them.
pub fn service(site: &Site) -> Service {
    Service {
        metadata: metadata(site),
        spec: from_json(json!({"selector": labels(site), "ports": [{"port": 80}]})),
        ..Service::default()
    }
}

/// A child has the site's name, and goes with the site.
fn metadata(site: &Site) -> ObjectMeta {
    ObjectMeta {
        name: site.metadata.name.clone(),
        namespace: site.metadata.namespace.clone(),
        labels: from_json(labels(site)),
        owner_references: Some(vec![controller_ref(site)]),
        ..ObjectMeta::default()
    }
}

fn labels(site: &Site) -> Value {
    json!({"app.kubernetes.io/name": "site", "app.kubernetes.io/instance": site.name_any()})
}

/// What is written in this file has the form of the type that it is for: the tests see to it.
fn from_json<T: serde::de::DeserializeOwned + Default>(value: Value) -> T {
    serde_json::from_value(value).unwrap_or_default()
}

/// The status, when there is this Deployment, and publishing the name came to this.
pub fn status(
    site: &Site,
    deployment: Option<&Deployment>,
    published: &Result<(), String>,
) -> SiteStatus {
    let mut status = site.status.clone().unwrap_or_default();
    let generation = site.metadata.generation.unwrap_or_default();
    let ready = deployment.and_then(|it| it.status.as_ref()?.ready_replicas).unwrap_or(0);
    status.observed_generation = generation;
    status.ready_replicas = ready;
    let mut say = |type_: &str, holds: bool, reason: &str, message: String| {
        let condition = Condition {
            type_: type_.to_owned(),
            status: if holds { "True" } else { "False" }.to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation: Some(generation),
            last_transition_time: clock::now_seconds(),
        };
        conditions::set(&mut status.conditions, condition);
    };
    let wanted = site.spec.replicas;
    let all = ready >= wanted;
    let reason = if all { "AllReplicasReady" } else { "ReplicasNotReady" };
    say(READY, all, reason, format!("{ready} of {wanted} replicas are ready"));
    match published {
        Ok(()) => say(PUBLISHED, true, "Published", format!("{} leads here", site.spec.host)),
        Err(why) => say(PUBLISHED, false, "PublishingFailed", why.clone()),
    }
    status
}

/// Whether a status says that all is well.
pub fn is_ready(status: Option<&SiteStatus>) -> bool {
    status.is_some_and(|status| {
        let holds = |type_| conditions::is_true(&status.conditions, type_);
        holds(READY) && holds(PUBLISHED)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::SiteSpec;

    fn site(replicas: i32) -> Site {
        let spec = SiteSpec { image: "nginx".into(), replicas, host: "a.example".into() };
        let mut site = Site::new("a", spec);
        site.metadata.namespace = Some("web".into());
        site.metadata.uid = Some("u".into());
        site.metadata.generation = Some(3);
        site
    }

    #[test]
    fn children_are_complete_and_the_sites_own() {
        let site = site(2);
        let (deployment, service) = (deployment(&site), service(&site));
        assert_eq!(deployment.spec.replicas, Some(2));
        assert_eq!(service.spec.unwrap().ports.unwrap()[0].port, 80);
        for metadata in [deployment.metadata, service.metadata] {
            assert_eq!(metadata.namespace.as_deref(), Some("web"));
            let owner = &metadata.owner_references.unwrap()[0];
            assert_eq!((owner.kind.as_str(), owner.uid.as_str()), ("Site", "u"));
        }
    }

    #[test]
    fn a_status_tells_the_replicas_and_the_name_apart() {
        let site = site(2);
        let with = |ready: i32| -> Deployment {
            serde_json::from_value(json!({"status": {"replicas": 2, "readyReplicas": ready}}))
                .unwrap()
        };
        let half = status(&site, Some(&with(1)), &Ok(()));
        assert_eq!((half.ready_replicas, half.observed_generation), (1, 3));
        assert!(!is_ready(Some(&half)));
        assert!(conditions::is_true(&half.conditions, PUBLISHED));
        let unknown = status(&site, Some(&with(2)), &Err("no answer".into()));
        assert!(conditions::is_true(&unknown.conditions, READY) && !is_ready(Some(&unknown)));
        assert!(is_ready(Some(&status(&site, Some(&with(2)), &Ok(())))));
        assert!(!is_ready(Some(&status(&site, None, &Ok(())))));
    }
}
