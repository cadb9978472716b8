//! Unpacking one layer into a directory that overlayfs can stack.
//!
//! Every step goes through directory file descriptors, one component at a time, and never lets the
//! kernel follow a symbolic link: whatever the archive says, nothing outside the layer's directory
//! is touched. Links are followed as they would be in the finished image, through the layers below.
//! Whiteouts become overlayfs' own (a 0:0 device, an opaque directory).

use std::{
    collections::{HashMap, VecDeque},
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::{FileTypeExt, MetadataExt},
        },
    },
    path::{Component, Path, PathBuf},
};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat,
    fchmod, fchown, fgetxattr, fsetxattr, futimens, linkat, makedev, mkdirat, mknodat, openat,
    readlinkat, statat, symlinkat, unlinkat, utimensat,
};
use sha2::{Digest as _, Sha256};
use tar::EntryType;

use super::{Digest, ImageError, store::Limits, zstd};

/// The most bytes one layer may have unpacked, against archives that expand without end.
pub(super) const UNPACKED_BYTES_MAX: u64 = 64 << 30;
/// The most symbolic links followed to find one entry's place, as in the kernel.
const LINKS_MAX: u32 = 40;
/// The prefix of whiteouts in layers (OCI image specification, layer.md).
const WHITEOUT: &str = ".wh.";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

/// What an unpacked layer turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unpacked {
    /// Digest of the content as stored, compressed or not.
    pub(super) digest: Digest,
    /// Digest of the tar archive itself: the layer's `diff_id`.
    pub(super) diff_id: Digest,
    /// Bytes of all files.
    pub(super) bytes: u64,
}

/// Unpacks the layer `content`, which goes by `what` in errors, into the empty directory `root`.
/// `lowers` are the directories of the layers below it, the nearest first.
pub(super) fn unpack(
    what: &str,
    content: impl Read,
    root: &Path,
    lowers: &[PathBuf],
    limits: Limits,
) -> Result<Unpacked, ImageError> {
    let mut stored = Hashing::new(content);
    let mut magic = [0; 4];
    let read = read_full(&mut stored, &mut magic).map_err(damaged(what))?;
    let start = io::Cursor::new(magic[..read].to_vec());
    let content = start.chain(&mut stored);
    let (diff_id, bytes) = if magic[..2] == [0x1f, 0x8b] {
        entries(what, flate2::read::MultiGzDecoder::new(content), root, lowers, limits)?
    } else if zstd::begins(magic) {
        entries(what, zstd::Frames::new(content), root, lowers, limits)?
    } else {
        entries(what, content, root, lowers, limits)?
    };
    io::copy(&mut stored, &mut io::sink()).map_err(damaged(what))?;
    Ok(Unpacked { digest: stored.finish(), diff_id, bytes })
}

fn damaged(what: &str) -> impl Fn(io::Error) -> ImageError {
    let what = what.to_owned();
    move |error| ImageError::Damaged { what: what.clone(), why: error.to_string() }
}

fn entries(
    what: &str,
    plain: impl Read,
    root: &Path,
    lowers: &[PathBuf],
    limits: Limits,
) -> Result<(Digest, u64), ImageError> {
    let bytes_max = limits.layer_bytes;
    let too_large = |limit: String| ImageError::TooLarge { what: what.to_owned(), limit };
    // What is cut off here looks damaged further in: the reason is told instead.
    let mut plain = Hashing::new(plain.take(bytes_max.saturating_add(1)));
    let unpacked = fill(what, &mut plain, root, lowers, limits.layer_entries);
    if plain.read > bytes_max {
        return Err(too_large(format!("{bytes_max} bytes unpacked")));
    }
    Ok((plain.finish(), unpacked?))
}

/// Unpacks a plain archive, and returns the bytes of all files.
fn fill(
    what: &str,
    mut plain: impl Read,
    root: &Path,
    lowers: &[PathBuf],
    entries_max: u64,
) -> Result<u64, ImageError> {
    let mut layer = Layer::open(root, lowers)?;
    let mut archive = tar::Archive::new(&mut plain);
    for (number, entry) in archive.entries().map_err(damaged(what))?.enumerate() {
        if number as u64 >= entries_max {
            return Err(ImageError::TooLarge {
                what: what.to_owned(),
                limit: format!("{entries_max} entries"),
            });
        }
        layer.add(what, &mut entry.map_err(damaged(what))?)?;
    }
    // What follows the archive's end belongs to the digest too.
    io::copy(&mut plain, &mut io::sink()).map_err(damaged(what))?;
    layer.finish()?;
    Ok(layer.bytes)
}

/// A layer's directory while it is filled.
struct Layer<'a> {
    root: OwnedFd,
    lowers: &'a [PathBuf],
    bytes: u64,
    buffer: Vec<u8>,
    /// Times of directories, set at the end because adding to a directory changes its time.
    times: HashMap<PathBuf, i64>,
}

/// What the image has at a place, as seen through this layer and those below.
enum Lower {
    Directory(fs::Metadata),
    Link(PathBuf),
    Other,
}

/// A directory of the layer that an entry goes into.
struct Parent {
    /// Outermost first; empty is the root.
    path: Vec<(OsString, OwnedFd)>,
}

impl Parent {
    fn fd<'b>(&'b self, root: &'b OwnedFd) -> BorrowedFd<'b> {
        self.path.last().map_or(root.as_fd(), |(_, fd)| fd.as_fd())
    }

    fn names(&self) -> PathBuf {
        self.path.iter().map(|(name, _)| name).collect()
    }

    /// Whether the layers below do not show through here.
    fn hides_lowers(&self) -> bool {
        self.path.iter().any(|(_, fd)| is_opaque(fd))
    }
}

impl<'a> Layer<'a> {
    fn open(root: &Path, lowers: &'a [PathBuf]) -> Result<Self, ImageError> {
        let fd = openat(CWD, root, directory_flags(), Mode::empty()).map_err(|error| {
            ImageError::io(format!("cannot open {}", root.display()))(error.into())
        })?;
        Ok(Self { root: fd, lowers, bytes: 0, buffer: vec![0; 128 << 10], times: HashMap::new() })
    }

    /// Adds one entry of the archive.
    fn add<R: Read>(
        &mut self,
        what: &str,
        entry: &mut tar::Entry<'_, R>,
    ) -> Result<(), ImageError> {
        if matches!(entry.header().entry_type(), EntryType::XGlobalHeader) {
            return Ok(());
        }
        let name = OsString::from_vec(entry.path_bytes().into_owned());
        let mut components = components(&name)?;
        let Some(last) = components.pop() else {
            return self.set_root(entry);
        };
        let parent = self.enter(&name, components)?;
        if let Some(hidden) = last.as_bytes().strip_prefix(WHITEOUT.as_bytes()) {
            return self.whiteout(&name, &parent, OsStr::from_bytes(hidden));
        }
        self.create(what, &name, &parent, &last, entry).map_err(|error| match error {
            Failure::Image(error) => error,
            Failure::System(error) => {
                ImageError::io(format!("cannot unpack {} of {what}", name.to_string_lossy()))(error)
            }
        })
    }

    fn set_root<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<(), ImageError> {
        if entry.header().entry_type() == EntryType::Directory {
            let meta = Meta::of(entry, "./")?;
            meta.apply(self.root.as_fd())
                .map_err(|error| ImageError::io("cannot set the layer's root")(error))?;
            self.times.insert(PathBuf::new(), meta.mtime);
        }
        Ok(())
    }

    /// Opens the directory that `components` lead to, and makes what is missing on the way: like
    /// the directory of the layers below if there is one, else with mode 755.
    fn enter(&self, entry: &OsStr, components: Vec<OsString>) -> Result<Parent, ImageError> {
        let hostile = |why: &str| ImageError::Hostile {
            entry: entry.to_string_lossy().into_owned(),
            why: why.to_owned(),
        };
        let fail = |error: rustix::io::Errno| {
            ImageError::io(format!("cannot unpack {}", entry.to_string_lossy()))(error.into())
        };
        let mut parent = Parent { path: Vec::new() };
        let mut pending: VecDeque<OsString> = components.into();
        let mut links = 0;
        while let Some(name) = pending.pop_front() {
            if name == ".." {
                // Only a link's target has these; above the root is the root, as in a chroot.
                parent.path.pop();
                continue;
            }
            let here = parent.fd(&self.root);
            let mut follow = None;
            let mut make = None;
            match statat(here, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => {}
                    FileType::Symlink => follow = Some(read_link(here, &name).map_err(fail)?),
                    FileType::CharacterDevice if stat.st_rdev == 0 => {
                        unlinkat(here, &name, AtFlags::empty()).map_err(fail)?;
                        make = Some((None, true));
                    }
                    _ => return Err(hostile("a part of its path is a file")),
                },
                Err(rustix::io::Errno::NOENT) => {
                    let below = match parent.hides_lowers() {
                        true => None,
                        false => self.lower(&parent.names().join(&name)).map_err(|error| {
                            ImageError::io("cannot read the layers below")(error)
                        })?,
                    };
                    match below {
                        Some(Lower::Link(target)) => follow = Some(target),
                        Some(Lower::Directory(meta)) => make = Some((Some(meta), false)),
                        Some(Lower::Other) | None => make = Some((None, false)),
                    }
                }
                Err(error) => return Err(fail(error)),
            }
            if let Some(target) = follow {
                links += 1;
                if links > LINKS_MAX {
                    return Err(hostile("its path has too many symbolic links"));
                }
                if target.is_absolute() {
                    parent.path.clear();
                }
                for part in target.components().rev() {
                    match part {
                        Component::Normal(name) => pending.push_front(name.to_owned()),
                        Component::ParentDir => pending.push_front("..".into()),
                        _ => {}
                    }
                }
                continue;
            }
            if let Some((like, opaque)) = make {
                mkdirat(here, &name, Mode::from_raw_mode(0o755)).map_err(fail)?;
                let fd = openat(here, &name, directory_flags(), Mode::empty()).map_err(fail)?;
                if let Some(like) = like {
                    fchown(&fd, Some(Uid::from_raw(like.uid())), Some(Gid::from_raw(like.gid())))
                        .and_then(|()| fchmod(&fd, Mode::from_raw_mode(like.mode() & 0o7777)))
                        .map_err(fail)?;
                }
                if opaque {
                    set_opaque(&fd).map_err(fail)?;
                }
                parent.path.push((name, fd));
                continue;
            }
            let fd = openat(here, &name, directory_flags(), Mode::empty()).map_err(fail)?;
            parent.path.push((name, fd));
        }
        Ok(parent)
    }

    /// What the layers below have at `path`, whose parent is a directory in the image.
    fn lower(&self, path: &Path) -> io::Result<Option<Lower>> {
        'layers: for root in self.lowers {
            let mut full = root.clone();
            let mut opaque = false;
            let mut components = path.components().peekable();
            while let Some(component) = components.next() {
                full.push(component);
                let meta = match fs::symlink_metadata(&full) {
                    Ok(meta) => meta,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        if opaque {
                            return Ok(None);
                        }
                        continue 'layers;
                    }
                    Err(error) => return Err(error),
                };
                if meta.file_type().is_char_device() && meta.rdev() == 0 {
                    return Ok(None);
                }
                if components.peek().is_none() {
                    return Ok(Some(if meta.is_dir() {
                        Lower::Directory(meta)
                    } else if meta.is_symlink() {
                        Lower::Link(fs::read_link(&full)?)
                    } else {
                        Lower::Other
                    }));
                }
                if !meta.is_dir() {
                    return Ok(None);
                }
                opaque |= File::open(&full).is_ok_and(|file| is_opaque(&file));
            }
        }
        Ok(None)
    }

    /// Hides `hidden` of the layers below, or everything when it names the opaque marker.
    fn whiteout(&self, entry: &OsStr, parent: &Parent, hidden: &OsStr) -> Result<(), ImageError> {
        let fail = |error: rustix::io::Errno| {
            ImageError::io(format!("cannot unpack {}", entry.to_string_lossy()))(error.into())
        };
        let here = parent.fd(&self.root);
        if hidden == ".wh..opq" {
            return set_opaque(here).map_err(fail);
        }
        if hidden.as_bytes().starts_with(WHITEOUT.as_bytes()) {
            // Bookkeeping of aufs, nothing for us.
            return Ok(());
        }
        if hidden.is_empty() || hidden == "." || hidden == ".." {
            return Err(ImageError::Hostile {
                entry: entry.to_string_lossy().into_owned(),
                why: "it hides no name".to_owned(),
            });
        }
        match statat(here, hidden, AtFlags::SYMLINK_NOFOLLOW) {
            // A whiteout hides what is below this layer, not what this layer itself adds.
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                let fd = openat(here, hidden, directory_flags(), Mode::empty()).map_err(fail)?;
                set_opaque(&fd).map_err(fail)
            }
            Ok(_) => Ok(()),
            Err(rustix::io::Errno::NOENT) => {
                let mode = Mode::from_raw_mode(0);
                mknodat(here, hidden, FileType::CharacterDevice, mode, makedev(0, 0)).map_err(fail)
            }
            Err(error) => Err(fail(error)),
        }
    }

    fn create<R: Read>(
        &mut self,
        what: &str,
        entry_name: &OsStr,
        parent: &Parent,
        name: &OsStr,
        entry: &mut tar::Entry<'_, R>,
    ) -> Result<(), Failure> {
        let hostile = |why: &str| {
            Failure::Image(ImageError::Hostile {
                entry: entry_name.to_string_lossy().into_owned(),
                why: why.to_owned(),
            })
        };
        let kind = entry.header().entry_type();
        let meta = Meta::of(entry, &entry_name.to_string_lossy())?;
        let here = parent.fd(&self.root);
        let was = clear(here, name, kind == EntryType::Directory)?;
        match kind {
            EntryType::Directory => {
                if was != Was::Directory {
                    mkdirat(here, name, Mode::from_raw_mode(0o755))?;
                }
                let fd = openat(here, name, directory_flags(), Mode::empty())?;
                if was == Was::Whiteout {
                    set_opaque(&fd)?;
                }
                meta.apply(fd.as_fd())?;
                self.times.insert(parent.names().join(name), meta.mtime);
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
                let flags = flags | OFlags::CLOEXEC;
                let mut file = File::from(openat(here, name, flags, Mode::from_raw_mode(0o600))?);
                let size = entry.size();
                let mut written = 0;
                loop {
                    let read = entry
                        .read(&mut self.buffer)
                        .map_err(|error| Failure::Image(damaged(what)(error)))?;
                    if read == 0 {
                        break;
                    }
                    file.write_all(&self.buffer[..read])?;
                    written += read as u64;
                }
                if written != size {
                    return Err(Failure::Image(ImageError::Damaged {
                        what: what.to_owned(),
                        why: format!(
                            "{} ends after {written} of {size} bytes",
                            entry_name.to_string_lossy()
                        ),
                    }));
                }
                self.bytes += written;
                meta.apply(file.as_fd())?;
                meta.set_times(file.as_fd())?;
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                if target.is_empty() {
                    return Err(hostile("it links to nothing"));
                }
                symlinkat(OsStr::from_bytes(&target), here, name)?;
                meta.apply_at(here, name, false)?;
            }
            EntryType::Link => {
                let target =
                    OsString::from_vec(entry.link_name_bytes().unwrap_or_default().into_owned());
                let mut to = components(&target)?;
                let Some(last) = to.pop() else { return Err(hostile("it links to the root")) };
                let from = self.enter(entry_name, to)?;
                match linkat(from.fd(&self.root), &last, here, name, AtFlags::empty()) {
                    Err(rustix::io::Errno::NOENT) => {
                        return Err(hostile(
                            "it is a hard link to a file that is not in its layer",
                        ));
                    }
                    other => other?,
                }
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                // Only devices have a number; tools leave the fields of a pipe empty.
                let (major, minor) = match kind {
                    EntryType::Fifo => (0, 0),
                    _ => device_of(entry.header()).map_err(damaged(what))?,
                };
                let kind = match kind {
                    EntryType::Char if (major, minor) == (0, 0) => {
                        return Err(hostile("device 0:0 is overlayfs' whiteout"));
                    }
                    EntryType::Char => FileType::CharacterDevice,
                    EntryType::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = makedev(major, minor);
                mknodat(here, name, kind, Mode::from_raw_mode(meta.mode), device)?;
                meta.apply_at(here, name, true)?;
            }
            other => {
                return Err(Failure::Image(ImageError::Unsupported(format!(
                    "layer entry {} of type {other:?}",
                    entry_name.to_string_lossy()
                ))));
            }
        }
        Ok(())
    }

    /// Sets the directories' times.
    fn finish(&self) -> Result<(), ImageError> {
        for (path, &mtime) in &self.times {
            let Ok(parent) = self.enter(path.as_os_str(), components(path.as_os_str())?) else {
                continue;
            };
            futimens(parent.fd(&self.root), &timestamps(mtime))
                .map_err(|error| ImageError::io("cannot set a directory's time")(error.into()))?;
        }
        Ok(())
    }
}

/// What stood at an entry's place before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Was {
    Nothing,
    Directory,
    Whiteout,
}

/// Makes room for an entry: a later entry of a layer replaces an earlier one of the same name. A
/// directory stays when a directory comes.
fn clear(here: BorrowedFd<'_>, name: &OsStr, directory: bool) -> Result<Was, Failure> {
    let stat = match statat(here, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(rustix::io::Errno::NOENT) => return Ok(Was::Nothing),
        Err(error) => return Err(error.into()),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory if directory => return Ok(Was::Directory),
        FileType::Directory => {
            // std removes trees without following links.
            let path = format!("/proc/self/fd/{}", here.as_raw_fd());
            fs::remove_dir_all(Path::new(&path).join(name))?;
            return Ok(Was::Nothing);
        }
        kind => {
            unlinkat(here, name, AtFlags::empty())?;
            if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
                return Ok(Was::Whiteout);
            }
        }
    }
    Ok(Was::Nothing)
}

/// Owner, mode, time and extended attributes of an entry.
struct Meta {
    uid: u32,
    gid: u32,
    mode: u32,
    mtime: i64,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl Meta {
    fn of<R: Read>(entry: &mut tar::Entry<'_, R>, name: &str) -> Result<Self, ImageError> {
        let bad = |error: io::Error| ImageError::Damaged {
            what: format!("the header of layer entry {name}"),
            why: error.to_string(),
        };
        let id = |id: u64| {
            u32::try_from(id).map_err(|_| bad(io::Error::other("an owner beyond 32 bits")))
        };
        let mut xattrs = Vec::new();
        if let Some(extensions) = entry.pax_extensions().map_err(bad)? {
            for extension in extensions {
                let extension = extension.map_err(bad)?;
                let Some(key) =
                    extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr."))
                else {
                    continue;
                };
                // Others could steer overlayfs itself (trusted.overlay.redirect) or the host.
                if key.starts_with("user.") || key == "security.capability" {
                    xattrs.push((key.to_owned(), extension.value_bytes().to_vec()));
                }
            }
        }
        let header = entry.header();
        Ok(Self {
            uid: id(header.uid().map_err(bad)?)?,
            gid: id(header.gid().map_err(bad)?)?,
            mode: header.mode().map_err(bad)? & 0o7777,
            mtime: header.mtime().map_err(bad)?.min(i64::MAX as u64) as i64,
            xattrs,
        })
    }

    /// Sets all but the times. The owner goes first, because changing it clears the setuid bit.
    fn apply(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        fchown(fd, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        fchmod(fd, Mode::from_raw_mode(self.mode))?;
        for (key, value) in &self.xattrs {
            match fsetxattr(fd, key.as_str(), value, XattrFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The same for what cannot be opened: links and devices.
    fn apply_at(&self, here: BorrowedFd<'_>, name: &OsStr, mode: bool) -> io::Result<()> {
        let owner = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
        chownat(here, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
        if mode {
            rustix::fs::chmodat(here, name, Mode::from_raw_mode(self.mode), AtFlags::empty())?;
        }
        utimensat(here, name, &timestamps(self.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    fn set_times(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(futimens(fd, &timestamps(self.mtime))?)
    }
}

fn device_of(header: &tar::Header) -> io::Result<(u32, u32)> {
    Ok((header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0)))
}

fn timestamps(seconds: i64) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

/// The parts of an entry's name. Names that are absolute or go up are refused: no well-behaved
/// tool writes them.
fn components(name: &OsStr) -> Result<Vec<OsString>, ImageError> {
    let hostile = |why: &str| ImageError::Hostile {
        entry: name.to_string_lossy().into_owned(),
        why: why.to_owned(),
    };
    if name.as_bytes().contains(&0) {
        return Err(hostile("its name has a zero byte"));
    }
    let mut parts = Vec::new();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(part) => parts.push(part.to_owned()),
            Component::CurDir => {}
            Component::ParentDir => return Err(hostile("its name goes up out of the layer")),
            Component::RootDir | Component::Prefix(_) => {
                return Err(hostile("its name is absolute"));
            }
        }
    }
    Ok(parts)
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn read_link(here: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<PathBuf> {
    let target = readlinkat(here, name, Vec::new())?;
    Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
}

fn is_opaque(directory: impl AsFd) -> bool {
    let mut value = [0; 1];
    fgetxattr(directory, OPAQUE_XATTR, &mut value[..]).is_ok_and(|length| length == 1)
        && value == *b"y"
}

fn set_opaque(directory: impl AsFd) -> rustix::io::Result<()> {
    fsetxattr(directory, OPAQUE_XATTR, b"y", XattrFlags::empty())
}

/// An entry failed: by what it is, or because the system refused.
enum Failure {
    Image(ImageError),
    System(io::Error),
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(error: rustix::io::Errno) -> Self {
        Self::System(error.into())
    }
}

/// Hashes and counts what is read through it.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
    read: u64,
}

impl<R> Hashing<R> {
    fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new(), read: 0 }
    }

    fn finish(self) -> Digest {
        Digest::from_hash(self.hash.finalize().as_slice())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.read += read as u64;
        Ok(read)
    }
}

/// Fills the buffer unless the content ends before.
fn read_full(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}
