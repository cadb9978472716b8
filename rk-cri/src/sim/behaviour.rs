//! How a simulated container behaves, and where that is said.

use std::{str::FromStr, time::Duration};

use super::program::{OnTerm, Program, duration};
use crate::runtime::{ContainerConfig, ExecOutput, SandboxConfig};

/// What a behaviour is chosen by.
#[derive(Clone, Copy, Debug)]
pub struct SimContainer<'a> {
    /// The sandbox; its annotations are the pod's.
    pub sandbox: &'a SandboxConfig,
    /// The container; its `attempt` counts the restarts.
    pub config: &'a ContainerConfig,
}

/// How a container behaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// How long `start_container` takes.
    pub start_delay: Duration,
    /// Lets `start_container` fail with this message.
    pub start_error: Option<String>,
    /// What it does once it is started.
    pub program: Program,
    /// Overrides the reason shown when it ends by itself, for example `OOMKilled`.
    pub exit_reason: Option<String>,
    /// Whether it ever answers: commands in it succeed, its ports accept connections.
    pub unready: bool,
    /// How long after its start it begins to answer.
    pub ready_after: Duration,
}

impl SimContainer<'_> {
    /// The behaviour that the pod's annotations and the container's command ask for.
    ///
    /// Annotations, each also with `.CONTAINER` behind it for one container only:
    ///
    /// | annotation | value |
    /// |---|---|
    /// | `sim.rk.dev/start-delay` | how long starting takes, for example `2s` |
    /// | `sim.rk.dev/start-error` | starting fails with this message |
    /// | `sim.rk.dev/exit-after` | it ends by itself after that time |
    /// | `sim.rk.dev/exit-code` | with this code (0); alone: it ends at once |
    /// | `sim.rk.dev/exit-reason` | the reason shown, for example `OOMKilled` |
    /// | `sim.rk.dev/log` | what it prints at its start |
    /// | `sim.rk.dev/stop-delay` | how long it takes to end after `SIGTERM` |
    /// | `sim.rk.dev/ignore-term` | `true`: it has to be killed |
    /// | `sim.rk.dev/ready` | `false`: its ports refuse, commands in it fail |
    /// | `sim.rk.dev/ready-after` | they do so for that time |
    /// | `sim.rk.dev/cpu` | how much CPU it uses, for example `250m`; may change while it runs |
    /// | `sim.rk.dev/memory` | how much memory it uses, for example `64Mi`; likewise |
    ///
    /// Without `exit-*` a command line that [`Program::parse`] knows does what it says; any other
    /// runs until it is stopped. A value that cannot be read counts as not given.
    pub fn behaviour(&self) -> Behaviour {
        let exit_after = self.time("exit-after");
        let exit_code = self.parsed::<i32>("exit-code");
        let mut program = if exit_after.is_some() || exit_code.is_some() {
            Program::exit_after(exit_after.unwrap_or_default(), exit_code.unwrap_or_default())
        } else {
            let command = [&self.config.command[..], &self.config.args[..]].concat();
            Program::parse(&command, &self.config.env).unwrap_or_default()
        };
        if let Some(text) = self.annotation("log") {
            program = program.printing(text.lines());
        }
        if self.parsed("ignore-term") == Some(true) {
            program = program.on_term(OnTerm::Ignore);
        } else if let Some(delay) = self.time("stop-delay") {
            program = program.on_term(OnTerm::QuitAfter(delay));
        }
        Behaviour {
            start_delay: self.time("start-delay").unwrap_or_default(),
            start_error: self.annotation("start-error").map(str::to_string),
            program,
            exit_reason: self.annotation("exit-reason").map(str::to_string),
            unready: self.parsed("ready") == Some(false),
            ready_after: self.time("ready-after").unwrap_or_default(),
        }
    }

    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        let annotations = &self.sandbox.annotations;
        if annotations.is_empty() {
            return None;
        }
        annotations
            .get(&format!("sim.rk.dev/{name}.{}", self.config.name))
            .or_else(|| annotations.get(&format!("sim.rk.dev/{name}")))
            .map(String::as_str)
    }

    fn parsed<T: FromStr>(&self, name: &str) -> Option<T> {
        self.annotation(name)?.trim().parse().ok()
    }

    fn time(&self, name: &str) -> Option<Duration> {
        duration(self.annotation(name)?.trim())
    }
}

/// Chooses a container's behaviour.
pub type BehaviourFn = dyn Fn(&SimContainer<'_>) -> Behaviour + Send + Sync;
/// Answers a command run in a container; `None` leaves it to the default.
pub type ExecFn = dyn Fn(&SimContainer<'_>, &[String]) -> Option<ExecOutput> + Send + Sync;
/// Says why an image cannot be pulled, or that it can.
pub type ImageFn = dyn Fn(&str) -> Result<(), String> + Send + Sync;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_for_one_container_goes_before_one_for_all() {
        let annotations = [
            ("sim.rk.dev/exit-code", "1"),
            ("sim.rk.dev/exit-code.web", "7"),
            ("sim.rk.dev/exit-after", "2s"),
            ("sim.rk.dev/start-delay", "soon"),
        ];
        let sandbox = SandboxConfig {
            annotations: annotations.map(|(k, v)| (k.to_string(), v.to_string())).into(),
            ..Default::default()
        };
        let behaviour = |name: &str| {
            let config = ContainerConfig { name: name.into(), ..Default::default() };
            SimContainer { sandbox: &sandbox, config: &config }.behaviour()
        };
        let two = Duration::from_secs(2);
        assert_eq!(behaviour("web").program, Program::exit_after(two, 7));
        assert_eq!(behaviour("side").program, Program::exit_after(two, 1));
        assert_eq!(behaviour("web").start_delay, Duration::ZERO);
    }
}
