//! Container images on the node: importing them, keeping them unpacked, and building small ones.
//!
//! An [`ImageStore`] is a directory. [`ImageStore::import`] takes an OCI layout (a directory or a tar
//! archive) or what `docker save` writes, checks every digest, and unpacks each layer once into a
//! directory that overlayfs can stack. [`build::ImageBuilder`] writes such archives.
//!
//! # Invariants
//! - What an archive says is never trusted: names cannot leave the layer's directory, digests and
//!   sizes are checked, and an import that fails leaves the store as it was.
//! - A layer's directory is complete as soon as it has its final name, and is never changed after.
//! - The index is replaced as a whole, so that a crash leaves the old one or the new one.

mod blobs;
pub mod build;
pub mod manifest;
mod name;
pub mod registry;
pub mod samples;
mod source;
mod store;
mod unpack;
mod zstd;

use std::{fmt, path::PathBuf};

use sha2::{Digest as _, Sha256};

pub use name::ImageName;
pub use store::{ImageConfig, ImageStore, ImportOptions, Limits, StoredImage};

/// A sha256 digest, the only algorithm that is supported.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(Sha256::digest(bytes).as_slice())
    }

    /// From the 32 bytes of the hash.
    pub(crate) fn from_hash(hash: &[u8]) -> Self {
        Self(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The 64 hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl std::str::FromStr for Digest {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let lower_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        match text.strip_prefix("sha256:") {
            Some(hex) if hex.len() == 64 && hex.chars().all(lower_hex) => Ok(Self(hex.to_owned())),
            _ => Err(ImageError::Malformed {
                what: "digest".to_owned(),
                why: format!("{text:?} is not sha256: with 64 lower case hexadecimal digits"),
            }),
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = ImageError;

    fn try_from(text: String) -> Result<Self, ImageError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// Why an image could not be read, kept or found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The name of an image is not one.
    #[error("invalid image name {name:?}: {why}")]
    Name {
        /// The name.
        name: String,
        /// What a name must look like.
        why: String,
    },
    /// The file is neither an OCI layout nor a Docker archive.
    #[error("{} is not an image: {why}", path.display())]
    NotAnImage {
        /// The file or directory.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
    /// A document of the image cannot be understood.
    #[error("malformed {what}: {why}")]
    Malformed {
        /// Which document.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// Something the image refers to is not in the archive.
    #[error("{what} is missing from the image")]
    Missing {
        /// The blob or file.
        what: String,
    },
    /// Content and digest differ.
    #[error("{what} has digest {found}, not {expected}: its content is damaged or was replaced")]
    DigestMismatch {
        /// The blob.
        what: String,
        /// The digest it goes by.
        expected: Digest,
        /// The digest its content has.
        found: Digest,
    },
    /// The content ends early, or is longer than it says.
    #[error("{what} is truncated or damaged: {why}")]
    Damaged {
        /// The blob.
        what: String,
        /// What came back.
        why: String,
    },
    /// A limit that keeps a hostile image from using up the node.
    #[error("{what} is larger than the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// A layer's entry would reach outside the layer, or does what no layer may do.
    #[error("layer entry {entry:?} is refused: {why}")]
    Hostile {
        /// The entry's name.
        entry: String,
        /// What it tried.
        why: String,
    },
    /// A format this store does not read.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// No image of the archive fits this machine.
    #[error("no match for platform {wanted}: the image is for {found}")]
    Platform {
        /// This machine's platform.
        wanted: String,
        /// The platforms there.
        found: String,
    },
    /// The disk refused.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// What came back.
        #[source]
        source: std::io::Error,
    },
}

impl ImageError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    fn malformed(what: &str) -> impl FnOnce(serde_json::Error) -> Self {
        let what = what.to_owned();
        move |error| Self::Malformed { what, why: error.to_string() }
    }
}
