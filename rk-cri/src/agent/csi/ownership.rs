//! Gives a volume's files to a Pod's `fsGroup`.
//!
//! Other Pods may be writing to the volume meanwhile. So nothing is named by a path: each file is
//! opened by its name in a directory that is open, without following links, and changed through the
//! descriptor.

use std::{io, path::Path};

/// Gives everything below `root` to `group`, which may then read and write it; what is made in
/// its directories later belongs to the group too. With `only_if_wrong` nothing is done if `root`
/// itself is as it should be (`fsGroupChangePolicy: OnRootMismatch`). Blocks.
#[cfg(target_os = "linux")]
pub(crate) fn give(root: &Path, group: u32, only_if_wrong: bool) -> io::Result<()> {
    linux::give(root, group, only_if_wrong)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn give(root: &Path, group: u32, _: bool) -> io::Result<()> {
    super::super::volumes::give_to_group(root, group)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        ffi::CString,
        io,
        os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        path::Path,
    };

    use rustix::fs::{
        AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, chmodat, chownat, fstat, openat,
    };

    /// What the group may do with files, and with directories, which keep the group.
    const FILE: u32 = 0o660;
    const DIRECTORY: u32 = 0o2770;
    /// Deeper trees are refused: each level takes a descriptor.
    const DEPTH_MAX: usize = 512;

    pub(super) fn give(root: &Path, group: u32, only_if_wrong: bool) -> io::Result<()> {
        let path = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let top = openat(CWD, root, path, Mode::empty())?;
        let found = fstat(&top)?;
        let is_right = found.st_gid == group && found.st_mode & DIRECTORY == DIRECTORY;
        if only_if_wrong && is_right {
            return Ok(());
        }
        // The root comes last: after a crash it is still wrong.
        if is_directory(&found) {
            below(&top, group, 0)?;
        }
        change(top.as_fd(), &found, group)
    }

    fn is_directory(found: &Stat) -> bool {
        FileType::from_raw_mode(found.st_mode) == FileType::Directory
    }

    fn below(directory: &OwnedFd, group: u32, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other("its directories are too deep"));
        }
        let readable = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = openat(directory, c".", readable, Mode::empty())?;
        for entry in Dir::new(open)? {
            let entry = entry?;
            let name: CString = entry.file_name().to_owned();
            if matches!(name.as_bytes(), b"." | b"..") {
                continue;
            }
            let path = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let child = match openat(directory, name.as_c_str(), path, Mode::empty()) {
                // Somebody removed it.
                Err(rustix::io::Errno::NOENT) => continue,
                opened => opened?,
            };
            let found = fstat(&child)?;
            if is_directory(&found) {
                below(&child, group, depth + 1)?;
            }
            change(child.as_fd(), &found, group)?;
        }
        Ok(())
    }

    fn change(file: BorrowedFd<'_>, found: &Stat, group: u32) -> io::Result<()> {
        chownat(file, c"", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
        let add = match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory => DIRECTORY,
            FileType::RegularFile => FILE,
            // Links have no mode, and devices and the like are left as they are.
            _ => return Ok(()),
        };
        // fchmod(2) takes no descriptor that was opened as a path only.
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mode = (found.st_mode & 0o7777) | add;
        Ok(chmodat(CWD, &*link, Mode::from_raw_mode(mode), AtFlags::empty())?)
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn files_below_are_the_groups_and_what_links_lead_to_is_not() {
        let root = tempfile::tempdir().unwrap();
        let (volume, outside) = (root.path().join("volume"), root.path().join("outside"));
        fs::create_dir_all(volume.join("deep/er")).unwrap();
        fs::write(volume.join("deep/file"), "").unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "").unwrap();
        symlink(&outside, volume.join("deep/way-out")).unwrap();
        symlink(outside.join("secret"), volume.join("link")).unwrap();
        for path in [volume.join("deep/file"), outside.join("secret")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        // The group that this process has anyway, which needs no rights.
        let group = fs::metadata(root.path()).unwrap().gid();

        give(&volume, group, false).unwrap();
        assert_eq!(mode(&volume.join("deep/file")), 0o660);
        assert_eq!(mode(&volume.join("deep/er")) & 0o2770, 0o2770);
        assert_eq!(mode(&volume) & 0o2770, 0o2770);
        assert_eq!(mode(&outside.join("secret")), 0o600);
        assert_eq!(mode(&outside) & 0o2000, 0);
    }

    #[test]
    fn a_root_that_is_right_can_be_taken_as_proof() {
        let root = tempfile::tempdir().unwrap();
        let group = fs::metadata(root.path()).unwrap().gid();
        give(root.path(), group, false).unwrap();
        let late = root.path().join("late");
        fs::write(&late, "").unwrap();
        fs::set_permissions(&late, fs::Permissions::from_mode(0o600)).unwrap();
        give(root.path(), group, true).unwrap();
        assert_eq!(mode(&late), 0o600);
        give(root.path(), group, false).unwrap();
        assert_eq!(mode(&late), 0o660);
    }
}
