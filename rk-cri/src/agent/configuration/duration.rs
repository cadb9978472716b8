//! Times as Go writes them: `1h30m0s`.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A time that is written as Go does: `10s`, `1h30m`, `200ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub Duration);

impl GoDuration {
    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Go's `time.ParseDuration`, without signs.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "0" {
            return Some(Self::default());
        }
        let (mut rest, mut seconds) = (text, 0.0);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
            let number: f64 = rest[..digits].parse().ok()?;
            rest = &rest[digits..];
            let units = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            let unit = match &rest[..units] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
            seconds += number * unit;
            rest = &rest[units..];
        }
        if text.is_empty() {
            return None;
        }
        Duration::try_from_secs_f64(seconds).ok().map(Self)
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.0.as_secs();
        let millis = self.0.subsec_millis();
        match (whole / 3600, whole / 60 % 60, whole % 60) {
            (0, 0, 0) if millis > 0 => return write!(f, "{millis}ms"),
            (0, 0, _) => {}
            (0, minutes, _) => write!(f, "{minutes}m")?,
            (hours, minutes, _) => write!(f, "{hours}h{minutes}m")?,
        }
        match millis {
            0 => write!(f, "{}s", whole % 60),
            _ => write!(f, "{}.{millis:03}s", whole % 60),
        }
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| D::Error::custom(format!("time: invalid duration {text:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written_as_go_does() {
        for (text, milliseconds, written) in [
            ("10s", 10_000, "10s"),
            ("1h30m", 5_400_000, "1h30m0s"),
            ("2m", 120_000, "2m0s"),
            ("1.5s", 1500, "1.500s"),
            ("200ms", 200, "200ms"),
            ("0s", 0, "0s"),
        ] {
            let parsed = GoDuration::parse(text).unwrap();
            assert_eq!(parsed.0, Duration::from_millis(milliseconds), "{text}");
            assert_eq!(parsed.to_string(), written);
            assert_eq!(GoDuration::parse(written), Some(parsed));
        }
        for text in ["", "10", "s", "1x", "1h3", "-1s"] {
            assert_eq!(GoDuration::parse(text), None, "{text}");
        }
    }
}
