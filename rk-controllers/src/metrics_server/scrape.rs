//! What a kubelet's `/metrics/resource` says (KEP-727). Pure.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

/// What something had used at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    pub at: Timestamp,
    /// CPU time since it began to count.
    pub cpu_time: Duration,
    pub memory_bytes: u64,
    /// Since when it counts, if that is known: a container that starts again counts from zero.
    pub started_at: Option<Timestamp>,
}

/// Namespace and name of a Pod.
pub(super) type PodKey = (String, String);

/// All that one page says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Page {
    pub node: Option<Sample>,
    /// Containers by name.
    pub pods: BTreeMap<PodKey, BTreeMap<String, Sample>>,
}

/// What is said of one thing, a line each.
#[derive(Clone, Copy, Debug, Default)]
struct Lines {
    cpu: Option<(f64, Timestamp)>,
    memory: Option<f64>,
    start: Option<f64>,
}

impl Page {
    /// Reads Prometheus' text format. `now` is the time of values without one. Lines that cannot be
    /// read and families that are not known are passed over; so is what lacks CPU or memory.
    pub fn read(text: &str, now: Timestamp) -> Self {
        let mut node = Lines::default();
        let mut containers: BTreeMap<(PodKey, String), Lines> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some(Line { family, labels, value, at }) = Line::read(line) else { continue };
            let Some((subject, what)) = family.split_once('_') else { continue };
            let lines = match subject {
                "node" => &mut node,
                "container" => {
                    let label = |name| labels.get(name).cloned().unwrap_or_default();
                    let key = ((label("namespace"), label("pod")), label("container"));
                    containers.entry(key).or_default()
                }
                _ => continue,
            };
            match what {
                "cpu_usage_seconds_total" => lines.cpu = Some((value, at.unwrap_or(now))),
                "memory_working_set_bytes" => lines.memory = Some(value),
                "start_time_seconds" => lines.start = Some(value),
                _ => {}
            }
        }
        let mut page = Self { node: node.sample(), pods: BTreeMap::new() };
        for ((pod, container), lines) in containers {
            if let Some(sample) = lines.sample() {
                page.pods.entry(pod).or_default().insert(container, sample);
            }
        }
        page
    }
}

impl Lines {
    fn sample(self) -> Option<Sample> {
        let (cpu_seconds, at) = self.cpu?;
        let start =
            self.start.map(|seconds| Timestamp::from_millisecond((seconds * 1000.0) as i64));
        Some(Sample {
            at,
            cpu_time: Duration::try_from_secs_f64(cpu_seconds).ok()?,
            memory_bytes: self.memory? as u64,
            started_at: start.and_then(Result::ok),
        })
    }
}

/// A sample's line: `family{label="value",…} value [milliseconds]`.
struct Line<'a> {
    family: &'a str,
    labels: BTreeMap<&'a str, String>,
    value: f64,
    at: Option<Timestamp>,
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let end = line.find(['{', ' '])?;
        let (family, rest) = line.split_at(end);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest)?,
            None => (BTreeMap::new(), rest),
        };
        let mut words = rest.split_whitespace();
        let value = words.next()?.parse().ok()?;
        let at = words.next().and_then(|millis| millis.parse().ok());
        let at = at.and_then(|millis| Timestamp::from_millisecond(millis).ok());
        Some(Self { family, labels, value, at })
    }
}

/// The labels up to the closing brace, and what follows it.
fn labels(mut rest: &str) -> Option<(BTreeMap<&str, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let (value, length) = unquoted(quoted)?;
        labels.insert(name, value);
        rest = quoted.get(length..)?;
    }
}

/// A value up to its closing quote, and how long it was with it.
fn unquoted(text: &str) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, at + 1)),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                escaped => value.push(escaped),
            },
            plain => value.push(plain),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_page_of_a_kubelet_is_read() {
        let page = Page::read(
            "# HELP container_cpu_usage_seconds_total [STABLE] …\n\
             # TYPE container_cpu_usage_seconds_total counter\n\
             container_cpu_usage_seconds_total{container=\"web\",namespace=\"ns\",pod=\"a\"} 4.5 2000\n\
             container_memory_working_set_bytes{container=\"web\",namespace=\"ns\",pod=\"a\"} 2.048e+03 2000\n\
             container_start_time_seconds{container=\"web\",namespace=\"ns\",pod=\"a\"} 1.5\n\
             container_cpu_usage_seconds_total{container=\"half\",namespace=\"ns\",pod=\"a\"} 1 2000\n\
             node_cpu_usage_seconds_total 7 3000\n\
             node_memory_working_set_bytes 4096 3000\n\
             container_swap_usage_bytes{container=\"web\",namespace=\"ns\",pod=\"a\"} 1\n\
             resource_scrape_error 0\n\
             nonsense{",
            Timestamp::UNIX_EPOCH,
        );
        let second = |second| Timestamp::from_second(second).unwrap();
        let node = Sample {
            at: second(3),
            cpu_time: Duration::from_secs(7),
            memory_bytes: 4096,
            started_at: None,
        };
        assert_eq!(page.node, Some(node));
        let web = Sample {
            at: second(2),
            cpu_time: Duration::from_millis(4500),
            memory_bytes: 2048,
            started_at: Some(Timestamp::from_millisecond(1500).unwrap()),
        };
        let pod = [("web".to_owned(), web)].into();
        assert_eq!(page.pods, [(("ns".to_owned(), "a".to_owned()), pod)].into());
    }

    proptest! {
        #[test]
        fn no_page_is_too_odd(text in ".{0,200}", family in "[a-z_]{0,12}", rest in "[{}=\",\\\\a1 .\\n]{0,60}") {
            Page::read(&text, Timestamp::UNIX_EPOCH);
            Page::read(&format!("{family}{rest}"), Timestamp::UNIX_EPOCH);
        }
    }
}
