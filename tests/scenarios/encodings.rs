//! One object in every encoding. That it holds for any object of any kind is a property test of
//! `rk-api` (`server/protobuf/round_trips.rs`); this is the wire.

use crate::harness::{Shell, scenarios};

scenarios! {
    Sim:
        s55_an_object_is_the_same_in_every_encoding;
}

/// An object of each kind, as a person writes it.
const OBJECTS: &str = r#"
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: one}, data: {k: v}, binaryData: {b: AAEC}}
---
{apiVersion: v1, kind: Secret, metadata: {name: one}, stringData: {k: v}}
---
{apiVersion: v1, kind: Service, metadata: {name: one}, spec: {ports: [{port: 80, targetPort: http}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: one, labels: {a: b}}, spec: {schedulerName: none, containers: [
  {name: c, image: "i:1", resources: {limits: {cpu: "0.5", memory: 1Gi}}, env: [{name: A, value: "1"}],
   livenessProbe: {httpGet: {path: /, port: 80}}}], volumes: [{name: v, emptyDir: {}}]}}
---
{apiVersion: v1, kind: PodTemplate, metadata: {name: one}, template: {spec: {containers: [{name: c, image: i}]}}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: one}, automountServiceAccountToken: false}
---
{apiVersion: v1, kind: ReplicationController, metadata: {name: one}, spec: {replicas: 0, selector: {a: d},
  template: {metadata: {labels: {a: d}}, spec: {containers: [{name: c, image: i}]}}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: one}, spec: {replicas: 0, selector: {matchLabels: {a: c}},
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 25%}},
  template: {metadata: {labels: {a: c}}, spec: {containers: [{name: c, image: i}]}}}}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: one}, spec: {schedule: "0 0 1 1 *", jobTemplate: {spec: {template:
  {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}}}
---
{apiVersion: autoscaling/v2, kind: HorizontalPodAutoscaler, metadata: {name: one}, spec: {maxReplicas: 3,
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: one}}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: one}, spec: {podSelector: {},
  ingress: [{ports: [{port: 80}], from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: one}, spec: {rules: [{host: a.b, http: {paths: [
  {path: /, pathType: Prefix, backend: {service: {name: one, port: {number: 80}}}}]}}]}}
---
{apiVersion: policy/v1, kind: PodDisruptionBudget, metadata: {name: one}, spec: {minAvailable: 50%,
  selector: {matchExpressions: [{key: a, operator: Exists}]}}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: one}, rules: [
  {apiGroups: [""], resources: [pods], verbs: [get]}]}
---
{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: one}, spec: {holderIdentity: me,
  renewTime: "2026-01-02T03:04:05.000006Z"}}
"#;

/// Where they are served.
const PATHS: [&str; 15] = [
    "api/v1 configmaps",
    "api/v1 secrets",
    "api/v1 services",
    "api/v1 pods",
    "api/v1 podtemplates",
    "api/v1 serviceaccounts",
    "api/v1 replicationcontrollers",
    "apis/apps/v1 deployments",
    "apis/batch/v1 cronjobs",
    "apis/autoscaling/v2 horizontalpodautoscalers",
    "apis/networking.k8s.io/v1 networkpolicies",
    "apis/networking.k8s.io/v1 ingresses",
    "apis/policy/v1 poddisruptionbudgets",
    "apis/rbac.authorization.k8s.io/v1 roles",
    "apis/coordination.k8s.io/v1 leases",
];

const ENCODINGS: [&str; 3] =
    ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

fn s55_an_object_is_the_same_in_every_encoding(t: &Shell) {
    let user = "kubectl config view --raw --minify -o 'jsonpath={.users[0].user.client-";
    t.ok(&format!("{user}certificate-data}}' | base64 -d > crt"));
    t.ok(&format!("{user}key-data}}' | base64 -d > key"));
    let server = "kubectl config view --minify -o 'jsonpath={.clusters[0].cluster.server}'";
    let server = t.ok(server);
    let curl = "curl -sk --cert crt --key key";

    t.write("objects.yaml", OBJECTS);
    t.ok("kubectl create -f objects.yaml");
    // Controllers have said what they have to say about them.
    t.eventually("kubectl get deployment one -o jsonpath={.status.observedGeneration}", "1");
    t.eventually("kubectl get rc one -o jsonpath={.status.observedGeneration}", "1");

    for path in PATHS {
        let (version, plural) = path.split_once(' ').expect("two words");
        let url = format!("{server}/{version}/namespaces/{}/{plural}", t.namespace());
        let get = format!("{curl} -H 'Accept: application/json' {url}/one");
        let before = t.ok(&get);
        assert!(before.contains("\"resourceVersion\""), "{path}: {before}");
        for encoding in ENCODINGS {
            t.ok(&format!("{curl} -f -H 'Accept: {encoding}' {url}/one -o body"));
            // What was fetched is an update that changes nothing.
            let put = format!("{curl} -X PUT -H 'Content-Type: {encoding}' --data-binary @body");
            let answer = t.ok(&format!("{put} {url}/one"));
            assert_eq!(answer, before, "{path} as {encoding}");
            // And it makes the same object anew: what is asked for and what comes back.
            let dry =
                format!("{curl} -X PUT -H 'Content-Type: {encoding}' -H 'Accept: {encoding}'");
            t.ok(&format!("{dry} --data-binary @body -o again '{url}/one?dryRun=All'"));
            t.ok("cmp body again");
        }
        assert_eq!(t.ok(&get), before, "{path}");

        let code = "-s -o /dev/null -w '%{http_code}'";
        let csv = format!("{curl} {code} -X POST -H 'Content-Type: text/csv' -d x {url}");
        assert_eq!(t.ok(&csv), "415", "{path}");
        assert_eq!(t.ok(&format!("{curl} {code} -H 'Accept: image/png' {url}")), "406", "{path}");
    }
}
