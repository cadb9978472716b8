//! Both sides of CRI against each other: `CriRuntime` on a socket behind which a simulated runtime is
//! served. (With real containers behind it: `native/endpoint.rs`.)
#![allow(clippy::unwrap_used, reason = "what fails here is the test")]
#![cfg(target_os = "linux")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use rk_cri::{
    Runtime, RuntimeError, SimRuntime,
    conformance::Kit,
    cri::{CriRuntime, serve},
    runtime::{ContainerConfig, ContainerState, ExecOutput, ExecRequest, PodRef, SandboxConfig},
};
use tokio::{io::AsyncReadExt, net::UnixListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// An endpoint in a directory of its own.
struct Endpoint {
    directory: tempfile::TempDir,
    served: SimRuntime,
    stop: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Endpoint {
    fn of(served: SimRuntime) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (stop, task) = begin(&directory, &served);
        Self { directory, served, stop, task }
    }

    async fn connect(&self) -> CriRuntime {
        CriRuntime::connect(format!("unix://{}/c.sock", self.directory.path().display()))
            .await
            .unwrap()
    }

    /// Ends the endpoint as a killed daemon does: its connections break, its socket stays.
    async fn end(&mut self) {
        self.stop.cancel();
        (&mut self.task).await.unwrap().unwrap();
    }

    fn begin_again(&mut self) {
        std::fs::remove_file(self.directory.path().join("c.sock")).unwrap();
        (self.stop, self.task) = begin(&self.directory, &self.served);
    }
}

fn begin(
    directory: &tempfile::TempDir,
    served: &SimRuntime,
) -> (CancellationToken, JoinHandle<std::io::Result<()>>) {
    let listener = UnixListener::bind(directory.path().join("c.sock")).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(serve(Arc::new(served.clone()), listener, stop.clone()));
    (stop, task)
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn pod(name: &str) -> PodRef {
    PodRef { namespace: "default".into(), name: name.into(), uid: format!("uid-{name}") }
}

async fn running(runtime: &CriRuntime, name: &str) -> String {
    let config = SandboxConfig { pod: pod(name), ..Default::default() };
    let sandbox = runtime.run_pod_sandbox(config).await.unwrap();
    runtime.pull_image("app:v1".into()).await.unwrap();
    let config =
        ContainerConfig { name: "main".into(), image: "app:v1".into(), ..Default::default() };
    let id = runtime.create_container(&sandbox, config).await.unwrap();
    runtime.start_container(&id).await.unwrap();
    id
}

#[tokio::test]
async fn the_conformance_kit_passes_but_for_logs_in_memory() {
    let endpoint = Endpoint::of(SimRuntime::new());
    let outcomes = Kit::simulated().run(Arc::new(endpoint.connect().await)).await;
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.result.is_err()).collect();
    // CRI knows logs as files only, and the simulation writes none.
    let logs = ["logs hold both streams in CRI's format", "the environment reaches the program"];
    assert!(failed.iter().all(|outcome| logs.contains(&outcome.name)), "{failed:#?}");
    assert!(outcomes.len() > 20, "{}", outcomes.len());
}

#[tokio::test]
async fn calls_fail_while_the_endpoint_is_gone_and_work_when_it_is_back() {
    let mut endpoint = Endpoint::of(SimRuntime::new());
    let runtime = endpoint.connect().await;
    let id = running(&runtime, "stays").await;

    endpoint.end().await;
    let error = runtime.container_status(&id).await.unwrap_err();
    let RuntimeError::Io { source, .. } = &error else { panic!("{error:?}") };
    assert_eq!(source.kind(), std::io::ErrorKind::NotConnected, "{error:?}");

    endpoint.begin_again();
    let status = runtime.container_status(&id).await.unwrap();
    assert_eq!(status.state, ContainerState::Running);
}

#[tokio::test]
async fn events_go_on_after_the_endpoint_came_back() {
    let mut endpoint = Endpoint::of(SimRuntime::new());
    let runtime = endpoint.connect().await;
    let mut events = runtime.events();
    let first = running(&runtime, "first").await;
    let told = async |events: &mut futures::stream::BoxStream<'static, _>, id: &str| {
        while let Some(event) = events.next().await {
            let event: rk_cri::runtime::RuntimeEvent = event;
            if event.container_id.as_deref() == Some(id) {
                return event.pod;
            }
        }
        panic!("the events ended");
    };
    assert_eq!(told(&mut events, &first).await, pod("first"));

    endpoint.end().await;
    endpoint.begin_again();
    let second = running(&runtime, "second").await;
    assert_eq!(told(&mut events, &second).await, pod("second"));
}

#[tokio::test]
async fn what_the_runtime_behind_it_says_arrives() {
    let served = SimRuntime::builder().exec(|_, command| match &*command[0] {
        "hello" => Some(ExecOutput {
            stdout: Bytes::from_static(b"out\n"),
            stderr: Bytes::from_static(b"err\n"),
            exit_code: 7,
        }),
        _ => None,
    });
    let endpoint = Endpoint::of(served.build().unwrap());
    let runtime = endpoint.connect().await;
    assert!(runtime.version().starts_with("rk-sim://"), "{}", runtime.version());
    let id = running(&runtime, "web").await;

    let output = runtime.exec_sync(&id, vec!["hello".into()], Duration::from_secs(30)).await;
    let output = output.unwrap();
    assert_eq!(
        (&*output.stdout, &*output.stderr, output.exit_code),
        (&b"out\n"[..], &b"err\n"[..], 7)
    );

    let request = ExecRequest { command: vec!["hello".into()], stdin: false, tty: false };
    let mut session = runtime.exec(&id, request).await.unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    session.stdout.take().unwrap().read_to_string(&mut out).await.unwrap();
    session.stderr.take().unwrap().read_to_string(&mut err).await.unwrap();
    assert_eq!((&*out, &*err, session.exit.await.unwrap()), ("out\n", "err\n", 7));

    let stats = runtime.list_container_stats().await.unwrap();
    assert_eq!(stats.len(), 1, "{stats:?}");
    assert_eq!((&stats[0].pod, &*stats[0].name), (&pod("web"), "main"));
}

#[tokio::test]
async fn somebody_who_does_not_speak_cri_v1_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.sock");
    let nobody = CriRuntime::connect(path.display().to_string()).await.unwrap_err();
    assert!(matches!(nobody, RuntimeError::Io { .. }), "{nobody:?}");
    let relative = CriRuntime::connect("c.sock").await.unwrap_err();
    assert!(matches!(relative, RuntimeError::Invalid(_)), "{relative:?}");
}
