//! What a Pod can ask of its node beside containers: sidecars, hooks, messages, debugging, volumes.

use crate::harness::{Shell, apply, pod, rows, scenarios};

scenarios! {
    Both:
        sidecars_start_before_and_stop_after_the_others,
        a_job_like_pod_ends_although_its_sidecar_would_not,
        hooks_run_after_the_start_and_before_the_stop,
        a_failing_start_hook_restarts_the_container,
        a_deadline_ends_a_pod,
        messages_are_read_from_their_file_or_from_the_log,
        kubectl_debug_looks_into_a_running_pod,
        names_and_resolvers_are_as_the_pod_wants_them,
        a_shared_process_namespace_shows_all_processes,
        sub_paths_are_parts_of_volumes,
        the_downward_api_and_projected_volumes_show_fields,
        a_volume_in_memory_has_its_size;
}

const BUSYBOX: &str = "image: busybox, imagePullPolicy: IfNotPresent";

fn sidecars_start_before_and_stop_after_the_others(t: &Shell) {
    // Each one writes when it starts and when it is told to stop. `tail` outlives them on the node.
    let script = |name: &str| {
        format!(
            "[sh, -c, 'echo start-{name} >> /v/log; trap \"echo stop-{name} >> /v/log; exit 0\" TERM; \
             while true; do sleep 0.1; done']"
        )
    };
    let mount = "volumeMounts: [{name: v, mountPath: /v}]";
    let directory = t.ok("pwd").trim().to_owned();
    apply(
        t,
        "crew",
        &format!(
            "terminationGracePeriodSeconds: 20\nvolumes: [{{name: v, hostPath: {{path: {directory}}}}}]\ninitContainers:\n\
             - {{name: one, {BUSYBOX}, restartPolicy: Always, {mount}, command: {}, \
             startupProbe: {{exec: {{command: [grep, start-one, /v/log]}}, periodSeconds: 1}}}}\n\
             - {{name: once, {BUSYBOX}, {mount}, command: [sh, -c, 'echo once >> /v/log']}}\n\
             - {{name: two, {BUSYBOX}, restartPolicy: Always, {mount}, command: {}}}\n\
             containers:\n- {{name: app, {BUSYBOX}, {mount}, command: {}}}",
            script("one"),
            script("two"),
            script("app"),
        ),
    );
    t.eventually("kubectl get pod crew", "3/3");
    assert_eq!(t.ok("cat log"), "start-one\nonce\nstart-two\nstart-app\n");
    t.ok("kubectl exec crew -c two -- true");
    t.ok("kubectl delete pod crew");
    assert_eq!(t.ok("tail -n 3 log"), "stop-app\nstop-two\nstop-one\n");
}

fn a_job_like_pod_ends_although_its_sidecar_would_not(t: &Shell) {
    apply(
        t,
        "job",
        &format!(
            "restartPolicy: Never\nterminationGracePeriodSeconds: 2\n\
             initContainers: [{{name: side, {BUSYBOX}, restartPolicy: Always, command: [sleep, 1d]}}]\n\
             containers: [{{name: work, {BUSYBOX}, command: [sh, -c, 'sleep 1; echo done']}}]"
        ),
    );
    t.eventually("kubectl get pod job -o 'jsonpath={.status.phase}'", "Succeeded");
    assert_eq!(t.ok("kubectl logs job -c work"), "done\n");
}

fn hooks_run_after_the_start_and_before_the_stop(t: &Shell) {
    let directory = t.ok("pwd").trim().to_owned();
    apply(
        t,
        "hooked",
        &format!(
            "volumes: [{{name: v, hostPath: {{path: {directory}}}}}]\ncontainers:\n- name: c\n  image: 'myapp:v1'\n  \
             volumeMounts: [{{name: v, mountPath: /v}}]\n  lifecycle:\n    \
             postStart: {{exec: {{command: [sh, -c, 'echo begun > /v/hooks']}}}}\n    \
             preStop: {{exec: {{command: [sh, -c, 'sleep 1; echo ending >> /v/hooks']}}}}"
        ),
    );
    t.eventually("kubectl get pod hooked", "1/1");
    assert_eq!(t.ok("cat hooks"), "begun\n");
    t.ok("kubectl delete pod hooked");
    assert_eq!(t.ok("cat hooks"), "begun\nending\n");
    apply(
        t,
        "web",
        "containers:\n- name: c\n  image: 'myapp:v1'\n  lifecycle:\n    \
         postStart: {sleep: {seconds: 1}}\n    preStop: {httpGet: {path: /, port: 80}}",
    );
    t.eventually("kubectl get pod web", "1/1");
    t.ok("kubectl delete pod web");
    let events = t.ok("kubectl get events --field-selector involvedObject.name=web");
    assert!(!events.contains("FailedP"), "{events}");
}

fn a_failing_start_hook_restarts_the_container(t: &Shell) {
    apply(
        t,
        "hooked",
        &format!(
            "containers:\n- {{name: c, {BUSYBOX}, command: [sleep, 1d], \
             lifecycle: {{postStart: {{exec: {{command: ['false']}}}}}}}}"
        ),
    );
    t.eventually("kubectl get events", "FailedPostStartHook");
    t.until(
        "kubectl get pod hooked -o 'jsonpath={.status.containerStatuses[0].restartCount}'",
        "a restart",
        |count| count.parse::<u32>().is_ok_and(|count| count >= 1),
    );
}

fn a_deadline_ends_a_pod(t: &Shell) {
    apply(
        t,
        "short",
        &format!(
            "activeDeadlineSeconds: 2\nterminationGracePeriodSeconds: 1\n\
             containers: [{{name: c, {BUSYBOX}, command: [sleep, 1d]}}]"
        ),
    );
    t.eventually(
        "kubectl get pod short -o 'jsonpath={.status.phase} {.status.reason}'",
        "Failed DeadlineExceeded",
    );
}

fn messages_are_read_from_their_file_or_from_the_log(t: &Shell) {
    let message = |name: &str, container: &str| {
        apply(
            t,
            name,
            &format!("restartPolicy: Never\ncontainers:\n- {{name: c, {BUSYBOX}, {container}}}"),
        );
        t.until(
            &format!("kubectl get pod {name} -o 'jsonpath={{.status.phase}}'"),
            "the end",
            |phase| phase == "Failed" || phase == "Succeeded",
        );
        t.ok(&format!(
            "kubectl get pod {name} -o 'jsonpath={{.status.containerStatuses[0].state.terminated.message}}'"
        ))
    };
    assert_eq!(message("file", "command: [sh, -c, 'echo -n bye > /dev/termination-log']"), "bye");
    let elsewhere =
        "terminationMessagePath: /tmp/end, command: [sh, -c, 'echo -n there > /tmp/end']";
    assert_eq!(message("elsewhere", elsewhere), "there");
    let fallback = "terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, 'echo one; echo two; sleep 1; exit 1']";
    assert_eq!(message("log", fallback), "one\ntwo\n");
    let good = "terminationMessagePolicy: FallbackToLogsOnError, command: [echo, fine]";
    assert_eq!(message("good", good), "");
}

fn kubectl_debug_looks_into_a_running_pod(t: &Shell) {
    apply(t, "web", "containers:\n- {name: c, image: 'myapp:v1'}");
    t.eventually("kubectl get pod web", "1/1");
    t.ok("kubectl debug web --image=busybox --image-pull-policy=IfNotPresent --target=c -c look \
         -- sh -c 'ps; hostname; sleep 1d'");
    let state = "kubectl get pod web -o 'jsonpath={.status.ephemeralContainerStatuses[0].state}'";
    t.eventually(state, "running");
    // It shares the network and, as it was asked to, the processes of its target.
    t.until("kubectl logs web -c look", "the processes and the host name", |out| {
        out.contains("httpd") && out.ends_with("web\n")
    });
    assert_eq!(t.ok("kubectl exec web -c look -- echo in"), "in\n");
    let typed = "(sleep 4; echo 'echo $((6*7))'; sleep 4) | timeout 8 script -qec \
         'kubectl debug -it web --image=busybox --image-pull-policy=IfNotPresent -c shell -- sh' /dev/null; true";
    let seen = t.ok(typed);
    assert!(seen.contains("42"), "{seen}");
    assert_eq!(rows(&t.ok("kubectl get pod web --no-headers"))[0][1], "1/1");
    t.ok("kubectl delete pod web --grace-period=1");
}

fn names_and_resolvers_are_as_the_pod_wants_them(t: &Shell) {
    apply(
        t,
        "named",
        &format!(
            "hostname: inner\nsubdomain: group\ndnsPolicy: None\n\
             dnsConfig: {{nameservers: [192.0.2.53], searches: [example.org], options: [{{name: ndots, value: '3'}}, {{name: edns0}}]}}\n\
             hostAliases: [{{ip: 192.0.2.1, hostnames: [db, db.example.org]}}]\n\
             containers: [{{name: c, {BUSYBOX}, command: [sleep, 1d]}}]"
        ),
    );
    t.eventually("kubectl get pod named", "1/1");
    assert_eq!(t.ok("kubectl exec named -- hostname"), "inner\n");
    let hosts = t.ok("kubectl exec named -- cat /etc/hosts");
    assert!(hosts.contains("192.0.2.1\tdb\tdb.example.org"), "{hosts}");
    assert!(
        hosts.contains(&format!("inner.group.{}.svc.cluster.local\tinner", t.namespace())),
        "{hosts}"
    );
    let resolver = t.ok("kubectl exec named -- cat /etc/resolv.conf");
    for line in ["nameserver 192.0.2.53", "search example.org", "ndots:3", "edns0"] {
        assert!(resolver.contains(line), "{line} in {resolver}");
    }
}

fn a_shared_process_namespace_shows_all_processes(t: &Shell) {
    apply(
        t,
        "family",
        &format!(
            "shareProcessNamespace: true\ncontainers:\n\
             - {{name: a, {BUSYBOX}, command: [sleep, '86401']}}\n- {{name: b, {BUSYBOX}, command: [sleep, '86402']}}"
        ),
    );
    t.eventually("kubectl get pod family", "2/2");
    let seen = t.ok("kubectl exec family -c b -- ps");
    assert!(seen.contains("86401") && seen.contains("86402"), "{seen}");
}

fn sub_paths_are_parts_of_volumes(t: &Shell) {
    t.ok("kubectl create configmap conf --from-literal=a.txt=A --from-literal=b.txt=B");
    apply(
        t,
        "parts",
        "volumes: [{name: v, emptyDir: {}}, {name: conf, configMap: {name: conf}}]\ncontainers:\n- name: c\n  \
             image: busybox\n  imagePullPolicy: IfNotPresent\n  \
             command: [sh, -c, 'echo mine > /own/file; sleep 1d']\n  \
             env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]\n  volumeMounts:\n  \
             - {name: v, mountPath: /whole}\n  - {name: v, mountPath: /own, subPathExpr: logs/$(POD)}\n  \
             - {name: conf, mountPath: /etc/one.txt, subPath: a.txt, readOnly: true}",
    );
    t.eventually("kubectl get pod parts", "1/1");
    t.eventually("kubectl exec parts -- cat /whole/logs/parts/file", "mine");
    assert_eq!(t.ok("kubectl exec parts -- cat /etc/one.txt"), "A");
    t.fails("kubectl exec parts -- sh -c 'echo x > /etc/one.txt'");
    let out = "volumes: [{name: v, emptyDir: {}}]\ncontainers:\n- {name: c, image: busybox, volumeMounts: [{name: v, mountPath: /v, subPath: ../x}]}";
    t.write("out.yaml", &pod("out", out));
    let refused = t.fails("kubectl apply -f out.yaml");
    assert!(refused.contains("must not contain '..'"), "{refused}");
}

fn the_downward_api_and_projected_volumes_show_fields(t: &Shell) {
    t.ok("kubectl create configmap conf --from-literal=key=from-map");
    t.ok("kubectl create secret generic hidden --from-literal=key=from-secret");
    apply(
        t,
        "fields",
        &format!(
            "volumes:\n- name: down\n  downwardAPI:\n    items:\n    \
             - {{path: labels, fieldRef: {{fieldPath: metadata.labels}}}}\n    \
             - {{path: limit, resourceFieldRef: {{containerName: c, resource: limits.memory, divisor: 1Mi}}}}\n\
             - name: all\n  projected:\n    sources:\n    \
             - configMap: {{name: conf, items: [{{key: key, path: map/key}}]}}\n    \
             - secret: {{name: hidden, items: [{{key: key, path: secret/key, mode: 256}}]}}\n    \
             - downwardAPI: {{items: [{{path: name, fieldRef: {{fieldPath: metadata.name}}}}]}}\n    \
             - serviceAccountToken: {{path: token, audience: vault}}\n\
             containers:\n- {{name: c, {BUSYBOX}, command: [sleep, 1d], resources: {{limits: {{memory: 64Mi}}}}, \
             volumeMounts: [{{name: down, mountPath: /down}}, {{name: all, mountPath: /all}}]}}"
        ),
    );
    t.eventually("kubectl get pod fields", "1/1");
    let cat = |path: &str| t.ok(&format!("kubectl exec fields -- cat {path}"));
    assert_eq!(cat("/down/limit"), "64");
    assert_eq!(cat("/all/map/key"), "from-map");
    assert_eq!(cat("/all/secret/key"), "from-secret");
    assert_eq!(cat("/all/name"), "fields");
    assert_eq!(cat("/all/token").split('.').count(), 3, "a signed token");
    assert!(t.ok("kubectl exec fields -- ls -lL /all/secret/key").starts_with("-r--------"));
}

fn a_volume_in_memory_has_its_size(t: &Shell) {
    apply(
        t,
        "memory",
        &format!(
            "volumes: [{{name: v, emptyDir: {{medium: Memory, sizeLimit: 2Mi}}}}]\n\
             containers: [{{name: c, {BUSYBOX}, command: [sleep, 1d], volumeMounts: [{{name: v, mountPath: /v}}]}}]"
        ),
    );
    t.eventually("kubectl get pod memory", "1/1");
    assert!(t.ok("kubectl exec memory -- mount").contains("tmpfs on /v type tmpfs"));
    let full = t.sh("kubectl exec memory -- dd if=/dev/zero of=/v/file bs=1M count=4");
    assert!(full.code != 0 && full.stderr.contains("No space left"), "{full:?}");
}
