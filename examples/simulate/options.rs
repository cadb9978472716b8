//! The command line.

use std::{collections::BTreeSet, time::Duration};

use clap::Parser;
use rk::simulation::Scenario;

/// Lives histories of a simulated cluster and checks what must always hold.
#[derive(Debug, Parser)]
#[command(name = "simulate")]
pub struct Options {
    /// What all chance comes from; the first one with --histories
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=5000))]
    pub nodes: u64,
    /// How long things happen, for example 90s, 10m, 12h or 7d
    #[arg(long, default_value = "1d", value_parser = duration)]
    pub duration: Duration,
    /// How many things a user does in an hour
    #[arg(long, default_value_t = 12)]
    pub actions_per_hour: u32,
    /// Whether requests are lost, components crash, clocks go wrong and the store fills up
    #[arg(long)]
    pub faults: bool,
    /// Lives the histories of so many seeds and prints those that fail
    #[arg(long)]
    pub histories: Option<u64>,
    /// Only the actions with these numbers, separated by commas, of the seed's history
    #[arg(long, value_delimiter = ',')]
    pub keep: Option<Vec<usize>>,
}

impl Options {
    /// The history of a seed.
    pub fn scenario(&self, seed: u64) -> Scenario {
        Scenario {
            seed,
            nodes: self.nodes as usize,
            duration: self.duration,
            actions_per_hour: self.actions_per_hour,
            faults: self.faults,
            keep: self.keep.as_ref().map(|keep| keep.iter().copied().collect()),
        }
    }

    /// What to type to see a part of a history.
    pub fn command(&self, seed: u64, keep: &BTreeSet<usize>) -> String {
        let numbers: Vec<_> = keep.iter().map(usize::to_string).collect();
        format!(
            "cargo run --release --example simulate -- --seed {seed} --nodes {} --duration {}s \
             --actions-per-hour {}{} --keep {}",
            self.nodes,
            self.duration.as_secs(),
            self.actions_per_hour,
            if self.faults { " --faults" } else { "" },
            numbers.join(","),
        )
    }
}

/// A number and its unit.
fn duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let number: u64 = number.parse().map_err(|_| "it begins with no number".to_owned())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err("its unit is none of s, m, h and d".to_owned()),
    };
    match number.checked_mul(seconds) {
        Some(0) | None => Err("it is nothing, or too much".to_owned()),
        Some(seconds) => Ok(Duration::from_secs(seconds)),
    }
}
