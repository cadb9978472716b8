//! The documents of an image: index, manifest, and what they point to (OCI image specification 1.1;
//! Docker's manifest schema 2, which has the same form).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Digest, ImageError};

/// The largest index, manifest or configuration that is read.
pub(super) const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// How deep an index may refer to further indexes.
pub(super) const INDEX_DEPTH_MAX: u32 = 4;

/// What a document says of another: where it is, how long it is, and what.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is; empty when it does not say.
    #[serde(default)]
    pub media_type: String,
    /// The digest of its bytes.
    pub digest: Digest,
    /// The number of its bytes.
    pub size: u64,
    /// Names and other notes.
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
    /// The machine it is for, in an index.
    #[serde(default)]
    pub platform: Option<Platform>,
}

/// A machine that an image is for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// The processor, in Go's words: `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// The operating system, in Go's words: `linux`.
    #[serde(default)]
    pub os: String,
}

impl Platform {
    /// Whether this machine is one. What is left open fits.
    pub fn is_here(&self) -> bool {
        (self.os.is_empty() || self.os == "linux")
            && (self.architecture.is_empty() || self.architecture == architecture())
    }
}

/// An image for several platforms.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Index {
    /// One for each platform, the preferred first.
    pub manifests: Vec<Descriptor>,
}

impl Index {
    /// The first manifest for this machine.
    ///
    /// # Errors
    /// [`ImageError::Platform`] when there is none.
    pub fn fitting(&self) -> Result<&Descriptor, ImageError> {
        let here =
            |manifest: &&Descriptor| manifest.platform.as_ref().is_none_or(Platform::is_here);
        self.manifests.iter().find(here).ok_or_else(|| ImageError::Platform {
            wanted: format!("linux/{}", architecture()),
            found: self.platforms(),
        })
    }

    /// The platforms in it, for people.
    pub(super) fn platforms(&self) -> String {
        let all: Vec<String> = self
            .manifests
            .iter()
            .filter_map(|manifest| manifest.platform.as_ref())
            .map(|platform| format!("{}/{}", platform.os, platform.architecture))
            .collect();
        if all.is_empty() { "no image".to_owned() } else { all.join(", ") }
    }
}

/// An image for one platform.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Manifest {
    /// How to run it.
    pub config: Descriptor,
    /// Its layers, the bottom first.
    pub layers: Vec<Descriptor>,
}

/// What a registry answers for the name of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// A choice of images.
    Index(Index),
    /// One image.
    Image(Manifest),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    config: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a document that came as `media_type`; empty is unknown.
    ///
    /// # Errors
    /// [`ImageError::Malformed`] for what is none, or could be read as both (CVE-2021-41190);
    /// [`ImageError::Unsupported`] for Docker's schema 1, and for what is no container image;
    /// [`ImageError::TooLarge`] beyond 4 MiB.
    pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Self, ImageError> {
        if bytes.len() as u64 > DOCUMENT_BYTES_MAX {
            return Err(ImageError::TooLarge {
                what: "the image manifest".to_owned(),
                limit: "4 MiB".to_owned(),
            });
        }
        let outline: Outline =
            serde_json::from_slice(bytes).map_err(ImageError::malformed("image manifest"))?;
        let said = outline.media_type.as_deref().unwrap_or_default();
        let came_as = media_type.split(';').next().unwrap_or_default().trim();
        let is_schema_1 = |media: &str| media.contains("distribution.manifest.v1");
        if outline.schema_version == Some(1)
            || outline.fs_layers.is_some()
            || is_schema_1(said)
            || is_schema_1(came_as)
        {
            return Err(ImageError::Unsupported(
                "the image has a manifest of Docker's schema 1, which has no digests of its \
                 contents: push it again with a current tool"
                    .to_owned(),
            ));
        }
        let ambiguous = |why: &str| ImageError::Malformed {
            what: "image manifest".to_owned(),
            why: why.to_owned(),
        };
        let is_image = outline.config.is_some() || outline.layers.is_some();
        if outline.manifests.is_some() && is_image {
            return Err(ambiguous("it has both manifests and layers"));
        }
        let is_index = outline.manifests.is_some();
        for media in [said, came_as] {
            if is_index_type(media).is_some_and(|named| named != is_index) {
                return Err(ambiguous(&format!("it is not the {media} that it says it is")));
            }
        }
        if is_index {
            return serde_json::from_slice(bytes)
                .map(Self::Index)
                .map_err(ImageError::malformed("image index"));
        }
        let manifest: Manifest =
            serde_json::from_slice(bytes).map_err(ImageError::malformed("image manifest"))?;
        manifest.check()?;
        Ok(Self::Image(manifest))
    }
}

impl Manifest {
    /// Whether it is a container image, with layers that can be unpacked.
    fn check(&self) -> Result<(), ImageError> {
        let config = self.config.media_type.as_str();
        let known = ["", "application/octet-stream"].contains(&config)
            || config.ends_with("image.config.v1+json")
            || config.ends_with("container.image.v1+json");
        if !known {
            return Err(ImageError::Unsupported(format!(
                "it is no container image, its configuration is {config}"
            )));
        }
        for layer in &self.layers {
            let media = layer.media_type.as_str();
            let end = media.rsplit('.').next().unwrap_or_default();
            if !media.is_empty() && !["tar", "tar+gzip", "tar+zstd", "gzip", "zstd"].contains(&end)
            {
                return Err(ImageError::Unsupported(format!("a layer of type {media}")));
            }
        }
        Ok(())
    }
}

/// Whether a media type names an index; `None` when it names neither.
fn is_index_type(media: &str) -> Option<bool> {
    if media.ends_with("image.index.v1+json") || media.ends_with("manifest.list.v2+json") {
        Some(true)
    } else if media.ends_with("image.manifest.v1+json") || media.ends_with("manifest.v2+json") {
        Some(false)
    } else {
        None
    }
}

/// This machine's architecture in Go's words, which image platforms use.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn descriptor(media: &str) -> Value {
        json!({"mediaType": media, "digest": Digest::of(media.as_bytes()), "size": 7})
    }

    fn image(layer: &str) -> Value {
        json!({
            "schemaVersion": 2,
            "config": descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [descriptor(layer)],
        })
    }

    fn parse(media: &str, document: &Value) -> Result<Document, ImageError> {
        Document::parse(media, &serde_json::to_vec(document).unwrap())
    }

    #[test]
    fn dockers_and_ocis_documents_are_told_apart_without_their_type() {
        for layer in [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ] {
            assert!(matches!(parse("", &image(layer)), Ok(Document::Image(_))), "{layer}");
        }
        let index = json!({"schemaVersion": 2, "manifests": []});
        for media in [
            "",
            "application/vnd.oci.image.index.v1+json",
            "application/vnd.docker.distribution.manifest.list.v2+json; charset=utf-8",
        ] {
            assert!(matches!(parse(media, &index), Ok(Document::Index(_))), "{media}");
        }
    }

    #[test]
    fn what_could_be_read_as_both_is_refused() {
        let mut both = image("application/vnd.oci.image.layer.v1.tar");
        both["manifests"] = json!([]);
        assert!(matches!(parse("", &both), Err(ImageError::Malformed { .. })));
        let index = "application/vnd.oci.image.index.v1+json";
        let mut lying = image("application/vnd.oci.image.layer.v1.tar");
        assert!(matches!(parse(index, &lying), Err(ImageError::Malformed { .. })));
        lying["mediaType"] = json!(index);
        assert!(matches!(parse("", &lying), Err(ImageError::Malformed { .. })));
    }

    #[test]
    fn schema_1_artifacts_and_encrypted_layers_are_refused_by_name() {
        let schema_1 = json!({"schemaVersion": 1, "name": "a", "fsLayers": [], "history": []});
        let refused = |document: &Value| match parse("", document) {
            Err(ImageError::Unsupported(why)) => why,
            other => panic!("{other:?}"),
        };
        assert!(refused(&schema_1).contains("schema 1"));
        let mut chart = image("application/vnd.cncf.helm.chart.content.v1.tar+gzip");
        chart["config"] = descriptor("application/vnd.cncf.helm.config.v1+json");
        assert!(refused(&chart).contains("helm"));
        let encrypted = image("application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
        assert!(refused(&encrypted).contains("encrypted"));
    }

    #[test]
    fn the_first_manifest_for_this_machine_is_chosen() {
        let of = |os: &str, architecture: &str| {
            let mut descriptor = descriptor(&format!("{os}/{architecture}"));
            descriptor["platform"] = json!({"os": os, "architecture": architecture});
            descriptor
        };
        let others =
            [of("windows", architecture()), of("linux", "pdp11"), of("unknown", "unknown")];
        let mut manifests = others.to_vec();
        manifests.push(of("linux", architecture()));
        let choose = |manifests: &[Value]| match parse("", &json!({"manifests": manifests})) {
            Ok(Document::Index(index)) => index.fitting().cloned(),
            other => panic!("{other:?}"),
        };
        let chosen = choose(&manifests).unwrap();
        assert!(chosen.media_type.starts_with("linux/"), "{chosen:?}");
        let error = choose(&others).unwrap_err().to_string();
        assert!(error.contains("linux/pdp11"), "{error}");
    }
}
