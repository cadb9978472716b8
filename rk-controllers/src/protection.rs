//! Finalizers that keep storage while it is in use.
//!
//! # What it promises
//! - A claim that was deleted stays until no Pod on a node uses it, a volume until no claim is bound
//!   to it, a VolumeAttributesClass until no claim and no volume names it.
//! - What the admission plug-in StorageObjectInUseProtection did not see created gets its finalizer
//!   here.

mod attributes_classes;
mod claims;
mod volumes;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub(crate) use self::{
    attributes_classes::controller as attributes_classes, claims::controller as claims,
    volumes::controller as volumes,
};

/// What is to be done about the finalizer of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Add,
    /// If nothing uses the object.
    RemoveIfUnused,
}

fn step(metadata: &ObjectMeta, finalizer: &str) -> Step {
    let has = metadata.finalizers.iter().flatten().any(|found| found == finalizer);
    match (metadata.deletion_timestamp.is_some(), has) {
        (false, false) => Step::Add,
        (true, true) => Step::RemoveIfUnused,
        (false, true) | (true, false) => Step::Nothing,
    }
}

fn add(metadata: &mut ObjectMeta, finalizer: &str) {
    metadata.finalizers.get_or_insert_default().push(finalizer.to_owned());
}

fn remove(metadata: &mut ObjectMeta, finalizer: &str) {
    if let Some(finalizers) = &mut metadata.finalizers {
        finalizers.retain(|found| found != finalizer);
    }
    metadata.finalizers = metadata.finalizers.take().filter(|left| !left.is_empty());
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

    use super::*;

    #[test]
    fn a_finalizer_comes_while_an_object_lives_and_goes_while_it_dies() {
        let mut metadata = ObjectMeta::default();
        assert_eq!(step(&metadata, "f"), Step::Add);
        add(&mut metadata, "f");
        assert_eq!(step(&metadata, "f"), Step::Nothing);
        metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(step(&metadata, "f"), Step::RemoveIfUnused);
        remove(&mut metadata, "f");
        assert_eq!(step(&metadata, "f"), Step::Nothing);
        assert_eq!(metadata.finalizers, None);
    }
}
