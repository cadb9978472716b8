//! Pulling from a registry in this process that does what it is told, also wrong things.
//!
//! Unpacking sets owners, so that all of it needs root.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

#[path = "registry/server.rs"]
mod server;

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, time::Duration};

use rk_cri::{
    images::{
        Digest, ImageError, ImageStore, Limits,
        registry::{Capability, HostConfig, PullError, Registries, RegistryConfig},
    },
    runtime::{Image, PullFailure, RegistryAuth},
};
use serde_json::{Value, json};
use server::{Fault, Login, Server, gzip, tar_of};

/// A store in a directory of its own, with a canary beside it that must not change.
struct Bench {
    directory: tempfile::TempDir,
    store: Arc<ImageStore>,
    registries: Registries,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("canary"), "alive").unwrap();
        let limits = Limits { layer_bytes: 4 << 20, ..Limits::default() };
        let store = ImageStore::open_with(directory.path().join("store"), limits).unwrap();
        let registries = Registries::new().idle_timeout(Duration::from_secs(20));
        Self { directory, store: Arc::new(store), registries }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn pull(&self, name: &str) -> Result<Image, PullError> {
        self.pull_as(name, None).await
    }

    async fn pull_as(&self, name: &str, auth: Option<&RegistryAuth>) -> Result<Image, PullError> {
        let pulled = self.registries.pull(&self.store, &name.parse().unwrap(), auth).await;
        assert_eq!(fs::read_to_string(self.path("canary")).unwrap(), "alive");
        assert_eq!(self.files("temp"), Vec::<String>::new(), "something is left of an import");
        assert_eq!(self.files("blobs/sha256"), Vec::<String>::new(), "a blob is left");
        pulled
    }

    /// Pulls what must be refused, and leave nothing.
    async fn refused(&self, name: &str) -> PullError {
        let error = self.pull(name).await.unwrap_err();
        assert!(self.store.list().is_empty(), "{:?}", self.store.list());
        assert_eq!(self.files("layers"), Vec::<String>::new(), "a layer is left");
        error
    }

    fn files(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path("store").join(directory)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// What is in a file of an image, seen from the top layer down.
    fn content(&self, image: &str, file: &str) -> String {
        let image = self.store.find(image).unwrap();
        let mut layers = image.layers.iter().rev();
        let found = layers.find_map(|layer| {
            fs::read_to_string(self.store.layers_dir().join(layer).join(file)).ok()
        });
        found.unwrap()
    }
}

fn can_run(test: &str) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if status.lines().any(|line| line.starts_with("Uid:\t0")) {
        return true;
    }
    assert!(std::env::var("RK_REQUIRE").as_deref() != Ok("all"), "{test}: needs root");
    println!("SKIP {test}: needs root");
    false
}

macro_rules! tests {
    ($($name:ident => $body:ident;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            if can_run(stringify!($name)) {
                $body().await;
            }
        })*
    };
}

tests! {
    an_image_is_pulled_once_and_then_only_looked_up => pulled_once;
    a_tag_that_moved_brings_the_new_image_and_only_its_new_layers => moved;
    layers_may_be_plain_gzip_or_zstd => compressions;
    an_index_leads_to_the_manifest_for_this_machine => index;
    a_digest_is_pulled_as_what_it_says => by_digest;
    a_broken_download_goes_on_where_it_was => resumed;
    what_a_broken_pull_has_fetched_serves_the_next_one_after_a_restart => resumed_later;
    a_registry_that_ignores_ranges_is_asked_from_the_start => without_ranges;
    pulls_of_the_same_image_at_once_fetch_each_layer_once => at_once;
    basic_login_is_shown_when_it_is_asked_for => basic;
    a_token_is_fetched_once_and_shown => bearer;
    a_blob_elsewhere_is_fetched_without_our_password => redirected;
    a_mirror_is_asked_first_and_never_sees_our_password => mirrored;
    a_mirror_that_may_not_resolve_only_gives_content => pull_only;
    https_takes_its_own_ca_and_no_other => https;
    what_the_registry_says_is_told_and_sorted => complaints;
    content_that_is_not_what_it_should_be_is_refused => wrong_content;
    hostile_manifests_are_refused_before_anything_is_fetched => hostile_manifests;
    hostile_layers_are_refused_and_leave_nothing => hostile_layers;
}

async fn pulled_once() {
    let (server, bench) = (Server::start().await, Bench::new());
    let digest = server.push("team/app", "v1", &[gzip(&tar_of("hello", "one"))]);
    let name = server.name("team/app:v1");

    let image = bench.pull(&name).await.unwrap();

    assert_eq!(image.tags, [name.as_str()]);
    assert!(!image.pinned, "it can be fetched again");
    assert_eq!(image.digests, [format!("{}@{digest}", server.name("team/app"))]);
    assert_eq!(bench.content(&name, "hello"), "one");
    let before = server.requests();
    assert_eq!(bench.pull(&name).await.unwrap(), image);
    assert_eq!(server.requests()[before.len()..], ["HEAD /v2/team/app/manifests/v1"]);
}

async fn moved() {
    let (server, bench) = (Server::start().await, Bench::new());
    let base = gzip(&tar_of("base", "shared"));
    server.push("app", "latest", &[base.clone(), gzip(&tar_of("top", "old"))]);
    let name = server.name("app");
    let old = bench.pull(&name).await.unwrap();

    server.push("app", "latest", &[base.clone(), gzip(&tar_of("top", "new"))]);
    let new = bench.pull(&name).await.unwrap();

    assert_ne!(old.id, new.id);
    assert_eq!(
        (bench.content(&name, "top"), bench.content(&name, "base")),
        ("new".into(), "shared".into())
    );
    assert!(bench.store.find(&old.id).unwrap().image.tags.is_empty());
    assert_eq!(server.fetched(&Digest::of(&base)), 1, "{:#?}", server.requests());
}

async fn compressions() {
    let (server, bench) = (Server::start().await, Bench::new());
    let zstd = ruzstd::encoding::compress_to_vec(
        &tar_of("zstd", "z")[..],
        ruzstd::encoding::CompressionLevel::Fastest,
    );
    server.push("app", "v1", &[tar_of("plain", "p"), gzip(&tar_of("gzip", "g")), zstd]);
    let name = server.name("app:v1");
    bench.pull(&name).await.unwrap();
    for (file, content) in [("plain", "p"), ("gzip", "g"), ("zstd", "z")] {
        assert_eq!(bench.content(&name, file), content);
    }
}

async fn index() {
    let (server, bench) = (Server::start().await, Bench::new());
    let here = server.push("app", "here", &[gzip(&tar_of("where", "here"))]);
    let other = server.push("app", "other", &[gzip(&tar_of("where", "elsewhere"))]);
    let platform = |digest: &Digest, os: &str, architecture: &str| {
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest,
            "size": server.size(digest), "platform": {"os": os, "architecture": architecture},
        })
    };
    let own = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let manifests = [platform(&other, "linux", "pdp11"), platform(&here, "linux", own)];
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    let digest =
        server.put_manifest("app", "v1", "application/vnd.oci.image.index.v1+json", &index);
    let name = server.name("app:v1");

    let image = bench.pull(&name).await.unwrap();

    assert_eq!(bench.content(&name, "where"), "here");
    assert_eq!(image.digests, [format!("{}@{digest}", server.name("app"))], "it is the index's");
    let only_others = json!({"schemaVersion": 2, "manifests": manifests[..1]});
    server.put_manifest(
        "app",
        "v2",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        &only_others,
    );
    let error = bench.pull(&server.name("app:v2")).await.unwrap_err().to_string();
    assert!(error.contains("linux/pdp11") && error.contains("no match for platform"), "{error}");
}

async fn by_digest() {
    let (server, bench) = (Server::start().await, Bench::new());
    let digest = server.push("app", "v1", &[gzip(&tar_of("hello", "one"))]);
    let name = server.name(&format!("app:ignored@{digest}"));
    let image = bench.pull(&name).await.unwrap();
    assert!(image.tags.is_empty(), "{image:?}");
    assert!(bench.store.find(&server.name(&format!("app@{digest}"))).is_some());

    // A registry that gives something else by that digest is found out.
    server.fault(Fault::OtherManifest);
    let other = Bench::new();
    let error = other.refused(&name).await;
    assert!(matches!(error, PullError::Image(ImageError::DigestMismatch { .. })), "{error:?}");
}

fn large() -> Vec<u8> {
    let content: String = (0..60_000).map(|line| format!("{line}\n")).collect();
    tar_of("large", &content)
}

async fn resumed() {
    let (server, bench) = (Server::start().await, Bench::new());
    let layer = large();
    server.push("app", "v1", &[layer.clone()]);
    server.fault(Fault::Truncate { times: 3 });
    bench.pull(&server.name("app:v1")).await.unwrap();
    let ranges = server.ranges();
    assert_eq!(ranges.len(), 3, "{ranges:?}");
    assert!(ranges.windows(2).all(|pair| pair[0] < pair[1]), "{ranges:?}");
    assert!(server.sent(&Digest::of(&layer)) < 2 * layer.len() as u64, "it came twice");
}

async fn resumed_later() {
    let (server, mut bench) = (Server::start().await, Bench::new());
    let (first, second) = (tar_of("first", "1"), large());
    server.push("app", "v1", &[first.clone(), second.clone()]);
    server.fault(Fault::Truncate { times: usize::MAX });
    server.fault(Fault::RefuseRanges);
    let error = bench.refused(&server.name("app:v1")).await;
    assert!(matches!(error, PullError::Unavailable { .. }), "{error:?}");
    assert_eq!(bench.files("partial"), [Digest::of(&second).hex()]);

    server.well_again();
    bench.store = Arc::new(ImageStore::open(bench.path("store")).unwrap());
    bench.pull(&server.name("app:v1")).await.unwrap();

    assert_eq!(server.ranges().len(), 1, "{:?}", server.ranges());
    assert_eq!(bench.files("partial"), Vec::<String>::new());
}

async fn without_ranges() {
    let (server, bench) = (Server::start().await, Bench::new());
    server.push("app", "v1", &[large()]);
    server.fault(Fault::Truncate { times: 2 });
    server.fault(Fault::IgnoreRanges);
    bench.pull(&server.name("app:v1")).await.unwrap();
    assert!(bench.content(&server.name("app:v1"), "large").ends_with("59999\n"));
}

async fn at_once() {
    let (server, bench) = (Server::start().await, Bench::new());
    let layer = large();
    server.push("app", "v1", &[layer.clone()]);
    let name = server.name("app:v1");
    let pulls = (0..8).map(|_| {
        let (registries, store) = (bench.registries.clone(), bench.store.clone());
        let name = name.parse().unwrap();
        tokio::spawn(async move { registries.pull(&store, &name, None).await.unwrap().id })
    });
    let ids = futures::future::join_all(pulls).await;
    let ids: std::collections::BTreeSet<String> = ids.into_iter().map(Result::unwrap).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(server.fetched(&Digest::of(&layer)), 1);
}

fn alice() -> RegistryAuth {
    RegistryAuth { username: "alice".into(), password: "secret".into(), ..Default::default() }
}

fn mallory() -> RegistryAuth {
    RegistryAuth { password: "wrong".into(), ..alice() }
}

async fn basic() {
    let (server, bench) = (Server::start().await, Bench::new());
    server.push("private/app", "v1", &[gzip(&tar_of("a", "b"))]);
    server.login(Login::Basic);
    let name = server.name("private/app:v1");
    for auth in [None, Some(&mallory())] {
        let error = bench.pull_as(&name, auth).await.unwrap_err();
        assert!(matches!(error, PullError::Denied { .. }), "{error:?}");
        assert_eq!(error.kind(), PullFailure::Failed);
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
    let before = server.requests().len();
    bench.pull_as(&name, Some(&alice())).await.unwrap();
    let asked = server.requests().split_off(before);
    assert_eq!(asked.len(), 4, "it knows by now that it has to show it: {asked:#?}");
    // It is on the node now, but that is no leave to look it up.
    assert!(matches!(bench.pull(&name).await, Err(PullError::Denied { .. })));
}

async fn bearer() {
    let (server, bench) = (Server::start().await, Bench::new());
    server.push("team/app", "v1", &[gzip(&tar_of("a", "b")), gzip(&tar_of("c", "d"))]);
    server.login(Login::Token);
    let name = server.name("team/app:v1");
    let error = bench.pull_as(&name, Some(&mallory())).await.unwrap_err();
    assert!(matches!(error, PullError::Denied { .. }), "{error:?}");

    bench.pull_as(&name, Some(&alice())).await.unwrap();

    let tokens = server.requests().iter().filter(|line| line.contains("/token")).count();
    assert_eq!(tokens, 2, "{:#?}", server.requests());
    let scope = "GET /token?service=test&scope=repository%3Ateam%2Fapp%3Apull&account=alice";
    assert_eq!(server.requests().iter().filter(|line| *line == scope).count(), 2);
    let refresh = RegistryAuth { identity_token: "refresh-me".into(), ..Default::default() };
    bench.pull_as(&name, Some(&refresh)).await.unwrap();
}

async fn redirected() {
    let (server, elsewhere, bench) = (Server::start().await, Server::start().await, Bench::new());
    let layers = [gzip(&tar_of("a", "b"))];
    server.push("app", "v1", &layers);
    elsewhere.push("app", "v1", &layers);
    server.login(Login::Basic);
    server.fault(Fault::RedirectBlobs(elsewhere.address().to_string()));
    bench.pull_as(&server.name("app:v1"), Some(&alice())).await.unwrap();
    assert_eq!(elsewhere.fetched(&Digest::of(&layers[0])), 1);
    assert!(elsewhere.authorizations().is_empty(), "{:?}", elsewhere.authorizations());
}

async fn mirrored() {
    let (server, mirror, mut bench) = (Server::start().await, Server::start().await, Bench::new());
    let layers = [gzip(&tar_of("from", "mirror"))];
    mirror.push("app", "v1", &layers);
    server.push("app", "v2", &[gzip(&tar_of("from", "server"))]);
    server.login(Login::Basic);
    let config = RegistryConfig::server(HostConfig::new(server.url()))
        .mirror(HostConfig::new("http://127.0.0.1:1"))
        .mirror(HostConfig::new(mirror.url()));
    bench.registries = Registries::new().registry("registry.example", config);

    let auth = Some(&alice());
    let image = bench.pull_as("registry.example/app:v1", auth).await.unwrap();
    assert_eq!(image.tags, ["registry.example/app:v1"]);
    assert!(server.requests().is_empty(), "{:?}", server.requests());
    assert!(mirror.requests()[0].ends_with("?ns=registry.example"), "{:?}", mirror.requests());

    // What it does not have comes from the registry itself.
    bench.pull_as("registry.example/app:v2", auth).await.unwrap();
    assert_eq!(bench.content("registry.example/app:v2", "from"), "server");
    assert!(mirror.authorizations().is_empty(), "{:?}", mirror.authorizations());

    // Nobody has it: the registry's own word counts.
    let error = bench.pull_as("registry.example/app:v3", auth).await.unwrap_err();
    assert_eq!(error.to_string(), "registry.example/app:v3: not found");
}

async fn pull_only() {
    let (server, mirror, mut bench) = (Server::start().await, Server::start().await, Bench::new());
    let layers = [gzip(&tar_of("from", "both"))];
    server.push("app", "v1", &layers);
    mirror.push("app", "v1", &layers);
    let mut host = HostConfig::new(mirror.url());
    host.capabilities = Some(vec![Capability::Pull]);
    let config = RegistryConfig::server(HostConfig::new(server.url())).mirror(host);
    bench.registries = Registries::new().registry("registry.example", config).only_configured();
    bench.pull("registry.example/app:v1").await.unwrap();
    assert_eq!(server.requests(), ["HEAD /v2/app/manifests/v1"]);
    assert_eq!(mirror.fetched(&Digest::of(&layers[0])), 1);

    let other = bench.pull("elsewhere.example/app:v1").await.unwrap_err();
    assert!(matches!(other, PullError::NotConfigured { .. }), "{other:?}");
}

async fn https() {
    let (server, mut bench) = (Server::start_tls().await, Bench::new());
    server.push("app", "v1", &[gzip(&tar_of("a", "b"))]);
    let ca = bench.path("ca.pem");
    fs::write(&ca, server.ca()).unwrap();
    let name = server.name("app:v1");
    let host = HostConfig::new(server.url());

    bench.registries = Registries::new()
        .registry(server.address().to_string(), RegistryConfig::server(host.clone()));
    let error = bench.refused(&name).await;
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");

    // As containerd is told, by a file.
    let directory = bench.path("certs.d").join(server.address().to_string());
    fs::create_dir_all(&directory).unwrap();
    let file = format!("server = {:?}\nca = \"../../ca.pem\"\n", server.url());
    fs::write(directory.join("hosts.toml"), file).unwrap();
    bench.registries = Registries::new().directory(bench.path("certs.d"));
    bench.pull(&name).await.unwrap();

    let insecure = HostConfig { skip_verify: true, ..host };
    let other = Bench {
        registries: Registries::new()
            .registry(server.address().to_string(), RegistryConfig::server(insecure)),
        ..Bench::new()
    };
    other.pull(&name).await.unwrap();
}

async fn complaints() {
    let (server, bench) = (Server::start().await, Bench::new());
    server.push("app", "v1", &[gzip(&tar_of("a", "b"))]);
    let error = bench.refused(&server.name("app:v9")).await;
    assert_eq!(error.to_string(), format!("{}: not found", server.name("app:v9")));
    for (status, kind) in [
        (503, PullFailure::RegistryUnavailable),
        (429, PullFailure::RegistryUnavailable),
        (403, PullFailure::Failed),
        (400, PullFailure::Failed),
    ] {
        server.well_again();
        server.fault(Fault::Status(status));
        let error = bench.refused(&server.name("app:v1")).await;
        assert_eq!(error.kind(), kind, "{status}: {error}");
        assert!(error.to_string().contains(&status.to_string()), "{error}");
    }
    let error = bench.refused("127.0.0.1:1/app:v1").await;
    assert_eq!(error.kind(), PullFailure::RegistryUnavailable, "{error}");
}

async fn wrong_content() {
    let server = Server::start().await;
    let layer = large();
    let digest = server.push("app", "v1", &[layer.clone()]);
    let name = server.name("app:v1");
    let manifest: Value = server.manifest(&digest);
    let config: Digest = serde_json::from_value(manifest["config"]["digest"].clone()).unwrap();

    for blob in [&config, &Digest::of(&layer)] {
        for fault in [Fault::Flip(blob.clone()), Fault::Lengthen(blob.clone())] {
            let bench = Bench::new();
            server.fault(fault.clone());
            let error = bench.refused(&name).await;
            assert!(
                matches!(
                    error,
                    PullError::Image(
                        ImageError::DigestMismatch { .. }
                            | ImageError::Damaged { .. }
                            | ImageError::TooLarge { .. }
                    )
                ),
                "{fault:?}: {error:?}"
            );
            // It was no use to keep: the next pull finds the good one.
            server.well_again();
            bench.pull(&name).await.unwrap();
        }
    }

    // A layer that is what its manifest says, but not what the configuration says.
    let mut lying = manifest.clone();
    let other = tar_of("other", "content");
    server.put_blob(&other);
    lying["layers"][0] = json!({"digest": Digest::of(&other), "size": other.len()});
    server.put_manifest("app", "lying", "application/vnd.oci.image.manifest.v1+json", &lying);
    let error = Bench::new().refused(&server.name("app:lying")).await;
    assert!(matches!(error, PullError::Image(ImageError::DigestMismatch { .. })), "{error:?}");
}

async fn hostile_manifests() {
    let (server, bench) = (Server::start().await, Bench::new());
    let digest = server.push("app", "v1", &[gzip(&tar_of("a", "b"))]);
    let good = server.manifest(&digest);
    let media = "application/vnd.oci.image.manifest.v1+json";
    let cases: BTreeMap<&str, Value> = [
        ("many", {
            let mut manifest = good.clone();
            manifest["layers"] = (0..1000).map(|_| good["layers"][0].clone()).collect();
            manifest
        }),
        ("huge", {
            let mut manifest = good.clone();
            manifest["annotations"] = json!({"a": "x".repeat(5 << 20)});
            manifest
        }),
        ("vast", {
            let mut manifest = good.clone();
            manifest["layers"][0]["size"] = json!(u64::MAX);
            manifest
        }),
        ("config", {
            let mut manifest = good.clone();
            manifest["config"]["size"] = json!(1_u64 << 40);
            manifest
        }),
        ("negative", {
            let mut manifest = good.clone();
            manifest["layers"][0]["size"] = json!(-1);
            manifest
        }),
        ("path", {
            let mut manifest = good.clone();
            manifest["layers"][0]["digest"] = json!("sha256:../../../../canary");
            manifest
        }),
        ("schema1", json!({"schemaVersion": 1, "fsLayers": [{"blobSum": digest}]})),
        ("none", json!({})),
    ]
    .into();
    for (tag, manifest) in cases {
        server.put_manifest("app", tag, media, &manifest);
        let before = server.requests().len();
        let error = bench.refused(&server.name(&format!("app:{tag}"))).await;
        assert!(matches!(error, PullError::Image(_)), "{tag}: {error:?}");
        let blobs = server.requests()[before..].iter().any(|line| line.contains("/blobs/"));
        assert!(!blobs, "{tag}: {:?}", server.requests());
    }
    // An index that contains itself cannot be: its digest would have to be known before.
    let mut inner = digest;
    for depth in 0..8 {
        let index = json!({"manifests": [{"digest": inner, "size": 1}]});
        let media = "application/vnd.oci.image.index.v1+json";
        inner = server.put_manifest("app", &format!("deep{depth}"), media, &index);
    }
    let error = bench.refused(&server.name("app:deep7")).await;
    assert!(matches!(error, PullError::Image(ImageError::TooLarge { .. })), "{error:?}");
}

async fn hostile_layers() {
    let (server, bench) = (Server::start().await, Bench::new());
    let name = server.name("app:v1");
    let bomb = gzip(&tar_of("zeros", &"\0".repeat(8 << 20)));
    assert!(bomb.len() < 1 << 20, "{}", bomb.len());
    let outside = server::raw_tar(b"../canary", tar::EntryType::Regular, b"", b"dead");
    let device = server::raw_tar(b"null", tar::EntryType::Char, b"", b"");
    let up = server::raw_tar(b"link", tar::EntryType::Link, b"../../canary", b"");
    for (what, layer) in [
        ("a gzip bomb", bomb),
        ("an entry above the layer", outside),
        ("a whiteout in disguise", device),
        ("a hard link out of the layer", up),
        ("an archive that ends early", large()[..2000].to_vec()),
        ("no archive", b"hello".repeat(300)),
    ] {
        server.push("app", "v1", &[layer]);
        let error = bench.refused(&name).await;
        let expected = matches!(
            error,
            PullError::Image(
                ImageError::TooLarge { .. }
                    | ImageError::Hostile { .. }
                    | ImageError::Damaged { .. }
                    | ImageError::DigestMismatch { .. }
            )
        );
        assert!(expected, "{what}: {error:?}");
    }
    server.push("app", "v1", &[gzip(&tar_of("fine", "again"))]);
    bench.pull(&name).await.unwrap();
}
