//! Rules of a namespace as of now, the first time that they count.
//!
//! Who makes a namespace, its quotas and its ranges and then its first Pod expects them to count.
//! The cache may be a moment behind. Waiting for it on every request would cost more than it is
//! worth, so only a namespace that seems to have no rules is waited for, and not again soon.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    resources::BuiltIn,
    server::{reader::Reader, status::Result},
};

/// How long a namespace without rules is believed to have none, as in kube-apiserver.
const BELIEVED_FOR: Duration = Duration::from_secs(30);
/// How many namespaces are remembered. With more, all are looked at again.
const REMEMBERED_MAX: usize = 10_000;

/// When namespaces without rules were looked at.
#[derive(Debug, Default)]
pub(super) struct FirstLook(Mutex<HashMap<String, Instant>>);

impl FirstLook {
    /// The objects of a type in a namespace.
    pub(super) async fn list<T: BuiltIn + k8s_openapi::Resource>(
        &self,
        reader: &Reader,
        namespace: &str,
    ) -> Result<Vec<T>> {
        let found = reader.list::<T>(Some(namespace))?;
        if !found.is_empty() || self.is_remembered(namespace) {
            return Ok(found);
        }
        reader.cache.fresh().await?;
        reader.list::<T>(Some(namespace))
    }

    /// Whether the namespace was looked at lately. It is, now.
    fn is_remembered(&self, namespace: &str) -> bool {
        let now = Instant::now();
        let mut looks = self.0.lock();
        if looks.get(namespace).is_some_and(|at| now.duration_since(*at) < BELIEVED_FOR) {
            return true;
        }
        if looks.len() >= REMEMBERED_MAX {
            looks.clear();
        }
        looks.insert(namespace.to_owned(), now);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_namespace_is_believed_for_half_a_minute() {
        let looks = FirstLook::default();
        assert!(!looks.is_remembered("a"));
        assert!(looks.is_remembered("a"));
        assert!(!looks.is_remembered("b"));
        tokio::time::advance(BELIEVED_FOR).await;
        assert!(!looks.is_remembered("a"));
    }
}
