//! The log sink: a line for each event.

use std::{
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::{
    AuditError, AuditSink,
    config::{AuditLog, LogFormat},
    event::Event,
    rotate::{Limits, RotatingFile},
};

/// The path that means standard output.
const STDOUT: &str = "-";

/// The size of a file that says none, in MiB.
const DEFAULT_SIZE_MB: u64 = 100;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct LogSink {
    format: LogFormat,
    out: Out,
}

#[derive(Debug)]
enum Out {
    Stdout,
    /// The lock is held for a write to the page cache.
    File(Mutex<RotatingFile>),
}

impl LogSink {
    /// Opens the log.
    pub(super) fn open(config: &AuditLog) -> io::Result<Self> {
        let out = if config.path.as_os_str() == STDOUT {
            Out::Stdout
        } else {
            let size_mb =
                if config.max_size_mb == 0 { DEFAULT_SIZE_MB } else { config.max_size_mb };
            let limits = Limits {
                bytes_max: size_mb.saturating_mul(1024 * 1024),
                age_days_max: config.max_age_days,
                backups_max: config.max_backups,
                compress: config.compress,
            };
            Out::File(Mutex::new(RotatingFile::open(Path::new(&config.path), limits)?))
        };
        Ok(Self { format: config.format, out })
    }
}

#[async_trait]
impl AuditSink for LogSink {
    async fn process(&self, events: &[Arc<Event>]) -> Result<(), AuditError> {
        let mut line = Vec::new();
        for event in events {
            line.clear();
            match self.format {
                LogFormat::Json => {
                    serde_json::to_writer(&mut line, event.as_ref()).map_err(io::Error::from)?
                }
                LogFormat::Legacy => line.extend_from_slice(event.legacy_line().as_bytes()),
            }
            line.push(b'\n');
            match &self.out {
                Out::Stdout => io::stdout().lock().write_all(&line)?,
                Out::File(file) => file.lock().write(&line)?,
            }
        }
        Ok(())
    }

    async fn flush(&self) {
        if let Out::File(file) = &self.out
            && let Err(error) = file.lock().sync()
        {
            tracing::warn!(%error, "cannot flush the audit log");
        }
    }
}
