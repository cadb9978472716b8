//! Timestamps and durations (CEL specification, "Abstract Types").

use std::fmt;

use jiff::{
    civil::{Date, DateTime, Time},
    tz::TimeZone,
};

use super::EvalError;

/// A moment between the years 1 and 9999.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp {
    /// Since 1970, in UTC.
    seconds: i64,
    nanos: u32,
    /// How far from UTC it was written, in seconds: as text it stays there. Nothing else depends
    /// on it.
    offset: i32,
}

impl PartialEq for Timestamp {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Timestamp {}

impl PartialOrd for Timestamp {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timestamp {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.seconds, self.nanos).cmp(&(other.seconds, other.nanos))
    }
}

const MIN_SECONDS: i64 = -62_135_596_800;
const MAX_SECONDS: i64 = 253_402_300_799;
const NANOS: i128 = 1_000_000_000;

impl Timestamp {
    /// Seconds since 1970.
    pub fn seconds(self) -> i64 {
        self.seconds
    }

    /// A moment by nanoseconds since 1970.
    ///
    /// # Errors
    /// Before the year 1 or after the year 9999.
    pub(crate) fn from_nanos(nanos: i128) -> Result<Self, EvalError> {
        let seconds = nanos.div_euclid(NANOS);
        match i64::try_from(seconds) {
            Ok(seconds) if (MIN_SECONDS..=MAX_SECONDS).contains(&seconds) => {
                Ok(Self { seconds, nanos: nanos.rem_euclid(NANOS) as u32, offset: 0 })
            }
            _ => Err(EvalError::new("timestamp overflow")),
        }
    }

    /// A moment by seconds since 1970.
    pub(crate) fn from_seconds(seconds: i64) -> Result<Self, EvalError> {
        Self::from_nanos(i128::from(seconds) * NANOS)
    }

    /// The same moment, written at this distance from UTC.
    fn written_at((nanos, offset): (i128, i32)) -> Result<Self, EvalError> {
        Ok(Self { offset, ..Self::from_nanos(nanos)? })
    }

    /// A moment this much later, written as this one is.
    ///
    /// # Errors
    /// Before the year 1 or after the year 9999.
    pub(crate) fn plus(self, nanos: i128) -> Result<Self, EvalError> {
        Self::written_at((self.nanos() + nanos, self.offset))
    }

    pub(crate) fn nanos(self) -> i128 {
        i128::from(self.seconds) * NANOS + i128::from(self.nanos)
    }

    /// The date and time somewhere, by its distance from UTC.
    fn civil(self, offset_seconds: i64) -> Option<DateTime> {
        let seconds = self.seconds + offset_seconds;
        let days = seconds.div_euclid(86_400);
        let second = seconds.rem_euclid(86_400) as i32;
        let date = Date::ZERO
            .with()
            .year(1970)
            .month(1)
            .day(1)
            .build()
            .ok()?
            .checked_add(jiff::Span::new().try_days(days).ok()?)
            .ok()?;
        let time = Time::new(
            (second / 3600) as i8,
            (second / 60 % 60) as i8,
            (second % 60) as i8,
            self.nanos as i32,
        )
        .ok()?;
        Some(date.to_datetime(time))
    }

    /// The date and time in a time zone: a name, or an offset such as `+01:30`. UTC if empty.
    pub(crate) fn in_zone(self, zone: &str) -> Result<DateTime, EvalError> {
        let offset = match zone.split_once(':') {
            None if zone.is_empty() || zone == "UTC" => 0,
            None => {
                let unknown = || EvalError::new(format!("unknown time zone {zone}"));
                let zone = TimeZone::get(zone).map_err(|_| unknown())?;
                let moment = jiff::Timestamp::new(self.seconds, 0).unwrap_or(if self.seconds < 0 {
                    jiff::Timestamp::MIN
                } else {
                    jiff::Timestamp::MAX
                });
                i64::from(zone.to_offset(moment).seconds())
            }
            Some((hours, minutes)) => {
                let number = |text: &str| {
                    text.parse::<i64>().ok().filter(|n| n.abs() < 100).ok_or_else(|| {
                        let message = format!("strconv.Atoi: parsing \"{text}\": invalid syntax");
                        EvalError::new(message)
                    })
                };
                let (hours, minutes) = (number(hours)?, number(minutes)?);
                if !(0..60).contains(&minutes) {
                    let message = format!("timezone offset minutes out of range [0, 59]: {zone}");
                    return Err(EvalError::new(message));
                }
                let minutes = if zone.starts_with('-') { -minutes } else { minutes };
                (hours * 60 + minutes) * 60
            }
        };
        self.civil(offset).ok_or_else(|| EvalError::new("timestamp overflow"))
    }

    /// RFC 3339, with a `T`, as Go reads it.
    pub(crate) fn parse(text: &str) -> Result<Self, EvalError> {
        let wrong =
            || EvalError::new("type conversion error from 'string' to 'google.protobuf.Timestamp'");
        parse_rfc3339(text).ok_or_else(wrong).and_then(Self::written_at)
    }
}

/// RFC 3339, with as many decimals as there are.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(at) = self.civil(self.offset.into()) else { return f.write_str("?") };
        write!(f, "{:04}-{:02}-{:02}T", at.year(), at.month(), at.day())?;
        write!(f, "{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second())?;
        if self.nanos != 0 {
            let decimals = format!("{:09}", self.nanos);
            write!(f, ".{}", decimals.trim_end_matches('0'))?;
        }
        if self.offset == 0 {
            return f.write_str("Z");
        }
        let minutes = self.offset.abs() / 60;
        let sign = if self.offset < 0 { '-' } else { '+' };
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

fn number(text: &str) -> Option<i64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

fn date(text: &str) -> Option<Date> {
    let bytes = text.as_bytes();
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let (year, month) = (number(text.get(..4)?)?, number(text.get(5..7)?)?);
    Date::new(year as i16, month as i8, number(text.get(8..)?)? as i8).ok()
}

/// Nanoseconds since 1970, and the distance from UTC in seconds.
fn parse_rfc3339(text: &str) -> Option<(i128, i32)> {
    let day = date(text.get(..10)?)?;
    let rest = text.get(10..)?.strip_prefix(['T', 't'])?;
    let (clock, rest) = rest.split_at_checked(8)?;
    let bytes = clock.as_bytes();
    if bytes[2] != b':' || bytes[5] != b':' {
        return None;
    }
    let part = |range: std::ops::Range<usize>| number(clock.get(range)?);
    let (hour, minute, second) = (part(0..2)?, part(3..5)?, part(6..8)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (nanos, rest) = match rest.strip_prefix(['.', ',']) {
        Some(decimals) => {
            let length = decimals.bytes().take_while(u8::is_ascii_digit).count();
            let digits = &decimals[..length];
            // What is finer than a nanosecond is cut off.
            let nanos =
                number(digits.get(..9.min(length))?)? * 10_i64.pow(9 - 9.min(length) as u32);
            (nanos, &decimals[length..])
        }
        None => (0, rest),
    };
    let offset = match rest {
        "Z" | "z" => 0,
        _ => {
            let sign = match rest.as_bytes().first()? {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            let (hours, minutes) = rest.get(1..)?.split_once(':')?;
            if hours.len() != 2 || minutes.len() != 2 {
                return None;
            }
            let (hours, minutes) = (number(hours)?, number(minutes)?);
            if hours > 24 || minutes > 60 {
                return None;
            }
            sign * (hours * 3600 + minutes * 60)
        }
    };
    let days = days_since_1970(day);
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset;
    let offset = i32::try_from(offset).ok()?;
    Some((i128::from(seconds) * NANOS + i128::from(nanos), offset))
}

fn days_since_1970(day: Date) -> i64 {
    // Days from civil (Howard Hinnant's algorithm), exact for all years here.
    let (year, month) = (i64::from(day.year()), i64::from(day.month()));
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year =
        (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + i64::from(day.day()) - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// A date without a time.
pub(crate) fn parse_date(text: &str) -> Option<Timestamp> {
    Timestamp::from_seconds(days_since_1970(date(text)?) * 86_400).ok()
}

/// OpenAPI's `date-time`, which also has forms without a zone.
pub(crate) fn parse_openapi_date_time(text: &str) -> Option<Timestamp> {
    let text = match text.get(10..11) {
        Some(" ") => format!("{}T{}", &text[..10], &text[11..]),
        _ => text.to_owned(),
    };
    let nanos =
        parse_rfc3339(&text).or_else(|| parse_rfc3339(&format!("{text}Z"))).or_else(|| {
            // An offset without its colon.
            let (head, tail) = text.split_at_checked(text.len().checked_sub(2)?)?;
            parse_rfc3339(&format!("{head}:{tail}"))
        })?;
    Timestamp::written_at(nanos).ok()
}

/// A duration as Go writes and reads it, such as `1h30m`, in nanoseconds.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    let mut rest = rest;
    while !rest.is_empty() {
        let whole_length = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, tail) = rest.split_at(whole_length);
        let (fraction, tail) = match tail.strip_prefix('.') {
            Some(tail) => tail.split_at(tail.bytes().take_while(u8::is_ascii_digit).count()),
            None => ("", tail),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit_length = tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_length);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => NANOS,
            "m" => 60 * NANOS,
            "h" => 3600 * NANOS,
            _ => return None,
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(unit)?)?;
        if !fraction.is_empty() {
            let digits = &fraction[..fraction.len().min(18)];
            let part: i128 = digits.parse().ok()?;
            total = total.checked_add(part * unit / 10_i128.pow(digits.len() as u32))?;
        }
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// OpenAPI's `duration`: as Go has it, with more names of units, in nanoseconds.
pub(crate) fn parse_openapi_duration(text: &str) -> Result<i64, String> {
    if let Some(nanos) = parse_duration(text) {
        return Ok(nanos);
    }
    let wrong = || format!("unable to parse {text:?} as duration");
    let mut total: i128 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let length = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (count, tail) = rest.split_at(length);
        let tail = tail.trim_start();
        let length = tail.find(|c: char| c.is_ascii_digit() || c == ' ').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(length);
        let unit: i128 = match unit.to_ascii_lowercase().as_str() {
            "ns" | "nano" | "nanos" | "nanosecond" | "nanoseconds" => 1,
            "us" | "µs" | "micro" | "micros" | "microsecond" | "microseconds" => 1_000,
            "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1_000_000,
            "s" | "sec" | "secs" | "second" | "seconds" => NANOS,
            "m" | "min" | "mins" | "minute" | "minutes" => 60 * NANOS,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3600 * NANOS,
            "d" | "day" | "days" => 86_400 * NANOS,
            "w" | "wk" | "week" | "weeks" => 7 * 86_400 * NANOS,
            _ => return Err(wrong()),
        };
        let count: i128 = count.parse().map_err(|_| wrong())?;
        total = count.checked_mul(unit).and_then(|n| total.checked_add(n)).ok_or_else(wrong)?;
        rest = tail.trim_start();
    }
    i64::try_from(total).map_err(|_| wrong())
}

/// A duration as `string(d)` has it: seconds, with as many decimals as it takes.
pub(crate) fn format_seconds(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let (whole, rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    if rest == 0 {
        return format!("{sign}{whole}s");
    }
    let decimals = format!("{rest:09}");
    format!("{sign}{whole}.{}s", decimals.trim_end_matches('0'))
}

/// A part of a date and time, by the name of its function.
pub(crate) fn accessor(function: &str, at: DateTime) -> Option<i64> {
    Some(match function {
        "getFullYear" => i64::from(at.year()),
        "getMonth" => i64::from(at.month()) - 1,
        "getDayOfYear" => i64::from(at.day_of_year()) - 1,
        "getDayOfMonth" => i64::from(at.day()) - 1,
        "getDate" => i64::from(at.day()),
        "getDayOfWeek" => i64::from(at.weekday().to_sunday_zero_offset()),
        "getHours" => i64::from(at.hour()),
        "getMinutes" => i64::from(at.minute()),
        "getSeconds" => i64::from(at.second()),
        "getMilliseconds" => i64::from(at.subsec_nanosecond() / 1_000_000),
        _ => return None,
    })
}
