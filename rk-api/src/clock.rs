//! Wall-clock time that follows tokio's clock.
//!
//! Everything in rk asks this module what time it is. On a paused tokio runtime the wall clock
//! stands still and moves with `tokio::time::advance`, together with every timer, so a test can
//! fast-forward a whole cluster.
//!
//! Each paused runtime has its own time. All of them count from the machine's monotonic clock, and
//! so does this module: a runtime starts at the machine's wall-clock time and is ahead of it by
//! what it was advanced, whatever other runtimes of the process do.
//!
//! A simulation begins at a time of its own choice instead ([`begin_at`]), so that its timestamps
//! are the same whenever it is run.

use std::{
    cell::{Cell, RefCell},
    sync::{
        OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{MicroTime, Time},
    jiff::{SignedDuration, Timestamp},
};
use tokio::runtime::{Handle, Id};

/// Where the process began to count.
static BASE: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds from the Unix epoch to `BASE`; 0 is not known yet.
static EPOCH_TO_BASE: AtomicI64 = AtomicI64::new(0);

/// How far tokio's clock may lag behind the machine's and still count as running with it: the time
/// between two reads of a clock, with a thread switch in between.
const LIVE: Duration = Duration::from_millis(2);

/// A step of the machine's wall clock (NTP, waking from sleep) that is followed. Smaller
/// differences are ignored: they would make a paused clock tremble.
const STEP: i64 = 500_000_000;

/// How many runtimes of a thread keep a time of their own; the oldest are forgotten.
const CHOSEN_MAX: usize = 16;

thread_local! {
    /// Runtimes that began at a chosen time: where on tokio's clock, and when that was.
    static CHOSEN: RefCell<Vec<Chosen>> = const { RefCell::new(Vec::new()) };
    /// Whether there are any: most threads need not look.
    static ANY_CHOSEN: Cell<bool> = const { Cell::new(false) };
}

/// A runtime that began at a chosen time.
struct Chosen {
    runtime: Id,
    /// Where on tokio's clock it began, and when that was.
    begun: Instant,
    epoch: Timestamp,
    /// The last number that [`unique`] gave.
    last: i64,
}

/// Lets the current runtime's time be `epoch` now, and go on from there with tokio's clock.
///
/// It holds for tasks of a current-thread runtime, until the runtime is gone; tasks that may block
/// (`spawn_blocking`) are elsewhere and have the machine's time. Without a runtime it does nothing.
pub fn begin_at(epoch: Timestamp) {
    let Ok(runtime) = Handle::try_current() else { return };
    let (id, now) = (runtime.id(), tokio::time::Instant::now().into_std());
    CHOSEN.with_borrow_mut(|chosen| {
        chosen.retain(|chosen| chosen.runtime != id);
        if chosen.len() == CHOSEN_MAX {
            chosen.remove(0);
        }
        chosen.push(Chosen { runtime: id, begun: now, epoch, last: 0 });
    });
    ANY_CHOSEN.set(true);
}

/// Whether the current runtime began at a chosen time ([`begin_at`]).
pub fn is_chosen() -> bool {
    chosen(|_| ()).is_some()
}

/// Reads, or changes, what is known of the current runtime if it began at a chosen time.
fn chosen<T>(read: impl FnOnce(&mut Chosen) -> T) -> Option<T> {
    if !ANY_CHOSEN.get() {
        return None;
    }
    let id = Handle::try_current().ok()?.id();
    CHOSEN.with_borrow_mut(|chosen| {
        chosen.iter_mut().rev().find(|chosen| chosen.runtime == id).map(read)
    })
}

/// Whether tokio's clock stands still here but for what is waited for. Outside of a paused runtime
/// it does not.
pub fn is_paused() -> bool {
    let (before, live) = (tokio::time::Instant::now(), Instant::now());
    // The machine's clock has to have moved to tell; it does within nanoseconds.
    while Instant::now() == live {}
    tokio::time::Instant::now() == before
}

/// The time now, in UTC.
pub fn now() -> Timestamp {
    let now = tokio::time::Instant::now().into_std();
    if let Some((begun, epoch)) = chosen(|chosen| (chosen.begun, chosen.epoch)) {
        let elapsed = SignedDuration::from_nanos(since(now, begun));
        return epoch.saturating_add(elapsed).unwrap_or(Timestamp::MAX);
    }
    let live = Instant::now();
    let base = *BASE.get_or_init(|| live);

    let mut offset = EPOCH_TO_BASE.load(Ordering::Relaxed);
    let running = live.checked_duration_since(now).is_some_and(|lag| lag < LIVE);
    if offset == 0 || running {
        let fresh = nanoseconds(Timestamp::now().as_nanosecond()) - since(live, base);
        if (fresh - offset).abs() > STEP {
            EPOCH_TO_BASE.store(fresh, Ordering::Relaxed);
            offset = fresh;
        }
    }

    let nanosecond = offset.saturating_add(since(now, base));
    Timestamp::from_nanosecond(nanosecond.into()).unwrap_or(Timestamp::MAX)
}

/// The time now in nanoseconds, or a little more: a number that was not given before. It is unique
/// in the process, or within a runtime that began at a chosen time.
pub fn unique() -> i64 {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let now = i64::try_from(now().as_nanosecond()).unwrap_or(i64::MAX - 1);
    let after = |last: i64| now.max(last.saturating_add(1));
    let own = chosen(|chosen| {
        chosen.last = after(chosen.last);
        chosen.last
    });
    own.unwrap_or_else(|| {
        let last =
            LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(after(last)));
        after(last.unwrap_or(now))
    })
}

/// The time now, as the API writes it: in whole seconds.
pub fn now_seconds() -> Time {
    let now = now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// The time now in microseconds, as Leases and Events write it.
pub fn now_micros() -> MicroTime {
    let now = now();
    MicroTime(Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now))
}

/// How long ago `then` was. Zero when it lies in the future.
pub fn since_timestamp(then: Timestamp) -> Duration {
    until(then, now())
}

/// From `earlier` to `later`; zero when they are the other way round.
pub fn until(earlier: Timestamp, later: Timestamp) -> Duration {
    later.duration_since(earlier).max(SignedDuration::ZERO).unsigned_abs()
}

fn since(later: Instant, earlier: Instant) -> i64 {
    match later.checked_duration_since(earlier) {
        Some(elapsed) => nanoseconds(elapsed.as_nanos().try_into().unwrap_or(i128::MAX)),
        None => -nanoseconds((earlier - later).as_nanos().try_into().unwrap_or(i128::MAX)),
    }
}

fn nanoseconds(count: i128) -> i64 {
    count.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paused() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
    }

    fn near(a: Timestamp, b: Timestamp) -> bool {
        a.duration_since(b).abs() < SignedDuration::from_secs(60)
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_stands_still_and_moves_with_timers() {
        let before = now();
        assert_eq!(now(), before);

        tokio::time::sleep(Duration::from_secs(24 * 3600)).await;

        let elapsed = now().duration_since(before);
        assert!(elapsed >= SignedDuration::from_hours(24));
        assert!(elapsed < SignedDuration::from_hours(24) + SignedDuration::from_secs(1));
    }

    #[test]
    fn runtimes_of_one_process_do_not_disturb_each_other() {
        let (first, second) = (paused(), paused());
        let start = Timestamp::now();

        let ahead = first.block_on(async {
            tokio::time::advance(Duration::from_secs(86_400)).await;
            now()
        });
        let fresh = second.block_on(async { now() });
        let third = paused().block_on(async { now() });

        assert!(near(ahead, start + SignedDuration::from_hours(24)), "{ahead} {start}");
        assert!(near(fresh, start), "{fresh} {start}");
        assert!(near(third, start), "{third} {start}");
        assert!(near(now(), start), "outside of any runtime");
        assert_eq!(first.block_on(async { now() }), ahead);
    }

    #[test]
    fn a_runtime_begins_when_it_is_told_to_and_no_other_does() {
        let (chosen, other) = (paused(), paused());
        let epoch: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        chosen.block_on(async {
            begin_at(epoch);
            assert_eq!(now(), epoch);
            tokio::time::sleep(Duration::from_secs(90)).await;
            assert_eq!(now(), epoch + SignedDuration::from_secs(90));
            assert!(is_chosen() && is_paused());
            assert_ne!(unique(), unique());
        });
        other.block_on(async { assert!(near(now(), Timestamp::now()) && !is_chosen()) });
        assert!(near(now(), Timestamp::now()), "outside of any runtime");
        assert!(!is_paused());
    }

    #[test]
    fn a_running_clock_is_the_machines() {
        assert!(near(now(), Timestamp::now()));
    }
}
