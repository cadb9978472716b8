//! Images, by CRI's `ImageService`.

use std::time::Duration;

use super::{
    client::Failure,
    convert::container::image_spec,
    runtime::CriRuntime,
    v1,
};
use crate::runtime::{Image, RuntimeError};

/// How long fetching an image may take: a large one over a slow line.
const PULL_WITHIN: Duration = Duration::from_secs(3600);

impl CriRuntime {
    pub(super) async fn image(&self, image: &str) -> Result<Option<Image>, RuntimeError> {
        let request = v1::ImageStatusRequest { image: Some(image_spec(image)), verbose: false };
        let fail = |failure: Failure| failure.of("image", image, "look at");
        Ok(self.call(request).await.map_err(fail)?.image.map(from_v1))
    }

    pub(super) async fn pull(&self, image: &str) -> Result<String, RuntimeError> {
        let request =
            v1::PullImageRequest { image: Some(image_spec(image)), ..Default::default() };
        match self.client().call(request, PULL_WITHIN).await {
            Ok(pulled) => Ok(pulled.image_ref),
            Err(Failure::Refused(status)) => Err(RuntimeError::ImagePull {
                image: image.to_owned(),
                reason: status.message().to_owned(),
            }),
            Err(failure) => Err(failure.into_error(&format!("pull {image}"))),
        }
    }

    pub(super) async fn images(&self) -> Result<Vec<Image>, RuntimeError> {
        let listed = self.call(v1::ListImagesRequest::default()).await;
        let listed = listed.map_err(|failure| failure.into_error("list the images"))?;
        Ok(listed.images.into_iter().map(from_v1).collect())
    }

    pub(super) async fn remove(&self, image: &str) -> Result<(), RuntimeError> {
        let removed = self.call(v1::RemoveImageRequest { image: Some(image_spec(image)) }).await;
        match removed {
            Err(failure) if !failure.is_not_found() => Err(failure.of("image", image, "remove")),
            _ => Ok(()),
        }
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
        ..Default::default()
    }
}
