//! What a driver is asked for: a pure function of the volume, its CSIDriver and the Pod.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::{
    core::v1::{PersistentVolume, Pod, SecretReference, Volume},
    storage::v1::{CSIDriver, TokenRequest},
};

use super::{Driver, VolumeId, place};
use crate::csi::v1::{
    AccessMode, AccessType, BlockVolume, Mode, MountVolume, NodeRpcType, VolumeCapability,
};

/// A secret by namespace and name.
pub(super) type SecretName = (String, String);

/// A volume of a CSI driver, as a Pod wants it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wanted {
    pub(super) id: VolumeId,
    /// The PersistentVolume's name, or that of the Pod's own volume.
    pub(super) spec_name: String,
    /// It has no PersistentVolume: it is made with the Pod, and goes with it.
    pub(super) ephemeral: bool,
    pub(super) read_only: bool,
    /// It is a block device, not a file system.
    block: bool,
    fs_type: String,
    mount_flags: Vec<String>,
    access_modes: Vec<String>,
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) stage_secret: Option<SecretName>,
    pub(super) publish_secret: Option<SecretName>,
    pub(super) expand_secret: Option<SecretName>,
}

/// What the CSIDriver object says of how its volumes are handled; without one, the defaults.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Policy {
    pub(super) attach: bool,
    pod_info: bool,
    fs_group: FsGroupPolicy,
    /// `None` if there is no CSIDriver, of which ephemeral volumes need one.
    modes: Option<Vec<String>>,
    pub(super) tokens: Vec<TokenRequest>,
    pub(super) tokens_are_secret: bool,
    pub(super) republish: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum FsGroupPolicy {
    #[default]
    ReadWriteOnceWithFsType,
    File,
    None,
}

impl Policy {
    pub(super) fn of(driver: Option<&CSIDriver>) -> Self {
        let Some(driver) = driver else { return Self { attach: true, ..Self::default() } };
        let spec = &driver.spec;
        let modes = spec.volume_lifecycle_modes.clone().filter(|modes| !modes.is_empty());
        Self {
            attach: spec.attach_required != Some(false),
            pod_info: spec.pod_info_on_mount == Some(true),
            fs_group: match spec.fs_group_policy.as_deref() {
                Some("File") => FsGroupPolicy::File,
                Some("None") => FsGroupPolicy::None,
                _ => FsGroupPolicy::ReadWriteOnceWithFsType,
            },
            modes: Some(modes.unwrap_or_else(|| vec!["Persistent".to_owned()])),
            tokens: spec.token_requests.clone().unwrap_or_default(),
            tokens_are_secret: spec.service_account_token_in_secrets == Some(true),
            republish: spec.requires_republish == Some(true),
        }
    }
}

fn secret(reference: Option<&SecretReference>) -> Option<SecretName> {
    let reference = reference?;
    Some((reference.namespace.clone()?, reference.name.clone()?))
}

impl Wanted {
    /// What is behind a claim; `None` if it is not a CSI volume.
    pub(in crate::agent) fn persistent(volume: &PersistentVolume, read_only: bool) -> Option<Self> {
        let spec = volume.spec.as_ref()?;
        let csi = spec.csi.as_ref()?;
        Some(Self {
            id: VolumeId { driver: csi.driver.clone(), handle: csi.volume_handle.clone() },
            spec_name: volume.metadata.name.clone().unwrap_or_default(),
            ephemeral: false,
            read_only,
            block: spec.volume_mode.as_deref() == Some("Block"),
            fs_type: csi.fs_type.clone().unwrap_or_default(),
            mount_flags: spec.mount_options.clone().unwrap_or_default(),
            access_modes: spec.access_modes.clone().unwrap_or_default(),
            attributes: csi.volume_attributes.clone().unwrap_or_default(),
            stage_secret: secret(csi.node_stage_secret_ref.as_ref()),
            publish_secret: secret(csi.node_publish_secret_ref.as_ref()),
            expand_secret: secret(csi.node_expand_secret_ref.as_ref()),
        })
    }

    /// A volume that is part of the Pod itself; `None` if it is not a CSI volume.
    pub(in crate::agent) fn inline(pod: &Pod, volume: &Volume) -> Option<Self> {
        let csi = volume.csi.as_ref()?;
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let handle = place::ephemeral_handle(uid, &volume.name);
        Some(Self {
            id: VolumeId { driver: csi.driver.clone(), handle },
            spec_name: volume.name.clone(),
            ephemeral: true,
            read_only: csi.read_only == Some(true),
            block: false,
            fs_type: csi.fs_type.clone().unwrap_or_default(),
            mount_flags: Vec::new(),
            access_modes: vec!["ReadWriteOnce".to_owned()],
            attributes: csi.volume_attributes.clone().unwrap_or_default(),
            stage_secret: None,
            publish_secret: csi
                .node_publish_secret_ref
                .as_ref()
                .map(|reference| (namespace, reference.name.clone())),
            expand_secret: None,
        })
    }

    pub(in crate::agent) fn is_block(&self) -> bool {
        self.block
    }

    pub(super) fn mode(&self) -> &'static str {
        if self.ephemeral { "Ephemeral" } else { "Persistent" }
    }

    /// Whether the driver is meant for this sort of volume.
    pub(super) fn is_allowed(&self, policy: &Policy) -> Result<(), String> {
        let (mode, driver) = (self.mode(), &self.id.driver);
        match &policy.modes {
            // Before there were CSIDrivers there were only volumes that persist.
            None if !self.ephemeral => Ok(()),
            None => Err(format!(
                "volume mode {mode:?} not supported by driver {driver} (no CSIDriver object)"
            )),
            Some(modes) if modes.iter().any(|allowed| allowed == mode) => Ok(()),
            Some(modes) => Err(format!(
                "volume mode {mode:?} not supported by driver {driver} (only supports {modes:?})"
            )),
        }
    }

    /// How it is to be mounted. A driver that gives volumes to a group itself is told the group.
    pub(super) fn capability(&self, driver: &Driver, group: Option<u32>) -> VolumeCapability {
        let group = group.filter(|_| driver.can(NodeRpcType::VolumeMountGroup));
        let mount = MountVolume {
            fs_type: self.fs_type.clone(),
            mount_flags: self.mount_flags.clone(),
            volume_mount_group: group.map(|group| group.to_string()).unwrap_or_default(),
        };
        let single = driver.can(NodeRpcType::SingleNodeMultiWriter);
        let mode = match self.access_modes.first().map(String::as_str) {
            Some("ReadOnlyMany") => Mode::MultiNodeReaderOnly,
            Some("ReadWriteMany") => Mode::MultiNodeMultiWriter,
            Some("ReadWriteOncePod") if single => Mode::SingleNodeSingleWriter,
            _ if single => Mode::SingleNodeMultiWriter,
            _ => Mode::SingleNodeWriter,
        };
        VolumeCapability {
            access_type: Some(match self.block {
                true => AccessType::Block(BlockVolume {}),
                false => AccessType::Mount(mount),
            }),
            access_mode: Some(AccessMode { mode: mode.into() }),
        }
    }

    /// The volume's attributes as a driver gets them that mounts it for a Pod.
    pub(super) fn context(&self, policy: &Policy, pod: &Pod) -> BTreeMap<String, String> {
        let mut context = self.attributes.clone();
        if policy.pod_info {
            let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
            let facts = [
                ("pod.name", pod.metadata.name.clone()),
                ("pod.namespace", pod.metadata.namespace.clone()),
                ("pod.uid", pod.metadata.uid.clone()),
                ("serviceAccount.name", account),
                ("ephemeral", Some(self.ephemeral.to_string())),
            ];
            let facts = facts.into_iter().map(|(key, value)| {
                (format!("csi.storage.k8s.io/{key}"), value.unwrap_or_default())
            });
            context.extend(facts);
        }
        context
    }

    /// Whether the agent gives the files to the Pod's `fsGroup` (KEP-1682).
    pub(super) fn is_for_group(&self, policy: &Policy, driver: &Driver) -> bool {
        if self.block || self.read_only || driver.can(NodeRpcType::VolumeMountGroup) {
            return false;
        }
        match policy.fs_group {
            FsGroupPolicy::None => false,
            FsGroupPolicy::File => true,
            FsGroupPolicy::ReadWriteOnceWithFsType => {
                let once = |mode: &String| mode == "ReadWriteOnce" || mode == "ReadWriteOncePod";
                !self.fs_type.is_empty() && self.access_modes.iter().any(once)
            }
        }
    }
}

/// The capabilities in a driver's answer.
pub(super) fn capabilities(
    answer: &crate::csi::v1::NodeGetCapabilitiesResponse,
) -> BTreeSet<super::Capability> {
    answer.capabilities.iter().filter_map(|one| one.rpc.as_ref().map(|rpc| rpc.r#type)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;
    use crate::csi::Client;

    fn driver(can: &[NodeRpcType]) -> Driver {
        Driver {
            client: Client::new("/nonexistent"),
            socket: "/nonexistent".into(),
            can: can.iter().map(|what| *what as i32).collect(),
        }
    }

    fn policy(spec: Value) -> Policy {
        let object = json!({"metadata": {"name": "d"}, "spec": spec});
        Policy::of(Some(&from_value(object).unwrap()))
    }

    fn persistent(mut spec: Value) -> Wanted {
        spec["csi"]["driver"] = json!("d");
        spec["csi"]["volumeHandle"] = json!("h");
        let volume = from_value(json!({"metadata": {"name": "pv"}, "spec": spec})).unwrap();
        Wanted::persistent(&volume, false).unwrap()
    }

    fn pod() -> Pod {
        from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"serviceAccountName": "sa", "containers": []}}))
        .unwrap()
    }

    #[tokio::test]
    async fn access_modes_become_those_that_the_driver_knows() {
        let multi = [NodeRpcType::SingleNodeMultiWriter];
        for (mode, plain, with_multi) in [
            ("ReadWriteOnce", Mode::SingleNodeWriter, Mode::SingleNodeMultiWriter),
            ("ReadWriteOncePod", Mode::SingleNodeWriter, Mode::SingleNodeSingleWriter),
            ("ReadOnlyMany", Mode::MultiNodeReaderOnly, Mode::MultiNodeReaderOnly),
            ("ReadWriteMany", Mode::MultiNodeMultiWriter, Mode::MultiNodeMultiWriter),
        ] {
            let wanted = persistent(json!({"accessModes": [mode]}));
            let asked = |can: &[NodeRpcType]| {
                wanted.capability(&driver(can), None).access_mode.map(|found| found.mode)
            };
            assert_eq!(asked(&[]), Some(plain.into()), "{mode}");
            assert_eq!(asked(&multi), Some(with_multi.into()), "{mode}");
        }
    }

    #[tokio::test]
    async fn the_group_gets_the_files_as_the_policy_says() {
        let once = json!({"accessModes": ["ReadWriteOnce"], "csi": {"fsType": "ext4"}});
        let many = json!({"accessModes": ["ReadWriteMany"], "csi": {"fsType": "ext4"}});
        let untyped = json!({"accessModes": ["ReadWriteOnce"]});
        let by_agent = |spec: &Value, group_policy: &str| {
            let policy = policy(json!({"fsGroupPolicy": group_policy}));
            persistent(spec.clone()).is_for_group(&policy, &driver(&[]))
        };
        let cases = [(&once, true), (&many, false), (&untyped, false)];
        for (spec, expected) in cases {
            assert_eq!(by_agent(spec, "ReadWriteOnceWithFSType"), expected, "{spec}");
            assert!(by_agent(spec, "File"), "{spec}");
            assert!(!by_agent(spec, "None"), "{spec}");
        }
        let knows = driver(&[NodeRpcType::VolumeMountGroup]);
        let wanted = persistent(once);
        assert!(!wanted.is_for_group(&policy(json!({"fsGroupPolicy": "File"})), &knows));
        let Some(AccessType::Mount(mount)) = wanted.capability(&knows, Some(7)).access_type else {
            panic!("a file system");
        };
        assert_eq!(mount.volume_mount_group, "7");

        let device = json!({"accessModes": ["ReadWriteOnce"], "volumeMode": "Block"});
        assert!(!by_agent(&device, "File"), "a device has no files");
        let asked = persistent(device).capability(&knows, Some(7));
        assert_eq!(asked.access_type, Some(AccessType::Block(BlockVolume {})));
    }

    #[test]
    fn a_volume_of_the_pod_itself_needs_a_driver_that_says_so() {
        let volume = json!({"name": "v", "csi": {"driver": "d", "volumeAttributes": {"a": "1"}}});
        let wanted = Wanted::inline(&pod(), &from_value(volume).unwrap()).unwrap();
        let none = wanted.is_allowed(&Policy::of(None)).unwrap_err();
        assert!(none.contains("no CSIDriver object"), "{none}");
        let other = wanted.is_allowed(&policy(json!({}))).unwrap_err();
        assert!(other.contains("only supports [\"Persistent\"]"), "{other}");
        let both = json!({"volumeLifecycleModes": ["Persistent", "Ephemeral"]});
        assert_eq!(wanted.is_allowed(&policy(both)), Ok(()));
        assert_eq!(persistent(json!({})).is_allowed(&Policy::of(None)), Ok(()));
    }

    #[test]
    fn drivers_that_ask_for_it_are_told_of_the_pod() {
        let volume = json!({"name": "v", "csi": {"driver": "d", "volumeAttributes": {"a": "1"}}});
        let wanted = Wanted::inline(&pod(), &from_value(volume).unwrap()).unwrap();
        let plain = wanted.context(&policy(json!({})), &pod());
        assert_eq!(plain, [("a".to_owned(), "1".to_owned())].into());
        let told = wanted.context(&policy(json!({"podInfoOnMount": true})), &pod());
        assert_eq!(told["csi.storage.k8s.io/pod.name"], "p");
        assert_eq!(told["csi.storage.k8s.io/serviceAccount.name"], "sa");
        assert_eq!(told["csi.storage.k8s.io/ephemeral"], "true");
        assert_eq!(told["a"], "1");
    }
}
