//! emptyDir volumes of huge pages: which pages, and where they are mounted.

use std::{collections::BTreeSet, io, path::Path};

use k8s_openapi::api::core::v1::Pod;

use crate::agent::hugepages::{PREFIX, page_bytes as of_resource};

/// The size of the pages of a medium: of `HugePages-2Mi` the one that it names, of `HugePages` the only
/// one that the Pod asks for. An error says why there is none.
pub(super) fn page_bytes(medium: &str, pod: &Pod) -> Result<u64, String> {
    let wrong = || format!("medium {medium} names no size of huge pages");
    if let Some(size) = medium.strip_prefix("HugePages-") {
        return of_resource(&format!("{PREFIX}{size}")).ok_or_else(wrong);
    }
    let spec = pod.spec.iter();
    let containers =
        spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
    let amounts = containers.filter_map(|container| container.resources.as_ref()).flat_map(|all| {
        all.requests.iter().flatten().chain(all.limits.iter().flatten()).map(|(name, _)| name)
    });
    let sizes: BTreeSet<u64> = amounts.filter_map(|name| of_resource(name)).collect();
    let mut sizes = sizes.into_iter();
    match (sizes.next(), sizes.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => {
            Err("medium HugePages can only be used if one page size is requested".to_owned())
        }
        (None, _) => Err("no hugepages requested for the volume".to_owned()),
    }
}

/// Mounts huge pages on a directory, unless they are. Blocks.
#[cfg(target_os = "linux")]
pub(super) fn set_up(path: &Path, page_bytes: u64, group: Option<u32>) -> io::Result<()> {
    use rustix::mount::{MountFlags, mount};
    std::fs::create_dir_all(path)?;
    if super::is_mounted(path)? {
        return Ok(());
    }
    let group = group.map(|group| format!(",gid={group}")).unwrap_or_default();
    let mode = if group.is_empty() { "0777" } else { "2777" };
    let options = std::ffi::CString::new(format!("pagesize={page_bytes},mode={mode}{group}"))?;
    Ok(mount("nodev", path, "hugetlbfs", MountFlags::empty(), &*options)?)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn set_up(_: &Path, _: u64, _: Option<u32>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_size_of_pages_is_named_or_the_only_one_asked_for() {
        let pod = |limits: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [
                {"name": "c", "resources": {"limits": limits}}]}}))
            .unwrap()
        };
        let none = pod(json!({"memory": "1Gi"}));
        assert_eq!(page_bytes("HugePages-2Mi", &none), Ok(2 << 20));
        assert_eq!(page_bytes("HugePages-1Gi", &none), Ok(1 << 30));
        assert!(page_bytes("HugePages-x", &none).is_err());
        assert!(page_bytes("HugePages", &none).unwrap_err().contains("no hugepages"));
        let one = pod(json!({"hugepages-2Mi": "4Mi"}));
        assert_eq!(page_bytes("HugePages", &one), Ok(2 << 20));
        let two = pod(json!({"hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi"}));
        assert!(page_bytes("HugePages", &two).unwrap_err().contains("one page size"));
    }
}
