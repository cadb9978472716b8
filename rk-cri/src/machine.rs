//! What the machine uses, by the kernel's accounts.

use std::{fs, path::Path, time::Duration};

use rk_api::clock;

use crate::runtime::NodeStats;

/// The unit of `/proc/stat`: the kernel counts in hundredths of a second for programs (`USER_HZ`),
/// on every architecture that containers run on.
const TICK: Duration = Duration::from_millis(10);

/// What the whole machine uses, as `/proc` says.
pub(crate) fn stats() -> Option<NodeStats> {
    let (cpu_time, memory_working_set_bytes) = (cpu_time()?, memory_bytes()?);
    Some(NodeStats { at: clock::now(), cpu_time, memory_working_set_bytes })
}

/// The time that its CPUs have not been idle.
pub(crate) fn cpu_time() -> Option<Duration> {
    busy(&proc("stat")?)
}

/// The memory that is not available to new programs.
pub(crate) fn memory_bytes() -> Option<u64> {
    in_use(&proc("meminfo")?)
}

fn proc(file: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc").join(file)).ok()
}

/// The time that CPUs were not idle, in the contents of `/proc/stat` (proc(5)).
fn busy(stat: &str) -> Option<Duration> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u32> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already.
    let counted = ticks.iter().take(8).enumerate().filter(|(index, _)| !matches!(index, 3 | 4));
    Some(counted.map(|(_, ticks)| TICK * *ticks).sum())
}

/// Memory that is not available to new programs, in the contents of `/proc/meminfo`.
fn in_use(meminfo: &str) -> Option<u64> {
    let kib = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(kib("MemTotal")?.saturating_sub(kib("MemAvailable")?) * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_and_available_memory_are_not_used() {
        let stat = "cpu  100 20 30 4000 500 6 7 8 9 0\ncpu0 1 2 3 4\n";
        assert_eq!(busy(stat), Some(Duration::from_millis(1710)));
        let meminfo = "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    400 kB\n";
        assert_eq!(in_use(meminfo), Some(600 * 1024));
        assert_eq!((busy(""), in_use("MemTotal: 5 kB")), (None, None));
    }
}
