//! What goes over the wire around objects: formats, compression, time limits, methods.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{config_map, get, send, server, server_in_memory};
use http::{Method, Request};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::PostParams};
use rk_api::server::ApiServer;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn text(
    server: &ApiServer,
    path: &str,
    headers: &[(&str, &str)],
) -> (http::HeaderMap, Vec<u8>) {
    let mut request = Request::get(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = server.client().send(request.body(Vec::new().into()).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
    (parts.headers, body.to_vec())
}

async fn with_map(value: &str) -> ApiServer {
    let server = server().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    maps.create(&PostParams::default(), &config_map("a", value)).await.unwrap();
    server
}

#[tokio::test]
async fn people_get_indented_json_and_programs_do_not() {
    let server = with_map("v").await;
    let path = format!("{MAPS}/a");
    let (_, plain) = text(&server, &path, &[]).await;
    assert!(!plain.contains(&b'\n'));
    let value: Value = serde_json::from_slice(&plain).unwrap();
    let curl = [("user-agent", "curl/8.0")];
    for (path, headers) in [(format!("{path}?pretty=true"), &[][..]), (path.clone(), &curl)] {
        let (_, pretty) = text(&server, &path, headers).await;
        assert!(pretty.starts_with(b"{\n  \"apiVersion\": \"v1\","));
        assert_eq!(serde_json::from_slice::<Value>(&pretty).unwrap(), value);
    }
    let (_, plain) = text(&server, &format!("{path}?pretty=0"), &curl).await;
    assert!(!plain.contains(&b'\n'));
    let (_, failure) = text(&server, &format!("{MAPS}/nosuch?pretty=1"), &[]).await;
    assert!(failure.starts_with(b"{\n  \""));
    let (_, yaml) =
        text(&server, &format!("{path}?pretty=1"), &[("accept", "application/yaml")]).await;
    assert!(yaml.starts_with(b"apiVersion: v1\n"), "{}", String::from_utf8_lossy(&yaml));
}

#[tokio::test]
async fn what_is_large_is_compressed_after_it_is_indented() {
    let server = with_map(&"x".repeat(300_000)).await;
    for query in ["", "?pretty=true"] {
        let path = format!("{MAPS}/a{query}");
        let gzip = [("accept-encoding", "br, gzip;q=0.8")];
        let (headers, body) = text(&server, &path, &gzip).await;
        assert_eq!(headers["content-encoding"], "gzip");
        assert_eq!(headers["vary"], "Accept-Encoding");
        assert!(body.len() < 10_000 && body.starts_with(&[0x1f, 0x8b]));
        let (headers, body) = text(&server, &path, &[]).await;
        assert!(!headers.contains_key("content-encoding") && body.len() > 300_000);
    }
}

#[tokio::test]
async fn a_request_says_how_long_it_may_take() {
    let server = with_map("v").await;
    for (timeout, code, message) in [
        ("10s", 200, None),
        ("0s", 200, None),
        ("5h", 200, None),
        ("x", 400, Some("time: invalid duration \"x\"")),
        ("10", 400, Some("time: missing unit in duration \"10\"")),
    ] {
        let answer = get(&server, &format!("{MAPS}?timeout={timeout}")).await;
        assert_eq!(answer.code, code, "{timeout}: {}", answer.body);
        if let Some(message) = message {
            let message = format!("invalid timeout specified in the request URL - {message}");
            assert_eq!(answer.body["message"], message);
        }
    }
    // A watch has `timeoutSeconds` for that.
    let watch = get(&server, &format!("{MAPS}?watch=1&timeout=x&timeoutSeconds=1")).await;
    assert_eq!(watch.code, 200);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_asks_for_little_time_gets_no_more() {
    let server = server_in_memory().await;
    let before = tokio::time::Instant::now();
    let answer = get(&server, &format!("{MAPS}?resourceVersion=999999&timeout=1s")).await;
    assert_eq!((answer.code, &answer.body["reason"]), (504, &json!("Timeout")));
    assert_eq!(
        answer.body["message"],
        "Timeout: request did not complete within the allotted timeout"
    );
    assert_eq!(before.elapsed().as_secs(), 1);
}

#[tokio::test]
async fn what_is_not_offered_is_not_acceptable() {
    let server = with_map("v").await;
    let one = format!("{MAPS}/a");
    let watch = format!("{MAPS}?watch=1&timeoutSeconds=1");
    for (path, accept, code) in [
        (&one, "text/html", 406),
        (&one, "application/cbor", 406),
        (&one, "application/json;as=Table;g=meta.k8s.io;v=v2", 406),
        (&one, "application/json;as=Nothing;g=meta.k8s.io;v=v1", 406),
        (&one, "text/html, application/json;q=0.1", 200),
        (&one, "application/*", 200),
        (&watch, "application/yaml", 406),
        (&watch, "application/json;stream=watch", 200),
    ] {
        let answer = send(&server, Request::get(path).header("accept", accept), Vec::new()).await;
        assert_eq!(answer.code, code, "{accept}: {}", answer.body);
        // A failure comes in the first format there is.
        if code == 406 && accept != "application/yaml" {
            assert_eq!(answer.body["reason"], "NotAcceptable");
            let message = answer.body["message"].as_str().unwrap();
            assert!(message.starts_with("only the following media types are accepted: "));
        }
    }
}

#[tokio::test]
async fn bodies_of_unknown_formats_are_refused() {
    let server = with_map("v").await;
    for (method, path, media_type) in [
        (Method::POST, MAPS, "application/cbor"),
        (Method::POST, MAPS, "text/plain"),
        (Method::PUT, &format!("{MAPS}/a"), "application/merge-patch+json"),
        (Method::PATCH, &format!("{MAPS}/a"), "application/json"),
        (Method::PATCH, &format!("{MAPS}/a"), "text/plain"),
        (Method::DELETE, &format!("{MAPS}/a"), "text/plain"),
    ] {
        let request =
            Request::builder().method(&method).uri(path).header("content-type", media_type);
        let answer = send(&server, request, b"{}".to_vec()).await;
        assert_eq!(answer.code, 415, "{method} {media_type}: {}", answer.body);
        assert_eq!(answer.body["reason"], "UnsupportedMediaType");
        let message = answer.body["message"].as_str().unwrap();
        let begin = "the body of the request was in an unknown format - accepted media types \
                     include: application/";
        assert!(message.starts_with(begin), "{message}");
    }
}

#[tokio::test]
async fn methods_that_a_path_does_not_have_are_refused() {
    let server = with_map("v").await;
    for (method, path) in [
        (Method::HEAD, MAPS),
        (Method::OPTIONS, MAPS),
        (Method::PUT, MAPS),
        (Method::POST, &format!("{MAPS}/a")),
        (Method::HEAD, &format!("{MAPS}/a")),
        (Method::PUT, "/api/v1/componentstatuses/scheduler"),
        (Method::GET, "/apis/authorization.k8s.io/v1/subjectaccessreviews"),
        (Method::DELETE, "/api/v1/namespaces"),
    ] {
        let request = Request::builder().method(&method).uri(path);
        let answer = send(&server, request, Vec::new()).await;
        assert_eq!(answer.code, 405, "{method} {path}: {}", answer.body);
        if method != Method::HEAD {
            assert_eq!(
                answer.body["message"],
                "the server does not allow this method on the requested resource"
            );
        }
    }
}

#[tokio::test]
async fn a_body_has_its_limit() {
    let server = server().await;
    let body = |bytes: usize| {
        let frame = r#"{"metadata":{"name":"x"},"foo":""}"#.len();
        let filling = "x".repeat(bytes - frame);
        format!(r#"{{"metadata":{{"name":"x"}},"foo":"{filling}"}}"#).into_bytes()
    };
    let limit = 3 * 1024 * 1024;
    let json = || Request::post(MAPS).header("content-type", "application/json");
    let fits = send(&server, json(), body(limit)).await;
    assert_eq!(fits.code, 201, "{}", fits.body);
    let too_long = send(&server, json(), body(limit + 1)).await;
    assert_eq!((too_long.code, &too_long.body["reason"]), (413, &json!("RequestEntityTooLarge")));
    assert_eq!(too_long.body["message"], "Request entity too large: limit is 3145728");
}

#[tokio::test]
async fn a_deprecated_version_says_so() {
    let server = server().await;
    let old = get(&server, "/apis/batch/v1beta1/namespaces/default/cronjobs").await;
    let warning = old.headers["warning"].to_str().unwrap();
    assert!(
        warning.starts_with("299 - \"batch/v1beta1 CronJob is deprecated in v1.21+"),
        "{warning}"
    );
    let new = get(&server, "/apis/batch/v1/namespaces/default/cronjobs").await;
    assert!(!new.headers.contains_key("warning"));
}

#[tokio::test]
async fn what_is_not_large_is_not_compressed() {
    let server = with_map(&"x".repeat(100_000)).await;
    let gzip = [("accept-encoding", "gzip")];
    let (headers, body) = text(&server, &format!("{MAPS}/a"), &gzip).await;
    assert!(!headers.contains_key("content-encoding"));
    assert!(body.len() < 128 * 1024);
}

async fn plain(server: &ApiServer, path: &str) -> (u16, String) {
    let request = Request::get(path).body(Vec::new().into()).unwrap();
    let (parts, body) = server.client().send(request).await.unwrap().into_parts();
    let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
    (parts.status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn health_is_told_check_by_check() {
    let server = server().await;
    for endpoint in ["healthz", "livez", "readyz"] {
        assert_eq!(plain(&server, &format!("/{endpoint}")).await, (200, "ok".to_owned()));
        let (code, text) = plain(&server, &format!("/{endpoint}?verbose")).await;
        assert_eq!(code, 200);
        assert!(text.starts_with("[+]ping ok\n"), "{text}");
        assert!(text.ends_with(&format!("{endpoint} check passed\n")), "{text}");
        let (_, text) = plain(&server, &format!("/{endpoint}?verbose&exclude=etcd")).await;
        assert!(text.contains("[+]etcd excluded: ok\n"), "{text}");
        assert_eq!(plain(&server, &format!("/{endpoint}/etcd")).await.0, 200);
        assert_eq!(plain(&server, &format!("/{endpoint}/nosuch")).await.0, 404);
    }
}

#[tokio::test]
async fn a_server_that_leaves_is_not_ready_and_still_serves() {
    let server = with_map("v").await;
    server.leave().await;
    let (code, text) = plain(&server, "/readyz").await;
    assert_eq!(code, 500);
    assert!(text.contains("[-]shutdown failed: reason withheld\n"), "{text}");
    assert!(text.ends_with("readyz check failed\n"), "{text}");
    assert_eq!(plain(&server, "/readyz?exclude=shutdown").await.0, 200);
    assert_eq!(plain(&server, "/livez").await.0, 200);

    let maps: Api<ConfigMap> = Api::default_namespaced(server.client());
    maps.create(&PostParams::default(), &config_map("b", "v")).await.unwrap();
    let names = get(&server, MAPS).await.body;
    assert_eq!(names["items"].as_array().unwrap().len(), 2, "it follows its store");
}

#[tokio::test]
async fn metrics_have_the_names_that_dashboards_ask_for() {
    let server = with_map("v").await;
    get(&server, MAPS).await;
    get(&server, &format!("{MAPS}/nosuch")).await;
    get(&server, &format!("{MAPS}?watch=1&timeoutSeconds=1")).await;
    let (_, metrics) = plain(&server, "/metrics").await;
    let line = |begin: &str, parts: &[&str]| {
        metrics
            .lines()
            .find(|line| line.starts_with(begin) && parts.iter().all(|part| line.contains(part)))
            .unwrap_or_else(|| panic!("no {begin} with {parts:?} in\n{metrics}"))
    };
    let created = r#"verb="POST""#;
    let maps = r#"resource="configmaps""#;
    line("apiserver_request_total{", &[created, maps, r#"scope="resource""#, r#"code="201""#]);
    line("apiserver_request_total{", &[r#"verb="GET""#, maps, r#"code="404""#]);
    line("apiserver_request_total{", &[r#"verb="WATCH""#, maps, r#"component="apiserver""#]);
    let list = r#"verb="LIST""#;
    line("apiserver_request_duration_seconds_bucket{", &[list, maps, r#"scope="namespace""#]);
    line("apiserver_request_duration_seconds_bucket{", &[list, r#"le="1.0""#]);
    line("apiserver_request_duration_seconds_count{", &[list]);
    // The request that reads them counts itself.
    let reading = line("apiserver_current_inflight_requests{", &[r#"request_kind="readOnly""#]);
    assert!(reading.ends_with(" 1"), "{reading}");
    line("apiserver_current_inflight_requests{", &[r#"request_kind="mutating""#]);
    line("apiserver_longrunning_requests{", &[maps, r#"verb="WATCH""#]);
    // Its own, and the one that says since when the server follows the use of tokens.
    line("apiserver_storage_objects{", &[maps, "2"]);
    let create = r#"operation="create""#;
    line("etcd_request_duration_seconds_bucket{", &[create, r#"type="configmaps""#]);
    line("etcd_requests_total{", &[create, r#"type="configmaps""#]);
    line("apiserver_flowcontrol_", &[]);
    line("kubernetes_build_info{", &[r#"git_version="v1.37.0""#]);
    if cfg!(target_os = "linux") {
        for name in
            ["process_cpu_seconds_total ", "process_resident_memory_bytes ", "process_open_fds "]
        {
            line(name, &[]);
        }
    }
}
