//! Building small images from files, as OCI archives.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{Digest, ImageConfig, ImageError, ImageName, manifest::architecture};

/// Builds an OCI image of one layer from files, links and directories.
///
/// The same input always gives the same bytes: times are zero and owners are root.
///
/// ```no_run
/// use rk_cri::images::{ImageConfig, build::ImageBuilder};
///
/// ImageBuilder::new("hello:v1")
///     .file_from("/bin/busybox", "/bin/busybox", 0o755)
///     .symlink("/bin/sh", "/bin/busybox")
///     .file("/etc/motd", "hello\n", 0o644)
///     .config(ImageConfig { cmd: vec!["/bin/sh".into()], ..Default::default() })
///     .write_archive("hello.tar".as_ref())?;
/// # Ok::<(), rk_cri::images::ImageError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ImageBuilder {
    name: String,
    entries: Vec<(PathBuf, Entry)>,
    config: ImageConfig,
}

#[derive(Clone, Debug)]
enum Entry {
    Directory { mode: u32 },
    File { content: Vec<u8>, mode: u32 },
    Copy { from: PathBuf, mode: u32 },
    Link { target: PathBuf },
}

impl ImageBuilder {
    /// Starts an image of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), entries: Vec::new(), config: ImageConfig::default() }
    }

    /// Adds a directory. Parents are made with mode 755 as needed.
    pub fn directory(mut self, path: impl Into<PathBuf>, mode: u32) -> Self {
        self.entries.push((path.into(), Entry::Directory { mode }));
        self
    }

    /// Adds a file with this content.
    pub fn file(
        mut self,
        path: impl Into<PathBuf>,
        content: impl Into<Vec<u8>>,
        mode: u32,
    ) -> Self {
        self.entries.push((path.into(), Entry::File { content: content.into(), mode }));
        self
    }

    /// Adds a copy of a file of this machine, read when the image is written.
    pub fn file_from(
        mut self,
        from: impl Into<PathBuf>,
        path: impl Into<PathBuf>,
        mode: u32,
    ) -> Self {
        self.entries.push((path.into(), Entry::Copy { from: from.into(), mode }));
        self
    }

    /// Adds a symbolic link.
    pub fn symlink(mut self, path: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        self.entries.push((path.into(), Entry::Link { target: target.into() }));
        self
    }

    /// Says how to run it.
    pub fn config(mut self, config: ImageConfig) -> Self {
        self.config = config;
        self
    }

    /// Writes the image as an uncompressed OCI archive, and returns its id.
    pub fn write_archive(&self, path: &Path) -> Result<Digest, ImageError> {
        write_archive(path, std::slice::from_ref(self)).map(|mut ids| ids.remove(0))
    }

    fn layer(&self) -> Result<Vec<u8>, ImageError> {
        let fail = || ImageError::io(format!("cannot build the image {}", self.name));
        let mut tar = tar::Builder::new(Vec::new());
        let mut made = std::collections::BTreeSet::new();
        for (path, entry) in &self.entries {
            let path = path.strip_prefix("/").unwrap_or(path);
            let parents: Vec<&Path> = path.ancestors().skip(1).collect();
            for parent in parents.into_iter().rev().filter(|p| !p.as_os_str().is_empty()) {
                if made.insert(parent.to_owned()) {
                    append(&mut tar, parent, tar::EntryType::Directory, 0o755, &[])
                        .map_err(fail())?;
                }
            }
            match entry {
                Entry::Directory { mode } => {
                    made.insert(path.to_owned());
                    append(&mut tar, path, tar::EntryType::Directory, *mode, &[])
                }
                Entry::File { content, mode } => {
                    append(&mut tar, path, tar::EntryType::Regular, *mode, content)
                }
                Entry::Copy { from, mode } => {
                    let content = fs::read(from)
                        .map_err(ImageError::io(format!("cannot read {}", from.display())))?;
                    append(&mut tar, path, tar::EntryType::Regular, *mode, &content)
                }
                Entry::Link { target } => {
                    let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                    tar.append_link(&mut header, path, target)
                }
            }
            .map_err(fail())?;
        }
        tar.into_inner().map_err(fail())
    }
}

/// Writes several images into one OCI archive, and returns their ids.
pub fn write_archive(path: &Path, images: &[ImageBuilder]) -> Result<Vec<Digest>, ImageError> {
    let fail = || ImageError::io(format!("cannot write {}", path.display()));
    let file = fs::File::create(path).map_err(fail())?;
    let mut archive = tar::Builder::new(std::io::BufWriter::new(file));
    let mut blobs = std::collections::BTreeSet::new();
    let mut manifests = Vec::new();
    let mut ids = Vec::new();
    let mut put = |archive: &mut tar::Builder<_>, bytes: &[u8]| -> Result<Digest, ImageError> {
        let digest = Digest::of(bytes);
        if blobs.insert(digest.clone()) {
            let name = format!("blobs/sha256/{}", digest.hex());
            append(archive, name.as_ref(), tar::EntryType::Regular, 0o644, bytes).map_err(fail())?;
        }
        Ok(digest)
    };
    for image in images {
        let name: ImageName = image.name.parse()?;
        let layer = image.layer()?;
        let layer_digest = put(&mut archive, &layer)?;
        let config = json_bytes(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": image.config,
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        }))?;
        let id = put(&mut archive, &config)?;
        let manifest = json_bytes(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": id,
                "size": config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": layer_digest,
                "size": layer.len(),
            }],
        }))?;
        let manifest_digest = put(&mut archive, &manifest)?;
        manifests.push(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest_digest,
            "size": manifest.len(),
            "annotations": {
                "io.containerd.image.name": name.to_string(),
                "org.opencontainers.image.ref.name": name.tag(),
            },
        }));
        ids.push(id);
    }
    let index = json_bytes(&json!({"schemaVersion": 2, "manifests": manifests}))?;
    let layout = json_bytes(&json!({"imageLayoutVersion": "1.0.0"}))?;
    for (name, bytes) in [("index.json", index), ("oci-layout", layout)] {
        append(&mut archive, name.as_ref(), tar::EntryType::Regular, 0o644, &bytes)
            .map_err(fail())?;
    }
    let mut buffer = archive.into_inner().map_err(fail())?;
    buffer.flush().map_err(fail())?;
    Ok(ids)
}

fn json_bytes(value: &serde_json::Value) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(value).map_err(ImageError::malformed("image document"))
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    path: &Path,
    kind: tar::EntryType,
    mode: u32,
    content: &[u8],
) -> std::io::Result<()> {
    archive.append_data(&mut header(kind, mode, content.len() as u64), path, content)
}

/// The commands of a static busybox, as it lists them itself, each to be linked to it.
///
/// # Errors
/// [`ImageError::Io`] when `busybox` cannot be run.
pub fn busybox_applets(busybox: &Path) -> Result<Vec<String>, ImageError> {
    let output = std::process::Command::new(busybox)
        .arg("--list")
        .output()
        .map_err(ImageError::io(format!("cannot run {}", busybox.display())))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// An image of a static busybox: its commands in `/bin`, root's account, `/tmp`, and a shell to run.
///
/// # Errors
/// [`ImageError::Io`] when `busybox` cannot be run.
pub fn busybox_image(name: &str, busybox: &Path) -> Result<ImageBuilder, ImageError> {
    let mut image = ImageBuilder::new(name)
        .directory("/root", 0o700)
        .directory("/tmp", 0o1777)
        .directory("/home", 0o755)
        .directory("/var", 0o755)
        .directory("/etc", 0o755)
        .file("/etc/passwd", PASSWD, 0o644)
        .file("/etc/group", GROUP, 0o644)
        .file_from(busybox, "/bin/busybox", 0o755);
    for applet in busybox_applets(busybox)? {
        if applet != "busybox" {
            image = image.symlink(format!("/bin/{applet}"), "busybox");
        }
    }
    Ok(image.config(ImageConfig {
        cmd: vec!["sh".to_owned()],
        env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
        ..ImageConfig::default()
    }))
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
";
const GROUP: &str = "root:x:0:
daemon:x:1:
www-data:x:33:
nobody:x:65534:
";
