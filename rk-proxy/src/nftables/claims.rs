//! Who has which element of the shared maps.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::compile::{self, Element, Value};
use crate::ServicePort;

/// The service ports that want an element: several share a cluster IP, and two Services may ask
/// for the same external IP and port. The first by key gets it; when that one goes, the next.
#[derive(Debug, Default)]
pub(super) struct Claims(HashMap<Element, Vec<Arc<ServicePort>>>);

impl Claims {
    /// Takes back what `old` claimed and claims what `new` needs.
    pub(super) fn change(
        &mut self,
        old: Option<&Arc<ServicePort>>,
        new: Option<&Arc<ServicePort>>,
    ) {
        if let Some(old) = old {
            for element in compile::elements_of(old).into_keys() {
                if let Some(owners) = self.0.get_mut(&element) {
                    owners.retain(|owner| owner.key != old.key);
                    if owners.is_empty() {
                        self.0.remove(&element);
                    }
                }
            }
        }
        if let Some(new) = new {
            for element in compile::elements_of(new).into_keys() {
                let owners = self.0.entry(element).or_insert_with(|| Vec::with_capacity(1));
                let place = owners.partition_point(|owner| owner.key < new.key);
                owners.insert(place, new.clone());
            }
        }
    }

    /// What the element is in the table now.
    pub(super) fn value(&self, element: &Element) -> Option<Value> {
        let owner = self.0.get(element)?.first()?;
        compile::elements_of(owner).remove(element)
    }

    /// Every element with its value, in order.
    pub(super) fn all(&self) -> BTreeMap<Element, Value> {
        let owners = self.0.values().filter_map(|owners| owners.first());
        let mut all = BTreeMap::new();
        for owner in owners {
            for (element, value) in compile::elements_of(owner) {
                if self
                    .0
                    .get(&element)
                    .and_then(|o| o.first())
                    .is_some_and(|o| Arc::ptr_eq(o, owner))
                {
                    all.insert(element, value);
                }
            }
        }
        all
    }
}
