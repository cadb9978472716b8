//! Wall-clock time that follows tokio's clock.
//!
//! Everything in rk asks this module what time it is. On a paused tokio runtime the wall clock
//! stands still and moves with `tokio::time::advance`, together with every timer, so a test can
//! fast-forward a whole cluster.
//!
//! Each paused runtime has its own time. All of them count from the machine's monotonic clock, and
//! so does this module: a runtime starts at the machine's wall-clock time and is ahead of it by
//! what it was advanced, whatever other runtimes of the process do.

use std::{
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

/// The time now, in UTC.
pub fn now() -> Timestamp {
    let now = tokio::time::Instant::now().into_std();
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
    fn a_running_clock_is_the_machines() {
        assert!(near(now(), Timestamp::now()));
    }
}
