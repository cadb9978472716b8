//! The Kubernetes scheduling framework and its default plugins.
