//! Fetching one blob to the disk: goes on where it broke off, and believes nothing.

use std::{io::SeekFrom, time::Duration};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use hyper::{Response, body::Incoming};
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
};

use super::{
    PullError,
    endpoint::{Ask, Endpoint, next_chunk},
};
use crate::{
    images::{Digest, ImageError, blobs::Lease, manifest::Descriptor},
    runtime::RegistryAuth,
};

/// How often a blob is asked for again after its connection broke without having brought anything.
const TRIES: u32 = 3;
/// Before the second try; it doubles.
const PAUSE: Duration = Duration::from_millis(250);

/// A blob to fetch.
pub(super) struct Blob<'a> {
    pub(super) repository: &'a str,
    pub(super) descriptor: &'a Descriptor,
    pub(super) auth: Option<&'a RegistryAuth>,
    pub(super) idle: Duration,
}

/// What has been written so far.
struct Progress {
    file: File,
    length: u64,
    hash: Sha256,
}

impl Blob<'_> {
    /// Fetches it from `endpoint` to where `lease` wants it, unless it is there.
    pub(super) async fn fetch(&self, endpoint: &Endpoint, lease: &Lease) -> Result<(), PullError> {
        let _alone = lease.fetching().await;
        if tokio::fs::try_exists(lease.path()).await.unwrap_or(false) {
            return Ok(());
        }
        let mut progress = Progress::open(lease).await.map_err(disk("cannot keep a layer"))?;
        if progress.length > self.descriptor.size {
            progress.restart().await.map_err(disk("cannot keep a layer"))?;
        }
        let (mut failures, mut pause) = (0, PAUSE);
        while progress.length < self.descriptor.size {
            let before = progress.length;
            match self.more(endpoint, &mut progress).await {
                Ok(()) => {}
                Err(error @ PullError::Unavailable { .. }) => {
                    progress.file.flush().await.map_err(disk("cannot keep a layer"))?;
                    failures = if progress.length > before { 0 } else { failures + 1 };
                    if failures >= TRIES {
                        return Err(error);
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(10));
                }
                Err(error) => return Err(error),
            }
        }
        progress.file.flush().await.map_err(disk("cannot keep a layer"))?;
        let found = Digest::from_hash(progress.hash.finalize().as_slice());
        if found != self.descriptor.digest {
            // To go on from it would never help.
            let _ = tokio::fs::remove_file(lease.partial()).await;
            return Err(PullError::Image(ImageError::DigestMismatch {
                what: self.name(),
                expected: self.descriptor.digest.clone(),
                found,
            }));
        }
        let named = tokio::fs::rename(lease.partial(), lease.path()).await;
        named.map_err(disk("cannot keep a layer"))
    }

    fn name(&self) -> String {
        format!("blob {}", self.descriptor.digest)
    }

    /// One request for what is missing.
    async fn more(&self, endpoint: &Endpoint, progress: &mut Progress) -> Result<(), PullError> {
        let mut headers = HeaderMap::new();
        if progress.length > 0 {
            let range = HeaderValue::try_from(format!("bytes={}-", progress.length));
            headers.extend(range.ok().map(|range| (header::RANGE, range)));
        }
        let ask = Ask {
            method: Method::GET,
            repository: self.repository,
            rest: format!("blobs/{}", self.descriptor.digest),
            headers,
            auth: self.auth,
        };
        let answer = endpoint.send(&ask).await?;
        if !goes_on(&answer, progress.length) {
            progress.restart().await.map_err(disk("cannot keep a layer"))?;
        }
        if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(PullError::Unavailable {
                what: self.name(),
                why: "the registry does not go on from where it was".to_owned(),
            });
        }
        let mut body = answer.into_body();
        let what = self.name();
        while let Some(chunk) = next_chunk(&what, &mut body, self.idle).await? {
            if progress.length + chunk.len() as u64 > self.descriptor.size {
                progress.restart().await.map_err(disk("cannot keep a layer"))?;
                return Err(PullError::Image(ImageError::Damaged {
                    what,
                    why: format!("it is longer than the {} bytes it has", self.descriptor.size),
                }));
            }
            progress.file.write_all(&chunk).await.map_err(disk("cannot keep a layer"))?;
            progress.hash.update(&chunk);
            progress.length += chunk.len() as u64;
        }
        if progress.length < self.descriptor.size {
            return Err(PullError::Unavailable {
                what,
                why: format!("it ends after {} of {} bytes", progress.length, self.descriptor.size),
            });
        }
        Ok(())
    }
}

/// Whether an answer continues what there is of `length`.
fn goes_on(answer: &Response<Incoming>, length: u64) -> bool {
    if length == 0 {
        return answer.status() != StatusCode::PARTIAL_CONTENT || range_start(answer) == Some(0);
    }
    answer.status() == StatusCode::PARTIAL_CONTENT && range_start(answer) == Some(length)
}

/// The first byte of a partial answer (RFC 9110, section 14.4): `bytes 5-9/10`.
fn range_start(answer: &Response<Incoming>) -> Option<u64> {
    let range = answer.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

impl Progress {
    /// Opens what an earlier pull left, and hashes it.
    async fn open(lease: &Lease) -> std::io::Result<Self> {
        let mut options = File::options();
        options.create(true).truncate(false).read(true).write(true);
        let mut file = options.open(lease.partial()).await?;
        let mut progress = Self { file: file.try_clone().await?, length: 0, hash: Sha256::new() };
        let mut buffer = vec![0; 128 << 10];
        loop {
            let read = file.read(&mut buffer).await?;
            if read == 0 {
                return Ok(progress);
            }
            progress.hash.update(&buffer[..read]);
            progress.length += read as u64;
        }
    }

    async fn restart(&mut self) -> std::io::Result<()> {
        self.file.flush().await?;
        self.file.set_len(0).await?;
        self.file.seek(SeekFrom::Start(0)).await?;
        self.length = 0;
        self.hash = Sha256::new();
        Ok(())
    }
}

fn disk(what: &str) -> impl FnOnce(std::io::Error) -> PullError {
    let what = what.to_owned();
    move |error| PullError::Image(ImageError::io(what)(error))
}
