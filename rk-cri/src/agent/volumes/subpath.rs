//! Part of a volume as a mount, safe against links that a container planted there.

use std::{
    io,
    path::{Component, Path, PathBuf},
};

/// Opens `sub_path` below `root`, makes it a directory if it is not there, and returns a path to
/// mount. Blocks.
///
/// Where the kernel lets us, what was opened is bound to `target`, so that nothing that happens to
/// the volume afterwards changes what is mounted; else the path within the volume has to do.
/// An error if any part of it leads out of the volume.
pub(crate) fn prepare(root: &Path, sub_path: &str, target: &Path) -> io::Result<PathBuf> {
    let relative = Path::new(sub_path);
    if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it leads out of the volume"));
    }
    open(root, relative, target)
}

#[cfg(target_os = "linux")]
fn open(root: &Path, relative: &Path, target: &Path) -> io::Result<PathBuf> {
    use std::os::fd::{AsRawFd, OwnedFd};

    use rustix::{
        fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2},
        io::Errno,
    };

    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let base = openat(CWD, root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let beneath = |path: &Path| openat2(&base, path, flags, Mode::empty(), inside);
    let mut reached = PathBuf::new();
    let mut parent: Option<OwnedFd> = None;
    for part in relative.components() {
        let Component::Normal(name) = part else { continue };
        reached.push(name);
        let next = match beneath(&reached) {
            Err(Errno::NOENT) => {
                let above = parent.as_ref().unwrap_or(&base);
                match mkdirat(above, name, Mode::from_raw_mode(0o750)) {
                    Ok(()) | Err(Errno::EXIST) => beneath(&reached)?,
                    Err(error) => return Err(error.into()),
                }
            }
            other => other?,
        };
        parent = Some(next);
    }
    let found = parent.as_ref().unwrap_or(&base);
    let link = format!("/proc/self/fd/{}", found.as_raw_fd());
    bind(Path::new(&link), target).or_else(|_| std::fs::read_link(&link))
}

/// Binds an open file or directory to `target`, which is made for it.
#[cfg(target_os = "linux")]
fn bind(link: &Path, target: &Path) -> io::Result<PathBuf> {
    use rustix::mount::{UnmountFlags, mount_bind, unmount};

    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    // What an earlier container of this name had.
    let _ = unmount(target, UnmountFlags::DETACH);
    if std::fs::metadata(link)?.is_dir() {
        std::fs::create_dir_all(target)?;
    } else if !target.exists() {
        std::fs::write(target, b"")?;
    }
    mount_bind(link, target)?;
    Ok(target.to_path_buf())
}

#[cfg(not(target_os = "linux"))]
fn open(root: &Path, relative: &Path, _: &Path) -> io::Result<PathBuf> {
    std::fs::create_dir_all(root.join(relative))?;
    let (root, found) = (root.canonicalize()?, root.join(relative).canonicalize()?);
    if found.starts_with(&root) { Ok(found) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn links_cannot_lead_out_of_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        fs::create_dir_all(volume.join("real")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        symlink("real", volume.join("inner")).unwrap();
        symlink(&outside, volume.join("absolute")).unwrap();
        symlink("../outside", volume.join("relative")).unwrap();

        for path in ["absolute", "relative", "relative/new", "../outside", "inner/../../outside"] {
            let result = prepare(&volume, path, &dir.path().join("t"));
            assert!(result.is_err(), "{path}: {result:?}");
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        for (number, path) in ["real", "inner", "new/deep"].into_iter().enumerate() {
            let target = dir.path().join(format!("target-{number}"));
            let found = prepare(&volume, path, &target).unwrap();
            fs::write(found.join("mark"), path).unwrap();
            assert_eq!(fs::read_to_string(volume.join(path).join("mark")).unwrap(), path);
            let _ = rustix::mount::unmount(&target, rustix::mount::UnmountFlags::DETACH);
        }
    }
}
