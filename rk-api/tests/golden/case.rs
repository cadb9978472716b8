use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use rk_api::server::ApiServer;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;

use crate::{TOKEN, compare, normal};

/// How long an answer may take; watches end themselves earlier.
const PATIENCE: Duration = Duration::from_secs(40);

/// What placeholders stand for: `{ns}` a namespace of the case's own, `{u}` something unique, and
/// what earlier answers were asked to `save`.
pub(crate) type Names = BTreeMap<String, String>;

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

pub(crate) struct Replayer {
    server: ApiServer,
    number: AtomicU32,
}

impl Replayer {
    pub(crate) fn new(server: ApiServer) -> Self {
        Self { server, number: AtomicU32::default() }
    }

    /// Runs a case; the error says how its answer differs from the recorded one.
    pub(crate) async fn run(&self, case: &Value) -> Result<(), String> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let mut names = Names::from([
            ("ns".to_owned(), format!("n{number:08x}")),
            ("u".to_owned(), format!("u{number:08x}")),
        ]);
        let has_namespace = case.to_string().contains("{ns}");
        let answer = self.ask(case, has_namespace, &mut names).await;
        for request in list(&case["cleanup"]) {
            let _ = self.send(request, &names).await;
        }
        if has_namespace {
            let request = json!({"method": "DELETE", "path": "/api/v1/namespaces/{ns}"});
            let _ = self.send(&request, &names).await;
        }
        compare::compare(case, &answer?, &names)
    }

    async fn ask(
        &self,
        case: &Value,
        has_namespace: bool,
        names: &mut Names,
    ) -> Result<Answer, String> {
        if has_namespace {
            self.make_namespace(names).await?;
        }
        for request in list(&case["setup"]) {
            self.step(request, names).await?;
        }
        let request = &case["request"];
        if request.get("until").is_some() {
            self.step(request, names).await?;
        }
        let meanwhile = async {
            for request in list(&request["during"]) {
                sleep(Duration::from_millis(200)).await;
                let _ = self.send(request, names).await;
            }
        };
        tokio::join!(self.send(request, names), meanwhile).0
    }

    /// A namespace whose service account mounts no token.
    async fn make_namespace(&self, names: &mut Names) -> Result<(), String> {
        let namespace = json!({
            "method": "POST", "path": "/api/v1/namespaces", "body": {"metadata": {"name": "{ns}"}}
        });
        self.step(&namespace, names).await?;
        let account = json!({
            "method": "POST", "path": "/api/v1/namespaces/{ns}/serviceaccounts",
            "body": {"metadata": {"name": "default"}, "automountServiceAccountToken": false}
        });
        self.step(&account, names).await
    }

    /// A request whose success the case builds on.
    async fn step(&self, request: &Value, names: &mut Names) -> Result<(), String> {
        let patience = request["patience"].as_u64().unwrap_or(10);
        let deadline = Instant::now() + Duration::from_secs(patience);
        let answer = loop {
            let answer = self.send(request, names).await?;
            let good = match request["until"].as_u64() {
                Some(status) => u64::from(answer.status) == status,
                None => answer.status < 400,
            };
            if good || request["any"] == true {
                break answer;
            }
            if request.get("until").is_none() || Instant::now() > deadline {
                let Answer { status, text, .. } = answer;
                return Err(format!(
                    "before it: {} {}: {status} {text}",
                    request["method"], request["path"]
                ));
            }
            sleep(Duration::from_millis(100)).await;
        };
        for (name, path) in request["save"].as_object().into_iter().flatten() {
            let body: Value = serde_json::from_str(&answer.text).map_err(|e| e.to_string())?;
            let found = path.as_str().and_then(|path| compare::dig(&body, path));
            let found = found.ok_or_else(|| format!("before it: no {path} in {body}"))?;
            let text = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
            names.insert(name.clone(), text);
        }
        if let Some(seconds) = request["sleep"].as_f64() {
            sleep(Duration::from_secs_f64(seconds)).await;
        }
        Ok(())
    }

    async fn send(&self, request: &Value, names: &Names) -> Result<Answer, String> {
        let request = normal::filled_in(request, names);
        let path = quoted(request["path"].as_str().unwrap_or_default());
        let mut headers = BTreeMap::from([
            ("authorization".to_owned(), format!("Bearer {TOKEN}")),
            ("accept".to_owned(), "application/json".to_owned()),
            ("user-agent".to_owned(), "replay/1".to_owned()),
        ]);
        let body = match request.get("body") {
            None | Some(Value::Null) => String::new(),
            Some(body) => {
                headers.insert("content-type".to_owned(), "application/json".to_owned());
                body.as_str().map_or_else(|| body.to_string(), str::to_owned)
            }
        };
        for (name, value) in request["headers"].as_object().into_iter().flatten() {
            match value.as_str() {
                Some(value) => headers.insert(name.to_lowercase(), value.to_owned()),
                None => headers.remove(&name.to_lowercase()),
            };
        }
        let mut built =
            Request::builder().method(request["method"].as_str().unwrap_or_default()).uri(path);
        for (name, value) in headers {
            built = built.header(name, value);
        }
        let built = built.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())?;
        let exchange = async {
            let Ok(answer) = self.server.clone().oneshot(built).await;
            let (parts, body) = answer.into_parts();
            let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
            Ok(Answer {
                status: parts.status.as_u16(),
                text: plain(&parts.headers, &body),
                headers: parts.headers,
            })
        };
        timeout(PATIENCE, exchange).await.map_err(|_| "no answer".to_owned())?
    }
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn plain(headers: &HeaderMap, body: &[u8]) -> String {
    let zipped = headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip");
    if !zipped {
        return String::from_utf8_lossy(body).into_owned();
    }
    let mut text = String::new();
    let read = std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(body), &mut text);
    read.map_or_else(|error| error.to_string(), |_| text)
}

/// The path with what a URL may not contain written as `%xx`.
fn quoted(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"_.-~/?&=%,;:!()+*".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
