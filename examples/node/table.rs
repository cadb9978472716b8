//! The flags of the kubelet 1.20 to 1.37, as far as they are its own, and those that its
//! configuration file has made superfluous and that are still in use.

use crate::flags::{
    Does::{self, Nothing, Refused, Something},
    Flag, TUNED,
    Takes::{Bool, Duration, Each, List, Number, Text},
    flag,
};

const GONE: Does = Nothing("the kubelet has it no more");
const RUNTIMES: Does = Nothing("it is the runtime's");

/// What the help begins with.
pub(crate) const USAGE: &str = "A node: the kubelet's flags and configuration, for any API server.\n\n\
     Usage:\n  node --kubeconfig=FILE [--bootstrap-kubeconfig=FILE] [--config=FILE]  [flags]\n";

/// All flags, by what they are about.
pub(crate) const FLAGS: &[(&str, &[Flag])] = &[
    ("API server", API),
    ("Node", NODE),
    ("Runtime", RUNTIME),
    ("Serving", SERVING),
    ("Configuration", CONFIGURATION),
    ("Other", OTHERS),
    ("Logs", crate::logs::FLAGS),
];

const API: &[Flag] = &[
    flag(
        "kubeconfig",
        Text,
        Something("How to reach the API server, and as whom. Written by a bootstrap."),
    ),
    flag(
        "bootstrap-kubeconfig",
        Text,
        Something("With which a certificate is asked for when there is no --kubeconfig yet."),
    ),
    flag(
        "cert-dir",
        Text,
        Something("Where certificates are kept. Default: pki in the --root-dir."),
    ),
    flag(
        "rotate-certificates",
        Bool,
        Something("Whether the client's certificate is renewed. Default: false."),
    ),
    flag(
        "rotate-server-certificates",
        Bool,
        Something("Whether the certificate of its API is asked for. Default: false."),
    ),
    flag("kube-api-qps", Number, TUNED),
    flag("kube-api-burst", Number, TUNED),
    flag("kube-api-content-type", Text, TUNED),
];

const NODE: &[Flag] = &[
    flag(
        "hostname-override",
        Text,
        Something("The node's name. Default: the machine's host name."),
    ),
    flag(
        "node-ip",
        List,
        Something("The node's addresses, the primary one first. Default: that of its route."),
    ),
    flag("node-labels", List, Something("Labels of the node: key=value.")),
    flag("register-node", Bool, Something("Whether it makes its Node. Default: true.")),
    flag(
        "register-with-taints",
        List,
        Something("Taints that the node begins with: key=value:effect."),
    ),
    flag("provider-id", Text, Something("What the cloud calls the node.")),
    flag("max-pods", Number, Something("How many Pods it takes. Default: 110.")),
    flag(
        "seccomp-default",
        Bool,
        Something("Gives containers that say nothing of it the runtime's seccomp profile."),
    ),
    flag("pod-cidr", Text, Something("The range of its Pods' addresses.")),
    flag("root-dir", Text, Something("Where it keeps its files. Default: /var/lib/kubelet.")),
    flag("pod-manifest-path", Text, Something("A folder with static Pods, or the file of one.")),
    flag(
        "shutdown-node-on-termination",
        Bool,
        Something(
            "Whether a request to terminate ends the node's Pods, in the times that the \
             configuration has for a shutdown. Default: false, they run on.",
        ),
    ),
    flag("cloud-provider", Text, Nothing("clouds are for programs of their own")),
    flag("cloud-config", Text, GONE),
];

const RUNTIME: &[Flag] = &[
    flag(
        "runtime",
        Text,
        Something("sim, native, or a socket. Default: --container-runtime-endpoint, or native."),
    ),
    flag(
        "container-runtime-endpoint",
        Text,
        Something("The socket of a runtime that serves CRI v1: unix:///path."),
    ),
    flag("load-image", Each, Something("OCI layouts and archives that the native runtime loads.")),
    flag(
        "registry-config",
        Text,
        Something(
            "Lets the native runtime pull images, by this directory of HOST/hosts.toml files as \
             containerd has them; it may be empty. Default: it pulls none.",
        ),
    ),
    flag("container-runtime", Text, GONE),
    flag("image-service-endpoint", Text, RUNTIMES),
    flag("network-plugin", Text, GONE),
    flag("cni-conf-dir", Text, RUNTIMES),
    flag("cni-bin-dir", Text, RUNTIMES),
    flag("pod-infra-container-image", Text, RUNTIMES),
    flag("cgroup-driver", Text, RUNTIMES),
    flag("cgroup-root", Text, RUNTIMES),
    flag("runtime-cgroups", Text, RUNTIMES),
    flag("kubelet-cgroups", Text, RUNTIMES),
    flag("runtime-request-timeout", Duration, TUNED),
    flag("image-pull-progress-deadline", Duration, GONE),
    flag("serialize-image-pulls", Bool, TUNED),
    flag("fail-swap-on", Bool, Nothing("swap does not matter to it")),
];

const SERVING: &[Flag] = &[
    flag("address", Text, Something("Where its API listens. Default: 0.0.0.0.")),
    flag("port", Number, Something("The port of its API. Default: 10250.")),
    flag("read-only-port", Number, Nothing("everything is served at the one port")),
    flag("healthz-port", Number, Something("The port of its health, 0 for none. Default: 10248.")),
    flag("healthz-bind-address", Text, Something("Where that listens. Default: 127.0.0.1.")),
    flag("tls-cert-file", Text, Something("The certificate of its API, in PEM.")),
    flag("tls-private-key-file", Text, Something("Its key, in PEM.")),
    flag("client-ca-file", Text, Something("The authority of clients' certificates, in PEM.")),
    flag("anonymous-auth", Bool, Something("Whether anybody is somebody. Default: false.")),
    flag(
        "authentication-token-webhook",
        Bool,
        Something("Whether the API server is asked about tokens. Default: true."),
    ),
    flag("authorization-mode", Text, Something("Webhook or AlwaysAllow. Default: Webhook.")),
];

const CONFIGURATION: &[Flag] = &[
    flag("config", Text, Something("A file of kind KubeletConfiguration.")),
    flag("cluster-dns", List, Something("Name servers of Pods.")),
    flag("cluster-domain", Text, Something("The cluster's domain. Default: cluster.local.")),
    flag("resolv-conf", Text, Something("The node's resolver. Default: /etc/resolv.conf.")),
    flag(
        "node-status-update-frequency",
        Duration,
        Nothing("the status is looked at with each sign of life, a quarter of a Lease's time"),
    ),
    flag("feature-gates", List, TUNED),
];

const OTHERS: &[Flag] = &[
    flag("allow-privileged", Bool, GONE),
    flag("enable-server", Bool, TUNED),
    flag("exit-on-lock-contention", Bool, TUNED),
    flag("lock-file", Text, TUNED),
    flag("hairpin-mode", Text, RUNTIMES),
    flag("housekeeping-interval", Duration, TUNED),
    flag(
        "image-credential-provider-bin-dir",
        Text,
        Something("Where the programs are that know credentials for images."),
    ),
    flag(
        "image-credential-provider-config",
        Text,
        Something("Which programs those are: a CredentialProviderConfig."),
    ),
    flag("node-status-max-images", Number, TUNED),
    flag("runonce", Bool, Refused("it runs until it is told to stop")),
    flag("volume-plugin-dir", Text, TUNED),
];

#[cfg(test)]
mod tests {
    use crate::{options::Options, program::options_of};

    #[test]
    fn the_flags_of_stock_nodes_are_known() {
        for stock in [
            // As a cluster from binaries has it.
            "--logtostderr=false --v=2 --log-dir=/logs --hostname-override=k8s-node1 \
             --network-plugin=cni --kubeconfig=/kubelet.kubeconfig \
             --bootstrap-kubeconfig=/bootstrap.kubeconfig --cert-dir=/ssl \
             --pod-infra-container-image=pause:3.2",
            // As kubeadm has it.
            "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
             --kubeconfig=/etc/kubernetes/kubelet.conf --hostname-override=n1 \
             --container-runtime-endpoint=unix:///var/run/containerd/containerd.sock \
             --pod-infra-container-image=registry.k8s.io/pause:3.10",
        ] {
            options_of(stock, Options::read).unwrap();
        }
    }
}
