//! Devices of the host in containers.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, chmodat, chownat, makedev, mknodat};
use serde_json::{Value, json};

use super::sys;
use crate::runtime::Device;

/// A device as the OCI runtime configuration has it, with the owner and the mode that it has on the
/// host.
pub(super) fn of_host(device: &Device) -> Result<Value, String> {
    let failed = |why: String| format!("device {}: {why}", device.host_path.display());
    let found = fs::metadata(&device.host_path).map_err(|error| failed(error.to_string()))?;
    let mut value = describe(&device.container_path, &found)
        .ok_or_else(|| failed("it is neither a block nor a character device".to_owned()))?;
    value["access"] = if device.read_only { "r" } else { "rwm" }.into();
    Ok(value)
}

fn describe(path: &Path, found: &fs::Metadata) -> Option<Value> {
    let kind = found.file_type();
    let of_blocks = kind.is_block_device();
    (of_blocks || kind.is_char_device()).then(|| {
        json!({
            "path": path,
            "type": if of_blocks { "b" } else { "c" },
            "major": rustix::fs::major(found.rdev()),
            "minor": rustix::fs::minor(found.rdev()),
            "fileMode": found.mode() & 0o7777,
            "uid": found.uid(),
            "gid": found.gid(),
        })
    })
}

/// All devices below `directory`, for a privileged container.
pub(super) fn all_below(directory: &Path) -> Vec<Value> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        // A container has terminals, shared memory and a console of its own.
        if ["pts", "shm", "mqueue", "console", "ptmx"].iter().any(|name| path.ends_with(name)) {
            continue;
        }
        match meta.is_dir() {
            true => found.extend(all_below(&path)),
            false => found.extend(describe(&path, &meta)),
        }
    }
    found
}

/// What the device cgroup lets a container do with a device.
pub(super) fn rule(device: &Value) -> Value {
    json!({
        "allow": true, "type": device["type"], "access": device["access"],
        "major": device["major"], "minor": device["minor"],
    })
}

/// Whether libcontainer makes it; it makes those in `/dev`, which it mounts itself.
pub(super) fn is_in_dev(device: &Value) -> bool {
    device["path"].as_str().is_some_and(|path| Path::new(path).starts_with("/dev"))
}

/// Makes a device in the root of a container, never outside it.
pub(super) fn make(root: &OwnedFd, device: &Value) -> io::Result<()> {
    let number = |key: &str| device[key].as_u64().and_then(|value| u32::try_from(value).ok());
    let number = |key: &str| number(key).unwrap_or_default();
    let path = Path::new(device["path"].as_str().unwrap_or_default());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a device needs a path"));
    };
    sys::make_dirs_in_root(root, parent)?;
    let parent = sys::open_in_root(root, parent, OFlags::PATH | OFlags::DIRECTORY)?;
    let kind = match device["type"] == "b" {
        true => FileType::BlockDevice,
        false => FileType::CharacterDevice,
    };
    let mode = Mode::from_raw_mode(number("fileMode"));
    mknodat(&parent, name, kind, mode, makedev(number("major"), number("minor")))?;
    // Whatever the umask made of it.
    chmodat(&parent, name, mode, AtFlags::empty())?;
    let (uid, gid) = (Uid::from_raw(number("uid")), Gid::from_raw(number("gid")));
    Ok(chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}
