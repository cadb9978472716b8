//! The agent is killed a hundred times, at whatever it does, while Pods come and go.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use rk_api::server::{
    ApiServer,
    pki::{Credentials, Pki},
};
use rk_cri::{Runtime, agent::Agent, runtime::ContainerState};
use rk_store::EmbeddedStore;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::lab::{self, Lab, eventually_within};

/// In the environment of a process that is the agent, of the lab in this directory.
pub const AGENT: &str = "RK_NATIVE_TEST_AGENT";

const KILLS: usize = 100;
const NODE: &str = "n1";
/// Fifty Pods come to rest, or go, while others compute.
const PATIENCE: Duration = Duration::from_secs(300);

async fn eventually<T, F: Future<Output = Option<T>>>(probe: impl FnMut() -> F) -> T {
    eventually_within(PATIENCE, probe).await
}

/// The agent that is killed: it runs the Pods of the API server that its kubeconfig names.
pub async fn agent(directory: PathBuf) -> ExitCode {
    let network = lab::network(&directory).await;
    let runtime = lab::open(&directory, &network).await;
    let kubeconfig = Kubeconfig::read_from(directory.join("kubeconfig")).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    let agent = Agent::builder(Client::try_from(config).unwrap(), Arc::new(runtime))
        .node_name(NODE)
        .root_dir(directory.join("agent"))
        .log_dir(directory.join("pod-logs"))
        .build()
        .unwrap();
    agent.run(CancellationToken::new()).await;
    ExitCode::SUCCESS
}

/// The running agent; killed with the test.
struct Killable(Child);

impl Killable {
    fn start(directory: &Path) -> Self {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(AGENT, directory).stdin(Stdio::null());
        // SAFETY: the call is async-signal-safe, and touches nothing of this process.
        unsafe {
            command.pre_exec(|| {
                let signal = Some(rustix::process::Signal::KILL);
                Ok(rustix::process::set_parent_process_death_signal(signal)?)
            })
        };
        Self(command.spawn().unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An API server at a port of the loopback interface.
struct Served {
    pods: Api<Pod>,
    maps: Api<ConfigMap>,
    _serving: DropGuard,
}

impl Served {
    async fn start(directory: &Path) -> Self {
        let pki = Pki::generate().unwrap();
        let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory()))
            .require_service_accounts(false)
            .token_key(pki.token_key())
            .start()
            .await
            .unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let user = Credentials::Certificate { user: "agent", groups: &["system:masters"] };
        fs::write(directory.join("kubeconfig"), pki.kubeconfig(&url, &user).unwrap()).unwrap();
        let token = CancellationToken::new();
        let (serving, tls, stop) = (server.clone(), pki.server_tls(&[]).unwrap(), token.clone());
        tokio::spawn(async move { serving.serve(listener, tls, stop).await });
        let client = server.client();
        Self {
            pods: Api::default_namespaced(client.clone()),
            maps: Api::default_namespaced(client),
            _serving: token.drop_guard(),
        }
    }

    async fn create(&self, name: &str, spec: Value) {
        let mut pod = json!({"metadata": {"name": name}, "spec": {
            "nodeName": NODE, "terminationGracePeriodSeconds": 1,
        }});
        for (key, value) in spec.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.pods.create(&PostParams::default(), &pod).await.unwrap();
    }

    async fn delete(&self, name: &str) {
        self.pods.delete(name, &DeleteParams::default()).await.unwrap();
    }

    async fn status(&self, name: &str) -> Value {
        serde_json::to_value(self.pods.get(name).await.unwrap().status).unwrap()
    }

    async fn names(&self) -> Vec<String> {
        let pods = self.pods.list(&ListParams::default()).await.unwrap().items;
        pods.into_iter().filter_map(|pod| pod.metadata.name).collect()
    }
}

/// A Pod with volumes of all kinds that are mounted somewhere.
fn with_volumes(out: &Path, script: &str, policy: &str) -> Value {
    json!({
        "restartPolicy": policy,
        "volumes": [
            {"name": "disk", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "map", "configMap": {"name": "map"}},
            {"name": "out", "hostPath": {"path": out}},
        ],
        "containers": [{
            "name": "main", "image": "busybox", "imagePullPolicy": "Never",
            "command": ["sh", "-c", script],
            "volumeMounts": [
                {"name": "disk", "mountPath": "/disk", "subPath": "part"},
                {"name": "memory", "mountPath": "/memory"},
                {"name": "memory", "mountPath": "/part", "subPath": "deep/part"},
                {"name": "map", "mountPath": "/map"},
                {"name": "out", "mountPath": "/out"},
            ],
        }],
    })
}

/// The Pods that come and go, by their number.
fn churn(number: usize, out: &Path) -> Value {
    match number % 4 {
        // Runs once, whatever happens to its agent.
        0 => with_volumes(out, &format!("echo ran >> /out/{number}; exit 3"), "Never"),
        1 => with_volumes(out, "exec sleep 100000", "Always"),
        2 => with_volumes(out, "sleep 0.2; exit 1", "OnFailure"),
        _ => {
            let step = |name: &str, script: &str| {
                json!({"name": name, "image": "busybox", "imagePullPolicy": "Never",
                       "command": ["sh", "-c", script]})
            };
            json!({
                "initContainers": [step("first", "exit 0"), step("second", "sleep 0.1")],
                "containers": [step("a", "exec sleep 100000"), step("b", "exec sleep 100000")],
            })
        }
    }
}

/// Which kill a Pod came with.
fn number_of(name: &str) -> usize {
    name.trim_start_matches("churn-").parse().unwrap()
}

/// All that an agent could leave behind, counted or named.
async fn inventory(lab: &Lab) -> BTreeMap<&'static str, Vec<String>> {
    let directory = lab.directory.path();
    let names = |path: &str| {
        let entries = fs::read_dir(directory.join(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    // The zygote is another one after each restart: its program tells it from what it started.
    let processes = lab.processes();
    let mut namespaces: Vec<String> = processes
        .iter()
        .filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect();
    namespaces.sort();
    namespaces.dedup();
    let mut links = lab.links().await;
    links.sort();
    let mut mounts: Vec<String> =
        lab.mounts().iter().filter_map(|line| line.split(' ').nth(4).map(str::to_owned)).collect();
    mounts.sort();
    let cgroups = lab.cgroups();
    let mut cgroups: Vec<String> = cgroups.iter().map(|path| path.display().to_string()).collect();
    cgroups.sort();
    let addresses = lab.network.plugin().ipam().list().unwrap();
    [
        ("processes", vec![processes.len().to_string()]),
        ("network namespaces", vec![namespaces.len().to_string()]),
        ("links", links),
        ("mounts", mounts),
        ("cgroups", cgroups),
        ("addresses", vec![addresses.len().to_string()]),
        ("sandboxes", names("runtime/pods")),
        ("containers", names("runtime/containers")),
        ("libcontainer", names("runtime/libcontainer")),
        ("directories of Pods", names("agent/pods")),
        ("directories of logs", names("pod-logs")),
    ]
    .into()
}

fn container_ids(status: &Value) -> Vec<(Value, Value)> {
    let all = status["containerStatuses"].as_array().into_iter().flatten();
    all.map(|status| (status["containerID"].clone(), status["restartCount"].clone())).collect()
}

pub async fn a_hundred_kills_of_the_agent_lose_double_and_leave_nothing(lab: &mut Lab) {
    lab.release();
    let directory = lab.directory.path().to_owned();
    let out = directory.join("out");
    fs::create_dir_all(&out).unwrap();
    let api = Served::start(&directory).await;
    let map = json!({"metadata": {"name": "map"}, "data": {"key": "0"}});
    let map: ConfigMap = serde_json::from_value(map).unwrap();
    api.maps.create(&PostParams::default(), &map).await.unwrap();

    // What is to run through all of it.
    let mut agent = Killable::start(&directory);
    let stays = ["stays-0", "stays-1", "stays-2"];
    for name in stays {
        api.create(name, with_volumes(&out, "exec sleep 100000", "Always")).await;
    }
    let mut before = BTreeMap::new();
    for name in stays {
        let ready = || async {
            let status = api.status(name).await;
            (status["containerStatuses"][0]["ready"] == true).then_some(status)
        };
        before.insert(name, container_ids(&eventually(ready).await));
    }
    let begin = inventory(lab).await;

    // A fixed seed: which moments they are, the machine's load decides all the same.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    let mut alive = Vec::new();
    for kill in 0..KILLS {
        let name = format!("churn-{kill}");
        api.create(&name, churn(kill, &out)).await;
        alive.push(name);
        if alive.len() > 4 {
            let victim = draw(alive.len() as u64) as usize;
            // Those that run once stay until they have been looked at.
            if !number_of(&alive[victim]).is_multiple_of(4) {
                api.delete(&alive.swap_remove(victim)).await;
            }
        }
        let data = json!({"data": {"key": kill.to_string()}});
        let params = PatchParams::default();
        api.maps.patch("map", &params, &Patch::Merge(data)).await.unwrap();
        let label = json!({"metadata": {"labels": {"kill": kill.to_string()}}});
        let stays = stays[draw(3) as usize];
        api.pods.patch(stays, &params, &Patch::Merge(label)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(draw(400))).await;
        agent.kill();
        agent = Killable::start(&directory);
    }

    // Everything converges: what runs once has run once, what failed is tried again.
    for name in &alive {
        let number = number_of(name);
        let settled = || async {
            let status = api.status(name).await;
            let containers = &status["containerStatuses"][0];
            let is = match number % 4 {
                0 => status["phase"] == "Failed",
                2 => containers["restartCount"].as_i64().unwrap_or(0) > 0,
                _ => containers["ready"] == true,
            };
            is.then_some(status)
        };
        let status = eventually(settled).await;
        if number.is_multiple_of(4) {
            let container = &status["containerStatuses"][0];
            assert_eq!(container["restartCount"], 0, "{name}: {status}");
            assert_eq!(container["state"]["terminated"]["exitCode"], 3, "{name}: {status}");
            let runs = fs::read_to_string(out.join(number.to_string())).unwrap();
            assert_eq!(runs, "ran\n", "{name} ran more than once");
        }
    }
    // The last agent makes a sandbox too, so that it has all the processes that the first one had.
    api.create("last", churn(0, &out)).await;
    let ended = || async { (api.status("last").await["phase"] == "Failed").then_some(()) };
    eventually(ended).await;
    alive.push("last".to_owned());
    for name in &alive {
        api.delete(name).await;
    }
    eventually(|| async { (api.names().await == stays).then_some(()) }).await;

    // What ran through it is what it was.
    for name in stays {
        let status = api.status(name).await;
        assert_eq!(container_ids(&status), before[name], "{status}");
        assert_eq!(status["containerStatuses"][0]["ready"], true);
    }
    let mut differences = Vec::new();
    for _ in 0..3000 {
        let end = inventory(lab).await;
        differences = begin
            .iter()
            .filter(|(what, found)| end[*what] != **found)
            .map(|(what, found)| format!("{what}: {found:?} before, {:?} after", end[what]))
            .collect();
        if differences.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(differences.is_empty(), "{differences:#?}");

    for name in stays {
        api.delete(name).await;
    }
    eventually(|| async { api.names().await.is_empty().then_some(()) }).await;
    eventually(|| async { lab.mounts_of_pods().is_empty().then_some(()) }).await;
    agent.kill();
    lab.reopen().await;
    let running = lab.runtime().list_containers().await.unwrap();
    assert!(!running.iter().any(|one| one.state == ContainerState::Running), "{running:?}");
}
