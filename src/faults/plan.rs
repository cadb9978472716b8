//! What is to go wrong, how often, and when.

use std::{ops::Range, time::Duration};

/// Which faults happen to the requests of a cluster's components, and when. It is plain data: the
/// same plan and the same history of requests meet the same faults.
///
/// ```
/// use std::time::Duration;
/// use rk::faults::{Plan, Rates};
///
/// let minute = Duration::from_secs(60);
/// let plan = Plan::new(42)
///     .all_along(Rates { delay: 0.1, ..Rates::none() })
///     .during(minute..2 * minute, "scheduler", Rates::heavy());
/// assert!(plan.validate().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What decides who is hit.
    pub seed: u64,
    /// Where two windows hit the same request, the later one in this list decides.
    pub windows: Vec<Window>,
}

/// A time in which things go wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// From when until when, from the beginning of the faults' time
    /// ([`Faults::new`](super::Faults::new)).
    pub time: Range<Duration>,
    /// The component whose requests are meant: `scheduler`, `controllers`, `metrics`, or a node by
    /// its name; `None` is every one.
    pub component: Option<String>,
    /// How often.
    pub rates: Rates,
}

/// How likely a request is to meet each fault: numbers from 0 (never) to 1 (always). At most one of
/// them happens to a request, so that [`lose_request`](Rates::lose_request) to
/// [`hang`](Rates::hang) may not add up to more than 1; a delay can come on top of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Rates {
    /// The request is held back, for up to [`delay_max`](Rates::delay_max), before anything else
    /// happens to it. Requests that come later overtake it.
    pub delay: f64,
    /// The longest delay; each up to it is as likely as the others.
    pub delay_max: Duration,
    /// The connection breaks before the server has the request.
    pub lose_request: f64,
    /// The server does as it is asked, but the connection breaks before the answer comes.
    pub lose_answer: f64,
    /// The server answers with an error and does nothing: 500, 503 or 429, and 409 to a write.
    pub fail: f64,
    /// The request arrives twice. The sender has the second answer. Watches are left alone.
    pub duplicate: f64,
    /// No answer comes for [`hang_for`](Rates::hang_for); then the server says 504. It may have done
    /// as it was asked.
    pub hang: f64,
    /// How long the sender of a request that hangs waits.
    pub hang_for: Duration,
    /// A watch ends, without a word, some time within [`cut_within`](Rates::cut_within).
    pub cut_watch: f64,
    /// The longest life of a watch that is to be cut.
    pub cut_within: Duration,
    /// The events of a watch stop for up to [`stall_max`](Rates::stall_max), when one is due.
    pub stall_watch: f64,
    /// The longest such pause.
    pub stall_max: Duration,
}

impl Default for Rates {
    fn default() -> Self {
        Self::none()
    }
}

impl Rates {
    /// Nothing goes wrong. Delays are of up to 500 ms if there are to be any, requests hang for
    /// 10 s, watches that are cut live up to 30 s and stall for up to 5 s.
    pub const fn none() -> Self {
        Self {
            delay: 0.0,
            delay_max: Duration::from_millis(500),
            lose_request: 0.0,
            lose_answer: 0.0,
            fail: 0.0,
            duplicate: 0.0,
            hang: 0.0,
            hang_for: Duration::from_secs(10),
            cut_watch: 0.0,
            cut_within: Duration::from_secs(30),
            stall_watch: 0.0,
            stall_max: Duration::from_secs(5),
        }
    }

    /// A bad day: about one request in ten meets something, and one watch in four is cut.
    pub const fn light() -> Self {
        Self {
            delay: 0.2,
            lose_request: 0.02,
            lose_answer: 0.02,
            fail: 0.04,
            duplicate: 0.01,
            hang: 0.005,
            cut_watch: 0.25,
            stall_watch: 0.02,
            ..Self::none()
        }
    }

    /// A very bad one: every third request meets something, and most watches are cut.
    pub const fn heavy() -> Self {
        Self {
            delay: 0.5,
            delay_max: Duration::from_secs(2),
            lose_request: 0.08,
            lose_answer: 0.1,
            fail: 0.12,
            duplicate: 0.04,
            hang: 0.02,
            cut_watch: 0.7,
            stall_watch: 0.1,
            ..Self::none()
        }
    }
}

/// Why a plan makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A rate is no probability.
    #[error("{field} is {value}: a rate is from 0 to 1")]
    NotARate {
        /// Which.
        field: &'static str,
        /// What it is.
        value: String,
    },
    /// The faults of which a request meets one add up to more than 1.
    #[error(
        "lose_request, lose_answer, fail, duplicate and hang add up to {sum}, at most 1 is possible"
    )]
    TooMuch {
        /// What they add up to.
        sum: String,
    },
    /// A window ends before it begins.
    #[error("a window from {from:?} until {until:?} is empty")]
    Empty {
        /// Its beginning.
        from: Duration,
        /// Its end.
        until: Duration,
    },
}

impl Plan {
    /// A plan in which nothing goes wrong yet.
    pub fn new(seed: u64) -> Self {
        Self { seed, windows: Vec::new() }
    }

    /// With these faults for every component all the time.
    #[must_use]
    pub fn all_along(mut self, rates: Rates) -> Self {
        self.windows.push(Window { time: Duration::ZERO..Duration::MAX, component: None, rates });
        self
    }

    /// With these faults for a component for some time.
    #[must_use]
    pub fn during(mut self, time: Range<Duration>, component: &str, rates: Rates) -> Self {
        self.windows.push(Window { time, component: Some(component.to_owned()), rates });
        self
    }

    /// What holds for a component at a time.
    pub fn rates(&self, component: &str, at: Duration) -> Option<&Rates> {
        let meant = |window: &&Window| {
            window.time.contains(&at)
                && window.component.as_deref().is_none_or(|name| name == component)
        };
        self.windows.iter().rev().find(meant).map(|window| &window.rates)
    }

    /// Whether the plan makes sense.
    ///
    /// # Errors
    /// It names the window's fields that do not go together.
    pub fn validate(&self) -> Result<(), PlanError> {
        for Window { time, rates, .. } in &self.windows {
            if time.is_empty() {
                return Err(PlanError::Empty { from: time.start, until: time.end });
            }
            rates.validate()?;
        }
        Ok(())
    }
}

impl Rates {
    fn validate(&self) -> Result<(), PlanError> {
        let one_of = [
            ("lose_request", self.lose_request),
            ("lose_answer", self.lose_answer),
            ("fail", self.fail),
            ("duplicate", self.duplicate),
            ("hang", self.hang),
        ];
        let others = [
            ("delay", self.delay),
            ("cut_watch", self.cut_watch),
            ("stall_watch", self.stall_watch),
        ];
        for (field, value) in one_of.into_iter().chain(others) {
            if !(0.0..=1.0).contains(&value) {
                return Err(PlanError::NotARate { field, value: value.to_string() });
            }
        }
        let sum: f64 = one_of.iter().map(|(_, rate)| rate).sum();
        if sum > 1.0 {
            return Err(PlanError::TooMuch { sum: sum.to_string() });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_last_window_that_fits_decides() {
        let plan = Plan::new(1)
            .all_along(Rates::light())
            .during(SECOND..3 * SECOND, "scheduler", Rates::heavy())
            .during(2 * SECOND..3 * SECOND, "scheduler", Rates::none());

        assert_eq!(plan.rates("scheduler", Duration::ZERO), Some(&Rates::light()));
        assert_eq!(plan.rates("scheduler", SECOND), Some(&Rates::heavy()));
        assert_eq!(plan.rates("node-1", SECOND), Some(&Rates::light()));
        assert_eq!(plan.rates("scheduler", 2 * SECOND), Some(&Rates::none()));
        assert_eq!(plan.rates("scheduler", 3 * SECOND), Some(&Rates::light()));
        assert_eq!(Plan::new(1).rates("scheduler", SECOND), None);
    }

    #[test]
    fn rates_are_probabilities_and_windows_have_a_length() {
        for rates in [Rates::none(), Rates::light(), Rates::heavy()] {
            assert_eq!(Plan::new(1).all_along(rates).validate(), Ok(()));
        }
        let check = |rates: Rates, says: &str| {
            let error = Plan::new(1).all_along(rates).validate().unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        };
        check(Rates { delay: 1.5, ..Rates::none() }, "delay is 1.5");
        check(Rates { fail: -0.1, ..Rates::none() }, "fail is -0.1");
        check(Rates { fail: 0.6, duplicate: 0.6, ..Rates::none() }, "add up to 1.2");
        let empty = Plan::new(1).during(SECOND..SECOND, "x", Rates::none());
        assert!(matches!(empty.validate(), Err(PlanError::Empty { .. })));
    }
}
