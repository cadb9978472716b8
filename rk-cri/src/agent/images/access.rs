//! Who may use an image that is on the node already (KEP-2535): whoever could have pulled it.
//!
//! For each image that was pulled a file says with what. A Pod that has the same Secret, or the same
//! credentials in another, may use the image; so may all if the node's credentials or none were needed.
//! Others have to pull it again. The files have the kubelet's names and form.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Time};
use rk_api::clock;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{agent::configuration::ImageVerification, runtime::RegistryAuth};

/// Where credentials are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A Secret, of all the Pods that name it.
    Secret {
        /// Its namespace, name and UID.
        namespace: String,
        name: String,
        uid: String,
    },
    /// The node, or nowhere: all its Pods could pull.
    Node,
}

impl Origin {
    pub(crate) fn of(secret: &Secret) -> Self {
        let meta = &secret.metadata;
        Self::Secret {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
        }
    }
}

/// Credentials and where they are from; without credentials, nobody's.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) auth: Option<RegistryAuth>,
    pub(crate) origin: Origin,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PulledRecord {
    kind: String,
    api_version: String,
    last_updated_time: Time,
    image_ref: String,
    /// By the image's name without tag and digest.
    #[serde(default)]
    credential_mapping: BTreeMap<String, Access>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Access {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_secrets: Vec<SecretAccess>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    node_pods_accessible: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretAccess {
    uid: String,
    namespace: String,
    name: String,
    credential_hash: String,
}

fn hex_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hash(auth: Option<&RegistryAuth>) -> String {
    let auth = auth.cloned().unwrap_or_default();
    let RegistryAuth { username, password, identity_token, registry_token } = &auth;
    // What is hashed cannot be mistaken for other parts in another order.
    let parts = [username, password, identity_token, registry_token];
    hex_of(parts.map(|part| format!("{}:{part}", part.len())).concat().as_bytes())
}

impl Access {
    fn allows(&self, candidates: &[Candidate]) -> bool {
        let by_secret = |candidate: &Candidate| match &candidate.origin {
            Origin::Node => false,
            Origin::Secret { namespace, name, uid } => {
                self.kubernetes_secrets.iter().any(|known| {
                    let is_same =
                        (&known.uid, &known.namespace, &known.name) == (uid, namespace, name);
                    is_same || known.credential_hash == hash(candidate.auth.as_ref())
                })
            }
        };
        self.node_pods_accessible || candidates.iter().any(by_secret)
    }

    fn add(&mut self, candidate: &Candidate) {
        match &candidate.origin {
            // Then nobody needs a Secret for it any more.
            Origin::Node => {
                *self = Self { node_pods_accessible: true, kubernetes_secrets: Vec::new() };
            }
            Origin::Secret { .. } if self.node_pods_accessible => {}
            Origin::Secret { namespace, name, uid } => {
                self.kubernetes_secrets.retain(|known| known.uid != *uid);
                self.kubernetes_secrets.push(SecretAccess {
                    uid: uid.clone(),
                    namespace: namespace.clone(),
                    name: name.clone(),
                    credential_hash: hash(candidate.auth.as_ref()),
                });
            }
        }
    }
}

/// What was pulled with what, on the disk.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    directory: PathBuf,
}

/// What is known of an image on the node.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    /// It was there before the agent.
    Preloaded,
    /// It was pulled, by these.
    Pulled(Access),
}

impl Records {
    /// Those of an agent with this root directory.
    pub(crate) fn new(root: &Path) -> Self {
        Self { directory: root.join("image_manager") }
    }

    fn pulled(&self, image_id: &str) -> PathBuf {
        let name = format!("sha256-{}", hex_of(image_id.as_bytes()));
        self.directory.join("pulled").join(name)
    }

    fn pulling(&self, image: &str) -> PathBuf {
        let name = format!("sha256-{}", hex_of(image.as_bytes()));
        self.directory.join("pulling").join(name)
    }

    fn known(&self, image: &str, repository: &str, id: &str) -> Known {
        let record = read(&self.pulled(id));
        match record {
            Some(record) => {
                let access = record.credential_mapping.get(repository);
                Known::Pulled(access.cloned().unwrap_or_default())
            }
            // An agent that died after the pull did not come to say with what.
            None if self.pulling(image).exists() => Known::Pulled(Access::default()),
            None => Known::Preloaded,
        }
    }

    /// Whether somebody with these credentials has to pull an image that is on the node. Blocks.
    pub(crate) fn has_to_pull(
        &self,
        policy: &ImageVerification,
        image: &str,
        repository: &str,
        id: &str,
        candidates: &[Candidate],
    ) -> bool {
        if *policy == ImageVerification::NeverVerify {
            return false;
        }
        match self.known(image, repository, id) {
            Known::Pulled(access) => !access.allows(candidates),
            Known::Preloaded => match policy {
                ImageVerification::AlwaysVerify => true,
                ImageVerification::NeverVerifyAllowlistedImages(allowed) => {
                    !allowed.iter().any(|pattern| is_allowed(pattern, repository))
                }
                ImageVerification::NeverVerify | ImageVerification::NeverVerifyPreloadedImages => {
                    false
                }
            },
        }
    }

    /// Notes that an image is about to be pulled. Blocks.
    pub(crate) fn intend(&self, image: &str) -> io::Result<()> {
        let text = serde_json::json!({
            "kind": "ImagePullIntent", "apiVersion": API_VERSION, "image": image,
        });
        write(&self.pulling(image), text.to_string().as_bytes())
    }

    /// Notes that a pull has failed: nothing came of it. Blocks.
    pub(crate) fn give_up(&self, image: &str) {
        let _ = fs::remove_file(self.pulling(image));
    }

    /// Notes with what an image was pulled. Blocks.
    pub(crate) fn note(
        &self,
        image: &str,
        repository: &str,
        id: &str,
        with: &Candidate,
    ) -> io::Result<()> {
        let path = self.pulled(id);
        let mut record = read(&path).unwrap_or_else(|| PulledRecord {
            kind: KIND.to_owned(),
            api_version: API_VERSION.to_owned(),
            last_updated_time: clock::now_seconds(),
            image_ref: id.to_owned(),
            credential_mapping: BTreeMap::new(),
        });
        record.last_updated_time = clock::now_seconds();
        record.credential_mapping.entry(repository.to_owned()).or_default().add(with);
        write(&path, &serde_json::to_vec(&record)?)?;
        self.give_up(image);
        Ok(())
    }

    /// Forgets all images but these: one that comes again was not pulled before. Blocks.
    pub(crate) fn keep(&self, ids: &[&str]) {
        let entries = fs::read_dir(self.directory.join("pulled")).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            if read(&path).is_some_and(|record| !ids.contains(&record.image_ref.as_str())) {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

const KIND: &str = "ImagePulledRecord";
const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";

/// Whether a pattern of the allow list is for a repository: the same, or all below `registry/*`.
fn is_allowed(pattern: &str, repository: &str) -> bool {
    match pattern.strip_suffix("/*") {
        Some(beginning) => {
            repository.strip_prefix(beginning).is_some_and(|rest| rest.starts_with('/'))
        }
        None => pattern == repository,
    }
}

/// A record; `None` where there is none that can be read.
fn read(path: &Path) -> Option<PulledRecord> {
    let record: PulledRecord = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (record.kind == KIND).then_some(record)
}

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &str = "reg.io/team/app:v1";
    const REPOSITORY: &str = "reg.io/team/app";

    fn candidate(name: &str, password: &str) -> Candidate {
        Candidate {
            auth: Some(RegistryAuth { password: password.to_owned(), ..Default::default() }),
            origin: Origin::Secret {
                namespace: "default".to_owned(),
                name: name.to_owned(),
                uid: format!("uid of {name}"),
            },
        }
    }

    fn anonymous() -> Candidate {
        Candidate { auth: None, origin: Origin::Node }
    }

    /// Records in a directory that goes with them.
    struct Setup(Records, #[expect(dead_code, reason = "it is held")] tempfile::TempDir);

    impl Setup {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            Self(Records::new(directory.path()), directory)
        }

        fn pulls(&self, policy: &ImageVerification, candidates: &[Candidate]) -> bool {
            self.0.has_to_pull(policy, IMAGE, REPOSITORY, "sha256:1", candidates)
        }
    }

    #[test]
    fn an_image_pulled_with_a_secret_is_for_those_who_have_it_or_its_contents() {
        let setup = Setup::new();
        let policy = ImageVerification::NeverVerifyPreloadedImages;
        let mine = candidate("mine", "1");
        setup.0.intend(IMAGE).unwrap();
        setup.0.note(IMAGE, REPOSITORY, "sha256:1", &mine).unwrap();
        assert!(!setup.pulls(&policy, std::slice::from_ref(&mine)));
        assert!(!setup.pulls(&policy, &[candidate("mine", "changed meanwhile")]));
        assert!(!setup.pulls(&policy, &[candidate("a copy", "1")]));
        assert!(setup.pulls(&policy, &[candidate("another", "2")]));
        assert!(setup.pulls(&policy, &[]));
        assert!(setup.pulls(&policy, &[anonymous()]));
        assert!(!setup.pulls(&ImageVerification::NeverVerify, &[]));

        // By another name nobody has pulled it.
        let other = setup.0.has_to_pull(&policy, "reg.io/b:v1", "reg.io/b", "sha256:1", &[mine]);
        assert!(other);

        setup.0.note(IMAGE, REPOSITORY, "sha256:1", &anonymous()).unwrap();
        assert!(!setup.pulls(&policy, &[]), "it is for all now");
    }

    #[test]
    fn what_was_there_before_is_for_all_unless_it_is_to_be_verified() {
        let setup = Setup::new();
        let allow = |patterns: &[&str]| {
            let patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
            ImageVerification::NeverVerifyAllowlistedImages(patterns)
        };
        assert!(!setup.pulls(&ImageVerification::NeverVerifyPreloadedImages, &[]));
        assert!(setup.pulls(&ImageVerification::AlwaysVerify, &[]));
        assert!(!setup.pulls(&allow(&[REPOSITORY]), &[]));
        assert!(!setup.pulls(&allow(&["reg.io/team/*"]), &[]));
        assert!(setup.pulls(&allow(&["reg.io/team", "reg.io/te/*", "other.io/*"]), &[]));

        // A pull that nobody knows the end of was somebody's.
        setup.0.intend(IMAGE).unwrap();
        assert!(setup.pulls(&ImageVerification::NeverVerifyPreloadedImages, &[]));
        setup.0.give_up(IMAGE);
        assert!(!setup.pulls(&ImageVerification::NeverVerifyPreloadedImages, &[]));
    }

    #[test]
    fn an_image_that_went_is_forgotten() {
        let setup = Setup::new();
        let policy = ImageVerification::NeverVerifyPreloadedImages;
        setup.0.note(IMAGE, REPOSITORY, "sha256:1", &candidate("mine", "1")).unwrap();
        setup.0.keep(&["sha256:1"]);
        assert!(setup.pulls(&policy, &[]));
        setup.0.keep(&["sha256:2"]);
        assert!(!setup.pulls(&policy, &[]));
    }
}
