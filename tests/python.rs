//! Kubernetes' client for Python, which nobody here wrote, over HTTPS: the tests are in
//! `tests/python/`. Without Debian's python3-kubernetes it is skipped by name; with `RK_REQUIRE=all`
//! that is a failure.

use std::process::Command;

use rk::Cluster;

/// An interpreter that has the client.
fn interpreter() -> Option<&'static str> {
    let has_client = |python: &&str| {
        let asked = Command::new(python).args(["-c", "import kubernetes, yaml"]).output();
        asked.is_ok_and(|output| output.status.success())
    };
    ["python3", "/usr/bin/python3"].into_iter().find(has_client)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_works() {
    let Some(python) = interpreter() else {
        let reason = "the Python package kubernetes is missing (python3-kubernetes)";
        assert_ne!(std::env::var("RK_REQUIRE").as_deref(), Ok("all"), "{reason}");
        println!("SKIP the_python_client_works: {reason}");
        return;
    };
    let cluster =
        Cluster::builder().nodes(2).listen(([127, 0, 0, 1], 0)).start().await.expect("it starts");
    let directory = tempfile::tempdir().expect("a folder");
    let kubeconfig = directory.path().join("kubeconfig");
    let text = cluster.kubeconfig().expect("the cluster listens");
    std::fs::write(&kubeconfig, text).expect("written");

    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python");
    let mut tests = Command::new("timeout");
    tests
        .args([
            "--kill-after=5",
            "300",
            python,
            "-B",
            "-W",
            "ignore",
            "-m",
            "unittest",
            "discover",
            "-v",
            folder,
        ])
        .env("KUBECONFIG", &kubeconfig)
        .env_remove("http_proxy")
        .env_remove("https_proxy");
    let output = tokio::task::spawn_blocking(move || tests.output()).await.expect("it ran");
    let output = output.expect("there is an interpreter");
    cluster.shutdown().await;
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
