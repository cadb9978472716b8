//! What happens in a history: a cluster's plausible life, drawn from a seed.

use std::{collections::BTreeSet, fmt, time::Duration};

use rk_api::rng::Rng;

use crate::faults::{Plan, Rates};

/// A history to be lived: everything in it follows from these few numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// What all chance in it comes from.
    pub seed: u64,
    /// How many simulated nodes.
    pub nodes: usize,
    /// How long things happen; what comes to rest after that takes its own time.
    pub duration: Duration,
    /// How many things a user does per hour, on average.
    pub actions_per_hour: u32,
    /// Whether requests are lost, components crash and clocks go wrong. Nodes fail in any case.
    pub faults: bool,
    /// Only the actions with these numbers, instead of all: a part of the history of the same seed.
    pub keep: Option<BTreeSet<usize>>,
}

impl Scenario {
    /// A minute with three nodes and much going on, which fits many times into a test.
    pub fn short(seed: u64) -> Self {
        Self {
            seed,
            nodes: 3,
            duration: Duration::from_secs(60),
            actions_per_hour: 720,
            faults: true,
            keep: None,
        }
    }

    /// What happens, in order of time; the number of an action is its place here, whatever is kept.
    pub fn actions(&self) -> Vec<Action> {
        let mut rng = Rng::seeded(self.seed ^ 0x005c_e0a1);
        let hours = self.duration.as_secs_f64() / 3600.0;
        let wanted = ((hours * f64::from(self.actions_per_hour)).round() as usize).max(1);
        let mut names = Names::default();
        let mut times: Vec<_> = (0..wanted).map(|_| self.duration.mul_f64(rng.unit())).collect();
        times.sort();
        let all = times.into_iter().enumerate().map(|(number, at)| {
            let at = Duration::from_millis(at.as_millis() as u64);
            let what = if number == 0 {
                names.deployment(&mut rng)
            } else {
                self.draw(&mut names, &mut rng)
            };
            Action { number, at, what }
        });
        // All are drawn, so that those that are kept are the same.
        let all: Vec<_> = all.collect();
        match &self.keep {
            None => all,
            Some(keep) => all.into_iter().filter(|action| keep.contains(&action.number)).collect(),
        }
    }

    fn draw(&self, names: &mut Names, rng: &mut Rng) -> What {
        if self.faults && rng.below(5) < 2 {
            return self.draw_fault(rng);
        }
        match rng.below(20) {
            0..=2 => names.deployment(rng),
            3 => names.stateful_set(rng),
            4 | 5 => names.job(rng),
            6 => names.cron_job(rng),
            7 => names.quota(rng),
            8..=10 => What::Roll { name: names.one_of_deployments(rng) },
            11 | 12 => {
                What::Scale { name: names.one_of_deployments(rng), replicas: rng.below(8) as u32 }
            }
            13 => What::ScaleSet { name: names.one_of_sets(rng), replicas: rng.below(5) as u32 },
            14 => What::RollSet { name: names.one_of_sets(rng) },
            15 => What::DeletePod { app: names.one_of_deployments(rng) },
            16 => What::Drain { node: self.a_node(rng), time: seconds(rng, 10, 40) },
            17 | 18 => What::NodeFails {
                node: self.a_node(rng),
                time: seconds(rng, 5, 400),
                wiped: rng.below(2) == 0,
            },
            _ => What::Delete { name: names.one_of_deployments(rng) },
        }
    }

    fn draw_fault(&self, rng: &mut Rng) -> What {
        let component = |rng: &mut Rng| match rng.below(3) {
            0 => "scheduler".to_owned(),
            1 => "controllers".to_owned(),
            _ => self.a_node(rng),
        };
        match rng.below(10) {
            0..=2 => What::Disturb {
                component: (rng.below(2) == 0).then(|| component(rng)),
                heavy: rng.below(3) == 0,
                time: seconds(rng, 5, 40),
            },
            3..=5 => What::Crash {
                component: if rng.below(3) == 0 { "scheduler" } else { "controllers" }.to_owned(),
                time: Duration::from_millis(rng.below(8_000)),
            },
            6 | 7 => What::Cut { component: component(rng), time: seconds(rng, 1, 30) },
            8 => What::Skew {
                component: self.a_node(rng),
                seconds: rng.below(60) as i64 - 30,
                time: seconds(rng, 10, 120),
            },
            _ => What::FillStore { time: seconds(rng, 1, 15) },
        }
    }

    fn a_node(&self, rng: &mut Rng) -> String {
        format!("node-{}", rng.below(self.nodes as u64) + 1)
    }

    /// The faults of requests in this history.
    pub fn plan(&self) -> Plan {
        let mut plan = Plan::new(self.seed);
        for Action { at, what, .. } in self.actions() {
            let What::Disturb { component, heavy, time } = what else { continue };
            let rates = if heavy { Rates::heavy() } else { Rates::light() };
            let window = crate::faults::Window { time: at..at + time, component, rates };
            plan.windows.push(window);
        }
        plan
    }
}

fn seconds(rng: &mut Rng, least: u64, most: u64) -> Duration {
    Duration::from_secs(least + rng.below(most - least))
}

/// Something that happens.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// Its number in the history of its seed.
    pub number: usize,
    /// When, from the beginning.
    pub at: Duration,
    /// What.
    pub what: What,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // The fields say what they are, and `Display` says it in words.
#[non_exhaustive]
pub enum What {
    Deploy { name: String, replicas: u32, surge: u32, unavailable: u32, budget: bool },
    CreateSet { name: String, replicas: u32, parallel: bool },
    CreateJob { name: String, completions: u32, parallelism: u32, seconds: u64, fails: bool },
    CreateCronJob { name: String, minutes: u32, seconds: u64 },
    CreateQuota { pods: u32 },
    Scale { name: String, replicas: u32 },
    Roll { name: String },
    Delete { name: String },
    ScaleSet { name: String, replicas: u32 },
    RollSet { name: String },
    DeletePod { app: String },
    Drain { node: String, time: Duration },
    NodeFails { node: String, time: Duration, wiped: bool },
    Disturb { component: Option<String>, heavy: bool, time: Duration },
    Crash { component: String, time: Duration },
    Cut { component: String, time: Duration },
    Skew { component: String, seconds: i64, time: Duration },
    FillStore { time: Duration },
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deploy { name, replicas, surge, unavailable, budget } => {
                write!(
                    f,
                    "deploy {name}: {replicas} replicas, maxSurge {surge}, maxUnavailable {unavailable}"
                )?;
                if *budget { f.write_str(", a disruption budget") } else { Ok(()) }
            }
            Self::CreateSet { name, replicas, parallel } => {
                let policy = if *parallel { "parallel" } else { "in order" };
                write!(f, "create StatefulSet {name}: {replicas} replicas, {policy}")
            }
            Self::CreateJob { name, completions, parallelism, seconds, fails } => {
                let ends = if *fails { "fails" } else { "succeeds" };
                write!(
                    f,
                    "create Job {name}: {completions} completions, {parallelism} at once, each {ends} after {seconds} s"
                )
            }
            Self::CreateCronJob { name, minutes, seconds } => {
                write!(f, "create CronJob {name}: every {minutes} min for {seconds} s")
            }
            Self::CreateQuota { pods } => write!(f, "allow at most {pods} Pods"),
            Self::Scale { name, replicas } | Self::ScaleSet { name, replicas } => {
                write!(f, "scale {name} to {replicas}")
            }
            Self::Roll { name } | Self::RollSet { name } => write!(f, "roll out {name}"),
            Self::Delete { name } => write!(f, "delete {name}"),
            Self::DeletePod { app } => write!(f, "delete a Pod of {app}"),
            Self::Drain { node, time } => write!(f, "drain {node}, back after {time:?}"),
            Self::NodeFails { node, time, wiped } => {
                let data = if *wiped { ", without its containers" } else { "" };
                write!(f, "{node} fails, back after {time:?}{data}")
            }
            Self::Disturb { component, heavy, time } => {
                let how = if *heavy { "heavily" } else { "lightly" };
                let whose = component.as_deref().unwrap_or("everybody");
                write!(f, "disturb the requests of {whose} {how} for {time:?}")
            }
            Self::Crash { component, time } => write!(f, "{component} crash, start after {time:?}"),
            Self::Cut { component, time } => write!(f, "cut off {component} for {time:?}"),
            Self::Skew { component, seconds, time } => {
                write!(f, "the clock of {component} is {seconds} s ahead for {time:?}")
            }
            Self::FillStore { time } => write!(f, "the store is full for {time:?}"),
        }
    }
}

impl What {
    /// How long it lasts, if it is not over at once.
    pub fn time(&self) -> Option<Duration> {
        match self {
            Self::Drain { time, .. }
            | Self::NodeFails { time, .. }
            | Self::Disturb { time, .. }
            | Self::Crash { time, .. }
            | Self::Cut { time, .. }
            | Self::Skew { time, .. }
            | Self::FillStore { time } => Some(*time),
            _ => None,
        }
    }
}

/// Names given so far. There are at most so many of a kind that a week does not fill the cluster;
/// who creates one that is there already gets nothing.
#[derive(Default)]
struct Names {
    jobs: u64,
}

const KINDS_MAX: u64 = 4;

impl Names {
    fn one_of_deployments(&self, rng: &mut Rng) -> String {
        format!("web-{}", rng.below(KINDS_MAX))
    }

    fn one_of_sets(&self, rng: &mut Rng) -> String {
        format!("db-{}", rng.below(2))
    }

    fn deployment(&mut self, rng: &mut Rng) -> What {
        let name = self.one_of_deployments(rng);
        let surge = rng.below(3) as u32;
        let unavailable = if surge == 0 { 1 } else { rng.below(2) as u32 };
        let (replicas, budget) = (1 + rng.below(6) as u32, rng.below(2) == 0);
        What::Deploy { name, replicas, surge, unavailable, budget }
    }

    fn stateful_set(&mut self, rng: &mut Rng) -> What {
        let (name, replicas) = (self.one_of_sets(rng), 1 + rng.below(4) as u32);
        What::CreateSet { name, replicas, parallel: rng.below(3) == 0 }
    }

    fn job(&mut self, rng: &mut Rng) -> What {
        self.jobs += 1;
        What::CreateJob {
            name: format!("job-{}", self.jobs),
            completions: 1 + rng.below(6) as u32,
            parallelism: 1 + rng.below(3) as u32,
            seconds: 1 + rng.below(15),
            fails: rng.below(4) == 0,
        }
    }

    fn cron_job(&mut self, rng: &mut Rng) -> What {
        let name = format!("tick-{}", rng.below(2));
        What::CreateCronJob { name, minutes: 1 + rng.below(5) as u32, seconds: 1 + rng.below(20) }
    }

    fn quota(&mut self, rng: &mut Rng) -> What {
        What::CreateQuota { pods: 30 + rng.below(20) as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_history_stays_the_same() {
        let whole = Scenario::short(5);
        let all = whole.actions();
        assert!(all.len() > 5);
        assert!(all.is_sorted_by_key(|action| action.at));
        let part = Scenario { keep: Some([1, 3].into()), ..whole };
        assert_eq!(part.actions(), [all[1].clone(), all[3].clone()]);
    }

    #[test]
    fn seeds_differ_and_repeat() {
        assert_eq!(Scenario::short(1).actions(), Scenario::short(1).actions());
        assert_ne!(Scenario::short(1).actions(), Scenario::short(2).actions());
        assert!(Scenario::short(1).plan().validate().is_ok());
    }

    #[test]
    fn without_faults_only_nodes_fail() {
        for seed in 0..20 {
            let scenario = Scenario { faults: false, ..Scenario::short(seed) };
            assert_eq!(scenario.plan().windows, []);
            for action in scenario.actions() {
                let fault = matches!(
                    action.what,
                    What::Crash { .. }
                        | What::Cut { .. }
                        | What::Skew { .. }
                        | What::FillStore { .. }
                );
                assert!(!fault, "{}", action.what);
            }
        }
    }
}
