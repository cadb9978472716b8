//! Prints the table of figures that the README gives: how fast the cluster starts, answers,
//! watches and schedules on this machine, and how much memory it takes.
//!
//! ```sh
//! cargo run --release --example speed              # all rows, some two minutes
//! cargo run --release --example speed -- creates   # the rows whose name contains a word
//! ```
//!
//! The reference column was measured on a 2-core machine with kube-apiserver 1.20 and etcd 3.4,
//! JSON over TLS, the load generator on the same cores; that of Pods on a node with kubelet 1.20 and
//! containerd 1.6. Load here also comes from this process. Rows of nodes need root, and say what is
//! missing.

#[path = "../common/allocator.rs"]
mod allocator;
mod controllers;
#[path = "../../rk-cri/tests/containerd/lab.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "it has more than is used here, for tests")]
mod lab;
mod load;
mod nodes;
mod objects;
mod rows;

use std::process::{Command, ExitCode};

use rows::Row;

fn main() -> ExitCode {
    // A container's holder is this program, started once more: it must get here first.
    rk::cri::native::init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [flag, name] if flag == "--row" => match rows::all().iter().find(|row| row.name == name) {
            Some(row) => measure(row),
            None => fail(&format!("there is no row {name:?}")),
        },
        [flag, rest @ ..] if flag == "--agent" => nodes::agent(rest),
        words => table(words),
    }
}

fn fail(reason: &str) -> ExitCode {
    eprintln!("error: {reason}");
    ExitCode::FAILURE
}

/// Prints the rows whose name contains one of `words`, or all.
fn table(words: &[String]) -> ExitCode {
    let wanted =
        |row: &Row| words.is_empty() || words.iter().any(|word| row.name.contains(word.as_str()));
    let rows: Vec<Row> = rows::all().into_iter().filter(wanted).collect();
    if rows.is_empty() {
        return fail(&format!("no row matches {words:?}; without words all are measured"));
    }
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return fail(&format!("cannot find this program: {error}")),
    };
    println!("| what | reference | aim | measured |");
    println!("|---|---|---|---|");
    let mut code = ExitCode::SUCCESS;
    for row in rows {
        // A process each, so that no row pays for what another left behind.
        let output = Command::new(&program).args(["--row", row.name]).output();
        let figure = match output {
            Ok(output) if output.status.success() => {
                String::from_utf8_lossy(&output.stdout).trim().to_owned()
            }
            Ok(output) => {
                code = ExitCode::FAILURE;
                let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                format!("failed: {}", errors.trim().lines().last().unwrap_or_default())
            }
            Err(error) => return fail(&format!("cannot run {}: {error}", program.display())),
        };
        println!("| {} | {} | {} | {figure} |", row.name, row.reference, row.aim);
    }
    code
}

fn measure(row: &Row) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no threads for tokio: {error}")),
    };
    let measured = runtime.block_on((row.measure)());
    runtime.shutdown_background();
    match measured {
        Ok(figure) => {
            println!("{figure}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error.to_string()),
    }
}
