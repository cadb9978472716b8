//! One process, and one store in it, per directory.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::Path,
};

use crate::StoreError;

/// Holds a directory until it is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub(super) struct DirLock {
    _file: File,
}

impl DirLock {
    pub(super) fn acquire(directory: &Path) -> Result<DirLock, StoreError> {
        let path = directory.join("LOCK");
        let failed = |error| StoreError::Unavailable { reason: format!("{path:?}: {error}") };
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(DirLock { _file: file }),
            Err(TryLockError::WouldBlock) => {
                Err(StoreError::Locked { directory: directory.display().to_string() })
            }
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }
}
