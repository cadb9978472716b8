//! The `loopback` plugin: a pod's loopback interface, and nothing else.

use std::io;

use async_trait::async_trait;

use super::{AttachRequest, AttachResult, CniError, CniPlugin};
use crate::netlink::Netlink;

/// Brings `lo` up. By itself it is the network of a pod that needs none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loopback;

impl Loopback {
    async fn lo(request: &AttachRequest) -> Result<(Netlink, u32), CniError> {
        let netlink = match Netlink::open(Some(&request.netns)).await {
            Ok(netlink) => netlink,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CniError::UnknownNamespace(request.netns.clone()));
            }
            Err(error) => return Err(CniError::io("cannot enter", &request.netns, error)),
        };
        match netlink.link("lo").await {
            Ok(Some(lo)) => Ok((netlink, lo.index)),
            Ok(None) => Err(CniError::Broken {
                container_id: request.container_id.clone(),
                detail: "it has no loopback interface".to_owned(),
            }),
            Err(error) => Err(CniError::io("cannot look into", &request.netns, error)),
        }
    }
}

#[async_trait]
impl CniPlugin for Loopback {
    async fn add(&self, request: &AttachRequest) -> Result<AttachResult, CniError> {
        let (netlink, index) = Self::lo(request).await?;
        netlink
            .set_up(index)
            .await
            .map_err(|error| CniError::io("cannot bring lo up in", &request.netns, error))?;
        Ok(AttachResult::default())
    }

    async fn del(&self, _: &AttachRequest) -> Result<(), CniError> {
        // It goes with its namespace.
        Ok(())
    }

    async fn check(&self, request: &AttachRequest) -> Result<(), CniError> {
        Self::lo(request).await.map(|_| ())
    }

    async fn status(&self) -> Result<(), CniError> {
        Ok(())
    }

    async fn gc(&self, _: &[String]) -> Result<(), CniError> {
        Ok(())
    }
}
