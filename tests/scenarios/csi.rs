//! Volumes of a CSI driver: the `csi-driver` example as programs beside two nodes with real
//! containers, which share nothing but the folder that the volumes are in.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use rk::{
    Cluster, NativeNode, RuntimeNode,
    cri::{images::ImportOptions, native::NativeRuntime},
    net::{NodeNetwork, ipam::Cidr},
};

use crate::{
    harness::{Shell, apply, scenarios},
    managers::Program,
    programs::example,
};

scenarios! {
    Real:
        s254_a_network_volume_is_there_on_another_node,
        a_volume_of_a_driver_grows_and_goes_with_its_claim,
        a_volume_of_a_driver_can_be_part_of_a_pod;
}

const DRIVER: &str = "folders.csi.example.com";

/// The built driver.
fn driver() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example("csi-driver"))
}

/// A cluster of the nodes `one` and `two`, with the driver on both. What is left of it when a test
/// fails goes with its value.
struct Lab {
    // Short paths: the name of a socket has at most 108 bytes.
    folder: tempfile::TempDir,
    drivers: Vec<Program>,
    cluster: Cluster,
    second: NativeRuntime,
    network: NodeNetwork,
    runtime: tokio::runtime::Runtime,
}

impl Lab {
    fn new(t: &Shell) -> Self {
        let program = driver();
        let folder = tempfile::tempdir().expect("there is room");
        let (one, two) = (folder.path().join("1"), folder.path().join("2"));
        let images = t.directory().parent().expect("it is in the run's").join("images.tar");
        let runtime = tokio::runtime::Runtime::new().expect("there are threads");
        let (cluster, second, network) = runtime.block_on(async {
            let node = NativeNode::new().root(&one).name("one").load([images.clone()]);
            let cluster = Cluster::builder().native(node).listen(([127, 0, 0, 1], 0)).start();
            let cluster = cluster.await.expect("the cluster starts");
            std::fs::create_dir(&two).expect("the folder takes folders");
            let pods = Cidr::new([10, 244, 77, 0].into(), 24).expect("it is a range");
            let network = NodeNetwork::builder(&two, pods).build().await.expect("a network");
            let second = NativeRuntime::builder(two.join("runtime"), network.plugin())
                .node_ips(network.node_ips())
                .node_netns(network.netns().expect("it has one of its own"));
            let second = second.build().await.expect("a second runtime");
            second.import(&images, ImportOptions::default()).await.expect("images");
            let node = RuntimeNode::new("two", Arc::new(second.clone()), two.join("agent"));
            cluster.run_node(node.addresses(network.node_ips())).expect("a second node");
            (cluster, second, network)
        });
        t.write("kubeconfig", cluster.kubeconfig().expect("it listens"));
        let volumes = folder.path().join("volumes");
        let start = |node: &str, root: &Path, more: &[&str]| {
            let mut flags = vec![
                format!("--volumes={}", volumes.display()),
                format!("--node-id=id-of-{node}"),
                format!("--root-dir={}", root.join("agent").display()),
            ];
            flags.extend(more.iter().map(|flag| (*flag).to_owned()));
            Program::start(t, &format!("driver-{node}"), program, &flags)
        };
        let drivers = vec![
            start("one", &one, &["--controller", "--kubeconfig=kubeconfig"]),
            start("two", &two, &[]),
        ];
        let lab = Self { folder, drivers, cluster, second, network, runtime };
        t.write("class.yaml", CLASS);
        t.ok("kubectl apply -f class.yaml");
        for node in ["one", "two"] {
            t.eventually(&format!("kubectl get csinode {node} -o yaml"), DRIVER);
        }
        t.eventually("kubectl get serviceaccount default -o name", "serviceaccount/default");
        lab
    }

    /// The folders of volumes that there are.
    fn volumes(&self) -> Vec<PathBuf> {
        let volumes = std::fs::read_dir(self.folder.path().join("volumes"));
        volumes.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    }

    /// Where something of the driver is mounted.
    fn mounts(&self) -> Vec<PathBuf> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("there is one");
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let ours = points.filter(|point| Path::new(point).starts_with(self.folder.path()));
        ours.filter(|point| point.contains("csi/")).map(PathBuf::from).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.drivers.clear();
        self.runtime.block_on(async {
            self.cluster.shutdown().await;
            self.second.teardown().await.ok();
            self.network.delete().await.ok();
        });
        // A test that failed may have left volumes mounted: what is in them is not to be removed
        // through them.
        for mount in self.mounts().iter().rev() {
            rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH).ok();
        }
    }
}

const CLASS: &str = "apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: folders}
provisioner: folders.csi.example.com
allowVolumeExpansion: true
---
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: folders.csi.example.com}
spec:
  podInfoOnMount: true
  fsGroupPolicy: File
  volumeLifecycleModes: [Persistent, Ephemeral]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: folders
  resources: {requests: {storage: 1Gi}}
";

/// A Pod on a node that runs a line of shell with a volume at /data.
fn with_volume(node: &str, volume: &str, line: &str) -> String {
    format!(
        "nodeName: {node}\nrestartPolicy: Never\nvolumes: [{{name: v, {volume}}}]\ncontainers:\n\
         - name: c\n  image: busybox\n  imagePullPolicy: IfNotPresent\n  \
         command: [sh, -c, '{line}']\n  volumeMounts: [{{name: v, mountPath: /data}}]"
    )
}

const CLAIM: &str = "persistentVolumeClaim: {claimName: data}";

fn s254_a_network_volume_is_there_on_another_node(t: &Shell) {
    let lab = Lab::new(t);
    apply(t, "writer", &with_volume("one", CLAIM, "echo kept > /data/file; sleep 1d"));
    t.eventually("kubectl get pod writer", "1/1");
    t.eventually("kubectl get volumeattachment", "one");
    let in_use = "kubectl get node one -o 'jsonpath={.status.volumesInUse}'";
    t.eventually(in_use, DRIVER);

    // It is one node's at a time: the reader waits for the writer to end.
    apply(t, "reader", &with_volume("two", CLAIM, "cp /data/file /dev/termination-log"));
    t.eventually("kubectl describe pod reader", "Multi-Attach error for volume");
    t.ok("kubectl delete pod writer --grace-period=1 --wait=false");
    t.until("kubectl get pod reader -o 'jsonpath={.status.phase}'", "the reader ends", |phase| {
        phase == "Succeeded"
    });
    let read = "kubectl get pod reader -o \
                'jsonpath={.status.containerStatuses[0].state.terminated.message}'";
    assert_eq!(t.ok(read).trim(), "kept");
    t.until(in_use, "node one has let go", |out| !out.contains(DRIVER));

    // A Pod that is over holds no volume, so the next one gets it without the first being deleted.
    apply(t, "third", &with_volume("one", CLAIM, "cat /data/file; sleep 1d"));
    t.eventually("kubectl get pod third", "1/1");
    t.eventually("kubectl logs third", "kept");
    t.ok("kubectl delete pod reader third --grace-period=1 --wait=false");
    t.ok("kubectl delete pvc data --wait=false");
    t.until("kubectl get pv -o name", "the volume goes", str::is_empty);
    assert_eq!((lab.mounts(), lab.volumes()), (vec![], vec![]));
}

fn a_volume_of_a_driver_grows_and_goes_with_its_claim(t: &Shell) {
    let lab = Lab::new(t);
    let spec = with_volume("one", CLAIM, "sleep 1d") + "\nsecurityContext: {fsGroup: 4711}";
    apply(t, "user", &spec);
    t.eventually("kubectl get pod user", "1/1");
    t.ok("kubectl exec user -- sh -c 'echo kept > /data/file'");
    assert_eq!(t.ok("kubectl exec user -- stat -c %g /data /data/file"), "4711\n4711\n");

    let larger = r#"{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}"#;
    t.ok(&format!("kubectl patch pvc data -p '{larger}'"));
    t.eventually("kubectl get pvc data -o 'jsonpath={.status.capacity.storage}'", "2Gi");
    t.eventually("kubectl describe pod user", "FileSystemResizeSuccessful");
    let conditions = t.ok("kubectl get pvc data -o 'jsonpath={.status.conditions}'");
    assert!(!conditions.contains("FileSystemResizePending"), "{conditions}");
    let summary = t.ok("kubectl get --raw /api/v1/nodes/one/proxy/stats/summary");
    let summary: serde_json::Value = serde_json::from_str(&summary).expect("it is JSON");
    let volumes = summary["pods"].as_array().into_iter().flatten();
    let volumes = volumes.flat_map(|pod| pod["volume"].as_array().into_iter().flatten());
    let of_claim = volumes.into_iter().find(|volume| volume["pvcRef"]["name"] == "data");
    let of_claim = of_claim.expect("the volume is in the summary");
    assert_eq!(of_claim["capacityBytes"], 2_i64 << 30, "{of_claim}");

    t.ok("kubectl delete pod user --grace-period=1");
    assert_eq!(lab.mounts(), Vec::<PathBuf>::new());
    apply(t, "again", &with_volume("one", CLAIM, "sleep 1d"));
    t.eventually("kubectl get pod again", "1/1");
    assert_eq!(t.ok("kubectl exec again -- cat /data/file").trim(), "kept");

    t.ok("kubectl delete pvc data --wait=false");
    t.eventually("kubectl get pvc data", "Terminating");
    t.ok("kubectl delete pod again --grace-period=1");
    t.until("kubectl get pv -o name", "the volume goes", str::is_empty);
    assert_eq!((lab.mounts(), lab.volumes()), (vec![], vec![]));
}

fn a_volume_of_a_driver_can_be_part_of_a_pod(t: &Shell) {
    let lab = Lab::new(t);
    let inline = format!("csi: {{driver: {DRIVER}}}");
    apply(t, "scratch", &with_volume("two", &inline, "echo mine > /data/file; sleep 1d"));
    t.eventually("kubectl get pod scratch", "1/1");
    t.eventually("kubectl exec scratch -- cat /data/file", "mine");
    let of_pods = || lab.volumes().iter().filter(|at| at.join("ephemeral").exists()).count();
    assert_eq!(of_pods(), 1);
    assert_eq!(t.ok("kubectl get volumeattachment -o name"), "");

    let inline = format!("csi: {{driver: {DRIVER}, readOnly: true}}");
    apply(t, "reader", &with_volume("two", &inline, "sleep 1d"));
    t.eventually("kubectl get pod reader", "1/1");
    let refused = t.fails("kubectl exec reader -- touch /data/file");
    assert!(refused.contains("Read-only file system"), "{refused}");

    t.ok("kubectl delete pod scratch reader --grace-period=1");
    assert_eq!((lab.mounts(), of_pods()), (vec![], 0));
}
