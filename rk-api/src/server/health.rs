//! Health: whether the server lives, and whether it is ready for requests.

use super::{Inner, query::Query};

/// One check: its name and whether it passes.
type Check = (&'static str, bool);

/// An answer to a health request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Health {
    /// The status code: 200 or 500.
    pub(super) code: u16,
    /// The text.
    pub(super) text: String,
}

/// The health at `path` (`/livez`, `/readyz` or `/healthz`, or one check below it); `None` when
/// there is no such check.
pub(super) async fn check(server: &Inner, path: &str, query: &Query) -> Option<Health> {
    let path = path.trim_start_matches('/').trim_end_matches('/');
    let (endpoint, single) = path.split_once('/').unwrap_or((path, ""));
    let mut checks = vec![
        ("ping", true),
        ("log", true),
        ("etcd", server.registry.cache.store().revision().await.is_ok()),
    ];
    match endpoint {
        "healthz" | "livez" => {}
        "readyz" => {
            checks.push(("informer-sync", true));
            checks.push(("shutdown", !server.leaving.is_cancelled()));
        }
        _ => return None,
    }
    if !single.is_empty() {
        checks.retain(|(name, _)| *name == single);
        if checks.is_empty() {
            return None;
        }
    }
    let excluded: Vec<_> = query.all("exclude").collect();
    Some(report(endpoint, &checks, &excluded, query.flag("verbose")))
}

/// What is told of some checks.
fn report(endpoint: &str, checks: &[Check], excluded: &[&str], verbose: bool) -> Health {
    let mut text = String::new();
    let mut failed = false;
    for (name, passes) in checks {
        text.push_str(&match (excluded.contains(name), passes) {
            (true, _) => format!("[+]{name} excluded: ok\n"),
            (false, true) => format!("[+]{name} ok\n"),
            (false, false) => format!("[-]{name} failed: reason withheld\n"),
        });
        failed |= !passes && !excluded.contains(name);
    }
    for name in excluded.iter().filter(|name| !checks.iter().any(|(found, _)| found == *name)) {
        text.push_str(&format!(
            "warn: some health checks cannot be excluded: no matches for {name:?}\n"
        ));
    }
    match (failed, verbose) {
        (true, _) => Health { code: 500, text: format!("{text}{endpoint} check failed\n") },
        (false, true) => Health { code: 200, text: format!("{text}{endpoint} check passed\n") },
        (false, false) => Health { code: 200, text: "ok".to_owned() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_check_fails_the_whole_and_is_named() {
        let checks = [("ping", true), ("etcd", false)];
        let health = report("livez", &checks, &[], false);
        let text = "[+]ping ok\n[-]etcd failed: reason withheld\nlivez check failed\n";
        assert_eq!(health, Health { code: 500, text: text.to_owned() });
        assert_eq!(report("livez", &checks, &["etcd"], false).text, "ok");
        let verbose = report("livez", &checks, &["etcd"], true);
        assert_eq!(verbose.text, "[+]ping ok\n[+]etcd excluded: ok\nlivez check passed\n");
    }
}
