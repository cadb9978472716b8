//! Huge pages: how many the node has, and how many a container may have (the kernel's
//! `hugetlbpage.rst`).

use std::{collections::BTreeMap, path::Path};

use k8s_openapi::api::core::v1::Container;
use rk_api::meta::quantity::Quantity;

use super::resources;

/// What the resources' names begin with; the size of a page follows.
pub(crate) const PREFIX: &str = "hugepages-";
/// Where the kernel tells of them.
pub(crate) const POOLS: &str = "/sys/kernel/mm/hugepages";

/// A page's size in bytes, of a resource such as `hugepages-2Mi`.
pub(crate) fn page_bytes(resource: &str) -> Option<u64> {
    let size = Quantity::parse(resource.strip_prefix(PREFIX)?).ok()?;
    u64::try_from(size.value()).ok().filter(|bytes| *bytes > 0)
}

/// A size with the largest unit that divides it: `2Mi`, or `2MB` as cgroups have it.
fn with_unit(bytes: u64, units: [&str; 4]) -> String {
    let (mut amount, mut unit) = (bytes, 0);
    while amount % 1024 == 0 && unit + 1 < units.len() && amount > 0 {
        amount /= 1024;
        unit += 1;
    }
    format!("{amount}{}", units[unit])
}

/// The pages that the kernel has set aside, by resource and in all, as sizes such as `64Mi`.
/// `pools` is a directory such as [`POOLS`].
pub(crate) fn capacity(pools: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(pools).into_iter().flatten().flatten();
    let pool = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count = std::fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
        let pages: u64 = count.trim().parse().ok()?;
        let size = with_unit(kib.checked_mul(1024)?, ["", "Ki", "Mi", "Gi"]);
        Some((format!("{PREFIX}{size}"), format!("{}Ki", kib.checked_mul(pages)?)))
    };
    entries.filter_map(pool).collect()
}

/// How much of each size a container may have, by size as cgroups name it: none of those that it does
/// not ask for. `sizes` are the node's resources.
pub(crate) fn limits<'a>(
    container: &Container,
    sizes: impl Iterator<Item = &'a String>,
) -> BTreeMap<String, u64> {
    let none = Default::default();
    let own = container.resources.as_ref().unwrap_or(&none);
    let limit = |resource: &String| {
        let size = with_unit(page_bytes(resource)?, ["B", "KB", "MB", "GB"]);
        let limit = resources::value(&own.limits, resource);
        Some((size, u64::try_from(limit).unwrap_or(0)))
    };
    sizes.filter_map(limit).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_kernels_pools_are_capacity() {
        let pools = tempfile::tempdir().unwrap();
        for (name, pages) in [("hugepages-2048kB", "32\n"), ("hugepages-1048576kB", "0\n")] {
            let pool = pools.path().join(name);
            std::fs::create_dir_all(&pool).unwrap();
            std::fs::write(pool.join("nr_hugepages"), pages).unwrap();
        }
        std::fs::create_dir_all(pools.path().join("other")).unwrap();
        let found = capacity(pools.path());
        let expected = [("hugepages-1Gi", "0Ki"), ("hugepages-2Mi", "65536Ki")];
        let expected = expected.map(|(name, amount)| (name.to_owned(), amount.to_owned()));
        assert_eq!(found, expected.into());
        assert!(capacity(Path::new("/no/such/directory")).is_empty());
    }

    #[test]
    fn a_container_has_only_the_pages_that_it_asks_for() {
        let container: Container = serde_json::from_value(json!({
            "name": "c", "resources": {"limits": {"hugepages-2Mi": "6Mi"}},
        }))
        .unwrap();
        let sizes = ["hugepages-2Mi", "hugepages-1Gi", "memory"].map(str::to_owned);
        let expected = [("2MB".to_owned(), 6 << 20), ("1GB".to_owned(), 0)];
        assert_eq!(limits(&container, sizes.iter()), expected.into());
    }
}
