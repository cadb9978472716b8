//! When those who are refused are told to come back: the later, the more of them there are.

use std::collections::VecDeque;

/// The longest wait, in seconds.
const SECONDS_MAX: i64 = 32;

/// Refusals of a priority level, by second.
#[derive(Debug)]
pub(super) struct RetryAfter {
    seconds: i64,
    updated: i64,
    current: (i64, i64),
    history: VecDeque<(i64, i64)>,
}

impl Default for RetryAfter {
    fn default() -> Self {
        Self { seconds: 1, updated: 0, current: (0, 0), history: VecDeque::new() }
    }
}

impl RetryAfter {
    /// Counts a refusal at this second (of any clock), and says after how many to come back.
    pub(super) fn refused(&mut self, second: i64) -> i64 {
        if self.current.0 == second {
            self.current.1 += 1;
            return self.seconds;
        }
        self.history.push_back(self.current);
        self.current = (second, 1);
        let kept = (2 * self.seconds).min(SECONDS_MAX);
        while self.history.front().is_some_and(|(at, _)| second - at > kept) {
            self.history.pop_front();
        }
        self.adjust(second);
        self.seconds
    }

    /// Twice as long when three or more a second were refused for that long; a second less when
    /// fewer than one.
    fn adjust(&mut self, second: i64) {
        let recent = self.history.iter().filter(|(at, _)| second - at <= self.seconds);
        let refused: i64 = recent.map(|(_, count)| count).sum();
        if second - self.updated >= self.seconds && refused >= 3 * self.seconds {
            self.seconds = (2 * self.seconds).min(SECONDS_MAX);
            self.updated = second;
        } else if refused < self.seconds && self.seconds > 1 {
            self.seconds -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_under_load_and_shrinks_again() {
        let mut retry = RetryAfter::default();
        assert_eq!(retry.refused(100), 1);
        let mut longest = 0;
        for second in 101..200 {
            for _ in 0..10 {
                longest = retry.refused(second);
            }
        }
        assert_eq!(longest, SECONDS_MAX);
        let mut last = longest;
        for second in (300..3000).step_by(60) {
            last = retry.refused(second);
        }
        assert_eq!(last, 1);
    }
}
