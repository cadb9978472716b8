//! Whatever a registry or an archive gives as a manifest or as a layer is taken or refused; neither
//! makes the store fall over, and nothing outside of it is touched. Unpacking needs root.
#![no_main]

use std::{fs, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use rk_cri::images::{Digest, ImageStore, ImportOptions, Limits, manifest::Document};
use serde_json::json;

struct Place {
    directory: tempfile::TempDir,
    store: ImageStore,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("there is a place for files");
    fs::write(directory.path().join("canary"), "alive").expect("it takes files");
    let limits = Limits { layer_bytes: 1 << 20, layer_entries: 1000 };
    let store = ImageStore::open_with(directory.path().join("store"), limits).expect("it opens");
    Place { directory, store }
});

fuzz_target!(|data: &[u8]| {
    let _ = Document::parse("", data);
    let _ = Document::parse("application/vnd.oci.image.index.v1+json; charset=utf-8", data);

    let place = &*PLACE;
    let layout = place.directory.path().join("layout");
    let blobs = layout.join("blobs/sha256");
    let _ = fs::remove_dir_all(&layout);
    fs::create_dir_all(&blobs).expect("it takes folders");
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).expect("it takes files");
        json!({"digest": digest, "size": bytes.len()})
    };
    let config = json!({"rootfs": {"diff_ids": [Digest::of(data)]}}).to_string();
    let manifest = json!({"layers": [put(data)], "config": put(config.as_bytes())}).to_string();
    let index = json!({"manifests": [put(manifest.as_bytes())]}).to_string();
    fs::write(layout.join("index.json"), index).expect("it takes files");

    let imported = place.store.import(&layout, &ImportOptions::default());
    for image in imported.into_iter().flatten() {
        place.store.remove(&image.id, &Default::default()).expect("what is there can be removed");
    }
    let canary = fs::read_to_string(place.directory.path().join("canary"));
    assert_eq!(canary.expect("it is there"), "alive");
    let left = fs::read_dir(place.store.layers_dir()).expect("it is there").count();
    assert_eq!(left, 0, "a layer is left that no image has");
});
