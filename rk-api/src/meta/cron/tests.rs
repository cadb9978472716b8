//! Schedules against a walk from minute to minute.

use std::collections::BTreeSet;

use k8s_openapi::jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use proptest::prelude::*;

use super::Schedule;

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

#[test]
fn schedules_are_judged() {
    for good in [
        "* * * * *",
        "*/5 1-3 1,15 jan-MAR sun",
        "0 0 ? * 6",
        "@daily",
        "@every 1h30m",
        "5/15 * * * *",
        "TZ=Europe/Berlin 0 4 * * *",
        "CRON_TZ=UTC @hourly",
    ] {
        assert!(Schedule::parse(good).is_ok(), "{good}");
    }
    #[track_caller]
    fn bad(schedule: &str, wrong: &str) {
        assert_eq!(Schedule::parse(schedule).unwrap_err(), wrong, "{schedule}");
    }
    bad("nope", "expected exactly 5 fields, found 1: [nope]");
    bad("* * * * * *", "expected exactly 5 fields, found 6: [* * * * * *]");
    bad("  ", "empty spec string");
    bad("61 * * * *", "end of range (61) above maximum (59): 61");
    bad("* * 0 * *", "beginning of range (0) below minimum (1): 0");
    bad("* * * * 7", "end of range (7) above maximum (6): 7");
    bad("*/0 * * * *", "step of range should be a positive number: */0");
    bad("1/2/3 * * * *", "too many slashes: 1/2/3");
    bad("1-2-3 * * * *", "too many hyphens: 1-2-3");
    bad("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1");
    bad("a * * * *", "failed to parse int from a: invalid syntax");
    bad("* * * janu *", "failed to parse int from janu: invalid syntax");
    bad("@never", "unrecognized descriptor: @never");
    let soon = "failed to parse duration @every soon: time: invalid duration \"soon\"";
    bad("@every soon", soon);
    bad("TZ=Mars/Base 0 4 * * *", "provided bad location Mars/Base: unknown time zone Mars/Base");
}

#[track_caller]
fn check(schedule: &str, name: &str, from: &str, expected: &[&str]) {
    let (schedule, zone) = (Schedule::parse(schedule).unwrap(), zone(name));
    let mut time: Timestamp = from.parse().unwrap();
    for expected in expected {
        time = schedule.next(time, &zone).unwrap();
        let shown = time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M %Z").to_string();
        assert_eq!(shown, *expected);
    }
}

#[test]
fn words_stand_for_fields() {
    let start = "2026-11-21T09:30:00Z";
    check("@hourly", "UTC", start, &["2026-11-21 10:00 UTC", "2026-11-21 11:00 UTC"]);
    check("@daily", "UTC", start, &["2026-11-22 00:00 UTC"]);
    check("@midnight", "UTC", start, &["2026-11-22 00:00 UTC"]);
    check("@weekly", "UTC", start, &["2026-11-22 00:00 UTC", "2026-11-29 00:00 UTC"]);
    check("@monthly", "UTC", start, &["2026-12-01 00:00 UTC"]);
    check("@yearly", "UTC", start, &["2027-01-01 00:00 UTC"]);
    check("@annually", "UTC", start, &["2027-01-01 00:00 UTC"]);
    check("@every 90m", "UTC", start, &["2026-11-21 11:00 UTC", "2026-11-21 12:30 UTC"]);
}

#[test]
fn one_of_two_days_is_enough_unless_one_is_left_open() {
    let start = "2026-11-01T00:00:00Z";
    let either = &["2026-11-06 00:00 UTC", "2026-11-13 00:00 UTC", "2026-11-20 00:00 UTC"];
    check("0 0 13 * fri", "UTC", start, either);
    check("0 0 13 * ?", "UTC", start, &["2026-11-13 00:00 UTC", "2026-12-13 00:00 UTC"]);
    // With a step the star does choose days.
    check(
        "0 0 */10 * mon",
        "UTC",
        start,
        &["2026-11-02 00:00 UTC", "2026-11-09 00:00 UTC", "2026-11-11 00:00 UTC"],
    );
}

#[test]
fn clocks_that_go_forward_skip_a_time_and_those_that_go_back_repeat_one() {
    let berlin = "Europe/Berlin";
    check(
        "30 2 * * *",
        berlin,
        "2026-03-28T00:00:00Z",
        &["2026-03-28 02:30 CET", "2026-03-30 02:30 CEST"],
    );
    check(
        "30 2 * * *",
        berlin,
        "2026-10-24T10:00:00Z",
        &["2026-10-25 02:30 CEST", "2026-10-25 02:30 CET", "2026-10-26 02:30 CET"],
    );
    // Half an hour, and across midnight.
    check(
        "45 1 * * *",
        "Australia/Lord_Howe",
        "2026-04-04T00:00:00Z",
        &["2026-04-05 01:45 +11", "2026-04-05 01:45 +1030"],
    );
    check("15 0 * * *", "Africa/Cairo", "2026-04-23T00:00:00Z", &["2026-04-25 00:15 EEST"]);
}

#[test]
fn a_day_that_never_comes_is_given_up() {
    let start: Timestamp = "2026-11-21T09:30:00Z".parse().unwrap();
    assert_eq!(Schedule::parse("0 0 31 2 *").unwrap().next(start, &TimeZone::UTC), None);
    check("0 0 29 2 *", "UTC", "2026-11-21T09:30:00Z", &["2028-02-29 00:00 UTC"]);
}

#[test]
fn the_last_of_many_times_is_found_and_many_is_said() {
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let (start, end) = (at("2026-01-01T00:00:30Z"), at("2026-11-21T09:30:10Z"));
    let last = |schedule: &str| {
        let (last, many) =
            Schedule::parse(schedule).unwrap().last_between(start, end, &TimeZone::UTC, 100);
        (last.map(|time| time.to_string()).unwrap_or_default(), many)
    };
    assert_eq!(last("* * * * *"), ("2026-11-21T09:30:00Z".into(), true));
    assert_eq!(last("@monthly"), ("2026-11-01T00:00:00Z".into(), false));
    assert_eq!(last("0 0 * * *"), ("2026-11-21T00:00:00Z".into(), true));
    assert_eq!(last("@every 7s"), ("2026-11-21T09:30:06Z".into(), true));
    assert_eq!(last("0 0 24 12 *"), (String::new(), false));
}

/// One range of a field, and the numbers it stands for.
fn range(min: u32, max: u32) -> impl Strategy<Value = (String, BTreeSet<u32>, bool)> {
    prop_oneof![
        2 => Just(("*".to_owned(), (min..=max).collect(), true)),
        2 => (min..=max).prop_map(|one| (one.to_string(), BTreeSet::from([one]), false)),
        1 => (min..=max, min..=max, 1u32..20).prop_map(|(a, b, step)| {
            let (a, b) = (a.min(b), a.max(b));
            (format!("{a}-{b}/{step}"), (a..=b).step_by(step as usize).collect(), false)
        }),
        1 => (2u32..20).prop_map(move |step| {
            (format!("*/{step}"), (min..=max).step_by(step as usize).collect(), false)
        }),
        1 => (min..=max, 1u32..20).prop_map(move |(a, step)| {
            (format!("{a}/{step}"), (a..=max).step_by(step as usize).collect(), false)
        }),
    ]
}

type Field = (String, BTreeSet<u32>, bool);

fn field(min: u32, max: u32) -> impl Strategy<Value = Field> {
    prop::collection::vec(range(min, max), 1..3).prop_map(|ranges| {
        ranges.into_iter().fold((String::new(), BTreeSet::new(), false), |all, one| {
            let comma = if all.0.is_empty() { "" } else { "," };
            (format!("{}{comma}{}", all.0, one.0), &all.1 | &one.1, all.2 || one.2)
        })
    })
}

fn is_due(fields: &[Field], local: DateTime) -> bool {
    let weekday = local.weekday().to_sunday_zero_offset();
    let numbers = [local.minute(), local.hour(), local.day(), local.month(), weekday];
    let has: Vec<bool> = fields
        .iter()
        .zip(numbers)
        .map(|(field, number)| field.1.contains(&(number as u32)))
        .collect();
    let days = if fields[2].2 || fields[4].2 { has[2] && has[4] } else { has[2] || has[4] };
    local.second() == 0 && has[0] && has[1] && has[3] && days
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_next_time_is_the_one_that_a_walk_from_minute_to_minute_finds(
        fields in (field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6)),
        name in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "Asia/Kathmandu"]),
        // Around changes of clocks in 2026, of which the zones above have some each.
        day in prop::sample::select(vec!["2026-03-07", "2026-03-28", "2026-04-04", "2026-04-23", "2026-10-03", "2026-10-24", "2026-10-29", "2026-10-31", "2026-12-31"]),
        second in 0i64..172_800,
    ) {
        let fields = [fields.0, fields.1, fields.2, fields.3, fields.4];
        let text: Vec<&str> = fields.iter().map(|field| field.0.as_str()).collect();
        let schedule = Schedule::parse(&text.join(" ")).unwrap();
        let zone = zone(name);
        let start: Timestamp = format!("{day}T00:00:00Z").parse().unwrap();
        let start = start + SignedDuration::from_secs(second);
        let next = schedule.next(start, &zone);

        let first = Timestamp::from_second(start.as_second().div_euclid(60) * 60 + 60).unwrap();
        let minutes = (0..5 * 24 * 60).map(|minute| first + SignedDuration::from_mins(minute));
        let found = minutes.clone().find(|time| is_due(&fields, zone.to_datetime(*time)));
        let horizon = first + SignedDuration::from_mins(5 * 24 * 60);
        prop_assert_eq!(next.filter(|time| *time < horizon), found, "{} in {} from {}", text.join(" "), name, start);
    }
}
