//! Container runtimes and the node agent (kubelet).
