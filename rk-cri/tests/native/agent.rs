//! An agent on this runtime, with an API server in process.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use rk_api::server::ApiServer;
use rk_cri::{
    Runtime,
    agent::{Agent, Kubelets, configuration::KubeletConfiguration},
};
use rk_store::EmbeddedStore;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::lab::{Lab, eventually};

/// An API server, and an agent that runs its Pods in the lab.
pub struct Cluster {
    pub client: kube::Client,
    kubelets: Kubelets,
    configuration: String,
    agent: Option<DropGuard>,
}

impl Cluster {
    pub async fn new(lab: &Lab) -> Self {
        Self::configured(lab, "").await
    }

    /// With fields of the kubelet's configuration.
    pub async fn configured(lab: &Lab, fields: &str) -> Self {
        let kubelets = Kubelets::new();
        let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory()))
            .require_service_accounts(false)
            .node_connector(Arc::new(kubelets.clone()))
            .start()
            .await
            .unwrap();
        let kind = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
        let mut cluster = Self {
            client: server.client(),
            kubelets,
            configuration: format!("{kind}{fields}"),
            agent: None,
        };
        cluster.start_agent(lab).await;
        cluster
    }

    /// Starts the agent, in place of the one before.
    pub async fn start_agent(&mut self, lab: &Lab) {
        self.agent = None;
        let configuration = KubeletConfiguration::parse(&self.configuration).unwrap().configuration;
        let agent = Agent::builder(self.client.clone(), Arc::new(lab.runtime().clone()))
            .configuration(&configuration)
            .node_name("n1")
            .root_dir(lab.directory.path().join("agent"))
            .node_ips(lab.network.node_ips())
            .build()
            .unwrap();
        self.kubelets.add("n1", agent.kubelet_api());
        let token = CancellationToken::new();
        tokio::spawn(agent.run(token.clone()));
        let nodes: Api<Node> = Api::all(self.client.clone());
        eventually(|| async { nodes.get_opt("n1").await.unwrap() }).await;
        self.agent = Some(token.drop_guard());
    }

    pub fn stop_agent(&mut self) {
        self.agent = None;
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    /// Makes a Pod of one container that runs a script.
    pub async fn run(&self, name: &str, script: &str, fields: Value) {
        let mut container = json!({
            "name": "main", "image": "busybox", "imagePullPolicy": "Never",
            "command": ["sh", "-c", script],
        });
        for (key, value) in fields.as_object().unwrap() {
            container[key] = value.clone();
        }
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "nodeName": "n1", "terminationGracePeriodSeconds": 1, "restartPolicy": "Never",
                "containers": [container],
            },
        }))
        .unwrap();
        self.pods().create(&PostParams::default(), &pod).await.unwrap();
    }

    /// Waits until what is asked about a Pod's status is so.
    pub async fn until(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(|| async {
            let pod = self.pods().get(name).await.unwrap();
            let status = serde_json::to_value(pod.status).unwrap();
            wanted(&status).then_some(status)
        })
        .await
    }

    pub async fn resize(&self, name: &str, resources: Value) {
        let patch = json!({"spec": {"containers": [{"name": "main", "resources": resources}]}});
        let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
        self.pods().patch_resize(name, &params, &patch).await.unwrap();
    }

    /// The message of an event about something, once it is there.
    pub async fn event(&self, about: &str, reason: &str) -> String {
        let api: Api<Event> = Api::default_namespaced(self.client.clone());
        eventually(|| async {
            let events = api.list(&Default::default()).await.unwrap().items;
            let found = events.into_iter().find(|event| {
                event.involved_object.name.as_deref() == Some(about)
                    && event.reason.as_deref() == Some(reason)
            });
            found.map(|event| event.message.unwrap_or_default())
        })
        .await
    }

    /// Deletes a Pod, and waits until it is gone.
    pub async fn delete(&self, name: &str) {
        self.pods().delete(name, &DeleteParams::default()).await.unwrap();
        eventually(|| async { self.pods().get_opt(name).await.unwrap().is_none().then_some(()) })
            .await;
    }

    /// Waits until the runtime has nothing left of deleted Pods, and ends the agent.
    pub async fn end(mut self, lab: &Lab) {
        eventually(|| async {
            let left = lab.runtime().list_pod_sandboxes().await.unwrap();
            left.is_empty().then_some(())
        })
        .await;
        self.agent = None;
    }
}

fn container(status: &Value) -> &Value {
    &status["containerStatuses"][0]
}

fn id(status: &Value) -> String {
    let id = container(status)["containerID"].as_str().unwrap_or_default();
    id.rsplit('/').next().unwrap_or_default().to_owned()
}

fn amounts(cpu: &str, memory: &str) -> Value {
    let amounts = json!({"cpu": cpu, "memory": memory});
    json!({"requests": amounts, "limits": amounts})
}

pub async fn a_pod_is_resized_in_its_cgroup_and_keeps_it_over_a_restart_of_the_agent(
    lab: &mut Lab,
) {
    let mut cluster = Cluster::new(lab).await;
    cluster.run("web", "exec sleep 600", json!({"resources": amounts("100m", "32Mi")})).await;
    let before = cluster.until("web", |status| container(status)["ready"] == true).await;
    let limits = |id: &str| {
        let read = |v1: &str, v2: &str| crate::limits::cgroup_file(lab, id, v1, v2);
        let quota = read("cpu.cfs_quota_us", "cpu.max");
        let quota = quota.split(' ').next().unwrap_or_default().to_owned();
        (quota, read("memory.limit_in_bytes", "memory.max"))
    };
    assert_eq!(limits(&id(&before)), ("10000".to_owned(), (32 << 20).to_string()));

    cluster.resize("web", amounts("200m", "64Mi")).await;
    let resized = |status: &Value| {
        container(status)["resources"]["limits"]["memory"] == "64Mi"
            && !status["conditions"].to_string().contains("PodResize")
    };
    let after = cluster.until("web", resized).await;
    assert_eq!((id(&after), &container(&after)["restartCount"]), (id(&before), &json!(0)));
    assert_eq!(limits(&id(&before)), ("20000".to_owned(), (64 << 20).to_string()));
    cluster.event("web", "ResizeCompleted").await;

    // The next agent knows what was allocated, and smaller limits are set in their order.
    cluster.start_agent(lab).await;
    cluster.resize("web", amounts("50m", "16Mi")).await;
    let smaller = |status: &Value| container(status)["resources"]["limits"]["memory"] == "16Mi";
    let last = cluster.until("web", smaller).await;
    assert_eq!((id(&last), &container(&last)["restartCount"]), (id(&before), &json!(0)));
    assert_eq!(limits(&id(&before)), ("5000".to_owned(), (16 << 20).to_string()));
    cluster.delete("web").await;
    cluster.end(lab).await;
}

pub async fn a_pod_gets_the_seccomp_profile_that_it_names_or_is_told_why_not(lab: &mut Lab) {
    let cluster = Cluster::new(lab).await;
    let profiles = lab.directory.path().join("agent/seccomp/profiles");
    std::fs::create_dir_all(&profiles).unwrap();
    let rules = r#"{"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#;
    std::fs::write(profiles.join("no-mkdir.json"), rules).unwrap();
    let profile = |file: &str| json!({"securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": file}}});
    cluster.run("confined", "mkdir /made || exit 7", profile("profiles/no-mkdir.json")).await;
    let status = cluster.until("confined", |status| status["phase"] == "Failed").await;
    assert_eq!(container(&status)["state"]["terminated"]["exitCode"], 7);

    cluster.run("missing", "true", profile("profiles/missing.json")).await;
    let waits =
        |status: &Value| container(status)["state"]["waiting"]["reason"] == "CreateContainerError";
    let status = cluster.until("missing", waits).await;
    let message = container(&status)["state"]["waiting"]["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("cannot load seccomp profile \"/"), "{message}");
    assert!(message.ends_with("missing.json: no such file or directory"), "{message}");
    assert!(cluster.event("missing", "Failed").await.contains(&message));
    for name in ["confined", "missing"] {
        cluster.delete(name).await;
    }
    cluster.end(lab).await;
}

pub async fn huge_pages_are_capacity_and_who_asks_for_too_many_is_refused(lab: &mut Lab) {
    let pool = std::path::Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
    let cluster = Cluster::new(lab).await;
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let capacity = nodes.get("n1").await.unwrap().status.unwrap().capacity.unwrap();
    let Ok(pages) = std::fs::read_to_string(pool) else {
        assert!(!capacity.contains_key("hugepages-2Mi"), "{capacity:?}");
        return cluster.end(lab).await;
    };
    let pages: u64 = pages.trim().parse().unwrap();
    let shown: rk_api::meta::quantity::Quantity = (&capacity["hugepages-2Mi"]).try_into().unwrap();
    assert_eq!(shown.value(), (pages << 21) as i64);

    let more = format!("{}Mi", (pages + 1) * 2);
    let amounts = json!({"cpu": "10m", "memory": "16Mi", "hugepages-2Mi": more});
    cluster.run("hungry", "true", json!({"resources": {"limits": amounts}})).await;
    let status = cluster.until("hungry", |status| status["phase"] == "Failed").await;
    assert_eq!(status["reason"], "OutOfhugepages-2Mi", "{status}");
    cluster.delete("hungry").await;
    cluster.end(lab).await;
}

pub async fn a_volume_in_memory_is_made_whole_after_an_agent_died_while_making_it(lab: &mut Lab) {
    let mut cluster = Cluster::new(lab).await;
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {
            "nodeName": "n1", "terminationGracePeriodSeconds": 1, "restartPolicy": "Never",
            "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}],
            "containers": [{
                "name": "main", "image": "busybox", "imagePullPolicy": "Never",
                "command": ["sh", "-c", "grep -q ' /memory tmpfs' /proc/mounts"],
                "volumeMounts": [{"name": "memory", "mountPath": "/memory"}],
            }],
        },
    }))
    .unwrap();
    // What is there when an agent dies between the directory and the mount.
    cluster.stop_agent();
    let made = cluster.pods().create(&PostParams::default(), &pod).await.unwrap();
    let uid = made.metadata.uid.unwrap();
    let volume = format!("agent/pods/{uid}/volumes/kubernetes.io~empty-dir/memory");
    std::fs::create_dir_all(lab.directory.path().join(volume)).unwrap();
    cluster.start_agent(lab).await;
    let ended = |status: &Value| matches!(status["phase"].as_str(), Some("Succeeded" | "Failed"));
    let status = cluster.until("web", ended).await;
    assert_eq!(status["phase"], "Succeeded", "{status}");
    cluster.delete("web").await;
    eventually(|| async { lab.mounts_of_pods().is_empty().then_some(()) }).await;
    cluster.end(lab).await;
}
