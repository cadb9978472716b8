//! A pod's volumes on the node's disk.
//!
//! A pod's directory is `ROOT/pods/UID`. Volumes with contents (ConfigMap, Secret, downward API,
//! projected) are written so that a reader sees the old files or the new ones, never a mixture
//! ([`atomic`]). A `subPath` cannot lead out of its volume ([`subpath`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, DownwardAPIVolumeFile, ImageVolumeSource, KeyToPath, Pod, Secret, Volume,
    VolumeMount,
};

use self::atomic::Files;
use super::{
    csi::Wanted,
    env::{Facts, Referenced, expand, field},
    resources,
};
use crate::runtime::{Device, Mount};

pub(crate) mod atomic;
mod huge_pages;
pub(crate) mod shown;
pub(crate) mod subpath;

/// A volume that could not be set up: its name and why.
pub(crate) type Failure = (String, String);

/// What a volume is made from.
pub(crate) enum Source {
    EmptyDir {
        memory: bool,
        size_limit: Option<i64>,
    },
    /// Memory in pages of this size.
    HugePages {
        page_bytes: u64,
    },
    HostPath {
        path: PathBuf,
        type_: String,
    },
    Files {
        plugin: &'static str,
        files: Files,
    },
    /// A block device, at this path or at the end of this link.
    Device(PathBuf),
    /// The files of an image.
    Image(Box<ImageVolumeSource>),
    /// A driver mounts it.
    Csi(Box<Wanted>),
}

/// Tokens for `serviceAccountToken` sources, by volume and path.
pub(crate) type Tokens = BTreeMap<(String, String), String>;

/// The directory of a volume, where it has one of its own.
pub(crate) fn directory(pod_dir: &Path, plugin: &str, volume: &str) -> PathBuf {
    pod_dir.join("volumes").join(format!("kubernetes.io~{plugin}")).join(volume)
}

/// What the directory of a volume that the agent makes is called after; `None` if it makes none.
pub(crate) fn plugin_of(volume: &Volume) -> Option<&'static str> {
    let plugins = [
        (volume.empty_dir.is_some(), "empty-dir"),
        (volume.config_map.is_some(), "configmap"),
        (volume.secret.is_some(), "secret"),
        (volume.downward_api.is_some(), "downward-api"),
        (volume.projected.is_some(), "projected"),
    ];
    plugins.into_iter().find(|(is, _)| *is).map(|(_, plugin)| plugin)
}

/// Names of the ConfigMaps and Secrets that volumes refer to.
pub(crate) fn references(pod: &Pod) -> (Vec<&str>, Vec<&str>) {
    let (mut config_maps, mut secrets) = (Vec::new(), Vec::new());
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    for volume in volumes {
        config_maps.extend(volume.config_map.as_ref().map(|map| map.name.as_str()));
        secrets.extend(volume.secret.as_ref().and_then(|secret| secret.secret_name.as_deref()));
        let sources =
            volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for source in sources {
            config_maps.extend(source.config_map.as_ref().map(|map| map.name.as_str()));
            secrets.extend(source.secret.as_ref().map(|secret| secret.name.as_str()));
        }
    }
    (config_maps, secrets)
}

/// Whether the volumes' contents can change while the pod runs.
pub(crate) fn have_contents(pod: &Pod) -> bool {
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.any(has_contents)
}

/// Whether the agent writes what is in a volume.
pub(crate) fn has_contents(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// What a volume is to be made from.
pub(crate) fn source(
    volume: &Volume,
    facts: &Facts<'_>,
    referenced: &Referenced,
    tokens: &Tokens,
) -> Result<Source, String> {
    if let Some(empty) = &volume.empty_dir {
        let size_limit = empty.size_limit.as_ref();
        let size_limit =
            size_limit.and_then(|q| rk_api::meta::quantity::Quantity::parse(&q.0).ok());
        let medium = empty.medium.as_deref().unwrap_or_default();
        if medium.starts_with("HugePages") {
            let page_bytes = huge_pages::page_bytes(medium, facts.pod)?;
            return Ok(Source::HugePages { page_bytes });
        }
        return Ok(Source::EmptyDir {
            memory: empty.medium.as_deref() == Some("Memory"),
            size_limit: size_limit.map(|limit| limit.value()),
        });
    }
    if let Some(image) = &volume.image {
        return Ok(Source::Image(Box::new(image.clone())));
    }
    if let Some(wanted) = Wanted::inline(facts.pod, volume) {
        return Ok(Source::Csi(Box::new(wanted)));
    }
    if let Some(host) = &volume.host_path {
        let type_ = host.type_.clone().unwrap_or_default();
        return Ok(Source::HostPath { path: host.path.clone().into(), type_ });
    }
    let mut files = Files::new();
    if let Some(wanted) = &volume.config_map {
        let mode = mode(wanted.default_mode);
        let optional = wanted.optional == Some(true);
        let map = referenced.config_maps.get(&wanted.name).map(|map| &**map);
        config_map_files(&mut files, &wanted.name, map, wanted.items.as_deref(), optional, mode)?;
        return Ok(Source::Files { plugin: "configmap", files });
    }
    if let Some(wanted) = &volume.secret {
        let mode = mode(wanted.default_mode);
        let optional = wanted.optional == Some(true);
        let name = wanted.secret_name.as_deref().unwrap_or_default();
        let secret = referenced.secrets.get(name).map(|secret| &**secret);
        secret_files(&mut files, name, secret, wanted.items.as_deref(), optional, mode)?;
        return Ok(Source::Files { plugin: "secret", files });
    }
    if let Some(wanted) = &volume.downward_api {
        let mode = mode(wanted.default_mode);
        downward_files(&mut files, wanted.items.as_deref(), facts, mode)?;
        return Ok(Source::Files { plugin: "downward-api", files });
    }
    if let Some(projected) = &volume.projected {
        let mode = mode(projected.default_mode);
        for source in projected.sources.iter().flatten() {
            if let Some(wanted) = &source.config_map {
                let optional = wanted.optional == Some(true);
                let map = referenced.config_maps.get(&wanted.name).map(|map| &**map);
                config_map_files(
                    &mut files,
                    &wanted.name,
                    map,
                    wanted.items.as_deref(),
                    optional,
                    mode,
                )?;
            } else if let Some(wanted) = &source.secret {
                let optional = wanted.optional == Some(true);
                let secret = referenced.secrets.get(&wanted.name).map(|secret| &**secret);
                secret_files(
                    &mut files,
                    &wanted.name,
                    secret,
                    wanted.items.as_deref(),
                    optional,
                    mode,
                )?;
            } else if let Some(wanted) = &source.downward_api {
                downward_files(&mut files, wanted.items.as_deref(), facts, mode)?;
            } else if let Some(wanted) = &source.service_account_token {
                let key = (volume.name.clone(), wanted.path.clone());
                let token = tokens.get(&key).ok_or("failed to fetch token")?;
                files.insert(wanted.path.clone(), (token.clone().into_bytes(), mode));
            } else {
                return Err("unsupported projected volume source".into());
            }
        }
        return Ok(Source::Files { plugin: "projected", files });
    }
    Err("no volume plugin matched".into())
}

fn mode(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644) & 0o777
}

fn select<'a, T>(
    files: &mut Files,
    kind: &str,
    items: Option<&[KeyToPath]>,
    optional: bool,
    default_mode: u32,
    data: &'a BTreeMap<String, T>,
    bytes: impl Fn(&'a T) -> Vec<u8>,
) -> Result<(), String> {
    match items {
        None => {
            files.extend(
                data.iter().map(|(key, value)| (key.clone(), (bytes(value), default_mode))),
            );
        }
        Some(items) => {
            for item in items {
                match data.get(&item.key) {
                    Some(value) => {
                        let mode = item.mode.map_or(default_mode, |own| mode(Some(own)));
                        files.insert(item.path.clone(), (bytes(value), mode));
                    }
                    None if optional => {}
                    None => {
                        return Err(format!(
                            "{kind} references non-existent {kind} key: {}",
                            item.key
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}

fn config_map_files(
    files: &mut Files,
    name: &str,
    map: Option<&ConfigMap>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: u32,
) -> Result<(), String> {
    let Some(map) = map else {
        return if optional { Ok(()) } else { Err(format!("configmap {name:?} not found")) };
    };
    let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    let data: BTreeMap<String, Vec<u8>> = text.chain(binary).collect();
    select(files, "configmap", items, optional, mode, &data, Vec::clone)
}

fn secret_files(
    files: &mut Files,
    name: &str,
    secret: Option<&Secret>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    mode: u32,
) -> Result<(), String> {
    let Some(secret) = secret else {
        return if optional { Ok(()) } else { Err(format!("secret {name:?} not found")) };
    };
    let empty = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&empty);
    select(files, "secret", items, optional, mode, data, |bytes| bytes.0.clone())
}

fn downward_files(
    files: &mut Files,
    items: Option<&[DownwardAPIVolumeFile]>,
    facts: &Facts<'_>,
    default_mode: u32,
) -> Result<(), String> {
    for item in items.unwrap_or_default() {
        let text = if let Some(reference) = &item.field_ref {
            field(reference, facts)?
        } else if let Some(reference) = &item.resource_field_ref {
            resources::field(reference, &Container::default(), facts)?
        } else {
            String::new()
        };
        let mode = item.mode.map_or(default_mode, |own| mode(Some(own)));
        files.insert(item.path.clone(), (text.into_bytes(), mode));
    }
    Ok(())
}

/// Makes a volume, or brings its contents up to date, and returns where it is. What the agent makes
/// belongs to `group` (`fsGroup`), which may write to empty directories and read files. Blocks.
pub(crate) fn set_up(
    pod_dir: &Path,
    volume: &str,
    source: Source,
    group: Option<u32>,
) -> Result<PathBuf, String> {
    match source {
        Source::EmptyDir { memory, size_limit } => {
            let path = directory(pod_dir, "empty-dir", volume);
            empty_dir(&path, memory, size_limit, group).map_err(|error| error.to_string())?;
            Ok(path)
        }
        Source::HugePages { page_bytes } => {
            let path = directory(pod_dir, "empty-dir", volume);
            huge_pages::set_up(&path, page_bytes, group).map_err(|error| {
                format!("cannot mount huge pages of {page_bytes} bytes: {error}")
            })?;
            Ok(path)
        }
        Source::HostPath { path, type_ } => {
            host_path(&path, &type_)?;
            Ok(path)
        }
        Source::Device(path) => {
            let found = std::fs::metadata(&path).map(|found| found.file_type());
            let found = found.map_err(|error| format!("{}: {error}", path.display()))?;
            match special(Some(found), "BlockDevice") {
                Some(()) => Ok(path),
                None => Err(format!("{} is not a block device", path.display())),
            }
        }
        Source::Csi(wanted) => Err(format!("{wanted:?} is for its driver to mount")),
        Source::Image(image) => Err(format!("{image:?} is for the runtime to mount")),
        Source::Files { plugin, files } => {
            let path = directory(pod_dir, plugin, volume);
            atomic::write(&path, &files, group).map_err(|error| error.to_string())?;
            Ok(path)
        }
    }
}

fn empty_dir(
    path: &Path,
    memory: bool,
    size_limit: Option<i64>,
    group: Option<u32>,
) -> io::Result<()> {
    if path.exists() && (!memory || is_mounted(path)?) {
        return Ok(());
    }
    // An agent may die at each of these steps, and the next one must not take half for the whole: a
    // directory gets its name last, and memory is there once it is mounted.
    let new = match path.file_name() {
        Some(name) if !memory => path.with_file_name(format!(".new-{}", name.to_string_lossy())),
        _ => path.to_owned(),
    };
    std::fs::create_dir_all(&new)?;
    if memory {
        mount_tmpfs(path, size_limit);
    }
    set_mode(&new, 0o777)?;
    if let Some(group) = group {
        give_to_group(&new, group)?;
        // What is made in it belongs to the group too.
        set_mode(&new, 0o2777)?;
    }
    if !memory {
        std::fs::rename(&new, path)?;
    }
    Ok(())
}

/// Whether something is mounted on a directory.
#[cfg(unix)]
fn is_mounted(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| Ok::<_, io::Error>(std::fs::metadata(path)?.dev());
    Ok(match path.parent() {
        Some(parent) => device(path)? != device(parent)?,
        None => true,
    })
}

#[cfg(not(unix))]
fn is_mounted(_: &Path) -> io::Result<bool> {
    Ok(true)
}

/// Gives a file or directory, not what a link leads to, to a group.
#[cfg(unix)]
pub(crate) fn give_to_group(path: &Path, group: u32) -> io::Result<()> {
    std::os::unix::fs::lchown(path, None, Some(group))
}

#[cfg(not(unix))]
pub(crate) fn give_to_group(_: &Path, _: u32) -> io::Result<()> {
    Ok(())
}

/// The group that a pod's volumes belong to.
pub(crate) fn group_of(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    u32::try_from(context.fs_group?).ok()
}

/// Whether a volume's files are given to the group only if its root is not the group's already.
pub(crate) fn only_if_root_differs(pod: &Pod) -> bool {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    context.and_then(|context| context.fs_group_change_policy.as_deref()) == Some("OnRootMismatch")
}

/// Memory behind a directory, where that is allowed; else the directory does.
#[cfg(target_os = "linux")]
fn mount_tmpfs(path: &Path, size_limit: Option<i64>) {
    use rustix::mount::{MountFlags, mount};
    let options = match size_limit {
        Some(bytes) if bytes > 0 => format!("mode=0777,size={bytes}"),
        _ => "mode=0777".to_string(),
    };
    let options = std::ffi::CString::new(options).unwrap_or_default();
    if let Err(error) = mount("tmpfs", path, "tmpfs", MountFlags::empty(), &*options) {
        tracing::debug!(%error, path = %path.display(), "no tmpfs; the volume is on disk");
    }
}

#[cfg(not(target_os = "linux"))]
fn mount_tmpfs(_: &Path, _: Option<i64>) {}

#[cfg(unix)]
pub(crate) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
pub(crate) fn set_mode(_: &Path, _: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn set_mode_of(file: &std::fs::File, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn set_mode_of(_: &std::fs::File, _: u32) -> io::Result<()> {
    Ok(())
}

/// Checks that a path of the host is what the volume says it is, or makes it.
fn host_path(path: &Path, type_: &str) -> Result<(), String> {
    let failed =
        |what: &str| Err(format!("hostPath type check failed: {} is not {what}", path.display()));
    let found = std::fs::metadata(path).map(|meta| meta.file_type());
    match type_ {
        "" => Ok(()),
        "DirectoryOrCreate" => {
            if found.is_err() {
                std::fs::create_dir_all(path).map_err(|error| error.to_string())?;
                return set_mode(path, 0o755).map_err(|error| error.to_string());
            }
            if path.is_dir() { Ok(()) } else { failed("a directory") }
        }
        "FileOrCreate" => {
            if found.is_err() {
                // Not where a link leads that leads nowhere yet.
                let new = std::fs::File::create_new(path).map_err(|error| error.to_string())?;
                return set_mode_of(&new, 0o644).map_err(|error| error.to_string());
            }
            if path.is_file() { Ok(()) } else { failed("a file") }
        }
        "Directory" => {
            if path.is_dir() {
                Ok(())
            } else {
                failed("a directory")
            }
        }
        "File" => {
            if path.is_file() {
                Ok(())
            } else {
                failed("a file")
            }
        }
        _ => {
            let what = match type_ {
                "Socket" => "a socket file",
                "CharDevice" => "a character device",
                "BlockDevice" => "a block device",
                other => other,
            };
            special(found.ok(), type_).map_or_else(|| failed(what), |()| Ok(()))
        }
    }
}

#[cfg(unix)]
fn special(found: Option<std::fs::FileType>, type_: &str) -> Option<()> {
    use std::os::unix::fs::FileTypeExt;
    let found = found?;
    let is = match type_ {
        "Socket" => found.is_socket(),
        "CharDevice" => found.is_char_device(),
        "BlockDevice" => found.is_block_device(),
        _ => false,
    };
    is.then_some(())
}

#[cfg(not(unix))]
fn special(_: Option<std::fs::FileType>, _: &str) -> Option<()> {
    None
}

/// The mounts of a container; nothing writes to the volumes in `read_only`.
/// `recursive` says whether the runtime can make mounts read-only all the way down. Blocks.
/// An error is the message of `CreateContainerConfigError`.
pub(crate) fn mounts(
    pod_dir: &Path,
    container: &Container,
    volumes: &BTreeMap<String, PathBuf>,
    read_only: &BTreeSet<String>,
    recursive: bool,
    env: &[(String, String)],
) -> Result<Vec<Mount>, String> {
    let mut mounts = Vec::new();
    for (number, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let root = volumes.get(&mount.name).ok_or_else(|| {
            format!(
                "cannot find volume {:?} to mount into container {:?}",
                mount.name, container.name
            )
        })?;
        let sub_path = match &mount.sub_path_expr {
            Some(expression) if !expression.is_empty() => expand_sub_path(expression, env)?,
            _ => mount.sub_path.clone().unwrap_or_default(),
        };
        let host_path = if sub_path.is_empty() {
            root.clone()
        } else {
            let target = pod_dir.join("volume-subpaths").join(&mount.name).join(&container.name);
            subpath::prepare(root, &sub_path, &target.join(number.to_string())).map_err(
                |error| {
                    format!(
                        "failed to prepare subPath for volumeMount {:?} of container {:?}: {error}",
                        mount.name, container.name
                    )
                },
            )?
        };
        let read_only = mount.read_only == Some(true) || read_only.contains(&mount.name);
        if mount.recursive_read_only.as_deref() == Some("Enabled") && !recursive {
            return Err(format!(
                "recursive read-only mount of volume {:?} is not supported by the runtime",
                mount.name
            ));
        }
        mounts.push(Mount {
            host_path,
            container_path: container_path(mount),
            read_only,
            recursive_read_only: read_only && is_recursive(mount, recursive),
            propagation: mount
                .mount_propagation
                .clone()
                .filter(|propagation| propagation != "None"),
        });
    }
    Ok(mounts)
}

/// The devices of a container, by the paths of its volumes; nothing writes to those in `read_only`.
pub(crate) fn devices(
    container: &Container,
    volumes: &BTreeMap<String, PathBuf>,
    read_only: &BTreeSet<String>,
) -> Result<Vec<Device>, String> {
    let devices = container.volume_devices.iter().flatten().map(|device| {
        let host_path = volumes.get(&device.name).ok_or_else(|| {
            format!(
                "cannot find volume {:?} to pass into container {:?}",
                device.name, container.name
            )
        })?;
        Ok(Device {
            host_path: host_path.clone(),
            container_path: Path::new("/").join(&device.device_path),
            read_only: read_only.contains(&device.name),
        })
    });
    devices.collect()
}

/// A `subPathExpr` with the variables of a container. Unlike in a command all have to have a value.
fn expand_sub_path(expression: &str, env: &[(String, String)]) -> Result<String, String> {
    let missing = std::cell::RefCell::new(BTreeSet::new());
    let expanded = expand(expression, |name| {
        let found = env.iter().find(|(key, value)| key == name && !value.is_empty());
        if found.is_none() {
            missing.borrow_mut().insert(name.to_owned());
        }
        found.map(|(_, value)| value.as_str())
    });
    let missing: Vec<String> = missing.into_inner().into_iter().collect();
    match missing.is_empty() {
        true => Ok(expanded),
        false => Err(format!("missing value for {}", missing.join(", "))),
    }
}

/// Whether a mount for reading is one all the way down, with a runtime that can do so.
pub(crate) fn is_recursive(mount: &VolumeMount, can: bool) -> bool {
    can && matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"))
}

fn container_path(mount: &VolumeMount) -> PathBuf {
    // A relative path is one from the root.
    Path::new("/").join(&mount.mount_path)
}

/// Unmounts what was mounted below a pod's directory, and removes it. Blocks.
pub(crate) fn tear_down(pod_dir: &Path) -> io::Result<()> {
    if !pod_dir.exists() {
        return Ok(());
    }
    unmount_below(pod_dir)?;
    match std::fs::remove_dir_all(pod_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(target_os = "linux")]
fn unmount_below(dir: &Path) -> io::Result<()> {
    let dir = dir.canonicalize()?;
    // Nothing is removed before it is known what is mounted there.
    let table = crate::mounts::table()?;
    // The newest mounts come last and are unmounted first.
    let points = crate::mounts::points(&table).map(|(point, _)| point).rev();
    let detach = rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW;
    for point in points.filter(|point| point.starts_with(&dir)) {
        rustix::mount::unmount(&point, detach)?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn unmount_below(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn nothing_is_made_where_a_planted_link_leads() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        for type_ in ["FileOrCreate", "DirectoryOrCreate"] {
            let (link, victim) = (dir.join(type_), dir.join(format!("{type_}-victim")));
            std::os::unix::fs::symlink(&victim, &link).unwrap();
            assert!(host_path(&link, type_).is_err(), "{type_}");
            assert!(!victim.exists(), "{type_}");
            std::fs::remove_file(&link).unwrap();
            assert_eq!(host_path(&link, type_), Ok(()));
            assert_eq!(host_path(&link, type_), Ok(()), "it is there by now");
        }
        let device = set_up(dir, "v", Source::Device(dir.to_owned()), None).unwrap_err();
        assert!(device.ends_with("is not a block device"), "{device}");
    }

    #[test]
    fn all_variables_of_a_sub_path_need_a_value() {
        let env = [("POD".to_owned(), "web-0".to_owned()), ("EMPTY".to_owned(), String::new())];
        assert_eq!(expand_sub_path("logs/$(POD)/$$(x)", &env).as_deref(), Ok("logs/web-0/$(x)"));
        let why = expand_sub_path("$(POD)/$(NOBODY)/$(EMPTY)", &env).unwrap_err();
        assert_eq!(why, "missing value for EMPTY, NOBODY");
    }
}
