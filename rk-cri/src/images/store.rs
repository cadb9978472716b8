//! The directory that keeps images: blobs of their documents, unpacked layers, and an index.
//!
//! ```text
//! images/index.json            names, ids and layers of all images, replaced as a whole
//! images/configs/<hex>         configurations, under their digest
//! images/layers/<hex>          unpacked layers, under the digest of their chain
//! images/temp/                 imports under way; emptied when the store is opened
//! images/partial/<hex>         blobs that are being pulled, see `blobs.rs`
//! images/blobs/sha256/<hex>    blobs that were pulled and are not unpacked yet
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    Digest, ImageError, ImageName,
    blobs::{Blobs, Lease},
    source::{FoundImage, Source},
    unpack::unpack,
};
use crate::runtime::Image;

/// The most layers an image may have: overlayfs takes one memory page of options.
pub(super) const LAYERS_MAX: usize = 80;
/// Hexadecimal digits of a layer's directory name. 160 bits, so that the names fit overlayfs'
/// options and still cannot collide.
const LAYER_NAME_DIGITS: usize = 40;

/// The part of an image's configuration that says how to run it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// The user: a name or id, with an optional `:group`. Empty is root.
    pub user: String,
    /// Environment as `NAME=value`.
    #[serde(deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// The program with its first arguments.
    #[serde(deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program when there is no entrypoint.
    #[serde(deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    /// The working directory; empty is `/`.
    pub working_dir: String,
    /// The signal that asks it to stop; empty is `SIGTERM`.
    pub stop_signal: String,
    /// Labels.
    #[serde(deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
}

/// Go writes empty lists as null.
fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Debug, Deserialize)]
struct ConfigDocument {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    config: Option<ImageConfig>,
    #[serde(default)]
    rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

/// An image that is ready to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    /// Id, names and size.
    pub image: Image,
    /// How to run it.
    pub config: ImageConfig,
    /// Names of the directories of its layers below [`ImageStore::layers_dir`], the bottom first.
    pub layers: Vec<String>,
}

/// How to import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Names the image, instead of the names in the archive. Only for an archive with one image.
    pub name: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Index {
    images: BTreeMap<Digest, Record>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Record {
    /// Whole names with tags. A name belongs to one image only.
    tags: BTreeSet<String>,
    /// Repositories with the manifest's digest.
    digests: BTreeSet<String>,
    manifest: Option<Digest>,
    config: ImageConfig,
    layers: Vec<String>,
    size_bytes: u64,
    /// It was handed over as a file, so that nobody could fetch it again.
    #[serde(default = "from_a_file")]
    imported: bool,
}

/// Before there were pulls, there was nothing else.
fn from_a_file() -> bool {
    true
}

impl Record {
    fn image(&self, id: &Digest) -> Image {
        Image {
            id: id.to_string(),
            tags: self.tags.iter().cloned().collect(),
            digests: self.digests.iter().cloned().collect(),
            size_bytes: self.size_bytes,
            user: self.config.user.clone(),
            pinned: self.imported,
        }
    }
}

/// Images in a directory. One process uses a directory at a time; its threads may share it.
#[derive(Debug)]
pub struct ImageStore {
    root: PathBuf,
    index: Mutex<Index>,
    /// One import at a time, so that a layer is unpacked once.
    importing: Mutex<()>,
    blobs: Arc<Blobs>,
    limits: Limits,
}

/// What a hostile image may use up at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one layer, unpacked.
    pub layer_bytes: u64,
    /// Files and directories of one layer.
    pub layer_entries: u64,
}

impl Default for Limits {
    /// 64 GiB and ten million entries.
    fn default() -> Self {
        Self { layer_bytes: super::unpack::UNPACKED_BYTES_MAX, layer_entries: 10_000_000 }
    }
}

impl ImageStore {
    /// Opens the store in `root`, which is made if missing. What an interrupted import left behind
    /// is removed.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, ImageError> {
        Self::open_with(root, Limits::default())
    }

    /// The same with other limits than the default.
    pub fn open_with(root: impl Into<PathBuf>, limits: Limits) -> Result<Self, ImageError> {
        let root = root.into();
        let temp = root.join("temp");
        match fs::remove_dir_all(&temp) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(ImageError::io(format!("cannot empty {}", temp.display()))(error));
            }
            _ => {}
        }
        for directory in [&root.join("layers"), &root.join("configs"), &temp] {
            fs::create_dir_all(directory)
                .map_err(ImageError::io(format!("cannot make {}", directory.display())))?;
        }
        let path = root.join("index.json");
        let index = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| ImageError::Malformed {
                what: path.display().to_string(),
                why: error.to_string(),
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Index::default(),
            Err(error) => {
                return Err(ImageError::io(format!("cannot read {}", path.display()))(error));
            }
        };
        let blobs = Blobs::open(&root)?;
        Ok(Self { root, index: Mutex::new(index), importing: Mutex::new(()), blobs, limits })
    }

    /// The directory that it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Wants a blob, to fetch it.
    pub(super) fn lease(&self, digest: &Digest) -> Lease {
        self.blobs.lease(digest)
    }

    /// The directory that holds the unpacked layers.
    pub fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// Imports every image of an OCI layout (directory or archive) or `docker save` archive that
    /// runs on this machine. Names it already knew move to the new image. What is imported is pinned,
    /// since nobody could fetch it again.
    ///
    /// Blocks: call it off the async threads.
    ///
    /// # Errors
    /// Any [`ImageError`]; the store then lists what it listed before.
    pub fn import(&self, path: &Path, options: &ImportOptions) -> Result<Vec<Image>, ImageError> {
        let _one = self.importing.lock();
        let source = Source::open(path, &self.root.join("temp"))?;
        let found = source.images(path)?;
        if options.name.is_some() && found.len() != 1 {
            return Err(ImageError::NotAnImage {
                path: path.to_owned(),
                why: format!("it has {} images, so one name does not fit", found.len()),
            });
        }
        // Unpack everything before anything is listed.
        let mut records = Vec::new();
        for image in found {
            let names = match &options.name {
                Some(name) => vec![name.clone()],
                None => image.names.clone(),
            };
            let names: Vec<ImageName> =
                names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
            records.push((image.config_digest.clone(), self.unpack_image(&source, image, &names)?));
        }
        self.list_records(records)
    }

    /// Takes in a pulled image, whose blobs are there under their leases except for layers that are
    /// unpacked already. Blocks as [`import`](Self::import) does.
    ///
    /// # Errors
    /// Any [`ImageError`]; [`ImageError::Missing`] when such a layer has been removed meanwhile.
    pub(super) fn add(&self, found: FoundImage, name: &ImageName) -> Result<Image, ImageError> {
        let _one = self.importing.lock();
        let source = Source::Directory(self.root.clone());
        let id = found.config_digest.clone();
        let mut record = self.unpack_image(&source, found, std::slice::from_ref(name))?;
        record.imported = false;
        let added = self.list_records(vec![(id.clone(), record)])?;
        added.into_iter().next().ok_or_else(|| ImageError::Missing { what: id.to_string() })
    }

    /// The image that is known by this digest, which is now `name`, too. `None` when there is none,
    /// or not all of it.
    pub(super) fn name_known(
        &self,
        digest: &Digest,
        name: &ImageName,
    ) -> Result<Option<Image>, ImageError> {
        let _one = self.importing.lock();
        let known = {
            let index = self.index.lock();
            let mut images = index.images.iter();
            let found = images.find(|(_, record)| record.manifest.as_ref() == Some(digest));
            found.map(|(id, record)| (id.clone(), record.clone()))
        };
        let Some((id, mut record)) = known else { return Ok(None) };
        let layers = self.layers_dir();
        if !record.layers.iter().all(|layer| layers.join(layer).is_dir()) {
            return Ok(None);
        }
        let digest = format!("{}@{digest}", name.repository());
        let tag = name.tagged();
        if record.digests.contains(&digest) && tag.iter().all(|tag| record.tags.contains(tag)) {
            return Ok(Some(record.image(&id)));
        }
        record.digests.insert(digest);
        record.tags.extend(tag);
        Ok(self.list_records(vec![(id, record)])?.into_iter().next())
    }

    /// Which layers of these are not unpacked, by their place.
    pub(super) fn missing_layers(&self, config: &[u8]) -> Result<Vec<usize>, ImageError> {
        let document: ConfigDocument =
            serde_json::from_slice(config).map_err(ImageError::malformed("image configuration"))?;
        check_platform(&document)?;
        let names = chain(&document.rootfs.diff_ids);
        let layers = self.layers_dir();
        let missing = |(at, name): (usize, String)| (!layers.join(name).is_dir()).then_some(at);
        Ok(names.into_iter().enumerate().filter_map(missing).collect())
    }

    /// Puts images on the list. Names they share with others are theirs now.
    fn list_records(&self, records: Vec<(Digest, Record)>) -> Result<Vec<Image>, ImageError> {
        let mut index = self.index.lock();
        let mut next = index.clone();
        let mut imported = Vec::new();
        for (id, mut record) in records {
            for other in next.images.values_mut() {
                other.tags.retain(|tag| !record.tags.contains(tag));
            }
            if let Some(same) = next.images.remove(&id) {
                record.tags.extend(same.tags);
                record.digests.extend(same.digests);
                record.manifest = record.manifest.or(same.manifest);
                record.imported |= same.imported;
            }
            next.images.insert(id.clone(), record);
            imported.push(id);
        }
        self.save(&next)?;
        *index = next;
        Ok(imported.iter().filter_map(|id| Some(index.images.get(id)?.image(id))).collect())
    }

    fn unpack_image(
        &self,
        source: &Source,
        found: FoundImage,
        names: &[ImageName],
    ) -> Result<Record, ImageError> {
        let document: ConfigDocument = serde_json::from_slice(&found.config)
            .map_err(ImageError::malformed("image configuration"))?;
        check_platform(&document)?;
        let diff_ids = &document.rootfs.diff_ids;
        if diff_ids.len() != found.layers.len() {
            return Err(ImageError::Malformed {
                what: "image".to_owned(),
                why: format!(
                    "it has {} layers, but its configuration names {}",
                    found.layers.len(),
                    diff_ids.len()
                ),
            });
        }
        if diff_ids.len() > LAYERS_MAX {
            return Err(ImageError::TooLarge {
                what: "the image's number of layers".to_owned(),
                limit: LAYERS_MAX.to_string(),
            });
        }
        let mut layers: Vec<String> = Vec::new();
        let mut size_bytes = found.config.len() as u64;
        for ((layer, diff_id), name) in found.layers.iter().zip(diff_ids).zip(chain(diff_ids)) {
            size_bytes += self.unpack_layer(source, layer, diff_id, &name, &layers)?;
            layers.push(name);
        }
        let path = self.root.join("configs").join(found.config_digest.hex());
        write_atomically(&path, &found.config)?;
        let manifest = found.manifest;
        let digests = manifest
            .iter()
            .flat_map(|digest| {
                names.iter().map(move |name| format!("{}@{digest}", name.repository()))
            })
            .collect();
        Ok(Record {
            tags: names.iter().filter_map(ImageName::tagged).collect(),
            digests,
            manifest,
            config: document.config.unwrap_or_default(),
            layers,
            size_bytes,
            imported: true,
        })
    }

    /// Unpacks a layer unless it is there, and returns its size.
    fn unpack_layer(
        &self,
        source: &Source,
        layer: &super::source::LayerRef,
        diff_id: &Digest,
        name: &str,
        below: &[String],
    ) -> Result<u64, ImageError> {
        let layers = self.layers_dir();
        let target = layers.join(name);
        let size_file = layers.join(format!("{name}.size"));
        if target.is_dir() {
            let size = fs::read_to_string(&size_file).ok().and_then(|text| text.parse().ok());
            return Ok(size.unwrap_or(0));
        }
        let (content, size) = source.read(&layer.name)?;
        if layer.size.is_some_and(|said| said != size) {
            return Err(ImageError::Damaged {
                what: layer.name.clone(),
                why: format!("it has {size} bytes, not {}", layer.size.unwrap_or(0)),
            });
        }
        let temp = tempfile::Builder::new()
            .prefix("layer-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir_in(self.root.join("temp"))
            .map_err(ImageError::io("cannot make a directory for a layer"))?;
        let lowers: Vec<PathBuf> = below.iter().rev().map(|name| layers.join(name)).collect();
        let content = std::io::BufReader::with_capacity(128 << 10, content);
        let unpacked = unpack(&layer.name, content, temp.path(), &lowers, self.limits)?;
        let mismatch = |expected: &Digest, found: Digest| ImageError::DigestMismatch {
            what: layer.name.clone(),
            expected: expected.clone(),
            found,
        };
        if let Some(said) = &layer.digest
            && *said != unpacked.digest
        {
            return Err(mismatch(said, unpacked.digest));
        }
        if *diff_id != unpacked.diff_id {
            return Err(mismatch(diff_id, unpacked.diff_id));
        }
        // The files must be on the disk before the name is: a layer is complete once it is named.
        let directory =
            fs::File::open(temp.path()).map_err(ImageError::io("cannot open a layer"))?;
        rustix::fs::syncfs(&directory)
            .map_err(|error| ImageError::io("cannot write a layer out")(error.into()))?;
        write_atomically(&size_file, unpacked.bytes.to_string().as_bytes())?;
        fs::rename(temp.path(), &target)
            .map_err(ImageError::io(format!("cannot make {}", target.display())))?;
        // The directory has moved: there is nothing left to remove.
        let _ = temp.keep();
        Ok(unpacked.bytes)
    }

    /// An image by name, name with digest, id, or the first digits of its id.
    pub fn find(&self, reference: &str) -> Option<StoredImage> {
        let index = self.index.lock();
        let id = resolve(&index, reference)?;
        let record = index.images.get(&id)?;
        Some(StoredImage {
            image: record.image(&id),
            config: record.config.clone(),
            layers: record.layers.clone(),
        })
    }

    /// Bytes that all layers take up, each counted once.
    pub fn used_bytes(&self) -> u64 {
        let layers: HashSet<String> = {
            let index = self.index.lock();
            index.images.values().flat_map(|record| record.layers.iter().cloned()).collect()
        };
        let size = |layer: String| {
            let text = fs::read_to_string(self.layers_dir().join(format!("{layer}.size"))).ok()?;
            text.parse::<u64>().ok()
        };
        layers.into_iter().filter_map(size).sum()
    }

    /// All images, by id.
    pub fn list(&self) -> Vec<Image> {
        self.index.lock().images.iter().map(|(id, record)| record.image(id)).collect()
    }

    /// Removes the image that `reference` means, with all its names; nothing happens when there is
    /// none. Layers that another image or one of `in_use` needs stay.
    pub fn remove(&self, reference: &str, in_use: &HashSet<String>) -> Result<(), ImageError> {
        let _one = self.importing.lock();
        {
            let mut index = self.index.lock();
            let Some(id) = resolve(&index, reference) else { return Ok(()) };
            let mut next = index.clone();
            next.images.remove(&id);
            self.save(&next)?;
            *index = next;
            let config = self.root.join("configs").join(id.hex());
            remove_if_there(&config, fs::remove_file(&config))?;
        }
        // Whoever removes images wants room: what broken pulls have left is no loss.
        self.blobs.sweep()?;
        self.sweep(in_use)
    }

    /// Removes the layers that no image and none of `in_use` need.
    pub fn collect(&self, in_use: &HashSet<String>) -> Result<(), ImageError> {
        let _one = self.importing.lock();
        self.sweep(in_use)
    }

    fn sweep(&self, in_use: &HashSet<String>) -> Result<(), ImageError> {
        let needed: HashSet<String> = {
            let index = self.index.lock();
            index.images.values().flat_map(|record| record.layers.iter().cloned()).collect()
        };
        let layers = self.layers_dir();
        let entries = fs::read_dir(&layers)
            .map_err(ImageError::io(format!("cannot read {}", layers.display())))?;
        for entry in entries.flatten() {
            let file = entry.file_name().to_string_lossy().into_owned();
            let name = file.trim_end_matches(".size");
            if needed.contains(name) || in_use.contains(name) {
                continue;
            }
            let path = entry.path();
            if file.ends_with(".size") {
                remove_if_there(&path, fs::remove_file(&path))?;
                continue;
            }
            // Out of sight first, so that a half-removed layer is never taken for a whole one.
            let doomed = self.root.join("temp").join(format!("removed-{name}"));
            fs::rename(&path, &doomed)
                .map_err(ImageError::io(format!("cannot remove {}", path.display())))?;
            remove_if_there(&doomed, fs::remove_dir_all(&doomed))?;
        }
        Ok(())
    }

    fn save(&self, index: &Index) -> Result<(), ImageError> {
        let bytes = serde_json::to_vec_pretty(index).map_err(ImageError::malformed("index"))?;
        write_atomically(&self.root.join("index.json"), &bytes)
    }
}

/// The names of the directories of layers with these contents. A layer may depend on those below it
/// (through links), so that it is kept under the digest of the whole chain (OCI image
/// specification, ChainID).
fn chain(diff_ids: &[Digest]) -> Vec<String> {
    let mut parent: Option<Digest> = None;
    let mut names = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = match &parent {
            None => diff_id.clone(),
            Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
        };
        names.push(id.hex()[..LAYER_NAME_DIGITS].to_owned());
        parent = Some(id);
    }
    names
}

pub(super) fn remove_if_there(path: &Path, result: std::io::Result<()>) -> Result<(), ImageError> {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ImageError::io(format!("cannot remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

fn check_platform(document: &ConfigDocument) -> Result<(), ImageError> {
    let here = super::manifest::architecture();
    let fits = (document.os.is_empty() || document.os == "linux")
        && (document.architecture.is_empty() || document.architecture == here);
    if fits {
        return Ok(());
    }
    Err(ImageError::Platform {
        wanted: format!("linux/{here}"),
        found: format!("{}/{}", document.os, document.architecture),
    })
}

/// The id of the image that `reference` means. Names come first, as with Docker: a repository may
/// be called `cafe`.
fn resolve(index: &Index, reference: &str) -> Option<Digest> {
    if let Ok(digest) = reference.parse::<Digest>() {
        return index
            .images
            .iter()
            .find(|(id, record)| **id == digest || record.manifest.as_ref() == Some(&digest))
            .map(|(id, _)| id.clone());
    }
    if let Ok(name) = reference.parse::<ImageName>() {
        let full = name.tagged();
        let by_digest = name.digest().map(|digest| format!("{}@{digest}", name.repository()));
        let found = index.images.iter().find(|(_, record)| match &by_digest {
            Some(by_digest) => record.digests.contains(by_digest),
            None => full.as_ref().is_some_and(|full| record.tags.contains(full)),
        });
        if let Some((id, _)) = found {
            return Some(id.clone());
        }
    }
    let digits = reference.strip_prefix("sha256:").unwrap_or(reference);
    if digits.len() < 4 || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    let mut matching = index.images.keys().filter(|id| id.hex().starts_with(digits));
    match (matching.next(), matching.next()) {
        (Some(id), None) => Some(id.clone()),
        _ => None,
    }
}

/// Replaces a file as a whole, on the disk when it returns.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let write = || {
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(directory)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        fs::File::open(directory)?.sync_all()
    };
    write().map_err(ImageError::io(format!("cannot write {}", path.display())))
}
