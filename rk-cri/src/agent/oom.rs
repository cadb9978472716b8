//! Tells when the whole node was short of memory and the kernel ended a process for it, as the
//! kubelet does: the event `SystemOOM` of the node.
//!
//! A container that went over its own limit is no matter of the node's: its status says `OOMKilled`.

use super::worker::Core;

/// A process that the kernel ended because the whole machine had no memory left.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Victim {
    process: String,
    pid: i32,
}

/// Reads a record of the kernel's log (`/dev/kmsg`: `priority,sequence,time,flags;text`), in the form
/// that kernels have had since 5.0.
fn victim(record: &str) -> Option<Victim> {
    let (_, text) = record.split_once(';')?;
    let facts = text.lines().next()?.strip_prefix("oom-kill:")?;
    let fact =
        |name: &str| facts.split(',').find_map(|fact| fact.strip_prefix(name)?.strip_prefix('='));
    // One cgroup's memory ran out, not the machine's.
    if fact("constraint")? == "CONSTRAINT_MEMCG" {
        return None;
    }
    Some(Victim { process: fact("task")?.to_owned(), pid: fact("pid")?.parse().ok()? })
}

impl Core {
    fn tell_victim(&self, record: &str) {
        let Some(Victim { process, pid }) = victim(record) else { return };
        let message = format!("System OOM encountered, victim process: {process}, pid: {pid}");
        self.node_event(rk_api::client::EventType::Warning, "SystemOOM", &message);
    }

    /// Follows the kernel's log from now on, until its future is dropped. Where it cannot be read,
    /// nothing is told.
    #[cfg(target_os = "linux")]
    pub(super) async fn watch_kernel(&self) {
        let mut log = match log::Log::open() {
            Ok(log) => log,
            Err(error) => {
                return tracing::info!(
                    node = self.config.name,
                    %error,
                    "the kernel's log cannot be read: OOM kills of the system are not told"
                );
            }
        };
        while let Ok(record) = log.next().await {
            self.tell_victim(&record);
        }
    }

    /// Elsewhere there is no such log.
    #[cfg(not(target_os = "linux"))]
    pub(super) async fn watch_kernel(&self) {}
}

#[cfg(target_os = "linux")]
mod log {
    use std::{
        fs::File,
        io::{self, Read, Seek, SeekFrom},
        os::unix::fs::OpenOptionsExt,
    };

    use tokio::io::unix::AsyncFd;

    /// The longest record (CONSOLE_EXT_LOG_MAX).
    const RECORD_BYTES_MAX: usize = 8192;

    /// The kernel's log from when it was opened.
    pub(super) struct Log {
        file: AsyncFd<File>,
        buffer: Vec<u8>,
    }

    impl Log {
        pub(super) fn open() -> io::Result<Self> {
            let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
            let mut file =
                File::options().read(true).custom_flags(nonblocking).open("/dev/kmsg")?;
            file.seek(SeekFrom::End(0))?;
            // SAFETY: the file owns its descriptor and keeps it open and the same until it is dropped.
            let file = unsafe { AsyncFd::register(file) }?;
            Ok(Self { file, buffer: vec![0; RECORD_BYTES_MAX] })
        }

        /// The next record.
        pub(super) async fn next(&mut self) -> io::Result<String> {
            loop {
                let mut ready = self.file.readable().await?;
                match ready.try_io(|file| file.get_ref().read(&mut self.buffer)) {
                    // Records were lost, or one is too long: the next ones follow.
                    Ok(Err(error))
                        if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::EINVAL)) => {}
                    Ok(read) => {
                        let length = read?;
                        return Ok(String::from_utf8_lossy(&self.buffer[..length]).into_owned());
                    }
                    Err(_) => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_machines_want_of_memory_is_the_nodes() {
        let record = |facts: &str| format!("6,1234,5678,-;oom-kill:{facts}\n SUBSYSTEM=x\n");
        let global = record(
            "constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,\
             task_memcg=/system.slice,task=hog,pid=4711,uid=0",
        );
        assert_eq!(victim(&global), Some(Victim { process: "hog".to_owned(), pid: 4711 }));
        let container = record(
            "constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,\
             oom_memcg=/kubepods/pod1/c,task_memcg=/kubepods/pod1/c,task=tail,pid=12,uid=0",
        );
        assert_eq!(victim(&container), None);
        for other in ["", "6,1,2,-;", "6,1,2,-;oom-kill:", "6,1,2,-;Killed process 1 (a)"] {
            assert_eq!(victim(other), None, "{other}");
        }
    }
}
