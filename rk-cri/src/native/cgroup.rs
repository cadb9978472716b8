//! Cgroups of containers, version 1 and 2: where they are, who is in them, and their end.
//!
//! libcontainer makes a container's cgroups and sets its limits; this module does what is left
//! after the start.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::event::{Timespec, poll};
use serde::{Deserialize, Serialize};

use super::sys;
use crate::runtime::Resources;

/// The hierarchies of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hierarchies {
    /// Version 1 (or both, where version 2 has no controllers): mount points by controller.
    V1(BTreeMap<String, PathBuf>),
    /// Version 2: its mount point.
    V2(PathBuf),
}

impl Hierarchies {
    /// Finds them in the contents of `/proc/self/mountinfo`. `None` when there are no cgroups.
    pub(super) fn find(mountinfo: &str) -> Option<Self> {
        let mut v1 = BTreeMap::new();
        let mut v2 = None;
        for line in mountinfo.lines() {
            // 36 35 98:0 /root /mount/point options - type source super-options (proc(5))
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(mount_point) = left.split(' ').nth(4) else { continue };
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup2") => v2 = v2.or(Some(PathBuf::from(mount_point))),
                Some("cgroup") => {
                    let options = right.nth(1).unwrap_or_default();
                    for option in options.split(',') {
                        if CONTROLLERS.contains(&option) {
                            v1.entry(option.to_owned()).or_insert(PathBuf::from(mount_point));
                        }
                    }
                }
                _ => {}
            }
        }
        if v1.is_empty() { v2.map(Self::V2) } else { Some(Self::V1(v1)) }
    }

    /// The controllers that limits need and that are not there.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        let there: Vec<String> = match self {
            Self::V1(mounts) => mounts.keys().cloned().collect(),
            Self::V2(mount) => fs::read_to_string(mount.join("cgroup.controllers"))
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
        };
        let need = ["cpu", "memory", "pids"];
        need.into_iter().filter(|controller| !there.iter().any(|name| name == controller)).collect()
    }

    /// The cgroup at `path` below every hierarchy's root.
    pub(super) fn at(&self, path: &Path) -> Cgroup {
        let path = path.strip_prefix("/").unwrap_or(path);
        let (v2, mut directories) = match self {
            Self::V1(mounts) => (false, mounts.values().map(|mount| mount.join(path)).collect()),
            Self::V2(mount) => (true, vec![mount.join(path)]),
        };
        // Controllers that share a mount share the directory.
        directories.sort();
        directories.dedup();
        Cgroup { v2, path: Path::new("/").join(path), directories }
    }
}

/// The controllers of version 1 that containers are put under.
const CONTROLLERS: [&str; 12] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
];

/// A cgroup: one directory in version 2, one for each hierarchy in version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cgroup {
    v2: bool,
    /// Below the hierarchies' roots, with a leading slash.
    path: PathBuf,
    directories: Vec<PathBuf>,
}

impl Cgroup {
    /// The path that libcontainer takes.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How the swap limit can be set: version 1 counts swap only if the kernel was told to.
    pub(super) fn limits_swap(&self) -> bool {
        let mount = |directory: &PathBuf| {
            let depth = self.path.components().count() - 1;
            directory.ancestors().nth(depth).map(|mount| mount.join("memory.memsw.limit_in_bytes"))
        };
        self.v2 || self.directories.iter().filter_map(mount).any(|file| file.exists())
    }

    /// Whether there is a controller for huge pages.
    pub(super) fn limits_huge_pages(&self) -> bool {
        let depth = self.path.components().count() - 1;
        let mut mounts = self.directories.iter().filter_map(|d| d.ancestors().nth(depth));
        mounts.any(|mount| match self.v2 {
            true => fs::read_to_string(mount.join("cgroup.controllers"))
                .is_ok_and(|all| all.split_whitespace().any(|name| name == "hugetlb")),
            false => mount.ends_with("hugetlb"),
        })
    }

    /// The processes in it, those of cgroups below it included.
    pub(super) fn processes(&self) -> Vec<i32> {
        let Some(directory) = self.directories.iter().find(|directory| directory.is_dir()) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        collect_processes(directory, &mut found);
        found
    }

    /// Kills all processes in it, also such as are being started, and returns whether it is empty.
    pub(super) fn kill_all(&self) -> bool {
        if self.v2 {
            for directory in &self.directories {
                let _ = fs::write(directory.join("cgroup.kill"), "1");
            }
        }
        // Each round may find what a process forked during the one before.
        for _ in 0..100 {
            let processes = self.processes();
            if processes.is_empty() {
                return true;
            }
            for pid in processes {
                // Zero stands for a process of another pid namespace, which this cannot name.
                if let Ok(pid) = sys::pid_of(pid) {
                    let _ = sys::kill(pid, libc::SIGKILL);
                }
            }
            pause(Duration::from_millis(5));
        }
        false
    }

    /// How many of its processes the kernel killed for want of memory.
    pub(super) fn oom_kills(&self) -> u64 {
        let count = |directory: &PathBuf| {
            let file = if self.v2 { "memory.events" } else { "memory.oom_control" };
            let text = fs::read_to_string(directory.join(file)).ok()?;
            text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok())
        };
        self.directories.iter().filter_map(count).max().unwrap_or(0)
    }

    /// CPU time of all that ever ran in it.
    pub(super) fn cpu_time(&self) -> Option<Duration> {
        self.find("cpuacct.usage", |text| text.trim().parse().ok().map(Duration::from_nanos))
            .or_else(|| {
                let usage = |text: &str| member(text, "usage_usec").map(Duration::from_micros);
                self.find("cpu.stat", usage)
            })
    }

    /// Memory it uses, less what the kernel can take back first: file pages not used of late.
    pub(super) fn working_set_bytes(&self) -> Option<u64> {
        let (usage, inactive) = match self.v2 {
            true => ("memory.current", "inactive_file"),
            false => ("memory.usage_in_bytes", "total_inactive_file"),
        };
        let usage: u64 = self.find(usage, |text| text.trim().parse().ok())?;
        let inactive = self.find("memory.stat", |text| member(text, inactive)).unwrap_or(0);
        Some(usage.saturating_sub(inactive))
    }

    /// What is in the first file of this name that says it.
    fn find<T>(&self, file: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let mut found = self.directories.iter();
        found.find_map(|directory| read(&fs::read_to_string(directory.join(file)).ok()?))
    }

    /// Changes the limits that are set in `limits`; the others stay. Nothing happens where there is no
    /// such cgroup.
    pub(super) fn limit(&self, limits: &Resources) -> io::Result<()> {
        for (file, value) in match self.v2 {
            true => v2_limits(limits),
            false => self.v1_limits(limits),
        } {
            self.write(file, &value)?;
        }
        Ok(())
    }

    fn v1_limits(&self, limits: &Resources) -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        if limits.cpu_shares > 0 {
            all.push(("cpu.shares", limits.cpu_shares.clamp(2, 262_144).to_string()));
        }
        if limits.cpu_quota_us > 0 {
            all.push(("cpu.cfs_period_us", period(limits).to_string()));
            all.push(("cpu.cfs_quota_us", limits.cpu_quota_us.to_string()));
        }
        if limits.memory_limit_bytes > 0 {
            let limit = limits.memory_limit_bytes;
            // Memory with swap is never less than memory alone: which one moves first, the
            // direction says.
            let (first, second) = ("memory.memsw.limit_in_bytes", "memory.limit_in_bytes");
            let before: Option<i64> = self.find(second, |text| text.trim().parse().ok());
            let raises = before.is_none_or(|before| limit > before);
            let (first, second) = if raises { (first, second) } else { (second, first) };
            all.push((first, limit.to_string()));
            all.push((second, limit.to_string()));
        }
        if limits.pids_limit > 0 {
            all.push(("pids.max", limits.pids_limit.to_string()));
        }
        all
    }

    /// Writes a file where it is there: a kernel need not count swap, for example.
    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        for path in self.directories.iter().map(|directory| directory.join(file)) {
            if path.exists() {
                fs::write(&path, value).map_err(|error| {
                    io::Error::new(error.kind(), format!("{file} = {value}: {error}"))
                })?;
            }
        }
        Ok(())
    }

    /// Puts this process into it.
    pub(super) fn join(&self) -> io::Result<()> {
        for directory in &self.directories {
            match fs::write(directory.join("cgroup.procs"), "0") {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Makes it and puts this process into it, as far as that works: it only keeps the process
    /// away from limits and clean-ups that are meant for others.
    pub(super) fn move_into(&self) {
        for directory in &self.directories {
            if fs::create_dir_all(directory).is_ok() {
                let _ = fs::write(directory.join("cgroup.procs"), "0");
            }
        }
    }

    /// Removes it with all cgroups below it; they must be empty, or become so within a second.
    pub(super) fn remove(&self) -> io::Result<()> {
        self.directories.iter().try_for_each(|directory| remove_tree(directory))
    }

    /// Removes it if nothing is in it or below it.
    pub(super) fn remove_if_empty(&self) {
        for directory in &self.directories {
            let _ = fs::remove_dir(directory);
        }
    }
}

fn period(limits: &Resources) -> u64 {
    if limits.cpu_period_us > 0 { limits.cpu_period_us } else { 100_000 }
}

fn v2_limits(limits: &Resources) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    if limits.cpu_shares > 0 {
        // Shares from 2 to 262144 on weights from 1 to 10000, as KEP-2254 has it.
        let weight = 1 + (limits.cpu_shares.clamp(2, 262_144) - 2) * 9999 / 262_142;
        all.push(("cpu.weight", weight.to_string()));
    }
    if limits.cpu_quota_us > 0 {
        all.push(("cpu.max", format!("{} {}", limits.cpu_quota_us, period(limits))));
    }
    if limits.memory_limit_bytes > 0 {
        all.push(("memory.max", limits.memory_limit_bytes.to_string()));
        all.push(("memory.swap.max", "0".to_owned()));
    }
    if limits.pids_limit > 0 {
        all.push(("pids.max", limits.pids_limit.to_string()));
    }
    all
}

/// The number behind a name, in a file with a name and a number in each line.
fn member(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == name).then(|| value.trim().parse().ok())?
    })
}

fn collect_processes(directory: &Path, found: &mut Vec<i32>) {
    if let Ok(text) = fs::read_to_string(directory.join("cgroup.procs")) {
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_processes(&entry.path(), found);
        }
    }
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => {
            for entry in entries?.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove_tree(&entry.path())?;
                }
            }
        }
    }
    let mut tries = 0;
    loop {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // A process leaves its cgroup a moment after it was reaped.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && tries < 100 => {
                tries += 1;
                pause(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

/// Waits without a timer of the async runtime: shims have none.
fn pause(time: Duration) {
    let time = Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
    let _ = poll(&mut [], Some(&time));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_has_a_directory_for_each_hierarchy() {
        let mountinfo = "\
30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
34 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
35 30 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        let found = Hierarchies::find(mountinfo).unwrap();
        assert!(found.missing().is_empty());
        let cgroup = found.at(Path::new("rk/a/pod1"));
        assert_eq!(cgroup.path(), Path::new("/rk/a/pod1"));
        assert_eq!(
            cgroup.directories,
            [
                "/sys/fs/cgroup/cpu,cpuacct/rk/a/pod1",
                "/sys/fs/cgroup/memory/rk/a/pod1",
                "/sys/fs/cgroup/pids/rk/a/pod1"
            ]
            .map(PathBuf::from)
        );
    }

    #[test]
    fn use_is_read_from_either_version() {
        let root = tempfile::tempdir().unwrap();
        let cgroup = |v2, names: &[&str]| {
            let directories = names.iter().map(|name| root.path().join(name)).collect();
            Cgroup { v2, path: PathBuf::from("/a"), directories }
        };
        let write = |file: &str, text: &str| {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let old = cgroup(false, &["cpu", "memory"]);
        assert_eq!((old.cpu_time(), old.working_set_bytes()), (None, None));
        write("cpu/cpuacct.usage", "1500000000\n");
        write("memory/memory.usage_in_bytes", "5000\n");
        write("memory/memory.stat", "inactive_file 1\ntotal_inactive_file 2000\n");
        assert_eq!(old.cpu_time(), Some(Duration::from_millis(1500)));
        assert_eq!(old.working_set_bytes(), Some(3000));

        let new = cgroup(true, &["both"]);
        write("both/cpu.stat", "usage_usec 2500000\nuser_usec 1\n");
        write("both/memory.current", "4096\n");
        write("both/memory.stat", "anon 1\ninactive_file 96\n");
        assert_eq!(new.cpu_time(), Some(Duration::from_millis(2500)));
        assert_eq!(new.working_set_bytes(), Some(4000));
    }

    #[test]
    fn limits_are_written_in_the_order_that_the_kernel_takes() {
        let root = tempfile::tempdir().unwrap();
        let path = |file: &str| root.path().join(file);
        let old = Cgroup {
            v2: false,
            path: PathBuf::from("/a"),
            directories: vec![root.path().to_owned()],
        };
        let memory = |bytes| Resources { memory_limit_bytes: bytes, ..Resources::default() };
        fs::write(path("memory.limit_in_bytes"), "1000").unwrap();
        let order = |bytes| old.v1_limits(&memory(bytes)).into_iter().map(|(file, _)| file);
        let (swap, plain) = ("memory.memsw.limit_in_bytes", "memory.limit_in_bytes");
        assert!(order(2000).eq([swap, plain]));
        assert!(order(500).eq([plain, swap]));
        // Only what there is to be written.
        old.limit(&memory(500)).unwrap();
        assert_eq!(fs::read_to_string(path(plain)).unwrap(), "500");
        assert!(!path(swap).exists());

        let half = Resources { cpu_shares: 1024, cpu_quota_us: 50_000, ..Resources::default() };
        let files = v2_limits(&half);
        assert_eq!(files, [("cpu.weight", "39".into()), ("cpu.max", "50000 100000".into())]);
    }

    #[test]
    fn version_2_has_one_directory() {
        let mountinfo = "30 20 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        let found = Hierarchies::find(mountinfo).unwrap();
        assert_eq!(
            found.at(Path::new("/rk/a")).directories,
            [PathBuf::from("/sys/fs/cgroup/rk/a")]
        );
        assert_eq!(Hierarchies::find(""), None);
    }
}
