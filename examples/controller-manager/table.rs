//! The flags of kube-controller-manager 1.20 to 1.37.

use crate::flags::{
    Does::{self, Nothing, Refused, Something},
    Flag, TUNED,
    Takes::{Bool, Duration, Each, List, Number, Text},
    flag,
};

const GONE: Does = Nothing("kube-controller-manager has it no more");
const NO_CLOUD: Does =
    Nothing("there is no cloud here: its controllers are for programs of their own");
const AT_ONCE: Does = Nothing("changes are worked on as they come");

/// What the help begins with.
pub(crate) const USAGE: &str = "Kubernetes' controllers: kube-controller-manager's flags, for any API server.\n\n\
     Usage:\n  controller-manager --kubeconfig=FILE  [flags]\n";

/// All flags, by what they are about.
pub(crate) const FLAGS: &[(&str, &[Flag])] = &[
    ("API server", API),
    ("Generic", GENERIC),
    ("Leader election", ELECTION),
    ("Secure serving", SERVING),
    ("Certificate signing", SIGNING),
    ("Service account", ACCOUNTS),
    ("Node", NODES),
    ("Workload", WORKLOADS),
    ("Horizontal pod autoscaling", AUTOSCALING),
    ("Service", SERVICES),
    ("Volume", VOLUMES),
    ("Other controller", OTHERS),
    ("Logs", crate::logs::FLAGS),
];

const API: &[Flag] = &[
    flag(
        "kubeconfig",
        Text,
        Something("How to reach the API server, and as whom. Default: as a Pod does."),
    ),
    flag("master", Text, Something("The API server's URL; it wins over the kubeconfig's.")),
    flag(
        "kube-api-qps",
        Number,
        Something("Requests a second of each client. Default: without limit."),
    ),
    flag(
        "kube-api-burst",
        Number,
        Something("Requests at once, when there is --kube-api-qps. Default: 30."),
    ),
    flag("kube-api-content-type", Text, Nothing("objects are read and written as JSON")),
];

const GENERIC: &[Flag] = &[
    flag(
        "controllers",
        List,
        Something(
            "Those to run: * for all that are on by default, a name, or -name for one that must not. Default: *.",
        ),
    ),
    flag(
        "use-service-account-credentials",
        Bool,
        Something("Whether each controller acts as a service account of its own. Default: false."),
    ),
    flag("cluster-name", Text, NO_CLOUD),
    flag("cloud-provider", Text, NO_CLOUD),
    flag("cloud-config", Text, NO_CLOUD),
    flag("external-cloud-volume-plugin", Text, NO_CLOUD),
    flag("configure-cloud-routes", Bool, NO_CLOUD),
    flag("route-reconciliation-period", Duration, NO_CLOUD),
    flag("concurrent-service-syncs", Number, NO_CLOUD),
    flag("leader-migration-config", Text, NO_CLOUD),
    flag("enable-leader-migration", Bool, NO_CLOUD),
    flag("controller-start-interval", Duration, TUNED),
    flag("controller-shutdown-timeout", Duration, TUNED),
    flag("min-resync-period", Duration, Nothing("what is watched is not asked for again")),
    flag("feature-gates", List, Nothing("what there is is on")),
    flag("emulated-version", List, TUNED),
    flag("profiling", Bool, Nothing("profiles are taken from outside")),
    flag("contention-profiling", Bool, Nothing("profiles are taken from outside")),
    flag("show-hidden-metrics-for-version", Text, TUNED),
    flag("disabled-metrics", List, TUNED),
    flag("allow-metric-labels", List, TUNED),
    flag("allow-metric-labels-manifest", Text, TUNED),
];

const ELECTION: &[Flag] = &[
    flag(
        "leader-elect",
        Bool,
        Something("Whether to work only while holding the Lease. Default: true."),
    ),
    flag(
        "leader-elect-lease-duration",
        Duration,
        Something("How long others wait for a leader that does not renew. Default: 15s."),
    ),
    flag(
        "leader-elect-renew-deadline",
        Duration,
        Something("How long a leader tries to renew. Default: 10s."),
    ),
    flag("leader-elect-retry-period", Duration, Something("Between two tries. Default: 2s.")),
    flag("leader-elect-resource-lock", Text, Something("leases, the only one.")),
    flag(
        "leader-elect-resource-name",
        Text,
        Something("The Lease. Default: kube-controller-manager."),
    ),
    flag(
        "leader-elect-resource-namespace",
        Text,
        Something("Its namespace. Default: kube-system."),
    ),
];

const SERVING: &[Flag] = &[
    flag("bind-address", Text, Something("Where to listen. Default: every address.")),
    flag(
        "secure-port",
        Number,
        Something("The port of /healthz and /metrics, with HTTPS; 0 for none. Default: 10257."),
    ),
    flag("address", Text, GONE),
    flag("port", Number, Something("0, the only one: what is not encrypted is not served.")),
    flag("tls-cert-file", Text, Something("The certificate, in PEM. Default: a new one.")),
    flag("tls-private-key-file", Text, Something("Its key, in PEM.")),
    flag(
        "tls-min-version",
        Text,
        Something("VersionTLS12 or VersionTLS13; earlier ones mean 1.2. Default: VersionTLS12."),
    ),
    flag("tls-cipher-suites", List, Nothing("all suites that are offered are strong")),
    flag("tls-curve-preferences", List, Nothing("all curves that are offered are strong")),
    flag("tls-sni-cert-key", Each, Nothing("there is one certificate for all names")),
    flag("cert-dir", Text, Nothing("a certificate that is made is kept in memory")),
    flag("http2-max-streams-per-connection", Number, TUNED),
    flag("disable-http2-serving", Bool, TUNED),
    flag("permit-port-sharing", Bool, TUNED),
    flag("permit-address-sharing", Bool, TUNED),
    flag(
        "client-ca-file",
        Text,
        Something("The authority of clients' certificates. Default: what the cluster says."),
    ),
    flag(
        "authentication-kubeconfig",
        Text,
        Something("Where tokens are reviewed. Without it every token is refused."),
    ),
    flag(
        "authentication-skip-lookup",
        Bool,
        Something("Whether not to ask the cluster for the clients' authority. Default: false."),
    ),
    flag("authentication-tolerate-lookup-failure", Bool, TUNED),
    flag("authentication-token-webhook-cache-ttl", Duration, TUNED),
    flag(
        "authorization-kubeconfig",
        Text,
        Something("Where requests are reviewed. Without it administrators alone are answered."),
    ),
    flag(
        "authorization-always-allow-paths",
        List,
        Something("What everybody may read. Default: /healthz,/readyz,/livez."),
    ),
    flag("authorization-webhook-cache-authorized-ttl", Duration, TUNED),
    flag("authorization-webhook-cache-unauthorized-ttl", Duration, TUNED),
    flag("requestheader-client-ca-file", Text, Nothing("no proxy is believed")),
    flag("requestheader-allowed-names", List, Nothing("no proxy is believed")),
    flag("requestheader-username-headers", List, Nothing("no proxy is believed")),
    flag("requestheader-group-headers", List, Nothing("no proxy is believed")),
    flag("requestheader-uid-headers", List, Nothing("no proxy is believed")),
    flag("requestheader-extra-headers-prefix", List, Nothing("no proxy is believed")),
];

const SIGNING: &[Flag] = &[
    flag(
        "cluster-signing-cert-file",
        Text,
        Something("The authority that signs approved requests, in PEM."),
    ),
    flag("cluster-signing-key-file", Text, Something("Its key, in PEM.")),
    flag(
        "cluster-signing-duration",
        Duration,
        Something("How long certificates last at most. Default: 8760h."),
    ),
    flag("experimental-cluster-signing-duration", Duration, Something("The same, up to 1.21.")),
    flag("cluster-signing-kubelet-serving-cert-file", Text, Something(SIGNER)),
    flag("cluster-signing-kubelet-serving-key-file", Text, Something("Its key, in PEM.")),
    flag("cluster-signing-kubelet-client-cert-file", Text, Something(SIGNER)),
    flag("cluster-signing-kubelet-client-key-file", Text, Something("Its key, in PEM.")),
    flag("cluster-signing-kube-apiserver-client-cert-file", Text, Something(SIGNER)),
    flag("cluster-signing-kube-apiserver-client-key-file", Text, Something("Its key, in PEM.")),
    flag("cluster-signing-legacy-unknown-cert-file", Text, Something(SIGNER)),
    flag("cluster-signing-legacy-unknown-key-file", Text, Something("Its key, in PEM.")),
];

const SIGNER: &str = "The authority of one signer; with any of these the others sign nothing.";

const ACCOUNTS: &[Flag] = &[
    flag(
        "service-account-private-key-file",
        Text,
        Something("The key that signs tokens which are kept in Secrets, in PEM: RSA or P-256."),
    ),
    flag(
        "root-ca-file",
        Text,
        Something("The authority of the API server: told to Pods, and in tokens' Secrets."),
    ),
    flag("concurrent-serviceaccount-token-syncs", Number, Something(SYNCS)),
    flag(
        "legacy-service-account-token-clean-up-period",
        Duration,
        Something(
            "How long a generated token's Secret stays unused, then invalid. Default: 8760h.",
        ),
    ),
];

/// What every `--concurrent-…-syncs` does.
const SYNCS: &str = "How many are worked on at the same time. Default: 5.";

const NODES: &[Flag] = &[
    flag(
        "allocate-node-cidrs",
        Bool,
        Something("Whether nodes get their Pod ranges. Default: false."),
    ),
    flag("cluster-cidr", Text, Something("The range that they come from.")),
    flag(
        "node-cidr-mask-size",
        Number,
        Something("The size of a node's range. Default: 24, or 64 for IPv6."),
    ),
    flag("node-cidr-mask-size-ipv4", Number, Something("The same, for IPv4.")),
    flag("node-cidr-mask-size-ipv6", Number, Something("The same, for IPv6.")),
    flag("cidr-allocator-type", Text, Something("RangeAllocator, the only one.")),
    flag(
        "service-cluster-ip-range",
        Text,
        Nothing("Services have a range of their own, which the API server keeps"),
    ),
    flag(
        "node-monitor-period",
        Duration,
        Something("How often signs of life are looked at. Default: 5s."),
    ),
    flag(
        "node-monitor-grace-period",
        Duration,
        Something("How long a node may be silent. Default: 40s."),
    ),
    flag("node-startup-grace-period", Duration, TUNED),
    flag("pod-eviction-timeout", Duration, Nothing("Pods go when their tolerations end")),
    flag("enable-taint-manager", Bool, Nothing("Pods go when their tolerations end")),
    flag("node-eviction-rate", Number, TUNED),
    flag("secondary-node-eviction-rate", Number, TUNED),
    flag("unhealthy-zone-threshold", Number, TUNED),
    flag("large-cluster-size-threshold", Number, TUNED),
];

const WORKLOADS: &[Flag] = &[
    flag("concurrent-deployment-syncs", Number, Something(SYNCS)),
    flag("concurrent-replicaset-syncs", Number, Something(SYNCS)),
    flag("concurrent-rc-syncs", Number, Something(SYNCS)),
    flag("concurrent-statefulset-syncs", Number, Something(SYNCS)),
    flag("concurrent-daemonset-syncs", Number, Something(SYNCS)),
    flag("concurrent-job-syncs", Number, Something(SYNCS)),
    flag("concurrent-cron-job-syncs", Number, Something(SYNCS)),
    flag("concurrent-ttl-after-finished-syncs", Number, Something(SYNCS)),
    flag("deployment-controller-sync-period", Duration, AT_ONCE),
    flag(
        "terminated-pod-gc-threshold",
        Number,
        Something("How many ended Pods may stay; 0 for all. Default: 12500."),
    ),
];

const AUTOSCALING: &[Flag] = &[
    flag("concurrent-horizontal-pod-autoscaler-syncs", Number, Something(SYNCS)),
    flag(
        "horizontal-pod-autoscaler-sync-period",
        Duration,
        Something("How often each is looked at. Default: 15s."),
    ),
    flag(
        "horizontal-pod-autoscaler-downscale-stabilization",
        Duration,
        Something("How long a higher recommendation holds off a step down. Default: 5m."),
    ),
    flag(
        "horizontal-pod-autoscaler-tolerance",
        Number,
        Something("How far from its target a metric may be. Default: 0.1."),
    ),
    flag(
        "horizontal-pod-autoscaler-cpu-initialization-period",
        Duration,
        Something("How long after its start only a ready Pod's CPU counts. Default: 5m."),
    ),
    flag(
        "horizontal-pod-autoscaler-initial-readiness-delay",
        Duration,
        Something("A Pod that is unready that soon never was ready. Default: 30s."),
    ),
    flag("horizontal-pod-autoscaler-downscale-delay", Duration, GONE),
    flag("horizontal-pod-autoscaler-upscale-delay", Duration, GONE),
    flag("horizontal-pod-autoscaler-use-rest-clients", Bool, GONE),
];

const SERVICES: &[Flag] = &[
    flag("concurrent-endpoint-syncs", Number, Something(SYNCS)),
    flag("concurrent-service-endpoint-syncs", Number, Something(SYNCS)),
    flag("mirroring-concurrent-service-endpoint-syncs", Number, Something(SYNCS)),
    flag("endpoint-updates-batch-period", Duration, AT_ONCE),
    flag("endpointslice-updates-batch-period", Duration, AT_ONCE),
    flag("mirroring-endpointslice-updates-batch-period", Duration, AT_ONCE),
    flag("max-endpoints-per-slice", Number, TUNED),
    flag("mirroring-max-endpoints-per-subset", Number, TUNED),
];

const VOLUMES: &[Flag] = &[
    flag("concurrent-ephemeralvolume-syncs", Number, Something(SYNCS)),
    flag("attach-detach-reconcile-sync-period", Duration, AT_ONCE),
    flag("disable-attach-detach-reconcile-sync", Bool, AT_ONCE),
    flag("disable-force-detach-on-timeout", Bool, TUNED),
    flag("pvclaimbinder-sync-period", Duration, AT_ONCE),
    flag("enable-dynamic-provisioning", Bool, Nothing("volumes are made by drivers of their own")),
    flag("enable-hostpath-provisioner", Bool, Refused("volumes are made by drivers of their own")),
    flag("flex-volume-plugin-dir", Text, GONE),
    flag("pv-recycler-increment-timeout-nfs", Number, GONE),
    flag("pv-recycler-minimum-timeout-hostpath", Number, GONE),
    flag("pv-recycler-minimum-timeout-nfs", Number, GONE),
    flag("pv-recycler-pod-template-filepath-hostpath", Text, GONE),
    flag("pv-recycler-pod-template-filepath-nfs", Text, GONE),
    flag("pv-recycler-timeout-increment-hostpath", Number, GONE),
    flag("volume-host-allow-local-loopback", Bool, GONE),
    flag("volume-host-cidr-denylist", List, GONE),
];

const OTHERS: &[Flag] = &[
    flag("concurrent-namespace-syncs", Number, Something(SYNCS)),
    flag("namespace-sync-period", Duration, AT_ONCE),
    flag("concurrent-resource-quota-syncs", Number, Something(SYNCS)),
    flag("resource-quota-sync-period", Duration, TUNED),
    flag("concurrent-gc-syncs", Number, TUNED),
    flag("enable-garbage-collector", Bool, Something("Whether there is one. Default: true.")),
    flag("concurrent-resource-claim-syncs", Number, TUNED),
    flag("concurrent-validating-admission-policy-status-syncs", Number, TUNED),
    flag("concurrent-device-taint-eviction-syncs", Number, TUNED),
    flag("concurrent-storage-version-migrator-syncs", Number, TUNED),
];

#[cfg(test)]
mod tests {
    use crate::{
        flags::{Command, parse},
        options::Options,
    };

    #[test]
    fn the_flags_of_stock_clusters_are_known() {
        for stock in [
            // As a cluster from binaries has it.
            "--logtostderr=false --v=2 --log-dir=/logs --leader-elect=true --kubeconfig=/k \
             --bind-address=127.0.0.1 --allocate-node-cidrs=true --cluster-cidr=10.244.0.0/16 \
             --service-cluster-ip-range=10.0.0.0/24 --cluster-signing-cert-file=/ca.pem \
             --cluster-signing-key-file=/ca-key.pem --root-ca-file=/ca.pem \
             --service-account-private-key-file=/ca-key.pem --cluster-signing-duration=87600h0m0s",
            // As kubeadm has it.
            "--allocate-node-cidrs=true --authentication-kubeconfig=/k --authorization-kubeconfig=/k \
             --bind-address=127.0.0.1 --client-ca-file=/ca.crt --cluster-cidr=10.244.0.0/16 \
             --cluster-name=kubernetes --cluster-signing-cert-file=/ca.crt \
             --cluster-signing-key-file=/ca.key --controllers=*,bootstrapsigner,tokencleaner \
             --kubeconfig=/k --leader-elect=true --port=0 \
             --requestheader-client-ca-file=/front-proxy-ca.crt --root-ca-file=/ca.crt \
             --service-account-private-key-file=/sa.key --service-cluster-ip-range=10.96.0.0/12 \
             --use-service-account-credentials=true",
        ] {
            let given = match parse(stock.split_whitespace().map(ToOwned::to_owned)) {
                Ok(Command::Start(given)) => given,
                other => panic!("{other:?}"),
            };
            Options::read(&given).unwrap();
        }
    }
}
