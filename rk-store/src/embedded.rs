//! [`EmbeddedStore`]: the store that lives in this process.

mod disk;
mod durable;
mod expiry;
pub mod fuzzing;
mod history;
mod lock;
mod log;
mod memory;
mod record;
mod recovery;
mod segment;
mod snapshot;
mod tree;
mod watch;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;

use tokio::runtime::Handle;

pub use self::recovery::{OpenReport, TornTail};
use self::{
    disk::{Directory, Disk},
    durable::Durable,
    history::Limits,
    lock::DirLock,
    log::{Log, Spare, segment_number},
    memory::Memory,
    snapshot::{snapshot_name, snapshot_revision},
    tree::Tree,
    watch::Watch,
};
use crate::{
    Expect, Range, RangeResponse, Revision, Store, StoreError, VALUE_BYTES_MAX, Versioned,
    WatchStream,
};

/// How an [`EmbeddedStore`] is set up. `Options::default()` suits most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The store keeps at most so many past changes, for watches and for reads at a past revision.
    /// The oldest go first, some at a time. Default: 100,000.
    pub history_events_max: usize,
    /// The past changes kept have at most so many bytes, but for the newest few. Default: 64 MiB.
    pub history_bytes_max: usize,
    /// The size of the log's files, at least 4 KiB and less than 4 GiB. Default: 16 MiB.
    ///
    /// They are filled with zeros ahead of use, which takes a moment when a store is made.
    pub segment_bytes: u64,
    /// A snapshot is made when the log has grown by so much since the last one, or by as much as
    /// that one had, if it is more. Default: 64 MiB.
    ///
    /// After a restart, watches and past revisions reach back to the last snapshot at most.
    pub snapshot_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            history_events_max: 100_000,
            history_bytes_max: 64 << 20,
            segment_bytes: 16 << 20,
            snapshot_bytes: 64 << 20,
        }
    }
}

impl Options {
    fn limits(&self) -> Limits {
        Limits { events: self.history_events_max, bytes: self.history_bytes_max }
    }

    fn segment_bytes(&self) -> u64 {
        self.segment_bytes.clamp(4 << 10, segment::SEGMENT_BYTES_MAX).next_multiple_of(4 << 10)
    }
}

/// A [`Store`] in this process: in memory, or in memory and durable in a directory.
///
/// Clones are handles to one store. When the last is dropped, its tasks and its open watches end
/// and the directory is free again, though a snapshot that was just being made may hold it for
/// another moment: [`EmbeddedStore::close`] waits for that.
///
/// # Progress
/// A call of [`Store::revision`] makes every open watch report, soon, that it has delivered
/// everything up to that revision, if necessary by an empty batch.
///
/// # Time to live
/// Expiry follows tokio's clock. A directory does not remember when a key was written: after a
/// restart every key has its full time to live again.
///
/// # Failure
/// When the log cannot be written (disk full, a failed flush), the store becomes read-only: writes
/// fail with [`StoreError::Unavailable`], reads go on and show what is durable.
///
/// # Runtime
/// No call needs a tokio runtime, but without one a write blocks its thread while the disk works.
/// Keys expire only while a runtime runs in which the store was opened or written to: that is where
/// the task which deletes them lives.
#[derive(Clone, Debug)]
pub struct EmbeddedStore {
    core: Arc<Core>,
}

#[derive(Debug)]
struct Core {
    memory: Arc<Memory>,
    durable: Option<Arc<Durable>>,
    report: Option<OpenReport>,
}

impl EmbeddedStore {
    /// An empty store that lives as long as its handles do.
    pub fn in_memory() -> Self {
        Self::in_memory_with(&Options::default())
    }

    /// An empty store in memory that keeps as much history as `options` say.
    pub fn in_memory_with(options: &Options) -> Self {
        let memory = Arc::new(Memory::new(Tree::default(), 0, options.limits()));
        EmbeddedStore { core: Arc::new(Core { memory, durable: None, report: None }) }
    }

    /// Opens the store in `directory`, which is created if it is not there.
    ///
    /// The remains of a write that a crash interrupted, at the very end of the log, are cut off and
    /// [reported](EmbeddedStore::open_report); nobody was told that it happened. Everything else
    /// that is not as it was written fails with [`StoreError::Corrupt`]. Fails with
    /// [`StoreError::Locked`] when the directory is in use.
    pub async fn open(directory: impl AsRef<Path>, options: Options) -> Result<Self, StoreError> {
        let directory = directory.as_ref().to_owned();
        blocking(move || Self::open_now(&directory, &options)).await
    }

    fn open_now(directory: &Path, options: &Options) -> Result<Self, StoreError> {
        fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
        let lock = DirLock::acquire(directory)?;
        Self::open_disk(Arc::new(Directory::new(directory)), Some(lock), options)
    }

    fn open_disk(
        disk: Arc<dyn Disk>,
        lock: Option<DirLock>,
        options: &Options,
    ) -> Result<Self, StoreError> {
        let (segment_bytes, snapshot_bytes) = (options.segment_bytes(), options.snapshot_bytes);
        let recovered = recovery::recover(&disk, options.limits(), segment_bytes, snapshot_bytes)?;
        let memory = Arc::new(recovered.memory);
        let durable = Arc::new(Durable::new(memory.clone(), disk, recovered.log, lock));
        let report = Some(recovered.report);
        let core = Arc::new(Core { memory, durable: Some(durable), report });
        expiry::ensure(&core);
        Ok(EmbeddedStore { core })
    }

    /// What opening the directory found; `None` for a store in memory.
    pub fn open_report(&self) -> Option<&OpenReport> {
        self.core.report.as_ref()
    }

    /// Ends the store for all its handles: waits for the writes that were begun and lets go of the
    /// directory. Later writes fail, watches end, reads still work.
    pub async fn close(&self) {
        self.core.memory.close();
        if let Some(durable) = &self.core.durable {
            durable.close().await;
        }
    }

    /// Writes the state of this moment to the file `path`, while the store goes on.
    ///
    /// The file appears complete and durable or not at all, and replaces one that is there. It is
    /// for [`EmbeddedStore::restore`]. Returns the revision it stands for.
    pub async fn backup(&self, path: impl AsRef<Path>) -> Result<Revision, StoreError> {
        let (tree, revision) = self.core.memory.snapshot();
        let path = path.as_ref().to_owned();
        blocking(move || {
            let (disk, name) = file_in_directory(&path).map_err(|error| failed(&path, &error))?;
            let saved = snapshot::save(&disk, &name, &tree, revision, || false);
            saved.map_err(|error| failed(&path, &error))
        })
        .await?;
        Ok(Revision(revision))
    }

    /// Makes a store in `directory`, which must be empty or not exist, from a backup.
    ///
    /// It has the keys, values and revisions of the backup, and no history before it. Fails with
    /// [`StoreError::Corrupt`] when the backup is damaged, and with [`StoreError::NotEmpty`].
    pub async fn restore(
        backup: impl AsRef<Path>,
        directory: impl AsRef<Path>,
    ) -> Result<Revision, StoreError> {
        let (backup, directory) = (backup.as_ref().to_owned(), directory.as_ref().to_owned());
        blocking(move || restore(&backup, &directory)).await
    }
}

fn restore(backup: &Path, directory: &Path) -> Result<Revision, StoreError> {
    let (from, name) = file_in_directory(backup).map_err(|error| failed(backup, &error))?;
    let (tree, revision) = snapshot::load(&from, &name)?;

    let in_directory = |error: io::Error| failed(directory, &error);
    fs::create_dir_all(directory).map_err(in_directory)?;
    let _lock = DirLock::acquire(directory)?;
    let disk: Arc<dyn Disk> = Arc::new(Directory::new(directory));
    let names = disk.list().map_err(in_directory)?;
    if names.iter().any(|n| segment_number(n).is_some() || snapshot_revision(n).is_some()) {
        return Err(StoreError::NotEmpty { directory: directory.display().to_string() });
    }
    // The snapshot comes last: without it, opening complains about an incomplete directory.
    let options = Options::default();
    let spare = Arc::new(Spare::new(disk.clone(), options.segment_bytes()));
    Log::begin(spare, 1, revision, options.snapshot_bytes).map_err(in_directory)?;
    let name = snapshot_name(revision);
    snapshot::save(&*disk, &name, &tree, revision, || false).map_err(in_directory)?;
    Ok(Revision(revision))
}

fn file_in_directory(path: &Path) -> io::Result<(Directory, String)> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| io::Error::other("the path does not name a file"))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((Directory::new(parent.unwrap_or(&PathBuf::from("."))), name.to_owned()))
}

fn failed(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Unavailable { reason: format!("{}: {error}", path.display()) }
}

/// Runs what blocks where it may, or here if there is no runtime.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let Ok(runtime) = Handle::try_current() else { return work() };
    match runtime.spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::Unavailable { reason: error.to_string() }),
    }
}

impl Core {
    async fn put(
        self: &Arc<Self>,
        key: &str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(StoreError::TooLarge {
                key: key.into(),
                size_bytes: value.len(),
                max_bytes: VALUE_BYTES_MAX,
            });
        }
        let revision = match &self.durable {
            Some(durable) => durable.put(key, value, expect, ttl).await?,
            None => self.memory.put(key, value, expect, ttl)?,
        };
        if ttl.is_some() {
            expiry::ensure(self);
        }
        Ok(revision)
    }

    async fn delete(
        self: &Arc<Self>,
        key: &str,
        expect: Expect,
    ) -> Result<(Revision, Versioned), StoreError> {
        match &self.durable {
            Some(durable) => durable.delete(key, expect).await,
            None => self.memory.delete(key, expect),
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.memory.close();
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        Ok(self.core.memory.read().tree.get(key).map(|entry| entry.item.clone()))
    }

    async fn range(&self, range: Range<'_>) -> Result<RangeResponse, StoreError> {
        self.core.memory.range(range)
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        ttl: Option<Duration>,
    ) -> Result<Revision, StoreError> {
        self.core.put(key, value, expect, ttl).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<(Revision, Versioned), StoreError> {
        self.core.delete(key, expect).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        let revision = self.core.memory.revision();
        self.core.memory.ask_progress(revision);
        Ok(Revision(revision))
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, StoreError> {
        self.core.memory.check_open()?;
        Ok(Box::pin(Watch::start(self.core.memory.clone(), prefix, from)?))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let mut state = self.core.memory.write();
        let latest = Revision(state.history.last());
        if revision > latest {
            return Err(StoreError::Future { asked: revision, latest });
        }
        state.history.compact(revision.0);
        Ok(())
    }
}
