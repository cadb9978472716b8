//! Which mounts that are made later a container sees, and which of its own are seen outside
//! (mount propagation, KEP-432).
//!
//! What a container mounts is copied here, in the host's mount namespace and with the propagation
//! that was asked for, and then attached in the namespace from which libcontainer, which leaves
//! propagation as it is, binds it.

use std::{fs, io, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::CWD,
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
};

use super::sys;
use crate::{mounts::points, runtime::Mount};

/// Copies of what is mounted at the sources of `mounts`, attached nowhere yet, in their order.
pub(super) fn take(mounts: &[Mount]) -> io::Result<Vec<OwnedFd>> {
    mounts.iter().map(take_one).collect()
}

fn take_one(mount: &Mount) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, &mount.host_path, flags)?;
    match mount.propagation.as_deref() {
        Some("Bidirectional") => {}
        Some("HostToContainer") => sys::set_propagation(&tree, libc::MS_SLAVE)?,
        _ => sys::set_propagation(&tree, libc::MS_PRIVATE)?,
    }
    Ok(tree)
}

/// Attaches what [`take`] gave below `directory`, in the mount namespace of this process, and points
/// `mounts` there.
pub(super) fn attach(
    trees: Vec<OwnedFd>,
    mounts: &mut [Mount],
    directory: &Path,
) -> io::Result<()> {
    for (number, (tree, mount)) in trees.into_iter().zip(mounts).enumerate() {
        let target = directory.join(number.to_string());
        match fs::File::from(tree.try_clone()?).metadata()?.is_dir() {
            true => fs::create_dir_all(&target)?,
            false => {
                fs::create_dir_all(directory)?;
                fs::File::create(&target)?;
            }
        }
        move_mount(tree, "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        mount.host_path = target;
    }
    Ok(())
}

/// Whether a mount's source allows the propagation that is asked for, as in containerd's words.
pub(super) fn check(mount: &Mount, table: &str) -> Result<(), String> {
    let (needed, what): (&[&str], &str) = match mount.propagation.as_deref() {
        Some("Bidirectional") => (&["shared:"], "a shared mount"),
        Some("HostToContainer") => (&["shared:", "master:"], "a shared or slave mount"),
        _ => return Ok(()),
    };
    let source = fs::canonicalize(&mount.host_path).unwrap_or_else(|_| mount.host_path.clone());
    let at = points(table).filter(|(point, _)| source.starts_with(point));
    // Of two at the same place the later one hides the other.
    let at = at.max_by_key(|(point, _)| point.components().count());
    let (point, tags) = at.ok_or("the table of mounts is empty")?;
    match tags.iter().any(|tag| needed.iter().any(|prefix| tag.starts_with(prefix))) {
        true => Ok(()),
        false => {
            Err(format!("path {:?} is mounted on {point:?} but it is not {what}", mount.host_path))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_host_shares_is_propagated() {
        let table = "21 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            22 21 0:21 / /shared\\040disk rw shared:7 - tmpfs tmpfs rw\n\
            23 21 0:22 / /slave rw master:7 propagate_from:2 - tmpfs tmpfs rw\n\
            24 22 0:23 / /shared\\040disk/private rw - tmpfs tmpfs rw\n";
        let allowed = |path: &str, propagation: &str| {
            let mount = Mount {
                host_path: path.into(),
                propagation: Some(propagation.to_owned()),
                ..Mount::default()
            };
            check(&mount, table)
        };
        for (path, in_only, both) in [
            ("/shared disk/a/b", true, true),
            ("/shared disk", true, true),
            ("/shared disk/private/a", false, false),
            ("/slave/a", true, false),
            ("/slaves", false, false),
        ] {
            assert_eq!(allowed(path, "HostToContainer").is_ok(), in_only, "{path}");
            assert_eq!(allowed(path, "Bidirectional").is_ok(), both, "{path}");
            assert!(allowed(path, "None").is_ok(), "{path}");
        }
        let why = allowed("/a", "Bidirectional").unwrap_err();
        assert_eq!(why, "path \"/a\" is mounted on \"/\" but it is not a shared mount");
    }
}
