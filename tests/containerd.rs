//! A cluster whose Pods run on a real containerd. Needs what `rk-cri/tests/containerd.rs` needs, and
//! is a program of its own for the same reason.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

#[path = "../rk-cri/tests/containerd/lab.rs"]
#[allow(dead_code, reason = "it has more than is used here")]
mod lab;

use std::{panic::AssertUnwindSafe, process::ExitCode, sync::Arc};

use futures::FutureExt;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api,
    api::{AttachParams, DeleteParams, ListParams, LogParams, PostParams},
};
use lab::{IMAGE, Lab, eventually};
use rk::{Cluster, RuntimeNode};
use rk_cri::Runtime as _;
use serde_json::json;
use tokio::io::AsyncReadExt;

const NAME: &str = "a_deployment_runs_on_containerd_with_logs_and_exec";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut filters = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
    if filters.peek().is_some() && !filters.any(|filter| NAME.contains(filter.as_str())) {
        println!("test result: ok. 0 passed; 0 failed; 0 ignored");
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--list") {
        println!("{NAME}: test");
        return ExitCode::SUCCESS;
    }
    let missing = lab::missing();
    if !missing.is_empty() {
        println!("SKIP {NAME}: {}", missing.join("; "));
        println!("test result: ok. 0 passed; 0 failed; 1 ignored");
        return match std::env::var("RK_REQUIRE").as_deref() {
            Ok("all") => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        };
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let passed = runtime.block_on(async {
        let lab = Lab::new().await;
        let result = AssertUnwindSafe(a_deployment_runs(&lab)).catch_unwind().await;
        if result.is_err() {
            println!("    containerd said:\n{}", lab.log_tail());
        }
        let left = lab.take_down().await;
        if let Err(left) = &left {
            println!("    left behind: {left}");
        }
        result.is_ok() && left.is_ok()
    });
    println!("test {NAME} ... {}", if passed { "ok" } else { "FAILED" });
    match passed {
        true => println!("test result: ok. 1 passed; 0 failed; 0 ignored"),
        false => println!("test result: FAILED. 0 passed; 1 failed; 0 ignored"),
    }
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn a_deployment_runs(lab: &Lab) {
    let cluster = Cluster::builder().nodes(0).start().await.unwrap();
    let runtime = Arc::new(lab.runtime().clone());
    let root = lab.directory.path().join("agent");
    cluster.run_node(RuntimeNode::new("worker", runtime, root)).unwrap();
    let client = cluster.client();
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let pods: Api<Pod> = Api::default_namespaced(client);
    let script = "echo hello; trap 'exit 0' TERM; while true; do sleep 0.1; done";
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [
                    {"name": "main", "image": IMAGE, "command": ["sh", "-c", script]},
                ]},
            },
        },
    }))
    .unwrap();
    deployments.create(&PostParams::default(), &deployment).await.unwrap();
    eventually(|| async {
        let status = deployments.get("web").await.unwrap().status?;
        (status.ready_replicas == Some(2)).then_some(())
    })
    .await;

    for pod in pods.list(&ListParams::default()).await.unwrap().items {
        let name = pod.metadata.name.unwrap();
        let log = eventually(|| async {
            let log = pods.logs(&name, &LogParams::default()).await.unwrap();
            (!log.is_empty()).then_some(log)
        });
        assert_eq!(log.await, "hello\n");
        let params = AttachParams::default().stderr(false);
        let mut session = pods.exec(&name, ["hostname"], &params).await.unwrap();
        let mut said = String::new();
        session.stdout().unwrap().read_to_string(&mut said).await.unwrap();
        assert_eq!(said.trim_end(), name);
    }

    deployments.delete("web", &DeleteParams::background()).await.unwrap();
    eventually(|| async {
        lab.runtime().list_pod_sandboxes().await.unwrap().is_empty().then_some(())
    })
    .await;
    cluster.shutdown().await;
}
