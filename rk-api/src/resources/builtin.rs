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
    by_plural: HashMap<Names, usize>,
    by_kind: HashMap<Names, usize>,
}

/// Group, version, and plural or kind.
type Names = (String, String, String);

impl Resources {
    /// Every built-in kind.
    pub fn builtin() -> Resources {
        builtin_rows().into_iter().collect()
    }

    /// The kind that is served at this group (empty for the core), version and plural.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        let row = self.0.by_plural.get(&names(group, version, plural))?;
        self.0.rows.get(*row)
    }

    /// The kind of this name in a group (empty for the core) and version.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        let row = self.0.by_kind.get(&names(group, version, kind))?;
        self.0.rows.get(*row)
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
            unique.insert(names(&row.group, &row.version, &row.plural), Arc::new(row));
        }
        let mut rows: Vec<_> = unique.into_values().collect();
        rows.sort_by(|a, b| {
            let rank = |row: &Resource| {
                GROUP_ORDER.iter().position(|group| *group == row.group).unwrap_or(usize::MAX)
            };
            (rank(a), &a.group)
                .cmp(&(rank(b), &b.group))
                .then_with(|| b.version.cmp(&a.version))
                .then_with(|| a.plural.cmp(&b.plural))
        });
        let index = |name: fn(&Resource) -> &str| {
            let key = |row: &Resource| names(&row.group, &row.version, name(row));
            rows.iter().enumerate().map(|(at, row)| (key(row), at)).collect()
        };
        let (by_plural, by_kind) = (index(|row| &row.plural), index(|row| &row.kind));
        Resources(Arc::new(Index { rows, by_plural, by_kind }))
    }
}

fn names(group: &str, version: &str, name: &str) -> Names {
    (group.to_owned(), version.to_owned(), name.to_owned())
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
    rows
}
