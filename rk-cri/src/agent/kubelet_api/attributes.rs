//! What a request to the kubelet's API needs the right to, as kube-apiserver's clients know it.
//!
//! Everything is a subresource of the node: `nodes/proxy` opens all, others a part (the kubelet's
//! authorization, and KEP-2862 for the fine-grained ones).

use http::Method;

/// A right to a subresource of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Right {
    pub(crate) verb: &'static str,
    pub(crate) subresource: &'static str,
}

/// The rights of which any one is enough, the narrowest first.
pub(crate) fn rights(method: &Method, path: &str) -> Vec<Right> {
    let verb = match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    };
    let below = |roots: &[&str]| {
        roots.iter().any(|root| {
            path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    let subresources: &[&'static str] = if below(&["/stats"]) {
        &["stats"]
    } else if below(&["/metrics"]) {
        &["metrics"]
    } else if below(&["/logs"]) {
        // As it is for the logs of Pods.
        &["log"]
    } else if below(&["/checkpoint"]) {
        &["checkpoint"]
    } else if below(&["/healthz"]) {
        &["healthz", "proxy"]
    } else if below(&["/configz"]) {
        &["configz", "proxy"]
    } else if below(&["/pods", "/runningpods"]) {
        &["pods", "proxy"]
    } else {
        &["proxy"]
    };
    subresources.iter().map(|subresource| Right { verb, subresource }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: Method, path: &str, verb: &str, subresources: &[&str]) {
        let rights = rights(&method, path);
        assert!(rights.iter().all(|right| right.verb == verb), "{path}: {rights:?}");
        let found: Vec<_> = rights.iter().map(|right| right.subresource).collect();
        assert_eq!(found, subresources, "{path}");
    }

    #[test]
    fn each_path_needs_the_right_to_its_subresource_or_to_the_proxy() {
        check(Method::GET, "/stats/summary", "get", &["stats"]);
        check(Method::GET, "/metrics", "get", &["metrics"]);
        check(Method::GET, "/metrics/cadvisor", "get", &["metrics"]);
        check(Method::GET, "/metricsx", "get", &["proxy"]);
        check(Method::GET, "/logs/syslog", "get", &["log"]);
        check(Method::POST, "/checkpoint/ns/pod/c", "create", &["checkpoint"]);
        check(Method::GET, "/pods", "get", &["pods", "proxy"]);
        check(Method::GET, "/runningpods/", "get", &["pods", "proxy"]);
        check(Method::GET, "/healthz/ping", "get", &["healthz", "proxy"]);
        check(Method::GET, "/configz", "get", &["configz", "proxy"]);
        check(Method::GET, "/containerLogs/ns/pod/c", "get", &["proxy"]);
        check(Method::POST, "/exec/ns/pod/c", "create", &["proxy"]);
        check(Method::HEAD, "/pods", "", &["pods", "proxy"]);
    }
}
