//! The five fields of a schedule.

use k8s_openapi::jiff::civil::DateTime;

use super::parts;

const MONTHS: &[&str] =
    &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Which minutes, hours and days a schedule means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
}

/// The numbers of one field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Field {
    /// One bit for each number.
    numbers: u64,
    /// It says nothing: `*` or `?`, without a step.
    any: bool,
}

impl Fields {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(match fields.len() {
                0 => "empty spec string".to_owned(),
                count => {
                    format!("expected exactly 5 fields, found {count}: [{}]", fields.join(" "))
                }
            });
        };
        Ok(Self {
            minute: Bounds { min: 0, max: 59, names: &[] }.field(minute)?,
            hour: Bounds { min: 0, max: 23, names: &[] }.field(hour)?,
            day: Bounds { min: 1, max: 31, names: &[] }.field(day)?,
            month: Bounds { min: 1, max: 12, names: MONTHS }.field(month)?,
            weekday: Bounds { min: 0, max: 6, names: WEEKDAYS }.field(weekday)?,
        })
    }

    /// Where both days are given, either is enough; where one is left open, the other decides.
    pub(super) fn matches_date(&self, local: DateTime) -> bool {
        let (day, month, weekday) = parts(local);
        let (day, weekday) = (self.day.has(day), self.weekday.has(weekday));
        let matches = match self.day.any || self.weekday.any {
            true => day && weekday,
            false => day || weekday,
        };
        matches && self.month.has(month)
    }

    pub(super) fn matches_hour(&self, local: DateTime) -> bool {
        self.hour.has(u32::try_from(local.hour()).unwrap_or(0))
    }

    pub(super) fn matches_minute(&self, local: DateTime) -> bool {
        self.minute.has(u32::try_from(local.minute()).unwrap_or(0))
    }
}

impl Field {
    fn has(self, number: u32) -> bool {
        self.numbers >> number & 1 == 1
    }
}

/// What a field may hold: numbers in a range, and names for them.
struct Bounds {
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

impl Bounds {
    /// Ranges such as `*`, `1-5`, `*/10`, joined by commas.
    fn field(&self, text: &str) -> Result<Field, String> {
        let ranges = text.split(',').filter(|range| !range.is_empty());
        ranges.map(|range| self.range(range)).try_fold(Field::default(), |field, range| {
            let range = range?;
            Ok(Field { numbers: field.numbers | range.numbers, any: field.any || range.any })
        })
    }

    fn range(&self, range: &str) -> Result<Field, String> {
        let mut parts = range.split('/');
        let (span, step, extra) = (parts.next().unwrap_or(""), parts.next(), parts.next());
        if extra.is_some() {
            return Err(format!("too many slashes: {range}"));
        }
        let ends: Vec<&str> = span.split('-').collect();
        let (start, end, open) = match ends.as_slice() {
            ["*" | "?"] => (self.min, self.max, true),
            [one] => {
                let start = self.number(one)?;
                (start, if step.is_some() { self.max } else { start }, false)
            }
            [start, end] => (self.number(start)?, self.number(end)?, false),
            _ => return Err(format!("too many hyphens: {range}")),
        };
        let step = step.map(digits).transpose()?.unwrap_or(1);
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
        if step == 0 {
            return Err(format!("step of range should be a positive number: {range}"));
        }
        let numbers =
            (start..=end).step_by(step as usize).fold(0, |bits, number| bits | 1 << number);
        Ok(Field { numbers, any: open && step == 1 })
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
