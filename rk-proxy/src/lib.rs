//! Services and Ingress on a node.
