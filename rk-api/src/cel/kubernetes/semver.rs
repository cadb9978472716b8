//! Semantic versions (SemVer 2.0.0).

use std::cmp::Ordering;

/// A semantic version.
#[derive(Clone, Debug)]
pub struct Version {
    /// Incompatible changes.
    pub major: u64,
    /// Additions.
    pub minor: u64,
    /// Fixes.
    pub patch: u64,
    /// Identifiers after a hyphen.
    pre: Vec<Identifier>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Identifier {
    Number(u64),
    Text(String),
}

/// Two versions are equal if neither comes before the other: builds do not count.
impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.precedence(other) == Ordering::Equal
    }
}

impl Version {
    /// Reads a version. With `normalize`, a `v` in front, missing parts and leading zeros are
    /// forgiven.
    ///
    /// # Errors
    /// What is malformed, in words.
    pub fn parse(text: &str, normalize: bool) -> Result<Self, String> {
        if normalize {
            return Self::parse(&normalized(text)?, false);
        }
        if text.is_empty() {
            return Err("Version string empty".to_owned());
        }
        let mut parts = text.splitn(3, '.');
        let (Some(major), Some(minor), Some(rest)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err("No Major.Minor.Patch elements found".to_owned());
        };
        let (rest, build) = match rest.split_once('+') {
            Some((rest, build)) => (rest, Some(build)),
            None => (rest, None),
        };
        let (patch, pre) = match rest.split_once('-') {
            Some((patch, pre)) => (patch, Some(pre)),
            None => (rest, None),
        };
        let (major, minor) = (number("major", major)?, number("minor", minor)?);
        let patch = number("patch", patch)?;
        if let Some(build) = build {
            for part in build.split('.') {
                if part.is_empty() {
                    return Err("Build meta data is empty".to_owned());
                }
                if !part.bytes().all(is_identifier) {
                    return Err(format!("Invalid character(s) found in build meta data {part:?}"));
                }
            }
        }
        let pre = pre.map(|pre| pre.split('.').map(identifier).collect());
        Ok(Self { major, minor, patch, pre: pre.transpose()?.unwrap_or_default() })
    }

    /// Which of two versions comes first (SemVer 2.0.0, section 11).
    pub fn precedence(&self, other: &Self) -> Ordering {
        let numbers = |version: &Self| (version.major, version.minor, version.patch);
        numbers(self).cmp(&numbers(other)).then_with(|| {
            match (self.pre.is_empty(), other.pre.is_empty()) {
                (true, true) => Ordering::Equal,
                // A release comes after what leads to it.
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                (false, false) => {
                    let pairs = self.pre.iter().zip(&other.pre);
                    pairs
                        .map(|(left, right)| compare(left, right))
                        .find(|ordering| ordering.is_ne())
                        .unwrap_or_else(|| self.pre.len().cmp(&other.pre.len()))
                }
            }
        })
    }
}

fn compare(left: &Identifier, right: &Identifier) -> Ordering {
    match (left, right) {
        (Identifier::Number(left), Identifier::Number(right)) => left.cmp(right),
        (Identifier::Number(_), Identifier::Text(_)) => Ordering::Less,
        (Identifier::Text(_), Identifier::Number(_)) => Ordering::Greater,
        (Identifier::Text(left), Identifier::Text(right)) => left.cmp(right),
    }
}

fn is_identifier(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

fn number(part: &str, text: &str) -> Result<u64, String> {
    let title = || {
        let mut letters = part.chars();
        letters
            .next()
            .map(|c| c.to_ascii_uppercase())
            .into_iter()
            .chain(letters)
            .collect::<String>()
    };
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("Invalid character(s) found in {part} number {text:?}"));
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(format!("{} number must not contain leading zeroes {text:?}", title()));
    }
    text.parse().map_err(|_| format!("{} number out of range {text:?}", title()))
}

fn identifier(text: &str) -> Result<Identifier, String> {
    if text.is_empty() {
        return Err("Prerelease is empty".to_owned());
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        if text.len() > 1 && text.starts_with('0') {
            return Err(format!(
                "Numeric PreRelease version must not contain leading zeroes {text:?}"
            ));
        }
        return text.parse().map(Identifier::Number).map_err(|error| error.to_string());
    }
    if !text.bytes().all(is_identifier) {
        return Err(format!("Invalid character(s) found in prerelease {text:?}"));
    }
    Ok(Identifier::Text(text.to_owned()))
}

fn normalized(text: &str) -> Result<String, String> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text.splitn(3, '.').map(str::to_owned).collect();
    for part in &mut parts {
        if part.len() > 1 {
            let trimmed = part.trim_start_matches('0');
            let zero = if trimmed.starts_with(|c: char| c.is_ascii_digit()) { "" } else { "0" };
            *part = format!("{zero}{trimmed}");
        }
    }
    if parts.len() < 3 {
        if parts.last().is_some_and(|part| part.contains(['+', '-'])) {
            return Err("short version cannot contain PreRelease/Build meta data".to_owned());
        }
        parts.resize(3, "0".to_owned());
    }
    Ok(parts.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_semver_says() {
        let order = [
            "1.0.0-alpha",
            "1.0.0-alpha.1",
            "1.0.0-alpha.beta",
            "1.0.0-beta",
            "1.0.0-beta.2",
            "1.0.0-beta.11",
            "1.0.0-rc.1",
            "1.0.0",
            "1.0.1",
            "1.10.0",
            "2.0.0",
        ];
        for pair in order.windows(2) {
            let [left, right] = pair else { continue };
            let (left, right) =
                (Version::parse(left, false).unwrap(), Version::parse(right, false).unwrap());
            assert_eq!(left.precedence(&right), Ordering::Less, "{left:?} {right:?}");
        }
    }

    #[test]
    fn only_normalizing_forgives() {
        for text in ["v1.0", "1", "01.1.1", "1.0"] {
            assert!(Version::parse(text, false).is_err(), "{text}");
            assert!(Version::parse(text, true).is_ok(), "{text}");
        }
        for text in ["", "1.2.x", "1.2.3-", "1.2.3-01", "1.0-alpha", "a.b.c"] {
            assert!(Version::parse(text, true).is_err(), "{text}");
        }
    }
}
