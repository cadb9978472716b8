//! What a namespace's labels ask for, and who is exempt.

use std::{collections::BTreeMap, fmt};

use crate::field::{ErrorList, FieldError, Path};

const LABEL_PREFIX: &str = "pod-security.kubernetes.io/";

/// How much Pods may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Everything.
    #[default]
    Privileged,
    /// What no known way out of a container needs.
    Baseline,
    /// What they need.
    Restricted,
}

const LEVELS: &[(&str, Level)] = &[
    ("privileged", Level::Privileged),
    ("baseline", Level::Baseline),
    ("restricted", Level::Restricted),
];

impl Level {
    fn parse(text: &str) -> Option<Self> {
        LEVELS.iter().find(|(name, _)| *name == text).map(|(_, level)| *level)
    }

    fn as_str(self) -> &'static str {
        LEVELS.iter().find(|(_, level)| *level == self).map_or("", |(name, _)| name)
    }
}

/// A version of the standards: that of a minor release of Kubernetes, or the latest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Version(Option<u32>);

impl Version {
    fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Self(None));
        }
        let minor = text.strip_prefix("v1.")?;
        let canonical = minor == "0" || !minor.starts_with('0');
        let digits = !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit());
        minor.parse().ok().filter(|_| canonical && digits).map(|minor| Self(Some(minor)))
    }

    /// Whether it has what came with this minor release.
    pub(super) fn has(self, minor: u32) -> bool {
        self.0.is_none_or(|own| own >= minor)
    }
}

/// A level of one version of the standards, shown as `restricted:v1.25`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standard {
    pub level: Level,
    pub version: Version,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version.0 {
            None => write!(f, "{}:latest", self.level.as_str()),
            Some(minor) => write!(f, "{}:v1.{minor}", self.level.as_str()),
        }
    }
}

/// What a namespace asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Policy {
    /// What is refused.
    pub enforce: Standard,
    /// What is noted in the audit log.
    pub audit: Standard,
    /// What the client is warned of.
    pub warn: Standard,
}

impl Policy {
    /// What labels ask for, and what is wrong with them. An unknown level is as strict as can be
    /// where it is enforced, and no level elsewhere; an unknown version is the latest.
    /// What they do not say is as `defaults` have it.
    pub(super) fn of(
        labels: Option<&BTreeMap<String, String>>,
        defaults: &Self,
    ) -> (Self, ErrorList) {
        let mut errors = ErrorList::new();
        // Most namespaces have none of these labels, and each Pod asks.
        let says_something = |key: &String| key.starts_with(LABEL_PREFIX);
        if !labels.is_some_and(|labels| labels.keys().any(says_something)) {
            return (*defaults, errors);
        }
        let mut read = |mode: &str, mut standard: Standard, fallback: Level| {
            let label = |suffix: &str| {
                let key = format!("{LABEL_PREFIX}{mode}{suffix}");
                let value = labels?.get(&key)?.as_str();
                Some((key, value))
            };
            if let Some((key, value)) = label("") {
                standard.level = Level::parse(value).unwrap_or_else(|| {
                    let names: Vec<_> = LEVELS.iter().map(|(name, _)| *name).collect();
                    let wrong = format!("must be one of {}", names.join(", "));
                    errors.push(FieldError::invalid(
                        &Path::new("metadata.labels").key(&key),
                        value,
                        wrong,
                    ));
                    fallback
                });
            }
            if let Some((key, value)) = label("-version") {
                standard.version = Version::parse(value).unwrap_or_else(|| {
                    let wrong = "must be \"latest\" or \"v1.x\"";
                    errors.push(FieldError::invalid(
                        &Path::new("metadata.labels").key(&key),
                        value,
                        wrong,
                    ));
                    Version::default()
                });
            }
            standard
        };
        let policy = Self {
            enforce: read("enforce", defaults.enforce, Level::Restricted),
            audit: read("audit", defaults.audit, Level::Privileged),
            warn: read("warn", defaults.warn, Level::Privileged),
        };
        (policy, errors)
    }

    /// Whether it asks for nothing.
    pub(super) fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|it| it.level == Level::Privileged)
    }
}

/// What namespaces ask for whose labels do not say it (`defaults` of PodSecurityConfiguration): a
/// level, `privileged`, `baseline` or `restricted`, and a version, `latest` or `v1.x`. An empty level
/// is `privileged`, an empty version the latest.
#[derive(Clone, Debug, Default)]
pub struct PodSecurityDefaults {
    /// The level that is enforced.
    pub enforce: String,
    /// Its version.
    pub enforce_version: String,
    /// The level whose violations are noted in the audit log.
    pub audit: String,
    /// Its version.
    pub audit_version: String,
    /// The level whose violations clients are warned of.
    pub warn: String,
    /// Its version.
    pub warn_version: String,
}

impl PodSecurityDefaults {
    /// # Errors
    /// Which of them is no level or no version.
    pub(super) fn policy(&self) -> Result<Policy, String> {
        let standard = |mode: &str, level: &str, version: &str| {
            let level = match level {
                "" => Some(Level::default()),
                level => Level::parse(level),
            };
            let version = match version {
                "" => Some(Version::default()),
                version => Version::parse(version),
            };
            match (level, version) {
                (Some(level), Some(version)) => Ok(Standard { level, version }),
                (None, _) => Err(format!("defaults.{mode}: it is no level")),
                (_, None) => Err(format!("defaults.{mode}-version: it is no version")),
            }
        };
        Ok(Policy {
            enforce: standard("enforce", &self.enforce, &self.enforce_version)?,
            audit: standard("audit", &self.audit, &self.audit_version)?,
            warn: standard("warn", &self.warn, &self.warn_version)?,
        })
    }
}

/// Who is never judged (`exemptions` of PodSecurityConfiguration).
#[derive(Clone, Debug, Default)]
pub struct PodSecurityExemptions {
    /// The users who may create any Pod.
    pub usernames: Vec<String>,
    /// The namespaces that may hold any Pod.
    pub namespaces: Vec<String>,
    /// The runtime classes of Pods that may do anything.
    pub runtime_classes: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter()
            .map(|(key, value)| (format!("{LABEL_PREFIX}{key}"), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn labels_name_levels_and_versions() {
        let all = labels(&[
            ("enforce", "baseline"),
            ("enforce-version", "v1.25"),
            ("warn", "restricted"),
        ]);
        let (policy, errors) = Policy::of(Some(&all), &Policy::default());
        assert!(errors.is_empty());
        assert_eq!(policy.enforce.to_string(), "baseline:v1.25");
        assert_eq!(policy.warn.to_string(), "restricted:latest");
        assert_eq!(policy.audit, Standard::default());
        assert!(Policy::of(None, &Policy::default()).0.is_privileged());
    }

    #[test]
    fn what_labels_do_not_say_is_as_the_defaults_have_it() {
        let own = |enforce: &str, version: &str| PodSecurityDefaults {
            enforce: enforce.to_owned(),
            enforce_version: version.to_owned(),
            ..PodSecurityDefaults::default()
        };
        let defaults = own("baseline", "v1.25").policy().unwrap();
        assert_eq!(Policy::of(None, &defaults).0.enforce.to_string(), "baseline:v1.25");
        let stricter = labels(&[("enforce", "restricted")]);
        let (policy, _) = Policy::of(Some(&stricter), &defaults);
        assert_eq!(policy.enforce.to_string(), "restricted:v1.25");
        assert_eq!(own("lax", "").policy().unwrap_err(), "defaults.enforce: it is no level");
        assert!(own("", "1.25").policy().is_err());
    }

    #[test]
    fn what_cannot_be_read_is_as_strict_as_can_be() {
        let odd = labels(&[("enforce", "lax"), ("warn", "lax"), ("audit-version", "v1.x")]);
        let (policy, errors) = Policy::of(Some(&odd), &Policy::default());
        assert_eq!(policy.enforce.level, Level::Restricted);
        assert_eq!(policy.warn.level, Level::Privileged);
        assert_eq!(errors.len(), 3);
        for wrong in ["1.25", "v1", "v1.", "v1.025", "v2.1", ""] {
            assert_eq!(Version::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_version_has_what_came_before_it() {
        let v1_25 = Version::parse("v1.25").unwrap();
        assert!(v1_25.has(25) && v1_25.has(0) && !v1_25.has(26));
        assert!(Version::default().has(99));
    }
}
