//! Images on the node: fetching those that containers need, with the credentials of their Pods, and
//! removing those that nobody needs when the disk fills up.

pub(crate) mod access;
pub(crate) mod gc;
pub(crate) mod keyring;
pub(crate) mod providers;

use std::{collections::HashSet, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use kube::Api;
use rk_api::{client::EventType, clock};
use tokio::sync::Semaphore;

use self::{
    access::{Candidate, Origin, Records},
    gc::{Collector, Disk, ImageGc, Removal},
    keyring::Keyring,
};
use super::{
    backoff::{BackOff, LONGEST},
    configuration::ImageVerification,
    handler::describe,
    spec::{image_with_tag, pod_ref, pull_policy},
    start::{CONFIG_RETRY, Refused, refused},
    sync::Memory,
    worker::Core,
};
use crate::runtime::{Image, PullFailure, PullImage, RuntimeError};

/// An image that could not be pulled is shown as such this long, before it is shown as waiting.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(3);
/// What cannot become right without a change is looked at again after this.
const RARE_RETRY: Duration = Duration::from_secs(30);

/// What a Pod remembers of an image that could not be pulled.
#[derive(Clone, Debug, Default)]
pub(super) struct Tries {
    back_off: BackOff,
    /// The last failure: reason and message.
    failure: Option<(&'static str, String)>,
}

/// What all pods of a node share: how many images are fetched at the same time.
#[derive(Debug)]
pub(super) struct Pulls {
    slots: Option<Semaphore>,
}

impl Pulls {
    /// So many pulls at once; `None` is any number.
    pub(super) fn new(at_once: Option<usize>) -> Self {
        Self { slots: at_once.map(|at_once| Semaphore::new(at_once.max(1))) }
    }
}

impl Core {
    /// Sees to it that the image is on the node, and returns the name to run it by.
    pub(super) async fn ensure_image(
        &self,
        pod: &Pod,
        container: &Container,
        memory: &mut Memory,
    ) -> Result<String, Refused> {
        let about = self.container_ref(pod, &container.name);
        let warn =
            |reason: &str, message: &str| self.event(&about, EventType::Warning, reason, message);
        let tell =
            |reason: &str, message: &str| self.event(&about, EventType::Normal, reason, message);
        let named = container.image.as_deref().unwrap_or_default();
        let image = match image_with_tag(named) {
            Ok(image) => image,
            Err(why) => {
                let message = format!("Failed to apply default image tag {named:?}: {why}");
                warn("InspectFailed", &message);
                warn("Failed", "Error: InvalidImageName");
                return Err(refused("InvalidImageName", message, Some(RARE_RETRY)));
            }
        };
        let present = match self.runtime.image_status(&image).await {
            Ok(present) => present,
            Err(error) => {
                let message = format!("Failed to inspect image {named:?}: {}", describe(&error));
                warn("InspectFailed", &message);
                return Err(refused("ImageInspectError", message, Some(CONFIG_RETRY)));
            }
        };
        let policy = pull_policy(container, &image);
        let verifies = match present.as_ref().filter(|_| policy != "Always") {
            Some(present) => self.has_to_pull(pod, &image, &present.id).await,
            None => false,
        };
        match policy {
            "Always" => {}
            "IfNotPresent" if present.is_none() || verifies => {}
            _ if present.is_some() && !verifies => {
                tell(
                    "Pulled",
                    &format!(
                        "Container image {named:?} already present on machine and can be accessed \
                         by the pod"
                    ),
                );
                memory.images.remove(&image);
                return Ok(image);
            }
            _ if verifies => {
                let message = format!(
                    "Container image {named:?} is present with pull policy of Never but does not \
                     have the proper credentials"
                );
                warn("ErrImageNeverPull", &message);
                warn("Failed", "Error: ErrImageNeverPull");
                return Err(refused("ErrImageNeverPull", message, Some(Duration::from_secs(10))));
            }
            _ => {
                let message =
                    format!("Container image {named:?} is not present with pull policy of Never");
                warn("ErrImageNeverPull", &message);
                warn("Failed", "Error: ErrImageNeverPull");
                return Err(refused("ErrImageNeverPull", message, Some(Duration::from_secs(10))));
            }
        }
        let tries = memory.images.entry(image.clone()).or_default();
        if let Some(left) = tries.back_off.remaining_since_try(clock::now()) {
            let mut message = format!("Back-off pulling image {named:?}");
            tell("BackOff", &message);
            warn("Failed", "Error: ImagePullBackOff");
            if let Some((reason, why)) = &tries.failure {
                message = format!("{message}: {reason}: {why}");
            }
            return Err(refused("ImagePullBackOff", message, Some(left)));
        }
        tell("Pulling", &format!("Pulling image {named:?}"));
        let begun = tokio::time::Instant::now();
        let pulled = self.pull(pod, &image).await;
        let waited = begun.elapsed();
        match pulled {
            Ok(took) => {
                let status = self.runtime.image_status(&image).await.ok().flatten();
                let bytes = status.map_or(0, |image| image.size_bytes);
                let (took, waited) = (go_milliseconds(took), go_milliseconds(waited));
                tell(
                    "Pulled",
                    &format!(
                        "Successfully pulled image {named:?} in {took} ({waited} including \
                         waiting). Image size: {bytes} bytes."
                    ),
                );
                memory.images.remove(&image);
                Ok(image)
            }
            Err(error) => {
                let (kind, why) = failure(&image, &error);
                warn("Failed", &format!("Failed to pull image {named:?}: {why}"));
                let (reason, message) = shown(kind, named, why);
                warn("Failed", &format!("Error: {reason}"));
                let now = clock::now();
                tries.back_off.tried(now, now, LONGEST);
                tries.failure = Some((reason, message.clone()));
                Err(refused(reason, message, Some(PULL_ERROR_SHOWN)))
            }
        }
    }

    /// Fetches an image with what the Pod has for its registry, one after the other until one is
    /// good; without any if it has none. Returns how long it took, without waiting for others.
    async fn pull(&self, pod: &Pod, image: &str) -> Result<Duration, RuntimeError> {
        let candidates = self.credentials(pod, image).await;
        let _slot = match &self.pulls.slots {
            // The semaphore is never closed.
            Some(slots) => slots.acquire().await.ok(),
            None => None,
        };
        let begun = tokio::time::Instant::now();
        let mut candidates = candidates;
        if candidates.is_empty() {
            candidates.push(Candidate { auth: None, origin: Origin::Node });
        }
        let mut failures = Vec::new();
        self.with_records(image, |records, image, _| records.intend(image)).await;
        for candidate in candidates {
            let auth = candidate.auth.clone();
            let request = PullImage { image: image.to_owned(), auth, pod: Some(pod_ref(pod)) };
            match self.runtime.pull_image(request).await {
                Ok(id) => {
                    let took = begun.elapsed();
                    let noted = move |records: &Records, image: &str, repository: &str| {
                        records.note(image, repository, &id, &candidate)
                    };
                    self.with_records(image, noted).await;
                    return Ok(took);
                }
                Err(error) => failures.push(error),
            }
        }
        self.with_records(image, |records, image, _| {
            records.give_up(image);
            Ok(())
        })
        .await;
        Err(together(image, failures))
    }

    /// Works on what is known of who pulled what, off the async threads; not for simulated nodes.
    async fn with_records(
        &self,
        image: &str,
        work: impl FnOnce(&Records, &str, &str) -> std::io::Result<()> + Send + 'static,
    ) {
        if self.runtime.simulated() {
            return;
        }
        let (records, image) = (Records::new(&self.config.root_dir), image.to_owned());
        let work = move || work(&records, &image, &repository(&image));
        if let Ok(Err(error)) = tokio::task::spawn_blocking(work).await {
            let node = self.config.name.as_str();
            tracing::warn!(node, %error, "what an image was pulled with cannot be written down");
        }
    }

    /// Whether a Pod has to pull an image although it is on the node: since it has not shown that it
    /// could have.
    async fn has_to_pull(&self, pod: &Pod, image: &str, id: &str) -> bool {
        let policy = self.config.settings.image_verification.clone();
        if self.runtime.simulated() || policy == ImageVerification::NeverVerify {
            return false;
        }
        let ask = |candidates: Vec<Candidate>| {
            let (records, policy) = (Records::new(&self.config.root_dir), policy.clone());
            let (image, id) = (image.to_owned(), id.to_owned());
            let ask = move || {
                let repository = repository(&image);
                records.has_to_pull(&policy, &image, &repository, &id, &candidates)
            };
            // Where that fails, a pull is the safe way.
            async move { tokio::task::spawn_blocking(ask).await.unwrap_or(true) }
        };
        // Mostly it is for all, and the Pod's Secrets need not be read.
        if !ask(Vec::new()).await {
            return false;
        }
        let candidates = self.credentials_of_pod(pod, &repository(image)).await;
        ask(candidates).await
    }

    /// The credentials for an image: the Pod's, then the node's, from the file `config.json` in its
    /// root directory and from its providers.
    async fn credentials(&self, pod: &Pod, image: &str) -> Vec<Candidate> {
        if self.runtime.simulated() {
            return Vec::new();
        }
        let repository = repository(image);
        let mut found = self.credentials_of_pod(pod, &repository).await;
        let file = tokio::fs::read(self.config.root_dir.join("config.json")).await;
        let keyring = file.map(|text| Keyring::of_file(&text)).unwrap_or_default();
        let of_node = keyring.candidates(&repository).into_iter();
        let provided = match &self.config.settings.credential_providers {
            Some(providers) => providers.candidates(&repository).await,
            None => Vec::new(),
        };
        for auth in of_node.chain(provided) {
            if !found.iter().any(|known| known.auth.as_ref() == Some(&auth)) {
                found.push(Candidate { auth: Some(auth), origin: Origin::Node });
            }
        }
        found
    }

    async fn credentials_of_pod(&self, pod: &Pod, repository: &str) -> Vec<Candidate> {
        let names = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
        let names: Vec<&str> = names.map(|secret| secret.name.as_str()).collect();
        if names.is_empty() {
            return Vec::new();
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let (mut secrets, mut missing) = (Vec::new(), Vec::new());
        for name in names {
            match api.get_opt(name).await {
                Ok(Some(secret)) => secrets.push(secret),
                Ok(None) => missing.push(name),
                Err(error) => {
                    tracing::warn!(node = self.config.name, name, %error, "unable to read a pull secret");
                    missing.push(name);
                }
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may \
                 not succeed.",
                missing.join(", ")
            );
            let about = rk_api::client::object_ref(pod);
            let reason = "FailedToRetrieveImagePullSecret";
            self.event(&about, EventType::Warning, reason, &message);
        }
        let found = Keyring::of(&secrets).candidates(repository).into_iter();
        let owned = found.map(|auth| {
            let has =
                |secret: &&Secret| Keyring::of([*secret]).candidates(repository).contains(&auth);
            let owner = secrets.iter().find(has).map_or(Origin::Node, Origin::of);
            Candidate { auth: Some(auth), origin: owner }
        });
        owned.collect()
    }

    // === garbage collection ===

    /// Removes unused images from time to time, as long as the agent runs.
    pub(super) async fn collect_images(self: &Arc<Self>) {
        if self.runtime.simulated() {
            return;
        }
        let policy = self.config.image_gc;
        let mut collector = Collector::default();
        let mut failed_before = false;
        loop {
            if let Err(why) = self.collect_once(&policy, &mut collector).await {
                tracing::warn!(node = self.config.name, why, "image garbage collection failed");
                // The first may come too early for the node to know its disk.
                if failed_before {
                    self.node_warning("ImageGCFailed", &why);
                }
                failed_before = true;
            } else {
                failed_before = false;
            }
            tokio::time::sleep(policy.period).await;
        }
    }

    async fn collect_once(
        &self,
        policy: &ImageGc,
        collector: &mut Collector,
    ) -> Result<(), String> {
        let text = |error: RuntimeError| describe(&error);
        let Some(filesystem) = self.runtime.image_filesystem().await.map_err(text)? else {
            return Ok(());
        };
        let disk = disk(&filesystem.path).map_err(|error| {
            format!("failed to get the size of {}: {error}", filesystem.path.display())
        })?;
        if disk.capacity_bytes == 0 {
            let why = "invalid capacity 0 on image filesystem".to_owned();
            self.node_warning("InvalidDiskCapacity", &why);
            return Err(why);
        }
        // Containers after images: one that comes in between has its image on neither list.
        let images = self.runtime.list_images().await.map_err(text)?;
        let in_use = self.images_in_use(&images).await.map_err(text)?;
        let ids: Vec<String> = images.iter().map(|image| image.id.clone()).collect();
        self.with_records("", move |records, _, _| {
            records.keep(&ids.iter().map(String::as_str).collect::<Vec<_>>());
            Ok(())
        })
        .await;
        let removal = collector.decide(policy, &images, &in_use, disk, clock::now());
        self.remove_images(&removal).await
    }

    /// The ids of images that have a container, running or not, or are the volume of a Pod.
    pub(super) async fn images_in_use(
        &self,
        images: &[Image],
    ) -> Result<HashSet<String>, RuntimeError> {
        let mut used: HashSet<String> = HashSet::new();
        for container in self.runtime.list_containers().await? {
            used.insert(container.image_id);
            used.insert(container.config.image);
        }
        for pod in self.pods() {
            let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
            let references = volumes.filter_map(|volume| volume.image.as_ref()?.reference.as_ref());
            for name in references.filter_map(|name| image_with_tag(name).ok()) {
                used.extend(self.runtime.image_status(&name).await?.map(|image| image.id));
            }
        }
        let is_used = |image: &&Image| {
            used.contains(&image.id)
                || image.digests.iter().chain(&image.tags).any(|name| used.contains(name))
        };
        Ok(images.iter().filter(is_used).map(|image| image.id.clone()).collect())
    }

    async fn remove_images(&self, removal: &Removal) -> Result<(), String> {
        let (mut freed, mut failures) = (0, Vec::new());
        for (id, bytes) in &removal.images {
            match self.runtime.remove_image(id).await {
                Ok(()) => {
                    tracing::info!(node = self.config.name, image = id, bytes, "image removed");
                    freed += bytes;
                }
                Err(error) => failures.push(describe(&error)),
            }
        }
        if !failures.is_empty() {
            return Err(format!(
                "wanted to free {} bytes, but freed {freed} bytes space with errors in image deletion: {}",
                removal.wanted_bytes,
                failures.join(", ")
            ));
        }
        if freed < removal.wanted_bytes {
            let message = format!(
                "Failed to garbage collect required amount of images. Attempted to free {} bytes, \
                 but only found {freed} bytes eligible to free.",
                removal.wanted_bytes
            );
            self.node_warning("FreeDiskSpaceFailed", &message);
            return Err(message);
        }
        Ok(())
    }

    fn node_warning(&self, reason: &str, message: &str) {
        self.event(&self.node_ref(), EventType::Warning, reason, message);
    }
}

/// An image's whole name without tag and digest, as keys of credentials are compared with it.
fn repository(image: &str) -> String {
    let rest = image.split('@').next().unwrap_or_default();
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let rest = match rest[slash..].find(':') {
        Some(colon) => &rest[..slash + colon],
        None => rest,
    };
    let is_host = |first: &str| first.contains(['.', ':']) || first == "localhost";
    match rest.split_once('/') {
        Some(("index.docker.io", path)) => format!("docker.io/{path}"),
        Some((first, _)) if is_host(first) => rest.to_owned(),
        Some(_) => format!("docker.io/{rest}"),
        None => format!("docker.io/library/{rest}"),
    }
}

/// What kind of failure it is, and what to say of it.
fn failure(image: &str, error: &RuntimeError) -> (PullFailure, String) {
    match error {
        // containerd says so itself.
        RuntimeError::ImagePull { reason, kind, .. } if reason.contains("failed to pull") => {
            (*kind, reason.clone())
        }
        RuntimeError::ImagePull { reason, kind, .. } => {
            (*kind, format!("failed to pull and unpack image {image:?}: {reason}"))
        }
        other => (PullFailure::Failed, describe(other)),
    }
}

/// A container's waiting reason and message.
fn shown(kind: PullFailure, named: &str, why: String) -> (&'static str, String) {
    match kind {
        PullFailure::RegistryUnavailable => (
            "RegistryUnavailable",
            format!("image pull failed for {named} because the registry is unavailable: {why}"),
        ),
        PullFailure::SignatureInvalid => (
            "SignatureValidationFailed",
            format!("image pull failed for {named} because the signature validation failed: {why}"),
        ),
        _ => ("ErrImagePull", why),
    }
}

/// The failures of all candidates as one; of its kind if they all are.
fn together(image: &str, mut failures: Vec<RuntimeError>) -> RuntimeError {
    if failures.len() == 1 {
        return failures.remove(0);
    }
    let told: Vec<(PullFailure, String)> = failures
        .into_iter()
        .map(|error| match error {
            RuntimeError::ImagePull { reason, kind, .. } => (kind, reason),
            other => (PullFailure::Failed, describe(&other)),
        })
        .collect();
    let first = told.first().map_or(PullFailure::Failed, |(kind, _)| *kind);
    let kind = match told.iter().all(|(kind, _)| *kind == first) {
        true => first,
        false => PullFailure::Failed,
    };
    let mut reasons: Vec<String> = told.into_iter().map(|(_, reason)| reason).collect();
    reasons.dedup();
    let reason = match reasons.len() {
        1 => reasons.remove(0),
        _ => format!("[{}]", reasons.join(", ")),
    };
    RuntimeError::ImagePull { image: image.to_owned(), reason, kind }
}

/// A duration to the millisecond, as Go prints it: `0s`, `35ms`, `1.5s`, `1m2.04s`.
fn go_milliseconds(duration: Duration) -> String {
    let all = duration.as_millis();
    if all == 0 {
        return "0s".to_owned();
    }
    if all < 1000 {
        return format!("{all}ms");
    }
    let (minutes, rest) = (all / 60_000, all % 60_000);
    let mut seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    while seconds.ends_with('0') {
        seconds.pop();
    }
    let seconds = seconds.trim_end_matches('.');
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(not(target_os = "linux"))]
fn disk(_: &std::path::Path) -> std::io::Result<Disk> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(target_os = "linux")]
fn disk(path: &std::path::Path) -> std::io::Result<Disk> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Disk {
        capacity_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_completed_before_credentials_are_looked_for() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (image, expected) in [
            ("busybox:latest", "docker.io/library/busybox"),
            ("team/app:v1", "docker.io/team/app"),
            ("index.docker.io/team/app:v1", "docker.io/team/app"),
            ("localhost:5000/app:v1", "localhost:5000/app"),
            ("registry.example/app", "registry.example/app"),
            (&format!("r:5000/a/b@{digest}"), "r:5000/a/b"),
            (&format!("r:5000/a/b:v1@{digest}"), "r:5000/a/b"),
        ] {
            assert_eq!(repository(image), expected);
        }
    }

    #[test]
    fn durations_are_printed_as_go_does() {
        for (milliseconds, expected) in [
            (0, "0s"),
            (7, "7ms"),
            (999, "999ms"),
            (1000, "1s"),
            (1500, "1.5s"),
            (62_040, "1m2.04s"),
            (60_000, "1m0s"),
            (3_600_001, "1h0m0.001s"),
        ] {
            assert_eq!(go_milliseconds(Duration::from_millis(milliseconds)), expected);
        }
    }

    #[test]
    fn failures_of_several_credentials_are_told_together() {
        let failed = |reason: &str, kind| RuntimeError::ImagePull {
            image: "a".into(),
            reason: reason.into(),
            kind,
        };
        let (denied, gone) = (PullFailure::Failed, PullFailure::RegistryUnavailable);
        let check = |failures: Vec<RuntimeError>, expected: (PullFailure, &str)| {
            let (kind, why) = failure("a", &together("a", failures));
            let expected_why = format!("failed to pull and unpack image \"a\": {}", expected.1);
            assert_eq!((kind, why), (expected.0, expected_why));
        };
        check(vec![failed("x", denied)], (denied, "x"));
        check(vec![failed("x", denied), failed("x", denied)], (denied, "x"));
        check(vec![failed("x", denied), failed("y", gone)], (denied, "[x, y]"));
        check(vec![failed("x", gone), failed("y", gone)], (gone, "[x, y]"));
    }
}
