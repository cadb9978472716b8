//! Kubernetes in one command: API server, store, scheduler, controllers and a node in one process,
//! driven by your own kubectl.
//!
//! ```sh
//! cargo run --release --example cluster                       # until Ctrl-C
//! cargo run --release --example cluster -- --help             # every flag
//! cargo run --release --example cluster -- -- kubectl get nodes   # run a command, then end
//! ```

#[path = "../common/allocator.rs"]
mod allocator;
mod options;
mod progress;
mod state;

use std::{process::ExitCode, time::Instant};

use clap::Parser;
use options::{Component, Options, RuntimeKind};
use rk::{Cluster, ClusterDns, ClusterError, NativeNode, cri::images::registry::Registries};
use state::StateDir;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    // A container's holder is this program, started once more: it must get here first.
    rk::cri::native::init();

    let options = Options::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();

    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no threads for tokio: {error}")),
    };
    match runtime.block_on(run(options)) {
        Ok(code) => code,
        Err(reason) => fail(&reason),
    }
}

/// One line that says what is wrong and what to do, and an exit code that is not 0.
fn fail(reason: &str) -> ExitCode {
    eprintln!("error: {reason}");
    ExitCode::FAILURE
}

async fn run(options: Options) -> Result<ExitCode, String> {
    options.check()?;
    let begin = Instant::now();
    // Before the first byte is written, so that a signal while starting also tears down.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;

    let state = StateDir::open(&options)?;
    let native = native_node(&options, &state)?;
    let is_native = native.is_some();
    let started = tokio::select! {
        biased;
        _ = interrupt.recv() => return Err("interrupted while starting".into()),
        _ = terminate.recv() => return Err("terminated while starting".into()),
        started = start(&options, &state, native) => started,
    };
    let cluster = started.map_err(|error| advise(&error))?;

    let kubeconfig = state.kubeconfig(&options);
    let text = cluster.kubeconfig().unwrap_or_default();
    if let Err(error) = state::write_private(&kubeconfig, text) {
        cluster.shutdown().await;
        return Err(format!("cannot write the kubeconfig {}: {error}", kubeconfig.display()));
    }
    if !options.quiet {
        progress::banner(&options, &cluster, &kubeconfig, is_native, begin.elapsed());
    }

    let code = if options.command.is_empty() {
        let watching = progress::follow(cluster.client(), options.quiet);
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = watching => {}
        }
        ExitCode::SUCCESS
    } else {
        let command = command(&options.command, &kubeconfig);
        tokio::select! {
            result = command => result,
            _ = interrupt.recv() => Ok(ExitCode::from(130)),
            _ = terminate.recv() => Ok(ExitCode::from(143)),
        }
        .unwrap_or_else(|reason| fail(&reason))
    };

    if !options.quiet {
        eprintln!("\nstopping…");
    }
    let stopping = Instant::now();
    cluster.shutdown().await;
    drop(cluster);
    state.remove();
    if !options.quiet {
        eprintln!("stopped in {}", progress::millis(stopping.elapsed()));
    }
    Ok(code)
}

async fn start(
    options: &Options,
    state: &StateDir,
    native: Option<NativeNode>,
) -> Result<Cluster, ClusterError> {
    let parts = options.parts();
    let mut components = vec![];
    for (part, component) in [
        (Component::Scheduler, rk::Component::Scheduler),
        (Component::Controllers, rk::Component::Controllers),
        (Component::Node, rk::Component::Nodes),
        (Component::Node, rk::Component::Metrics),
        (Component::Dns, rk::Component::Dns),
    ] {
        if parts.contains(&part) {
            components.push(component);
        }
    }
    let mut builder = Cluster::builder()
        .nodes(options.nodes)
        .components(components)
        .dns(ClusterDns::new().domain(&options.cluster_domain))
        .listen(([127, 0, 0, 1], options.port));
    if let Some(directory) = state.durable() {
        builder = builder.data_dir(directory);
    }
    if let Some(token) = &options.token {
        builder = builder.token(token);
    }
    if let Some(node) = native {
        builder = builder.native(node);
    }
    builder.start().await
}

/// The node with real containers, when it is asked for or can be had.
fn native_node(options: &Options, state: &StateDir) -> Result<Option<NativeNode>, String> {
    if !options.parts().contains(&Component::Node) {
        return Ok(None);
    }
    let kind = match options.runtime {
        Some(kind) => kind,
        None if options.nodes > 1 => RuntimeKind::Sim,
        None => match NativeNode::preflight() {
            Ok(()) => RuntimeKind::Native,
            Err(reasons) => {
                if !options.quiet {
                    eprintln!("containers are simulated: {}", reasons.join("; "));
                }
                RuntimeKind::Sim
            }
        },
    };
    if kind == RuntimeKind::Sim {
        return match options.load_image.first() {
            Some(file) => Err(format!(
                "--load-image {}: simulated nodes have every image; leave it out, or use \
                 --runtime native",
                file.display()
            )),
            None => Ok(None),
        };
    }
    NativeNode::preflight().map_err(|reasons| {
        format!("--runtime native is not possible here: {}; use --runtime sim", reasons.join("; "))
    })?;
    let node = NativeNode::new()
        .root(state.node())
        .load(options.load_image.clone())
        .host_network(options.host_network);
    Ok(Some(match &options.registry_config {
        Some(directory) => node.registries(Registries::new().directory(directory)),
        None => node,
    }))
}

/// What to do about an error, in terms of this program's flags.
fn advise(error: &ClusterError) -> String {
    match error {
        ClusterError::Listen { address, source } => format!(
            "port {} cannot be used ({source}): choose another with --port, or --port 0 for a \
             free one",
            address.port()
        ),
        ClusterError::DataDir { directory, reason } => {
            format!("--data-dir {}: {reason}", directory.display())
        }
        ClusterError::Image { file, reason } => {
            format!("--load-image {}: {reason}", file.display())
        }
        other => other.to_string(),
    }
}

/// Runs a command with KUBECONFIG set, and returns its exit code.
async fn command(command: &[String], kubeconfig: &std::path::Path) -> Result<ExitCode, String> {
    let [program, arguments @ ..] = command else { return Ok(ExitCode::SUCCESS) };
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .spawn()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    let status = child.wait().await.map_err(|error| format!("{program}: {error}"))?;
    Ok(exit_code(status))
}

/// As a shell has it: 128 plus the signal's number when a signal ended the command.
fn exit_code(status: std::process::ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
