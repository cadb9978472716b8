//! Image names: `busybox` means `docker.io/library/busybox:latest`.

use std::fmt;

use super::{Digest, ImageError};

/// An image name taken apart and completed the way Docker does it.
///
/// ```
/// use rk_cri::images::ImageName;
///
/// let name: ImageName = "busybox".parse()?;
/// assert_eq!(name.to_string(), "docker.io/library/busybox:latest");
/// let name: ImageName = "registry.local:5000/team/app:v1".parse()?;
/// assert_eq!(name.repository(), "registry.local:5000/team/app");
/// # Ok::<(), rk_cri::images::ImageError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName {
    registry: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageName {
    /// Registry and path, without tag and digest: `docker.io/library/busybox`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.registry, self.path)
    }

    /// The registry: `docker.io`, `registry.local:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path within the registry: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag; `latest` when the name had neither tag nor digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest, when the name had one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same name without its tag, if it has a digest, which then says all there is to say.
    pub(super) fn exact(mut self) -> Self {
        if self.digest.is_some() {
            self.tag = None;
        }
        self
    }

    /// The name without its digest, when it has a tag.
    pub(super) fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.repository()))
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for ImageName {
    type Err = ImageError;

    fn from_str(name: &str) -> Result<Self, ImageError> {
        let invalid = |why: &str| ImageError::Name { name: name.to_owned(), why: why.to_owned() };
        if name.is_empty() || name.len() > 512 {
            return Err(invalid("a name has 1 to 512 characters"));
        }
        let (rest, digest) = match name.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (name, None),
        };
        // A colon after the last slash starts the tag; one before it belongs to the registry's port.
        let slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (rest, tag) = match rest[slash..].rfind(':') {
            Some(colon) => (&rest[..slash + colon], Some(&rest[slash + colon + 1..])),
            None => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid("a tag has 1 to 128 letters, digits, '_', '.' and '-'"));
        }
        let (registry, path) = match rest.split_once('/') {
            Some((first, path)) if is_registry(first) => (first, path.to_owned()),
            _ => ("docker.io", rest.to_owned()),
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        let path = match registry {
            "docker.io" if !path.contains('/') => format!("library/{path}"),
            _ => path,
        };
        if !path.split('/').all(is_path_component) {
            return Err(invalid(
                "each part of its path has lower case letters and digits, with '.', '_' and '-' between them",
            ));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Self { registry: registry.to_owned(), path, tag, digest })
    }
}

/// Whether the part before the first slash names a registry rather than a folder of Docker Hub.
fn is_registry(first: &str) -> bool {
    (first.contains('.') || first.contains(':') || first == "localhost")
        && first.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
        && first.chars().all(|c| c.is_ascii_alphanumeric() || ".:-[]".contains(c))
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && tag.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
        && !tag.starts_with(['.', '-'])
}

fn is_path_component(part: &str) -> bool {
    let alphanumeric =
        |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
        && alphanumeric(part.chars().next())
        && alphanumeric(part.chars().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, full: &str) {
        assert_eq!(name.parse::<ImageName>().expect(name).to_string(), full);
    }

    #[test]
    fn a_short_name_is_completed_as_docker_does() {
        let digest = format!("sha256:{}", "a".repeat(64));
        check("busybox", "docker.io/library/busybox:latest");
        check("busybox:1.36", "docker.io/library/busybox:1.36");
        check("team/app", "docker.io/team/app:latest");
        check("index.docker.io/busybox", "docker.io/library/busybox:latest");
        check("localhost/app", "localhost/app:latest");
        check("registry:5000/app", "registry:5000/app:latest");
        check("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1");
        check(&format!("busybox@{digest}"), &format!("docker.io/library/busybox@{digest}"));
        check(&format!("busybox:1@{digest}"), &format!("docker.io/library/busybox:1@{digest}"));
    }

    #[test]
    fn a_malformed_name_is_refused() {
        for name in ["", "UPPER", "a//b", "../etc", "a:", "a:.b", "a@sha256:12", "a b", "-a", "a/"]
        {
            assert!(name.parse::<ImageName>().is_err(), "{name:?}");
        }
    }
}
