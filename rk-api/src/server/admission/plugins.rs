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
    declared_features::DeclaredFeatures,
    default_ingress_class::DefaultIngressClass,
    default_storage_class::DefaultStorageClass,
    escalation::Escalation,
    event_rate_limit::{self, EventRateLimit, EventRateLimits},
    extended_resources::ExtendedResourceToleration,
    external_ips::DenyServiceExternalIps,
    image_policy::{self, ImagePolicyWebhook},
    limit_ranger::LimitRanger,
    matching::Lookup,
    namespace_lifecycle::NamespaceLifecycle,
    namespaces::{NamespaceAutoProvision, NamespaceExists, Provisioner},
    node_restriction::NodeRestriction,
    node_selectors::PodNodeSelector,
    owner_references::OwnerReferences,
    pod_antiaffinity::HardAntiAffinityTopology,
    pod_certificates::PodCertificates,
    pod_preset::{self, PodPresets},
    pod_resize::PodResize,
    pod_security::{PodSecurity, PodSecurityDefaults, PodSecurityExemptions},
    pod_tolerations::PodTolerationRestriction,
    policies::{MutatingPolicies, ValidatingPolicies},
    priority::Priority,
    resource_quota::{self, ResourceQuotaLimits, ResourceQuotas},
    runtime_class::RuntimeClasses,
    service_accounts::ServiceAccounts,
    signing_requests::Requestor,
    storage_in_use::StorageObjectInUseProtection,
    taint_nodes::TaintNodesByCondition,
    tolerations::DefaultTolerationSeconds,
    topology_labels::PodTopologyLabels,
    webhooks::{MutatingWebhooks, ValidatingWebhooks},
};
use crate::{
    resources::pod_preset::PodPreset,
    server::{
        authz::{Authorizer, rbac::Rbac},
        outbound::Outbound,
    },
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
    /// What it judges by where nobody says.
    pub pod_security_defaults: PodSecurityDefaults,
    /// What EventRateLimit is told.
    pub event_rate_limits: Option<EventRateLimits>,
    /// What needs a quota.
    pub resource_quota_limits: ResourceQuotaLimits,
    /// What ImagePolicyWebhook asks.
    pub image_policy: Option<Arc<ImagePolicyWebhook>>,
    /// Whether a Pod needs its service account to be there.
    pub require_service_accounts: bool,
}

/// A plug-in, `None` when it has nothing to do.
type Made = Option<Arc<dyn Admission>>;

/// A plug-in: its name, whether it is on by default, and how it is made.
type Row = (&'static str, bool, fn(&Parts) -> Made);

fn some(plugin: impl Admission) -> Made {
    Some(Arc::new(plugin))
}

/// A plug-in whose kinds or fields only come with a feature that Kubernetes has off by default, and
/// that is not here.
fn idle(_: &Parts) -> Made {
    None
}

/// All plug-ins, in order.
const PLUGINS: &[Row] = &[
    ("AlwaysAdmit", false, idle),
    ("NamespaceAutoProvision", false, |p| {
        some(NamespaceAutoProvision {
            reader: p.lookup.reader.clone(),
            provisioner: p.provisioner.clone(),
        })
    }),
    ("NamespaceLifecycle", true, |p| some(NamespaceLifecycle(p.lookup.reader.clone()))),
    ("NamespaceExists", false, |p| some(NamespaceExists(p.lookup.reader.clone()))),
    ("LimitPodHardAntiAffinityTopology", false, |_| some(HardAntiAffinityTopology)),
    (pod_preset::NAME, false, |p| {
        let (reader, provisioner) = (p.lookup.reader.clone(), p.provisioner.clone());
        some(PodPresets { reader, provisioner })
    }),
    ("LimitRanger", true, |p| some(LimitRanger::new(p.lookup.reader.clone()))),
    ("ServiceAccount", true, |p| {
        let (reader, required) = (p.lookup.reader.clone(), p.require_service_accounts);
        some(ServiceAccounts { reader, required })
    }),
    ("NodeRestriction", true, |p| some(NodeRestriction(p.lookup.reader.clone()))),
    ("TaintNodesByCondition", true, |_| some(TaintNodesByCondition)),
    ("AlwaysPullImages", false, |_| some(AlwaysPullImages)),
    (image_policy::NAME, false, |p| p.image_policy.clone().map(|it| it as _)),
    ("PodSecurity", true, |p| {
        let (reader, exemptions) = (p.lookup.reader.clone(), p.pod_security_exemptions.clone());
        // They were checked.
        PodSecurity::new(reader, &p.pod_security_defaults, exemptions).ok().and_then(some)
    }),
    ("PodNodeSelector", false, |p| some(PodNodeSelector(p.lookup.reader.clone()))),
    ("Priority", true, |p| some(Priority::new(p.lookup.reader.clone()))),
    ("DefaultTolerationSeconds", true, |_| some(DefaultTolerationSeconds)),
    ("PodTolerationRestriction", false, |p| {
        some(PodTolerationRestriction(p.lookup.reader.clone()))
    }),
    (event_rate_limit::NAME, false, |p| some(EventRateLimit::new(p.event_rate_limits.as_ref()?))),
    ("ExtendedResourceToleration", false, |_| some(ExtendedResourceToleration)),
    ("DefaultStorageClass", true, |p| some(DefaultStorageClass(p.lookup.reader.clone()))),
    ("StorageObjectInUseProtection", true, |_| some(StorageObjectInUseProtection)),
    ("PodGroupProtection", true, idle),
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
    ("PodTopologyLabels", true, |p| some(PodTopologyLabels(p.lookup.reader.clone()))),
    ("PodGroupWorkloadExists", true, idle),
    ("NodeDeclaredFeatureValidator", true, |p| some(DeclaredFeatures(p.lookup.reader.clone()))),
    ("JobValidation", true, idle),
    ("PodResizeValidator", true, |p| some(PodResize(p.lookup.reader.clone()))),
    // What is configured comes after what is built in, and what counts or refuses comes last.
    ("MutatingAdmissionPolicy", true, |p| some(MutatingPolicies::new(p))),
    ("MutatingAdmissionWebhook", true, |p| some(MutatingWebhooks::new(p))),
    ("ValidatingAdmissionPolicy", true, |p| some(ValidatingPolicies::new(p))),
    ("ValidatingAdmissionWebhook", true, |p| some(ValidatingWebhooks::new(p))),
    (resource_quota::NAME, true, |p| {
        some(ResourceQuotas::new(p.lookup.reader.clone(), p.resource_quota_limits.clone()))
    }),
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
    /// A plug-in that is on lacks something, or is told what makes no sense.
    #[error("couldn't init admission plugin {plugin:?}: {why}")]
    Misconfigured {
        /// Which.
        plugin: &'static str,
        /// Why.
        why: String,
    },
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

    /// Whether the plug-ins that are on have what they need.
    fn check_parts(&self, parts: &Parts) -> Result<(), PluginError> {
        let is_on = |name| self.is_on(name, false);
        let wrong =
            |plugin, why: &str| Err(PluginError::Misconfigured { plugin, why: why.to_owned() });
        if let Err(why) = PodSecurity::check(&parts.pod_security_defaults) {
            return wrong("PodSecurity", &why);
        }
        parts.resource_quota_limits.validate()?;
        match &parts.event_rate_limits {
            Some(limits) => limits.validate()?,
            None if is_on(event_rate_limit::NAME) => {
                return wrong(event_rate_limit::NAME, "no limits are configured");
            }
            None => {}
        }
        if is_on(image_policy::NAME) && parts.image_policy.is_none() {
            return wrong(image_policy::NAME, "no image policy is configured");
        }
        if is_on(pod_preset::NAME) && parts.lookup.reader.resource::<PodPreset>().is_none() {
            return wrong(pod_preset::NAME, "settings.k8s.io/v1alpha1 is not served");
        }
        Ok(())
    }

    /// These plug-ins too.
    pub(in crate::server) fn enable(&mut self, name: &str) {
        if !self.enabled.iter().any(|found| found == name) {
            self.enabled.push(name.to_owned());
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
        self.check_parts(parts)?;
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

    /// kube-apiserver's plug-ins in its order, those that are off by default in brackets.
    const UPSTREAM: &str = "(AlwaysAdmit) (NamespaceAutoProvision) NamespaceLifecycle \
        (NamespaceExists) (LimitPodHardAntiAffinityTopology) LimitRanger ServiceAccount \
        (NodeRestriction) TaintNodesByCondition (AlwaysPullImages) (ImagePolicyWebhook) PodSecurity \
        (PodNodeSelector) Priority DefaultTolerationSeconds (PodTolerationRestriction) \
        (EventRateLimit) (ExtendedResourceToleration) DefaultStorageClass \
        StorageObjectInUseProtection PodGroupProtection (OwnerReferencesPermissionEnforcement) \
        PersistentVolumeClaimResize RuntimeClass CertificateApproval CertificateSigning \
        ClusterTrustBundleAttest CertificateSubjectRestriction DefaultIngressClass \
        (DenyServiceExternalIPs) PodTopologyLabels PodGroupWorkloadExists \
        NodeDeclaredFeatureValidator JobValidation PodResizeValidator MutatingAdmissionPolicy \
        MutatingAdmissionWebhook ValidatingAdmissionPolicy ValidatingAdmissionWebhook \
        ResourceQuota (AlwaysDeny)";

    #[test]
    fn names_order_and_defaults_are_kube_apiservers() {
        let own = PLUGINS.iter().filter(|(name, ..)| *name != pod_preset::NAME);
        let own: Vec<_> = own.map(|(name, default, _)| (*name, *default)).collect();
        let upstream = UPSTREAM.split_whitespace().map(|word| {
            let name = word.trim_matches(['(', ')']);
            (name, !word.starts_with('(') || name == "NodeRestriction")
        });
        assert_eq!(own, upstream.collect::<Vec<_>>());
    }

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
