//! Two samples make a rate. Pure.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use super::scrape::{Page, PodKey, Sample};

/// A container that has just started is measured from its start, once it has run for so long.
const FRESH_MIN: Duration = Duration::from_secs(10);

/// What something used, over a window of time that ends at `at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub at: Timestamp,
    pub window: Duration,
    pub cpu_nanocores: u64,
    pub memory_bytes: u64,
}

/// The last two pages of each node.
#[derive(Debug, Default)]
pub(super) struct Windows {
    nodes: BTreeMap<String, Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    before: Option<Page>,
    last: Page,
}

impl Windows {
    /// Takes in a round: the pages of all nodes that answered. Of a node that did not, what was
    /// known stays until the next round it misses; one that is gone is forgotten.
    pub fn take(&mut self, round: BTreeMap<String, Option<Page>>) {
        self.nodes.retain(|node, _| round.contains_key(node));
        for (node, page) in round {
            let Some(page) = page else {
                self.nodes.remove(&node);
                continue;
            };
            match self.nodes.get_mut(&node) {
                // The same page once more says nothing about a rate.
                Some(pages) if pages.last == page => {}
                Some(pages) => pages.before = Some(std::mem::replace(&mut pages.last, page)),
                None => drop(self.nodes.insert(node, Pages { before: None, last: page })),
            }
        }
    }

    /// What a node uses.
    pub fn node(&self, name: &str) -> Option<Usage> {
        let Pages { before, last } = self.nodes.get(name)?;
        between(before.as_ref()?.node.as_ref()?, last.node.as_ref()?)
    }

    /// What the containers of a Pod on a node use. Nothing is said of a Pod unless all that run
    /// can be measured: a sum that leaves one out misleads.
    pub fn pod(&self, node: &str, pod: &PodKey) -> Option<BTreeMap<&str, Usage>> {
        let Pages { before, last } = self.nodes.get(node)?;
        let before = before.as_ref();
        let containers = last.pods.get(pod)?.iter();
        let measured = containers.map(|(name, last)| {
            let earlier = before.and_then(|page| page.pods.get(pod)?.get(name));
            let usage = match earlier.filter(|earlier| !has_restarted(earlier, last)) {
                Some(earlier) => between(earlier, last),
                None => since_start(last, before),
            };
            Some((name.as_str(), usage?))
        });
        measured.collect()
    }
}

fn has_restarted(earlier: &Sample, last: &Sample) -> bool {
    last.cpu_time < earlier.cpu_time || last.started_at.is_some_and(|started| started > earlier.at)
}

/// Of a container that the page before does not know: it began to run since then.
fn since_start(last: &Sample, before: Option<&Page>) -> Option<Usage> {
    before?;
    let started = last.started_at?;
    let zero = Sample { at: started, cpu_time: Duration::ZERO, ..*last };
    between(&zero, last).filter(|usage| usage.window >= FRESH_MIN)
}

fn between(earlier: &Sample, last: &Sample) -> Option<Usage> {
    let window = Duration::try_from(last.at.duration_since(earlier.at)).ok()?;
    let used = last.cpu_time.checked_sub(earlier.cpu_time)?;
    if window.is_zero() {
        return None;
    }
    let cpu_nanocores = used.as_nanos() * 1_000_000_000 / window.as_nanos();
    Some(Usage {
        at: last.at,
        window,
        cpu_nanocores: u64::try_from(cpu_nanocores).ok()?,
        memory_bytes: last.memory_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn sample(second: i64, cpu_ms: u64, started: i64) -> Sample {
        Sample {
            at: at(second),
            cpu_time: Duration::from_millis(cpu_ms),
            memory_bytes: 1024,
            started_at: Some(at(started)),
        }
    }

    fn pod() -> PodKey {
        ("ns".into(), "p".into())
    }

    fn page(containers: &[(&str, Sample)]) -> Option<Page> {
        let node = containers.first().map(|(_, sample)| *sample);
        let containers = containers.iter().map(|(name, sample)| ((*name).to_owned(), *sample));
        Some(Page { node, pods: [(pod(), containers.collect())].into() })
    }

    fn round(page: Option<Page>) -> BTreeMap<String, Option<Page>> {
        [("n".to_owned(), page)].into()
    }

    #[test]
    fn a_rate_needs_two_samples() {
        let mut windows = Windows::default();
        windows.take(round(page(&[("a", sample(100, 1_000, 0))])));
        assert_eq!((windows.node("n"), windows.pod("n", &pod())), (None, None));

        windows.take(round(page(&[("a", sample(115, 4_750, 0))])));
        let usage = Usage {
            at: at(115),
            window: Duration::from_secs(15),
            cpu_nanocores: 250_000_000,
            memory_bytes: 1024,
        };
        assert_eq!(windows.node("n"), Some(usage));
        assert_eq!(windows.pod("n", &pod()), Some([("a", usage)].into()));

        windows.take(round(page(&[("a", sample(115, 4_750, 0))])));
        assert_eq!(windows.node("n"), Some(usage), "a page that is old is no second sample");
        windows.take(round(None));
        assert_eq!(windows.node("n"), None, "of a node that does not answer nothing is known");
    }

    #[test]
    fn a_container_that_starts_is_measured_from_its_start() {
        let mut windows = Windows::default();
        windows.take(round(page(&[("a", sample(100, 1_000, 0))])));
        let young = [("a", sample(115, 1_000, 0)), ("b", sample(115, 500, 110))];
        windows.take(round(page(&young)));
        assert_eq!(windows.pod("n", &pod()), None, "five seconds are too few");

        let restarted = [("a", sample(130, 1_200, 118)), ("b", sample(130, 2_000, 110))];
        windows.take(round(page(&restarted)));
        let found = windows.pod("n", &pod()).unwrap();
        assert_eq!(found["a"].cpu_nanocores, 100_000_000, "from its start, 12 seconds ago");
        assert_eq!(found["b"].cpu_nanocores, 100_000_000, "1500 ms in 15 s");
    }
}
