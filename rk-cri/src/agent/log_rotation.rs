//! Keeps containers' logs short (`containerLogMaxSize`, `containerLogMaxFiles`): a log that is too
//! long is moved to `NAME.TIME`, and the container goes on in a new file. Older ones are compressed,
//! the oldest are removed. Names are the kubelet's.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use rk_api::clock;
use tokio::time::{MissedTickBehavior, interval};

use super::{handler::describe, worker::Core};
use crate::runtime::{ContainerState, ContainerStatus};

const COMPRESSED: &str = "gz";
/// What is being compressed is not complete.
const UNDER_WAY: &str = "tmp";

impl Core {
    pub(super) async fn keep_logs_short(&self) {
        let mut ticks = interval(self.config.settings.log_look_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let containers = self.runtime.list_containers().await.unwrap_or_default();
            for container in containers {
                if container.state == ContainerState::Running
                    && let Err(why) = self.keep_short(&container).await
                {
                    tracing::warn!(container = container.id, why, "the log cannot be rotated");
                }
            }
        }
    }

    async fn keep_short(&self, container: &ContainerStatus) -> Result<(), String> {
        let settings = &self.config.settings;
        let path = container.log_path.clone();
        match tokio::fs::metadata(&path).await {
            Ok(metadata) if metadata.len() > settings.log_size_max => {}
            _ => return Ok(()),
        }
        let files = settings.log_files_max;
        let moved = tokio::task::spawn_blocking(move || make_room(&path, files)).await;
        let moved = moved.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        if let Err(error) = self.runtime.reopen_container_log(&container.id).await {
            // It goes on in the old file, which has to have its name then.
            let back = tokio::fs::rename(&moved, &container.log_path).await;
            return Err(match back {
                Ok(()) => describe(&error),
                Err(lost) => format!("{}; {}: {lost}", describe(&error), moved.display()),
            });
        }
        Ok(())
    }
}

/// Moves a log away, after those that were moved before; returns where it is.
fn make_room(log: &Path, files_max: u32) -> io::Result<PathBuf> {
    let mut rotated = rotated(log)?;
    let newest = rotated.last().map(|file| age(file, &beginning(log)));
    // This one and the new one are beside them.
    let keep = usize::try_from(files_max.saturating_sub(2)).unwrap_or(usize::MAX);
    let excess = rotated.len().saturating_sub(keep);
    for oldest in rotated.drain(..excess) {
        std::fs::remove_file(oldest)?;
    }
    for file in rotated.iter().filter(|file| file.extension() != Some(OsStr::new(COMPRESSED))) {
        compress(file)?;
    }
    let time = clock::now().strftime("%Y%m%d-%H%M%S").to_string();
    // Two in one second must neither replace each other nor change places.
    let target = match newest {
        Some((newest, number)) if newest == time => {
            with_suffix(log, &format!("{time}-{}", number + 1))
        }
        _ => with_suffix(log, &time),
    };
    std::fs::rename(log, &target)?;
    Ok(target)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// What was moved away of a log, the oldest first. What a crash left half done is removed.
fn rotated(log: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(directory) = log.parent() else { return Ok(Vec::new()) };
    let beginning = beginning(log);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let file = path.file_name().unwrap_or_default().as_encoded_bytes();
        if !file.starts_with(beginning.as_encoded_bytes()) {
            continue;
        }
        if path.extension() == Some(OsStr::new(UNDER_WAY)) {
            std::fs::remove_file(&path)?;
        } else {
            found.push(path);
        }
    }
    found.sort_by_key(|path| age(path, &beginning));
    Ok(found)
}

/// What the names begin with of what was moved away.
fn beginning(log: &Path) -> OsString {
    let mut beginning = log.file_name().unwrap_or_default().to_owned();
    beginning.push(".");
    beginning
}

/// By its name, which is a time, and a number where there was one of that time.
fn age(path: &Path, beginning: &OsStr) -> (String, u32) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_prefix(&*beginning.to_string_lossy()).unwrap_or_default();
    let name = name.strip_suffix(&format!(".{COMPRESSED}")).unwrap_or(name);
    // YYYYMMDD-HHMMSS
    let (time, rest) = name.split_at_checked(15).unwrap_or((name, ""));
    let number = rest.strip_prefix('-').and_then(|number| number.parse().ok());
    (time.to_owned(), number.unwrap_or(0))
}

fn compress(file: &Path) -> io::Result<()> {
    let unfinished = with_suffix(file, UNDER_WAY);
    let mut encoder = GzEncoder::new(File::create(&unfinished)?, Compression::fast());
    io::copy(&mut File::open(file)?, &mut encoder)?;
    encoder.finish()?;
    std::fs::rename(&unfinished, with_suffix(file, COMPRESSED))?;
    std::fs::remove_file(file)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_log_keeps_so_many_files_of_which_the_older_ones_are_compressed() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("0.log");
        std::fs::write(with_suffix(&log, "20200101-000000.tmp"), "half").unwrap();
        for number in 0..7 {
            std::fs::write(&log, format!("part {number}\n")).unwrap();
            let moved = make_room(&log, 4).unwrap();
            assert_eq!(std::fs::read_to_string(moved).unwrap(), format!("part {number}\n"));
            assert!(!log.exists());
        }
        let mut found = Vec::new();
        for file in rotated(&log).unwrap() {
            let mut text = String::new();
            match file.extension() == Some(OsStr::new(COMPRESSED)) {
                true => flate2::read::GzDecoder::new(File::open(&file).unwrap())
                    .read_to_string(&mut text)
                    .unwrap(),
                false => File::open(&file).unwrap().read_to_string(&mut text).unwrap(),
            };
            found.push(text);
        }
        found.sort();
        assert_eq!(found, ["part 4\n", "part 5\n", "part 6\n"], "three, and the one in use");
    }
}
