//! Images as volumes (KEP-4639): their layers, mounted together where nobody can write to them.
//!
//! Beside the containers' there is a record for each in `image-mounts/`, which keeps its layers as
//! long as it is mounted. Who mounted it unmounts it; the record is dropped when that is noticed.

use std::{
    collections::HashSet,
    ffi::CString,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, mount};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{super::disk, Inner, fail, not_found};
use crate::runtime::RuntimeError;

/// An image at a directory.
#[derive(Debug, Serialize, Deserialize)]
struct ImageMount {
    target: PathBuf,
    layers: Vec<String>,
}

impl Inner {
    /// Mounts an image's files at `target`, which is made; one that is mounted there stays. Blocks.
    pub(in crate::native) fn mount_image(
        &self,
        image: &str,
        target: &Path,
    ) -> Result<(), RuntimeError> {
        let what = || format!("cannot mount image {image}");
        // Layers are not looked for while a record is written.
        let _one = self.image_mounts.lock();
        if is_mount_point(target) {
            return Ok(());
        }
        let found = self.images.find(image).ok_or_else(|| not_found("image", image))?;
        let records = self.image_mounts_dir();
        let record = ImageMount { target: target.to_owned(), layers: found.layers };
        let make = || -> io::Result<()> {
            fs::create_dir_all(target)?;
            fs::create_dir_all(&records)?;
            let empty = records.join("empty");
            fs::create_dir_all(&empty)?;
            disk::write(&record_path(&records, target), &record)?;
            let layers = self.images.layers_dir();
            let lower = record.layers.iter().rev().map(|layer| layers.join(layer));
            // Without a layer to write to the kernel wants two others at least.
            let lower: Vec<String> =
                lower.chain([empty]).map(|path| path.to_string_lossy().into_owned()).collect();
            let options = CString::new(format!("lowerdir={}", lower.join(":")))?;
            let flags =
                MountFlags::RDONLY | MountFlags::NOEXEC | MountFlags::NOSUID | MountFlags::NODEV;
            Ok(mount("overlay", target, "overlay", flags, Some(options.as_c_str()))?)
        };
        make().map_err(fail(what()))
    }

    /// The layers of images that are mounted, and drops the records of those that are not any more.
    pub(super) fn layers_of_image_mounts(&self) -> HashSet<String> {
        let _one = self.image_mounts.lock();
        let mut layers = HashSet::new();
        for entry in fs::read_dir(self.image_mounts_dir()).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(Some(record)) = disk::read::<ImageMount>(&path) else { continue };
            if is_mount_point(&record.target) {
                layers.extend(record.layers);
            } else {
                let _ = fs::remove_file(path);
            }
        }
        layers
    }

    fn image_mounts_dir(&self) -> PathBuf {
        self.root.join("image-mounts")
    }
}

fn record_path(records: &Path, target: &Path) -> PathBuf {
    let hash = Sha256::digest(target.as_os_str().as_encoded_bytes());
    let name: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    records.join(format!("{name}.json"))
}

fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| fs::symlink_metadata(path).map(|found| found.dev()).ok();
    match (device(path), path.parent().and_then(device)) {
        (Some(own), Some(above)) => own != above,
        _ => false,
    }
}
