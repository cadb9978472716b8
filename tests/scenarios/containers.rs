//! What containers are given and how they end, as Kubernetes' conformance list asks for it: in real
//! containers.

use crate::harness::{Shell, apply, scenarios};

scenarios! {
    Both:
        containers_run_what_the_image_or_the_pod_says,
        environment_comes_from_fields_resources_and_other_variables,
        environment_comes_from_config_maps_and_secrets,
        containers_leave_messages_when_they_end,
        containers_run_as_who_the_pod_says,
        volumes_belong_to_the_pods_group,
        hosts_files_are_the_kubelets_or_the_nodes,
        sub_paths_are_made_of_variables,
        only_safe_kernel_parameters_are_set,
        containers_may_restart_by_rules_of_their_own,
        hooks_run_after_the_start_and_before_the_end;
}

const PHASE: &str = "-o jsonpath='{.status.phase}'";

/// How often a Pod is run whose output the runtime has lost.
const ATTEMPTS: usize = 4;

/// Runs a Pod to its end, and returns how it ended and what it printed; `spec` goes below its restart
/// policy.
#[track_caller]
pub(crate) fn run(t: &Shell, name: &str, spec: &str) -> String {
    let mut attempt = 1;
    loop {
        apply(t, name, &format!("restartPolicy: Never\n{spec}"));
        let phase = t.until(&format!("kubectl get pod {name} {PHASE}"), "an end", |phase| {
            matches!(phase, "Succeeded" | "Failed")
        });
        let printed = t.ok(&format!("kubectl logs {name} -c c"));
        if !printed.is_empty() || !t.may_lose_output() || attempt == ATTEMPTS {
            return format!("{phase}\n{printed}");
        }
        attempt += 1;
        t.ok(&format!("kubectl delete pod {name} --grace-period=1"));
    }
}

/// What a Pod with one container printed that succeeded.
#[track_caller]
pub(crate) fn printed(t: &Shell, name: &str, container: &str) -> String {
    let output = run(t, name, &format!("containers:\n- {{name: c, image: busybox, {container}}}"));
    output.strip_prefix("Succeeded\n").unwrap_or_else(|| panic!("{name}: {output}")).to_owned()
}

// Conformance: Containers, without command and arguments
// Conformance: Containers, with arguments
// Conformance: Containers, with command
// Conformance: Containers, with command and arguments
// Conformance: Environment variables, expansion
// Conformance: Environment variables, command expansion
// Conformance: Environment variables, command argument expansion
// Conformance: Kubelet, log output, default
fn containers_run_what_the_image_or_the_pod_says(t: &Shell) {
    let speaker = |name: &str, more: &str| {
        run(t, name, &format!("containers:\n- {{name: c, image: 'speaker:v1'{more}}}"))
    };
    assert_eq!(speaker("default", ""), "Succeeded\nsaid by default\n");
    assert_eq!(speaker("arguments", ", args: [otherwise]"), "Succeeded\nsaid otherwise\n");
    assert_eq!(speaker("replaced", ", command: [/bin/echo, only this]"), "Succeeded\nonly this\n");
    assert_eq!(printed(t, "both", "command: [echo, one], args: [two]"), "one two\n");
    assert_eq!(printed(t, "command", "command: [echo, one]"), "one\n");
    let env = "env: [{name: A, value: a}, {name: B, value: '$(A)-b'}, {name: E, value: echo}]";
    let output = printed(
        t,
        "expanded",
        &format!("command: ['$(E)', '$(B)'], args: ['$(A) $$(A) $(C)'], {env}"),
    );
    assert_eq!(output, "a-b a $(A) $(C)\n");
    let both = printed(t, "outputs", "command: [sh, -c, 'echo out; echo err >&2']");
    assert!(both.contains("out\n") && both.contains("err\n"), "{both}");
}

// Conformance: DownwardAPI, environment for CPU and memory limits and requests
// Conformance: DownwardAPI, environment for default CPU and memory limits and requests
// Conformance: DownwardAPI, environment for host ip
// Conformance: DownwardAPI, environment for Pod UID
// Conformance: DownwardAPI, environment for name, namespace and ip
// Conformance: Pods, assigned hostip
fn environment_comes_from_fields_resources_and_other_variables(t: &Shell) {
    let field = |name: &str, path: &str| {
        format!("{{name: {name}, valueFrom: {{fieldRef: {{fieldPath: {path}}}}}}}")
    };
    let resource = |name: &str, resource: &str| {
        format!("{{name: {name}, valueFrom: {{resourceFieldRef: {{resource: {resource}}}}}}}")
    };
    let env = [
        field("NAME", "metadata.name"),
        field("NAMESPACE", "metadata.namespace"),
        field("ID", "metadata.uid"),
        field("IP", "status.podIP"),
        field("HOST", "status.hostIP"),
        resource("CPU_LIMIT", "limits.cpu"),
        resource("CPU_REQUEST", "requests.cpu"),
        resource("MEMORY_LIMIT", "limits.memory"),
        resource("MEMORY_REQUEST", "requests.memory"),
    ]
    .join(", ");
    let resources =
        "resources: {requests: {cpu: 250m, memory: 32Mi}, limits: {cpu: 1250m, memory: 64Mi}}";
    let shown = printed(t, "limited", &format!("command: [env], env: [{env}], {resources}"));
    let of = |path: &str| t.ok(&format!("kubectl get pod limited -o jsonpath='{{{path}}}'"));
    let expected = [
        ("NAME", "limited".to_owned()),
        ("NAMESPACE", t.namespace().to_owned()),
        ("ID", of(".metadata.uid")),
        ("HOST", of(".status.hostIP")),
        ("CPU_LIMIT", "2".to_owned()),
        ("CPU_REQUEST", "1".to_owned()),
        ("MEMORY_LIMIT", (64 << 20).to_string()),
        ("MEMORY_REQUEST", (32 << 20).to_string()),
    ];
    for (name, value) in expected {
        assert!(shown.lines().any(|line| line == format!("{name}={value}")), "{name}: {shown}");
    }
    assert!(shown.lines().any(|line| line.starts_with("IP=10.")), "{shown}");
    // Without limits a container may have what the node has.
    let shown = printed(t, "unlimited", &format!("command: [env], env: [{env}]"));
    let memory = shown.lines().find_map(|line| line.strip_prefix("MEMORY_LIMIT="));
    assert!(
        memory.is_some_and(|bytes| bytes.parse::<u64>().is_ok_and(|n| n > 64 << 20)),
        "{shown}"
    );
}

// Conformance: ConfigMap, from environment field
// Conformance: ConfigMap, from environment variables
// Conformance: Secrets, pod environment field
// Conformance: Secrets, pod environment from source
fn environment_comes_from_config_maps_and_secrets(t: &Shell) {
    t.ok("kubectl create configmap settings --from-literal=color=red --from-literal=size=big && \
          kubectl create secret generic hidden --from-literal=word=xyzzy");
    let shown = printed(
        t,
        "fed",
        "command: [env], env: [\
         {name: ONE, valueFrom: {configMapKeyRef: {name: settings, key: color}}}, \
         {name: TWO, valueFrom: {secretKeyRef: {name: hidden, key: word}}}], \
         envFrom: [{configMapRef: {name: settings}}, {prefix: p_, secretRef: {name: hidden}}]",
    );
    for line in ["ONE=red", "TWO=xyzzy", "color=red", "size=big", "p_word=xyzzy"] {
        assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
    }
}

// Conformance: Container Runtime, TerminationMessage, from log output of succeeding container
// Conformance: Container Runtime, TerminationMessage, from file of succeeding container
// Conformance: Container Runtime, TerminationMessage, from container's log output of failing container
// Conformance: Container Runtime, TerminationMessagePath, non-root user and non-default path
// Conformance: Kubelet, failed pod, terminated reason
fn containers_leave_messages_when_they_end(t: &Shell) {
    let fallback = "terminationMessagePolicy: FallbackToLogsOnError";
    let message = |name: &str| {
        t.ok(&format!(
            "kubectl get pod {name} \
             -o jsonpath='{{.status.containerStatuses[0].state.terminated.message}}'"
        ))
    };
    printed(t, "quiet", &format!("command: [echo, done], {fallback}"));
    assert_eq!(message("quiet"), "");
    let write = "command: [sh, -c, 'echo -n well > /dev/termination-log']";
    printed(t, "file", &format!("{write}, {fallback}"));
    assert_eq!(message("file"), "well");
    let fail = format!(
        "containers:\n- {{name: c, image: busybox, command: [sh, -c, 'echo -n bad; exit 3'], {fallback}}}"
    );
    assert!(run(t, "log", &fail).starts_with("Failed"));
    assert_eq!(message("log"), "bad");
    let ended = "-o jsonpath='{.status.containerStatuses[0].state.terminated.reason} {.status.containerStatuses[0].state.terminated.exitCode}'";
    assert_eq!(t.ok(&format!("kubectl get pod log {ended}")), "Error 3");
    printed(
        t,
        "elsewhere",
        "command: [sh, -c, 'echo -n here > /dev/own'], terminationMessagePath: /dev/own, \
         securityContext: {runAsUser: 10001}",
    );
    assert_eq!(message("elsewhere"), "here");
}

// Conformance: Security Context, runAsUser=65534
// Conformance: Security Context, test RunAsGroup at container level
// Conformance: Security Context, test RunAsGroup at pod level
// Conformance: Security Context, allowPrivilegeEscalation=false.
// Conformance: Security Context, privileged=false.
// Conformance: Security Context, readOnlyRootFilesystem=false.
// Conformance: Kubelet, pod with read only root file system
fn containers_run_as_who_the_pod_says(t: &Shell) {
    let who = "command: [sh, -c, 'id -u; id -g']";
    let as_ = |user: &str| format!("{who}, securityContext: {{{user}}}");
    assert_eq!(printed(t, "nobody", &as_("runAsUser: 65534")).lines().next(), Some("65534"));
    assert_eq!(printed(t, "own", &as_("runAsUser: 1001, runAsGroup: 2002")), "1001\n2002\n");
    let pods = "securityContext: {runAsUser: 1001, runAsGroup: 2002, supplementalGroups: [3003]}\n\
                containers:\n- {name: c, image: busybox, command: [sh, -c, 'id -u; id -g; id -G']}";
    assert_eq!(run(t, "pods", pods), "Succeeded\n1001\n2002\n2002 3003\n");
    let bit = "command: [sh, -c, 'id -u; grep NoNewPrivs /proc/self/status']";
    let kept = "securityContext: {runAsUser: 1000, allowPrivilegeEscalation: false}";
    let shown = printed(t, "kept", &format!("{bit}, {kept}"));
    assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), ["1000", "NoNewPrivs:", "1"]);
    let link = "command: [sh, -c, 'ip link add dummy0 type dummy || echo refused']";
    let shown = printed(t, "plain", &format!("{link}, securityContext: {{privileged: false}}"));
    assert!(shown.contains("refused"), "{shown}");
    let write = "command: [sh, -c, 'echo x > /file && echo written || echo refused']";
    let may = |read_only: bool| {
        format!("{write}, securityContext: {{readOnlyRootFilesystem: {read_only}}}")
    };
    assert!(printed(t, "writable", &may(false)).contains("written"));
    assert!(printed(t, "sealed", &may(true)).contains("refused"));

    // Who must not be root is not run when that cannot be shown.
    let root = "containers:\n- {name: c, image: busybox, securityContext: {runAsNonRoot: true}}";
    apply(t, "root", root);
    t.eventually("kubectl get pod root", "CreateContainerConfigError");
    t.eventually("kubectl get events", "container has runAsNonRoot and image will run as root");
}

fn volumes_belong_to_the_pods_group(t: &Shell) {
    t.ok("kubectl create configmap text --from-literal=a=1");
    let shown = run(
        t,
        "group",
        "securityContext: {runAsUser: 1000, fsGroup: 4004}\n\
         volumes: [{name: e, emptyDir: {}}, {name: m, configMap: {name: text, defaultMode: 0400}}]\n\
         containers:\n- {name: c, image: busybox, \
         command: [sh, -c, 'touch /e/f; stat -c \"%u %g\" /e/f; cat /m/a; echo; id -G'], \
         volumeMounts: [{name: e, mountPath: /e}, {name: m, mountPath: /m}]}",
    );
    let words: Vec<_> = shown.split_whitespace().collect();
    assert_eq!(&words[..4], ["Succeeded", "1000", "4004", "1"]);
    assert!(words[4..].contains(&"4004"), "{shown}");
}

// Conformance: Kubelet, hostAliases
// Conformance: Kubelet, managed etc hosts
fn hosts_files_are_the_kubelets_or_the_nodes(t: &Shell) {
    let cat = "containers:\n- {name: c, image: busybox, command: [cat, /etc/hosts]}";
    let aliases = "hostAliases: [{ip: 123.45.67.89, hostnames: [foo, bar]}]";
    let shown = run(t, "aliases", &format!("{aliases}\n{cat}"));
    assert!(shown.contains("# Kubernetes-managed hosts file."), "{shown}");
    assert!(shown.contains("123.45.67.89\tfoo\tbar"), "{shown}");
    let shown = run(
        t,
        "mounted",
        "volumes: [{name: v, hostPath: {path: /etc/hosts, type: File}}]\n\
        containers:\n- {name: c, image: busybox, command: [cat, /etc/hosts], \
        volumeMounts: [{name: v, mountPath: /etc/hosts}]}",
    );
    assert!(!shown.contains("Kubernetes-managed"), "{shown}");
    let shown = run(t, "node", &format!("hostNetwork: true\n{cat}"));
    assert!(!shown.contains("Kubernetes-managed hosts file."), "{shown}");
    let shown = run(t, "both", &format!("hostNetwork: true\n{aliases}\n{cat}"));
    assert!(shown.contains("(host network)") && shown.contains("foo\tbar"), "{shown}");

    let name = "hostname: web\nsubdomain: db\nsetHostnameAsFQDN: true\n\
                containers:\n- {name: c, image: busybox, command: [hostname]}";
    let shown = run(t, "fqdn", name);
    assert_eq!(shown, format!("Succeeded\nweb.db.{}.svc.cluster.local\n", t.namespace()));
}

// Conformance: VolumeSubpathEnvExpansion, subpath expansion
// Conformance: VolumeSubpathEnvExpansion, subpath with absolute path
// Conformance: VolumeSubpathEnvExpansion, subpath with backticks
// Conformance: VolumeSubpathEnvExpansion, subpath test writes
fn sub_paths_are_made_of_variables(t: &Shell) {
    let spec = |value: &str| {
        format!(
            "volumes: [{{name: v, emptyDir: {{}}}}]\ncontainers:\n\
             - {{name: c, image: busybox, command: [sh, -c, 'echo x > /sub/f; ls /all/*'], \
             env: [{{name: PART, value: '{value}'}}], volumeMounts: [{{name: v, mountPath: /all}}, \
             {{name: v, mountPath: /sub, subPathExpr: $(PART)}}]}}"
        )
    };
    assert_eq!(run(t, "below", &spec("one")), "Succeeded\nf\n");
    for (name, value) in [("absolute", "/tmp"), ("back", "../outside")] {
        apply(t, name, &spec(value));
        t.eventually(&format!("kubectl get pod {name}"), "CreateContainerConfigError");
    }
    // Nobody executes what is between backticks: it is the name of a folder.
    assert_eq!(run(t, "ticks", &spec("`hostname`")), "Succeeded\nf\n");
}

// Conformance: Sysctl, test sysctls
// Conformance: Sysctls, reject invalid sysctls
fn only_safe_kernel_parameters_are_set(t: &Shell) {
    let spec = |name: &str, value: &str| {
        format!(
            "securityContext: {{sysctls: [{{name: {name}, value: '{value}'}}]}}\ncontainers:\n\
             - {{name: c, image: busybox, command: [sysctl, {name}]}}"
        )
    };
    let shown = run(t, "safe", &spec("kernel.shm_rmid_forced", "1"));
    assert_eq!(shown, "Succeeded\nkernel.shm_rmid_forced = 1\n");
    apply(t, "unsafe", &spec("kernel.msgmax", "10000"));
    t.eventually("kubectl get pod unsafe", "SysctlForbidden");
    t.eventually("kubectl get events", "forbidden sysctl: \"kernel.msgmax\" not allowlisted");
    t.write("invalid.yaml", &crate::harness::pod("invalid", &spec("foo-", "bar")));
    assert!(
        t.fails("kubectl apply -f invalid.yaml").contains("spec.securityContext.sysctls[0].name")
    );
}

fn containers_may_restart_by_rules_of_their_own(t: &Shell) {
    apply(
        t,
        "rules",
        "restartPolicy: Never\nvolumes: [{name: v, emptyDir: {}}]\ncontainers:\n\
         - name: c\n  image: busybox\n  restartPolicy: Never\n  restartPolicyRules:\n  \
         - {action: Restart, exitCodes: {operator: In, values: [42]}}\n  \
         command: [sh, -c, 'test -e /v/once && exit 0; touch /v/once; exit 42']\n  \
         volumeMounts: [{name: v, mountPath: /v}]",
    );
    t.eventually(&format!("kubectl get pod rules {PHASE}"), "Succeeded");
    let restarts =
        "kubectl get pod rules -o jsonpath='{.status.containerStatuses[0].restartCount}'";
    assert_eq!(t.ok(restarts), "1");
}

// Conformance: Pod Lifecycle, post start exec hook
// Conformance: Pod Lifecycle, prestop exec hook
// Conformance: Pods, prestop hook
fn hooks_run_after_the_start_and_before_the_end(t: &Shell) {
    // A witness outlives the Pod whose hooks it hears.
    apply(
        t,
        "witness",
        "containers:\n- {name: c, image: busybox, command: [nc, -ll, -p, '8080', -e, sh, -c, 'cat >> /heard']}",
    );
    t.eventually("kubectl get pod witness", "1/1");
    let ip = t.ok("kubectl get pod witness -o jsonpath='{.status.podIP}'");
    let say = |word: &str| format!("{{exec: {{command: [sh, -c, 'echo {word} | nc {ip} 8080']}}}}");
    apply(
        t,
        "hooked",
        &format!(
            "containers:\n- {{name: c, image: busybox, command: [sleep, 1d], lifecycle: \
             {{postStart: {}, preStop: {}}}}}",
            say("started"),
            say("stopping")
        ),
    );
    t.eventually("kubectl get pod hooked", "1/1");
    t.eventually("kubectl exec witness -- cat /heard", "started");
    t.ok("kubectl delete pod hooked --grace-period=5");
    t.eventually("kubectl exec witness -- cat /heard", "stopping");
}
