//! `CriRuntime` on a real containerd, which each test starts for itself in namespaces of its own.
//! Needs root, and Debian's `containerd`, `runc`, `containernetworking-plugins`, `busybox-static`.
//!
//! Like `native`, this is a program of its own: containerd has to end with the thread that started
//! it, and libtest's threads come and go. It takes the names to run as arguments, and `--list`.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

#[path = "containerd/agent.rs"]
mod agent;
#[path = "containerd/lab.rs"]
mod lab;
#[path = "containerd/runtime.rs"]
mod runtime;

use std::{panic::AssertUnwindSafe, process::ExitCode};

use futures::{FutureExt, future::BoxFuture};

use lab::Lab;

type Test = for<'a> fn(&'a mut Lab) -> BoxFuture<'a, ()>;

macro_rules! tests {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$((stringify!($name), |lab| $module::$name(lab).boxed())),*]
    };
}

const TESTS: &[(&str, Test)] = tests![
    runtime::the_conformance_kit_passes,
    runtime::containers_outlive_the_killed_daemon_and_calls_fail_meanwhile,
    runtime::the_configuration_reaches_the_container,
    runtime::a_container_that_was_made_before_is_known_to_the_next_process,
    runtime::sessions_have_a_terminal_and_attach_carries_input,
    runtime::what_containers_use_is_told,
    runtime::a_log_goes_on_in_a_new_file,
    runtime::limits_are_changed_while_a_container_runs,
    runtime::system_calls_are_confined_as_asked_for,
    runtime::a_removed_pod_leaves_nothing_behind,
    agent::a_pod_runs_is_probed_and_is_taken_down,
    agent::pods_converge_after_the_daemon_was_killed,
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let exact = arguments.iter().any(|argument| argument == "--exact");
    let wanted = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|f| if exact { *f == name } else { name.contains(f.as_str()) })
    };
    let tests: Vec<_> = TESTS.iter().filter(|(name, _)| wanted(name)).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let missing = lab::missing();
    if !missing.is_empty() {
        tests.iter().for_each(|(name, _)| println!("SKIP {name}: {}", missing.join("; ")));
        println!("test result: ok. 0 passed; 0 failed; {} ignored", tests.len());
        return match std::env::var("RK_REQUIRE").as_deref() {
            Ok("all") => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        };
    }
    let failed: Vec<&str> =
        tests.iter().filter(|(name, test)| !run(name, *test)).map(|(name, _)| *name).collect();
    // In libtest's words, which scripts look for.
    let verdict = if failed.is_empty() { "ok" } else { "FAILED" };
    let passed = tests.len() - failed.len();
    println!("test result: {verdict}. {passed} passed; {} failed; 0 ignored", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one test in a lab of its own, which is taken down whatever happens.
fn run(name: &str, test: Test) -> bool {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let begin = tokio::time::Instant::now();
        let mut lab = Lab::new().await;
        let result = AssertUnwindSafe(test(&mut lab)).catch_unwind().await;
        if result.is_err() {
            println!("    containerd said:\n{}", lab.log_tail());
        }
        let left = lab.take_down().await;
        let passed = result.is_ok() && left.is_ok();
        let verdict = if passed { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict} ({:.1?})", begin.elapsed());
        if let Err(left) = left {
            println!("    left behind: {left}");
        }
        passed
    })
}
