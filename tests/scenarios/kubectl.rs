//! Section D of the scenarios: kubectl's commands.

use crate::harness::{Shell, rows, scenarios};

scenarios! {
    Simulated:
        s65_run_makes_a_bare_pod,
        s68_words_after_the_dashes_are_arguments,
        s69_create_deployment,
        s78_describe_shows_conditions_and_events,
        s83_delete_in_all_forms,
        s89_scale_follows_up_and_down,
        s90_set_image_rolls_out;
    Sim:
        s70_create_from_files,
        s71_create_service_loadbalancer,
        s72_apply_twice_and_after_a_change,
        s73_a_dump_can_be_applied_again,
        s74_get_in_all_forms,
        columns_are_those_of_the_documents,
        s76_yaml_decodes_to_the_object,
        s84_the_kubernetes_service_comes_back,
        s86_edit_with_a_scripted_editor,
        s87_patches_of_all_types,
        s88_label_needs_overwrite,
        s91_rollout_history,
        s92_rollout_undo,
        s93_expose,
        s94_create_secret_tls,
        s95_create_secret_from_file,
        s96_create_namespace,
        s97_create_serviceaccount,
        diff_shows_a_change,
        wait_for_a_condition,
        cordon_and_drain,
        events_are_listed,
        rollout_pause_resume_restart,
        apply_keeps_what_others_set;
    Both:
        s66_run_opens_a_terminal,
        s67_run_rm_deletes_at_the_end,
        s77_get_watch_prints_changes,
        s80_logs,
        s81_exec;
}

fn ready(t: &Shell, deployment: &str, replicas: usize) {
    t.ok(&format!("kubectl rollout status deployment {deployment} --timeout=50s"));
    let wanted = format!("{replicas}/{replicas}");
    t.eventually(&format!("kubectl get deployment {deployment}"), &wanted);
}

fn s65_run_makes_a_bare_pod(t: &Shell) {
    assert_eq!(t.ok("kubectl run nginx --image=nginx"), "pod/nginx created\n");
    assert_eq!(t.ok("kubectl run demo --image=nginx --port=80"), "pod/demo created\n");
    assert!(t.ok("kubectl get pod nginx --show-labels").contains("run=nginx"));
    assert_eq!(
        t.ok("kubectl get pod demo -o 'jsonpath={.spec.containers[*].name} \
              {.spec.containers[0].ports[0].containerPort}'"),
        "demo 80"
    );
    t.eventually("kubectl get pod nginx", "Running");
    t.ok("kubectl delete pod nginx demo");
    assert_eq!(t.ok("kubectl get pods -o name"), "");
}

fn s66_run_opens_a_terminal(t: &Shell) {
    let line = "(sleep 4; echo 'echo $((6*7))'; sleep 1; echo exit) | \
                script -qec 'kubectl run -it demo --image=busybox --restart=Never' /dev/null";
    let terminal = t.ok(line);
    assert!(terminal.contains("42"), "{terminal}");
    t.eventually("kubectl get pod demo", "Completed");
    assert_eq!(
        t.ok("kubectl get pod demo -o 'jsonpath={.spec.restartPolicy} {.status.phase}'"),
        "Never Succeeded"
    );
}

fn s67_run_rm_deletes_at_the_end(t: &Shell) {
    let output = t.ok("(sleep 4; echo 'echo $((6*7)); exit') | \
         kubectl run -i --rm dns-test --image=busybox:1.28.4 --restart=Never sh");
    assert!(output.contains("42") && output.contains("pod \"dns-test\" deleted"), "{output}");
    t.fails("kubectl get pod dns-test");
}

fn s68_words_after_the_dashes_are_arguments(t: &Shell) {
    t.ok("kubectl run test1 --image=busybox:1.28.4 -- sleep 24h");
    let args = t.ok("kubectl get pod test1 -o 'jsonpath={.spec.containers[0].args}'");
    assert_eq!(args, r#"["sleep","24h"]"#);
    t.eventually("kubectl get pod test1", "Running");
}

fn s69_create_deployment(t: &Shell) {
    t.ok("kubectl create deployment my-dep --image=myapp:v1 --replicas=3");
    ready(t, "my-dep", 3);
    assert_eq!(rows(&t.ok("kubectl get rs -l app=my-dep --no-headers")).len(), 1);
    let container = t
        .ok("kubectl get deployment my-dep -o 'jsonpath={.spec.template.spec.containers[0].name}'");
    assert_eq!(container, "myapp");
    let pods = t.ok("kubectl get pods -l app=my-dep -o name");
    let victim = pods.lines().next().expect("a pod").to_owned();
    t.ok(&format!("kubectl delete {victim}"));
    ready(t, "my-dep", 3);
    t.ok("kubectl delete deployment my-dep");
    t.until("kubectl get pods,rs -o name", "nothing left", str::is_empty);
}

fn s70_create_from_files(t: &Shell) {
    t.manifest("49-replicaset-frontend.yaml");
    t.ok("mkdir folder && cp 49-replicaset-frontend.yaml folder/a.yaml");
    t.ok("kubectl create -f 49-replicaset-frontend.yaml");
    let again = t.fails("kubectl create -f 49-replicaset-frontend.yaml");
    assert!(again.contains("(AlreadyExists)"), "{again}");
    t.ok("kubectl delete -f 49-replicaset-frontend.yaml");
    t.until("kubectl get rs -o name", "no replica set", str::is_empty);
    t.ok("kubectl create -f folder");
    t.ok("kubectl delete -f folder");
    t.until("kubectl get rs -o name", "no replica set", str::is_empty);
    t.ok("kubectl create -f - < 49-replicaset-frontend.yaml");
    t.write(
        "here.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: default}\n",
    );
    let contradiction = t.fails(&format!("kubectl create -n {} -f here.yaml", t.namespace()));
    assert!(contradiction.contains("does not match the namespace"), "{contradiction}");
    assert!(t.ok("kubectl create -h").contains("Available Commands:"));
}

fn s71_create_service_loadbalancer(t: &Shell) {
    t.ok("kubectl create service loadbalancer test --tcp=80:80");
    let service = t.ok("kubectl get service test -o 'jsonpath={.spec.type} {.spec.ports[0].port} \
         {.spec.ports[0].targetPort} {.spec.selector.app} {.spec.ports[0].nodePort}'");
    let (fixed, port) = service.rsplit_once(' ').expect("five words");
    assert_eq!(fixed, "LoadBalancer 80 80 test");
    assert!((30000..=32767).contains(&port.parse::<u16>().expect("a port")), "{port}");
}

const TWO_CONFIG_MAPS: &str = "\
apiVersion: v1
kind: ConfigMap
metadata: {name: first}
data: {a: '1', b: '2'}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: second}
";

fn s72_apply_twice_and_after_a_change(t: &Shell) {
    t.write("two.yaml", TWO_CONFIG_MAPS);
    assert_eq!(
        t.ok("kubectl apply -f two.yaml"),
        "configmap/first created\nconfigmap/second created\n"
    );
    assert_eq!(
        t.ok("kubectl apply -f two.yaml"),
        "configmap/first unchanged\nconfigmap/second unchanged\n"
    );
    t.ok("kubectl patch configmap first -p '{\"data\":{\"other\":\"kept\"}}'");
    t.write("two.yaml", &TWO_CONFIG_MAPS.replace("a: '1', b: '2'", "a: '3'"));
    assert_eq!(
        t.ok("kubectl apply -f two.yaml"),
        "configmap/first configured\nconfigmap/second unchanged\n"
    );
    let data = t.ok("kubectl get configmap first -o 'jsonpath={.data}'");
    assert_eq!(data, r#"{"a":"3","other":"kept"}"#);
}

fn apply_keeps_what_others_set(t: &Shell) {
    t.manifest("15-deployment-nginx-with-service.yaml");
    t.ok("kubectl apply -f 15-deployment-nginx-with-service.yaml");
    t.ok("kubectl scale deployment --all --replicas=4");
    t.ok("kubectl set env deployment --all ADDED=yes");
    t.ok("sed -i 's/image: \\(.*\\)/image: \\1-changed/' 15-deployment-nginx-with-service.yaml");
    t.ok("kubectl apply -f 15-deployment-nginx-with-service.yaml");
    let container =
        t.ok("kubectl get deployment -o 'jsonpath={.items[0].spec.template.spec.containers[0]}'");
    assert!(container.contains("ADDED") && container.contains("-changed"), "{container}");
}

fn s73_a_dump_can_be_applied_again(t: &Shell) {
    t.ok("kubectl run demo --image=nginx");
    t.eventually("kubectl get pod demo", "Running");
    t.ok("kubectl get pod -o yaml > demo.yaml");
    let dump = t.ok("cat demo.yaml");
    assert!(dump.contains("kind: List") && dump.contains("nodeName:"), "{dump}");
    let node = t.ok("kubectl get pod demo -o 'jsonpath={.spec.nodeName}'");
    let uid = t.ok("kubectl get pod demo -o 'jsonpath={.metadata.uid}'");
    t.ok("kubectl delete pod demo");
    // The dump's resourceVersion is dropped by `kubectl apply` when it creates.
    t.ok("kubectl apply -f demo.yaml");
    assert_eq!(t.ok("kubectl get pod demo -o 'jsonpath={.spec.nodeName}'"), node);
    assert_ne!(t.ok("kubectl get pod demo -o 'jsonpath={.metadata.uid}'"), uid);
    t.eventually("kubectl get pod demo", "Running");
}

fn s74_get_in_all_forms(t: &Shell) {
    t.ok("kubectl run nginx --image=nginx --expose --port=80");
    t.eventually("kubectl get pod nginx", "1/1");
    let header = |line: &str| rows(&t.ok(line)).into_iter().next().expect("a header").join(" ");
    assert_eq!(header("kubectl get pod"), "NAME READY STATUS RESTARTS AGE");
    assert_eq!(
        header("kubectl get pods --all-namespaces"),
        "NAMESPACE NAME READY STATUS RESTARTS AGE"
    );
    assert_eq!(
        header("kubectl get po -o wide"),
        "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES"
    );
    let both = t.ok("kubectl get pod,svc");
    assert!(both.contains("pod/nginx") && both.contains("service/nginx"), "{both}");
    assert!(t.ok("kubectl get pod --show-labels").contains("run=nginx"));
    assert!(
        t.ok("kubectl get ns default --show-labels")
            .contains("kubernetes.io/metadata.name=default")
    );
    assert_eq!(t.ok("kubectl get pod nginx -o 'jsonpath={.metadata.name}'"), "nginx");
    assert_eq!(t.ok("kubectl get po -o name"), t.ok("kubectl get pods -o name"));
    t.ok("kubectl get pod -n kube-system -o wide");
}

fn columns_are_those_of_the_documents(t: &Shell) {
    t.ok("kubectl create deployment d --image=nginx");
    t.ok("kubectl expose deployment d --port=80");
    t.ok("kubectl create secret generic s --from-literal=a=b");
    for (line, columns) in [
        ("kubectl get svc", "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE"),
        ("kubectl get deployment", "NAME READY UP-TO-DATE AVAILABLE AGE"),
        ("kubectl get rs", "NAME DESIRED CURRENT READY AGE"),
        ("kubectl get secrets", "NAME TYPE DATA AGE"),
        ("kubectl get ns", "NAME STATUS AGE"),
        ("kubectl get node", "NAME STATUS ROLES AGE VERSION"),
        ("kubectl get endpoints", "NAME ENDPOINTS AGE"),
        ("kubectl get configmap", "NAME DATA AGE"),
    ] {
        t.until(line, columns, |out| rows(out).first().is_some_and(|row| row.join(" ") == columns));
    }
    let wide = t.ok("kubectl get nodes -o wide");
    assert!(wide.contains("INTERNAL-IP") && wide.contains("CONTAINER-RUNTIME"), "{wide}");
    assert!(t.ok("kubectl get nodes --show-labels").contains("kubernetes.io/hostname="));
}

fn s76_yaml_decodes_to_the_object(t: &Shell) {
    t.ok("kubectl run nginx --image=nginx --env=A=yes --env=B=0644");
    t.eventually("kubectl get pod nginx", "Running");
    t.ok("kubectl get pod nginx -o yaml > pod.yaml");
    let env =
        t.ok("kubectl create --dry-run=client -f pod.yaml -o 'jsonpath={.spec.containers[0].env}'");
    assert_eq!(env, r#"[{"name":"A","value":"yes"},{"name":"B","value":"0644"}]"#);
    t.until(
        "kubectl replace -f pod.yaml; kubectl get pod nginx -o yaml > pod.yaml",
        "replaced",
        |out| out.contains("pod/nginx replaced"),
    );
}

fn s77_get_watch_prints_changes(t: &Shell) {
    t.ok("(timeout 20 kubectl get pod -w > watch.out 2>&1 &)");
    t.ok("sleep 1; kubectl run short --image=busybox --restart=Never -- sleep 2");
    let watched = t.eventually("cat watch.out", "Completed");
    for status in ["Pending", "ContainerCreating", "Running"] {
        assert!(watched.contains(status), "{status} in {watched}");
    }
}

fn s78_describe_shows_conditions_and_events(t: &Shell) {
    t.ok("kubectl run demo --image=nginx");
    t.eventually("kubectl get pod demo", "Running");
    let described = t.eventually("kubectl describe pod demo", "Started");
    for text in [
        "Node:",
        "IP:",
        "Labels:",
        "run=demo",
        "State:",
        "Restart Count:",
        "Conditions:",
        "PodScheduled",
        "Events:",
        "Successfully assigned",
    ] {
        assert!(described.contains(text), "{text} in {described}");
    }
    let missing = t.fails("kubectl describe pod nobody");
    assert!(missing.contains("(NotFound)"), "{missing}");
    assert!(t.ok("kubectl describe nodes").contains("Allocated resources:"));
}

fn s80_logs(t: &Shell) {
    t.write(
        "pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: two}\nspec:\n  restartPolicy: Never\n  \
         initContainers:\n  - {name: first, image: busybox, command: [sh, -c, 'echo from init; sleep 1']}\n  \
         containers:\n  - {name: a, image: busybox, command: [sh, -c, 'echo one; echo two; echo three; sleep 1']}\n  \
         - {name: b, image: busybox, command: [sh, -c, 'echo from b; sleep 600']}\n",
    );
    t.ok("kubectl apply -f pod.yaml");
    t.eventually("kubectl logs two -c b", "from b");
    t.eventually("kubectl get pod two", "1/2");
    assert_eq!(t.ok("kubectl logs two -c a"), "one\ntwo\nthree\n");
    assert_eq!(t.ok("kubectl logs two -c a --tail=1"), "three\n");
    assert_eq!(t.ok("kubectl logs two -c first"), "from init\n");
    assert!(t.ok("kubectl logs two -c a --timestamps").contains("Z one"));
    let choice = t.sh("kubectl logs two");
    assert!(
        format!("{}{}", choice.stdout, choice.stderr).contains("two, a, b")
            || choice.stderr.contains("Defaulted container \"a\" out of: a, b, first (init)"),
        "{choice:?}"
    );
    let wrong = t.fails("kubectl logs two -c nothing");
    assert!(wrong.contains("container nothing is not valid for pod two"), "{wrong}");
}

fn s81_exec(t: &Shell) {
    t.ok("kubectl run test1 --image=busybox:1.28.4 -- sleep 24h");
    t.eventually("kubectl get pod test1", "Running");
    assert_eq!(t.ok("kubectl exec test1 -- echo hello"), "hello\n");
    assert_eq!(t.sh("kubectl exec test1 -- sh -c 'exit 7'").code, 7);
    t.ok("kubectl exec test1 -- sh -c 'echo kept > /tmp/file'");
    assert_eq!(t.ok("kubectl exec test1 -- cat /tmp/file"), "kept\n");
    assert_eq!(t.sh_with_input("kubectl exec -i test1 -- cat", "through\n").stdout, "through\n");
    let terminal = t.ok(
        "(sleep 1; echo 'tty; exit 3') | script -qec 'kubectl exec -it test1 -- /bin/sh' /dev/null; true",
    );
    assert!(terminal.contains("/dev/pts/") || terminal.contains("/dev/console"), "{terminal}");
    t.ok("kubectl run done --image=busybox --restart=Never -- true");
    t.eventually("kubectl get pod done", "Completed");
    let ended = t.fails("kubectl exec done -- echo hello");
    assert!(ended.contains("cannot exec into a container in a completed pod"), "{ended}");
}

fn s83_delete_in_all_forms(t: &Shell) {
    t.ok("kubectl run demo --image=nginx");
    assert_eq!(t.ok("kubectl delete pod demo"), "pod \"demo\" deleted\n");
    t.ok("kubectl run demo --image=nginx && kubectl delete pod/demo");
    t.write("map.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n");
    t.ok("kubectl apply -f map.yaml && kubectl delete -f map.yaml");
    t.ok("kubectl create deployment my-dep --image=nginx --replicas=2");
    t.ok("kubectl expose deployment my-dep --port=80");
    t.ok("kubectl delete deployments.apps my-dep && kubectl delete svc my-dep");
    t.until("kubectl get pods,rs -o name", "owned objects gone", str::is_empty);
    t.ok(
        "kubectl run x --image=nginx --labels=k8s-app=canal && kubectl delete pod -l k8s-app=canal",
    );
    t.ok("kubectl run y --image=nginx && kubectl delete pod --all");
    assert_eq!(t.ok("kubectl get pods -o name"), "");

    let other = format!("{}-gone", t.namespace());
    t.ok(&format!("kubectl create ns {other} && kubectl create cm m -n {other}"));
    t.ok(&format!("kubectl delete ns {other}"));
    t.fails(&format!("kubectl get ns {other}"));
    assert!(t.ok("kubectl delete -h").contains("--grace-period"));
}

fn s84_the_kubernetes_service_comes_back(t: &Shell) {
    let address = "kubectl get svc kubernetes -n default -o 'jsonpath={.spec.clusterIP}'";
    let before = t.ok(address);
    t.ok("kubectl delete svc kubernetes -n default");
    t.until(address, &before, |after| after == before);
}

fn s86_edit_with_a_scripted_editor(t: &Shell) {
    t.ok("kubectl create deployment my-dep --image=nginx && kubectl expose deployment my-dep --port=80");
    let edited = t.ok("KUBE_EDITOR='sed -i s/ClusterIP$/NodePort/' kubectl edit svc my-dep");
    assert_eq!(edited, "service/my-dep edited\n");
    assert_eq!(t.ok("kubectl get svc my-dep -o 'jsonpath={.spec.type}'"), "NodePort");
    let unchanged = t.sh("KUBE_EDITOR=true kubectl edit svc my-dep");
    assert!(format!("{}{}", unchanged.stdout, unchanged.stderr).contains("no changes made"));
    // The editor spoils the port; shown the error, it gives up by leaving the file as it is.
    let invalid = t.sh("KUBE_EDITOR='sed -i s/port:.80$/port:\\ 800000/' kubectl edit svc my-dep");
    assert_ne!(invalid.code, 0);
    assert!(invalid.stderr.contains("\"my-dep\" is invalid"), "{invalid:?}");
    assert_eq!(t.ok("kubectl get svc my-dep -o 'jsonpath={.spec.ports[0].port}'"), "80");
}

fn s87_patches_of_all_types(t: &Shell) {
    t.ok("kubectl create deployment test --image=nginx");
    t.ok(
        "kubectl patch deployment test --patch='{\"spec\": {\"template\": {\"spec\": {\"containers\": \
         [{\"name\": \"side\", \"image\": \"busybox\"}]}}}}'",
    );
    t.ok(
        "kubectl patch deployment test --patch='{\"spec\": {\"template\": {\"spec\": {\"containers\": \
         [{\"name\": \"nginx\", \"image\": \"nginx:1.21\"}]}}}}'",
    );
    let images = "kubectl get deployment test -o \
                  'jsonpath={.spec.template.spec.containers[*].image}'";
    let mut found: Vec<_> = t.ok(images).split(' ').map(str::to_owned).collect();
    found.sort();
    assert_eq!(found, ["busybox", "nginx:1.21"]);
    t.until("kubectl get rs --no-headers", "a new replica set", |out| rows(out).len() >= 2);
    t.ok(
        "kubectl patch deployment test --type=merge --patch='{\"spec\": {\"template\": {\"spec\": \
         {\"containers\": [{\"name\": \"only\", \"image\": \"one\"}]}}}}'",
    );
    assert_eq!(t.ok(images), "one");
    t.ok("kubectl patch deployment test --type=json --patch='[{\"op\": \"replace\", \"path\": \
         \"/spec/template/spec/containers/0/image\", \"value\": \"two\"}]'");
    assert_eq!(t.ok(images), "two");
    let failed = t.fails(
        "kubectl patch deployment test --type=json --patch='[{\"op\": \"test\", \"path\": \
         \"/spec/replicas\", \"value\": 99}]'",
    );
    assert!(!failed.is_empty());
    t.ok("kubectl patch deployment test --subresource=status --type=merge -p '{\"status\":{\"collisionCount\":3}}'");
}

fn s88_label_needs_overwrite(t: &Shell) {
    t.ok("kubectl run demo --image=nginx");
    assert_eq!(t.ok("kubectl label pod demo access=true"), "pod/demo labeled\n");
    let refused = t.fails("kubectl label pod demo access=false");
    assert!(refused.contains("--overwrite is false"), "{refused}");
    assert_eq!(t.ok("kubectl label pod demo access=false --overwrite"), "pod/demo labeled\n");
    assert_eq!(
        t.ok(&format!("kubectl label ns {} role=test", t.namespace())),
        format!("namespace/{} labeled\n", t.namespace())
    );
}

fn s89_scale_follows_up_and_down(t: &Shell) {
    t.ok("kubectl create deployment my-dep --image=nginx --replicas=2");
    t.ok("kubectl expose deployment my-dep --port=80");
    ready(t, "my-dep", 2);
    t.ok("kubectl scale --replicas=6 deployment my-dep");
    ready(t, "my-dep", 6);
    let endpoints = "kubectl get endpoints my-dep -o 'jsonpath={.subsets[0].addresses[*].ip}'";
    t.until(endpoints, "six addresses", |out| out.split_whitespace().count() == 6);
    t.ok("kubectl scale --replicas=3 deploy/my-dep");
    ready(t, "my-dep", 3);
    t.until("kubectl get pods --no-headers", "three pods", |out| rows(out).len() == 3);
    t.until(endpoints, "three addresses", |out| out.split_whitespace().count() == 3);
    let history = t.ok("kubectl rollout history deployment my-dep");
    assert_eq!(history.lines().filter(|line| line.contains("<none>")).count(), 1, "{history}");
}

fn s90_set_image_rolls_out(t: &Shell) {
    t.ok("kubectl create deployment my-dep --image=myapp:v1 --replicas=2");
    ready(t, "my-dep", 2);
    assert_eq!(
        t.ok("kubectl set image deployment my-dep myapp=myapp:v2 --record"),
        "deployment.apps/my-dep image updated\n"
    );
    ready(t, "my-dep", 2);
    assert_eq!(rows(&t.ok("kubectl get rs --no-headers")).len(), 2);
    t.eventually(
        "kubectl rollout history deployment my-dep",
        "kubectl set image deployment my-dep myapp=myapp:v2 --record=true",
    );
    let wrong = t.fails("kubectl set image deployment my-dep other=myapp:v3");
    assert!(wrong.contains("unable to find container named \"other\""), "{wrong}");
}

fn s91_rollout_history(t: &Shell) {
    t.ok("kubectl create deployment test --image=nginx:1 --port=80");
    ready(t, "test", 1);
    t.ok("kubectl set image deploy/test nginx=nginx:2");
    ready(t, "test", 1);
    let history = t.ok("kubectl rollout history deployment test");
    assert!(history.contains("REVISION  CHANGE-CAUSE"), "{history}");
    let second = t.ok("kubectl rollout history deployment test --revision=2");
    for text in ["revision #2", "app=test", "pod-template-hash=", "nginx:2", "80/TCP"] {
        assert!(second.contains(text), "{text} in {second}");
    }
    let missing = t.fails("kubectl rollout history deployment test --revision=9");
    assert!(missing.contains("unable to find the specified revision"), "{missing}");
}

fn s92_rollout_undo(t: &Shell) {
    t.ok("kubectl create deployment my-dep --image=myapp:v1");
    ready(t, "my-dep", 1);
    let first = t.ok("kubectl get rs -o name");
    t.ok("kubectl set image deployment my-dep myapp=myapp:v2");
    ready(t, "my-dep", 1);
    let undone = t.ok("kubectl rollout undo deployment my-dep --to-revision=1");
    assert_eq!(undone, "deployment.apps/my-dep rolled back\n");
    ready(t, "my-dep", 1);
    t.until("kubectl rollout history deployment my-dep", "revisions 2 and 3", |history| {
        let revisions: Vec<_> =
            rows(history).iter().filter_map(|row| row.first()?.parse::<u32>().ok()).collect();
        revisions == [2, 3]
    });
    assert_eq!(rows(&t.ok("kubectl get rs --no-headers")).len(), 2);
    let image = t.ok(&format!("kubectl get {} -o 'jsonpath={{.spec.replicas}}'", first.trim()));
    assert_eq!(image, "1");
}

fn s93_expose(t: &Shell) {
    t.ok("kubectl create deployment my-dep --image=nginx");
    t.ok("kubectl run nginx --image=nginx --labels=run=nginx,extra=yes");
    assert_eq!(
        t.ok("kubectl expose deployment my-dep --port=80 --target-port=80"),
        "service/my-dep exposed\n"
    );
    t.ok("kubectl expose deployment my-dep --name=np --port=80 --target-port=80 --type=NodePort");
    t.ok("kubectl expose pod nginx --port=80 --target-port=80 --type=LoadBalancer");
    let selector = |service: &str| {
        t.ok(&format!("kubectl get svc {service} -o 'jsonpath={{.spec.selector}}'"))
    };
    assert_eq!(selector("my-dep"), r#"{"app":"my-dep"}"#);
    assert_eq!(selector("nginx"), r#"{"extra":"yes","run":"nginx"}"#);
    assert_eq!(t.ok("kubectl get svc np -o 'jsonpath={.spec.type}'"), "NodePort");
    t.write(
        "bare.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: bare}\nspec: {containers: [{name: c, image: nginx}]}\n",
    );
    t.ok("kubectl apply -f bare.yaml");
    let bare = t.fails("kubectl expose pod bare --port=80");
    assert!(bare.contains("the pod has no labels and cannot be exposed"), "{bare}");
}

fn s94_create_secret_tls(t: &Shell) {
    t.ok(
        "openssl req -x509 -sha256 -nodes -days 365 -newkey rsa:2048 -keyout tls.key -out tls.crt \
         -subj '/CN=nginxsvc/O=nginxsvc' 2>/dev/null",
    );
    t.ok("kubectl create secret tls tls-secret --key tls.key --cert tls.crt");
    let row = t.ok("kubectl get secrets tls-secret --no-headers");
    assert_eq!(rows(&row)[0][1..3], ["kubernetes.io/tls", "2"]);
    t.ok("openssl genrsa -out other.key 2048 2>/dev/null");
    t.fails("kubectl create secret tls wrong --key other.key --cert tls.crt");
}

fn s95_create_secret_from_file(t: &Shell) {
    t.write("auth", "admin:$apr1$abc$def\n");
    t.ok("kubectl create secret generic basic-auth --from-file=auth");
    let row = t.ok("kubectl get secrets basic-auth --no-headers");
    assert_eq!(rows(&row)[0][1..3], ["Opaque", "1"]);
    let value = t.ok("kubectl get secret basic-auth -o 'jsonpath={.data.auth}' | base64 -d");
    assert_eq!(value, "admin:$apr1$abc$def\n");
}

fn s96_create_namespace(t: &Shell) {
    let name = format!("{}-made", t.namespace());
    t.ok(&format!("kubectl create namespace {name}"));
    let row = t.ok(&format!("kubectl get ns {name} --show-labels --no-headers"));
    assert_eq!(rows(&row)[0][1], "Active");
    assert!(row.contains(&format!("kubernetes.io/metadata.name={name}")), "{row}");
    t.eventually(&format!("kubectl get sa -n {name} -o name"), "serviceaccount/default");
    t.ok(&format!("kubectl delete namespace {name} --wait=false"));
}

fn s97_create_serviceaccount(t: &Shell) {
    t.ok("kubectl create serviceaccount dashboard-admin");
    t.ok("kubectl get serviceaccount dashboard-admin");
    t.eventually("kubectl get secrets -o name", "secret/dashboard-admin-token-");
}

fn diff_shows_a_change(t: &Shell) {
    t.write(
        "map.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: before}\n",
    );
    t.ok("kubectl apply -f map.yaml");
    assert_eq!(t.sh("kubectl diff -f map.yaml").code, 0);
    t.write("map.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: after}\n");
    let diff = t.sh("kubectl diff -f map.yaml");
    assert_eq!(diff.code, 1, "{diff:?}");
    assert!(
        diff.stdout.contains("-  a: before") && diff.stdout.contains("+  a: after"),
        "{diff:?}"
    );
    assert_eq!(t.ok("kubectl get cm m -o 'jsonpath={.data.a}'"), "before");
}

fn wait_for_a_condition(t: &Shell) {
    t.ok("kubectl run demo --image=nginx");
    assert_eq!(
        t.ok("kubectl wait --for=condition=Ready pod/demo --timeout=30s"),
        "pod/demo condition met\n"
    );
    t.ok(
        "kubectl delete pod demo --wait=false && kubectl wait --for=delete pod/demo --timeout=30s",
    );
    t.ok("kubectl create deployment d --image=nginx");
    t.ok("kubectl wait --for=condition=Available deployment/d --timeout=30s");
    t.fails("kubectl wait --for=condition=Never deployment/d --timeout=1s");
}

fn cordon_and_drain(t: &Shell) {
    // A node of its own, so that tests beside this one keep theirs.
    t.ok("kubectl create deployment d --image=nginx --replicas=2");
    ready(t, "d", 2);
    let node = t.ok("kubectl get pods -o 'jsonpath={.items[0].spec.nodeName}'");
    t.ok(&format!("kubectl cordon {node}"));
    t.eventually(&format!("kubectl get node {node}"), "Ready,SchedulingDisabled");
    let selector = "--pod-selector=app=d";
    let drained = t.ok(&format!("kubectl drain {node} {selector} --force --timeout=50s"));
    assert!(drained.contains("evicted"), "{drained}");
    t.until("kubectl get pods -o wide --no-headers", "pods elsewhere", |out| {
        !out.contains(&node) && rows(out).iter().filter(|row| row[1] == "1/1").count() == 2
    });
    t.ok(&format!("kubectl uncordon {node}"));
}

fn events_are_listed(t: &Shell) {
    t.ok("kubectl run demo --image=nginx");
    t.eventually("kubectl get events", "Scheduled");
    let events = t.eventually("kubectl events --for pod/demo", "Started");
    assert!(events.contains("Successfully assigned"), "{events}");
}

fn rollout_pause_resume_restart(t: &Shell) {
    t.ok("kubectl create deployment d --image=nginx:1");
    ready(t, "d", 1);
    t.ok("kubectl rollout pause deployment d");
    t.ok("kubectl set image deployment d nginx=nginx:2");
    t.ok("kubectl set resources deployment d --limits=cpu=100m");
    t.ok("sleep 1");
    assert_eq!(rows(&t.ok("kubectl get rs --no-headers")).len(), 1);
    t.ok("kubectl rollout resume deployment d");
    ready(t, "d", 1);
    assert_eq!(rows(&t.ok("kubectl get rs --no-headers")).len(), 2);
    assert_eq!(t.ok("kubectl rollout restart deployment d"), "deployment.apps/d restarted\n");
    ready(t, "d", 1);
    assert_eq!(rows(&t.ok("kubectl get rs --no-headers")).len(), 3);
}
