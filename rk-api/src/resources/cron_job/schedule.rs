//! Whether a text is a schedule: five fields of cron, or a word such as `@daily`.

/// What is wrong with the schedule.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    if let Some(word) = schedule.strip_prefix('@') {
        return descriptor(word, schedule);
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = fields.as_slice() else {
        return Err(format!(
            "expected exactly 5 fields, found {}: [{}]",
            fields.len(),
            fields.join(" ")
        ));
    };
    const MONTHS: &[&str] =
        &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    Bounds { min: 0, max: 59, names: &[] }.check(minute)?;
    Bounds { min: 0, max: 23, names: &[] }.check(hour)?;
    Bounds { min: 1, max: 31, names: &[] }.check(day)?;
    Bounds { min: 1, max: 12, names: MONTHS }.check(month)?;
    Bounds { min: 0, max: 6, names: WEEKDAYS }.check(weekday)
}

fn descriptor(word: &str, schedule: &str) -> Result<(), String> {
    match word {
        "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly" => Ok(()),
        word => match word.strip_prefix("every ") {
            Some(duration) if is_duration(duration) => Ok(()),
            Some(_) => Err(format!("failed to parse duration {schedule}")),
            None => Err(format!("unrecognized descriptor: {schedule}")),
        },
    }
}

/// Numbers with units, such as `1h30m`.
fn is_duration(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let number = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let units = ["ns", "us", "ms", "s", "m", "h"];
        let Some(unit) = units.into_iter().find(|unit| number.starts_with(unit)) else {
            return false;
        };
        if number.len() == rest.len() {
            return false;
        }
        rest = &number[unit.len()..];
    }
    !text.is_empty()
}

/// What a field may hold: numbers in a range, and names for them.
struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

impl Bounds {
    /// Ranges such as `*`, `1-5`, `*/10`, joined by commas.
    fn check(&self, field: &str) -> Result<(), String> {
        field.split(',').filter(|range| !range.is_empty()).try_for_each(|range| self.range(range))
    }

    fn range(&self, range: &str) -> Result<(), String> {
        let mut parts = range.split('/');
        let (span, step, extra) = (parts.next().unwrap_or(""), parts.next(), parts.next());
        if extra.is_some() {
            return Err(format!("too many slashes: {range}"));
        }
        let ends: Vec<&str> = span.split('-').collect();
        let (start, end) = match ends.as_slice() {
            ["*" | "?"] => (self.min, self.max),
            [one] => {
                let start = self.number(one)?;
                (start, if step.is_some() { self.max } else { start })
            }
            [start, end] => (self.number(start)?, self.number(end)?),
            _ => return Err(format!("too many hyphens: {range}")),
        };
        if let Some(step) = step
            && digits(step)? == 0
        {
            return Err(format!("step of range should be a positive number: {range}"));
        }
        let (min, max) = (self.min, self.max);
        if start < min {
            return Err(format!("beginning of range ({start}) below minimum ({min}): {range}"));
        }
        if end > max {
            return Err(format!("end of range ({end}) above maximum ({max}): {range}"));
        }
        if start > end {
            return Err(format!(
                "beginning of range ({start}) beyond end of range ({end}): {range}"
            ));
        }
        Ok(())
    }

    fn number(&self, text: &str) -> Result<u32, String> {
        let named = self.names.iter().position(|name| text.eq_ignore_ascii_case(name));
        match named {
            Some(at) => Ok(self.min + at as u32),
            None => digits(text),
        }
    }
}

fn digits(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("failed to parse int from {text}: invalid syntax"))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn schedules_are_judged() {
        for good in [
            "* * * * *",
            "*/5 1-3 1,15 jan-MAR sun",
            "0 0 ? * 6",
            "@daily",
            "@every 1h30m",
            "5/15 * * * *",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        #[track_caller]
        fn bad(schedule: &str, wrong: &str) {
            assert_eq!(check(schedule), Err(wrong.to_owned()), "{schedule}");
        }
        bad("nope", "expected exactly 5 fields, found 1: [nope]");
        bad("61 * * * *", "end of range (61) above maximum (59): 61");
        bad("* * 0 * *", "beginning of range (0) below minimum (1): 0");
        bad("*/0 * * * *", "step of range should be a positive number: */0");
        bad("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1");
        bad("a * * * *", "failed to parse int from a: invalid syntax");
        bad("@never", "unrecognized descriptor: @never");
        bad("@every soon", "failed to parse duration @every soon");
    }
}
