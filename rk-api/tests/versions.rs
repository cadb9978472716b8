//! One kind at several versions: one object, whichever version a client asks for.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use rk_api::{
    resources::{Resource, Resources},
    server::{ApiServer, UserInfo, authn::TokenList},
};
use rk_store::{EmbeddedStore, Store};
use serde_json::{Value, json};
use std::sync::Arc;
use tower::ServiceExt;

const OLD: &str = "/apis/batch/v1beta1/namespaces/default/cronjobs";
const NEW: &str = "/apis/batch/v1/namespaces/default/cronjobs";
const WARNING: &str = "299 - \"batch/v1beta1 CronJob is deprecated in v1.21+, unavailable in \
                       v1.25+; use batch/v1 CronJob\"";

struct Answer {
    code: u16,
    body: Value,
    text: String,
    warnings: Vec<String>,
}

struct Client {
    server: ApiServer,
    store: Arc<EmbeddedStore>,
}

impl Client {
    async fn new() -> Self {
        let admins = TokenList::default().with("secret", UserInfo::admin());
        let store = Arc::new(EmbeddedStore::in_memory());
        let builder = ApiServer::builder(store.clone()).authenticator(Arc::new(admins));
        Self { server: builder.start().await.unwrap(), store }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut request =
            Request::builder().method(method).uri(path).header("authorization", "Bearer secret");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
        let Ok(response) = self.server.clone().oneshot(request).await;
        let code = response.status().as_u16();
        let warnings = response.headers().get_all("warning").iter();
        let warnings = warnings.map(|value| value.to_str().unwrap().to_owned()).collect();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        Answer { code, body: serde_json::from_slice(&body).unwrap_or_default(), text, warnings }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], b"").await
    }

    async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.send(Method::GET, path, &[("accept", accept)], b"").await
    }

    async fn write(&self, method: Method, path: &str, kind: &str, body: &Value) -> Answer {
        let body = body.to_string();
        self.send(method, path, &[("content-type", kind)], body.as_bytes()).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        let answer = self.write(Method::POST, path, "application/json", body).await;
        assert_eq!(answer.code, 201, "{}", answer.text);
        answer
    }
}

fn cron_job(name: &str) -> Value {
    json!({
        "apiVersion": "batch/v1beta1", "kind": "CronJob", "metadata": {"name": name},
        "spec": {
            "schedule": "* * * * *",
            "jobTemplate": {"spec": {"template": {"spec": {
                "restartPolicy": "OnFailure",
                "containers": [{"name": "c", "image": "i"}],
            }}}},
        },
    })
}

/// The object without its version.
fn rest(object: &Value) -> Value {
    let mut object = object.clone();
    object.as_object_mut().unwrap().remove("apiVersion");
    object
}

#[tokio::test]
async fn an_object_is_the_same_at_every_version() {
    let client = Client::new().await;
    let created = client.post(OLD, &cron_job("a")).await;
    assert_eq!(created.body["apiVersion"], "batch/v1beta1");
    assert_eq!(created.warnings, [WARNING]);

    let old = client.get(&format!("{OLD}/a")).await;
    let new = client.get(&format!("{NEW}/a")).await;
    assert_eq!((old.body.clone(), &old.warnings[..]), (created.body, &[WARNING.to_owned()][..]));
    assert_eq!(new.body["apiVersion"], "batch/v1");
    assert_eq!(rest(&new.body), rest(&old.body));
    assert_eq!(new.warnings, Vec::<String>::new());
    let kept = client.store.get("/registry/cronjobs/default/a").await.unwrap().unwrap();
    assert!(kept.value.starts_with(br#"{"apiVersion":"batch/v1","kind":"CronJob","metadata":{"#));

    // A replacement at one version needs the version that the other one shows.
    let mut changed = old.body;
    changed["spec"]["schedule"] = json!("0 0 * * *");
    let put = client.write(Method::PUT, &format!("{OLD}/a"), "application/json", &changed).await;
    assert_eq!((put.code, &put.body["spec"]["schedule"]), (200, &json!("0 0 * * *")));
    let mut stale = new.body;
    stale["spec"]["schedule"] = json!("1 1 * * *");
    let put = client.write(Method::PUT, &format!("{NEW}/a"), "application/json", &stale).await;
    assert_eq!(put.code, 409);
    let wrong = client.write(Method::PUT, &format!("{OLD}/a"), "application/json", &stale).await;
    assert_eq!(wrong.code, 400);
    let message = wrong.body["message"].as_str().unwrap();
    assert!(message.contains("does not match the expected API version"), "{message}");

    let list = client.get(OLD).await;
    assert_eq!(list.body["apiVersion"], "batch/v1beta1");
    assert_eq!(list.body["items"][0]["spec"]["schedule"], "0 0 * * *");

    let deleted = client.send(Method::DELETE, &format!("{OLD}/a"), &[], b"").await;
    assert_eq!(deleted.code, 200);
    let gone = client.get(&format!("{OLD}/a")).await;
    assert_eq!((gone.code, gone.warnings.len()), (404, 1));
    assert_eq!(client.get(&format!("{NEW}/a")).await.code, 404);
}

#[tokio::test]
async fn a_watch_shows_the_version_that_was_asked_for() {
    let client = Client::new().await;
    client
        .post(NEW, &{
            let mut job = cron_job("a");
            job["apiVersion"] = json!("batch/v1");
            job
        })
        .await;
    for path in [OLD, NEW] {
        let patch = json!({"spec": {"schedule": "0 0 * * *", "suspend": path == OLD}});
        let kind = "application/strategic-merge-patch+json";
        let patched = client.write(Method::PATCH, &format!("{OLD}/a"), kind, &patch).await;
        assert_eq!(patched.code, 200, "{}", patched.text);
        let events = client.get(&format!("{path}?watch=1&timeoutSeconds=1")).await.text;
        let event: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
        let version = if path == OLD { "batch/v1beta1" } else { "batch/v1" };
        assert_eq!(event["type"], "ADDED");
        assert_eq!(event["object"]["apiVersion"], version);
        assert_eq!(event["object"]["spec"]["schedule"], "0 0 * * *");
    }
}

#[tokio::test]
async fn an_ingress_has_a_shape_for_each_version() {
    let client = Client::new().await;
    let path = |version: &str| format!("/apis/{version}/namespaces/default/ingresses");
    let old = json!({
        "apiVersion": "extensions/v1beta1", "kind": "Ingress", "metadata": {"name": "i"},
        "spec": {"rules": [{"host": "h", "http": {"paths": [
            {"path": "/", "backend": {"serviceName": "s", "servicePort": 80}}]}}]},
    });
    client.post(&path("extensions/v1beta1"), &old).await;

    let new = client.get(&format!("{}/i", path("networking.k8s.io/v1"))).await.body;
    let at = "/spec/rules/0/http/paths/0";
    assert_eq!(
        new.pointer(at).unwrap(),
        &json!({
            "path": "/", "pathType": "ImplementationSpecific",
            "backend": {"service": {"name": "s", "port": {"number": 80}}},
        })
    );
    // Patches are of the version that they are sent to, merged as its schema says.
    for kind in ["merge-patch+json", "strategic-merge-patch+json"] {
        let patch = json!({"spec": {"backend": {"serviceName": "d", "servicePort": "http"}}});
        let item = format!("{}/i", path("networking.k8s.io/v1beta1"));
        let kind = format!("application/{kind}");
        let patched = client.write(Method::PATCH, &item, &kind, &patch).await;
        assert_eq!(patched.code, 200, "{}", patched.text);
        assert_eq!(patched.body["spec"]["backend"]["servicePort"], "http");
        assert_eq!(patched.body.pointer(at).unwrap()["backend"]["serviceName"], "s");
    }
    let new = client.get(&format!("{}/i", path("networking.k8s.io/v1"))).await.body;
    assert_eq!(
        new["spec"]["defaultBackend"],
        json!({"service": {"name": "d", "port": {"name": "http"}}})
    );
    let strict = format!("{}?fieldValidation=Strict", path("extensions/v1beta1"));
    let mut mixed = old;
    mixed["metadata"]["name"] = json!("mixed");
    mixed["spec"]["defaultBackend"] = json!({"service": {"name": "s"}});
    let refused = client.write(Method::POST, &strict, "application/json", &mixed).await;
    assert_eq!(refused.code, 400);
    let message = refused.body["message"].as_str().unwrap();
    assert!(message.contains("unknown field \"spec.defaultBackend\""), "{message}");
}

#[tokio::test]
async fn every_form_of_an_answer_is_converted() {
    let client = Client::new().await;
    let path = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let scaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h"},
        "spec": {
            "maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"},
            "metrics": [{"type": "Resource", "resource": {
                "name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}}],
        },
    });
    client.post(&path.replace("/v1/", "/v2/"), &scaler).await;
    let metrics = "autoscaling.alpha.kubernetes.io/metrics";

    let whole = client.get(&format!("{path}/h")).await.body;
    assert!(whole["metadata"]["annotations"][metrics].is_string(), "{whole}");
    let partial = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let partial = client.get_as(&format!("{path}/h"), partial).await.body;
    assert_eq!(partial["kind"], "PartialObjectMetadata");
    assert!(partial["metadata"]["annotations"][metrics].is_string(), "{partial}");
    let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
    let table = client.get_as(&format!("{path}?includeObject=Object"), table).await.body;
    assert_eq!(table["rows"][0]["cells"][0], "h");
    assert_eq!(table["rows"][0]["object"]["apiVersion"], "autoscaling/v1");
    let protobuf = client.get_as(&format!("{path}/h"), "application/vnd.kubernetes.protobuf").await;
    assert!(protobuf.text.starts_with("k8s\0") && protobuf.text.contains(metrics));
}

#[tokio::test]
async fn events_are_selected_by_the_names_of_their_version() {
    let client = Client::new().await;
    let event = |name: &str| {
        json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": name, "namespace": "default"},
            "eventTime": "2020-01-02T03:04:05.000006Z",
            "regarding": {"kind": "Pod", "namespace": "default", "name": name},
            "reason": "R", "action": "A", "note": "n", "type": "Normal",
            "reportingController": "example.com/c", "reportingInstance": "i",
        })
    };
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    client.post(path, &event("a")).await;
    client.post(path, &event("b")).await;
    let old = "/apis/events.k8s.io/v1beta1/namespaces/default/events";
    let core = "/api/v1/namespaces/default/events";
    for (path, field) in
        [(path, "regarding.name"), (old, "regarding.name"), (core, "involvedObject.name")]
    {
        let list = client.get(&format!("{path}?fieldSelector={field}%3Db")).await.body;
        let names: Vec<_> = list["items"].as_array().unwrap().iter().collect();
        assert_eq!(names.len(), 1, "{path}");
        assert_eq!(names[0]["metadata"]["name"], "b");
    }
    let refused = client.get(&format!("{core}?fieldSelector=regarding.name%3Db")).await;
    assert_eq!(refused.code, 400);
    let shown = client.get(&format!("{core}/a")).await.body;
    assert_eq!((&shown["message"], &shown["involvedObject"]["name"]), (&json!("n"), &json!("a")));
}

#[tokio::test]
async fn discovery_prefers_the_newest_version() {
    let client = Client::new().await;
    let groups = client.get("/apis").await.body;
    let versions = |name: &str| {
        let group = groups["groups"].as_array().unwrap().iter().find(|group| group["name"] == name);
        let group = group.unwrap();
        let versions: Vec<_> = group["versions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|version| version["version"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(group["preferredVersion"]["version"], versions[0]);
        versions
    };
    assert_eq!(versions("batch"), ["v1", "v1beta1"]);
    assert_eq!(versions("autoscaling"), ["v2", "v1", "v2beta2"]);
    assert_eq!(versions("events.k8s.io"), ["v1", "v1beta1"]);
    assert_eq!(versions("extensions"), ["v1beta1"]);
    let document = client.get("/openapi/v3/apis/batch/v1beta1").await.body;
    let schema = &document["components"]["schemas"]["io.k8s.api.batch.v1beta1.CronJob"];
    assert_eq!(
        schema["x-kubernetes-group-version-kind"],
        json!([{"group": "batch", "version": "v1beta1", "kind": "CronJob"}])
    );
}

#[tokio::test]
async fn a_server_serves_what_it_stored_before() {
    let first = Client::new().await;
    first.post(OLD, &cron_job("a")).await;
    first.server.shutdown().await;
    let second = ApiServer::builder(first.store.clone()).start().await.unwrap();
    let client = second.client();
    let request = Request::get(format!("{OLD}/a")).body(Vec::new()).unwrap();
    let found: Value = client.request(request).await.unwrap();
    assert_eq!(found["apiVersion"], "batch/v1beta1");
}

/// Serves what 1.20 had: none of the newest versions of these kinds.
async fn old_server() -> ApiServer {
    let newer = [("policy", "v1"), ("discovery.k8s.io", "v1"), ("autoscaling", "v2")];
    let is_old =
        |row: &&Arc<Resource>| !newer.contains(&(row.group.as_ref(), row.version.as_ref()));
    let rows: Resources =
        Resources::builtin().iter().filter(is_old).map(|row| (**row).clone()).collect();
    let store = Arc::new(EmbeddedStore::in_memory());
    ApiServer::builder(store).resources(rows).start().await.unwrap()
}

#[tokio::test]
async fn a_kind_is_kept_though_its_stored_version_is_not_served() {
    let client = old_server().await.client();
    let path = "/apis/policy/v1beta1/namespaces/default/poddisruptionbudgets";
    let send = async |method: Method, path: &str, body: Value| {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("content-type", "application/json");
        let request = request.body(body.to_string().into_bytes()).unwrap();
        client.request::<Value>(request).await.unwrap()
    };
    let labels = json!({ "matchLabels": { "app": "web" } });
    let budget = json!({ "metadata": { "name": "b" }, "spec": { "selector": labels } });
    send(Method::POST, path, budget).await;
    let list = send(Method::GET, path, Value::Null).await;
    assert_eq!(list["items"][0]["metadata"]["name"], "b");
    assert_eq!(list["apiVersion"], "policy/v1beta1");

    let groups = send(Method::GET, "/apis", Value::Null).await;
    let groups = groups["groups"].as_array().unwrap();
    let policy = groups.iter().find(|group| group["name"] == "policy").unwrap();
    assert_eq!(policy["versions"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn everything_in_a_namespace_can_be_deleted_where_only_old_versions_are_served() {
    let server = old_server().await;
    let client = server.client();
    let send = async |method: Method, path: &str| {
        let request = Request::builder().method(method).uri(path).body(Vec::new()).unwrap();
        client.request::<Value>(request).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let mut deleted = 0;
    let groups = send(Method::GET, "/apis").await;
    let groups = groups["groups"].as_array().unwrap().iter();
    let groups = groups.flat_map(|group| group["versions"].as_array().unwrap());
    let versions =
        groups.map(|version| format!("/apis/{}", version["groupVersion"].as_str().unwrap()));
    for version in versions.chain(["/api/v1".to_owned()]) {
        let resources = send(Method::GET, &version).await;
        for resource in resources["resources"].as_array().unwrap() {
            let verbs = resource["verbs"].as_array().unwrap();
            if resource["namespaced"] == true && verbs.contains(&json!("deletecollection")) {
                let name = resource["name"].as_str().unwrap();
                let path = format!("{version}/namespaces/default/{name}");
                send(Method::DELETE, &path).await;
                send(Method::GET, &path).await;
                deleted += 1;
            }
        }
    }
    assert!(deleted > 30, "{deleted} kinds");
}
