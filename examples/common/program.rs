//! The life of a program with Kubernetes' flags: flags, options, logs, and then its work until it is
//! told to stop.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    flags::{self, Command, Given},
    logs,
};

/// What asks a program to stop: an interrupt (Ctrl-C), or a request to terminate.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn listen() -> Result<Self, String> {
        let listen = |kind| signal(kind).map_err(|error| error.to_string());
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// The first of them.
    pub(crate) async fn received(mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        tracing::info!("stopping");
    }
}

/// Runs the program `name`, which is what it calls itself in its logs: `read` makes options of the
/// flags, `work` does what they ask for. Whatever is wrong is said in one line, with an exit code
/// that is not 0.
pub(crate) fn run<O>(
    name: &'static str,
    read: impl FnOnce(&Given) -> Result<O, String>,
    work: impl AsyncFnOnce(O, StopSignals) -> Result<(), String>,
) -> ExitCode {
    let given = match flags::parse(std::env::args().skip(1)) {
        Ok(Command::Start(given)) => given,
        Ok(Command::Help) => {
            print!("{}", flags::help());
            return ExitCode::SUCCESS;
        }
        Ok(Command::Version) => {
            println!("Kubernetes v1.37.0 (rk {})", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Err(reason) => return fail(&format!("{reason} (see --help)")),
    };
    let options = match read(&given).and_then(|options| {
        logs::start(&given, name)?;
        Ok(options)
    }) {
        Ok(options) => options,
        Err(reason) => return fail(&reason),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no threads: {error}")),
    };
    let worked = runtime.block_on(async {
        for (flag, why) in given.idle() {
            tracing::info!("--{flag} has no effect: {why}");
        }
        let signals = StopSignals::listen()?;
        work(options, signals).await
    });
    match worked {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            tracing::error!("{reason}");
            fail(&reason)
        }
    }
}

fn fail(reason: &str) -> ExitCode {
    eprintln!("error: {reason}");
    ExitCode::FAILURE
}

/// What `read` makes of flags in one line, for tests of options.
#[cfg(test)]
pub(crate) fn options_of<O>(
    line: &str,
    read: impl FnOnce(&Given) -> Result<O, String>,
) -> Result<O, String> {
    match flags::parse(line.split_whitespace().map(ToOwned::to_owned))? {
        Command::Start(given) => read(&given),
        other => panic!("{other:?}"),
    }
}
