//! The process that the server is in, under the names that every Prometheus client has. Nothing is
//! shown where there is no `/proc`.

use std::fs;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

/// Reads `/proc/self` each time it is asked.
#[derive(Debug)]
pub(super) struct Process;

/// The kernel's clock ticks in a second, and bytes in a page, as all of Linux' programs see the one
/// and its common machines have the other (proc(5)).
const TICKS: f64 = 100.0;
const PAGE_BYTES: i64 = 4096;

/// What is known of a process.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Usage {
    cpu_seconds: f64,
    resident_bytes: i64,
    threads: i64,
}

/// Reads the line of `/proc/self/stat`. What follows the program's name, which may have spaces and
/// parentheses itself, are fields 3 and on.
fn parse(stat: &str) -> Option<Usage> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<i64>().ok();
    Some(Usage {
        cpu_seconds: (number(14)? + number(15)?) as f64 / TICKS,
        threads: number(20)?,
        resident_bytes: number(24)?.saturating_mul(PAGE_BYTES),
    })
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(usage) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(parse)
        else {
            return Ok(());
        };
        let cpu = ConstCounter::new(usage.cpu_seconds);
        let help = "Processor time that the process has used";
        cpu.encode(encoder.encode_descriptor(
            "process_cpu",
            help,
            Some(&Unit::Seconds),
            cpu.metric_type(),
        )?)?;
        let files = fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as i64);
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Memory of the process", usage.resident_bytes),
            ("process_threads", "Threads of the process", usage.threads),
            ("process_open_fds", "Open file descriptors", files),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_name_may_look_like_fields() {
        let stat = "7 (a) b (c)) S 1 1 1 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 9 0 12345 99 3 18";
        let usage = Usage { cpu_seconds: 3.0, resident_bytes: 3 * 4096, threads: 9 };
        assert_eq!(parse(stat), Some(usage));
        assert_eq!(parse("nonsense"), None);
    }
}
