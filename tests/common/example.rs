//! Programs that tests start.

use std::{path::PathBuf, process::Command};

/// Builds an example, and returns where it is. `cargo test` builds examples itself only when no
/// single test target is named.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test has a path");
    let profile = test.ancestors().nth(2).expect("target/profile/deps/test");
    let mut build = Command::new(env!("CARGO"));
    // With the workspace and the features of this test: others would build everything anew.
    build.args(["build", "--workspace", "--locked", "--quiet", "--example", name]);
    if cfg!(feature = "etcd") {
        build.args(["--features", "rk/etcd,rk-store/etcd"]);
    }
    if profile.ends_with("release") {
        build.arg("--release");
    }
    // So would what cargo tells a test of its package, which build scripts look at.
    for (variable, _) in std::env::vars_os() {
        let text = variable.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            build.env_remove(&variable);
        }
    }
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(build.status().expect("cargo runs").success(), "the example builds");
    profile.join("examples").join(name)
}
