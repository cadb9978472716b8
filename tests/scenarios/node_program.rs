//! The `node` example as a node with real containers, all of it in a network namespace of its own: it
//! joins a cluster by a kubeconfig, is killed and started again, and leaves nothing.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use rk::{cri::images::Digest, net::netns};
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};

use crate::{
    etcd::free_ports,
    harness::{Shell, scenarios},
    managers::Program,
    nodes::{api_server, known, node, ready},
    programs::{Components, Folder, Server},
};

scenarios! {
    Real:
        a_node_with_containers_joins_is_killed_and_leaves_nothing;
}

/// A machine for one node: a folder and a network namespace. Whatever is left of it when a test
/// fails goes with its value.
struct Machine {
    // Short paths: the name of a socket has at most 108 bytes.
    folder: tempfile::TempDir,
    netns: PathBuf,
    wires: Components,
}

impl Machine {
    fn new(t: &Shell) -> Self {
        let folder = tempfile::Builder::new().prefix("rk-node-").tempdir_in("/var/tmp");
        let folder = folder.expect("there is room");
        let netns = folder.path().join("netns");
        netns::create(&netns).expect("a network namespace");
        t.ok(&format!("nsenter --net={} ip link set lo up", netns.display()));
        Self { folder, netns, wires: Components::new() }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Passes connections on to the same address of the machine of the test, or, `out` of this
    /// namespace, the other way round.
    fn wire(&self, address: SocketAddr, out: bool) {
        let inside = Some(self.netns.clone());
        let (from, to) = if out { (inside, None) } else { (None, inside) };
        let listener = self.wires.block_on(netns::listen(from, address)).expect("it is free");
        let patience = std::time::Duration::from_secs(30);
        self.wires.spawn(move |stop| async move {
            loop {
                let accepted = tokio::select! { biased;
                    () = stop.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let (Ok((mut near, _)), to) = (accepted, to.clone()) else { continue };
                tokio::spawn(async move {
                    if let Ok(mut far) = netns::connect(to, address, patience).await {
                        tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
                    }
                });
            }
        });
    }

    /// Directories of the node's cgroups, outermost first.
    fn cgroups(&self) -> Vec<PathBuf> {
        let runtime = self.root().join("runtime");
        let name = Digest::of(runtime.as_os_str().as_encoded_bytes());
        let below = Path::new("rk").join(&name.hex()[..12]);
        let entries = |at: &Path| fs::read_dir(at).into_iter().flatten().flatten();
        let top = PathBuf::from("/sys/fs/cgroup");
        let mut left: Vec<PathBuf> = entries(&top).map(|entry| entry.path().join(&below)).collect();
        left.push(top.join(&below));
        left.retain(|at| at.is_dir());
        let mut found = Vec::new();
        while let Some(next) = left.pop() {
            let inner = entries(&next).map(|entry| entry.path()).filter(|at| at.is_dir());
            left.extend(inner);
            found.push(next);
        }
        found
    }

    fn processes(&self) -> Vec<Pid> {
        let texts =
            self.cgroups().into_iter().map(|at| fs::read_to_string(at.join("cgroup.procs")));
        let texts: Vec<String> = texts.filter_map(Result::ok).collect();
        let ids = texts.iter().flat_map(|text| text.lines()).filter_map(|id| id.parse().ok());
        ids.filter_map(Pid::from_raw).collect()
    }

    /// What is mounted below its folder, but for the namespace itself.
    fn mounts(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").expect("there is one");
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        points.filter(|at| at.starts_with(self.folder.path()) && *at != self.netns).collect()
    }

    fn links(&self, t: &Shell) -> String {
        t.ok(&format!("nsenter --net={} ip -o link", self.netns.display()))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for process in self.processes() {
            kill_process(process, Signal::KILL).ok();
        }
        for mount in self.mounts().iter().rev() {
            unmount(mount, UnmountFlags::DETACH).ok();
        }
        netns::delete(&self.netns).ok();
        // The kernel takes a moment to see that a group is empty.
        for _ in 0..100 {
            let left = self.cgroups();
            if left.iter().rev().filter(|at| fs::remove_dir(at).is_err()).count() == 0 {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

fn start(t: &Shell, machine: &Machine, port: u16) -> Program {
    let images = t.directory().parent().expect("it is in the run's").join("images.tar");
    t.write(
        "n1.yaml",
        &format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
             address: 127.0.0.1\nport: {port}\nhealthzPort: 0\n\
             podLogsDir: {}\nauthentication:\n  anonymous: {{enabled: true}}\n\
             authorization: {{mode: AlwaysAllow}}\n",
            machine.folder.path().join("logs").display()
        ),
    );
    let flags = [
        format!("--net={}", machine.netns.display()),
        node().display().to_string(),
        "--config=n1.yaml".to_owned(),
        "--kubeconfig=n1.conf".to_owned(),
        "--hostname-override=n1".to_owned(),
        "--node-ip=127.0.0.1".to_owned(),
        "--runtime=native".to_owned(),
        format!("--root-dir={}", machine.root().display()),
        format!("--load-image={}", images.display()),
    ];
    Program::start(t, "n1", Path::new("/usr/bin/nsenter"), &flags)
}

fn address(server: &Server) -> SocketAddr {
    let address = server.url.strip_prefix("https://").and_then(|address| address.parse().ok());
    address.expect("it has one")
}

fn a_node_with_containers_joins_is_killed_and_leaves_nothing(t: &Shell) {
    let folder = Folder::new(t);
    let server = api_server(t, &folder);
    known(t, &folder, &server, "n1");
    let machine = Machine::new(t);
    machine.wire(address(&server), true);
    let port = free_ports("127.0.0.1", 1)[0];
    machine.wire(SocketAddr::new([127, 0, 0, 1].into(), port), false);

    let running = start(t, &machine, port);
    t.eventually(&ready("n1"), "True");
    t.write(
        "pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: default}\nspec:\n  \
         nodeName: n1\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: c\n    \
         image: busybox\n    imagePullPolicy: IfNotPresent\n    \
         command: [sh, -c, 'echo begun; sleep 1d']\n    \
         volumeMounts: [{name: v, mountPath: /v}]\n  \
         volumes: [{name: v, emptyDir: {medium: Memory}}]\n",
    );
    t.ok("kubectl apply -f pod.yaml");
    let of =
        |path: &str| format!("kubectl get pod web -n default -o 'jsonpath={{.status.{path}}}'");
    t.eventually(&of("phase"), "Running");
    t.eventually("kubectl logs web -n default", "begun");
    t.ok("kubectl exec web -n default -- sh -c 'hostname > /v/name'");
    let facts = "podIP} {.status.containerStatuses[0].containerID} \
                 {.status.containerStatuses[0].restartCount";
    let before = t.ok(&of(facts));
    assert!(before.starts_with("10.244."), "{before}");

    // Killed, the way a power button would not: its Pods run on.
    drop(running);
    assert!(!machine.processes().is_empty());
    let running = start(t, &machine, port);
    t.eventually("kubectl exec web -n default -- cat /v/name", "web");
    assert_eq!(t.ok(&of(facts)), before);

    t.ok("kubectl delete pod web -n default --wait=false");
    t.until("kubectl get pod -n default -o name", "no Pod", |out| out.trim().is_empty());
    t.until(&format!("ls -A {}/pods", machine.root().display()), "no files", |out| {
        out.trim().is_empty()
    });
    assert!(running.stop().success());
    t.until("true", "no process", |_| machine.processes().is_empty());
    assert_eq!(machine.mounts(), Vec::<PathBuf>::new());
    let links = machine.links(t);
    assert!(!links.contains("veth"), "{links}");
}
