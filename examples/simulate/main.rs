//! Lives days of a cluster in seconds, and sees whether anything goes wrong.
//!
//! ```sh
//! cargo run --release --example simulate -- --seed 7 --nodes 5 --duration 1d --faults
//! cargo run --release --example simulate -- --histories 100 --duration 10m --faults
//! ```
//!
//! A history follows from its seed: deployments are rolled out and scaled, jobs run, nodes fail and
//! are drained; with `--faults` requests are lost, components crash, clocks go wrong and the store
//! fills up as well. After every change invariants are checked; at the end the cluster has to come
//! to rest. The same arguments print the same digest of everything that was written.

#[path = "../common/allocator.rs"]
mod allocator;
mod options;
mod print;

use std::{
    collections::BTreeSet,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use rk::simulation::{self, Outcome, RunError, Scenario};

use options::Options;

/// How often a history is lived again to find what does not matter in it.
const SHRINK_TRIES: usize = 60;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let options = Options::parse();
    let good = match options.histories {
        Some(histories) => many(&options, histories),
        None => one(&options),
    };
    match good {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Lives one history and tells of it. Whether all invariants held.
fn one(options: &Options) -> Result<bool, RunError> {
    let scenario = options.scenario(options.seed);
    print::heading(&scenario);
    let began = Instant::now();
    let outcome = simulation::run(&scenario, print::told)?;
    print::outcome(&outcome, began.elapsed());
    if !outcome.holds() && options.keep.is_none() {
        shrink(options, &scenario, &outcome)?;
    }
    Ok(outcome.holds())
}

/// Lives the histories of so many seeds, one on each processor, and tells of those that fail.
/// Whether none did.
fn many(options: &Options, histories: u64) -> Result<bool, RunError> {
    let began = Instant::now();
    let seeds = options.seed..options.seed.saturating_add(histories);
    let next = AtomicU64::new(seeds.start);
    let live = || {
        let mut lived = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !seeds.contains(&seed) {
                return lived;
            }
            lived.push((seed, simulation::run(&options.scenario(seed), |_| {})));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut lived: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(live)).collect();
        // A thread that panicked has said so; the panic goes on here.
        let join = |thread: thread::ScopedJoinHandle<'_, _>| match thread.join() {
            Ok(lived) => lived,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().flat_map(join).collect()
    });
    lived.sort_by_key(|(seed, _)| *seed);

    let (mut failed, mut simulated) = (0, Duration::ZERO);
    for (seed, outcome) in lived {
        let outcome = outcome?;
        simulated += outcome.simulated;
        if !outcome.holds() {
            failed += 1;
            println!("seed {seed}: {}", outcome.violations[0]);
            shrink(options, &options.scenario(seed), &outcome)?;
        }
    }
    print::summary(histories, failed, simulated, began.elapsed());
    Ok(failed == 0)
}

/// Finds a shorter history that breaks the same rule, and prints how to see it again.
fn shrink(options: &Options, scenario: &Scenario, outcome: &Outcome) -> Result<(), RunError> {
    let rule = outcome.violations[0].rule;
    let all: BTreeSet<usize> = scenario.actions().iter().map(|action| action.number).collect();
    println!("\nlooking for less than {} actions that break the rule {rule:?} …", all.len());
    let mut error = None;
    let kept = simulation::shrink(all, SHRINK_TRIES, |kept| {
        let part = Scenario { keep: Some(kept.clone()), ..scenario.clone() };
        match simulation::run(&part, |_| {}) {
            Ok(outcome) => outcome.violations.iter().any(|violation| violation.rule == rule),
            Err(failed) => {
                error = Some(failed);
                false
            }
        }
    });
    if let Some(error) = error {
        return Err(error);
    }
    for action in scenario.actions().iter().filter(|action| kept.contains(&action.number)) {
        println!("  {}", print::action(action));
    }
    println!("see it again:\n  {}\n", options.command(scenario.seed, &kept));
    Ok(())
}
