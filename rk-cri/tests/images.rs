//! The image store: good images in all their forms, and bad ones in as many. Unpacking sets
//! owners, so that all of it needs root.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

use std::{
    collections::HashSet,
    fs,
    io::Write,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use rk_cri::images::{
    Digest, ImageConfig, ImageError, ImageStore, ImportOptions,
    build::{ImageBuilder, write_archive},
};
use serde_json::{Value, json};

/// Says by name that a test is skipped, or fails when everything is required.
fn can_run(test: &str) -> bool {
    if rustix_is_root() {
        return true;
    }
    assert!(std::env::var("RK_REQUIRE").as_deref() != Ok("all"), "{test}: needs root");
    println!("SKIP {test}: needs root");
    false
}

fn rustix_is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:\t0"))
}

/// A store in a directory of its own, with a canary beside it that must not change.
struct Bench {
    directory: tempfile::TempDir,
    store: ImageStore,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        fs::write(directory.path().join("outside/canary"), "alive").unwrap();
        let store = ImageStore::open(directory.path().join("store")).unwrap();
        Self { directory, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn import(&self, path: &Path) -> Result<Vec<rk_cri::runtime::Image>, ImageError> {
        self.store.import(path, &ImportOptions::default())
    }

    /// The directories of an image's layers, the bottom first.
    fn layers(&self, name: &str) -> Vec<PathBuf> {
        let image = self.store.find(name).unwrap();
        image.layers.iter().map(|layer| self.store.layers_dir().join(layer)).collect()
    }

    /// Imports layers made of raw tar entries.
    fn import_layers(&self, layers: &[Vec<u8>]) -> Result<(), ImageError> {
        let path = self.path("image");
        let _ = fs::remove_dir_all(&path);
        Layout::new(layers).write(&path);
        let imported = self.import(&path).map(|_| ());
        if imported.is_err() {
            self.assert_untouched();
        }
        imported
    }

    /// Nothing was listed, nothing is half there, and nothing outside changed.
    fn assert_untouched(&self) {
        assert!(self.store.list().is_empty());
        let outside: Vec<_> = fs::read_dir(self.path("outside")).unwrap().collect();
        assert_eq!(outside.len(), 1, "{outside:?}");
        assert_eq!(fs::read_to_string(self.path("outside/canary")).unwrap(), "alive");
        assert_eq!(fs::read_dir(self.path("store/temp")).unwrap().count(), 0);
    }
}

/// An OCI layout whose parts can be made wrong before it is written.
struct Layout {
    layers: Vec<Vec<u8>>,
    config: Value,
    manifest: Value,
    descriptor: Value,
}

impl Layout {
    fn new(layers: &[Vec<u8>]) -> Self {
        let diff_ids: Vec<String> =
            layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        let described: Vec<Value> = layers
            .iter()
            .map(|layer| {
                json!({
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": Digest::of(layer), "size": layer.len(),
                })
            })
            .collect();
        Self {
            layers: layers.to_vec(),
            config: json!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}),
            manifest: json!({"schemaVersion": 2, "layers": described}),
            descriptor: json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "annotations": {"org.opencontainers.image.ref.name": "test:v1"},
            }),
        }
    }

    fn write(mut self, root: &Path) {
        let blobs = root.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let put = |bytes: &[u8]| {
            let digest = Digest::of(bytes);
            fs::write(blobs.join(digest.hex()), bytes).unwrap();
            digest
        };
        for layer in &self.layers {
            put(layer);
        }
        let config = serde_json::to_vec(&self.config).unwrap();
        self.manifest["config"] = json!({"digest": put(&config), "size": config.len()});
        let manifest = serde_json::to_vec(&self.manifest).unwrap();
        let digest = put(&manifest);
        if self.descriptor.get("digest").is_none() {
            self.descriptor["digest"] = json!(digest);
            self.descriptor["size"] = json!(manifest.len());
        }
        let index = json!({"schemaVersion": 2, "manifests": [self.descriptor]});
        fs::write(root.join("index.json"), index.to_string()).unwrap();
        fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }
}

/// A tar archive of raw entries, whose names no library checks.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(
        mut self,
        kind: tar::EntryType,
        name: &str,
        link: &str,
        content: &[u8],
        mode: u32,
    ) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        header.set_size(content.len() as u64);
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
        let raw = header.as_gnu_mut().unwrap();
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(tar::EntryType::Regular, name, "", content.as_bytes(), 0o644)
    }

    fn dir(self, name: &str, mode: u32) -> Self {
        self.entry(tar::EntryType::Directory, name, "", b"", mode)
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(tar::EntryType::Symlink, name, target, b"", 0o777)
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(tar::EntryType::Link, name, target, b"", 0o644)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn hello(name: &str) -> ImageBuilder {
    ImageBuilder::new(name)
        .file("/etc/hello", "hello\n", 0o640)
        .symlink("/etc/link", "hello")
        .config(ImageConfig { cmd: vec!["/bin/sh".into()], ..ImageConfig::default() })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn an_archive_can_be_plain_compressed_or_a_directory() {
    if !can_run("an_archive_can_be_plain_compressed_or_a_directory") {
        return;
    }
    let bench = Bench::new();
    let plain = bench.path("hello.tar");
    let id = hello("hello:v1").write_archive(&plain).unwrap();
    let compressed = bench.path("hello.tar.gz");
    fs::write(&compressed, gzip(&fs::read(&plain).unwrap())).unwrap();
    let directory = bench.path("layout");
    tar::Archive::new(fs::File::open(&plain).unwrap()).unpack(&directory).unwrap();

    for path in [&plain, &compressed, &directory] {
        let imported = bench.import(path).unwrap();
        assert_eq!(imported[0].id, id.to_string(), "{}", path.display());
        assert_eq!(imported[0].tags, ["docker.io/library/hello:v1"]);
        assert!(imported[0].digests[0].starts_with("docker.io/library/hello@sha256:"));
    }
    assert_eq!(bench.store.list().len(), 1);
    let layer = &bench.layers("hello:v1")[0];
    assert_eq!(fs::read_to_string(layer.join("etc/link")).unwrap(), "hello\n");
    assert_eq!(fs::metadata(layer.join("etc/hello")).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(bench.store.find("hello:v1").unwrap().config.cmd, ["/bin/sh"]);
}

#[test]
fn what_docker_save_writes_is_understood() {
    if !can_run("what_docker_save_writes_is_understood") {
        return;
    }
    let bench = Bench::new();
    let layer = Tar::default().file("file", "content").end();
    let config = json!({"os": "linux", "config": {"Cmd": ["/file"], "Env": null},
               "rootfs": {"diff_ids": [Digest::of(&layer)]}})
    .to_string();
    let id = Digest::of(config.as_bytes());
    let manifest = json!([{
        "Config": format!("{}.json", id.hex()),
        "RepoTags": ["saved:v1", "registry.local:5000/saved:v2"],
        "Layers": ["abc/layer.tar", "def/layer.tar"],
    }]);
    let two = config.replace(
        &format!("[\"{}\"]", Digest::of(&layer)),
        &format!("[\"{0}\",\"{0}\"]", Digest::of(&layer)),
    );
    let id_two = Digest::of(two.as_bytes());
    let manifest = manifest.to_string().replace(id.hex(), id_two.hex());
    let archive = Tar::default()
        .file("abc/layer.tar", std::str::from_utf8(&layer).unwrap())
        // Equal layers are links in old archives.
        .symlink("def/layer.tar", "../abc/layer.tar")
        .file(&format!("{}.json", id_two.hex()), &two)
        .file("manifest.json", &manifest)
        .end();
    fs::write(bench.path("saved.tar"), archive).unwrap();

    let imported = bench.import(&bench.path("saved.tar")).unwrap();

    assert_eq!(imported[0].id, id_two.to_string());
    assert_eq!(imported[0].tags.len(), 2);
    assert_eq!(bench.layers("registry.local:5000/saved:v2").len(), 2);
}

#[test]
fn an_image_is_found_by_every_one_of_its_names() {
    if !can_run("an_image_is_found_by_every_one_of_its_names") {
        return;
    }
    let bench = Bench::new();
    let path = bench.path("both.tar");
    let other = hello("other/app:v2").file("/other", "", 0o644);
    let ids = write_archive(&path, &[hello("hello"), other]).unwrap();
    bench.import(&path).unwrap();
    let id = ids[0].to_string();
    let digest = bench.store.find("hello").unwrap().image.digests[0].clone();
    let manifest = digest.split_once('@').unwrap().1.to_owned();
    for name in [
        "hello",
        "hello:latest",
        "library/hello",
        "docker.io/library/hello:latest",
        &id,
        &id[7..],
        &id[7..19],
        &digest,
        &manifest,
        &format!("hello@{manifest}"),
    ] {
        let found = bench.store.find(name);
        assert_eq!(found.map(|image| image.image.id), Some(id.clone()), "{name}");
    }
    for name in ["hello:v9", "app", "", "sha256:", "zz", "HELLO", "../hello", "abc"] {
        assert!(bench.store.find(name).is_none(), "{name}");
    }

    bench.store.remove("hello", &HashSet::new()).unwrap();
    bench.store.remove("hello", &HashSet::new()).unwrap();
    assert_eq!(bench.store.list().len(), 1);
    // A name can move to another image.
    let options = ImportOptions { name: Some("other/app:v2".into()) };
    hello("third").file("/third", "", 0o644).write_archive(&path).unwrap();
    bench.store.import(&path, &options).unwrap();
    assert!(bench.store.find("third").is_none());
    assert_ne!(bench.store.find("other/app:v2").unwrap().image.id, ids[1].to_string());
    // And a store that is opened again knows the same.
    let again = ImageStore::open(bench.path("store")).unwrap();
    assert_eq!(again.list(), bench.store.list());
}

#[test]
fn layers_are_shared_and_go_with_the_last_image() {
    if !can_run("layers_are_shared_and_go_with_the_last_image") {
        return;
    }
    let bench = Bench::new();
    let path = bench.path("image.tar");
    let with_user = |user: &str| ImageConfig { user: user.into(), ..ImageConfig::default() };
    for (name, user) in [("a", "1"), ("b", "2")] {
        hello(name).config(with_user(user)).write_archive(&path).unwrap();
        bench.import(&path).unwrap();
    }
    assert_eq!(bench.layers("a"), bench.layers("b"));
    let layer = bench.layers("a").remove(0);
    bench.store.remove("a", &HashSet::new()).unwrap();
    assert!(layer.exists());
    let used = HashSet::from([layer.file_name().unwrap().to_str().unwrap().to_owned()]);
    bench.store.remove("b", &used).unwrap();
    assert!(layer.exists(), "a container uses it");
    bench.store.collect(&HashSet::new()).unwrap();
    assert!(!layer.exists());
    assert_eq!(fs::read_dir(bench.store.layers_dir()).unwrap().count(), 0);
}

#[test]
fn whiteouts_become_those_of_overlayfs() {
    if !can_run("whiteouts_become_those_of_overlayfs") {
        return;
    }
    let bench = Bench::new();
    let bottom = Tar::default()
        .dir("./", 0o755)
        .dir("tmp/", 0o1777)
        .dir("data", 0o700)
        .file("data/old", "old")
        .file("gone", "gone")
        .dir("replaced", 0o755)
        .file("replaced/inner", "inner")
        .symlink("bin", "usr/bin")
        .dir("usr", 0o755)
        .dir("usr/bin", 0o711)
        .end();
    let top = Tar::default()
        .file(".wh.gone", "")
        .file("data/.wh..wh..opq", "")
        .file("data/new", "new")
        .file(".wh.replaced", "")
        .file("replaced/fresh", "fresh")
        .file("tmp/x", "x")
        .file("bin/tool", "tool")
        .file(".wh..wh.aufs", "")
        .end();
    bench.import_layers(&[bottom, top]).unwrap();
    let layers = bench.layers("test:v1");
    let top = &layers[1];

    let whiteout = fs::symlink_metadata(top.join("gone")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert_eq!(xattr(&top.join("data"), "trusted.overlay.opaque"), Some(b"y".to_vec()));
    assert_eq!(xattr(&top.join("replaced"), "trusted.overlay.opaque"), Some(b"y".to_vec()));
    assert!(!top.join(".wh..wh.aufs").exists());
    // Parents that the layer does not name are like those below it.
    assert_eq!(fs::metadata(top.join("tmp")).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::metadata(top.join("data")).unwrap().mode() & 0o7777, 0o700);
    // And a link below leads to where it leads in the image.
    assert!(!top.join("bin").exists());
    assert_eq!(fs::read_to_string(top.join("usr/bin/tool")).unwrap(), "tool");
    assert_eq!(fs::metadata(top.join("usr/bin")).unwrap().mode() & 0o7777, 0o711);
}

/// An extended attribute, as `getfattr` would print it.
fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0u8; 64];
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let name = std::ffi::CString::new(name).unwrap();
    // SAFETY: both strings end with a zero byte, and the buffer is as long as it says.
    let length = unsafe {
        libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    usize::try_from(length).ok().map(|length| value[..length].to_vec())
}

#[test]
fn owners_modes_times_and_attributes_are_kept() {
    if !can_run("owners_modes_times_and_attributes_are_kept") {
        return;
    }
    let bench = Bench::new();
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |kind, name: &str, mode, uid, content: &[u8]| {
        tar.append_pax_extensions([
            ("SCHILY.xattr.user.note", b"kept".as_slice()),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc".as_slice()),
        ])
        .unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(uid);
        header.set_gid(uid + 1);
        header.set_mtime(1_234_567);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content).unwrap();
    };
    add(tar::EntryType::Directory, "d", 0o2750, 10, b"");
    add(tar::EntryType::Regular, "d/setuid", 0o4755, 20, b"x");
    add(tar::EntryType::Regular, &format!("d/{}", "long".repeat(60)), 0o600, 30, b"y");
    add(tar::EntryType::Fifo, "d/fifo", 0o622, 40, b"");
    bench.import_layers(&[tar.into_inner().unwrap()]).unwrap();
    let root = bench.layers("test:v1").remove(0);
    let check = |name: &str, mode: u32, uid: u32| {
        let meta = fs::symlink_metadata(root.join(name)).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (mode, uid, uid + 1), "{name}");
        assert_eq!(meta.mtime(), 1_234_567, "{name}");
    };
    check("d", 0o2750, 10);
    check("d/setuid", 0o4755, 20);
    check(&format!("d/{}", "long".repeat(60)), 0o600, 30);
    check("d/fifo", 0o622, 40);
    assert_eq!(xattr(&root.join("d/setuid"), "user.note"), Some(b"kept".to_vec()));
    assert_eq!(xattr(&root.join("d"), "trusted.overlay.redirect"), None);
}

#[test]
fn an_entry_cannot_leave_its_layer() {
    if !can_run("an_entry_cannot_leave_its_layer") {
        return;
    }
    for (what, layer) in [
        ("goes up", Tar::default().file("../evil", "x")),
        ("goes up inside", Tar::default().file("a/../../evil", "x")),
        ("is absolute", Tar::default().file("/etc/evil", "x")),
        ("hard link up", Tar::default().link("evil", "../../../outside/canary")),
        ("hard link absolute", Tar::default().link("evil", "/etc/passwd")),
        ("hard link to nothing", Tar::default().link("evil", "missing")),
        ("hard link through a link", Tar::default().symlink("a", "/etc").link("evil", "a/passwd")),
        ("a file as a parent", Tar::default().file("a", "x").file("a/b", "x")),
        ("links in a circle", Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", "x")),
        ("whiteout of nothing", Tar::default().file(".wh.", "x")),
        ("whiteout of the parent", Tar::default().file(".wh...", "x")),
        ("a link to nothing", Tar::default().symlink("a", "")),
        ("a whiteout as device", Tar::default().entry(tar::EntryType::Char, "w", "", b"", 0o644)),
    ] {
        let bench = Bench::new();
        let error = bench.import_layers(&[layer.end()]).unwrap_err();
        assert!(matches!(error, ImageError::Hostile { .. }), "{what}: {error:?}");
    }
}

#[test]
fn a_link_out_of_the_layer_leads_to_inside_of_it() {
    if !can_run("a_link_out_of_the_layer_leads_to_inside_of_it") {
        return;
    }
    let bench = Bench::new();
    let outside = bench.path("outside");
    let layer = Tar::default()
        .symlink("abs", outside.to_str().unwrap())
        .file("abs/canary", "overwritten")
        .symlink("up", "../../../../../../../../../..")
        .file("up/etc/evil", "x")
        .symlink("self", "/")
        .file("self/from-root", "x")
        .end();
    bench.import_layers(&[layer]).unwrap();
    let root = bench.layers("test:v1").remove(0);
    assert_eq!(fs::read_to_string(outside.join("canary")).unwrap(), "alive");
    let inside = root.join(outside.strip_prefix("/").unwrap()).join("canary");
    assert_eq!(fs::read_to_string(inside).unwrap(), "overwritten");
    assert!(root.join("etc/evil").exists() && root.join("from-root").exists());
    assert!(!Path::new("/etc/evil").exists());
}

#[test]
fn what_does_not_match_its_digest_is_refused() {
    if !can_run("what_does_not_match_its_digest_is_refused") {
        return;
    }
    let layer = || Tar::default().file("file", "content").end();
    let other = Digest::of(b"other").to_string();

    let spoil = |name: &str, spoil: &dyn Fn(&mut Layout, &Path)| {
        let bench = Bench::new();
        let path = bench.path("image");
        let mut layout = Layout::new(&[layer()]);
        spoil(&mut layout, &path);
        if !path.exists() {
            layout.write(&path);
        }
        let error = bench.import(&path).unwrap_err();
        bench.assert_untouched();
        println!("{name}: {error}");
        error
    };
    let blob = |path: &Path, bytes: &[u8]| path.join("blobs/sha256").join(Digest::of(bytes).hex());

    let error = spoil("diff id", &|layout, _| {
        layout.config["rootfs"]["diff_ids"] = json!([other]);
    });
    assert!(matches!(error, ImageError::DigestMismatch { .. }), "{error:?}");
    let error = spoil("number of layers", &|layout, _| {
        layout.config["rootfs"]["diff_ids"] = json!([]);
    });
    assert!(matches!(error, ImageError::Malformed { .. }), "{error:?}");
    let error = spoil("layer's content", &|_, path| {
        Layout::new(&[layer()]).write(path);
        let mut wrong = layer();
        wrong[520] ^= 1;
        fs::write(blob(path, &layer()), wrong).unwrap();
    });
    assert!(matches!(error, ImageError::DigestMismatch { .. }), "{error:?}");
    let error = spoil("truncated layer", &|_, path| {
        Layout::new(&[layer()]).write(path);
        fs::write(blob(path, &layer()), &layer()[..600]).unwrap();
    });
    assert!(matches!(error, ImageError::Damaged { .. }), "{error:?}");
    let error = spoil("missing layer", &|_, path| {
        Layout::new(&[layer()]).write(path);
        fs::remove_file(blob(path, &layer())).unwrap();
    });
    assert!(matches!(error, ImageError::Missing { .. }), "{error:?}");
    let error = spoil("manifest's digest", &|layout, _| {
        layout.descriptor["digest"] = json!(other);
        layout.descriptor["size"] = json!(1);
    });
    assert!(matches!(error, ImageError::Missing { .. }), "{error:?}");
    let error = spoil("a digest that is a path", &|layout, _| {
        layout.descriptor["digest"] = json!("sha256:../../outside/canary");
        layout.descriptor["size"] = json!(5);
    });
    assert!(matches!(error, ImageError::Malformed { .. }), "{error:?}");
    let error = spoil("huge manifest", &|layout, _| {
        layout.manifest["annotations"] = json!({"x": "y".repeat(5 << 20)});
    });
    assert!(matches!(error, ImageError::TooLarge { .. }), "{error:?}");
    let error = spoil("another machine's image", &|layout, _| {
        layout.config["architecture"] = json!("s390x");
    });
    assert!(matches!(error, ImageError::Platform { .. }), "{error:?}");
    let error = spoil("bad name", &|layout, _| {
        layout.descriptor["annotations"] =
            json!({"org.opencontainers.image.ref.name": "../../etc:v1"});
    });
    assert!(matches!(error, ImageError::Name { .. }), "{error:?}");
    let error = spoil("no index", &|_, path| fs::create_dir_all(path).unwrap());
    assert!(matches!(error, ImageError::NotAnImage { .. }), "{error:?}");
    let error = spoil("not JSON", &|_, path| {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join("index.json"), "{").unwrap();
    });
    assert!(matches!(error, ImageError::Malformed { .. }), "{error:?}");
}

#[test]
fn too_many_layers_and_wrong_files_are_refused() {
    if !can_run("too_many_layers_and_wrong_files_are_refused") {
        return;
    }
    let bench = Bench::new();
    let layers: Vec<Vec<u8>> = vec![Tar::default().file("f", "x").end(); 81];
    let error = bench.import_layers(&layers).unwrap_err();
    assert!(matches!(error, ImageError::TooLarge { .. }), "{error:?}");

    fs::write(bench.path("text"), "no archive at all, but long enough to look at".repeat(40))
        .unwrap();
    fs::write(bench.path("empty"), "").unwrap();
    fs::write(bench.path("gz"), gzip(b"nothing")).unwrap();
    for name in ["text", "empty", "gz"] {
        let error = bench.import(&bench.path(name)).unwrap_err();
        assert!(matches!(error, ImageError::NotAnImage { .. }), "{name}: {error:?}");
    }
    let error = bench.import(&bench.path("missing")).unwrap_err();
    assert!(matches!(error, ImageError::Io { .. }), "{error:?}");
    bench.assert_untouched();
}

#[test]
fn an_interrupted_import_leaves_nothing_after_the_next_start() {
    if !can_run("an_interrupted_import_leaves_nothing_after_the_next_start") {
        return;
    }
    let bench = Bench::new();
    let half = bench.path("store/temp/layer-half");
    fs::create_dir_all(half.join("deep")).unwrap();
    fs::set_permissions(half.join("deep"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::write(bench.path("store/layers/0123.size"), "5").unwrap();
    let again = ImageStore::open(bench.path("store")).unwrap();
    again.collect(&HashSet::new()).unwrap();
    assert!(!half.exists() && !bench.path("store/layers/0123.size").exists());
}

/// A compressed layer in an archive, to be damaged anywhere.
fn victim() -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("victim.tar");
    hello("victim:v1").file("/random", vec![7u8; 3000], 0o644).write_archive(&path).unwrap();
    fs::read(path).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever is damaged, an import either gives the image as it was or changes nothing.
    #[test]
    fn a_damaged_archive_is_refused_or_harmless(
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), 1u8..), 0..4),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
        compress in any::<bool>(),
    ) {
        if !rustix_is_root() {
            return Ok(());
        }
        let bench = Bench::new();
        let mut bytes = victim();
        if compress {
            bytes = gzip(&bytes);
        }
        for (at, flip) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let path = bench.path("victim.tar");
        fs::write(&path, bytes).unwrap();
        match bench.import(&path) {
            Ok(images) => {
                for image in images {
                    let layer = bench.layers(&image.id).remove(0);
                    prop_assert_eq!(fs::read(layer.join("random")).unwrap(), vec![7u8; 3000]);
                }
            }
            Err(_) => bench.assert_untouched(),
        }
    }
}
