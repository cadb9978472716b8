//! What the flags and the configuration file mean: plain data, checked. A flag wins over the file.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use rk::{
    cri::agent::{CredentialProviderConfig, configuration::KubeletConfiguration},
    k8s_openapi::api::core::v1::Taint,
};

use crate::{
    files::{File, file, pair, read},
    flags::Given,
};

/// What the node is to be.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) node: String,
    pub(crate) kubeconfig: File,
    pub(crate) bootstrap: Option<File>,
    pub(crate) configuration: KubeletConfiguration,
    /// Fields of the file without effect.
    pub(crate) idle: Vec<String>,
    pub(crate) root: PathBuf,
    pub(crate) certificates: PathBuf,
    pub(crate) node_ips: Vec<IpAddr>,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) taints: Vec<Taint>,
    pub(crate) runtime: Runtime,
    /// OCI layouts and archives for the runtime of its own.
    pub(crate) images: Vec<PathBuf>,
    /// How registries are reached; `None` pulls nothing.
    pub(crate) registries: Option<PathBuf>,
    /// Programs that know credentials for images, and where they are.
    pub(crate) credential_providers: Option<(CredentialProviderConfig, PathBuf)>,
    /// Whether a request to terminate ends the Pods too.
    pub(crate) shutdown_node: bool,
}

/// What runs containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// Nothing does: they are simulated.
    Sim,
    /// This program, with namespaces and cgroups.
    Native,
    /// A program behind a CRI v1 socket.
    Endpoint(String),
}

const DEFAULT_ROOT: &str = "/var/lib/kubelet";

impl Options {
    /// What was given, with the defaults of what was not. An error names the flag or the field.
    pub(crate) fn read(given: &Given) -> Result<Self, String> {
        given.check()?;
        let root: PathBuf = given.text("root-dir").unwrap_or(DEFAULT_ROOT).into();
        let root = std::path::absolute(&root)
            .map_err(|error| format!("--root-dir={}: {error}", root.display()))?;
        let loaded = match file(given, "config") {
            None => Default::default(),
            Some(file) => KubeletConfiguration::parse(&read(&file)?)
                .map_err(|error| format!("--config={}: {error}", file.path.display()))?,
        };
        let mut configuration = loaded.configuration;
        overrule(given, &mut configuration)?;
        let certificates = given.text("cert-dir").map_or_else(|| root.join("pki"), Into::into);
        let kubeconfig = file(given, "kubeconfig").ok_or("--kubeconfig is required")?;
        Ok(Self {
            node: node_name(given)?,
            kubeconfig,
            bootstrap: file(given, "bootstrap-kubeconfig"),
            runtime: runtime(given, &configuration)?,
            configuration,
            idle: loaded.idle,
            certificates,
            node_ips: addresses(given)?,
            labels: labels(given)?,
            taints: taints(given)?,
            images: given.list("load-image").iter().map(PathBuf::from).collect(),
            registries: given.text("registry-config").map(PathBuf::from),
            credential_providers: credential_providers(given)?,
            shutdown_node: given.is("shutdown-node-on-termination", false),
            root,
        })
    }
}

/// Flags that are fields of the file too.
fn overrule(given: &Given, configuration: &mut KubeletConfiguration) -> Result<(), String> {
    let address = |flag: &str| crate::files::address(given, flag);
    if let Some(address) = address("address")? {
        configuration.address = address;
    }
    if let Some(port) = given.number("port")? {
        configuration.port = port;
    }
    if let Some(port) = given.number("healthz-port")? {
        configuration.healthz_port = port;
    }
    if let Some(address) = address("healthz-bind-address")? {
        configuration.healthz_bind_address = address;
    }
    if let Some(path) = given.text("pod-manifest-path") {
        configuration.static_pod_path = path.into();
    }
    if !given.list("cluster-dns").is_empty() {
        configuration.cluster_dns = parse_addresses(given, "cluster-dns")?;
    }
    if let Some(domain) = given.text("cluster-domain") {
        domain.clone_into(&mut configuration.cluster_domain);
    }
    if let Some(pods) = given.number("max-pods")? {
        configuration.max_pods = pods;
    }
    if let Some(range) = given.text("pod-cidr") {
        range.clone_into(&mut configuration.pod_cidr);
    }
    if let Some(file) = given.text("resolv-conf") {
        configuration.resolv_conf = Some(file.into());
    }
    if let Some(id) = given.text("provider-id") {
        id.clone_into(&mut configuration.provider_id);
    }
    configuration.seccomp_default = given.is("seccomp-default", configuration.seccomp_default);
    configuration.register_node = given.is("register-node", configuration.register_node);
    configuration.rotate_certificates =
        given.is("rotate-certificates", configuration.rotate_certificates);
    configuration.server_tls_bootstrap =
        given.is("rotate-server-certificates", configuration.server_tls_bootstrap);
    if let Some(file) = given.text("client-ca-file") {
        file.clone_into(&mut configuration.authentication.x509.client_ca_file);
    }
    let authentication = &mut configuration.authentication;
    authentication.anonymous.enabled = given.is("anonymous-auth", authentication.anonymous.enabled);
    authentication.webhook.enabled =
        given.is("authentication-token-webhook", authentication.webhook.enabled);
    match given.text("authorization-mode") {
        None => {}
        Some("Webhook") => configuration.authorization.mode = Default::default(),
        Some("AlwaysAllow") => {
            configuration.authorization.mode =
                rk::cri::agent::configuration::AuthorizationMode::AlwaysAllow;
        }
        Some(other) => return Err(format!("--authorization-mode={other} is unknown")),
    }
    if let Some(pair) = pair(given, "tls-cert-file", "tls-private-key-file")? {
        configuration.tls_cert_file = pair.certificate.path.display().to_string();
        configuration.tls_private_key_file = pair.key.path.display().to_string();
    }
    Ok(())
}

fn credential_providers(
    given: &Given,
) -> Result<Option<(CredentialProviderConfig, PathBuf)>, String> {
    let (config, programs) =
        ("image-credential-provider-config", "image-credential-provider-bin-dir");
    match (file(given, config), given.text(programs)) {
        (None, None) => Ok(None),
        (Some(file), Some(directory)) => {
            let parsed = CredentialProviderConfig::parse(&read(&file)?)
                .map_err(|error| format!("--{config}={}: {error}", file.path.display()))?;
            Ok(Some((parsed, directory.into())))
        }
        _ => Err(format!("--{config} and --{programs} need each other")),
    }
}

fn runtime(given: &Given, configuration: &KubeletConfiguration) -> Result<Runtime, String> {
    let endpoint = given.text("container-runtime-endpoint");
    let endpoint = endpoint.unwrap_or(&configuration.container_runtime_endpoint);
    match given.text("runtime") {
        Some("sim") => Ok(Runtime::Sim),
        Some("native") => Ok(Runtime::Native),
        Some(other) if other.starts_with("unix://") || other.starts_with('/') => {
            Ok(Runtime::Endpoint(other.to_owned()))
        }
        Some(other) => {
            Err(format!("--runtime={other} is neither sim nor native nor a socket's address"))
        }
        None if endpoint.is_empty() => Ok(Runtime::Native),
        None => Ok(Runtime::Endpoint(endpoint.to_owned())),
    }
}

/// The machine's name, unless there is another.
fn node_name(given: &Given) -> Result<String, String> {
    let name = match given.text("hostname-override") {
        Some(name) => name.to_owned(),
        None => std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map_err(|error| format!("--hostname-override is needed: {error}"))?,
    };
    let name = name.trim().to_lowercase();
    match rk::api::meta::names::dns_subdomain(&name, false).first() {
        None => Ok(name),
        Some(wrong) => Err(format!("--hostname-override={name}: {wrong}")),
    }
}

fn parse_addresses(given: &Given, flag: &str) -> Result<Vec<IpAddr>, String> {
    let parse =
        |text: &String| text.parse().map_err(|_| format!("--{flag}={text} is no IP address"));
    given.list(flag).iter().map(parse).collect()
}

fn addresses(given: &Given) -> Result<Vec<IpAddr>, String> {
    let found = parse_addresses(given, "node-ip")?;
    if found.iter().any(IpAddr::is_unspecified) {
        return Err("--node-ip has to be an address of this machine".to_owned());
    }
    Ok(match found.is_empty() {
        true => vec![default_address()],
        false => found,
    })
}

/// The address from which the machine would reach others.
fn default_address() -> IpAddr {
    let route = || {
        // Nothing is sent: the kernel only chooses the route.
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    route().unwrap_or(Ipv4Addr::LOCALHOST.into())
}

fn labels(given: &Given) -> Result<Vec<(String, String)>, String> {
    let pair = |text: &String| {
        let (key, value) =
            text.split_once('=').ok_or_else(|| format!("--node-labels={text} is not key=value"))?;
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        let reserved = ["kubernetes.io", "k8s.io"]
            .iter()
            .any(|suffix| domain == *suffix || domain.ends_with(&format!(".{suffix}")));
        let open = ["kubelet.kubernetes.io", "node.kubernetes.io"]
            .iter()
            .any(|open| domain == *open || domain.ends_with(&format!(".{open}")));
        if reserved && !open && !OWN_LABELS.contains(&key) {
            return Err(format!(
                "--node-labels={text}: unknown 'kubernetes.io' or 'k8s.io' labels specified"
            ));
        }
        Ok((key.to_owned(), value.to_owned()))
    };
    given.list("node-labels").iter().map(pair).collect()
}

/// Labels of Kubernetes' own domain that a node may give itself.
const OWN_LABELS: [&str; 13] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
];

fn taints(given: &Given) -> Result<Vec<Taint>, String> {
    let parse = |text: &String| {
        let wrong = || format!("--register-with-taints={text} is not key=value:effect");
        let (rest, effect) = text.rsplit_once(':').ok_or_else(wrong)?;
        if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
            return Err(format!("--register-with-taints={text}: invalid taint effect: {effect}"));
        }
        let (key, value) = match rest.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (rest, None),
        };
        if key.is_empty() {
            return Err(wrong());
        }
        let (key, effect) = (key.to_owned(), effect.to_owned());
        Ok(Taint { key, value: value.filter(|v| !v.is_empty()), effect, time_added: None })
    };
    given.list("register-with-taints").iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::options_of;

    fn read(line: &str) -> Result<Options, String> {
        options_of(&format!("--kubeconfig=/k --hostname-override=n1 {line}"), Options::read)
    }

    #[track_caller]
    fn refused(line: &str, expected: &str) {
        let error = read(line).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn flags_win_over_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("kubelet.yaml");
        std::fs::write(
            &file,
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n\
             maxPods: 20\nclusterDomain: one.local\ncgroupDriver: systemd\n",
        )
        .unwrap();
        let options = read(&format!("--config={} --max-pods=30", file.display())).unwrap();
        assert_eq!(options.configuration.max_pods, 30);
        assert_eq!(options.configuration.cluster_domain, "one.local");
        assert_eq!(options.idle, ["cgroupDriver"]);
        assert_eq!(options.certificates, PathBuf::from("/var/lib/kubelet/pki"));
        std::fs::write(
            &file,
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxpods: 20\n",
        )
        .unwrap();
        refused(
            &format!("--config={}", file.display()),
            "kubelet.yaml: strict decoding error: unknown field \"maxpods\"",
        );
    }

    #[test]
    fn labels_taints_and_addresses_are_read() {
        let options = read(
            "--node-labels=a=1,node.kubernetes.io/role=x --node-ip=10.0.0.1,fd00::1 \
             --register-with-taints=gpu=yes:NoSchedule,alone:NoExecute --runtime=sim",
        )
        .unwrap();
        assert_eq!(options.labels.len(), 2);
        assert_eq!(options.node_ips.len(), 2);
        assert_eq!(options.runtime, Runtime::Sim);
        assert_eq!(options.taints[0].value.as_deref(), Some("yes"));
        assert_eq!((options.taints[1].key.as_str(), &options.taints[1].value), ("alone", &None));
        assert_eq!(read("").unwrap().runtime, Runtime::Native);
        let socket = "unix:///run/containerd/containerd.sock";
        let options = read(&format!("--container-runtime-endpoint={socket}")).unwrap();
        assert_eq!(options.runtime, Runtime::Endpoint(socket.to_owned()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        refused("--node-labels=a", "--node-labels=a is not key=value");
        refused("--node-labels=kubernetes.io/x=1", "unknown 'kubernetes.io' or 'k8s.io' labels");
        refused("--register-with-taints=a=b:Never", "invalid taint effect: Never");
        refused("--node-ip=0.0.0.0", "--node-ip");
        refused("--runtime=docker", "--runtime=docker");
        refused("--tls-cert-file=/a", "--tls-private-key-file");
        refused("--config=/no/such/file", "--config=/no/such/file");
        let error = options_of("--hostname-override=n1", Options::read).unwrap_err();
        assert_eq!(error, "--kubeconfig is required");
    }
}
