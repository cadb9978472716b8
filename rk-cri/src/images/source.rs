//! Where an image comes from: a directory or a tar archive, seen as names with contents; and the
//! documents in it (OCI image specification 1.1, and `docker save`'s `manifest.json`).

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;

use super::{
    Digest, ImageError,
    manifest::{
        DOCUMENT_BYTES_MAX, Descriptor, Document, INDEX_DEPTH_MAX, Index, Manifest, architecture,
    },
};

/// The most files an archive may have at its top level; layers count as one each.
const ARCHIVE_ENTRIES_MAX: usize = 100_000;
/// The most manifests looked at in one archive.
const MANIFESTS_MAX: usize = 256;

/// One image of a source, its layers in order from the bottom.
#[derive(Debug)]
pub(super) struct FoundImage {
    pub(super) names: Vec<String>,
    /// None for an archive of `docker save`, which has no OCI manifest.
    pub(super) manifest: Option<Digest>,
    pub(super) config: Vec<u8>,
    pub(super) config_digest: Digest,
    pub(super) layers: Vec<LayerRef>,
}

impl FoundImage {
    /// The image of `manifest` with this configuration, known by `digest`: the manifest's own, or
    /// that of the index it was found in. Its layers are blobs of the source.
    pub(super) fn new(
        names: Vec<String>,
        digest: Digest,
        config: Vec<u8>,
        manifest: &Manifest,
    ) -> Self {
        let layer = |layer: &Descriptor| LayerRef {
            name: blob_name(&layer.digest),
            digest: Some(layer.digest.clone()),
            size: Some(layer.size),
        };
        Self {
            names,
            manifest: Some(digest),
            config,
            config_digest: manifest.config.digest.clone(),
            layers: manifest.layers.iter().map(layer).collect(),
        }
    }
}

/// A layer's content in the source.
#[derive(Clone, Debug)]
pub(super) struct LayerRef {
    /// The file's name in the source.
    pub(super) name: String,
    /// The digest of the content as stored; unknown for `docker save`.
    pub(super) digest: Option<Digest>,
    /// The size as stored; unknown for `docker save`.
    pub(super) size: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Files by name, read any number of times.
#[derive(Debug)]
pub(super) enum Source {
    Directory(PathBuf),
    Archive { file: Arc<File>, entries: HashMap<String, (u64, u64)> },
}

impl Source {
    /// Opens a layout directory or an archive; a compressed archive is first unpacked into `temp`.
    pub(super) fn open(path: &Path, temp: &Path) -> Result<Self, ImageError> {
        let what = || format!("cannot read {}", path.display());
        let meta = fs::metadata(path).map_err(ImageError::io(what()))?;
        if meta.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        let mut file = File::open(path).map_err(ImageError::io(what()))?;
        let mut magic = [0; 2];
        let read = file.read(&mut magic).map_err(ImageError::io(what()))?;
        file.rewind().map_err(ImageError::io(what()))?;
        if read == 2 && magic == [0x1f, 0x8b] {
            file = decompressed(&file, path, temp)?;
        }
        let entries = scan(&file, path)?;
        Ok(Self::Archive { file: Arc::new(file), entries })
    }

    /// Opens the file of this name with its size.
    pub(super) fn read(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64), ImageError> {
        let missing = || ImageError::Missing { what: name.to_owned() };
        match self {
            Self::Directory(root) => {
                let path = root.join(name);
                let file = fs::OpenOptions::new()
                    .read(true)
                    .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                    .open(&path)
                    .map_err(|error| match error.kind() {
                        io::ErrorKind::NotFound => missing(),
                        _ => ImageError::io(format!("cannot read {}", path.display()))(error),
                    })?;
                let meta = file.metadata().map_err(ImageError::io(name))?;
                if !meta.is_file() {
                    return Err(missing());
                }
                Ok((Box::new(file), meta.len()))
            }
            Self::Archive { file, entries } => {
                let (offset, size) = *entries.get(name).ok_or_else(missing)?;
                Ok((Box::new(Section { file: file.clone(), at: offset, end: offset + size }), size))
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::Directory(root) => root.join(name).is_file(),
            Self::Archive { entries, .. } => entries.contains_key(name),
        }
    }

    /// A small file as a whole.
    fn document(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let (reader, size) = self.read(name)?;
        if size > DOCUMENT_BYTES_MAX {
            return Err(ImageError::TooLarge { what: name.to_owned(), limit: "4 MiB".to_owned() });
        }
        let mut bytes = Vec::with_capacity(size as usize);
        reader
            .take(DOCUMENT_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(ImageError::io(format!("cannot read {name}")))?;
        if bytes.len() as u64 != size {
            return Err(ImageError::Damaged {
                what: name.to_owned(),
                why: format!("{} of {size} bytes are there", bytes.len()),
            });
        }
        Ok(bytes)
    }

    /// A small blob, checked against its descriptor.
    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let name = blob_name(&descriptor.digest);
        let bytes = self.document(&name)?;
        if bytes.len() as u64 != descriptor.size {
            return Err(ImageError::Damaged {
                what: name,
                why: format!("it has {} bytes, not {}", bytes.len(), descriptor.size),
            });
        }
        let found = Digest::of(&bytes);
        if found != descriptor.digest {
            return Err(ImageError::DigestMismatch {
                what: name,
                expected: descriptor.digest.clone(),
                found,
            });
        }
        Ok(bytes)
    }

    /// All images in it that run on this machine. `path` names it in errors and stands in for the
    /// repository when the archive gives only a tag.
    pub(super) fn images(&self, path: &Path) -> Result<Vec<FoundImage>, ImageError> {
        if self.has("index.json") {
            let index: Index = serde_json::from_slice(&self.document("index.json")?)
                .map_err(ImageError::malformed("index.json"))?;
            let mut found = Vec::new();
            let mut budget = MANIFESTS_MAX;
            for descriptor in &index.manifests {
                let names = names_of(descriptor, path);
                if let Some(image) = self.resolve(descriptor, names, 0, &mut budget)? {
                    found.push(image);
                }
            }
            if found.is_empty() {
                return Err(ImageError::Platform {
                    wanted: format!("linux/{}", architecture()),
                    found: index.platforms(),
                });
            }
            return Ok(found);
        }
        if self.has("manifest.json") {
            return self.docker_images();
        }
        Err(ImageError::NotAnImage {
            path: path.to_owned(),
            why: "it has neither index.json (OCI) nor manifest.json (docker save)".to_owned(),
        })
    }

    /// The image a descriptor leads to, through any index to this machine's platform.
    fn resolve(
        &self,
        descriptor: &Descriptor,
        names: Vec<String>,
        depth: u32,
        budget: &mut usize,
    ) -> Result<Option<FoundImage>, ImageError> {
        *budget = budget.checked_sub(1).ok_or_else(|| ImageError::TooLarge {
            what: "the archive's index".to_owned(),
            limit: format!("{MANIFESTS_MAX} manifests"),
        })?;
        let bytes = self.blob(descriptor)?;
        let index = match Document::parse(&descriptor.media_type, &bytes)? {
            Document::Image(_) if descriptor.platform.as_ref().is_some_and(|p| !p.is_here()) => {
                return Ok(None);
            }
            Document::Image(manifest) => {
                return self.image(&descriptor.digest, manifest, names).map(Some);
            }
            Document::Index(index) => index,
        };
        if depth >= INDEX_DEPTH_MAX {
            return Err(ImageError::TooLarge {
                what: "the nesting of the archive's indexes".to_owned(),
                limit: INDEX_DEPTH_MAX.to_string(),
            });
        }
        let fitting = index.fitting()?;
        self.resolve(fitting, names, depth + 1, budget)
    }

    fn image(
        &self,
        digest: &Digest,
        manifest: Manifest,
        names: Vec<String>,
    ) -> Result<FoundImage, ImageError> {
        let config = self.blob(&manifest.config)?;
        Ok(FoundImage::new(names, digest.clone(), config, &manifest))
    }

    fn docker_images(&self) -> Result<Vec<FoundImage>, ImageError> {
        let entries: Vec<DockerEntry> = serde_json::from_slice(&self.document("manifest.json")?)
            .map_err(ImageError::malformed("manifest.json"))?;
        entries
            .into_iter()
            .map(|entry| {
                let config = self.document(&entry.config)?;
                let config_digest = Digest::of(&config);
                // docker save names the configuration after its digest.
                let stem = entry.config.trim_end_matches(".json");
                let stem = stem.rsplit('/').next().unwrap_or(stem);
                if let Ok(named) = format!("sha256:{stem}").parse::<Digest>()
                    && named != config_digest
                {
                    return Err(ImageError::DigestMismatch {
                        what: entry.config,
                        expected: named,
                        found: config_digest,
                    });
                }
                let layers = entry
                    .layers
                    .into_iter()
                    .map(|name| LayerRef { name, digest: None, size: None })
                    .collect();
                let names = entry.repo_tags.unwrap_or_default();
                Ok(FoundImage { names, manifest: None, config, config_digest, layers })
            })
            .collect()
    }
}

pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The names an index gives a manifest. The OCI annotation may hold a whole name or only a tag;
/// with only a tag, the archive's own file name is the repository.
fn names_of(descriptor: &Descriptor, path: &Path) -> Vec<String> {
    let annotation = |key: &str| descriptor.annotations.as_ref().and_then(|all| all.get(key));
    if let Some(name) = annotation("io.containerd.image.name") {
        return vec![name.clone()];
    }
    match annotation("org.opencontainers.image.ref.name") {
        Some(name) if name.contains([':', '/']) => vec![name.clone()],
        Some(tag) => {
            let file = path.file_name().map(|name| name.to_string_lossy().to_lowercase());
            let stem = file.as_deref().and_then(|name| name.split('.').next()).unwrap_or_default();
            if stem.is_empty() { Vec::new() } else { vec![format!("{stem}:{tag}")] }
        }
        None => Vec::new(),
    }
}

/// Unpacks a gzip archive into an unlinked temporary file, so that it can be read at any place.
fn decompressed(file: &File, path: &Path, temp: &Path) -> Result<File, ImageError> {
    let mut plain = tempfile::tempfile_in(temp)
        .map_err(ImageError::io(format!("cannot make a file in {}", temp.display())))?;
    let mut reader =
        flate2::read::MultiGzDecoder::new(file).take(super::unpack::UNPACKED_BYTES_MAX + 1);
    let written = io::copy(&mut reader, &mut plain).map_err(|error| ImageError::Damaged {
        what: path.display().to_string(),
        why: error.to_string(),
    })?;
    if written > super::unpack::UNPACKED_BYTES_MAX {
        return Err(ImageError::TooLarge {
            what: path.display().to_string(),
            limit: "64 GiB unpacked".to_owned(),
        });
    }
    plain
        .flush()
        .and_then(|()| plain.rewind())
        .map_err(ImageError::io(format!("cannot unpack {}", path.display())))?;
    Ok(plain)
}

/// The places of all files in an archive. Links (old `docker save` links equal layers) are followed.
fn scan(file: &File, path: &Path) -> Result<HashMap<String, (u64, u64)>, ImageError> {
    let damaged = |error: io::Error| ImageError::NotAnImage {
        path: path.to_owned(),
        why: format!("it is not a tar archive: {error}"),
    };
    let length = file.metadata().map_err(damaged)?.len();
    let mut archive = tar::Archive::new(file);
    let mut entries = HashMap::new();
    let mut links = Vec::new();
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        if entries.len() + links.len() >= ARCHIVE_ENTRIES_MAX {
            return Err(ImageError::TooLarge {
                what: path.display().to_string(),
                limit: format!("{ARCHIVE_ENTRIES_MAX} files"),
            });
        }
        let name = entry.path().map_err(damaged)?.to_string_lossy().into_owned();
        let name = name.trim_start_matches("./").to_owned();
        match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let (offset, size) = (entry.raw_file_position(), entry.size());
                if offset.checked_add(size).is_none_or(|end| end > length) {
                    return Err(ImageError::Damaged {
                        what: format!("{name} in {}", path.display()),
                        why: "the archive ends before it does".to_owned(),
                    });
                }
                entries.insert(name, (offset, size));
            }
            tar::EntryType::Symlink | tar::EntryType::Link => {
                let target = entry.link_name().map_err(damaged)?.unwrap_or_default();
                links.push((name, target.to_string_lossy().into_owned()));
            }
            _ => {}
        }
    }
    for (name, target) in links {
        let parent = Path::new(&name).parent().unwrap_or(Path::new(""));
        let beside = flattened(&parent.join(&target));
        if let Some(place) = entries.get(&beside).or_else(|| entries.get(&target)).copied() {
            entries.insert(name, place);
        }
    }
    Ok(entries)
}

/// `a/../b` is `b`. Only ever a key of the map of entries, never a path of the file system.
fn flattened(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            std::path::Component::ParentDir => {
                parts.pop();
            }
            _ => {}
        }
    }
    parts.join("/")
}

/// A part of a file, read without moving the file's own position.
struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = (self.end - self.at).min(buffer.len() as u64) as usize;
        let read = self.file.read_at(&mut buffer[..left], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
