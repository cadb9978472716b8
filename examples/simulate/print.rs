//! What is printed.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use rk::simulation::{Action, Outcome, Scenario, Told, invariants};

/// How many resources are named.
const SHOWN: usize = 8;

pub fn heading(scenario: &Scenario) {
    println!(
        "seed {}: {} nodes for {}, {} actions{}\n",
        scenario.seed,
        scenario.nodes,
        time(scenario.duration),
        scenario.actions().len(),
        if scenario.faults { ", with faults" } else { "" },
    );
}

/// One line for each thing that happens.
pub fn told(told: &Told) {
    match told {
        Told::Begins(at, action) => println!("{}  {}", clock(*at), numbered(action)),
        Told::Ends(at, action) => println!("{}       … over: {}", clock(*at), action.what),
        Told::Broken(violation) => println!("BROKEN {violation}"),
        Told::Rest(at) => {
            println!("{}       everything is connected and may come to rest", clock(*at))
        }
    }
}

/// An action with its time and number.
pub fn action(action: &Action) -> String {
    format!("{}  {}", clock(action.at), numbered(action))
}

fn numbered(action: &Action) -> String {
    format!("{:>4} {}", format!("#{}", action.number), action.what)
}

pub fn outcome(outcome: &Outcome, real: Duration) {
    println!();
    let (each, quiet) = (invariants::EACH_STEP, invariants::WHEN_QUIET);
    for rule in each.iter().map(|(rule, _)| rule).chain(quiet.iter().map(|(rule, _)| rule)) {
        let broken = outcome.violations.iter().filter(|broken| broken.rule == *rule).count();
        let verdict =
            if broken == 0 { "held".to_owned() } else { format!("BROKEN {broken} times") };
        println!("{:<12} {verdict}", format!("{rule}:"));
    }
    let faults = &outcome.faults;
    println!(
        "\n{} events of the store, {} checked, {} Pods",
        outcome.digest.events(),
        outcome.steps,
        outcome.pods,
    );
    println!("written most: {}", most(&outcome.writes));
    println!(
        "{} requests: {} delayed, {} lost, {} answers lost, {} failed, {} sent twice, {} hung, {} refused; \
         {} watches cut",
        faults.requests,
        faults.delayed,
        faults.requests_lost,
        faults.answers_lost,
        faults.failed,
        faults.duplicated,
        faults.hung,
        faults.refused,
        faults.watches_cut,
    );
    println!("digest {}", outcome.digest);
    println!(
        "{} in {:.1} s: {} times as fast as real time",
        time(outcome.simulated),
        real.as_secs_f64(),
        speed_up(outcome.simulated, real),
    );
}

/// The resources that were written most, with their numbers.
fn most(writes: &BTreeMap<String, u64>) -> String {
    let mut writes: Vec<_> = writes.iter().collect();
    writes.sort_by_key(|(_, count)| Reverse(**count));
    let first = writes.iter().take(SHOWN).map(|(resource, count)| format!("{resource} {count}"));
    first.collect::<Vec<_>>().join(", ")
}

pub fn summary(histories: u64, failed: u64, simulated: Duration, real: Duration) {
    println!(
        "{histories} histories, {failed} failed: {} in {:.1} s, {} times as fast as real time",
        time(simulated),
        real.as_secs_f64(),
        speed_up(simulated, real),
    );
}

fn speed_up(simulated: Duration, real: Duration) -> u64 {
    (simulated.as_secs_f64() / real.as_secs_f64().max(1e-3)) as u64
}

/// Days and the time of day.
fn clock(at: Duration) -> String {
    let seconds = at.as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    format!(
        "{days}d {:02}:{:02}:{:02}.{:03}",
        rest / 3600,
        rest / 60 % 60,
        rest % 60,
        at.subsec_millis()
    )
}

/// The two largest units.
fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}
