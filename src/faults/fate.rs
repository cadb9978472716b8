//! What happens to one request: decided when it is sent, from the plan and by chance.

use std::time::Duration;

use http::StatusCode;
use rk_api::rng::Rng;

use super::plan::Rates;

/// What is to happen to a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Fate {
    pub(super) delay: Option<Duration>,
    pub(super) fault: Option<Fault>,
    /// Of an answer that is a watch.
    pub(super) watch: WatchFate,
}

/// What goes wrong with a request, or with its answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fault {
    LoseRequest,
    LoseAnswer,
    Fail(StatusCode),
    Duplicate,
    /// The server gets the request or does not, and no answer comes for that long.
    Hang {
        heard: bool,
        time: Duration,
    },
}

/// What goes wrong with a watch while it goes on.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct WatchFate {
    pub(super) ends_after: Option<Duration>,
    /// How likely a piece of it is to be held back, and for how long at most.
    pub(super) stall: (f64, Duration),
}

/// What a request is like, as far as its fate depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) watch: bool,
    pub(super) write: bool,
}

/// Draws a request's fate. How many numbers are drawn depends on the rates and the draws alone.
pub(super) fn draw(rates: &Rates, asked: Asked, rng: &mut Rng) -> Fate {
    let delay = (rng.unit() < rates.delay).then(|| rates.delay_max.mul_f64(rng.unit()));
    let mut fate = Fate { delay, fault: fault(rates, asked, rng), watch: WatchFate::default() };
    if asked.watch {
        let cut = rng.unit() < rates.cut_watch;
        fate.watch.ends_after = cut.then(|| rates.cut_within.mul_f64(rng.unit()));
        fate.watch.stall = (rates.stall_watch, rates.stall_max);
    }
    fate
}

fn fault(rates: &Rates, asked: Asked, rng: &mut Rng) -> Option<Fault> {
    let mut at = rng.unit();
    let mut hits = |rate: f64| {
        let hit = at < rate;
        at -= rate;
        hit
    };
    if hits(rates.lose_request) {
        Some(Fault::LoseRequest)
    } else if hits(rates.lose_answer) {
        Some(Fault::LoseAnswer)
    } else if hits(rates.fail) {
        let codes = [
            StatusCode::INTERNAL_SERVER_ERROR,
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::CONFLICT,
        ];
        // Only a write can be in conflict with another.
        let kinds = if asked.write { 4 } else { 3 };
        Some(Fault::Fail(codes[rng.below(kinds) as usize]))
    } else if hits(rates.duplicate) {
        (!asked.watch).then_some(Fault::Duplicate)
    } else if hits(rates.hang) {
        Some(Fault::Hang { heard: rng.below(2) == 0, time: rates.hang_for })
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Asked = Asked { watch: false, write: true };
    const READ: Asked = Asked { watch: false, write: false };
    const WATCH: Asked = Asked { watch: true, write: false };

    #[test]
    fn without_rates_nothing_happens() {
        let mut rng = Rng::seeded(1);
        for asked in [WRITE, READ, WATCH] {
            let fate = draw(&Rates::none(), asked, &mut rng);
            assert_eq!((fate.delay, fate.fault, fate.watch.ends_after), (None, None, None));
        }
    }

    #[test]
    fn each_fault_happens_about_as_often_as_it_should() {
        let mut rng = Rng::seeded(2);
        let rates = Rates { lose_request: 0.3, lose_answer: 0.2, hang: 0.1, ..Rates::none() };
        let mut counts = [0; 4];
        for _ in 0..10_000 {
            match draw(&rates, WRITE, &mut rng).fault {
                Some(Fault::LoseRequest) => counts[0] += 1,
                Some(Fault::LoseAnswer) => counts[1] += 1,
                Some(Fault::Hang { .. }) => counts[2] += 1,
                None => counts[3] += 1,
                other => panic!("{other:?}"),
            }
        }
        for (count, expected) in counts.into_iter().zip([3000_i32, 2000, 1000, 4000]) {
            assert!((count - expected).abs() < 300, "{counts:?}");
        }
    }

    #[test]
    fn only_a_write_is_in_conflict_and_no_watch_is_sent_twice() {
        let mut rng = Rng::seeded(3);
        let fail = Rates { fail: 1.0, ..Rates::none() };
        let mut conflicts = 0;
        for _ in 0..200 {
            let code = |fate: Fate| match fate.fault {
                Some(Fault::Fail(code)) => code,
                other => panic!("{other:?}"),
            };
            assert_ne!(code(draw(&fail, READ, &mut rng)), StatusCode::CONFLICT);
            conflicts += u32::from(code(draw(&fail, WRITE, &mut rng)) == StatusCode::CONFLICT);
        }
        assert!(conflicts > 20);
        let twice = Rates { duplicate: 1.0, ..Rates::none() };
        assert_eq!(draw(&twice, WATCH, &mut rng).fault, None);
        assert_eq!(draw(&twice, READ, &mut rng).fault, Some(Fault::Duplicate));
    }
}
