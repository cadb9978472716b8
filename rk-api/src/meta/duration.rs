//! Durations as Go writes them: `1h2m3.5s`.

use std::time::Duration;

/// Why a text is no duration, in the words of Go's `time.ParseDuration`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// It is not made of numbers and units, or too large.
    #[error("time: invalid duration {0:?}")]
    Invalid(String),
    /// A number has no unit.
    #[error("time: missing unit in duration {0:?}")]
    MissingUnit(String),
    /// A unit is none of `ns`, `us`, `ms`, `s`, `m`, `h`.
    #[error("time: unknown unit {unit:?} in duration {text:?}")]
    UnknownUnit {
        /// The unit.
        unit: String,
        /// The whole text.
        text: String,
    },
}

/// Parses a duration. A negative one is zero: nothing here lasts for less than no time.
///
/// ```
/// use std::time::Duration;
/// use rk_api::meta::duration;
///
/// assert_eq!(duration::parse("1m30.5s"), Ok(Duration::from_millis(90_500)));
/// let error = duration::parse("5").unwrap_err();
/// assert_eq!(error.to_string(), "time: missing unit in duration \"5\"");
/// ```
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let invalid = || DurationError::Invalid(text.to_owned());
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0_u64;
    while !rest.is_empty() {
        let number = leading(rest, |c| c.is_ascii_digit() || c == '.');
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        rest = &rest[number.len()..];
        let unit = leading(rest, |c| !c.is_ascii_digit() && c != '.');
        rest = &rest[unit.len()..];
        let nanos = nanos(unit).ok_or_else(|| match unit {
            "" => DurationError::MissingUnit(text.to_owned()),
            unit => DurationError::UnknownUnit { unit: unit.to_owned(), text: text.to_owned() },
        })?;
        let part = whole_nanos(whole, nanos)
            .and_then(|part| part.checked_add(part_nanos(fraction, nanos)));
        total = part.and_then(|part| total.checked_add(part)).ok_or_else(invalid)?;
    }
    // As many nanoseconds as Go's durations hold.
    if i64::try_from(total).is_err() {
        return Err(invalid());
    }
    Ok(if negative { Duration::ZERO } else { Duration::from_nanos(total) })
}

fn leading(text: &str, is_in: impl Fn(char) -> bool) -> &str {
    let end = text.find(|c| !is_in(c)).unwrap_or(text.len());
    &text[..end]
}

fn nanos(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        // The micro sign and the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

fn whole_nanos(digits: &str, unit: u64) -> Option<u64> {
    let number: u64 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    number.checked_mul(unit)
}

/// The nanoseconds of `0.digits` units; what is smaller than one is dropped.
fn part_nanos(digits: &str, unit: u64) -> u64 {
    let mut scale = 1.0;
    let mut value = 0.0;
    for digit in digits.bytes().take(18) {
        scale *= 10.0;
        value = value * 10.0 + f64::from(digit - b'0');
    }
    (value * (unit as f64 / scale)) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<u64, &str>) {
        let found = parse(text).map(|duration| u64::try_from(duration.as_nanos()).unwrap());
        assert_eq!(found.map_err(|error| error.to_string()), expected.map_err(ToOwned::to_owned));
    }

    #[test]
    fn durations_read_as_go_reads_them() {
        check("0", Ok(0));
        check("30s", Ok(30_000_000_000));
        check("1h1m1s1ms1us1ns", Ok(3_661_001_001_001));
        check(".5s", Ok(500_000_000));
        check("1.s", Ok(1_000_000_000));
        check("1.5h", Ok(5_400_000_000_000));
        check("-5s", Ok(0));
        check("+5\u{b5}s", Ok(5_000));
        check("", Err("time: invalid duration \"\""));
        check("-", Err("time: invalid duration \"-\""));
        check("s", Err("time: invalid duration \"s\""));
        check(".s", Err("time: invalid duration \".s\""));
        check("1..5s", Err("time: invalid duration \"1..5s\""));
        check("5", Err("time: missing unit in duration \"5\""));
        check("5s6", Err("time: missing unit in duration \"5s6\""));
        check("5x", Err("time: unknown unit \"x\" in duration \"5x\""));
        check("99999999999h", Err("time: invalid duration \"99999999999h\""));
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in any::<String>()) {
            let _ = parse(&text);
        }

        #[test]
        fn hours_minutes_and_seconds_add_up(h in 0_u64..99, m in 0_u64..99, s in 0_u64..99) {
            let seconds = Duration::from_secs(h * 3600 + m * 60 + s);
            prop_assert_eq!(parse(&format!("{h}h{m}m{s}s")), Ok(seconds));
        }
    }
}
