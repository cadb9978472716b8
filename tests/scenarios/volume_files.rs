//! What is in volumes that are made of objects, of a Pod's own fields, and of nothing: the
//! requirements of sig-storage that look into containers.

use crate::{
    containers::run,
    harness::{Shell, apply, scenarios},
};

scenarios! {
    Both:
        files_of_objects_have_content_modes_and_paths,
        files_follow_their_objects,
        files_tell_of_the_pod,
        empty_volumes_keep_modes,
        parts_of_volumes_are_files;
    Real:
        many_volumes_of_one_pod_do_not_race;
}

/// The sources of a volume that are made of an object `o`: how each is written with `more`, which
/// may be items, for a plain volume and for a part of a projected one.
const SOURCES: [&str; 4] = ["configmap", "secret", "projected-configmap", "projected-secret"];

/// A volume of `source` made of the object `name`.
fn volume(volume: &str, source: &str, name: &str, mode: &str, more: &str) -> String {
    let mode = if mode.is_empty() { String::new() } else { format!(", defaultMode: {mode}") };
    match source {
        "configmap" => {
            format!("- {{name: {volume}, configMap: {{name: {name}{mode}{more}}}}}\n")
        }
        "secret" => format!("- {{name: {volume}, secret: {{secretName: {name}{mode}{more}}}}}\n"),
        "projected-configmap" => format!(
            "- {{name: {volume}, projected: {{sources: [{{configMap: {{name: {name}{more}}}}}]{mode}}}}}\n"
        ),
        _ => format!(
            "- {{name: {volume}, projected: {{sources: [{{secret: {{name: {name}{more}}}}}]{mode}}}}}\n"
        ),
    }
}

/// Where volumes of these names are mounted.
fn mounts<'a>(volumes: impl IntoIterator<Item = &'a str>) -> String {
    let mounts = volumes.into_iter().map(|name| format!("{{name: {name}, mountPath: /{name}}}"));
    mounts.collect::<Vec<_>>().join(", ")
}

/// A script that prints the mode and the content of files, a line for each.
fn show(files: &[String]) -> String {
    let lines = files.iter().map(|file| format!("echo $(stat -L -c %a {file}) $(cat {file})"));
    lines.collect::<Vec<_>>().join("; ")
}

fn objects(t: &Shell, name: &str, value: &str) {
    t.ok(&format!(
        "kubectl create configmap {name} --from-literal=data-1={value} --from-literal=data-2=two && \
         kubectl create secret generic {name} --from-literal=data-1={value} --from-literal=data-2=two"
    ));
}

// Conformance: ConfigMap Volume, without mapping
// Conformance: ConfigMap Volume, without mapping, volume mode set
// Conformance: ConfigMap Volume, without mapping, non-root user
// Conformance: ConfigMap Volume, with mapping
// Conformance: ConfigMap Volume, with mapping, volume mode set
// Conformance: ConfigMap Volume, with mapping, non-root user
// Conformance: ConfigMap Volume, multiple volume maps
// Conformance: ConfigMap Volume, text data, binary data
// Conformance: Secrets Volume, default
// Conformance: Secrets Volume, volume mode 0400
// Conformance: Secrets Volume, volume mode 0440, fsGroup 1001 and uid 1000
// Conformance: Secrets Volume, mapping
// Conformance: Secrets Volume, mapping, volume mode 0400
// Conformance: Secrets Volume, mapping multiple volume paths
// Conformance: Secrets Volume, volume mode default, secret with same name in different namespace
// Conformance: Projected Volume, ConfigMap, volume mode default
// Conformance: Projected Volume, ConfigMap, volume mode 0400
// Conformance: Projected Volume, ConfigMap, non-root user
// Conformance: Projected Volume, ConfigMap, mapped
// Conformance: Projected Volume, ConfigMap, mapped, volume mode 0400
// Conformance: Projected Volume, ConfigMap, mapped, non-root user
// Conformance: Projected Volume, ConfigMap, multiple volume paths
// Conformance: Projected Volume, Secrets, volume mode default
// Conformance: Projected Volume, Secrets, volume mode 0400
// Conformance: Project Volume, Secrets, non-root, custom fsGroup
// Conformance: Projected Volume, Secrets, mapped
// Conformance: Projected Volume, Secrets, mapped, volume mode 0400
// Conformance: Projected Volume, Secrets, mapped, multiple paths
// Conformance: EmptyDir Wrapper Volume, Secret and ConfigMap volumes, no conflict
fn files_of_objects_have_content_modes_and_paths(t: &Shell) {
    objects(t, "o", "one");
    // Somebody else's Secret of the same name is none of this Pod's.
    let other = format!("{}-other", t.namespace());
    t.ok(&format!(
        "kubectl create namespace {other} && \
         kubectl create secret generic o -n {other} --from-literal=data-1=theirs"
    ));
    let mapped = ", items: [{key: data-2, path: path/to/data-2}]";
    let mapped_strictly = ", items: [{key: data-2, path: path/to/data-2, mode: 0400}]";
    let shapes = [
        ("plain", "", "", "data-1", "644 one"),
        ("again", "", "", "data-1", "644 one"),
        ("strict", "0400", "", "data-1", "400 one"),
        ("mapped", "", mapped, "path/to/data-2", "644 two"),
        ("tight", "", mapped_strictly, "path/to/data-2", "400 two"),
    ];
    let pod = |security: &str, chosen: &[(&str, &str, &str, &str, &str)], sources: &[&str]| {
        let (mut volumes, mut names, mut files) = (String::new(), Vec::new(), Vec::new());
        for source in sources {
            for (shape, mode, more, file, _) in chosen {
                let name = format!("{source}-{shape}");
                volumes += &volume(&name, source, "o", mode, more);
                files.push(format!("/{name}/{file}"));
                names.push(name);
            }
        }
        format!(
            "{security}\nvolumes:\n{volumes}containers:\n- {{name: c, image: busybox, \
             command: [sh, -c, '{}'], volumeMounts: [{}]}}",
            show(&files),
            mounts(names.iter().map(String::as_str))
        )
    };
    let expected = |chosen: &[(&str, &str, &str, &str, &str)], sources: usize| {
        let lines: String = chosen.iter().map(|shape| format!("{}\n", shape.4)).collect();
        format!("Succeeded\n{}", lines.repeat(sources))
    };
    let root = run(t, "root", &pod("", &shapes, &SOURCES));
    assert_eq!(root, expected(&shapes, 4));

    let open = [shapes[0], shapes[3]];
    let maps = ["configmap", "projected-configmap"];
    let user = run(t, "user", &pod("securityContext: {runAsUser: 1000}", &open, &maps));
    assert_eq!(user, expected(&open, 2));

    let group = [("group", "0440", "", "data-1", "440 one")];
    let secrets = ["secret", "projected-secret"];
    let security = "securityContext: {runAsUser: 1000, fsGroup: 1001}";
    let shown = run(t, "group", &pod(security, &group, &secrets));
    assert_eq!(shown, expected(&group, 2));

    // What is no text is the same bytes.
    t.ok("printf '\\336\\312\\376\\000\\377' > dump.bin && \
          kubectl create configmap binary --from-file=dump.bin --from-literal=data-1=text");
    let bytes = format!(
        "volumes:\n{}containers:\n- {{name: c, image: busybox, volumeMounts: [{}], \
         command: [sh, -c, 'cat /v/data-1; echo; od -An -tx1 /v/dump.bin']}}",
        volume("v", "configmap", "binary", "", ""),
        mounts(["v"])
    );
    let shown = run(t, "bytes", &bytes);
    let words: Vec<_> = shown.split_whitespace().collect();
    assert_eq!(words, ["Succeeded", "text", "de", "ca", "fe", "00", "ff"]);
    t.ok(&format!("kubectl delete namespace {other} --wait=false"));
}

// Conformance: ConfigMap Volume, update
// Conformance: ConfigMap Volume, create, update and delete
// Conformance: Secrets Volume, create, update and delete
// Conformance: Projected Volume, ConfigMap, update
// Conformance: Projected Volume, ConfigMap, create, update and delete
// Conformance: Projected Volume, Secrets, create, update delete
// Conformance: DownwardAPI volume, update label
// Conformance: DownwardAPI volume, update annotations
// Conformance: Projected Volume, DownwardAPI, update labels
// Conformance: Projected Volume, DownwardAPI, update annotation
fn files_follow_their_objects(t: &Shell) {
    objects(t, "changes", "value-1");
    objects(t, "goes", "value-1");
    let (mut volumes, mut names) = (String::new(), Vec::new());
    for source in SOURCES {
        for object in ["comes", "changes", "goes"] {
            let name = format!("{source}-{object}");
            volumes += &volume(&name, source, object, "", ", optional: true");
            names.push(name);
        }
    }
    let fields = "items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, \
                  {path: annotations, fieldRef: {fieldPath: metadata.annotations}}]";
    volumes += &format!("- {{name: fields, downwardAPI: {{{fields}}}}}\n");
    volumes += &format!(
        "- {{name: projected, projected: {{sources: [{{downwardAPI: {{{fields}}}}}]}}}}\n"
    );
    names.extend(["fields".to_owned(), "projected".to_owned()]);
    apply(
        t,
        "reads",
        &format!(
            "terminationGracePeriodSeconds: 1\nvolumes:\n{volumes}containers:\n\
             - {{name: c, image: busybox, command: [sleep, 1d], volumeMounts: [{}]}}",
            mounts(names.iter().map(String::as_str))
        ),
    );
    t.eventually("kubectl get pod reads", "1/1");
    let read = |object: &str| {
        let files: Vec<_> =
            SOURCES.iter().map(|source| format!("/{source}-{object}/data-1")).collect();
        // A file that is not there is a line without a value.
        let script = files.iter().map(|file| format!("echo $(cat {file})")).collect::<Vec<_>>();
        format!("kubectl exec reads -- sh -c '({}) 2>/dev/null'", script.join("; "))
    };
    let all = |value: &str| format!("{value}\n").repeat(SOURCES.len());
    let becomes = |object: &str, value: &str| {
        t.until(&read(object), value, |out| out == all(value));
    };
    assert_eq!(t.ok(&read("comes")), all(""));
    assert_eq!(t.ok(&read("changes")), all("value-1"));
    assert_eq!(t.ok(&read("goes")), all("value-1"));

    objects(t, "comes", "value-1");
    t.ok("kubectl patch configmap changes -p '{\"data\": {\"data-1\": \"value-2\"}}' && \
          kubectl patch secret changes -p '{\"stringData\": {\"data-1\": \"value-2\"}}' && \
          kubectl delete configmap/goes secret/goes");
    becomes("comes", "value-1");
    becomes("changes", "value-2");
    becomes("goes", "");

    t.ok("kubectl label pod reads key=label && kubectl annotate pod reads key=annotation");
    for name in ["fields", "projected"] {
        let cat = |file: &str| format!("kubectl exec reads -- cat /{name}/{file}");
        t.eventually(&cat("labels"), "key=\"label\"");
        t.eventually(&cat("annotations"), "key=\"annotation\"");
    }
}

/// A quantity of memory in bytes, as the node's status writes it.
fn bytes(quantity: &str) -> u64 {
    match quantity.strip_suffix("Ki") {
        Some(kilobytes) => kilobytes.parse::<u64>().expect("a number") << 10,
        None => quantity.parse().expect("a number"),
    }
}

// Conformance: DownwardAPI volume, pod name
// Conformance: DownwardAPI volume, volume mode 0400
// Conformance: DownwardAPI volume, file mode 0400
// Conformance: DownwardAPI volume, CPU limits
// Conformance: DownwardAPI volume, CPU request
// Conformance: DownwardAPI volume, memory limits
// Conformance: DownwardAPI volume, memory request
// Conformance: DownwardAPI volume, CPU limit, default node allocatable
// Conformance: DownwardAPI volume, memory limit, default node allocatable
// Conformance: Projected Volume, DownwardAPI, pod name
// Conformance: Projected Volume, DownwardAPI, volume mode 0400
// Conformance: Projected Volume, DownwardAPI, CPU limits
// Conformance: Projected Volume, DownwardAPI, CPU request
// Conformance: Projected Volume, DownwardAPI, memory limits
// Conformance: Projected Volume, DownwardAPI, memory request
// Conformance: Projected Volume, DownwardAPI, CPU limit, node allocatable
// Conformance: Projected Volume, DownwardAPI, memory limit, node allocatable
// Conformance: Projected Volume, multiple projections
fn files_tell_of_the_pod(t: &Shell) {
    objects(t, "o", "one");
    let resource = |path: &str, resource: &str| {
        format!("{{path: {path}, resourceFieldRef: {{containerName: c, resource: {resource}}}}}")
    };
    let name = "{path: name, fieldRef: {fieldPath: metadata.name}}";
    let tight = "{path: tight, mode: 0400, fieldRef: {fieldPath: metadata.name}}";
    let amounts = [
        resource("cpu-limit", "limits.cpu"),
        resource("cpu-request", "requests.cpu"),
        resource("memory-limit", "limits.memory"),
        resource("memory-request", "requests.memory"),
    ]
    .join(", ");
    let items = format!("items: [{name}, {tight}, {amounts}]");
    let volumes = format!(
        "volumes:\n- {{name: plain, downwardAPI: {{{items}}}}}\n\
         - {{name: strict, downwardAPI: {{defaultMode: 0400, items: [{name}]}}}}\n\
         - {{name: projected, projected: {{sources: [{{downwardAPI: {{{items}}}}}]}}}}\n\
         - {{name: all, projected: {{defaultMode: 0400, sources: [{{downwardAPI: {{items: [{name}]}}}}, \
         {{configMap: {{name: o, items: [{{key: data-1, path: map}}]}}}}, \
         {{secret: {{name: o, items: [{{key: data-2, path: secret}}]}}}}]}}}}\n"
    );
    let mut files = Vec::new();
    for volume in ["plain", "projected"] {
        for file in ["name", "tight", "cpu-limit", "cpu-request", "memory-limit", "memory-request"]
        {
            files.push(format!("/{volume}/{file}"));
        }
    }
    files.extend(["/strict/name", "/all/name", "/all/map", "/all/secret"].map(str::to_owned));
    let pod = |resources: &str| {
        format!(
            "{volumes}containers:\n- {{name: c, image: busybox, {resources}command: [sh, -c, '{}'], \
             volumeMounts: [{}]}}",
            show(&files),
            mounts(["plain", "strict", "projected", "all"])
        )
    };
    let expected = |name: &str, amounts: [u64; 4]| {
        let [cpu_limit, cpu_request, memory_limit, memory_request] = amounts;
        let told = format!(
            "644 {name}\n400 {name}\n644 {cpu_limit}\n644 {cpu_request}\n644 {memory_limit}\n\
             644 {memory_request}\n"
        );
        format!("Succeeded\n{told}{told}400 {name}\n400 {name}\n400 one\n400 two\n")
    };
    let resources =
        "resources: {requests: {cpu: 250m, memory: 32Mi}, limits: {cpu: 1250m, memory: 64Mi}}, ";
    assert_eq!(run(t, "limited", &pod(resources)), expected("limited", [2, 1, 64 << 20, 32 << 20]));

    // Without limits it may have what the node has for Pods.
    let shown = run(t, "unlimited", &pod(""));
    let node = t.ok("kubectl get pod unlimited -o 'jsonpath={.spec.nodeName}'");
    let allocatable = t.ok(&format!(
        "kubectl get node {node} -o 'jsonpath={{.status.allocatable.cpu}} {{.status.allocatable.memory}}'"
    ));
    let (cpu, memory) = allocatable.split_once(' ').expect("two amounts");
    let cpu = match cpu.strip_suffix('m') {
        Some(millis) => millis.parse::<u64>().expect("a number").div_ceil(1000),
        None => cpu.parse().expect("a number"),
    };
    assert_eq!(shown, expected("unlimited", [cpu, 0, bytes(memory), 0]));
}

// Conformance: EmptyDir, medium default, volume mode default
// Conformance: EmptyDir, medium default, volume mode 0644
// Conformance: EmptyDir, medium default, volume mode 0666
// Conformance: EmptyDir, medium default, volume mode 0777
// Conformance: EmptyDir, medium memory, volume mode default
// Conformance: EmptyDir, medium memory, volume mode 0644
// Conformance: EmptyDir, medium memory, volume mode 0666
// Conformance: EmptyDir, medium memory, volume mode 0777
// Conformance: EmptyDir, medium memory, volume mode 0644, non-root user
// Conformance: EmptyDir, medium memory, volume mode 0666,, non-root user
// Conformance: EmptyDir, medium memory, volume mode 0777, non-root user
fn empty_volumes_keep_modes(t: &Shell) {
    let script = "for v in disk mem; do stat -c %a /$v; for m in 644 666 777; do \
                  echo content-$m > /$v/$m; chmod $m /$v/$m; \
                  echo $(stat -c \"%a %u\" /$v/$m) $(cat /$v/$m); done; done; \
                  grep \" /mem \" /proc/mounts | cut -d \" \" -f 3";
    for (name, security, uid) in
        [("root", "", 0), ("user", "securityContext: {runAsUser: 1001}\n", 1001)]
    {
        let spec = format!(
            "{security}volumes: [{{name: disk, emptyDir: {{}}}}, {{name: mem, emptyDir: {{medium: Memory}}}}]\n\
             containers:\n- {{name: c, image: busybox, command: [sh, -c, '{script}'], volumeMounts: [{}]}}",
            mounts(["disk", "mem"])
        );
        let volume: String = [644, 666, 777].map(|m| format!("{m} {uid} content-{m}\n")).concat();
        let expected = format!("Succeeded\n777\n{volume}777\n{volume}tmpfs\n");
        assert_eq!(run(t, name, &spec), expected);
    }
}

// Conformance: SubPath: Reading content from a configmap volume.
// Conformance: SubPath: Reading content from a secret volume.
// Conformance: SubPath: Reading content from a downwardAPI volume.
// Conformance: SubPath: Reading content from a projected volume.
fn parts_of_volumes_are_files(t: &Shell) {
    objects(t, "o", "one");
    let volumes = format!(
        "volumes:\n{}{}{}- {{name: fields, downwardAPI: {{items: [{{path: name, fieldRef: {{fieldPath: metadata.name}}}}]}}}}\n",
        volume("map", "configmap", "o", "", ""),
        volume("secret", "secret", "o", "", ""),
        volume(
            "projected",
            "projected-configmap",
            "o",
            "",
            ", items: [{key: data-2, path: deep/er}]"
        ),
    );
    let parts = [
        ("map", "data-1", "/parts/map", "one"),
        // Over a file that is there already.
        ("map", "data-2", "/etc/passwd", "two"),
        ("secret", "data-1", "/parts/secret", "one"),
        ("fields", "name", "/parts/fields", "parts"),
        ("projected", "deep", "/parts/projected", ""),
    ];
    let mounts = parts.map(|(volume, part, path, _)| {
        format!("{{name: {volume}, mountPath: {path}, subPath: {part}}}")
    });
    let mut files: Vec<_> = parts.map(|part| part.2.to_owned()).to_vec();
    files[4] += "/er";
    let cat: String = files.iter().map(|file| format!("echo $(cat {file}); ")).collect();
    let spec = format!(
        "{volumes}containers:\n- {{name: c, image: busybox, command: [sh, -c, '{cat}'], volumeMounts: [{}]}}",
        mounts.join(", ")
    );
    assert_eq!(run(t, "parts", &spec), "Succeeded\none\ntwo\none\nparts\ntwo\n");
}

// Conformance: EmptyDir Wrapper Volume, ConfigMap volumes, no race
fn many_volumes_of_one_pod_do_not_race(t: &Shell) {
    let maps: String = (0..50)
        .map(|n| {
            format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: racey-{n}}}\ndata: {{data-1: value-1}}\n---\n"
            )
        })
        .collect();
    t.write("maps.yaml", &maps);
    t.ok("kubectl create -f maps.yaml");
    let names: Vec<_> = (0..50).map(|n| format!("racey-{n}")).collect();
    let volumes: Vec<_> =
        names.iter().map(|name| format!("{{name: {name}, configMap: {{name: {name}}}}}")).collect();
    t.write(
        "controller.yaml",
        &format!(
            "apiVersion: v1\nkind: ReplicationController\nmetadata: {{name: race}}\nspec:\n  replicas: 5\n  \
             selector: {{name: race}}\n  template:\n    metadata: {{labels: {{name: race}}}}\n    spec:\n      \
             terminationGracePeriodSeconds: 1\n      volumes: [{}]\n      containers: [{{name: c, image: busybox, \
             command: [sleep, 1d], volumeMounts: [{}]}}]\n",
            volumes.join(", "),
            mounts(names.iter().map(String::as_str))
        ),
    );
    t.ok("kubectl create -f controller.yaml");
    t.eventually("kubectl get rc race -o 'jsonpath={.status.readyReplicas}'", "5");
    let pod = t.ok("kubectl get pods -l name=race -o 'jsonpath={.items[0].metadata.name}'");
    let read = t.ok(&format!("kubectl exec {pod} -- sh -c 'cat /racey-*/data-1'"));
    assert_eq!(read, "value-1".repeat(50));
    let events = t.ok("kubectl get events");
    assert!(!events.contains("FailedMount"), "{events}");
}
