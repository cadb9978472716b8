//! The endpoints of the Service `kubernetes`: every API server that lives.
//!
//! As kube-apiserver's reconciler of type `lease` does it, and together with such: each server keeps
//! a key `/registry/masterleases/<its address>` alive, which expires 15 s after the server's last
//! sign of life. Whoever looks next writes the Endpoints and the EndpointSlice that follow from the
//! keys there are.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use rk_store::{Expect, Range, StoreError};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    Inner,
    registry::Target,
    status::{ApiError, Result},
    user::UserInfo,
};
use crate::resources::Part;

/// Where the signs of life are.
const LEASES: &str = "/registry/masterleases/";

/// How long a server counts as living, and how often it gives a sign (kube-apiserver's defaults).
const LIVES_FOR: Duration = Duration::from_secs(15);
const EVERY: Duration = Duration::from_secs(10);

/// Keeps a server among the endpoints until it ends.
pub(super) async fn keep(server: Weak<Inner>, own: SocketAddr, shutdown: CancellationToken) {
    for generation in 1_u64.. {
        {
            let Some(server) = server.upgrade() else { return };
            let kept = async {
                sign(&server, own.ip(), generation).await?;
                reconcile(&server, own.port()).await
            };
            if let Err(error) = kept.await {
                tracing::warn!(%error, "this server is not among the endpoints of kubernetes");
            }
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_none() {
            return;
        }
    }
}

/// Takes a server that ends in order from the endpoints.
pub(super) async fn leave(server: &Inner, own: SocketAddr) -> Result<()> {
    match server.registry.cache.store().delete(&key(own.ip()), Expect::Any).await {
        Ok(_) | Err(StoreError::Conflict { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    reconcile(server, own.port()).await
}

fn key(address: IpAddr) -> String {
    format!("{LEASES}{address}")
}

/// The value has the form that kube-apiserver reads, and another generation each time.
async fn sign(server: &Inner, address: IpAddr, generation: u64) -> Result<()> {
    let sign = json!({
        "kind": "Endpoints",
        "apiVersion": "v1",
        "metadata": { "generation": generation },
        "subsets": [{ "addresses": [{ "ip": address.to_string() }] }],
    });
    let value = Bytes::from(sign.to_string());
    server.registry.cache.store().put(&key(address), value, Expect::Any, Some(LIVES_FOR)).await?;
    Ok(())
}

/// Makes the objects what the keys say.
async fn reconcile(server: &Inner, port: u16) -> Result<()> {
    let range = Range { prefix: LEASES, ..Range::default() };
    let found = server.registry.cache.store().range(range).await?;
    let living: BTreeSet<IpAddr> =
        found.items.iter().filter_map(|item| item.key[LEASES.len()..].parse().ok()).collect();
    write(server, ("", "v1", "endpoints"), endpoints(&living, port)).await?;
    let slices = ("discovery.k8s.io", "v1", "endpointslices");
    write(server, slices, slice(&living, port)).await
}

fn endpoints(living: &BTreeSet<IpAddr>, port: u16) -> Value {
    let addresses: Vec<_> = living.iter().map(|ip| json!({ "ip": ip.to_string() })).collect();
    let subset = json!({
        "addresses": addresses,
        "ports": [{ "name": "https", "port": port, "protocol": "TCP" }],
    });
    json!({
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            // The slice beside it is written here, too.
            "labels": { "endpointslice.kubernetes.io/skip-mirror": "true" },
        },
        "subsets": if living.is_empty() { json!([]) } else { json!([subset]) },
    })
}

fn slice(living: &BTreeSet<IpAddr>, port: u16) -> Value {
    // A slice is of one family: that of most servers' first.
    let family = living.first().is_none_or(IpAddr::is_ipv4);
    let of_family = living.iter().filter(|ip| ip.is_ipv4() == family);
    let endpoint =
        |ip: &IpAddr| json!({ "addresses": [ip.to_string()], "conditions": { "ready": true } });
    json!({
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": { "kubernetes.io/service-name": "kubernetes" },
        },
        "addressType": if family { "IPv4" } else { "IPv6" },
        "endpoints": of_family.map(endpoint).collect::<Vec<_>>(),
        "ports": [{ "name": "https", "port": port, "protocol": "TCP" }],
    })
}

/// Creates an object or gives it these contents; nothing is written when it has them.
async fn write(server: &Inner, kind: (&str, &str, &str), object: Value) -> Result<()> {
    let Some(resource) = server.kinds.builtin().get(kind.0, kind.1, kind.2) else { return Ok(()) };
    let json = serde_json::to_vec(&object).map_err(ApiError::internal)?;
    let mut wanted = resource.strategy.decode(&json).map_err(ApiError::internal)?.object;
    resource.strategy.default(wanted.as_mut());
    let user = UserInfo::new("system:apiserver", ["system:masters"]);
    let target = Target {
        resource,
        subresource: "",
        namespace: Some("default"),
        name: "kubernetes",
        user: &user,
        dry_run: false,
        manager: "kube-apiserver",
        context: None,
    };
    let written = server.registry.update(&target, Part::Main, |before| {
        let mut new = wanted.boxed_clone();
        if let Some(before) = before {
            new.meta_mut().uid.clone_from(&before.object.meta().uid);
            new.meta_mut().resource_version = Some(before.revision.to_string());
        }
        Ok(new.into())
    });
    match written.await {
        // Another server was faster, and wrote the same.
        Err(error) if error.reason == "Conflict" || error.reason == "AlreadyExists" => Ok(()),
        result => result.map(drop),
    }
}

/// Begins to keep `server` among the endpoints.
pub(super) fn start(server: &Arc<Inner>) {
    if let Some(own) = server.advertised {
        tokio::spawn(keep(Arc::downgrade(server), own, server.leaving.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoints_are_the_living_servers_in_order() {
        let living = ["10.0.0.12", "10.0.0.2"].map(|ip| ip.parse().unwrap()).into();
        let subsets = &endpoints(&living, 6443)["subsets"];
        assert_eq!(
            *subsets,
            json!([{
                "addresses": [{ "ip": "10.0.0.2" }, { "ip": "10.0.0.12" }],
                "ports": [{ "name": "https", "port": 6443, "protocol": "TCP" }],
            }])
        );
        assert_eq!(slice(&living, 6443)["endpoints"][1]["addresses"], json!(["10.0.0.12"]));
        assert_eq!(endpoints(&BTreeSet::new(), 1)["subsets"], json!([]));
    }
}
