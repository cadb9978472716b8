//! Kubernetes' controllers, their manager, and an SDK for your own.
