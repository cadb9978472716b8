//! DefaultStorageClass: a claim that names no class gets the default one.

use async_trait::async_trait;
use k8s_openapi::{
    api::{core::v1::PersistentVolumeClaim, storage::v1::StorageClass},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{Admission, AdmissionRequest, Operation};
use crate::{
    server::{reader::Reader, status::Result},
    volumes::is_default_class,
};

/// Where a claim named its class before there was a field for it.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct DefaultStorageClass(pub(super) Reader);

#[async_trait]
impl Admission for DefaultStorageClass {
    fn handles(&self, request: &AdmissionRequest<'_>) -> bool {
        request.operation == Operation::Create && request.is_about("persistentvolumeclaims")
    }

    async fn mutate(&self, request: &mut AdmissionRequest<'_>) -> Result<()> {
        let Some(claim) = request.object_as::<PersistentVolumeClaim>() else { return Ok(()) };
        let annotations = claim.metadata.annotations.as_ref();
        let Some(spec) = claim.spec.as_mut() else { return Ok(()) };
        // An empty name is one: it asks for a volume without a class.
        if spec.storage_class_name.is_some()
            || annotations.is_some_and(|all| all.contains_key(OLD_CLASS))
        {
            return Ok(());
        }
        let classes = self.0.list::<StorageClass>(None)?.into_iter();
        let classes = classes.map(|class| class.metadata).filter(is_default_class);
        spec.storage_class_name = newest(classes).and_then(|class| class.name);
        Ok(())
    }
}

/// Of several default classes the newest one, of those of the same second the first by name.
pub(super) fn newest(classes: impl Iterator<Item = ObjectMeta>) -> Option<ObjectMeta> {
    let created = |class: &ObjectMeta| class.creation_timestamp.as_ref().map(|time| time.0);
    classes.max_by(|a, b| {
        created(a).cmp(&created(b)).then_with(|| b.name.as_deref().cmp(&a.name.as_deref()))
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

    use super::*;

    #[test]
    fn the_newest_default_counts() {
        let class = |name: &str, second: i64| ObjectMeta {
            name: Some(name.to_owned()),
            creation_timestamp: Some(Time(Timestamp::from_second(second).unwrap())),
            ..ObjectMeta::default()
        };
        let classes = [class("a", 1), class("c", 2), class("b", 2)];
        assert_eq!(newest(classes.into_iter()).unwrap().name.unwrap(), "b");
        assert!(newest(std::iter::empty()).is_none());
    }
}
