//! Thousands of requests that nobody would send: the server answers each and stays whole.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use rk_api::{rng::Rng, server::fuzzing};

const WORDS: &[&str] = &[
    "api",
    "apis",
    "v1",
    "apps",
    "namespaces",
    "default",
    "pods",
    "configmaps",
    "deployments",
    "services",
    "nodes",
    "x",
    "y",
    "status",
    "scale",
    "binding",
    "eviction",
    "log",
    "exec",
    "token",
    "finalize",
    "watch",
    "openapi",
    "v3",
    "livez",
    "..",
    "%2e",
    "%00",
    "",
    "metrics",
    "events",
    "serviceaccounts",
    "proxy",
    "secrets",
    "priorityclasses",
    "scheduling.k8s.io",
    "version",
];

const PARAMETERS: &[&str] = &[
    "watch=1",
    "limit=1",
    "limit=-5",
    "continue=e30",
    "resourceVersion=1",
    "resourceVersion=0",
    "labelSelector=a%3Db",
    "fieldSelector=metadata.name%3Dx",
    "dryRun=All",
    "timeoutSeconds=1",
    "resourceVersionMatch=Exact",
    "fieldValidation=Strict",
    "gracePeriodSeconds=0",
    "propagationPolicy=Orphan",
    "sendInitialEvents=true",
    "allowWatchBookmarks=true",
    "tailLines=x",
    "container=c",
    "command=ls",
    "includeObject=Object",
    "pretty=1",
    "%%%",
    "a=b=c&&",
];

const MEDIA_TYPES: &[&str] = &[
    "application/json",
    "application/yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "text/plain",
    "",
    "application/json;as=Table;v=v1;g=meta.k8s.io",
    "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    "*/*",
    ";;;=,",
];

const BODIES: &[&str] = &[
    "",
    "{}",
    "[]",
    "null",
    "7",
    "\"x\"",
    "{\"metadata\":{\"name\":\"x\"}}",
    "{\"metadata\":{\"name\":\"x\"},\"data\":{\"a\":\"b\"}}",
    "{\"metadata\":{\"generateName\":\"g\"}}",
    "{\"metadata\":{\"name\":\"x\",\"finalizers\":[\"a.b/c\"]}}",
    "{\"metadata\":{\"name\":\"x\"},\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"i\"}]}}",
    "{\"metadata\":{\"name\":\"x\"},\"spec\":{\"ports\":[{\"port\":80}],\"type\":\"NodePort\"}}",
    "{\"spec\":{\"replicas\":-1}}",
    "[{\"op\":\"add\",\"path\":\"/data/k\",\"value\":\"v\"}]",
    "[{\"op\":\"remove\",\"path\":\"\"}]",
    "metadata: {name: y}\ndata: {a: b}\n",
    "a: &x [*x]\n",
    "{\"target\":{\"kind\":\"Node\",\"name\":\"n\"}}",
    "{\"$patch\":\"delete\"}",
    "{\"metadata\":null}",
    "{\"metadata\":{\"labels\":{\"a\":null}}}",
    "{\"spec\":{\"expirationSeconds\":9223372036854775807}}",
];

fn pick<'a>(rng: &mut Rng, words: &[&'a str]) -> &'a str {
    words[rng.below(words.len() as u64) as usize]
}

/// A request that is nearly right.
fn plausible(rng: &mut Rng) -> Option<Request<Full<Bytes>>> {
    let mut path = String::new();
    let known =
        ["/api/v1/namespaces/default/", "/api/v1/", "/apis/apps/v1/namespaces/default/", ""];
    path.push_str(pick(rng, &known));
    for _ in 0..rng.below(4) {
        path.push('/');
        path.push_str(pick(rng, WORDS));
    }
    for at in 0..rng.below(4) {
        path.push(if at == 0 { '?' } else { '&' });
        path.push_str(pick(rng, PARAMETERS));
    }
    let path = path.replace("//", "/");
    let path = if path.starts_with('/') { path } else { format!("/{path}") };
    let methods =
        [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::POST];
    let body = pick(rng, BODIES);
    let cut =
        if rng.below(6) == 0 { rng.below(body.len() as u64 + 1) as usize } else { body.len() };
    let body = Bytes::copy_from_slice(&body.as_bytes()[..cut]);
    Request::builder()
        .method(&methods[rng.below(6) as usize])
        .uri(path)
        .header("content-type", pick(rng, MEDIA_TYPES))
        .header("accept", pick(rng, MEDIA_TYPES))
        .body(Full::new(body))
        .ok()
}

#[tokio::test]
async fn nearly_right_requests_are_all_answered() {
    let server = fuzzing::server().await.unwrap();
    let mut rng = Rng::seeded(1);
    let mut answered = 0;
    let mut codes = std::collections::BTreeMap::new();
    for _ in 0..4_000 {
        if let Some(request) = plausible(&mut rng) {
            *codes.entry(fuzzing::run(&server, request).await).or_insert(0) += 1;
            answered += 1;
        }
    }
    println!("{codes:?}");
    assert!(answered > 3_000 && codes.contains_key(&201) && codes.contains_key(&200));
}

#[tokio::test]
async fn arbitrary_bytes_are_all_answered() {
    let server = fuzzing::server().await.unwrap();
    let mut rng = Rng::seeded(2);
    for _ in 0..4_000 {
        let length = rng.below(200) as usize;
        let bytes: Vec<u8> = (0..length).map(|_| rng.next_u64() as u8).collect();
        let ascii: Vec<u8> = bytes.iter().map(|byte| byte & 0x7f).collect();
        for bytes in [bytes, ascii] {
            if let Some(request) = fuzzing::request(&bytes) {
                fuzzing::run(&server, request).await;
            }
        }
    }
}

/// What a fuzzer begins with.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus-seeds/");
    let files = std::fs::read_dir(format!("{folder}{target}")).unwrap();
    let mut seeds: Vec<_> = files
        .map(|file| {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(&path).unwrap())
        })
        .collect();
    seeds.sort();
    seeds
}

#[tokio::test]
async fn the_requests_that_fuzzers_begin_with_are_understood() {
    let server = fuzzing::server().await.unwrap();
    let mut codes = std::collections::BTreeMap::new();
    for (name, seed) in seeds("request") {
        let request = fuzzing::request(&seed).unwrap_or_else(|| panic!("{name} is no request"));
        let code = fuzzing::run(&server, request).await;
        codes.entry(code).or_insert_with(Vec::new).push(name);
    }
    let good = codes.iter().filter(|(code, _)| **code < 300).map(|(_, names)| names.len());
    assert!(good.sum::<usize>() >= 12, "{codes:?}");
    assert!(!codes.contains_key(&400) && !codes.contains_key(&415), "{codes:?}");
}

#[test]
fn the_configurations_that_fuzzers_begin_with_are_applied() {
    for (name, seed) in seeds("apply") {
        let lines = seed.split(|byte| *byte == b'\n').count();
        let taken = fuzzing::apply(&seed);
        assert!(taken > 0 && taken <= lines, "{name}: {taken} of {lines}");
    }
}

#[test]
fn the_expressions_that_fuzzers_begin_with_compile() {
    use rk_api::cel::{Env, Schema};
    let env = Env::new().json_variable("self", std::sync::Arc::new(Schema::dynamic()));
    for (name, seed) in seeds("cel") {
        let source = seed.split(|byte| *byte == 0).next().unwrap();
        let compiled = env.compile(std::str::from_utf8(source).unwrap());
        assert!(compiled.is_ok(), "{name}: {compiled:?}");
    }
}

/// How often each seed is changed; `RK_FUZZ_ROUNDS` makes it more.
fn rounds() -> u64 {
    std::env::var("RK_FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(40)
}

/// A seed with some bytes changed, doubled, taken away or taken from another seed.
fn mutated(rng: &mut Rng, seeds: &[(String, Vec<u8>)], seed: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=rng.below(6) {
        let at = rng.below(bytes.len() as u64 + 1) as usize;
        let end = (at + 1 + rng.below(12) as usize).min(bytes.len());
        match rng.below(6) {
            0 if at < bytes.len() => bytes[at] = rng.next_u64() as u8,
            1 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let part = bytes[at..end].repeat(1 + rng.below(4) as usize);
                drop(bytes.splice(at..at, part));
            }
            4 => {
                let sign = *b"{}[]\"\\:,0-9.e()'&|?%".get(rng.below(22) as usize).unwrap_or(&b'x');
                bytes.insert(at, sign);
            }
            _ => {
                let (_, other) = &seeds[rng.below(seeds.len() as u64) as usize];
                let from = rng.below(other.len() as u64 + 1) as usize;
                let to = (from + rng.below(40) as usize).min(other.len());
                drop(bytes.splice(at..end, other[from..to].iter().copied()));
            }
        }
    }
    bytes
}

fn each_mutation(target: &str, mut run: impl FnMut(&[u8])) {
    let seeds = seeds(target);
    let mut rng = Rng::seeded(3);
    for _ in 0..rounds() {
        for (_, seed) in &seeds {
            run(&mutated(&mut rng, &seeds, seed));
        }
    }
}

#[tokio::test]
async fn requests_that_are_slightly_wrong_are_all_answered() {
    let server = fuzzing::server().await.unwrap();
    let mut requests = Vec::new();
    each_mutation("request", |bytes| requests.push(bytes.to_vec()));
    for bytes in requests {
        if let Some(request) = fuzzing::request(&bytes) {
            fuzzing::run(&server, request).await;
        }
    }
}

#[test]
fn configurations_that_are_slightly_wrong_are_applied_or_not() {
    each_mutation("apply", |bytes| _ = fuzzing::apply(bytes));
}

#[test]
fn expressions_that_are_slightly_wrong_end() {
    use rk_api::cel::{Bindings, Budget, Env, Schema, Value};
    let schema = std::sync::Arc::new(Schema::dynamic());
    let env = Env::new().json_variable("self", schema.clone());
    each_mutation("cel", |bytes| {
        let mut parts = bytes.splitn(2, |byte| *byte == 0);
        let source = parts.next().and_then(|source| std::str::from_utf8(source).ok());
        let Some(Ok(program)) = source.map(|source| env.compile(source)) else { return };
        let json = parts.next().and_then(|json| serde_json::from_slice(json).ok());
        let json: serde_json::Value = json.unwrap_or_default();
        let Ok(value) = Value::json(&json, &schema) else { return };
        let _ = program.evaluate(&Bindings::new().bind("self", value), &mut Budget::default());
    });
}
