//! What the containers of a pod share, and what they do not.

use std::{fs, time::Duration};

use rk_cri::{
    Runtime,
    runtime::{ContainerConfig, DnsConfig, Mount, PortMapping, SandboxConfig},
};
use rk_net::netns;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::lab::{Lab, PATIENCE, eventually, shell};

pub async fn containers_of_a_pod_share_network_ipc_and_host_name_only(lab: &mut Lab) {
    let sandbox = lab.sandbox("pod").await;
    let a = lab.start(&sandbox, shell("a", "sleep 600")).await;
    let b = lab.start(&sandbox, shell("b", "sleep 600")).await;
    let namespace =
        async |id: &str, kind: &str| lab.says(id, &format!("readlink /proc/1/ns/{kind}")).await;
    for kind in ["net", "ipc", "uts"] {
        assert_eq!(namespace(&a, kind).await, namespace(&b, kind).await, "{kind}");
        let own = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_ne!(namespace(&a, kind).await, own.to_str().unwrap(), "{kind}");
    }
    for kind in ["pid", "mnt"] {
        assert_ne!(namespace(&a, kind).await, namespace(&b, kind).await, "{kind}");
    }
    assert_eq!(lab.says(&b, "hostname").await, "pod");
    let processes = lab.says(&a, "ps -o args").await;
    assert_eq!(processes.matches("sleep 600").count(), 1, "{processes}");
    lab.says(&a, "touch /only-here").await;
    assert_ne!(lab.exec(&b, "ls /only-here").await.exit_code, 0);

    // They talk over the loopback interface, and only one can have a port.
    lab.says(&a, "mkdir /www; echo hello > /www/index.html; httpd -p 80 -h /www").await;
    assert_eq!(lab.says(&b, "wget -q -O - http://127.0.0.1:80/").await, "hello");
    assert_ne!(lab.exec(&b, "httpd -f -p 80 -h /").await.exit_code, 0);
    // A container that is started again has the same address.
    let address = lab.says(&a, "hostname -i || ip -4 addr show eth0").await;
    lab.runtime().stop_container(&a, Duration::ZERO).await.unwrap();
    let again =
        lab.start(&sandbox, ContainerConfig { attempt: 1, ..shell("a", "sleep 600") }).await;
    assert_eq!(lab.says(&again, "hostname -i || ip -4 addr show eth0").await, address);
}

pub async fn a_shared_process_namespace_is_shared(lab: &mut Lab) {
    let config = SandboxConfig { share_process_namespace: true, ..lab.sandbox_config("pod") };
    let sandbox = lab.runtime().run_pod_sandbox(config).await.unwrap();
    let a = lab.start(&sandbox, shell("a", "sleep 601")).await;
    let b = lab.start(&sandbox, shell("b", "sleep 602 & sleep 603")).await;
    let processes = lab.says(&a, "ps -o pid,args").await;
    for one in ["sleep 601", "sleep 602", "sleep 603"] {
        assert!(processes.contains(one), "{processes}");
    }
    // Without a pid namespace of its own, a container's end is still the end of all its processes.
    lab.runtime().stop_container(&b, Duration::ZERO).await.unwrap();
    let processes = lab.says(&a, "ps -o args").await;
    assert!(!processes.contains("sleep 602") && processes.contains("sleep 601"), "{processes}");
}

pub async fn a_pod_on_the_host_network_has_the_nodes(lab: &mut Lab) {
    let config = SandboxConfig { host_network: true, ..lab.sandbox_config("node") };
    let sandbox = lab.runtime().run_pod_sandbox(config).await.unwrap();
    let status = &lab.runtime().list_pod_sandboxes().await.unwrap()[0];
    assert_eq!(status.ips, lab.network.node_ips());
    let id = lab.start(&sandbox, shell("main", "sleep 600")).await;
    let links = lab.says(&id, "ip addr").await;
    assert!(links.contains("rk0") && links.contains("10.244.9.1/24"), "{links}");
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    assert_ne!(lab.says(&id, "readlink /proc/1/ns/net").await, own.to_str().unwrap());
}

pub async fn a_host_port_answers_inside_the_nodes_namespace(lab: &mut Lab) {
    let port =
        PortMapping { host_port: 8080, container_port: 80, protocol: "TCP".into(), host_ip: None };
    let config = SandboxConfig { port_mappings: vec![port], ..lab.sandbox_config("pod") };
    let sandbox = lab.runtime().run_pod_sandbox(config).await.unwrap();
    let script = "mkdir /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www";
    lab.start(&sandbox, shell("main", script)).await;
    let node = lab.network.netns().unwrap().to_owned();
    let ask = async || {
        let address = "127.0.0.1:8080".parse().unwrap();
        let mut stream = netns::connect(Some(node.clone()), address, PATIENCE).await.ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.contains("hello").then_some(())
    };
    eventually(ask).await;
    // The machine's own network has no such port.
    assert!(std::net::TcpStream::connect("127.0.0.1:8080").is_err());
    lab.runtime().stop_pod_sandbox(&sandbox).await.unwrap();
    assert!(ask().await.is_none());
}

pub async fn mounts_resolv_conf_and_shared_memory_are_there(lab: &mut Lab) {
    let host = lab.directory.path().join("volume");
    fs::create_dir_all(&host).unwrap();
    fs::write(host.join("from-host"), "hi").unwrap();
    fs::write(lab.directory.path().join("hosts"), "127.0.0.1 localhost\n").unwrap();
    let mount = |host_path: std::path::PathBuf, path: &str, read_only| Mount {
        host_path,
        container_path: path.into(),
        read_only,
        ..Mount::default()
    };
    let config = SandboxConfig {
        dns: DnsConfig {
            servers: vec!["10.96.0.10".into()],
            searches: vec!["default.svc.cluster.local".into(), "cluster.local".into()],
            options: vec!["ndots:5".into()],
        },
        ..lab.sandbox_config("pod")
    };
    let sandbox = lab.runtime().run_pod_sandbox(config).await.unwrap();
    let with_mounts = |name: &str| ContainerConfig {
        mounts: vec![
            mount(host.clone(), "/deep/volume", false),
            mount(host.clone(), "/read-only", true),
            mount(lab.directory.path().join("hosts"), "/etc/hosts", false),
        ],
        ..shell(name, "sleep 600")
    };
    let a = lab.start(&sandbox, with_mounts("a")).await;
    let b = lab.start(&sandbox, with_mounts("b")).await;
    assert_eq!(
        lab.says(&a, "cat /etc/resolv.conf").await,
        "search default.svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5"
    );
    assert_eq!(lab.says(&a, "cat /etc/hostname /etc/hosts").await, "pod\n127.0.0.1 localhost");
    lab.says(&a, "echo there > /deep/volume/from-a; echo shared > /dev/shm/x").await;
    assert_eq!(lab.says(&b, "cat /read-only/from-a /dev/shm/x").await, "there\nshared");
    assert_ne!(lab.exec(&b, "touch /read-only/no").await.exit_code, 0);
    assert_eq!(fs::read_to_string(host.join("from-a")).unwrap(), "there\n");
    assert!(lab.mounts().len() <= 1, "only the node's namespace is mounted: {:?}", lab.mounts());

    let missing = ContainerConfig {
        mounts: vec![mount("/no/such/path".into(), "/x", false)],
        ..shell("c", "true")
    };
    let error = lab.runtime().create_container(&sandbox, missing).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/path does not exist"), "{error}");
}

/// Something mounted in a directory of the test, until it is dropped.
struct Below(std::path::PathBuf);

impl Below {
    fn mount(at: std::path::PathBuf) -> Self {
        use rustix::mount::{MountFlags, mount};
        fs::create_dir_all(&at).unwrap();
        mount("tmpfs", &at, "tmpfs", MountFlags::empty(), Some(c"size=64k")).unwrap();
        Self(at)
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

pub async fn a_recursive_read_only_mount_refuses_writes_to_what_is_mounted_below(lab: &mut Lab) {
    let volume = lab.directory.path().join("volume");
    let _below = Below::mount(volume.join("below"));
    let sandbox = lab.sandbox("pod").await;
    let mount = |path: &str, recursive_read_only| Mount {
        host_path: volume.clone(),
        container_path: path.into(),
        read_only: true,
        recursive_read_only,
        propagation: None,
    };
    let config = ContainerConfig {
        mounts: vec![mount("/top", false), mount("/all", true)],
        ..shell("main", "sleep 600")
    };
    let id = lab.start(&sandbox, config).await;
    for refused in ["/top/file", "/all/file", "/all/below/file"] {
        assert_ne!(lab.exec(&id, &format!("touch {refused}")).await.exit_code, 0, "{refused}");
    }
    lab.says(&id, "echo written > /top/below/file").await;
    assert_eq!(lab.says(&id, "cat /all/below/file").await, "written");
    // Before what is below goes.
    lab.runtime().remove_pod_sandbox(&sandbox).await.unwrap();
}

pub async fn sysctls_are_set_inside_only(lab: &mut Lab) {
    let set = |name: &str, value: &str| SandboxConfig {
        sysctls: [(name.to_owned(), value.to_owned())].into(),
        ..lab.sandbox_config("pod")
    };
    let config = set("net.ipv4.ip_unprivileged_port_start", "77");
    let sandbox = lab.runtime().run_pod_sandbox(config).await.unwrap();
    let id = lab.start(&sandbox, shell("main", "sleep 600")).await;
    let path = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    assert_eq!(lab.says(&id, &format!("cat {path}")).await, "77");
    assert_ne!(fs::read_to_string(path).unwrap().trim(), "77");

    for bad in ["kernel.panic", "net.ipv4.nosuch", "net/../kernel/panic"] {
        let error = lab.runtime().run_pod_sandbox(set(bad, "1")).await.unwrap_err();
        let text = format!("{error:?}");
        assert!(text.contains(bad), "{text}");
    }
    assert_eq!(lab.runtime().list_pod_sandboxes().await.unwrap().len(), 1);
}
