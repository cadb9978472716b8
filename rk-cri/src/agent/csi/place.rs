//! Where CSI volumes are on the node's disk, and the notes beside them.
//!
//! - `plugins/kubernetes.io/csi/DRIVER/HASH/globalmount`: a volume staged for the node.
//! - `pods/UID/volumes/kubernetes.io~csi/NAME/mount`: published for a Pod.
//! - `plugins/kubernetes.io/csi/volumeDevices/publish/NAME/UID`: a device published for a Pod, with
//!   its notes in `pods/UID/volumeDevices/kubernetes.io~csi/NAME`.
//!
//! Beside either is `vol_data.json`, with the keys that the kubelet writes.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::VolumeId;

const DATA_FILE: &str = "vol_data.json";
/// What a Pod has of drivers, below its directory: file systems, and devices.
const VOLUMES: &str = "volumes/kubernetes.io~csi";
const DEVICES: &str = "volumeDevices/kubernetes.io~csi";

/// What `vol_data.json` says of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::agent) struct VolumeData {
    pub(super) driver_name: String,
    pub(super) volume_handle: String,
    #[serde(rename = "specVolID", skip_serializing_if = "String::is_empty")]
    pub(super) spec_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) node_name: String,
    #[serde(rename = "attachmentID", skip_serializing_if = "String::is_empty")]
    pub(super) attachment_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) volume_lifecycle_mode: String,
}

impl VolumeData {
    pub(in crate::agent) fn id(&self) -> VolumeId {
        VolumeId { driver: self.driver_name.clone(), handle: self.volume_handle.clone() }
    }

    pub(super) fn is_ephemeral(&self) -> bool {
        self.volume_lifecycle_mode == "Ephemeral"
    }
}

/// A volume that is published for a Pod, or may be.
#[derive(Clone, Debug)]
pub(in crate::agent) struct Published {
    /// The Pod's UID.
    pub(super) pod: String,
    pub(in crate::agent) data: VolumeData,
    pub(super) place: Place,
}

/// Where a volume of a Pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its notes.
    pub(super) directory: PathBuf,
    /// Where the driver is asked to mount it, or to put the device.
    pub(super) target: PathBuf,
}

/// The directory of a volume that is staged: notes, and in it what is mounted.
pub(super) fn staging(root: &Path, id: &VolumeId) -> PathBuf {
    let hash = hex(&Sha256::digest(&id.handle));
    drivers(root).join(&id.driver).join(hash)
}

/// Where a driver mounts a volume for the node.
pub(super) fn global_mount(staging: &Path) -> PathBuf {
    staging.join("globalmount")
}

/// Where a volume of the Pod with this directory, `ROOT/pods/UID`, is.
pub(super) fn of_pod(pod_dir: &Path, spec_name: &str, block: bool) -> Place {
    let name = spec_name.replace('/', "~");
    if !block {
        let directory = pod_dir.join(VOLUMES).join(name);
        return Place { target: directory.join("mount"), directory };
    }
    let root = pod_dir.ancestors().nth(2).unwrap_or(pod_dir);
    let published = drivers(root).join("volumeDevices/publish").join(&name);
    Place {
        directory: pod_dir.join(DEVICES).join(name),
        target: published.join(pod_dir.file_name().unwrap_or_default()),
    }
}

/// What a driver's VolumeAttachment is called; the attach/detach controller makes it.
pub(super) fn attachment_name(id: &VolumeId, node: &str) -> String {
    format!("csi-{}", hex(&Sha256::digest(format!("{}{}{node}", id.handle, id.driver))))
}

/// What the volume of a Pod that no PersistentVolume is behind is called.
pub(super) fn ephemeral_handle(pod_uid: &str, volume: &str) -> String {
    format!("csi-{}", hex(&Sha256::digest(format!("{pod_uid}{volume}"))))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn drivers(root: &Path) -> PathBuf {
    root.join("plugins/kubernetes.io/csi")
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let mut paths: Vec<_> =
        fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter()
}

/// All volumes that are staged, or may be.
pub(super) fn staged(root: &Path) -> Vec<VolumeData> {
    let directories = entries(&drivers(root)).flat_map(|driver| entries(&driver));
    directories.filter_map(|directory| read(&directory)).collect()
}

/// All volumes that are published for the Pod with this directory.
pub(in crate::agent) fn published_for(pod_dir: &Path) -> Vec<Published> {
    let pod = pod_dir.file_name().map(|name| name.to_string_lossy().into_owned());
    let pod = pod.unwrap_or_default();
    let of = |below: &str, block: bool| {
        let found = entries(&pod_dir.join(below)).filter_map(|directory| {
            let name = directory.file_name()?.to_string_lossy().into_owned();
            let place = of_pod(pod_dir, &name, block);
            Some(Published { pod: pod.clone(), data: read(&directory)?, place })
        });
        found.collect::<Vec<_>>()
    };
    [of(VOLUMES, false), of(DEVICES, true)].concat()
}

/// All volumes that are published for any Pod.
pub(super) fn published(root: &Path) -> Vec<Published> {
    entries(&root.join("pods")).flat_map(|pod_dir| published_for(&pod_dir)).collect()
}

/// Makes a volume's directory with its notes. Blocks.
pub(super) fn note(directory: &Path, data: &VolumeData) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    super::super::volumes::set_mode(directory, 0o750)?;
    let text = serde_json::to_vec(data)?;
    // Never half of it: who reads it after a crash has to find the driver.
    let fresh = directory.join(format!("{DATA_FILE}.new"));
    fs::write(&fresh, text)?;
    fs::rename(fresh, directory.join(DATA_FILE))
}

fn read(directory: &Path) -> Option<VolumeData> {
    let text = fs::read(directory.join(DATA_FILE)).ok()?;
    let data: VolumeData = serde_json::from_slice(&text).ok()?;
    (!data.driver_name.is_empty() && !data.volume_handle.is_empty()).then_some(data)
}

/// Removes a volume's directory, after what was mounted or put at `mount` is gone. Nothing is
/// removed that is not empty or still mounted. Blocks.
///
/// # Errors
/// Something is still there.
pub(super) fn forget(directory: &Path, mount: &Path) -> io::Result<()> {
    let missing_is_fine = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    // A driver may publish a file, or leave the directory to us.
    match fs::symlink_metadata(mount) {
        Ok(found) if found.is_dir() => missing_is_fine(fs::remove_dir(mount))?,
        Ok(_) => missing_is_fine(fs::remove_file(mount))?,
        Err(_) => {}
    }
    // Only now: without its notes nobody could undo it.
    missing_is_fine(fs::remove_file(directory.join(DATA_FILE)))?;
    missing_is_fine(fs::remove_dir(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_drivers_and_controllers_compute() {
        let id = VolumeId { driver: "hostpath.csi.k8s.io".into(), handle: "h".into() };
        let hash = "aaa9402664f1a41f40ebbc52c9993eb66aeb366602958fdfaa283b71e64db123";
        let expected = format!("/r/plugins/kubernetes.io/csi/hostpath.csi.k8s.io/{hash}");
        assert_eq!(staging(Path::new("/r"), &id), Path::new(&expected));
        assert_eq!(id.unique_name(), "kubernetes.io/csi/hostpath.csi.k8s.io^h");
        assert_eq!(ephemeral_handle("", "h"), format!("csi-{hash}"));
    }

    #[test]
    fn what_was_noted_is_found_again_until_it_is_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let pod_dir = root.path().join("pods/uid-1");
        let data = VolumeData {
            driver_name: "d".into(),
            volume_handle: "h".into(),
            spec_name: "pv".into(),
            ..VolumeData::default()
        };
        let Place { directory, target } = of_pod(&pod_dir, "pv", false);
        note(&directory, &data).unwrap();
        let staging = staging(root.path(), &data.id());
        note(&staging, &data).unwrap();
        fs::create_dir(&target).unwrap();
        // Half a note is none.
        let broken = of_pod(&pod_dir, "broken", false).directory;
        fs::create_dir_all(&broken).unwrap();
        fs::write(broken.join(DATA_FILE), "{").unwrap();

        let found = published(root.path());
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].pod.as_str(), &found[0].data), ("uid-1", &data));
        assert_eq!(super::staged(root.path()).len(), 1);

        let csi = super::super::Csi::default();
        csi.recover(root.path());
        assert!(csi.is_user("uid-1") && !csi.is_user("uid-2"));
        assert_eq!(csi.in_use(), [data.id().unique_name()].into());

        forget(&directory, &target).unwrap();
        assert!(published(root.path()).is_empty() && !directory.exists());

        let device = of_pod(&pod_dir, "disk", true);
        let expected = "plugins/kubernetes.io/csi/volumeDevices/publish/disk/uid-1";
        assert_eq!(device.target, root.path().join(expected));
        note(&device.directory, &data).unwrap();
        assert_eq!(published(root.path())[0].place, device);
        assert_eq!(super::staged(root.path()).len(), 1, "a device is none that is staged");
    }

    #[test]
    fn data_that_is_still_there_is_not_removed() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("volume");
        let data = VolumeData { driver_name: "d".into(), ..VolumeData::default() };
        note(&directory, &data).unwrap();
        let target = directory.join("mount");
        fs::create_dir(&target).unwrap();
        fs::write(target.join("file"), "precious").unwrap();
        assert!(forget(&directory, &target).is_err());
        assert!(target.join("file").exists());
        assert!(directory.join(DATA_FILE).exists(), "it can be tried again");
    }
}
