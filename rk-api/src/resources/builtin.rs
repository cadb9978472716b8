//! All rows.

use std::{collections::HashMap, sync::Arc};

use super::*;

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

    /// This table with one row more.
    #[must_use]
    pub fn with(&self, row: Resource) -> Resources {
        self.iter().map(|row| Resource::clone(row)).chain([row]).collect()
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
}

impl FromIterator<Resource> for Resources {
    /// A table of these rows. Of rows with the same group, version and plural the last one counts.
    fn from_iter<I: IntoIterator<Item = Resource>>(rows: I) -> Self {
        let mut unique = HashMap::new();
        for row in rows {
            let name = (row.group.clone(), row.version.clone(), row.plural.clone());
            unique.insert(name, Arc::new(row));
        }
        let mut rows: Vec<_> = unique.into_values().collect();
        rows.sort_by(|a, b| {
            let rank = |row: &Resource| {
                GROUP_ORDER.iter().position(|group| *group == row.group).unwrap_or(usize::MAX)
            };
            (rank(a), &a.group)
                .cmp(&(rank(b), &b.group))
                .then_with(|| maturity(&b.version).cmp(&maturity(&a.version)))
                .then_with(|| a.plural.cmp(&b.plural))
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

/// What ranks versions: `v2` above `v1` above `v1beta2` above `v1beta1` above `v2alpha1`.
fn maturity(version: &str) -> (u8, u32, u32) {
    let number = |text: &str| text.parse().unwrap_or(0);
    let rest = version.strip_prefix('v').unwrap_or(version);
    let (major, stage) =
        rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
    match (stage.strip_prefix("beta"), stage.strip_prefix("alpha")) {
        (Some(minor), _) => (1, number(major), number(minor)),
        (_, Some(minor)) => (0, number(major), number(minor)),
        _ => (2, number(major), 0),
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
    fn mature_versions_rank_above_newer_ones() {
        let mut versions = ["v1beta1", "v2alpha1", "v1", "v1beta2", "v2"];
        versions.sort_by_key(|version| std::cmp::Reverse(maturity(version)));
        assert_eq!(versions, ["v2", "v1", "v1beta2", "v1beta1", "v2alpha1"]);
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
