//! What the flags mean: plain data, checked, with no file read yet.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use rk::{
    api::{client::LeaderElectionConfig, server::TlsVersion},
    controllers::AutoscalerOptions,
};

use crate::{
    files::{File, Pair, address, file, pair},
    flags::Given,
    throttle::Limit,
};

/// What the manager is to be.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) kubeconfig: Option<File>,
    pub(crate) master: Option<String>,
    pub(crate) limit: Option<Limit>,
    /// As the builder of a manager takes it.
    pub(crate) controllers: String,
    /// How many workers which controller has.
    pub(crate) workers: Vec<(&'static str, usize)>,
    /// `None` to work at once.
    pub(crate) election: Option<LeaderElectionConfig>,
    pub(crate) own_accounts: bool,
    pub(crate) token_key: Option<File>,
    pub(crate) root_ca: Option<File>,
    pub(crate) signing: Signing,
    /// The range, and the size of each node's.
    pub(crate) node_ranges: Option<(String, u8)>,
    pub(crate) legacy_tokens: Option<Duration>,
    pub(crate) node_monitor_period: Option<Duration>,
    pub(crate) node_monitor_grace_period: Option<Duration>,
    pub(crate) ended_pods: Option<usize>,
    pub(crate) autoscaler: AutoscalerOptions,
    /// `None` to serve nothing.
    pub(crate) serving: Option<Serving>,
}

/// Who signs certificates.
#[derive(Debug)]
pub(crate) struct Signing {
    /// Authorities by the signer; an empty name is for all.
    pub(crate) authorities: Vec<(&'static str, Pair)>,
    pub(crate) duration: Option<Duration>,
}

/// Health and metrics.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) bind: IpAddr,
    pub(crate) port: u16,
    pub(crate) tls: Option<Pair>,
    pub(crate) tls_version: TlsVersion,
    pub(crate) client_ca: Option<File>,
    /// The kubeconfig with which tokens are reviewed.
    pub(crate) authentication: Option<File>,
    pub(crate) ask_for_client_ca: bool,
    /// The kubeconfig with which requests are reviewed.
    pub(crate) authorization: Option<File>,
    /// What everybody may read; `*` at the end stands for anything.
    pub(crate) open_paths: Vec<String>,
}

/// The flags that say how many objects a controller works on, and whose.
const WORKERS: &[(&str, &str)] = &[
    ("concurrent-deployment-syncs", "deployment-controller"),
    ("concurrent-replicaset-syncs", "replicaset-controller"),
    ("concurrent-rc-syncs", "replicationcontroller-controller"),
    ("concurrent-statefulset-syncs", "statefulset-controller"),
    ("concurrent-daemonset-syncs", "daemonset-controller"),
    ("concurrent-job-syncs", "job-controller"),
    ("concurrent-cron-job-syncs", "cronjob-controller"),
    ("concurrent-ttl-after-finished-syncs", "ttl-after-finished-controller"),
    ("concurrent-horizontal-pod-autoscaler-syncs", "horizontal-pod-autoscaler-controller"),
    ("concurrent-endpoint-syncs", "endpoints-controller"),
    ("concurrent-service-endpoint-syncs", "endpointslice-controller"),
    ("mirroring-concurrent-service-endpoint-syncs", "endpointslice-mirroring-controller"),
    ("concurrent-ephemeralvolume-syncs", "ephemeral-volume-controller"),
    ("concurrent-namespace-syncs", "namespace-controller"),
    ("concurrent-resource-quota-syncs", "resourcequota-controller"),
    ("concurrent-serviceaccount-token-syncs", "serviceaccount-token-controller"),
];

/// The signers that may have authorities of their own, as flags and requests name them.
const SIGNERS: &[(&str, &str, &str)] = &[
    (
        "kubernetes.io/kubelet-serving",
        "cluster-signing-kubelet-serving-cert-file",
        "cluster-signing-kubelet-serving-key-file",
    ),
    (
        "kubernetes.io/kube-apiserver-client-kubelet",
        "cluster-signing-kubelet-client-cert-file",
        "cluster-signing-kubelet-client-key-file",
    ),
    (
        "kubernetes.io/kube-apiserver-client",
        "cluster-signing-kube-apiserver-client-cert-file",
        "cluster-signing-kube-apiserver-client-key-file",
    ),
    (
        "kubernetes.io/legacy-unknown",
        "cluster-signing-legacy-unknown-cert-file",
        "cluster-signing-legacy-unknown-key-file",
    ),
];

impl Options {
    /// What was given, with the defaults of what was not. An error names the flag.
    pub(crate) fn read(given: &Given) -> Result<Self, String> {
        given.check()?;
        check_fixed(given)?;
        let mut workers = Vec::new();
        for (flag, controller) in WORKERS {
            match given.number::<usize>(flag)? {
                Some(0) => return Err(format!("--{flag} must be greater than 0")),
                Some(number) => workers.push((*controller, number)),
                None => {}
            }
        }
        Ok(Self {
            kubeconfig: file(given, "kubeconfig"),
            master: given.text("master").map(ToOwned::to_owned),
            limit: limit(given)?,
            controllers: controllers(given),
            workers,
            election: election(given)?,
            own_accounts: given.is("use-service-account-credentials", false),
            token_key: file(given, "service-account-private-key-file"),
            root_ca: file(given, "root-ca-file"),
            signing: signing(given)?,
            node_ranges: node_ranges(given)?,
            legacy_tokens: given.time("legacy-service-account-token-clean-up-period"),
            node_monitor_period: given.time("node-monitor-period"),
            node_monitor_grace_period: given.time("node-monitor-grace-period"),
            ended_pods: given.number("terminated-pod-gc-threshold")?,
            autoscaler: autoscaler(given)?,
            serving: serving(given)?,
        })
    }
}

/// Flags that have one possible value.
fn check_fixed(given: &Given) -> Result<(), String> {
    for (flag, only) in [
        ("port", "0"),
        ("leader-elect-resource-lock", "leases"),
        ("cidr-allocator-type", "RangeAllocator"),
    ] {
        if given.text(flag).is_some_and(|value| value != only) {
            return Err(format!("--{flag} must be {only}"));
        }
    }
    Ok(())
}

fn limit(given: &Given) -> Result<Option<Limit>, String> {
    let Some(per_second) = given.number::<f64>("kube-api-qps")? else { return Ok(None) };
    let burst = given.number::<u32>("kube-api-burst")?.unwrap_or(30).max(1);
    // As client-go has it: a negative rate is none.
    Ok((per_second > 0.0).then_some(Limit { per_second, burst }))
}

/// The selection, without those that other flags turn off.
fn controllers(given: &Given) -> String {
    let mut words = match given.list("controllers") {
        [] => vec!["*"],
        words => words.iter().map(String::as_str).collect(),
    };
    if !given.is("allocate-node-cidrs", false) {
        words.push("-nodeipam");
    }
    if !given.is("enable-garbage-collector", true) {
        words.push("-garbagecollector");
    }
    words.join(",")
}

fn election(given: &Given) -> Result<Option<LeaderElectionConfig>, String> {
    if !given.is("leader-elect", true) {
        return Ok(None);
    }
    let name = given.text("leader-elect-resource-name").unwrap_or("kube-controller-manager");
    let mut config = LeaderElectionConfig::new(name);
    if let Some(namespace) = given.text("leader-elect-resource-namespace") {
        namespace.clone_into(&mut config.namespace);
    }
    let or = |flag, default| given.time(flag).unwrap_or(default);
    config.lease_duration = or("leader-elect-lease-duration", config.lease_duration);
    config.renew_deadline = or("leader-elect-renew-deadline", config.renew_deadline);
    config.retry_period = or("leader-elect-retry-period", config.retry_period);
    config.validate().map_err(|error| format!("--leader-elect: {error}"))?;
    Ok(Some(config))
}

fn signing(given: &Given) -> Result<Signing, String> {
    let mut authorities = Vec::new();
    for (signer, certificate, key) in SIGNERS {
        authorities.extend(pair(given, certificate, key)?.map(|pair| (*signer, pair)));
    }
    let all = pair(given, "cluster-signing-cert-file", "cluster-signing-key-file")?;
    match all {
        Some(_) if !authorities.is_empty() => {
            let why = "excludes the files of single signers";
            return Err(format!("--cluster-signing-cert-file {why}"));
        }
        all => authorities.extend(all.map(|pair| ("", pair))),
    }
    let duration = given
        .time("cluster-signing-duration")
        .or_else(|| given.time("experimental-cluster-signing-duration"));
    Ok(Signing { authorities, duration })
}

fn node_ranges(given: &Given) -> Result<Option<(String, u8)>, String> {
    let Some(range) = given.text("cluster-cidr") else {
        return match given.is("allocate-node-cidrs", false) {
            true => Err("--allocate-node-cidrs needs --cluster-cidr".to_owned()),
            false => Ok(None),
        };
    };
    if range.contains(',') {
        return Err(format!("--cluster-cidr={range}: nodes get a range of one family here"));
    }
    let (of_family, default) = match range.contains(':') {
        true => ("node-cidr-mask-size-ipv6", 64),
        false => ("node-cidr-mask-size-ipv4", 24),
    };
    let mask = match given.number(of_family)? {
        Some(mask) => mask,
        None => given.number("node-cidr-mask-size")?.unwrap_or(default),
    };
    Ok(Some((range.to_owned(), mask)))
}

fn autoscaler(given: &Given) -> Result<AutoscalerOptions, String> {
    let default = AutoscalerOptions::default();
    let or = |name: &str, default: Duration| {
        given.time(&format!("horizontal-pod-autoscaler-{name}")).unwrap_or(default)
    };
    Ok(AutoscalerOptions {
        sync_period: or("sync-period", default.sync_period),
        downscale_stabilization: or("downscale-stabilization", default.downscale_stabilization),
        tolerance: given
            .number("horizontal-pod-autoscaler-tolerance")?
            .unwrap_or(default.tolerance),
        cpu_initialization_period: or(
            "cpu-initialization-period",
            default.cpu_initialization_period,
        ),
        initial_readiness_delay: or("initial-readiness-delay", default.initial_readiness_delay),
    })
}

fn serving(given: &Given) -> Result<Option<Serving>, String> {
    let port = given.number("secure-port")?.unwrap_or(10257);
    let serving = Serving {
        bind: address(given, "bind-address")?.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
        port,
        tls: pair(given, "tls-cert-file", "tls-private-key-file")?,
        tls_version: match given.text("tls-min-version") {
            None | Some("VersionTLS10" | "VersionTLS11" | "VersionTLS12") => TlsVersion::Tls12,
            Some("VersionTLS13") => TlsVersion::Tls13,
            Some(other) => return Err(format!("--tls-min-version={other} is unknown")),
        },
        client_ca: file(given, "client-ca-file"),
        authentication: file(given, "authentication-kubeconfig"),
        ask_for_client_ca: !given.is("authentication-skip-lookup", false),
        authorization: file(given, "authorization-kubeconfig"),
        open_paths: match given.list("authorization-always-allow-paths") {
            [] => ["/healthz", "/readyz", "/livez"].map(ToOwned::to_owned).to_vec(),
            paths => paths.to_vec(),
        },
    };
    Ok((port != 0).then_some(serving))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::options_of;

    fn read(arguments: &str) -> Result<Options, String> {
        options_of(arguments, Options::read)
    }

    #[test]
    fn defaults_are_those_of_kube_controller_manager() {
        let options = read("").unwrap();
        assert_eq!(options.controllers, "*,-nodeipam");
        let election = options.election.unwrap();
        assert_eq!(
            (election.namespace.as_str(), election.name.as_str()),
            ("kube-system", "kube-controller-manager")
        );
        assert_eq!(election.lease_duration, Duration::from_secs(15));
        let serving = options.serving.unwrap();
        assert_eq!((serving.port, serving.bind), (10257, Ipv4Addr::UNSPECIFIED.into()));
        assert_eq!(serving.open_paths, ["/healthz", "/readyz", "/livez"]);
        assert!(!options.own_accounts && options.limit.is_none() && options.workers.is_empty());
    }

    #[test]
    fn controllers_are_chosen_as_the_stock_flag_says() {
        let chosen = |arguments: &str| read(arguments).unwrap().controllers;
        let ranges = "--allocate-node-cidrs --cluster-cidr=10.244.0.0/16";
        assert_eq!(chosen(ranges), "*");
        assert_eq!(
            chosen(&format!("{ranges} --controllers=*,-job --controllers tokencleaner")),
            "*,-job,tokencleaner"
        );
        assert_eq!(chosen("--enable-garbage-collector=false"), "*,-nodeipam,-garbagecollector");
    }

    #[test]
    fn node_ranges_have_a_size_for_each_family() {
        let ranges = |arguments: &str| read(arguments).unwrap().node_ranges.unwrap();
        assert_eq!(ranges("--cluster-cidr=10.0.0.0/8"), ("10.0.0.0/8".to_owned(), 24));
        assert_eq!(ranges("--cluster-cidr=10.0.0.0/8 --node-cidr-mask-size=20").1, 20);
        assert_eq!(ranges("--cluster-cidr=fd00::/48").1, 64);
        assert_eq!(ranges("--cluster-cidr=fd00::/48 --node-cidr-mask-size-ipv6=60").1, 60);
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        for (arguments, part) in [
            ("--allocate-node-cidrs", "--allocate-node-cidrs needs --cluster-cidr"),
            ("--cluster-cidr=10.0.0.0/8,fd00::/48", "one family"),
            ("--port=10252", "--port must be 0"),
            (
                "--leader-elect-resource-lock=endpoints",
                "--leader-elect-resource-lock must be leases",
            ),
            ("--leader-elect-lease-duration=1s", "--leader-elect: leaseDuration"),
            ("--concurrent-job-syncs=0", "--concurrent-job-syncs must be greater than 0"),
            ("--cluster-signing-cert-file=/c", "needs --cluster-signing-key-file"),
            (
                "--cluster-signing-cert-file=/c --cluster-signing-key-file=/k \
                 --cluster-signing-legacy-unknown-cert-file=/c \
                 --cluster-signing-legacy-unknown-key-file=/k",
                "excludes the files of single signers",
            ),
            ("--enable-hostpath-provisioner", "is not possible here"),
        ] {
            let error = read(arguments).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_rate_is_for_those_who_ask_for_one() {
        let limit = |arguments: &str| read(arguments).unwrap().limit;
        let expected = Limit { per_second: 50.0, burst: 100 };
        assert_eq!(limit("--kube-api-qps=50 --kube-api-burst=100"), Some(expected));
        assert_eq!(limit("--kube-api-qps=-1"), None);
        assert_eq!(limit("--kube-api-burst=100"), None);
    }
}
