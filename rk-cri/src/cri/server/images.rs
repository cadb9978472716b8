//! The verbs of `ImageService`.

use rk_api::clock;
use tonic::Status;

use super::{
    super::{convert::nanoseconds, images, v1},
    errors::status,
    service::Service,
};

type Answer<T> = Result<T, Status>;

fn name(image: Option<v1::ImageSpec>) -> Answer<String> {
    match image.map(|image| image.image).filter(|name| !name.is_empty()) {
        Some(name) => Ok(name),
        None => Err(Status::invalid_argument("the request names no image")),
    }
}

impl Service {
    pub(super) async fn list_images(
        &self,
        request: v1::ListImagesRequest,
    ) -> Answer<v1::ListImagesResponse> {
        let wanted = request.filter.and_then(|filter| filter.image).unwrap_or_default().image;
        let found = match wanted.is_empty() {
            true => self.runtime.list_images().await.map_err(status)?,
            false => {
                self.runtime.image_status(&wanted).await.map_err(status)?.into_iter().collect()
            }
        };
        Ok(v1::ListImagesResponse { images: found.iter().map(images::to_v1).collect() })
    }

    pub(super) async fn image_status(
        &self,
        request: v1::ImageStatusRequest,
    ) -> Answer<v1::ImageStatusResponse> {
        // One that is not there is an answer without it.
        let found = self.runtime.image_status(&name(request.image)?).await.map_err(status)?;
        Ok(v1::ImageStatusResponse {
            image: found.as_ref().map(images::to_v1),
            ..Default::default()
        })
    }

    pub(super) async fn pull_image(
        &self,
        request: v1::PullImageRequest,
    ) -> Answer<v1::PullImageResponse> {
        let request = images::pull_from_v1(request);
        if request.image.is_empty() {
            return Err(Status::invalid_argument("the request names no image"));
        }
        let image_ref = self.runtime.pull_image(request).await.map_err(status)?;
        Ok(v1::PullImageResponse { image_ref })
    }

    pub(super) async fn remove_image(
        &self,
        request: v1::RemoveImageRequest,
    ) -> Answer<v1::RemoveImageResponse> {
        self.runtime.remove_image(&name(request.image)?).await.map_err(status)?;
        Ok(v1::RemoveImageResponse {})
    }

    pub(super) async fn image_fs_info(
        &self,
        _: v1::ImageFsInfoRequest,
    ) -> Answer<v1::ImageFsInfoResponse> {
        let disk = self.runtime.image_filesystem().await.map_err(status)?;
        let usage = disk.map(|disk| v1::FilesystemUsage {
            timestamp: nanoseconds(clock::now()),
            fs_id: Some(v1::FilesystemIdentifier {
                mountpoint: disk.path.to_string_lossy().into_owned(),
            }),
            used_bytes: Some(v1::UInt64Value { value: disk.used_bytes }),
            inodes_used: Some(v1::UInt64Value { value: disk.used_inodes }),
        });
        // Containers' own files are kept beside the images.
        let disks: Vec<_> = usage.into_iter().collect();
        Ok(v1::ImageFsInfoResponse {
            container_filesystems: disks.clone(),
            image_filesystems: disks,
        })
    }
}
