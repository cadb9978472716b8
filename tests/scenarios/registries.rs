//! Images from registries: Debian's docker-registry on loopback, with TLS and login, filled with
//! skopeo as people fill theirs.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rk::{
    Cluster, NativeNode,
    api::server::pki::Pki,
    cri::images::{
        build::busybox_image,
        registry::{HostConfig, Registries, RegistryConfig},
    },
};

use crate::{
    etcd::write_identity,
    harness::{Shell, apply, rows, scenarios},
};

scenarios! {
    Registry:
        s05_images_go_by_way_of_a_private_registry,
        s06_a_mirror_is_asked_first_for_names_without_a_host,
        s105_what_is_on_the_node_needs_no_registry_and_a_moved_tag_is_fetched,
        private_images_need_a_pull_secret,
        a_service_accounts_pull_secrets_are_its_pods,
        an_image_that_is_not_what_it_should_be_is_refused;
}

/// A registry that takes `alice` with the password `secret`, or anybody. Gone with its value.
struct Registry {
    process: Child,
    directory: PathBuf,
    /// Host and port.
    address: String,
    tls: bool,
}

/// `alice:secret` as htpasswd writes it, with bcrypt at its cheapest.
const ALICE: &str = "alice:$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";

impl Registry {
    /// One with TLS and login, which the node is told how to reach.
    fn private(t: &Shell) -> Self {
        let registry = Self::start(t, "private", true);
        let directory = certificates(t).join(&registry.address);
        std::fs::create_dir_all(&directory).expect("it takes folders");
        let ca = registry.directory.join("ca.pem");
        let hosts = format!("server = \"https://{}\"\nca = {ca:?}\n", registry.address);
        std::fs::write(directory.join("hosts.toml"), hosts).expect("it takes files");
        registry
    }

    /// Starts one, and waits until it listens. It chooses its port itself, so that nobody else can
    /// take it meanwhile.
    fn start(t: &Shell, name: &str, private: bool) -> Self {
        let directory = t.directory().join(name);
        std::fs::create_dir_all(&directory).expect("the test's folder takes folders");
        let path = |name: &str| directory.join(name).display().to_string();
        let mut config = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {:?}}}}}\n",
            path("data")
        );
        if private {
            let pki = Pki::load_or_create(&directory).expect("certificates can be made");
            std::fs::write(directory.join("ca.pem"), pki.ca_pem()).expect("it takes files");
            let server = pki.server("registry", &["127.0.0.1".to_owned()]).expect("names are fine");
            write_identity(&directory, "server", &server);
            std::fs::write(directory.join("htpasswd"), ALICE).expect("it takes files");
            config += &format!(
                "http: {{addr: '127.0.0.1:0', secret: x, tls: {{certificate: {:?}, key: {:?}}}}}\n\
                 auth: {{htpasswd: {{realm: test, path: {:?}}}}}\n",
                path("server.pem"),
                path("server-key.pem"),
                path("htpasswd")
            );
        } else {
            config += "http: {addr: '127.0.0.1:0', secret: x}\n";
        }
        let file = directory.join("config.yml");
        std::fs::write(&file, config).expect("it takes files");
        let log = directory.join("log");
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("it takes files"))
            .spawn()
            .expect("it starts");
        let mut registry =
            Self { process, directory: directory.clone(), address: String::new(), tls: private };
        registry.address = registry.listens(&log);
        registry
    }

    fn listens(&mut self, log: &Path) -> String {
        let begin = Instant::now();
        loop {
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let address = text
                .split("listening on ")
                .nth(1)
                .and_then(|rest| rest.split_once(['"', ',']))
                .map(|(address, _)| address.trim().to_owned());
            if let Some(address) = address {
                return address;
            }
            let ended = self.process.try_wait().expect("it is our child");
            assert!(ended.is_none() && begin.elapsed() < Duration::from_secs(60), "{text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// An image's whole name here.
    fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    /// The options of skopeo for this registry, as the source or the destination of a copy.
    fn options(&self, side: &str) -> String {
        if self.tls {
            let directory = self.directory.join("skopeo");
            std::fs::create_dir_all(&directory).expect("it takes folders");
            std::fs::copy(self.directory.join("ca.pem"), directory.join("ca.crt"))
                .expect("it was just written");
            format!("--{side}cert-dir={} --{side}creds=alice:secret", directory.display())
        } else {
            format!("--{side}tls-verify=false")
        }
    }

    /// Builds a small image whose `/version` says `content`, pushes it, and returns its digest.
    fn push(&self, t: &Shell, image: &str, content: &str) -> String {
        let archive = format!("{}.tar", image.replace(['/', ':'], "-"));
        busybox_image("built:v1", Path::new("/bin/busybox"))
            .expect("busybox runs")
            .file("/version", format!("{content}\n"), 0o644)
            .write_archive(&t.directory().join(&archive))
            .expect("the test's folder takes files");
        t.ok(&format!(
            "skopeo --insecure-policy copy -q {} oci-archive:{archive}:v1 docker://{}",
            self.options("dest-"),
            self.name(image)
        ));
        self.digest(t, image)
    }

    fn digest(&self, t: &Shell, image: &str) -> String {
        let digest = t.ok(&format!(
            "skopeo inspect {} --format '{{{{.Digest}}}}' docker://{}",
            self.options(""),
            self.name(image)
        ));
        digest.trim().to_owned()
    }

    fn stop(&mut self) {
        // It may have ended itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where the node looks for how to reach registries.
fn certificates(t: &Shell) -> PathBuf {
    t.directory().parent().expect("all tests have one folder").join("certs.d")
}

/// A container that stays, of this image.
fn stays(image: &str, policy: &str) -> String {
    format!(
        "terminationGracePeriodSeconds: 1\ncontainers:\n\
         - {{name: c, image: '{image}', imagePullPolicy: {policy}, command: [sleep, 1d]}}"
    )
}

fn with_secret(spec: &str, secret: &str) -> String {
    format!("imagePullSecrets: [{{name: {secret}}}]\n{spec}")
}

fn create_secret(t: &Shell, registry: &Registry, name: &str, password: &str) {
    t.ok(&format!(
        "kubectl create secret docker-registry {name} --docker-server={} --docker-username=alice \
         --docker-password={password}",
        registry.address
    ));
}

fn image_id(t: &Shell, pod: &str) -> String {
    t.ok(&format!("kubectl get pod {pod} -o 'jsonpath={{.status.containerStatuses[0].imageID}}'"))
}

fn s05_images_go_by_way_of_a_private_registry(t: &Shell) {
    let registry = Registry::private(t);
    let digest = registry.push(t, "k8s/tool:v1", "one");
    // Tagged anew, it is the same image.
    t.ok(&format!(
        "skopeo --insecure-policy copy -q {} {} docker://{} docker://{}",
        registry.options("src-"),
        registry.options("dest-"),
        registry.name("k8s/tool:v1"),
        registry.name("rancher/tool:stable"),
    ));
    assert_eq!(registry.digest(t, "rancher/tool:stable"), digest);
    // Nobody else may push.
    let stranger = registry.options("dest-").replace("alice:secret", "mallory:guess");
    let refused = t.fails(&format!(
        "skopeo --insecure-policy copy -q {stranger} oci-archive:k8s-tool-v1.tar:v1 docker://{}",
        registry.name("k8s/other:v1"),
    ));
    assert!(refused.contains("unauthorized") || refused.contains("authentication"), "{refused}");

    create_secret(t, &registry, "regcred", "secret");
    let image = registry.name("rancher/tool:stable");
    apply(t, "tool", &with_secret(&stays(&image, "IfNotPresent"), "regcred"));
    t.eventually("kubectl get pod tool", "Running");
    assert_eq!(t.ok("kubectl exec tool -- cat /version"), "one\n");
    assert_eq!(image_id(t, "tool"), format!("{}@{digest}", registry.name("rancher/tool")));
    t.eventually("kubectl get events", &format!("Pulling image \"{image}\""));
    let events = t.eventually("kubectl get events", "Successfully pulled image");
    assert!(events.contains("including waiting). Image size: "), "{events}");
    t.eventually("kubectl get node server3 -o 'jsonpath={.status.images[*].names}'", &image);

    // What was loaded from an archive needs no registry.
    apply(t, "loaded", &stays("busybox:1.28.4", "Never"));
    t.eventually("kubectl get pod loaded", "Running");
    t.ok("kubectl delete pod tool loaded --wait=false");
}

/// A cluster of the test's own, gone with its value.
struct Own {
    runtime: tokio::runtime::Runtime,
    cluster: Option<Cluster>,
}

impl Own {
    /// One with real containers, whose node pulls from `registries`. Its kubeconfig is `own`.
    fn start(t: &Shell, registries: Registries) -> Self {
        let runtime = tokio::runtime::Runtime::new().expect("threads can be made");
        let node = NativeNode::new()
            .root(t.directory().join("node"))
            .name("mirrored")
            .registries(registries);
        let cluster = Cluster::builder().native(node).listen(([127, 0, 0, 1], 0)).start();
        let cluster = runtime.block_on(cluster).expect("the cluster starts");
        t.write("own", &cluster.kubeconfig().expect("it listens"));
        Self { runtime, cluster: Some(cluster) }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(cluster) = self.cluster.take() {
            self.runtime.block_on(cluster.shutdown());
        }
    }
}

fn s06_a_mirror_is_asked_first_for_names_without_a_host(t: &Shell) {
    let mirror = Registry::start(t, "mirror", false);
    let hub = Registry::start(t, "hub", false);
    let of_mirror = mirror.push(t, "library/tool:v1", "from the mirror");
    let of_hub = hub.push(t, "library/tool:v1", "from the hub");
    assert_ne!(of_mirror, of_hub);
    hub.push(t, "team/rare:v1", "from the hub");
    let host = |registry: &Registry| HostConfig::new(format!("http://{}", registry.address));
    let config = RegistryConfig::server(host(&hub)).mirror(host(&mirror));
    let own = Own::start(t, Registries::new().registry("docker.io", config).only_configured());
    let kubectl = "kubectl --kubeconfig=own --namespace=default";
    t.eventually(&format!("{kubectl} get serviceaccount default -o name"), "default");
    let run = |name: &str, image: &str| {
        t.ok(&format!("{kubectl} run {name} --image={image} --command -- sleep 1d"));
        t.eventually(&format!("{kubectl} get pod {name}"), "Running");
        let id = format!(
            "{kubectl} get pod {name} -o 'jsonpath={{.status.containerStatuses[0].imageID}}'"
        );
        (t.ok(&id), t.ok(&format!("{kubectl} exec {name} -- cat /version")))
    };

    let (id, version) = run("tool", "tool:v1");
    assert_eq!(id, format!("docker.io/library/tool@{of_mirror}"));
    assert_eq!(version, "from the mirror\n");
    // What the mirror lacks comes from the default registry.
    let (_, version) = run("rare", "team/rare:v1");
    assert_eq!(version, "from the hub\n");

    // Neither has it.
    t.ok(&format!("{kubectl} run none --image=none:v1"));
    let why = "docker.io/library/none:v1: not found";
    t.eventually(&format!("{kubectl} get pod none"), "ImagePullBackOff");
    t.eventually(&format!("{kubectl} get pod none -o yaml"), why);
    drop(own);
}

fn s105_what_is_on_the_node_needs_no_registry_and_a_moved_tag_is_fetched(t: &Shell) {
    let mut registry = Registry::private(t);
    registry.push(t, "tool:latest", "one");
    create_secret(t, &registry, "regcred", "secret");
    let image = registry.name("tool");
    let pod = |name: &str, policy: &str| {
        apply(t, name, &with_secret(&stays(&image, policy), "regcred"));
    };
    let version = |name: &str| {
        t.eventually(&format!("kubectl get pod {name}"), "Running");
        t.ok(&format!("kubectl exec {name} -- cat /version"))
    };
    pod("first", "Always");
    assert_eq!(version("first"), "one\n");

    registry.push(t, "tool:latest", "two");
    pod("kept", "IfNotPresent");
    assert_eq!(version("kept"), "one\n");
    pod("moved", "Always");
    assert_eq!(version("moved"), "two\n");
    assert_eq!(t.ok("kubectl exec first -- cat /version"), "one\n");

    registry.stop();
    pod("local", "IfNotPresent");
    assert_eq!(version("local"), "two\n");
    t.eventually("kubectl get events", "already present on machine");
    pod("remote", "Always");
    t.eventually("kubectl get pod remote", "ImagePullBackOff");
    let waiting =
        "kubectl get pod remote -o 'jsonpath={.status.containerStatuses[0].state.waiting}'";
    t.until(waiting, "why it waits", |text| {
        text.contains("Back-off pulling image")
            && text.contains("because the registry is unavailable")
    });
    t.eventually("kubectl get events", "Error: RegistryUnavailable");
    t.ok("kubectl delete pod --all --wait=false");
}

fn private_images_need_a_pull_secret(t: &Shell) {
    let registry = Registry::private(t);
    registry.push(t, "team/app:v1", "private");
    let image = registry.name("team/app:v1");

    // Nobody asks, then somebody unknown, then somebody with the wrong password.
    apply(t, "nobody", &stays(&image, "IfNotPresent"));
    apply(t, "unknown", &with_secret(&stays(&image, "IfNotPresent"), "absent"));
    create_secret(t, &registry, "wrong", "guess");
    apply(t, "wrong", &with_secret(&stays(&image, "IfNotPresent"), "wrong"));
    for pod in ["nobody", "unknown", "wrong"] {
        t.eventually(&format!("kubectl get pod {pod}"), "ImagePullBackOff");
        t.eventually(&format!("kubectl get pod {pod} -o yaml"), "pull access denied");
    }
    t.eventually("kubectl get events", "Unable to retrieve some image pull secrets (absent)");

    // With the right one of several it works.
    create_secret(t, &registry, "right", "secret");
    let both = "imagePullSecrets: [{name: wrong}, {name: right}]";
    apply(t, "both", &format!("{both}\n{}", stays(&image, "Always")));
    t.eventually("kubectl get pod both", "Running");
    // What waits goes on when its own becomes right.
    let image = stays(&registry.name("team/app:v1"), "Always");
    apply(t, "late", &with_secret(&image, "late"));
    t.until("kubectl get pod late", "a failed pull", |row| {
        row.contains("ErrImagePull") || row.contains("ImagePullBackOff")
    });
    create_secret(t, &registry, "late", "secret");
    t.eventually("kubectl get pod late", "Running");
    t.ok("kubectl delete pod --all --wait=false");
}

fn a_service_accounts_pull_secrets_are_its_pods(t: &Shell) {
    let registry = Registry::private(t);
    registry.push(t, "app:v1", "private");
    create_secret(t, &registry, "regcred", "secret");
    let patch = r#"{"imagePullSecrets": [{"name": "regcred"}]}"#;
    t.ok(&format!("kubectl patch serviceaccount default -p '{patch}'"));
    apply(t, "app", &stays(&registry.name("app:v1"), "Always"));
    t.eventually("kubectl get pod app", "Running");
    let secrets = t.ok("kubectl get pod app -o 'jsonpath={.spec.imagePullSecrets[*].name}'");
    assert_eq!(secrets, "regcred");
    t.ok("kubectl delete pod app --wait=false");
}

fn an_image_that_is_not_what_it_should_be_is_refused(t: &Shell) {
    let registry = Registry::start(t, "careless", false);
    let directory = certificates(t).join(&registry.address);
    std::fs::create_dir_all(&directory).expect("it takes folders");
    let hosts = format!("server = \"http://{}\"\n", registry.address);
    std::fs::write(directory.join("hosts.toml"), hosts).expect("it takes files");
    registry.push(t, "app:good", "good");
    registry.push(t, "app:bad", "bad");
    // Both have the same size, and a registry gives what is on its disk.
    let largest = "find careless/data -name data -size +100k -printf '%s %T@ %p\\n' | sort -k2n";
    let blobs = t.ok(largest);
    let blobs = rows(&blobs);
    let bad = blobs.last().expect("it has layers")[2];
    t.ok(&format!("printf wrong | dd of={bad} bs=1 seek=50000 conv=notrunc status=none"));

    apply(t, "bad", &stays(&registry.name("app:bad"), "IfNotPresent"));
    t.eventually("kubectl get pod bad", "ImagePullBackOff");
    t.eventually("kubectl get events", "its content is damaged or was replaced");
    let images = t.ok("kubectl get node server3 -o 'jsonpath={.status.images[*].names}'");
    assert!(!images.contains(&registry.name("app:bad")), "{images}");
    apply(t, "good", &stays(&registry.name("app:good"), "IfNotPresent"));
    t.eventually("kubectl get pod good", "Running");
    t.ok("kubectl delete pod --all --wait=false");
}
