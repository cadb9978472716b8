//! All rows.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use super::*;
use crate::discovery::priority;

/// API groups in the order of discovery: the core group, then by the priority that kube-apiserver
/// gives them. Groups that are not named come last, by name.
const GROUP_ORDER: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "extensions",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "resource.k8s.io",
];

/// The kinds that a server serves. Cloning shares the table.
#[derive(Clone, Debug)]
pub struct Resources(Arc<Index>);

#[derive(Debug)]
struct Index {
    rows: Vec<Arc<Resource>>,
    by_plural: HashMap<String, Vec<usize>>,
    by_kind: HashMap<String, Vec<usize>>,
}

impl Index {
    /// Of the rows that a name stands for, the one in this group and version.
    fn find(
        &self,
        rows: Option<&Vec<usize>>,
        group: &str,
        version: &str,
    ) -> Option<&Arc<Resource>> {
        let mut rows = rows?.iter().filter_map(|row| self.rows.get(*row));
        rows.find(|row| row.group == group && row.version == version)
    }
}

impl Resources {
    /// Every built-in kind.
    pub fn builtin() -> Resources {
        builtin_rows().into_iter().collect()
    }

    /// This table and PodPreset, which Kubernetes had until 1.19 as an alpha version.
    #[must_use]
    pub fn with_pod_presets(&self) -> Resources {
        self.with(pod_preset::row())
    }

    /// This table with one row more.
    #[must_use]
    pub fn with(&self, row: Resource) -> Resources {
        self.and([Arc::new(row)])
    }

    /// This table and these rows, which are shared with it. Of rows with the same group, version
    /// and plural the last one counts.
    #[must_use]
    pub fn and(&self, rows: impl IntoIterator<Item = Arc<Resource>>) -> Resources {
        Self::index(self.iter().cloned().chain(rows))
    }

    /// This table, and the stored versions of those of its kinds that it has in other versions only:
    /// what a server keeps objects by, whether it serves that version or not.
    #[cfg(feature = "server")]
    pub(crate) fn with_stored(&self) -> Resources {
        let lacking: Vec<_> = versions::stored_of(self)
            .filter(|(group, version, kind)| self.by_kind(group, version, kind).is_none())
            .collect();
        if lacking.is_empty() {
            return self.clone();
        }
        let builtin = Self::builtin();
        let found = lacking
            .iter()
            .filter_map(|(group, version, kind)| builtin.by_kind(group, version, kind).cloned());
        self.and(found)
    }

    /// The kind that is served at this group (empty for the core), version and plural.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.0.find(self.0.by_plural.get(plural), group, version)
    }

    /// The kind of this name in a group (empty for the core) and version.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.0.find(self.0.by_kind.get(kind), group, version)
    }

    /// All rows in discovery order: the core group, then groups as kube-apiserver ranks them,
    /// newer versions first, plurals sorted.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.0.rows.iter()
    }

    fn index(rows: impl Iterator<Item = Arc<Resource>>) -> Resources {
        let mut rows: Vec<_> = rows.collect();
        // Stable: among rows with the same name the last one stays the last.
        rows.sort_by_cached_key(|row| {
            let rank = GROUP_ORDER.iter().position(|group| *group == row.group);
            let version = (Reverse(priority(&row.version)), row.version.clone());
            (rank.unwrap_or(usize::MAX), row.group.clone(), version, row.plural.clone())
        });
        rows.dedup_by(|next, kept| {
            let name =
                |row: &Resource| (row.group.clone(), row.version.clone(), row.plural.clone());
            let same = name(next) == name(kept);
            if same {
                std::mem::swap(next, kept);
            }
            same
        });
        let index = |name: fn(&Resource) -> &str| {
            let mut index: HashMap<String, Vec<usize>> = HashMap::new();
            for (at, row) in rows.iter().enumerate() {
                index.entry(name(row).to_owned()).or_default().push(at);
            }
            index
        };
        let (by_plural, by_kind) = (index(|row| &row.plural), index(|row| &row.kind));
        Resources(Arc::new(Index { rows, by_plural, by_kind }))
    }
}

impl FromIterator<Resource> for Resources {
    /// A table of these rows. Of rows with the same group, version and plural the last one counts.
    fn from_iter<I: IntoIterator<Item = Resource>>(rows: I) -> Self {
        Self::index(rows.into_iter().map(Arc::new))
    }
}

fn builtin_rows() -> Vec<Resource> {
    let mut rows = vec![
        namespace::row(),
        node::row(),
        pod::row(),
        service::row(),
        endpoints::row(),
        endpoint_slice::row(),
        config_map::row(),
        secret::row(),
        service_account::row(),
        event::row(),
        lease::row(),
        binding::row(),
        pod_template::row(),
        replication_controller::row(),
        deployment::row(),
        replica_set::row(),
        controller_revision::row(),
        priority_class::row(),
        stateful_set::row(),
        daemon_set::row(),
        job::row(),
        cron_job::row(),
        limit_range::row(),
        resource_quota::row(),
        persistent_volume::row(),
        persistent_volume_claim::row(),
        ingress::row(),
        ingress_class::row(),
        network_policy::row(),
        pod_disruption_budget::row(),
        storage_class::row(),
        horizontal_pod_autoscaler::row(),
        certificate_signing_request::row(),
    ];
    rows.extend(rbac::rows());
    rows.extend(reviews::rows());
    rows.extend(admission::rows());
    rows.extend(devices::rows());
    rows.extend([
        api_service::row(),
        custom::definition::row(),
        cluster_trust_bundle::row(),
        component_status::row(),
        csi_driver::row(),
        csi_node::row(),
        csi_storage_capacity::row(),
        flow_schema::row(),
        ip_address::row(),
        pod_certificate_request::row(),
        priority_level_configuration::row(),
        runtime_class::row(),
        service_cidr::row(),
        volume_attachment::row(),
        volume_attributes_class::row(),
    ]);
    rows.extend(versions::rows(&rows));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_in_the_order_of_their_maturity() {
        let pods = Resource::clone(Resources::builtin().get("", "v1", "pods").unwrap());
        let of = |version: &'static str| Resource { version: version.into(), ..pods.clone() };
        let versions = ["v1beta1", "other", "v2alpha1", "v1", "any", "v1beta2", "v2"];
        let resources: Resources = versions.into_iter().map(of).collect();
        let found: Vec<_> = resources.iter().map(|row| row.version.as_ref()).collect();
        assert_eq!(found, ["v2", "v1", "v1beta2", "v1beta1", "v2alpha1", "any", "other"]);
    }

    #[test]
    fn of_rows_with_the_same_name_the_last_counts() {
        let pods = Resource::clone(Resources::builtin().get("", "v1", "pods").unwrap());
        let of = |kind: &'static str| Resource { kind: kind.into(), ..pods.clone() };
        let resources: Resources = ["A", "B", "C"].into_iter().map(of).collect();
        let kinds: Vec<_> = resources.iter().map(|row| row.kind.as_ref()).collect();
        assert_eq!(kinds, ["C"]);
        assert!(resources.by_kind("", "v1", "A").is_none());
    }

    #[test]
    fn a_row_can_be_added() {
        let builtin = Resources::builtin();
        let mut row = Resource::clone(builtin.get("", "v1", "pods").unwrap());
        row.version = "v2".into();
        let resources = builtin.with(row);
        assert!(resources.get("", "v2", "pods").is_some());
        assert_eq!(resources.iter().count(), builtin.iter().count() + 1);
    }

    #[test]
    fn versions_of_a_kind_share_where_it_is_stored() {
        let resources = Resources::builtin();
        for row in resources.iter().filter(|row| !row.strategy.is_shown_as_stored()) {
            let stored: Vec<_> = resources
                .iter()
                .filter(|other| other.key_prefix == row.key_prefix)
                .filter(|other| other.strategy.is_shown_as_stored())
                .collect();
            assert_eq!(stored.len(), 1, "{}", row.api_version());
            assert_eq!(stored[0].kind, row.kind);
        }
    }
}
