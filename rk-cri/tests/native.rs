//! Real containers, on this machine's kernel. Needs root.
//!
//! This is a program of its own rather than a libtest one, because the runtime runs its executable
//! again and `main` must call [`rk_cri::native::init`] first. It takes the names to run as
//! arguments, and `--list`.

#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

#[path = "native/agent.rs"]
mod agent;
#[path = "native/confined.rs"]
mod confined;
#[path = "native/endpoint.rs"]
mod endpoint;
#[path = "native/kills.rs"]
mod kills;
#[path = "native/lab.rs"]
mod lab;
#[path = "native/life.rs"]
mod life;
#[path = "native/limits.rs"]
mod limits;
#[path = "native/probes.rs"]
mod probes;
#[path = "native/restart.rs"]
mod restart;
#[path = "native/sharing.rs"]
mod sharing;
#[path = "native/streams.rs"]
mod streams;
#[path = "native/volumes.rs"]
mod volumes;

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
    life::the_conformance_kit_passes,
    life::a_program_that_cannot_run_is_a_start_error,
    life::the_user_and_directory_are_those_of_pod_or_image,
    life::capabilities_and_read_only_root_hold,
    life::the_hosts_program_cannot_be_overwritten_from_a_container,
    life::fifty_pods_leave_nothing_behind,
    life::teardown_leaves_only_images,
    life::an_image_in_use_keeps_its_layers,
    confined::the_own_profile_refuses_what_no_capability_would,
    confined::a_filter_leaves_user_and_capabilities_as_they_were,
    confined::a_call_that_kills_ends_the_container_by_a_signal,
    confined::a_privileged_container_is_not_filtered,
    confined::a_container_starts_again_under_its_filter_after_a_restart_of_the_agent,
    limits::cpu_memory_and_process_limits_are_set_in_the_cgroup,
    limits::going_over_the_memory_limit_is_oom_killed,
    limits::a_kill_without_memory_want_is_not_called_oom,
    limits::processes_beyond_the_limit_cannot_be_started,
    sharing::containers_of_a_pod_share_network_ipc_and_host_name_only,
    sharing::a_shared_process_namespace_is_shared,
    sharing::a_pod_on_the_host_network_has_the_nodes,
    sharing::a_host_port_answers_inside_the_nodes_namespace,
    sharing::mounts_resolv_conf_and_shared_memory_are_there,
    sharing::a_recursive_read_only_mount_refuses_writes_to_what_is_mounted_below,
    sharing::sysctls_are_set_inside_only,
    streams::output_is_logged_line_by_line_with_its_stream,
    streams::attach_carries_input_and_output,
    streams::a_container_with_a_terminal_has_one,
    streams::a_command_with_a_terminal_has_one_of_its_size,
    streams::a_dropped_session_ends_its_command,
    streams::a_slow_reader_does_not_stop_the_container,
    streams::a_port_of_the_pod_is_forwarded,
    restart::pods_outlive_the_killed_owner_and_are_found_again,
    restart::a_sandbox_that_was_half_made_is_taken_down,
    restart::a_sandbox_whose_supervisor_died_is_not_ready,
    restart::one_directory_has_one_owner,
    kills::a_hundred_kills_of_the_agent_lose_double_and_leave_nothing,
    agent::a_pod_is_resized_in_its_cgroup_and_keeps_it_over_a_restart_of_the_agent,
    agent::a_pod_gets_the_seccomp_profile_that_it_names_or_is_told_why_not,
    agent::huge_pages_are_capacity_and_who_asks_for_too_many_is_refused,
    agent::a_volume_in_memory_is_made_whole_after_an_agent_died_while_making_it,
    probes::what_fails_its_probe_again_and_again_is_started_again_and_again,
    probes::a_pod_is_not_ready_before_its_probe_has_begun,
    probes::a_grpc_server_that_is_well_is_ready_and_left_alone,
    probes::a_log_is_read_over_a_websocket,
    probes::much_input_and_output_of_a_command_arrive_whole,
    volumes::mounts_are_seen_on_the_other_side_as_propagation_says,
    volumes::propagation_that_the_host_does_not_allow_is_refused,
    volumes::a_container_may_use_its_devices_as_it_was_told_and_no_others,
    volumes::a_block_volume_is_a_device_of_its_container,
    volumes::nothing_that_a_pod_plants_leads_the_agent_out_of_its_volumes,
    endpoint::the_conformance_kit_passes_over_a_cri_endpoint,
];

fn main() -> ExitCode {
    rk_cri::native::init();
    if let Some(directory) = std::env::var_os(restart::CHILD) {
        return runtime().block_on(restart::child(directory.into()));
    }
    if let Some(directory) = std::env::var_os(kills::AGENT) {
        return runtime().block_on(kills::agent(directory.into()));
    }
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
    if let Err(missing) = rk_cri::native::NativeRuntime::preflight() {
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

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Runs one test in a lab of its own, which is taken down whatever happens.
fn run(name: &str, test: Test) -> bool {
    runtime().block_on(async {
        let begin = tokio::time::Instant::now();
        let mut lab = Lab::new().await;
        let result = AssertUnwindSafe(test(&mut lab)).catch_unwind().await;
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
