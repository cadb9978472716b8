//! Volumes that outlive Pods, on the node with real containers.

use crate::harness::{Shell, apply, scenarios};

scenarios! {
    Sim:
        s256_a_storage_class_makes_and_deletes_volumes;
    Both:
        s253_folders_of_the_node_are_seen_in_containers,
        s255_a_claim_takes_a_volume_and_its_data_stays;
    // The cluster's provisioner makes folders for its own nodes only.
    Real:
        volumes_of_a_class_are_there_before_their_pods,
        a_pod_that_takes_more_of_the_disk_than_it_may_is_evicted,
        the_files_of_an_image_are_a_volume_for_reading;
}

/// A Pod that sleeps with `claim` at /data.
fn with_claim(claim: &str, more: &str) -> String {
    format!(
        "volumes: [{{name: v, persistentVolumeClaim: {{claimName: {claim}{more}}}}}]\ncontainers:\n\
         - name: c\n  image: busybox\n  imagePullPolicy: IfNotPresent\n  command: [sleep, 1d]\n  \
         volumeMounts: [{{name: v, mountPath: /data}}]"
    )
}

fn volume(name: &str, size: &str, policy: &str, source: &str) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {name}}}\nspec:\n  \
         accessModes: [ReadWriteOnce]\n  capacity: {{storage: {size}}}\n  \
         persistentVolumeReclaimPolicy: {policy}\n  storageClassName: {name}-class\n{source}\n---\n"
    )
}

fn claim(name: &str, size: &str, class: &str) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec:\n  \
         accessModes: [ReadWriteOnce]\n  storageClassName: {class}\n  \
         resources: {{requests: {{storage: {size}}}}}\n---\n"
    )
}

fn phase(kind: &str, name: &str) -> String {
    format!("kubectl get {kind} {name} -o 'jsonpath={{.status.phase}}'")
}

fn s253_folders_of_the_node_are_seen_in_containers(t: &Shell) {
    let folder = t.directory().join("folder");
    std::fs::create_dir(&folder).expect("a folder of the node");
    std::fs::write(folder.join("from-node"), "hello").expect("a file of the node");
    let folder = folder.display();
    apply(
        t,
        "both",
        &format!(
            "volumes: [{{name: v, hostPath: {{path: {folder}, type: Directory}}}}]\ncontainers:\n\
             - name: c\n  image: busybox\n  imagePullPolicy: IfNotPresent\n  command: [sleep, 1d]\n  \
             volumeMounts:\n  - {{name: v, mountPath: /rw}}\n  - {{name: v, mountPath: /ro, readOnly: true}}"
        ),
    );
    t.eventually("kubectl get pod both", "1/1");
    assert_eq!(t.ok("kubectl exec both -- cat /rw/from-node"), "hello");
    t.ok("kubectl exec both -- sh -c 'echo written > /rw/from-pod'");
    let refused = t.fails("kubectl exec both -- sh -c 'echo no > /ro/from-pod'");
    assert!(refused.contains("Read-only file system"), "{refused}");
    assert_eq!(t.ok(&format!("cat {folder}/from-pod")).trim(), "written");

    // The same folder as a local volume, which the Pod has to go to.
    let node = t.ok("kubectl get nodes -o 'jsonpath={.items[0].metadata.name}'");
    let name = format!("local-{}", t.namespace());
    let on = |node: &str| {
        format!(
            "  local: {{path: {folder}}}\n  nodeAffinity: {{required: {{nodeSelectorTerms: [\
             {{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{node}]}}]}}]}}}}"
        )
    };
    t.write(
        "local.yaml",
        &(volume(&name, "1Gi", "Retain", &on(&node))
            + &volume(&format!("{name}-far"), "1Gi", "Retain", &on("another-node"))
            + &claim("near", "1Gi", &format!("{name}-class"))
            + &claim("far", "1Gi", &format!("{name}-far-class"))),
    );
    t.ok("kubectl apply -f local.yaml");
    apply(t, "reader", &with_claim("near", ", readOnly: true"));
    t.eventually("kubectl get pod reader", "1/1");
    assert_eq!(t.ok("kubectl exec reader -- cat /data/from-pod").trim(), "written");
    let refused = t.fails("kubectl exec reader -- touch /data/no");
    assert!(refused.contains("Read-only file system"), "{refused}");
    apply(t, "lost", &with_claim("far", ""));
    t.eventually(
        "kubectl describe pod lost",
        "node(s) didn't match PersistentVolume's node affinity",
    );
    t.ok("kubectl delete pod both reader lost --grace-period=1");
    t.ok(&format!("kubectl delete pvc near far && kubectl delete pv {name} {name}-far"));
}

fn s255_a_claim_takes_a_volume_and_its_data_stays(t: &Shell) {
    let folders = t.directory().join("volumes");
    let ns = t.namespace().to_owned();
    let class = format!("{ns}-class");
    let mut volumes = String::new();
    for (name, size) in [("large", "9Gi"), ("right", "5Gi"), ("small", "1Gi")] {
        let path = folders.join(name);
        std::fs::create_dir_all(&path).expect("a folder of the node");
        let source = format!("  hostPath: {{path: {}}}", path.display());
        volumes += &volume(&format!("{ns}-{name}"), size, "Retain", &source)
            .replace(&format!("{ns}-{name}-class"), &class);
    }
    t.write("volumes.yaml", &volumes);
    t.ok("kubectl apply -f volumes.yaml");
    t.eventually(&phase("pv", &format!("{ns}-right")), "Available");

    // Until its claim is bound a Pod is Pending.
    apply(t, "user", &with_claim("data", ""));
    t.eventually("kubectl describe pod user", "persistentvolumeclaim \"data\" not found");
    t.write("claim.yaml", &claim("data", "3Gi", &class));
    t.ok("kubectl apply -f claim.yaml");
    t.eventually(&phase("pvc", "data"), "Bound");
    let taken = t.ok("kubectl get pvc data -o 'jsonpath={.spec.volumeName}'");
    assert_eq!(taken, format!("{ns}-right"), "the smallest that fits");
    t.eventually("kubectl get pod user", "1/1");
    t.ok("kubectl exec user -- sh -c 'echo kept > /data/file'");
    assert_eq!(
        t.ok(&format!("kubectl get pv {ns}-large -o 'jsonpath={{.status.phase}}'")),
        "Available"
    );

    // A claim in use waits for its Pod.
    t.ok("kubectl delete pvc data --wait=false");
    t.eventually("kubectl get pvc data", "Terminating");
    assert_eq!(t.ok("kubectl exec user -- cat /data/file").trim(), "kept");
    t.ok("kubectl delete pod user --grace-period=1");
    t.until("kubectl get pvc", "no claim", |out| !out.contains("data"));
    t.eventually(&phase("pv", &format!("{ns}-right")), "Released");
    let file = folders.join("right/file");
    assert_eq!(std::fs::read_to_string(file).expect("the data stays").trim(), "kept");
    t.ok(&format!("kubectl delete pv {ns}-large {ns}-right {ns}-small"));
}

fn storage_class(name: &str) -> String {
    format!(
        "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {{name: {name}}}\n\
         provisioner: rk.dev/host-path\nreclaimPolicy: Delete\nallowVolumeExpansion: true\n\
         volumeBindingMode: WaitForFirstConsumer\n---\n"
    )
}

fn s256_a_storage_class_makes_and_deletes_volumes(t: &Shell) {
    let class = format!("disk-{}", t.namespace());
    t.write("class.yaml", &(storage_class(&class) + &claim("data", "1Gi", &class)));
    t.ok("kubectl apply -f class.yaml");
    t.eventually("kubectl describe pvc data", "waiting for first consumer to be created");
    apply(t, "user", &with_claim("data", ""));
    t.eventually("kubectl get pod user", "1/1");
    let volume = t.ok("kubectl get pvc data -o 'jsonpath={.spec.volumeName}'");
    t.eventually("kubectl describe pvc data", "Successfully provisioned volume");
    assert_eq!(t.ok(&phase("pv", &volume)), "Bound");

    // It grows with its claim.
    t.ok("kubectl patch pvc data -p '{\"spec\":{\"resources\":{\"requests\":{\"storage\":\"2Gi\"}}}}'");
    t.eventually("kubectl get pvc data -o 'jsonpath={.status.capacity.storage}'", "2Gi");

    t.ok("kubectl delete pod user --grace-period=1");
    t.ok("kubectl delete pvc data");
    t.until("kubectl get pv", "the volume goes", |out| !out.contains(&volume));
    t.ok(&format!("kubectl delete storageclass {class}"));
}

fn volumes_of_a_class_are_there_before_their_pods(t: &Shell) {
    let class = format!("disk-{}", t.namespace());
    t.write("class.yaml", &storage_class(&class));
    t.ok("kubectl apply -f class.yaml");
    let scratch = format!(
        "volumes: [{{name: v, ephemeral: {{volumeClaimTemplate: {{spec: {{accessModes: [ReadWriteOnce], \
         storageClassName: {class}, resources: {{requests: {{storage: 1Gi}}}}}}}}}}}}]\ncontainers:\n\
         - name: c\n  image: busybox\n  imagePullPolicy: IfNotPresent\n  command: [sleep, 1d]\n  \
         volumeMounts: [{{name: v, mountPath: /data}}]"
    );
    apply(t, "scratch", &scratch);
    t.eventually("kubectl get pod scratch", "1/1");
    t.ok("kubectl exec scratch -- sh -c 'echo here > /data/file'");
    let volume = t.ok("kubectl get pvc scratch-v -o 'jsonpath={.spec.volumeName}'");
    let path = t.ok(&format!("kubectl get pv {volume} -o 'jsonpath={{.spec.hostPath.path}}'"));
    assert_eq!(t.ok(&format!("cat {path}/file")).trim(), "here");
    // Claim, volume and folder go with the Pod.
    t.ok("kubectl delete pod scratch --grace-period=1");
    t.until("kubectl get pvc", "no claim", |out| !out.contains("scratch-v"));
    t.until("kubectl get pv", "no volume", |out| !out.contains(&volume));
    t.fails(&format!("ls {path}"));
    t.ok(&format!("kubectl delete storageclass {class}"));
}

fn a_pod_that_takes_more_of_the_disk_than_it_may_is_evicted(t: &Shell) {
    let container = |line: &str, limits: &str| {
        format!(
            "restartPolicy: Never\nvolumes: [{{name: scratch, emptyDir: {{sizeLimit: 1Mi}}}}]\ncontainers:\n\
             - name: c\n  image: busybox\n  imagePullPolicy: IfNotPresent\n  \
             command: [sh, -c, '{line}; sleep 1d']\n  resources: {{limits: {{{limits}}}}}\n  \
             volumeMounts: [{{name: scratch, mountPath: /scratch}}]"
        )
    };
    let write = |file: &str| format!("dd if=/dev/zero of={file} bs=1M count=3");
    let small = "ephemeral-storage: 2Mi";
    apply(t, "volume", &container(&write("/scratch/file"), "cpu: 100m"));
    apply(t, "layer", &container(&write("/file"), small));
    apply(t, "within", &container("echo little > /scratch/file", small));
    let evicted = [
        ("volume", "Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\". "),
        ("layer", "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. "),
    ];
    for (name, why) in evicted {
        let status =
            format!("kubectl get pod {name} -o 'jsonpath={{.status.reason}}: {{.status.message}}'");
        t.eventually(&status, &format!("Evicted: {why}"));
        t.eventually(&format!("kubectl get pod {name} -o 'jsonpath={{.status.phase}}'"), "Failed");
    }
    assert_eq!(t.ok("kubectl get pod within -o 'jsonpath={.status.phase}'"), "Running");
    t.ok("kubectl delete pod volume layer within --grace-period=1 --wait=false");
}

fn the_files_of_an_image_are_a_volume_for_reading(t: &Shell) {
    let image = "image: {reference: 'nginx:latest', pullPolicy: IfNotPresent}";
    apply(
        t,
        "reader",
        &format!(
            "volumes: [{{name: site, {image}}}]\ncontainers:\n\
             - name: c\n  image: busybox\n  imagePullPolicy: IfNotPresent\n  command: [sleep, 1d]\n  \
             volumeMounts:\n  - {{name: site, mountPath: /image}}\n  \
             - {{name: site, mountPath: /part, subPath: bin}}"
        ),
    );
    t.eventually("kubectl get pod reader", "1/1");
    t.ok("kubectl exec reader -- test -e /image/bin/busybox");
    t.ok("kubectl exec reader -- test -e /part/busybox");
    let refused = t.fails("kubectl exec reader -- touch /image/file");
    assert!(refused.contains("Read-only file system"), "{refused}");
    // What an image that is not there would be is said.
    let missing = "image: {reference: 'no-such-image:v1', pullPolicy: Never}";
    let spec = format!(
        "volumes: [{{name: site, {missing}}}]\ncontainers: [{{name: c, image: busybox, \
         volumeMounts: [{{name: site, mountPath: /image}}]}}]"
    );
    apply(t, "waiter", &spec);
    t.eventually("kubectl describe pod waiter", "is not present with pull policy of Never");
    t.ok("kubectl delete pod reader waiter --grace-period=1");
}
