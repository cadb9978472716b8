//! The flags of kube-apiserver 1.20 to 1.37 that a cluster's documents and tools set.

use crate::flags::{
    Does::{self, Nothing, Refused, Something},
    Flag, TUNED,
    Takes::{Bool, Duration, Each, List, Number, Text},
    flag,
};

const GONE: Does = Nothing("kube-apiserver has it no more");

/// What the help begins with.
pub(crate) const USAGE: &str = "The Kubernetes API server: kube-apiserver's flags over etcd, or over a directory.\n\n\
     Usage:\n  apiserver --etcd-servers=URL[,URL…] | --data-dir=DIRECTORY  [flags]\n";

/// All flags, by what they are about.
pub(crate) const FLAGS: &[(&str, &[Flag])] = &[
    ("Storage", STORAGE),
    ("Serving", SERVING),
    ("Authentication", AUTHENTICATION),
    ("Service account", SERVICE_ACCOUNTS),
    ("Authorization", AUTHORIZATION),
    ("Admission", ADMISSION),
    ("Cluster", CLUSTER),
    ("Kubelet", KUBELET),
    ("Aggregation", AGGREGATION),
    ("Auditing", AUDITING),
    ("Load", LOAD),
    ("API enablement", API),
    ("Logs", crate::logs::FLAGS),
];

const STORAGE: &[Flag] = &[
    flag(
        "data-dir",
        Text,
        Something("The directory of the embedded store, when there is no etcd."),
    ),
    flag("etcd-servers", List, Something("The URLs of etcd's members.")),
    flag("etcd-cafile", Text, Something("The authority of the members' certificates, in PEM.")),
    flag("etcd-certfile", Text, Something("The client certificate for etcd, in PEM.")),
    flag("etcd-keyfile", Text, Something("Its key, in PEM.")),
    flag("etcd-prefix", Text, Something("What all keys begin with. Default: /registry.")),
    flag(
        "etcd-compaction-interval",
        Duration,
        Something("How often old revisions are forgotten; 0 for never. Default: 5m."),
    ),
    flag("event-ttl", Duration, Something("How long Events are kept. Default: 1h.")),
    flag("storage-backend", Text, Something("etcd3, the only one.")),
    flag("storage-media-type", Text, Something("application/json, the only one.")),
    flag(
        "encryption-provider-config",
        Text,
        Refused("objects are stored as they are; encrypt the disks of etcd"),
    ),
    flag("encryption-provider-config-automatic-reload", Bool, TUNED),
    flag("etcd-count-metric-poll-period", Duration, TUNED),
    flag("etcd-db-metric-poll-interval", Duration, TUNED),
    flag("etcd-healthcheck-timeout", Duration, TUNED),
    flag("etcd-readycheck-timeout", Duration, TUNED),
    flag("etcd-servers-overrides", Each, Refused("all kinds are in one store")),
    flag("lease-reuse-duration-seconds", Number, TUNED),
    flag("delete-collection-workers", Number, TUNED),
    flag("default-watch-cache-size", Number, TUNED),
    flag("watch-cache", Bool, TUNED),
    flag("watch-cache-sizes", List, TUNED),
    flag(
        "enable-garbage-collector",
        Bool,
        Nothing("finalizers for the garbage collector are always kept"),
    ),
];

const SERVING: &[Flag] = &[
    flag("bind-address", Text, Something("Where to listen. Default: every address.")),
    flag(
        "secure-port",
        Number,
        Something("The port, with HTTPS; 0 for a free one. Default: 6443."),
    ),
    flag(
        "advertise-address",
        Text,
        Something(
            "Where others reach this server: what the endpoints of kubernetes show. Default: the bind address, or the machine's.",
        ),
    ),
    flag(
        "external-hostname",
        Text,
        Something(
            "The name under which clients reach the server; for its certificate and OIDC documents.",
        ),
    ),
    flag(
        "tls-cert-file",
        Text,
        Something("The server's certificate, and those between it and the authority, in PEM."),
    ),
    flag("tls-private-key-file", Text, Something("Its key, in PEM.")),
    flag(
        "cert-dir",
        Text,
        Something(
            "Where a self-signed certificate is kept, when none is given. Default: /var/run/kubernetes.",
        ),
    ),
    flag(
        "tls-min-version",
        Text,
        Something("VersionTLS12 or VersionTLS13; earlier ones mean 1.2. Default: VersionTLS12."),
    ),
    flag("tls-cipher-suites", List, Nothing("all suites that are offered are strong")),
    flag("tls-sni-cert-key", Each, Nothing("there is one certificate for all names")),
    flag("http2-max-streams-per-connection", Number, TUNED),
    flag("permit-port-sharing", Bool, TUNED),
    flag("permit-address-sharing", Bool, TUNED),
    flag("disable-http2-serving", Bool, TUNED),
    flag("insecure-port", Number, GONE),
    flag("insecure-bind-address", Text, GONE),
    flag("min-request-timeout", Number, TUNED),
    flag("request-timeout", Duration, TUNED),
    flag(
        "shutdown-delay-duration",
        Duration,
        Something("How long to go on after /readyz begins to fail. Default: 0s."),
    ),
    flag("shutdown-send-retry-after", Bool, TUNED),
    flag("shutdown-watch-termination-grace-period", Duration, TUNED),
    flag("livez-grace-period", Duration, TUNED),
    flag("cors-allowed-origins", List, Nothing("no browser of another site is answered")),
    flag("strict-transport-security-directives", List, TUNED),
    flag("apiserver-count", Number, GONE),
    flag("endpoint-reconciler-type", Text, Something("lease, or none. Default: lease.")),
    flag(
        "kubernetes-service-node-port",
        Number,
        Nothing("the Service kubernetes has no node port"),
    ),
    flag("goaway-chance", Number, TUNED),
    flag("profiling", Bool, Nothing("profiles are taken from outside")),
    flag("contention-profiling", Bool, Nothing("profiles are taken from outside")),
    flag("debug-socket-path", Text, Nothing("profiles are taken from outside")),
    flag("egress-selector-config-file", Text, Refused("connections go out directly")),
    flag("tracing-config-file", Text, Nothing("no spans are exported")),
];

const AUTHENTICATION: &[Flag] = &[
    flag("client-ca-file", Text, Something("The authorities of clients' certificates, in PEM.")),
    flag("token-auth-file", Text, Something("Lines of token,user,uid,\"group1,group2\".")),
    flag(
        "enable-bootstrap-token-auth",
        Bool,
        Something("Whether bootstrap tokens are taken. Default: false."),
    ),
    flag(
        "anonymous-auth",
        Bool,
        Something(
            "Whether requests without credentials are those of system:anonymous. Default: true.",
        ),
    ),
    flag("oidc-issuer-url", Text, Something("The OpenID Connect provider, with HTTPS.")),
    flag("oidc-client-id", Text, Something("The client that its tokens must be for.")),
    flag("oidc-ca-file", Text, Something("The authority of its certificate, in PEM.")),
    flag("oidc-username-claim", Text, Something("The claim with the name. Default: sub.")),
    flag("oidc-username-prefix", Text, Something("What goes before names; - for nothing.")),
    flag("oidc-groups-claim", Text, Something("The claim with the groups.")),
    flag("oidc-groups-prefix", Text, Something("What goes before groups.")),
    flag("oidc-required-claim", Each, Something("claim=value that tokens must have.")),
    flag("oidc-signing-algs", List, Nothing("RS256, RS384, RS512, ES256 and ES384 are taken")),
    flag("authentication-config", Text, Refused("use the --oidc flags")),
    flag(
        "authentication-token-webhook-config-file",
        Text,
        Something("The kubeconfig of a service that knows tokens."),
    ),
    flag("authentication-token-webhook-version", Text, Nothing("the service is asked in v1")),
    flag("authentication-token-webhook-cache-ttl", Duration, TUNED),
    flag(
        "requestheader-client-ca-file",
        Text,
        Something("The authority of proxies that name users in headers."),
    ),
    flag(
        "requestheader-allowed-names",
        List,
        Something("The common names that proxies may have. Default: any."),
    ),
    flag("requestheader-username-headers", List, Something("Default: X-Remote-User.")),
    flag("requestheader-group-headers", List, Something("Default: X-Remote-Group.")),
    flag("requestheader-uid-headers", List, Something("Default: X-Remote-Uid.")),
    flag("requestheader-extra-headers-prefix", List, Something("Default: X-Remote-Extra-.")),
    flag(
        "basic-auth-file",
        Text,
        Refused("kube-apiserver has it no more: use tokens or certificates"),
    ),
];

const SERVICE_ACCOUNTS: &[Flag] = &[
    flag(
        "service-account-issuer",
        Each,
        Something("Who issues tokens. Tokens of further ones are taken too."),
    ),
    flag(
        "service-account-signing-key-file",
        Text,
        Something(
            "The private key that signs tokens, in PEM: RSA or P-256. Without it, and without key files, a new key is made.",
        ),
    ),
    flag(
        "service-account-key-file",
        Each,
        Something(
            "Keys whose tokens are taken, public or private, in PEM. Default: the signing key's.",
        ),
    ),
    flag(
        "service-account-jwks-uri",
        Text,
        Something("Where others find the keys. Default: at this server."),
    ),
    flag("api-audiences", List, Something("Whom tokens are for. Default: the issuer.")),
    flag("service-account-lookup", Bool, Nothing("accounts are always looked up")),
    flag(
        "service-account-max-token-expiration",
        Duration,
        Something("How long tokens last at most, whatever is asked for: from 1h on."),
    ),
    flag(
        "service-account-extend-token-expiration",
        Bool,
        Something("Whether the tokens in Pods are taken for a year. Default: true."),
    ),
    flag(
        "service-account-signing-endpoint",
        Text,
        Refused("tokens are signed with a key of this server's"),
    ),
];

const AUTHORIZATION: &[Flag] = &[
    flag(
        "authorization-mode",
        List,
        Something(
            "Node, RBAC, Webhook, AlwaysAllow, AlwaysDeny, asked in this order. Default: AlwaysAllow.",
        ),
    ),
    flag(
        "authorization-webhook-config-file",
        Text,
        Something("The kubeconfig of a service that decides."),
    ),
    flag("authorization-webhook-version", Text, Nothing("the service is asked in v1")),
    flag("authorization-webhook-cache-authorized-ttl", Duration, TUNED),
    flag("authorization-webhook-cache-unauthorized-ttl", Duration, TUNED),
    flag("authorization-policy-file", Text, Refused("there is no ABAC: use RBAC")),
    flag("authorization-config", Text, Refused("use --authorization-mode")),
];

const ADMISSION: &[Flag] = &[
    flag("enable-admission-plugins", List, Something("Plug-ins to use besides the default ones.")),
    flag("disable-admission-plugins", List, Something("Default plug-ins not to use.")),
    flag(
        "admission-control-config-file",
        Text,
        Something(
            "The configuration of plug-ins: EventRateLimit, ImagePolicyWebhook, PodSecurity.",
        ),
    ),
    flag("admission-control", List, GONE),
    flag("default-not-ready-toleration-seconds", Number, TUNED),
    flag("default-unreachable-toleration-seconds", Number, TUNED),
];

const CLUSTER: &[Flag] = &[
    flag(
        "service-cluster-ip-range",
        Text,
        Something(
            "The addresses of Services: one range, or one of each family. Default: 10.96.0.0/12.",
        ),
    ),
    flag(
        "service-node-port-range",
        Text,
        Something("The node ports of Services, first-last. Default: 30000-32767."),
    ),
    flag(
        "allow-privileged",
        Bool,
        Something("Whether containers may be privileged. Default: false."),
    ),
    flag("max-connection-bytes-per-sec", Number, TUNED),
    flag("cloud-provider", Text, GONE),
    flag("cloud-config", Text, GONE),
    flag("external-ip-range", Text, TUNED),
];

const KUBELET: &[Flag] = &[
    flag(
        "kubelet-client-certificate",
        Text,
        Something("The certificate that kubelets are shown, in PEM."),
    ),
    flag("kubelet-client-key", Text, Something("Its key, in PEM.")),
    flag(
        "kubelet-certificate-authority",
        Text,
        Something("The authority of kubelets' certificates; without it any is taken."),
    ),
    flag(
        "kubelet-preferred-address-types",
        List,
        Something("Which addresses of a node are tried. Default: InternalIP,ExternalIP."),
    ),
    flag("kubelet-port", Number, GONE),
    flag("kubelet-read-only-port", Number, GONE),
    flag("kubelet-https", Bool, GONE),
    flag("kubelet-timeout", Duration, TUNED),
];

const AGGREGATION: &[Flag] = &[
    flag(
        "proxy-client-cert-file",
        Text,
        Something("The certificate that aggregated API servers are shown, in PEM."),
    ),
    flag("proxy-client-key-file", Text, Something("Its key, in PEM.")),
    flag(
        "enable-aggregator-routing",
        Bool,
        Something("Whether Services are reached at their endpoints. Default: false."),
    ),
    flag("aggregator-reject-forwarding-redirect", Bool, TUNED),
    flag("peer-advertise-ip", Text, TUNED),
    flag("peer-advertise-port", Text, TUNED),
    flag("peer-ca-file", Text, TUNED),
];

const AUDITING: &[Flag] = &[
    flag("audit-policy-file", Text, Something("What is recorded; nothing without it.")),
    flag("audit-log-path", Text, Something("The log; - for standard output.")),
    flag("audit-log-maxage", Number, Something("How many days old logs are kept.")),
    flag("audit-log-maxbackup", Number, Something("How many old logs are kept.")),
    flag("audit-log-maxsize", Number, Something("The size of a log in MiB.")),
    flag("audit-log-format", Text, Something("json or legacy. Default: json.")),
    flag("audit-log-compress", Bool, Something("Whether old logs are compressed. Default: false.")),
    flag(
        "audit-log-mode",
        Text,
        Something("batch, blocking or blocking-strict. Default: blocking."),
    ),
    flag(
        "audit-webhook-config-file",
        Text,
        Something("The kubeconfig of a service that takes events."),
    ),
    flag(
        "audit-webhook-mode",
        Text,
        Something("batch, blocking or blocking-strict. Default: batch."),
    ),
    flag(
        "audit-webhook-initial-backoff",
        Duration,
        Something("The pause before events are sent again. Default: 10s."),
    ),
    flag("audit-log-batch-buffer-size", Number, TUNED),
    flag("audit-log-batch-max-size", Number, TUNED),
    flag("audit-log-batch-max-wait", Duration, TUNED),
    flag("audit-log-batch-throttle-enable", Bool, TUNED),
    flag("audit-log-batch-throttle-qps", Number, TUNED),
    flag("audit-log-batch-throttle-burst", Number, TUNED),
    flag("audit-log-truncate-enabled", Bool, TUNED),
    flag("audit-log-truncate-max-batch-size", Number, TUNED),
    flag("audit-log-truncate-max-event-size", Number, TUNED),
    flag("audit-log-version", Text, Nothing("events are audit.k8s.io/v1")),
    flag("audit-webhook-batch-buffer-size", Number, TUNED),
    flag("audit-webhook-batch-max-size", Number, TUNED),
    flag("audit-webhook-batch-max-wait", Duration, TUNED),
    flag("audit-webhook-batch-throttle-enable", Bool, TUNED),
    flag("audit-webhook-batch-throttle-qps", Number, TUNED),
    flag("audit-webhook-batch-throttle-burst", Number, TUNED),
    flag("audit-webhook-truncate-enabled", Bool, TUNED),
    flag("audit-webhook-truncate-max-batch-size", Number, TUNED),
    flag("audit-webhook-truncate-max-event-size", Number, TUNED),
    flag("audit-webhook-version", Text, Nothing("events are audit.k8s.io/v1")),
];

const LOAD: &[Flag] = &[
    flag(
        "max-requests-inflight",
        Number,
        Something("Requests that read, at the same time. Default: 400."),
    ),
    flag(
        "max-mutating-requests-inflight",
        Number,
        Something("Requests that change something, at the same time. Default: 200."),
    ),
    flag(
        "enable-priority-and-fairness",
        Bool,
        Something("Whether users and namespaces take turns. Default: true."),
    ),
    flag("target-ram-mb", Number, GONE),
];

const API: &[Flag] = &[
    flag(
        "runtime-config",
        List,
        Something(
            "group/version=true or false for each; api/all, api/ga, api/beta and api/alpha for all of a kind. Default: all but alpha.",
        ),
    ),
    flag("feature-gates", List, Nothing("what there is is on")),
    flag("emulated-version", List, TUNED),
    flag("runtime-config-emulation-forward-compatible", Bool, TUNED),
    flag("emulation-forward-compatible", Bool, TUNED),
    flag("show-hidden-metrics-for-version", Text, TUNED),
    flag("allow-metric-labels", List, TUNED),
    flag("allow-metric-labels-manifest", Text, TUNED),
    flag("disabled-metrics", List, TUNED),
    flag("enable-logs-handler", Bool, TUNED),
];

#[cfg(test)]
mod tests {
    use crate::flags::{Command, parse};

    #[test]
    fn the_flags_of_a_stock_cluster_are_known() {
        let stock = "--logtostderr=false --v=2 --log-dir=/logs \
            --etcd-servers=https://20.0.0.70:2379,https://20.0.0.72:2379 \
            --bind-address=20.0.0.71 --secure-port=6443 --advertise-address=20.0.0.71 \
            --allow-privileged=true --service-cluster-ip-range=10.0.0.0/24 \
            --enable-admission-plugins=NamespaceLifecycle,LimitRanger,ServiceAccount,ResourceQuota,NodeRestriction \
            --authorization-mode=RBAC,Node --enable-bootstrap-token-auth=true \
            --token-auth-file=/token.csv --service-node-port-range=30000-50000 \
            --kubelet-client-certificate=/a.pem --kubelet-client-key=/a-key.pem \
            --tls-cert-file=/a.pem --tls-private-key-file=/a-key.pem --client-ca-file=/ca.pem \
            --service-account-key-file=/ca-key.pem --service-account-issuer=api \
            --service-account-signing-key-file=/a-key.pem --etcd-cafile=/e/ca.pem \
            --etcd-certfile=/e/server.pem --etcd-keyfile=/e/server-key.pem \
            --requestheader-client-ca-file=/ca.pem --proxy-client-cert-file=/a.pem \
            --proxy-client-key-file=/a-key.pem --requestheader-allowed-names=kubernetes \
            --requestheader-extra-headers-prefix=X-Remote-Extra- \
            --requestheader-group-headers=X-Remote-Group \
            --requestheader-username-headers=X-Remote-User --enable-aggregator-routing=true \
            --audit-log-maxage=30 --audit-log-maxbackup=3 --audit-log-maxsize=100 \
            --audit-log-path=/logs/k8s-audit.log";
        let given = match parse(stock.split_whitespace().map(ToOwned::to_owned)) {
            Ok(Command::Start(given)) => given,
            other => panic!("{other:?}"),
        };
        assert_eq!(given.idle().count(), 0, "each has an effect");
        assert_eq!(given.list("authorization-mode"), ["RBAC", "Node"]);
    }
}
