//! The simulated runtime does as it is told.
#![allow(clippy::unwrap_used, reason = "what fails here is the test")]

use std::{sync::Arc, time::Duration};

use rk_cri::{
    Runtime, SimRuntime,
    conformance::Kit,
    runtime::*,
    sim::{Behaviour, Program},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

async fn start(runtime: &SimRuntime, annotations: &[(&str, &str)], command: &[&str]) -> String {
    let config = SandboxConfig {
        pod: PodRef { namespace: "default".into(), name: "pod".into(), uid: "u1".into() },
        annotations: annotations.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        ..Default::default()
    };
    let sandbox = runtime.run_pod_sandbox(config).await.unwrap();
    runtime.pull_image("app:v1".into()).await.unwrap();
    let config = ContainerConfig {
        name: "main".into(),
        image: "app:v1".into(),
        command: command.iter().map(|word| word.to_string()).collect(),
        ..Default::default()
    };
    let id = runtime.create_container(&sandbox, config).await.unwrap();
    runtime.start_container(&id).await.unwrap();
    id
}

async fn exit_code(runtime: &SimRuntime, id: &str) -> Option<i32> {
    runtime.container_status(id).await.unwrap().exit_code
}

#[tokio::test(start_paused = true)]
async fn the_simulated_runtime_passes_the_kit() {
    Kit::simulated().assert_passed(Arc::new(SimRuntime::new())).await;
}

#[tokio::test(start_paused = true)]
async fn annotations_decide_when_and_how_a_container_ends() {
    let runtime = SimRuntime::new();
    let before = Instant::now();
    let annotations = [
        ("sim.rk.dev/start-delay", "2s"),
        ("sim.rk.dev/exit-after", "1h"),
        ("sim.rk.dev/exit-code", "3"),
        ("sim.rk.dev/exit-reason", "OOMKilled"),
    ];
    let id = start(&runtime, &annotations, &[]).await;
    assert_eq!(before.elapsed(), seconds(2));

    tokio::time::sleep(seconds(3599)).await;
    assert_eq!(exit_code(&runtime, &id).await, None);
    tokio::time::sleep(seconds(2)).await;
    assert_eq!(exit_code(&runtime, &id).await, Some(3));
    assert_eq!(runtime.container_status(&id).await.unwrap().reason, "OOMKilled");
}

#[tokio::test(start_paused = true)]
async fn code_decides_before_annotations_do() {
    let runtime = SimRuntime::builder()
        .behaviour(|container| Behaviour {
            program: Program::exit_after(seconds(1), container.config.attempt as i32 + 4),
            ..container.behaviour()
        })
        .build()
        .unwrap();
    let id = start(&runtime, &[("sim.rk.dev/exit-code", "1")], &[]).await;
    tokio::time::sleep(seconds(2)).await;
    assert_eq!(exit_code(&runtime, &id).await, Some(4));
}

#[tokio::test(start_paused = true)]
async fn a_port_answers_once_the_container_is_ready() {
    let runtime = SimRuntime::builder().pod_cidr("10.7.0.0/24").build().unwrap();
    start(&runtime, &[("sim.rk.dev/ready-after", "5s")], &["nginx"]).await;

    assert!(runtime.dial("10.7.0.2:80".parse().unwrap()).await.is_err());
    tokio::time::sleep(seconds(5)).await;
    let mut stream = runtime.dial("10.7.0.2:80".parse().unwrap()).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(runtime.dial("10.7.0.3:80".parse().unwrap()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn images_are_missing_by_name_by_rule_and_by_annotation() {
    let runtime = SimRuntime::builder()
        .missing_images(["ghost:v1"])
        .images(|image| if image.contains("private") { Err("unauthorized".into()) } else { Ok(()) })
        .build()
        .unwrap();
    start(&runtime, &[("sim.rk.dev/image-missing", "lost:v1, lost:v2")], &[]).await;
    for image in ["ghost:v1", "private/app", "r.invalid/app:v1", "app:missing", "lost:v2"] {
        assert!(runtime.pull_image(image.into()).await.is_err(), "{image}");
    }
    for image in ["ghost:v2", "quay.io/app", "app", "lost:v3"] {
        assert!(runtime.pull_image(image.into()).await.is_ok(), "{image}");
    }
}
