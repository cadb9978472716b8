//! Mounts and devices of containers, and what hostile Pods do with them.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use rk_cri::{
    Runtime, RuntimeError,
    runtime::{ContainerConfig, Device, Mount, Security},
};
use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
};
use serde_json::{Value, json};

use crate::{
    agent::Cluster,
    lab::{Lab, eventually, shell},
};

/// Memory mounted in a directory of the test, until it is dropped, with everything below it.
struct Mounted(PathBuf);

impl Mounted {
    fn shared(at: PathBuf) -> Self {
        let made = Self::private(at);
        mount_change(&made.0, MountPropagationFlags::SHARED).unwrap();
        made
    }

    fn private(at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        mount("tmpfs", &at, "tmpfs", MountFlags::empty(), Some(c"size=8m")).unwrap();
        mount_change(&at, MountPropagationFlags::PRIVATE).unwrap();
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

fn volume(host_path: &Path, container_path: &str, propagation: Option<&str>) -> Mount {
    Mount {
        host_path: host_path.to_owned(),
        container_path: container_path.into(),
        propagation: propagation.map(str::to_owned),
        ..Mount::default()
    }
}

fn privileged(name: &str, mounts: Vec<Mount>) -> ContainerConfig {
    ContainerConfig {
        mounts,
        security: Security { privileged: true, ..Security::default() },
        ..shell(name, "sleep 600")
    }
}

pub async fn mounts_are_seen_on_the_other_side_as_propagation_says(lab: &mut Lab) {
    let host = lab.directory.path().join("volume");
    let _shared = Mounted::shared(host.clone());
    let sandbox = lab.sandbox("pod").await;
    let mounts = vec![
        volume(&host, "/none", None),
        volume(&host, "/in", Some("HostToContainer")),
        volume(&host, "/both", Some("Bidirectional")),
    ];
    let id = lab.start(&sandbox, privileged("main", mounts)).await;

    let late = host.join("late");
    fs::create_dir(&late).unwrap();
    mount("tmpfs", &late, "tmpfs", MountFlags::empty(), Some(c"size=64k")).unwrap();
    fs::write(late.join("file"), "of the host").unwrap();
    for seen in ["/in", "/both"] {
        assert_eq!(lab.says(&id, &format!("cat {seen}/late/file")).await, "of the host");
    }
    lab.says(&id, "test ! -e /none/late/file").await;

    let own = |at: &str| format!("mkdir -p {at} && mount -t tmpfs x {at} && echo mine > {at}/file");
    lab.says(&id, &own("/both/shown")).await;
    lab.says(&id, &own("/in/hidden")).await;
    assert_eq!(fs::read_to_string(host.join("shown/file")).unwrap(), "mine\n");
    assert!(!host.join("hidden/file").exists());
    lab.says(&id, "cat /in/shown/file && test ! -e /none/shown/file").await;

    // What ends with the container are its mounts, not the host's.
    lab.runtime().remove_pod_sandbox(&sandbox).await.unwrap();
    assert_eq!(fs::read_to_string(late.join("file")).unwrap(), "of the host");
    assert_eq!(fs::read_to_string(host.join("shown/file")).unwrap(), "mine\n");
}

pub async fn propagation_that_the_host_does_not_allow_is_refused(lab: &mut Lab) {
    let host = lab.directory.path().join("volume");
    let _private = Mounted::private(host.clone());
    let sandbox = lab.sandbox("pod").await;
    for (propagation, what) in [
        ("HostToContainer", "not a shared or slave mount"),
        ("Bidirectional", "not a shared mount"),
    ] {
        let config = privileged("main", vec![volume(&host, "/v", Some(propagation))]);
        let refused = lab.runtime().create_container(&sandbox, config).await;
        let Err(RuntimeError::Invalid(why)) = refused else { panic!("{refused:?}") };
        assert!(why.ends_with(what), "{why}");
    }
    lab.runtime().remove_pod_sandbox(&sandbox).await.unwrap();
}

/// A block device that nothing drives: whoever may open it is told that there is none (ENXIO), and
/// whoever may not, that it is not permitted. The number is reserved for examples.
const NUMBER: (u32, u32) = (42, 7);

fn device(at: &Path) {
    let mode = Mode::from_raw_mode(0o660);
    mknodat(CWD, at, FileType::BlockDevice, mode, makedev(NUMBER.0, NUMBER.1)).unwrap();
    fs::set_permissions(at, fs::Permissions::from_mode(0o660)).unwrap();
}

/// A script that says how an attempt to open a device ended.
fn open(path: &str, how: &str) -> String {
    format!("(: {how} {path}) 2>&1 | grep -o 'No such device\\|not permitted'")
}

pub async fn a_container_may_use_its_devices_as_it_was_told_and_no_others(lab: &mut Lab) {
    let node = lab.directory.path().join("disk");
    device(&node);
    let sandbox = lab.sandbox("pod").await;
    let given = |path: &str, read_only| Device {
        host_path: node.clone(),
        container_path: path.into(),
        read_only,
    };
    let config = ContainerConfig {
        devices: vec![given("/dev/disk", false), given("/mnt/deep/disk", false)],
        ..shell("writer", "sleep 600")
    };
    let writer = lab.start(&sandbox, config).await;
    for path in ["/dev/disk", "/mnt/deep/disk"] {
        assert_eq!(
            lab.says(&writer, &format!("stat -c '%F %t:%T %a' {path}")).await,
            "block special file 2a:7 660"
        );
        for how in ["<", ">"] {
            assert_eq!(lab.says(&writer, &open(path, how)).await, "No such device", "{path} {how}");
        }
    }
    let config =
        ContainerConfig { devices: vec![given("/dev/disk", true)], ..shell("reader", "sleep 600") };
    let reader = lab.start(&sandbox, config).await;
    assert_eq!(lab.says(&reader, &open("/dev/disk", "<")).await, "No such device");
    assert_eq!(lab.says(&reader, &open("/dev/disk", ">")).await, "not permitted");

    let other = lab.start(&sandbox, shell("other", "sleep 600")).await;
    lab.says(&other, "mknod /disk b 42 7").await;
    assert_eq!(lab.says(&other, &open("/disk", "<")).await, "not permitted");

    let mut missing = shell("missing", "true");
    missing.devices = vec![Device { host_path: "/etc/passwd".into(), ..given("/dev/x", false) }];
    let error = lab.runtime().create_container(&sandbox, missing).await.unwrap_err().to_string();
    assert!(error.contains("neither a block nor a character device"), "{error}");
    lab.runtime().remove_pod_sandbox(&sandbox).await.unwrap();
}

/// A volume that is a block device of the node, bound to the claim `disk`.
async fn block_volume(cluster: &Cluster, path: &Path) {
    let claims = Api::<PersistentVolumeClaim>::default_namespaced(cluster.client.clone());
    let claim = json!({"metadata": {"name": "disk"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": "", "volumeName": "disk", "volumeMode": "Block",
        "resources": {"requests": {"storage": "1Mi"}}}});
    let claim = serde_json::from_value(claim).unwrap();
    let claim = claims.create(&PostParams::default(), &claim).await.unwrap();
    let node = json!({"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}]}]});
    let volume = json!({"metadata": {"name": "disk"}, "spec": {
        "capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"], "volumeMode": "Block",
        "local": {"path": path}, "nodeAffinity": {"required": node},
        "claimRef": {"kind": "PersistentVolumeClaim", "namespace": "default", "name": "disk",
            "uid": claim.metadata.uid}}});
    let volumes = Api::<PersistentVolume>::all(cluster.client.clone());
    let volume = serde_json::from_value(volume).unwrap();
    volumes.create(&PostParams::default(), &volume).await.unwrap();
    let bound = json!({"status": {"phase": "Bound"}});
    let patch = Patch::Merge(&bound);
    claims.patch_status("disk", &PatchParams::default(), &patch).await.unwrap();
}

async fn create(cluster: &Cluster, name: &str, spec: Value) {
    let mut pod = json!({"metadata": {"name": name}, "spec": spec});
    for (key, value) in [
        ("nodeName", json!("n1")),
        ("terminationGracePeriodSeconds", json!(1)),
        ("restartPolicy", json!("Never")),
    ] {
        pod["spec"][key] = value;
    }
    let pod: Pod = serde_json::from_value(pod).unwrap();
    cluster.pods().create(&PostParams::default(), &pod).await.unwrap();
}

fn container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "busybox", "imagePullPolicy": "Never",
        "command": ["sh", "-c", script]})
}

pub async fn a_block_volume_is_a_device_of_its_container(lab: &mut Lab) {
    let cluster = Cluster::new(lab).await;
    let (node, link) = (lab.directory.path().join("disk"), lab.directory.path().join("by-id"));
    device(&node);
    symlink(&node, &link).unwrap();
    block_volume(&cluster, &link).await;
    let claim = |read_only: bool| json!([{"name": "v", "persistentVolumeClaim": {"claimName": "disk", "readOnly": read_only}}]);
    let with = |script: &str| {
        let mut user = container("main", script);
        user["volumeDevices"] = json!([{"name": "v", "devicePath": "/dev/xvda"}]);
        user
    };
    let script = format!("{} > /dev/termination-log", open("/dev/xvda", ">"));
    for (name, read_only, said) in
        [("writer", false, "No such device\n"), ("reader", true, "not permitted\n")]
    {
        create(&cluster, name, json!({"volumes": claim(read_only), "containers": [with(&script)]}))
            .await;
        let status = cluster.until(name, |status| status["phase"] == "Succeeded").await;
        let ended = &status["containerStatuses"][0]["state"]["terminated"];
        assert_eq!(ended["message"], said, "{name}");
        cluster.delete(name).await;
    }

    let mut wrong = container("main", "true");
    wrong["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    create(&cluster, "wrong", json!({"volumes": claim(false), "containers": [wrong]})).await;
    let why = cluster.event("wrong", "FailedMount").await;
    assert!(
        why.contains("volume v has volumeMode Block, but is specified in volumeMounts"),
        "{why}"
    );
    cluster.delete("wrong").await;
    assert!(node.exists() && link.exists());
    cluster.end(lab).await;
}

/// All that is at and below a path, with owners and modes.
fn snapshot(at: &Path) -> Vec<String> {
    let meta = fs::symlink_metadata(at).unwrap();
    let facts = (meta.mode(), meta.uid(), meta.gid(), meta.ino());
    let text = if meta.is_file() { fs::read_to_string(at).unwrap() } else { String::new() };
    let mut all = vec![format!("{} {facts:?} {text:?}", at.display())];
    if meta.is_dir() {
        let mut below: Vec<PathBuf> =
            fs::read_dir(at).unwrap().map(|e| e.unwrap().path()).collect();
        below.sort();
        all.extend(below.iter().flat_map(|path| snapshot(path)));
    }
    all
}

/// What a Pod plants in the volume `$1`; `CANARY` is a folder of the host.
const PLANT: &str = r#"set -e; cd $1
ln -s CANARY absolute; ln -s ../../../../../../../../../../CANARY relative
ln -s CANARY/new dangling; ln -s /etc magic; ln -s /proc/1/root proc; mkfifo fifo
mkdir -p inside/deep 'with
line'; ln -s inside inner; echo x > file; ln CANARY-hard hard 2>/dev/null || true
ln -s .. up; mkdir -p '..data_tmp' '...'; chmod 000 file
mkdir bound; mount --bind /canary bound; mount --bind /canary 'with
line'"#;

pub async fn nothing_that_a_pod_plants_leads_the_agent_out_of_its_volumes(lab: &mut Lab) {
    let canary = lab.directory.path().join("canary");
    fs::create_dir_all(canary.join("sub")).unwrap();
    fs::write(canary.join("precious"), "of the host").unwrap();
    fs::write(canary.join("sub/too"), "of the host").unwrap();
    let before = snapshot(&canary);
    // So that what a container mounts in its volumes is mounted for the agent, too.
    let _pods = Mounted::shared(lab.directory.path().join("agent"));
    let cluster = Cluster::new(lab).await;
    let maps = Api::<ConfigMap>::default_namespaced(cluster.client.clone());
    let secrets = Api::<Secret>::default_namespaced(cluster.client.clone());
    let map = |text: &str| json!({"metadata": {"name": "settings"}, "data": {"a": text}});
    let first = serde_json::from_value(map("1")).unwrap();
    maps.create(&PostParams::default(), &first).await.unwrap();
    let secret = json!({"metadata": {"name": "settings"}, "stringData": {"a": "1"}});
    let secret = serde_json::from_value(secret).unwrap();
    secrets.create(&PostParams::default(), &secret).await.unwrap();

    let written = ["map", "secret", "down", "projected"];
    let label = json!({"path": "a", "fieldRef": {"fieldPath": "metadata.name"}});
    let volumes = json!([
        {"name": "disk", "emptyDir": {"sizeLimit": "4Mi"}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "canary", "hostPath": {"path": canary}},
        {"name": "agent", "hostPath": {"path": lab.directory.path().join("agent/pods")}},
        {"name": "map", "configMap": {"name": "settings"}},
        {"name": "secret", "secret": {"secretName": "settings"}},
        {"name": "down", "downwardAPI": {"items": [label]}},
        {"name": "projected", "projected": {"sources": [{"configMap": {"name": "settings"}}]}},
    ]);
    let plant = PLANT.replace("CANARY", canary.to_str().unwrap());
    let mut planter = container("plant", "");
    planter["command"] = json!([
        "sh",
        "-c",
        format!("plant() {{ {plant}\n}}; (plant /disk) && (plant /memory)").replace("$1", "\"$1\"")
    ]);
    planter["securityContext"] = json!({"privileged": true});
    planter["volumeMounts"] = json!([
        {"name": "disk", "mountPath": "/disk", "mountPropagation": "Bidirectional"},
        {"name": "memory", "mountPath": "/memory", "mountPropagation": "Bidirectional"},
        {"name": "canary", "mountPath": "/canary"}]);

    // Each wants a part of a volume that is not in it, or, the last, one that is.
    let outside = ["absolute", "relative", "dangling", "magic", "proc", "up", "inner/../../x"];
    let mut containers = vec![];
    for (number, volume, path) in ["disk", "memory"].iter().enumerate().flat_map(|(at, volume)| {
        outside.iter().enumerate().map(move |(n, path)| (at * 10 + n, *volume, *path))
    }) {
        let mut user = container(&format!("c{number}"), "echo reached > /v/reached; sleep 600");
        // What the API refuses by itself comes from a variable.
        user["env"] = json!([{"name": "WAY", "value": path}]);
        user["volumeMounts"] =
            json!([{"name": volume, "mountPath": "/v", "subPathExpr": "$(WAY)"}]);
        containers.push(user);
    }
    let mut right = container("right", "echo kept > /v/kept; sleep 600");
    right["volumeMounts"] = json!([{"name": "disk", "mountPath": "/v", "subPath": "inner"}]);
    for name in written {
        let at = json!({"name": name, "mountPath": format!("/{name}")});
        right["volumeMounts"].as_array_mut().unwrap().push(at);
    }
    containers.push(right);
    create(
        &cluster,
        "hostile",
        json!({"volumes": volumes, "securityContext": {"fsGroup": 4711},
            "initContainers": [planter], "containers": containers}),
    )
    .await;
    let settled = |status: &Value| {
        let all = status["containerStatuses"].as_array().cloned().unwrap_or_default();
        let reason = |one: &Value| one["state"]["waiting"]["reason"].clone();
        all.len() == 15
            && all.iter().all(|one| match one["name"] == "right" {
                true => one["state"]["running"].is_object(),
                false => reason(one) == "CreateContainerConfigError",
            })
    };
    cluster.until("hostile", settled).await;
    assert_eq!(snapshot(&canary), before);

    // What the agent writes itself: planted there by somebody who can write to all of the node.
    let pod = cluster.pods().get("hostile").await.unwrap();
    let uid = pod.metadata.uid.unwrap();
    let of_pod = lab.directory.path().join("agent/pods").join(uid).join("volumes");
    let contents = |plugin: &str, name: &str| of_pod.join(plugin).join(name);
    for (plugin, name) in
        [("kubernetes.io~configmap", "map"), ("kubernetes.io~projected", "projected")]
    {
        let at = contents(plugin, name);
        fs::remove_file(at.join("..data")).unwrap();
        symlink(&canary, at.join("..data")).unwrap();
        symlink(&canary, at.join("..data_tmp")).unwrap();
        symlink(&canary, at.join("..2026_stale")).unwrap();
        fs::remove_file(at.join("a")).unwrap();
        symlink(canary.join("precious"), at.join("a")).unwrap();
    }
    let second = map("2");
    maps.patch("settings", &PatchParams::default(), &Patch::Merge(&second)).await.unwrap();
    for (plugin, name) in
        [("kubernetes.io~configmap", "map"), ("kubernetes.io~projected", "projected")]
    {
        let at = contents(plugin, name).join("..data/a");
        eventually(|| async { (fs::read_to_string(&at).ok()? == "2").then_some(()) }).await;
    }
    assert_eq!(snapshot(&canary), before);

    cluster.delete("hostile").await;
    eventually(|| async { (!of_pod.parent().unwrap().exists()).then_some(()) }).await;
    assert_eq!(snapshot(&canary), before);
    cluster.end(lab).await;
}
