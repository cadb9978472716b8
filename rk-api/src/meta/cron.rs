//! Schedules in cron's form, as Kubernetes reads those of CronJobs.
//!
//! Five fields (minute, hour, day of the month, month, day of the week), each a list of numbers,
//! ranges and steps; months and weekdays also by name. Or a word: `@hourly`, `@daily` (`@midnight`),
//! `@weekly`, `@monthly`, `@yearly` (`@annually`), and `@every 1h30m`. `TZ=` or `CRON_TZ=` and a time
//! zone may come first; new CronJobs have a field for that instead.

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};

use super::duration;

mod fields;

use fields::Fields;

/// A schedule that is not met in so many years never is.
const YEARS_MAX: i16 = 5;

/// When something is due.
#[derive(Clone, Debug)]
pub struct Schedule {
    kind: Kind,
    zone: Option<TimeZone>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Fields(Fields),
    Every(SignedDuration),
}

impl Schedule {
    /// Reads a schedule. The error says what is wrong in the words that users of Kubernetes know.
    ///
    /// ```
    /// use k8s_openapi::jiff::{Timestamp, tz::TimeZone};
    /// use rk_api::meta::cron::Schedule;
    ///
    /// let schedule = Schedule::parse("30 4 * * mon-fri").unwrap();
    /// let friday: Timestamp = "2026-11-20T05:00:00Z".parse().unwrap();
    /// let next = schedule.next(friday, &TimeZone::UTC).unwrap();
    /// assert_eq!(next.to_string(), "2026-11-23T04:30:00Z");
    /// assert!(Schedule::parse("61 * * * *").is_err());
    /// ```
    pub fn parse(text: &str) -> Result<Self, String> {
        let (zone, text) = match zone_prefix(text) {
            Some((zone, rest)) => {
                let found = TimeZone::get(zone);
                let wrong = |_| format!("provided bad location {zone}: unknown time zone {zone}");
                (Some(found.map_err(wrong)?), rest)
            }
            None => (None, text),
        };
        let kind = match text.strip_prefix('@') {
            Some(word) => descriptor(word, text)?,
            None => Kind::Fields(Fields::parse(text)?),
        };
        Ok(Self { kind, zone })
    }

    /// The first time after `after` at which something is due, by the clocks of `zone` unless the
    /// schedule names a zone itself. `None` if that is not within five years, such as `0 0 31 2 *`.
    ///
    /// A time that the clocks skip when they go forward is not met on that day; one that they show
    /// twice when they go back is met twice.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match &self.kind {
            Kind::Every(pause) => {
                let start = Timestamp::from_second(after.as_second()).ok()?;
                start.checked_add(*pause).ok()
            }
            Kind::Fields(fields) => {
                next_of_fields(fields, after, self.zone.as_ref().unwrap_or(zone))
            }
        }
    }

    /// The last time in `(start, end]` at which something is due, counted from `start`, and whether
    /// there were more than `most` such times.
    pub fn last_between(
        &self,
        start: Timestamp,
        end: Timestamp,
        zone: &TimeZone,
        most: usize,
    ) -> (Option<Timestamp>, bool) {
        let mut last = None;
        for _ in 0..=most {
            match self.next(last.unwrap_or(start), zone).filter(|time| *time <= end) {
                Some(time) => last = Some(time),
                None => return (last, false),
            }
        }
        let far = last.unwrap_or(start);
        (self.last_before(far, end, zone).or(last), true)
    }

    /// The last time in `(start, end]`, where there can be any number of them.
    fn last_before(&self, start: Timestamp, end: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if let Kind::Every(pause) = &self.kind {
            let rounds = end.duration_since(start).as_secs() / pause.as_secs().max(1);
            let passed = pause.as_secs().checked_mul(rounds)?;
            return start.checked_add(SignedDuration::from_secs(passed)).ok();
        }
        // Looks back ever further, until something is found, and goes forward from there.
        let mut window = SignedDuration::from_mins(1);
        loop {
            let from = end.checked_sub(window).unwrap_or(Timestamp::MIN).max(start);
            let mut found = None;
            let mut at = from;
            while let Some(time) = self.next(at, zone).filter(|time| *time <= end) {
                (found, at) = (Some(time), time);
            }
            if found.is_some() || from == start {
                return found;
            }
            window = window.saturating_mul(2);
        }
    }
}

fn zone_prefix(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ="))?;
    let (zone, rest) = rest.split_once(' ')?;
    Some((zone, rest.trim()))
}

fn descriptor(word: &str, text: &str) -> Result<Kind, String> {
    let fields = match word {
        "yearly" | "annually" => "0 0 1 1 *",
        "monthly" => "0 0 1 * *",
        "weekly" => "0 0 * * 0",
        "daily" | "midnight" => "0 0 * * *",
        "hourly" => "0 * * * *",
        _ => match word.strip_prefix("every ") {
            Some(pause) => {
                let wrong = |error| format!("failed to parse duration {text}: {error}");
                let pause = duration::parse(pause).map_err(wrong)?;
                // Whole seconds, at least one.
                let seconds = Duration::from_secs(pause.as_secs().max(1));
                let pause = SignedDuration::try_from(seconds).unwrap_or(SignedDuration::MAX);
                return Ok(Kind::Every(pause));
            }
            None => return Err(format!("unrecognized descriptor: {text}")),
        },
    };
    Fields::parse(fields).map(Kind::Fields)
}

/// Walks from `after` to the first minute that matches: by days while the date does not, by hours
/// while the hour does not. A step during which the clocks change is made shorter instead, so that
/// no minute is passed over that the clocks do show.
fn next_of_fields(fields: &Fields, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let mut time = Timestamp::from_second(after.as_second()).ok()?;
    time = time.checked_add(SignedDuration::from_secs(1)).ok()?;
    let last_year = zone.to_datetime(time).year().saturating_add(YEARS_MAX);
    loop {
        let local = zone.to_datetime(time);
        if local.year() > last_year {
            return None;
        }
        let second = i64::from(local.second());
        let to_minute = (60 - second) % 60;
        if to_minute > 0 {
            time = step(time, to_minute)?;
            continue;
        }
        let to_hour = (60 - i64::from(local.minute())) * 60;
        let to_day = to_hour + (23 - i64::from(local.hour())) * 3600;
        let seconds = if !fields.matches_date(local) {
            [to_day, to_hour, 60].into_iter().find(|seconds| is_steady(zone, time, *seconds))
        } else if !fields.matches_hour(local) {
            [to_hour, 60].into_iter().find(|seconds| is_steady(zone, time, *seconds))
        } else if !fields.matches_minute(local) {
            None
        } else {
            return Some(time);
        };
        time = step(time, seconds.unwrap_or(60))?;
    }
}

fn step(time: Timestamp, seconds: i64) -> Option<Timestamp> {
    time.checked_add(SignedDuration::from_secs(seconds)).ok()
}

/// Whether the clocks only tick for so many seconds.
fn is_steady(zone: &TimeZone, time: Timestamp, seconds: i64) -> bool {
    let Some(later) = step(time, seconds) else { return false };
    let change = zone.following(time).next().map(|change| change.timestamp());
    change.is_none_or(|change| change > later)
}

/// The numbers of a date as the fields know them.
fn parts(local: DateTime) -> (u32, u32, u32) {
    let weekday = local.weekday().to_sunday_zero_offset();
    let number = |number: i8| u32::try_from(number).unwrap_or(0);
    (number(local.day()), number(local.month()), number(weekday))
}

#[cfg(test)]
mod tests;
