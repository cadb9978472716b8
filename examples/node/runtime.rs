//! What runs containers.

use std::{net::Ipv4Addr, sync::Arc};

use rk::{
    cri::{
        Runtime as RuntimeTrait, SimRuntime,
        cri::CriRuntime,
        images::{ImportOptions, registry::Registries},
        native::NativeRuntime,
    },
    net::{NodeNetwork, ipam::Cidr},
};

use crate::options::{Options, Runtime};

/// The range of Pods' addresses, when nobody says which.
const PODS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 244, 0, 0), 24);

/// Starts it, or connects to it.
pub(crate) async fn start(options: &Options) -> Result<Arc<dyn RuntimeTrait>, String> {
    match &options.runtime {
        Runtime::Sim => simulated(options),
        Runtime::Native => native(options).await,
        Runtime::Endpoint(endpoint) => {
            let runtime = CriRuntime::connect(endpoint).await;
            let runtime = runtime
                .map_err(|error| format!("--container-runtime-endpoint={endpoint}: {error}"))?;
            Ok(Arc::new(runtime))
        }
    }
}

fn simulated(options: &Options) -> Result<Arc<dyn RuntimeTrait>, String> {
    let mut runtime = SimRuntime::builder();
    let range = &options.configuration.pod_cidr;
    if !range.is_empty() {
        runtime = runtime.pod_cidr(range);
    }
    if let Some(address) = options.node_ips.first() {
        runtime = runtime.node_ip(*address);
    }
    let runtime = runtime.build().map_err(|error| format!("--pod-cidr: {error}"))?;
    Ok(Arc::new(runtime))
}

/// Containers of this machine, behind a bridge of its own.
async fn native(options: &Options) -> Result<Arc<dyn RuntimeTrait>, String> {
    NativeRuntime::preflight().map_err(|reasons| {
        format!("--runtime=native is not possible here: {}", reasons.join("; "))
    })?;
    std::fs::create_dir_all(&options.root)
        .map_err(|error| format!("--root-dir={}: {error}", options.root.display()))?;
    let given = options.configuration.pod_cidr.as_str();
    let range = match given {
        "" => Cidr::new(PODS.0.into(), PODS.1).map_err(|error| error.to_string()),
        given => given.parse().map_err(|error| format!("--pod-cidr={given}: {error}")),
    }?;
    let network = NodeNetwork::builder(&options.root, range)
        .host_network_of_machine(true)
        .build()
        .await
        .map_err(|error| format!("the Pods' network: {error}"))?;
    let mut runtime = NativeRuntime::builder(options.root.join("runtime"), network.plugin())
        .node_ips(options.node_ips.clone());
    if let Some(directory) = &options.registries {
        runtime = runtime.registries(Registries::new().directory(directory));
    }
    let runtime = runtime.build().await.map_err(|error| format!("the runtime: {error}"))?;
    for file in &options.images {
        runtime
            .import(file, ImportOptions::default())
            .await
            .map_err(|error| format!("--load-image={}: {error}", file.display()))?;
    }
    Ok(Arc::new(runtime))
}
