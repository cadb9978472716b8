//! Images, by CRI's `ImageService`.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD as STANDARD};

use super::{
    client::Failure,
    convert::{
        container::image_spec,
        sandbox::{metadata, pod_ref},
    },
    runtime::CriRuntime,
    v1,
};
use crate::runtime::{Image, ImageFilesystem, PullFailure, PullImage, RegistryAuth, RuntimeError};

/// How long fetching an image may take: a large one over a slow line.
const PULL_WITHIN: Duration = Duration::from_secs(3600);

impl CriRuntime {
    pub(super) async fn image(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        let request = v1::ImageStatusRequest { image: Some(image_spec(image)), verbose: false };
        let fail = |failure: Failure| failure.of("image", image, "look at");
        Ok(self.call(request).await.map_err(fail)?.image.map(from_v1))
    }

    pub(super) async fn pull(&self, request: PullImage) -> Result<String, RuntimeError> {
        let image = request.image;
        // CRI wants the sandbox's configuration for its name only: for logs and snapshots.
        let sandbox_config = request.pod.map(|pod| v1::PodSandboxConfig {
            metadata: Some(metadata(&pod, 0)),
            ..Default::default()
        });
        let request = v1::PullImageRequest {
            image: Some(image_spec(&image)),
            auth: request.auth.map(auth_to_v1),
            sandbox_config,
        };
        match self.client().call(request, PULL_WITHIN).await {
            Ok(pulled) => Ok(pulled.image_ref),
            Err(Failure::Refused(status)) => {
                let kind = kind_of(status.message());
                let reason = status.message().to_owned();
                Err(RuntimeError::ImagePull { image, reason, kind })
            }
            Err(failure) => Err(failure.into_error(&format!("pull {image}"))),
        }
    }

    pub(super) async fn image_disk(&self) -> Result<Option<ImageFilesystem>, RuntimeError> {
        let told = self.call(v1::ImageFsInfoRequest {}).await;
        let told = told.map_err(|failure| failure.into_error("look at the disk of images"))?;
        Ok(told.image_filesystems.into_iter().next().map(|disk| ImageFilesystem {
            path: disk.fs_id.unwrap_or_default().mountpoint.into(),
            used_bytes: disk.used_bytes.unwrap_or_default().value,
            used_inodes: disk.inodes_used.unwrap_or_default().value,
        }))
    }

    pub(super) async fn images(&self) -> Result<Vec<Image>, RuntimeError> {
        let listed = self.call(v1::ListImagesRequest::default()).await;
        let listed = listed.map_err(|failure| failure.into_error("list the images"))?;
        let sandboxes = self.inner.told.sandbox_image.as_ref();
        let of = |image: v1::Image| {
            let image = from_v1(image);
            let pinned = image.pinned || sandboxes.is_some_and(|name| image.tags.contains(name));
            Image { pinned, ..image }
        };
        Ok(listed.images.into_iter().map(of).collect())
    }

    pub(super) async fn remove(&self, image: &str) -> Result<(), RuntimeError> {
        let removed = self.call(v1::RemoveImageRequest { image: Some(image_spec(image)) }).await;
        match removed {
            Err(failure) if !failure.is_not_found() => Err(failure.of("image", image, "remove")),
            _ => Ok(()),
        }
    }
}

/// What kind of failure a pull's message tells: CRI has agreed on how the first word is written
/// (`pkg/apis/runtime/v1`'s neighbour `errors`).
fn kind_of(message: &str) -> PullFailure {
    let told = |kind: &str| message.split([':', ' ']).any(|word| word == kind);
    match () {
        () if told("RegistryUnavailable") => PullFailure::RegistryUnavailable,
        () if told("SignatureValidationFailed") => PullFailure::SignatureInvalid,
        () => PullFailure::Failed,
    }
}

fn auth_to_v1(auth: RegistryAuth) -> v1::AuthConfig {
    v1::AuthConfig {
        username: auth.username,
        password: auth.password,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
        ..Default::default()
    }
}

/// Who a client says asks the registry. `auth` is name and password, as Docker writes them.
fn auth_from_v1(auth: v1::AuthConfig) -> RegistryAuth {
    let mut ours = RegistryAuth {
        username: auth.username,
        password: auth.password,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    };
    if ours.username.is_empty() && !auth.auth.is_empty() {
        let text = STANDARD.decode(auth.auth).ok().and_then(|text| String::from_utf8(text).ok());
        if let Some((name, password)) = text.as_deref().and_then(|text| text.split_once(':')) {
            (ours.username, ours.password) = (name.to_owned(), password.to_owned());
        }
    }
    ours
}

/// What a client asks to be fetched.
pub(super) fn pull_from_v1(request: v1::PullImageRequest) -> PullImage {
    let metadata = request.sandbox_config.and_then(|config| config.metadata);
    PullImage {
        image: request.image.unwrap_or_default().image,
        auth: request.auth.map(auth_from_v1),
        pod: metadata.map(|metadata| pod_ref(metadata).0),
    }
}

fn from_v1(image: v1::Image) -> Image {
    let user = match image.uid {
        Some(uid) => uid.value.to_string(),
        None => image.username,
    };
    Image {
        id: image.id,
        tags: image.repo_tags,
        digests: image.repo_digests,
        size_bytes: image.size,
        user,
        pinned: image.pinned,
    }
}

/// What a client is told of an image.
pub(super) fn to_v1(image: &Image) -> v1::Image {
    let uid = image.user.split(':').next().and_then(|user| user.parse().ok());
    v1::Image {
        id: image.id.clone(),
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        size: image.size_bytes,
        username: if uid.is_some() { String::new() } else { image.user.clone() },
        uid: uid.map(|value| v1::Int64Value { value }),
        pinned: image.pinned,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_arrive_in_either_form() {
        let ours = RegistryAuth {
            username: "name".into(),
            password: "pass:word".into(),
            ..Default::default()
        };
        assert_eq!(auth_from_v1(auth_to_v1(ours.clone())), ours);
        let docker =
            v1::AuthConfig { auth: STANDARD.encode("name:pass:word"), ..Default::default() };
        assert_eq!(auth_from_v1(docker), ours);
    }

    #[test]
    fn an_image_arrives_as_it_is() {
        for user in ["", "1000", "nobody"] {
            let image = Image {
                id: "sha256:1".into(),
                tags: vec!["busybox:1".into()],
                digests: vec!["busybox@sha256:2".into()],
                size_bytes: 7,
                user: user.into(),
                pinned: true,
            };
            assert_eq!(from_v1(to_v1(&image)), image);
        }
    }

    #[test]
    fn the_kind_of_failure_is_in_the_message() {
        assert_eq!(kind_of("RegistryUnavailable: no route"), PullFailure::RegistryUnavailable);
        assert_eq!(kind_of("SignatureValidationFailed: no"), PullFailure::SignatureInvalid);
        assert_eq!(kind_of("failed to resolve reference"), PullFailure::Failed);
    }
}
