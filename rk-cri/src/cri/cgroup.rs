//! The pods' cgroups, which a runtime makes on the way to its containers' and never removes: that is
//! the business of its client.

use std::path::{Path, PathBuf};

/// Where cgroup hierarchies are mounted.
const MOUNTS: &str = "/sys/fs/cgroup";

/// Removes a pod's cgroup from every hierarchy, unless something is left in it. One that is there
/// still does no harm, so nothing is said of it.
pub(super) async fn remove(parent: String) {
    // Without this it would be the root of all.
    let relative = Path::new(parent.trim_start_matches('/')).to_owned();
    let safe = relative.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if relative.as_os_str().is_empty() || !safe {
        return;
    }
    let removal = tokio::task::spawn_blocking(move || {
        for hierarchy in hierarchies() {
            // The kernel refuses to remove a cgroup with processes or further cgroups in it.
            if let Err(error) = std::fs::remove_dir(hierarchy.join(&relative)) {
                tracing::trace!(%error, ?hierarchy, "a cgroup stays");
            }
        }
    });
    removal.await.ok();
}

/// The one of version 2, or those of version 1 below it.
fn hierarchies() -> Vec<PathBuf> {
    let below = std::fs::read_dir(MOUNTS).into_iter().flatten().flatten();
    std::iter::once(MOUNTS.into()).chain(below.map(|entry| entry.path())).collect()
}
