//! Objects that the server itself writes.

use std::sync::Arc;

use super::{
    Inner,
    registry::{Change, Current, Target},
    status::Result,
    user::UserInfo,
};
use crate::resources::{BuiltIn, Object, Part, Resource};

/// Writes objects as the server itself, level by level: what somebody else did meanwhile is no
/// error, since whoever uses this looks again.
#[derive(Clone, Copy)]
pub(super) struct Writer<'a> {
    /// The server.
    pub server: &'a Inner,
    /// The name under which it manages fields.
    pub manager: &'a str,
}

impl Writer<'_> {
    /// Creates an object, unless there is one of that name.
    pub(super) async fn create<T: BuiltIn + k8s_openapi::Resource>(
        &self,
        namespace: Option<&str>,
        object: &T,
    ) -> Result<()> {
        // A server of a subset of the kinds has nothing to create for the others.
        let Some(resource) = self.server.reader.resource::<T>() else { return Ok(()) };
        let name = object.metadata().name.clone().unwrap_or_default();
        let user = system();
        let mut object: Box<dyn Object> = Box::new(object.clone());
        resource.strategy.default(object.as_mut());
        let target = self.target(resource, &user, namespace, &name, "");
        match self.server.registry.create(&target, object).await {
            Err(error) if error.reason == "AlreadyExists" => Ok(()),
            result => result.map(drop),
        }
    }

    /// Changes a part of an object, if it is there.
    pub(super) async fn update<T: BuiltIn + k8s_openapi::Resource>(
        &self,
        namespace: Option<&str>,
        name: &str,
        part: Part,
        change: impl Fn(&mut T) + Send + Sync,
    ) -> Result<()> {
        let Some(resource) = self.server.reader.resource::<T>() else { return Ok(()) };
        let user = system();
        let subresource = if part == Part::Status { "status" } else { "" };
        let target = self.target(resource, &user, namespace, name, subresource);
        let change = |found: Option<&Current>| {
            let found = found.ok_or_else(|| target.not_found())?;
            let mut object = found.object.boxed_clone();
            if let Some(object) = object.as_any_mut().downcast_mut::<T>() {
                change(object);
            }
            Ok(Change::from(object))
        };
        match self.server.registry.update(&target, part, change).await {
            Err(error) if error.is_conflict() || error.code == 404 => Ok(()),
            result => result.map(drop),
        }
    }

    /// Deletes an object, if it is there.
    pub(super) async fn delete<T: k8s_openapi::Resource>(
        &self,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<()> {
        let Some(resource) = self.server.reader.resource::<T>() else { return Ok(()) };
        let user = system();
        let target = self.target(resource, &user, namespace, name, "");
        match self.server.registry.delete(&target, &Default::default()).await {
            Err(error) if error.code == 404 => Ok(()),
            result => result.map(drop),
        }
    }

    fn target<'b>(
        &'b self,
        resource: &'b Arc<Resource>,
        user: &'b UserInfo,
        namespace: Option<&'b str>,
        name: &'b str,
        subresource: &'b str,
    ) -> Target<'b> {
        let manager = self.manager;
        Target {
            resource,
            subresource,
            namespace,
            name,
            user,
            dry_run: false,
            manager,
            context: None,
        }
    }
}

fn system() -> UserInfo {
    UserInfo::new("system:apiserver", ["system:masters"])
}
