//! A file that is put aside when it is large, beside those put aside before, of which some are
//! deleted: names and limits are those of kube-apiserver's log files.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use k8s_openapi::jiff::{Timestamp, civil::DateTime, tz::TimeZone};

use crate::clock;

/// The form of the time in the name of a file that was put aside.
const TIME: &str = "%Y-%m-%dT%H-%M-%S.%3f";

/// When files are put aside, and how many are kept.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// The size above which a file is put aside, in bytes.
    pub bytes_max: u64,
    /// How long files are kept, in days; 0 for as long as may be.
    pub age_days_max: u32,
    /// How many are kept; 0 for as many as there are.
    pub backups_max: usize,
    /// Whether they are compressed.
    pub compress: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct RotatingFile {
    path: PathBuf,
    limits: Limits,
    file: File,
    size: u64,
}

impl RotatingFile {
    /// Opens the file, and makes it and its directory where they are missing.
    pub(super) fn open(path: &Path, limits: Limits) -> io::Result<Self> {
        if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(directory)?;
        }
        let file = append_to(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), limits, file, size })
    }

    /// Appends a line that ends in a line feed. What it is about may be split over files, a line is
    /// not.
    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + line.len() as u64 > self.limits.bytes_max {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.size += line.len() as u64;
        Ok(())
    }

    /// Forces what was written to the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn rotate(&mut self) -> io::Result<()> {
        let name = Name::of(&self.path);
        let mut now = clock::now();
        let mut aside = name.aside(now);
        // Never over another one, however fast the file fills.
        while aside.exists() {
            now += k8s_openapi::jiff::SignedDuration::from_millis(1);
            aside = name.aside(now);
        }
        fs::rename(&self.path, aside)?;
        self.file = append_to(&self.path)?;
        self.size = 0;
        let limits = self.limits.clone();
        let clean_up = move || {
            if let Err(error) = clean_up(&name, &limits, now) {
                tracing::warn!(%error, "cannot clean up old audit logs");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(clean_up)),
            Err(_) => clean_up(),
        }
        Ok(())
    }
}

/// A log may hold secrets: nobody else may read it.
fn append_to(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// The parts of a file's name.
struct Name {
    directory: PathBuf,
    prefix: String,
    extension: String,
}

impl Name {
    fn of(path: &Path) -> Self {
        let part = |part: Option<&std::ffi::OsStr>| {
            part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let extension = part(path.extension());
        Self {
            directory: path.parent().map(Path::to_owned).unwrap_or_default(),
            prefix: format!("{}-", part(path.file_stem())),
            extension: if extension.is_empty() { extension } else { format!(".{extension}") },
        }
    }

    fn aside(&self, at: Timestamp) -> PathBuf {
        let time = at.to_zoned(TimeZone::UTC).strftime(TIME).to_string();
        self.directory.join(format!("{}{time}{}", self.prefix, self.extension))
    }

    /// When a file was put aside, by its name, and whether it is compressed.
    fn parse(&self, name: &str) -> Option<(Timestamp, bool)> {
        let rest = name.strip_prefix(&self.prefix)?;
        let (rest, compressed) = match rest.strip_suffix(".gz") {
            Some(rest) => (rest, true),
            None => (rest, false),
        };
        let time = rest.strip_suffix(self.extension.as_str())?;
        let time = DateTime::strptime(TIME, time).ok()?;
        Some((time.to_zoned(TimeZone::UTC).ok()?.timestamp(), compressed))
    }
}

/// A file that was put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Backup {
    at: Timestamp,
    name: String,
    compressed: bool,
}

/// What is deleted, and what is compressed, of the files there are.
fn plan(mut backups: Vec<Backup>, limits: &Limits, now: Timestamp) -> (Vec<Backup>, Vec<Backup>) {
    backups.sort_by_key(|backup| std::cmp::Reverse(backup.at));
    let hours = i64::from(limits.age_days_max) * 24;
    let oldest = now.checked_sub(k8s_openapi::jiff::SignedDuration::from_hours(hours));
    let oldest = oldest.unwrap_or(Timestamp::MIN);
    let kept_most = if limits.backups_max == 0 { usize::MAX } else { limits.backups_max };
    let (mut deleted, mut kept) = (Vec::new(), Vec::new());
    for (rank, backup) in backups.into_iter().enumerate() {
        let too_old = limits.age_days_max > 0 && backup.at < oldest;
        if too_old || rank >= kept_most { &mut deleted } else { &mut kept }.push(backup);
    }
    kept.retain(|backup| limits.compress && !backup.compressed);
    (deleted, kept)
}

fn clean_up(name: &Name, limits: &Limits, now: Timestamp) -> io::Result<()> {
    let directory = match name.directory.as_os_str().is_empty() {
        true => Path::new("."),
        false => &name.directory,
    };
    let mut backups = Vec::new();
    for entry in fs::read_dir(directory)? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        if let Some((at, compressed)) = name.parse(&file) {
            backups.push(Backup { at, name: file, compressed });
        }
    }
    let (deleted, compressed) = plan(backups, limits, now);
    for backup in deleted {
        fs::remove_file(directory.join(backup.name))?;
    }
    for backup in compressed {
        compress(&directory.join(backup.name))?;
    }
    Ok(())
}

fn compress(path: &Path) -> io::Result<()> {
    let mut target = path.as_os_str().to_owned();
    target.push(".gz");
    let mut encoder = GzEncoder::new(append_to(Path::new(&target))?, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { bytes_max: 10, age_days_max: 0, backups_max: 2, compress: false }
    }

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_are_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logs/audit.log");
        let mut file = RotatingFile::open(&path, limits()).unwrap();
        for line in ["1234567\n", "2\n", "345678\n", "456789\n", "567890\n"] {
            file.write(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "567890\n");
        let mut kept: Vec<_> = fs::read_dir(directory.path().join("logs"))
            .unwrap()
            .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
            .collect();
        kept.sort();
        assert_eq!(kept, ["345678\n", "456789\n", "567890\n"]);
    }

    #[test]
    fn an_opened_file_is_continued() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit");
        RotatingFile::open(&path, limits()).unwrap().write(b"123456\n").unwrap();
        let mut again = RotatingFile::open(&path, limits()).unwrap();
        again.write(b"1\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "123456\n1\n");
        again.write(b"234\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "234\n");
    }

    #[test]
    fn names_tell_when_a_file_was_put_aside() {
        let name = Name::of(Path::new("/var/log/audit.log"));
        let at: Timestamp = "2026-11-21T05:06:07.089Z".parse().unwrap();
        let aside = name.aside(at);
        assert_eq!(aside, Path::new("/var/log/audit-2026-11-21T05-06-07.089.log"));
        let file = aside.file_name().unwrap().to_str().unwrap();
        assert_eq!(name.parse(file), Some((at, false)));
        assert_eq!(name.parse(&format!("{file}.gz")), Some((at, true)));
        assert_eq!(name.parse("audit.log"), None);
        assert_eq!(name.parse("audit-copy.log"), None);
    }

    #[test]
    fn files_go_by_age_and_count() {
        let now: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
        let backup = |hours: i64| Backup {
            at: now - k8s_openapi::jiff::SignedDuration::from_hours(hours),
            name: hours.to_string(),
            compressed: hours > 1,
        };
        let limits = Limits { age_days_max: 1, backups_max: 3, compress: true, ..limits() };
        let all = [50, 1, 2, 25, 3, 4].map(backup).to_vec();
        let (deleted, compressed) = plan(all, &limits, now);
        let names = |backups: &[Backup]| {
            backups.iter().map(|backup| backup.name.clone()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!((names(&deleted), names(&compressed)), ("4 25 50".into(), "1".into()));
    }
}
