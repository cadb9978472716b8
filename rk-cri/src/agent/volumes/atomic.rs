//! Replaces a directory's files all at once.
//!
//! The files are in a directory of their own, named by time; `..data` is a link to it, and each
//! visible name is a link through `..data`. Renaming a new `..data` over the old one changes all.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Component, Path},
};

use rk_api::clock;

use super::{give_to_group, set_mode};

/// Contents and mode by relative path.
pub(crate) type Files = BTreeMap<String, (Vec<u8>, u32)>;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Makes `dir` hold exactly `files`, which `group` may read. Whether anything changed. Blocks.
pub(crate) fn write(dir: &Path, files: &Files, group: Option<u32>) -> io::Result<bool> {
    check(files)?;
    let readable: Files;
    let files = match group {
        Some(_) => {
            readable = files
                .iter()
                .map(|(path, (text, mode))| (path.clone(), (text.clone(), mode | 0o440)))
                .collect();
            &readable
        }
        None => files,
    };
    fs::create_dir_all(dir)?;
    let old = fs::read_link(dir.join(DATA)).ok().filter(|old| is_ours(old));
    if old.is_some() && read(&dir.join(DATA))? == *files {
        return Ok(false);
    }

    let stamp = format!("..{}", clock::now().strftime("%Y_%m_%d_%H_%M_%S.%N"));
    let fresh = dir.join(&stamp);
    // A name that is taken already is not ours.
    fs::create_dir(&fresh)?;
    set_mode(&fresh, 0o755)?;
    if let Some(group) = group {
        give_to_group(&fresh, group)?;
        give_to_group(dir, group)?;
    }
    for (path, (contents, mode)) in files {
        let file = fresh.join(path);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&file, contents)?;
        set_mode(&file, *mode)?;
        if let Some(group) = group {
            give_to_group(&file, group)?;
            let above = file.ancestors().skip(1).take_while(|above| *above != fresh);
            above.into_iter().try_for_each(|above| give_to_group(above, group))?;
        }
    }
    let _ = fs::remove_file(dir.join(NEW_DATA));
    symlink(Path::new(&stamp), &dir.join(NEW_DATA))?;
    fs::rename(dir.join(NEW_DATA), dir.join(DATA))?;

    let visible: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &visible {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(&Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !visible.contains(&*name) {
            fs::remove_file(entry.path())?;
        }
    }
    if let Some(old) = old {
        fs::remove_dir_all(dir.join(old))?;
    }
    Ok(true)
}

/// Whether a link leads to a directory that was made here. Should somebody else have written to the
/// volume, what the link leads to is neither read nor removed.
fn is_ours(target: &Path) -> bool {
    let mut parts = target.components();
    let one = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    one && target.to_string_lossy().starts_with("..2")
}

/// Paths must stay inside, and must not look like what holds the directory together.
fn check(files: &Files) -> io::Result<()> {
    for path in files.keys() {
        let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        if !inside || path.starts_with("..") || path.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("invalid path {path:?}"),
            ));
        }
    }
    Ok(())
}

fn read(dir: &Path) -> io::Result<Files> {
    fn walk(base: &Path, prefix: &str, files: &mut Files) -> io::Result<()> {
        for entry in fs::read_dir(base)? {
            let entry = entry?;
            let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                walk(&entry.path(), &format!("{path}/"), files)?;
            } else if kind.is_file() {
                files.insert(path, (fs::read(entry.path())?, mode_of(&entry.path())?));
            } else {
                // Not made here: neither followed nor waited for, and different from all wanted.
                files.insert(path, (Vec::new(), u32::MAX));
            }
        }
        Ok(())
    }
    let mut files = Files::new();
    walk(dir, "", &mut files)?;
    Ok(files)
}

#[cfg(unix)]
fn mode_of(path: &Path) -> io::Result<u32> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::metadata(path)?.permissions().mode() & 0o777)
}

#[cfg(not(unix))]
fn mode_of(_: &Path) -> io::Result<u32> {
    Ok(0o644)
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter()
            .map(|(path, text)| (path.to_string(), (text.as_bytes().to_vec(), 0o640)))
            .collect()
    }

    fn listing(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|name| !name.starts_with("..2")).collect();
        names.sort();
        names
    }

    #[test]
    fn a_group_may_read_what_is_its_own() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        // The group that this process has anyway, which needs no rights.
        let group = std::fs::metadata(dir).unwrap().gid();
        let private = Files::from([("a".to_owned(), (b"1".to_vec(), 0o600))]);
        assert!(write(dir, &private, Some(group)).unwrap());
        assert_eq!(std::fs::metadata(dir.join("a")).unwrap().mode() & 0o777, 0o640);
        assert!(!write(dir, &private, Some(group)).unwrap(), "nothing has changed");
    }

    #[test]
    fn files_appear_change_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(write(dir, &files(&[("a", "1"), ("sub/b", "2"), ("old", "3")]), None).unwrap());
        assert_eq!(fs::read_to_string(dir.join("sub/b")).unwrap(), "2");
        assert_eq!(mode_of(&dir.join("a")).unwrap(), 0o640);

        assert!(!write(dir, &files(&[("a", "1"), ("sub/b", "2"), ("old", "3")]), None).unwrap());
        assert!(write(dir, &files(&[("a", "one"), ("new", "4")]), None).unwrap());
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "one");
        assert_eq!(listing(dir), ["..data", "a", "new"]);
        let held = fs::read_dir(dir).unwrap().count();
        assert_eq!(held, 4, "one directory of data is kept");
    }

    #[test]
    fn a_planted_link_leads_nowhere() {
        let root = tempfile::tempdir().unwrap();
        let (volume, outside) = (root.path().join("volume"), root.path().join("outside"));
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("precious"), "host").unwrap();
        for planted in [outside.as_path(), Path::new("../outside"), Path::new("..2/../../outside")]
        {
            write(&volume, &files(&[("a", "1")]), None).unwrap();
            fs::remove_file(volume.join(DATA)).unwrap();
            symlink(planted, &volume.join(DATA)).unwrap();
            let _ = fs::remove_file(volume.join("a"));
            symlink(&outside, &volume.join("a")).unwrap();
            assert!(write(&volume, &files(&[("a", "2"), ("precious", "mine")]), None).unwrap());
            assert_eq!(fs::read_to_string(outside.join("precious")).unwrap(), "host");
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
            assert_eq!(fs::read_to_string(volume.join("..data/a")).unwrap(), "2");
            fs::remove_dir_all(&volume).unwrap();
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_was_planted_among_the_files_is_neither_followed_nor_waited_for() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let root = tempfile::tempdir().unwrap();
        let (volume, outside) = (root.path().join("volume"), root.path().join("outside"));
        fs::write(&outside, "1").unwrap();
        let fifo =
            |at: &Path| mknodat(CWD, at, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        type Plant<'a> = &'a dyn Fn(&Path);
        let plants: [Plant<'_>; 3] = [&fifo, &|at| symlink(&outside, at).unwrap(), &|at| {
            symlink(Path::new("nowhere"), at).unwrap()
        }];
        for plant in plants {
            let wanted = files(&[("a", "1"), ("sub/b", "2")]);
            write(&volume, &wanted, None).unwrap();
            fs::remove_file(volume.join("..data/a")).unwrap();
            plant(&volume.join("..data/a"));
            assert!(write(&volume, &wanted, None).unwrap(), "it is put right");
            assert_eq!(fs::read_to_string(volume.join("a")).unwrap(), "1");
            assert!(fs::symlink_metadata(volume.join("..data/a")).unwrap().is_file());
            assert_eq!(fs::read_to_string(&outside).unwrap(), "1");
        }
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../a", "/etc/passwd", "a/../../b", "..data", ""] {
            assert!(write(dir.path(), &files(&[(path, "x")]), None).is_err(), "{path}");
        }
    }
}
