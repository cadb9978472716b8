//! Writes sample images for the `cluster` example: `busybox`, `myapp:v1` and `myapp:v2`.
//!
//! They are made from a static busybox (Debian: `apt-get install busybox-static`), so nothing is
//! downloaded:
//!
//! ```sh
//! cargo run --release --example images                    # writes images.tar
//! cargo run --release --example cluster -- --load-image images.tar
//! ```

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use rk::cri::images::{build::write_archive, samples::samples};

/// Write an OCI archive with the images busybox, myapp:v1 and myapp:v2.
#[derive(Debug, Parser)]
#[command(name = "images")]
struct Options {
    /// Where to write the archive.
    #[arg(default_value = "images.tar")]
    archive: PathBuf,

    /// A statically linked busybox.
    #[arg(long, value_name = "FILE", default_value = "/bin/busybox")]
    busybox: PathBuf,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let written =
        samples(&options.busybox).and_then(|images| write_archive(&options.archive, &images));
    match written {
        Ok(digests) => {
            println!("{}: {} images", options.archive.display(), digests.len());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error} (the busybox must be static: Debian's busybox-static)");
            ExitCode::FAILURE
        }
    }
}
