//! Jobs and CronJobs whose controllers lose requests and answers, send twice, and are killed between
//! any two writes.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response};
use k8s_openapi::api::{
    batch::v1::{CronJob, Job},
    core::v1::Pod,
};
use kube::{Client, ResourceExt, client::Body};
use parking_lot::Mutex;
use rk_api::{
    client::{Change, Informers},
    rng::Rng,
};
use rk_controllers::Manager;
use serde_json::json;
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::cluster::TestCluster;

/// What happens to a request that writes.
enum Fate {
    Arrives,
    /// It never gets there.
    Lost,
    /// It gets there, but the answer is lost.
    Unanswered,
    Twice,
    /// The controller is killed before it leaves, or before the answer comes.
    Killed {
        arrives: bool,
    },
}

struct Faults {
    rng: Mutex<Rng>,
    kill: Notify,
}

impl Faults {
    fn fate(&self, method: &Method) -> Fate {
        if method == Method::GET {
            return Fate::Arrives;
        }
        match self.rng.lock().below(20) {
            0 => Fate::Lost,
            1 => Fate::Unanswered,
            2 => Fate::Twice,
            3 => Fate::Killed { arrives: false },
            4 => Fate::Killed { arrives: true },
            _ => Fate::Arrives,
        }
    }

    async fn send(
        &self,
        client: &Client,
        request: Request<Body>,
    ) -> Result<Response<Body>, kube::Error> {
        let fate = self.fate(request.method());
        let (head, body) = request.into_parts();
        let body: Bytes = body.collect_bytes().await?;
        let send = || {
            let mut request = Request::new(Body::from(body.clone()));
            *request.method_mut() = head.method.clone();
            *request.uri_mut() = head.uri.clone();
            *request.headers_mut() = head.headers.clone();
            client.send(request)
        };
        let lost = || Err(kube::Error::Service("connection reset".into()));
        match fate {
            Fate::Arrives => send().await,
            Fate::Lost => lost(),
            Fate::Unanswered => {
                drop(send().await);
                lost()
            }
            Fate::Twice => {
                let first = send().await;
                drop(send().await);
                first
            }
            Fate::Killed { arrives } => {
                if arrives {
                    drop(send().await);
                }
                self.kill.notify_one();
                std::future::pending().await
            }
        }
    }
}

/// A manager with faults, started again whenever it is killed.
fn run_with_faults(cluster: &TestCluster, controllers: &'static str, seed: u64) -> JoinHandle<()> {
    let faults = Arc::new(Faults { rng: Mutex::new(Rng::seeded(seed)), kill: Notify::new() });
    let client = cluster.client.clone();
    tokio::spawn(async move {
        loop {
            let (through, real) = (faults.clone(), client.clone());
            let service = tower::service_fn(move |request| {
                let (faults, client) = (through.clone(), real.clone());
                async move { faults.send(&client, request).await }
            });
            let manager = Manager::builder(Client::new(service, "default"));
            let manager = manager.controllers(controllers).build().unwrap();
            tokio::select! {
                () = manager.run(CancellationToken::new()) => {}
                () = faults.kill.notified() => {}
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    })
}

/// What Pods did, seen from outside.
#[derive(Default)]
struct Truth {
    succeeded: BTreeSet<String>,
    failed: BTreeSet<String>,
    /// The most that ever ran at the same time.
    most_active: usize,
}

fn follow_pods(cluster: &TestCluster) -> Arc<Mutex<Truth>> {
    let truth = Arc::new(Mutex::new(Truth::default()));
    let pods = Informers::new(cluster.client.clone()).of::<Pod>();
    let seen = truth.clone();
    tokio::spawn(async move {
        let mut changes = pods.subscribe();
        let mut active = BTreeSet::new();
        loop {
            let change = changes.next_change().await;
            let pod = change.object();
            let uid = pod.uid().unwrap();
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            let mut truth = seen.lock();
            match phase {
                Some("Succeeded") => drop(truth.succeeded.insert(uid.clone())),
                Some("Failed") => drop(truth.failed.insert(uid.clone())),
                _ => {}
            }
            let over = matches!(phase, Some("Succeeded" | "Failed"));
            let gone = matches!(change, Change::Deleted(_));
            if over || gone || pod.metadata.deletion_timestamp.is_some() {
                active.remove(&uid);
            } else {
                active.insert(uid);
            }
            truth.most_active = truth.most_active.max(active.len());
        }
    });
    truth
}

async fn check_job(seed: u64, indexed: bool) {
    let cluster = TestCluster::start_with("garbage-collector-controller", |builder| builder).await;
    let truth = follow_pods(&cluster);
    let ends = Mutex::new(Rng::seeded(seed));
    cluster.run_in_pods(move |_| {
        let mut rng = ends.lock();
        Some((rng.below(20), i32::from(rng.below(3) == 0)))
    });
    let manager = run_with_faults(&cluster, "job", seed);
    let mode = if indexed { "Indexed" } else { "NonIndexed" };
    let job = json!({"metadata": {"name": "work"}, "spec": {
        "completions": 7, "parallelism": 3, "backoffLimit": 1000, "completionMode": mode,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox"}]}},
    }});
    cluster.create::<Job>(job).await;
    let mut done = false;
    for _ in 0..400 {
        cluster.wait(60).await;
        let job = cluster.get::<Job>("work").await.unwrap();
        let conditions = job.status.and_then(|status| status.conditions).unwrap_or_default();
        done = conditions.iter().any(|one| one.type_ == "Complete" && one.status == "True");
        if done {
            break;
        }
    }
    let status = cluster.get::<Job>("work").await.unwrap().status.unwrap();
    assert!(done, "seed {seed}: {status:?}");
    let truth = truth.lock();
    assert_eq!(status.succeeded, Some(7), "seed {seed}");
    assert_eq!(truth.succeeded.len(), 7, "seed {seed}: Pods that succeeded");
    let failed = usize::try_from(status.failed.unwrap_or(0)).unwrap();
    assert_eq!(failed, truth.failed.len(), "seed {seed}: failures counted and seen");
    assert!(truth.most_active <= 3, "seed {seed}: {} ran at once", truth.most_active);
    manager.abort();
}

#[tokio::test(start_paused = true)]
async fn completions_are_counted_once_whatever_is_lost() {
    for seed in 0..6 {
        check_job(seed, false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn indexes_are_completed_once_whatever_is_lost() {
    for seed in 100..106 {
        check_job(seed, true).await;
    }
}

async fn check_cron_job(seed: u64) {
    let cluster =
        TestCluster::start_with("garbage-collector-controller,job", |builder| builder).await;
    let truth = follow_pods(&cluster);
    let ends = Mutex::new(Rng::seeded(seed));
    cluster.run_in_pods(move |_| Some((ends.lock().below(150), 0)));
    let manager = run_with_faults(&cluster, "cronjob", seed);
    let cron = json!({"metadata": {"name": "tick"}, "spec": {
        "schedule": "* * * * *", "concurrencyPolicy": "Forbid", "successfulJobsHistoryLimit": 1000,
        "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "busybox"}]}}}},
    }});
    cluster.create::<CronJob>(cron).await;
    cluster.wait(3600).await;
    let jobs = cluster.list::<Job>("").await;
    assert!(jobs.len() >= 15, "seed {seed}: {} in an hour", jobs.len());
    assert_eq!(truth.lock().most_active, 1, "seed {seed}: two ran at once");
    manager.abort();
}

#[tokio::test(start_paused = true)]
async fn a_cron_job_never_runs_two_at_once_where_that_is_forbidden_whatever_is_lost() {
    for seed in 200..204 {
        check_cron_job(seed).await;
    }
}
