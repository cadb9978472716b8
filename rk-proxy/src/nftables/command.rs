//! Running `nft` in a network namespace.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
};

use super::{NftablesConfig, base, compile::Fingerprint};
use crate::{Family, ProxyError};

/// Of an error's text this much is passed on: `nft` prints the whole failing line with it.
const REASON_MAX: usize = 1000;

#[derive(Debug)]
pub(super) struct Nft {
    program: PathBuf,
    netns: Option<PathBuf>,
    table: String,
    timeout: Duration,
}

impl Nft {
    pub(super) fn new(config: &NftablesConfig) -> Self {
        Self {
            program: config.nft.clone(),
            netns: config.netns.clone(),
            table: config.table.clone(),
            timeout: config.timeout,
        }
    }

    /// Commits a transaction: all of it or nothing.
    pub(super) async fn run(&self, transaction: String) -> Result<(), ProxyError> {
        self.output(&["-f", "-"], transaction).await.map(drop)
    }

    /// Whether the kernel would take a transaction.
    pub(super) async fn check(&self, transaction: String) -> Result<(), ProxyError> {
        self.output(&["-c", "-f", "-"], transaction).await.map(drop)
    }

    /// The families that have a table of our name, in order.
    pub(super) async fn tables(&self) -> Result<Vec<Family>, ProxyError> {
        let listed = self.output(&["list", "tables"], String::new()).await?;
        let has = |family| {
            let line = format!("table {} {}", base::ip(family), self.table);
            listed.lines().any(|listed| listed.trim_end() == line)
        };
        Ok([Family::V4, Family::V6].into_iter().filter(|family| has(*family)).collect())
    }

    /// The fingerprint in the table of a family.
    pub(super) async fn fingerprint(
        &self,
        family: Family,
    ) -> Result<Option<Fingerprint>, ProxyError> {
        let list = base::list_fingerprint(family, &self.table);
        let listed = self.output(&list, String::new()).await?;
        Ok(base::parse_fingerprint(&listed))
    }

    async fn output(&self, arguments: &[&str], input: String) -> Result<String, ProxyError> {
        let child = self.spawn(arguments).await?;
        let finished = tokio::time::timeout(self.timeout, finish(child, input)).await;
        let output = finished
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| self.unavailable(source))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let reason = String::from_utf8_lossy(&output.stderr);
        if reason.contains("must be root") {
            return Err(ProxyError::Unsupported("the right to change nftables".to_owned()));
        }
        Err(ProxyError::Rejected(reason.trim().chars().take(REASON_MAX).collect()))
    }

    async fn spawn(&self, arguments: &[&str]) -> Result<Child, ProxyError> {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // A process belongs to the namespace of the thread that starts it.
        let spawned = rk_net::netns::run_async(self.netns.clone(), move || command.spawn()).await;
        spawned.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound if self.netns.as_deref().is_none_or(Path::exists) => {
                ProxyError::Unsupported(format!("the command {}", self.program.display()))
            }
            _ => self.unavailable(source),
        })
    }

    fn unavailable(&self, source: io::Error) -> ProxyError {
        ProxyError::Unavailable { doing: format!("running {}", self.program.display()), source }
    }
}

async fn finish(mut child: Child, input: String) -> io::Result<Output> {
    let stdin = child.stdin.take();
    let write = async move {
        if let Some(mut stdin) = stdin {
            // A process that fails early stops reading; what it says counts, not the broken pipe.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let ((), output) = tokio::join!(write, child.wait_with_output());
    output
}
