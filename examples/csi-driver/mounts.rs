//! Folders that are seen in other places.

use std::{fs, io, os::unix::fs::MetadataExt, path::Path};

use rustix::{
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount},
};

/// Makes `folder` seen at `target`, which is made. A repeat is harmless.
pub fn bind(folder: &Path, target: &Path, read_only: bool) -> io::Result<()> {
    fs::create_dir_all(target)?;
    let is_same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    if is_same(fs::metadata(folder)?, fs::metadata(target)?) {
        return Ok(());
    }
    mount_bind(folder, target)?;
    // A bind mount takes no flags of its own when it is made.
    if read_only
        && let Err(error) = mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, c"")
    {
        unmount(target, UnmountFlags::DETACH)?;
        return Err(error.into());
    }
    Ok(())
}

/// Undoes that. What is not there any more is fine.
pub fn unbind(target: &Path) -> io::Result<()> {
    match unmount(target, UnmountFlags::NOFOLLOW) {
        // It is no mount point, or nothing at all.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_dir(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
