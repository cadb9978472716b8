//! Kubernetes' controllers as a program of their own, with kube-controller-manager's flags, for any
//! API server from 1.20 to 1.37: rk's, or a stock one.
//!
//! ```sh
//! cargo run --release --example controller-manager -- --help
//! cargo run --release --example controller-manager -- --kubeconfig=controller-manager.conf \
//!     --use-service-account-credentials --root-ca-file=ca.crt \
//!     --service-account-private-key-file=sa.key
//! ```
//!
//! `table.rs` lists the flags, `options.rs` says what they mean, `assemble.rs` makes a manager of
//! them, and `serve.rs` answers for its health. Of any number of managers, stock ones among them, the
//! one that holds the Lease works; one that loses it ends, for its service manager to start it anew.

mod assemble;
#[path = "../common/files.rs"]
mod files;
#[path = "../common/flags.rs"]
mod flags;
#[path = "../common/logs.rs"]
mod logs;
mod options;
mod serve;
mod table;
mod throttle;

use std::process::ExitCode;

use flags::{Command, Given};
use options::Options;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
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
    let options = match Options::read(&given).and_then(|options| {
        logs::start(&given, "kube-controller-manager")?;
        Ok(options)
    }) {
        Ok(options) => options,
        Err(reason) => return fail(&reason),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no threads: {error}")),
    };
    match runtime.block_on(run(&given, &options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            tracing::error!("{reason}");
            fail(&reason)
        }
    }
}

/// One line that says what is wrong, and an exit code that is not 0.
fn fail(reason: &str) -> ExitCode {
    eprintln!("error: {reason}");
    ExitCode::FAILURE
}

async fn run(given: &Given, options: &Options) -> Result<(), String> {
    for (flag, why) in given.idle() {
        tracing::info!("--{flag} has no effect: {why}");
    }
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let manager = assemble::manager(options, assemble::config(options).await?)?;
    let shutdown = CancellationToken::new();
    // Ends the server of health with the function, however it ends.
    let _guard = shutdown.clone().drop_guard();
    if let Some(serving) = &options.serving {
        let listening = serve::listen(serving, manager.metrics()).await?;
        tokio::spawn(listening.run(shutdown.clone()));
    }
    tracing::info!(controllers = manager.names().join(","), "starting");

    let mut running = std::pin::pin!(manager.run(shutdown.clone()));
    tokio::select! {
        // Nobody told it to: another leads.
        () = &mut running => return Err("leaderelection lost".to_owned()),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping");
    shutdown.cancel();
    // The Lease is given up when the controllers have ended.
    running.await;
    Ok(())
}
