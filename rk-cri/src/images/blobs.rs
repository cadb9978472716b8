//! Blobs on their way from a registry into the store.
//!
//! A blob that is being fetched is `partial/<hex>`, and stays there when the connection or the process
//! breaks, so that the next pull goes on from it. One that is whole is `blobs/sha256/<hex>`, as in an
//! OCI layout, until no pull wants it any more. Neither is believed: importing checks every digest.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{Digest, ImageError, store::remove_if_there};

/// The two directories, and which of their files are in use.
#[derive(Debug)]
pub(super) struct Blobs {
    whole: PathBuf,
    partial: PathBuf,
    leases: Mutex<HashMap<Digest, Held>>,
}

#[derive(Debug, Default)]
struct Held {
    count: usize,
    /// Held by the one that fetches it.
    fetching: Arc<tokio::sync::Mutex<()>>,
}

/// A blob that a pull wants. While there is one, nobody removes what there is of it.
#[derive(Debug)]
pub(super) struct Lease {
    blobs: Arc<Blobs>,
    digest: Digest,
    fetching: Arc<tokio::sync::Mutex<()>>,
}

impl Blobs {
    /// Opens the directories below `root`, which are made if missing.
    pub(super) fn open(root: &Path) -> Result<Arc<Self>, ImageError> {
        let (whole, partial) = (root.join("blobs/sha256"), root.join("partial"));
        for directory in [&whole, &partial] {
            fs::create_dir_all(directory)
                .map_err(ImageError::io(format!("cannot make {}", directory.display())))?;
        }
        Ok(Arc::new(Self { whole, partial, leases: Mutex::default() }))
    }

    /// Takes out a lease on a blob.
    pub(super) fn lease(self: &Arc<Self>, digest: &Digest) -> Lease {
        let mut leases = self.leases.lock();
        let held = leases.entry(digest.clone()).or_default();
        held.count += 1;
        let fetching = held.fetching.clone();
        Lease { blobs: self.clone(), digest: digest.clone(), fetching }
    }

    /// Removes what no pull is working on.
    pub(super) fn sweep(&self) -> Result<(), ImageError> {
        for directory in [&self.whole, &self.partial] {
            let entries = fs::read_dir(directory)
                .map_err(ImageError::io(format!("cannot read {}", directory.display())))?;
            for entry in entries.flatten() {
                let leases = self.leases.lock();
                let name = entry.file_name();
                let held = leases.keys().any(|digest| name == digest.hex());
                if !held {
                    remove_if_there(&entry.path(), fs::remove_file(entry.path()))?;
                }
            }
        }
        Ok(())
    }
}

impl Lease {
    /// The file once it is whole.
    pub(super) fn path(&self) -> PathBuf {
        self.blobs.whole.join(self.digest.hex())
    }

    /// The file while it is fetched.
    pub(super) fn partial(&self) -> PathBuf {
        self.blobs.partial.join(self.digest.hex())
    }

    /// Waits for whoever fetches it now, and keeps others from fetching it.
    pub(super) async fn fetching(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.fetching.clone().lock_owned().await
    }
}

impl Drop for Lease {
    /// The last one takes the whole blob away: its layer is unpacked, or could not be.
    fn drop(&mut self) {
        let mut leases = self.blobs.leases.lock();
        let Some(held) = leases.get_mut(&self.digest) else { return };
        held.count -= 1;
        if held.count == 0 {
            leases.remove(&self.digest);
            // Whatever stays is swept with the unused layers.
            let _ = fs::remove_file(self.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_goes_with_its_last_lease_and_a_part_of_one_stays() {
        let root = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(root.path()).unwrap();
        let digest = Digest::of(b"layer");
        let (one, two) = (blobs.lease(&digest), blobs.lease(&digest));
        fs::write(one.path(), "layer").unwrap();
        fs::write(one.partial(), "la").unwrap();
        drop(one);
        blobs.sweep().unwrap();
        assert!(two.path().exists() && two.partial().exists());
        let (whole, partial) = (two.path(), two.partial());
        drop(two);
        assert!(!whole.exists() && partial.exists());
        blobs.sweep().unwrap();
        assert!(!partial.exists());
    }
}
