//! The plug-ins that there are, in the order in which they are asked, and which of them are on.
//!
//! Names, order and defaults are kube-apiserver's (`kubeapiserver/options/plugins.go`), but for
//! NodeRestriction, which is on: every tool that sets up clusters turns it on.

use std::sync::Arc;

use super::{
    Admission, AdmissionMetrics,
    always::{AlwaysDeny, AlwaysPullImages},
    certificates::{Approval, Attestation, Signing, SubjectRestriction},
    claim_resize::PersistentVolumeClaimResize,
    default_ingress_class::DefaultIngressClass,
    default_storage_class::DefaultStorageClass,
    escalation::Escalation,
    extended_resources::ExtendedResourceToleration,
    external_ips::DenyServiceExternalIps,
    limit_ranger::LimitRanger,
    matching::Lookup,
    namespace_lifecycle::NamespaceLifecycle,
    namespaces::{NamespaceAutoProvision, NamespaceExists, Provisioner},
    node_restriction::NodeRestriction,
    node_selectors::PodNodeSelector,
    owner_references::OwnerReferences,
    pod_antiaffinity::HardAntiAffinityTopology,
    pod_certificates::PodCertificates,
    pod_security::{PodSecurity, PodSecurityExemptions},
    pod_tolerations::PodTolerationRestriction,
    policies::{MutatingPolicies, ValidatingPolicies},
    priority::Priority,
    resource_quota::ResourceQuotas,
    runtime_class::RuntimeClasses,
    service_accounts::ServiceAccounts,
    signing_requests::Requestor,
    storage_in_use::StorageObjectInUseProtection,
    taint_nodes::TaintNodesByCondition,
    tolerations::DefaultTolerationSeconds,
    webhooks::{MutatingWebhooks, ValidatingWebhooks},
};
use crate::server::{
    authz::{Authorizer, rbac::Rbac},
    outbound::Outbound,
};

/// What plug-ins are made of.
#[derive(Debug)]
pub(in crate::server) struct Parts {
    pub lookup: Lookup,
    pub rbac: Rbac,
    pub authorizer: Arc<dyn Authorizer>,
    pub outbound: Outbound,
    pub metrics: AdmissionMetrics,
    pub provisioner: Provisioner,
    /// Who PodSecurity does not judge.
    pub pod_security_exemptions: PodSecurityExemptions,
    /// Whether a Pod needs its service account to be there.
    pub require_service_accounts: bool,
}

/// A plug-in: its name, whether it is on by default, and how it is made; `None` when it has nothing
/// to do.
type Row = (&'static str, bool, fn(&Parts) -> Option<Arc<dyn Admission>>);

fn some(plugin: impl Admission) -> Option<Arc<dyn Admission>> {
    Some(Arc::new(plugin))
}

/// All plug-ins, in order.
const PLUGINS: &[Row] = &[
    ("AlwaysAdmit", false, |_| None),
    ("NamespaceAutoProvision", false, |p| {
        some(NamespaceAutoProvision {
            reader: p.lookup.reader.clone(),
            provisioner: p.provisioner.clone(),
        })
    }),
    ("NamespaceLifecycle", true, |p| some(NamespaceLifecycle(p.lookup.reader.clone()))),
    ("NamespaceExists", false, |p| some(NamespaceExists(p.lookup.reader.clone()))),
    ("LimitPodHardAntiAffinityTopology", false, |_| some(HardAntiAffinityTopology)),
    ("LimitRanger", true, |p| some(LimitRanger::new(p.lookup.reader.clone()))),
    ("ServiceAccount", true, |p| {
        let (reader, required) = (p.lookup.reader.clone(), p.require_service_accounts);
        some(ServiceAccounts { reader, required })
    }),
    ("NodeRestriction", true, |p| some(NodeRestriction(p.lookup.reader.clone()))),
    ("TaintNodesByCondition", true, |_| some(TaintNodesByCondition)),
    ("AlwaysPullImages", false, |_| some(AlwaysPullImages)),
    ("PodSecurity", true, |p| {
        some(PodSecurity::new(p.lookup.reader.clone(), p.pod_security_exemptions.clone()))
    }),
    ("PodNodeSelector", false, |p| some(PodNodeSelector(p.lookup.reader.clone()))),
    ("Priority", true, |p| some(Priority::new(p.lookup.reader.clone()))),
    ("DefaultTolerationSeconds", true, |_| some(DefaultTolerationSeconds)),
    ("PodTolerationRestriction", false, |p| {
        some(PodTolerationRestriction(p.lookup.reader.clone()))
    }),
    ("ExtendedResourceToleration", false, |_| some(ExtendedResourceToleration)),
    ("DefaultStorageClass", true, |p| some(DefaultStorageClass(p.lookup.reader.clone()))),
    ("StorageObjectInUseProtection", true, |_| some(StorageObjectInUseProtection)),
    ("OwnerReferencesPermissionEnforcement", false, |p| {
        let (reader, authorizer) = (p.lookup.reader.clone(), p.authorizer.clone());
        some(OwnerReferences { reader, authorizer })
    }),
    ("PersistentVolumeClaimResize", true, |p| {
        some(PersistentVolumeClaimResize(p.lookup.reader.clone()))
    }),
    ("RuntimeClass", true, |p| some(RuntimeClasses(p.lookup.reader.clone()))),
    ("CertificateApproval", true, |p| some(Approval(p.authorizer.clone()))),
    ("CertificateSigning", true, |p| some(Signing(p.authorizer.clone()))),
    ("ClusterTrustBundleAttest", true, |p| some(Attestation(p.authorizer.clone()))),
    ("CertificateSubjectRestriction", true, |_| some(SubjectRestriction)),
    ("DefaultIngressClass", true, |p| some(DefaultIngressClass(p.lookup.reader.clone()))),
    ("DenyServiceExternalIPs", false, |_| some(DenyServiceExternalIps)),
    // What is configured comes after what is built in, and what counts or refuses comes last.
    ("MutatingAdmissionPolicy", true, |p| some(MutatingPolicies::new(p))),
    ("MutatingAdmissionWebhook", true, |p| some(MutatingWebhooks::new(p))),
    ("ValidatingAdmissionPolicy", true, |p| some(ValidatingPolicies::new(p))),
    ("ValidatingAdmissionWebhook", true, |p| some(ValidatingWebhooks::new(p))),
    ("ResourceQuota", true, |p| some(ResourceQuotas::new(p.lookup.reader.clone()))),
    ("AlwaysDeny", false, |_| some(AlwaysDeny)),
];

/// Which plug-ins are on.
#[derive(Clone, Debug, Default)]
pub(in crate::server) struct Selection {
    enabled: Vec<String>,
    disabled: Vec<String>,
}

/// Why plug-ins cannot be chosen so, in kube-apiserver's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// There is no such plug-in.
    #[error("{list} plugin {name:?} is unknown")]
    Unknown {
        /// `enable-admission-plugins` or `disable-admission-plugins`.
        list: &'static str,
        /// What was asked for.
        name: String,
    },
    /// A plug-in is to be both on and off.
    #[error("{0:?} in enable-admission-plugins and disable-admission-plugins overlapped")]
    Overlapping(String),
}

impl Selection {
    /// The default ones, these more and those less.
    pub(in crate::server) fn new(enabled: &[&str], disabled: &[&str]) -> Self {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self { enabled: own(enabled), disabled: own(disabled) }
    }

    fn check(&self) -> Result<(), PluginError> {
        for (list, names) in [
            ("enable-admission-plugins", &self.enabled),
            ("disable-admission-plugins", &self.disabled),
        ] {
            for name in names {
                if !PLUGINS.iter().any(|(known, ..)| known == name) {
                    return Err(PluginError::Unknown { list, name: name.clone() });
                }
            }
        }
        match self.enabled.iter().find(|name| self.disabled.contains(name)) {
            Some(both) => Err(PluginError::Overlapping(both.clone())),
            None => Ok(()),
        }
    }

    fn is_on(&self, name: &str, by_default: bool) -> bool {
        let named = |list: &[String]| list.iter().any(|found| found == name);
        named(&self.enabled) || by_default && !named(&self.disabled)
    }

    /// The plug-ins that are on, in order. What kube-apiserver checks before admission comes first.
    pub(in crate::server) fn plugins(
        &self,
        parts: &Parts,
    ) -> Result<Vec<Arc<dyn Admission>>, PluginError> {
        self.check()?;
        let (rbac, authorizer) = (parts.rbac.clone(), parts.authorizer.clone());
        let always: [Arc<dyn Admission>; 3] = [
            Arc::new(Escalation { rbac, authorizer }),
            Arc::new(Requestor),
            Arc::new(PodCertificates),
        ];
        let on = PLUGINS.iter().filter(|(name, default, _)| self.is_on(name, *default));
        Ok(always.into_iter().chain(on.filter_map(|(_, _, make)| make(parts))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_chosen_by_their_names() {
        let chosen = Selection::new(&["AlwaysDeny"], &["PodSecurity"]);
        chosen.check().unwrap();
        assert!(chosen.is_on("AlwaysDeny", false) && chosen.is_on("Priority", true));
        assert!(!chosen.is_on("PodSecurity", true) && !chosen.is_on("AlwaysPullImages", false));

        let unknown = Selection::new(&[], &["Nope"]).check().unwrap_err();
        assert_eq!(unknown.to_string(), "disable-admission-plugins plugin \"Nope\" is unknown");
        let both = Selection::new(&["Priority"], &["Priority"]).check().unwrap_err();
        assert_eq!(both, PluginError::Overlapping("Priority".to_owned()));
    }
}
