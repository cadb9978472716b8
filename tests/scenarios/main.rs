//! What people do with a cluster, done with the real kubectl: one test per scenario of
//! `docs/scenarios.md`, named after its id.
//!
//! Three clusters serve all tests, each test in a namespace of its own: one with simulated nodes, one
//! whose node runs real containers, for what touches one, and one whose node has containerd run them.
//! The last line says how many of the scenarios are shown to work.
//!
//! - `cargo test --test scenarios` runs all, `cargo test --test scenarios s65` one.
//! - Without kubectl, root or the static busybox the tests that need them are skipped by name; with
//!   `RK_REQUIRE=all` they fail instead.

mod admission;
mod aggregation;
mod api;
mod apply;
mod autoscaling;
mod cluster;
mod commands;
mod conformance;
mod containers;
mod controllers;
mod csi;
mod custom_resources;
mod encodings;
mod etcd;
#[path = "../common/example.rs"]
mod example;
mod harness;
mod identities;
mod jobs;
mod kubectl;
#[path = "../../rk-cri/tests/containerd/lab.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "it has more than is used here, for other tests")]
mod lab;
mod lifecycle;
mod managers;
mod masters;
mod names;
mod network;
mod node_conformance;
mod nodes;
mod openapi;
mod own;
mod pods;
mod probes;
mod programs;
mod rbac;
mod registries;
mod runtimes;
mod scheduling;
mod sets;
mod stand_ins;
mod streams;
mod versions;
mod volume_files;
mod volumes;
mod workloads;

use std::{collections::BTreeMap, process::ExitCode, sync::Arc};

use harness::{Clusters, Needs, Outcome, Scenario};
use libtest_mimic::{Arguments, Failed, Trial};

/// The number of rows in `docs/scenarios.md`.
const SCENARIOS: usize = 270;

fn main() -> ExitCode {
    // A container's holder is this program, started once more: it must get here first.
    rk::cri::native::init();
    // Before there are threads, which would keep the mounts of the machine.
    if let Err(error) = own_mounts() {
        eprintln!("no mounts of one's own, containerd will not see volumes: {error}");
    }

    let mut arguments = Arguments::from_args();
    // The tests wait for clusters more than they compute.
    arguments.test_threads = arguments.test_threads.or(Some(8));

    let scenarios: Vec<Scenario> = [
        admission::all(),
        aggregation::all(),
        api::all(),
        apply::all(),
        autoscaling::all(),
        cluster::all(),
        commands::all(),
        conformance::all(),
        containers::all(),
        controllers::all(),
        csi::all(),
        custom_resources::all(),
        encodings::all(),
        identities::all(),
        jobs::all(),
        kubectl::all(),
        lifecycle::all(),
        managers::all(),
        masters::all(),
        names::all(),
        network::all(),
        node_conformance::all(),
        nodes::all(),
        openapi::all(),
        pods::all(),
        probes::all(),
        rbac::all(),
        registries::all(),
        runtimes::all(),
        scheduling::all(),
        sets::all(),
        versions::all(),
        volume_files::all(),
        volumes::all(),
        workloads::all(),
        streams::all(),
    ]
    .concat();
    let ids: BTreeMap<&str, usize> =
        scenarios.iter().filter_map(Scenario::id).fold(BTreeMap::new(), |mut ids, id| {
            *ids.entry(id).or_default() += 1;
            ids
        });
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(scenarios, None)).exit_code();
    }

    let clusters = match Clusters::start() {
        Ok(clusters) => Arc::new(clusters),
        Err(reason) => {
            eprintln!("the clusters do not start: {reason}");
            return ExitCode::FAILURE;
        }
    };
    let conclusion = libtest_mimic::run(&arguments, trials(scenarios, Some(clusters.clone())));
    let passed = clusters.outcomes();
    if let Err(left) = clusters.stop() {
        eprintln!("left behind: {left}");
        return ExitCode::FAILURE;
    }

    let whole = ids
        .iter()
        .filter(|(id, tests)| passed.iter().filter(|passed| passed == *id).count() == **tests)
        .count();
    println!("scenarios: {whole} of {SCENARIOS} pass");
    conclusion.exit_code()
}

/// Gives this process a view of its own of what is mounted, as root: no mount of a test is seen
/// outside, and none outlives the tests. What is mounted below `/var/tmp` is passed on to the
/// containerd that is started there, which has a view of its own in turn.
fn own_mounts() -> std::io::Result<()> {
    use rustix::{
        mount::{MountPropagationFlags, mount_bind_recursive, mount_change},
        thread::{UnshareFlags, unshare_unsafe},
    };
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    // SAFETY: it changes nothing that memory safety hangs on: no descriptors are unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount_bind_recursive("/var/tmp", "/var/tmp")?;
    mount_change("/var/tmp", MountPropagationFlags::SHARED)?;
    Ok(())
}

/// The table names the tests that there are, and no others.
fn table(scenarios: &[Scenario]) -> Trial {
    let mut tests: Vec<_> = scenarios
        .iter()
        .filter(|scenario| scenario.id().is_some() && !scenario.again)
        .map(|scenario| scenario.name)
        .collect();
    tests.sort_unstable();
    Trial::test("the_table_of_scenarios_names_their_tests", move || {
        let table = include_str!("../../docs/scenarios.md");
        let mut named: Vec<_> =
            table.lines().filter(|line| line.starts_with("| S")).flat_map(quoted).collect();
        named.sort_unstable();
        if named == tests {
            return Ok(());
        }
        let lacking = |some: &[&str], others: &[&str]| {
            let only: Vec<_> = some.iter().filter(|it| !others.contains(it)).copied().collect();
            only.join(", ")
        };
        Err(Failed::from(format!(
            "docs/scenarios.md lacks [{}], and names [{}] which are not there",
            lacking(&tests, &named),
            lacking(&named, &tests)
        )))
    })
}

/// What the last column of a row has between backquotes.
fn quoted(row: &'static str) -> impl Iterator<Item = &'static str> {
    row.rsplit('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2)
}

fn trials(scenarios: Vec<Scenario>, clusters: Option<Arc<Clusters>>) -> Vec<Trial> {
    let table = table(&scenarios);
    let trial = |scenario: Scenario| {
        let clusters = clusters.clone();
        let ignored = clusters.as_ref().and_then(|clusters| clusters.lacks(scenario.needs));
        if let Some(reason) = &ignored {
            println!("SKIP {}: {reason}", scenario.name);
        }
        let skip = ignored.is_some();
        let required = std::env::var("RK_REQUIRE").is_ok_and(|value| value == "all");
        let kind = match scenario.needs {
            Needs::Sim | Needs::Simulated | Needs::OverCri => "sim",
            Needs::Real | Needs::Both | Needs::Registry => "real",
            Needs::Containerd => "containerd",
            Needs::Program => "program",
            Needs::Etcd => "etcd",
        };
        Trial::test(scenario.name, move || match (ignored, clusters) {
            (Some(reason), _) => Err(Failed::from(format!("RK_REQUIRE=all, but {reason}"))),
            (None, Some(clusters)) => match clusters.run(&scenario) {
                Outcome::Passed => Ok(()),
                Outcome::Failed(report) => Err(Failed::from(report)),
            },
            (None, None) => Err(Failed::from("no cluster")),
        })
        .with_kind(kind)
        .with_ignored_flag(skip && !required)
    };
    scenarios.into_iter().map(trial).chain([table]).collect()
}
