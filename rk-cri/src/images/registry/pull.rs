//! The steps of a pull: tag to digest, index to manifest, configuration, layers, and into the store.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use http::{HeaderMap, HeaderValue, Method, header};

use super::{
    PullError, Registries,
    blob::Blob,
    config::Capability,
    endpoint::{Ask, Endpoint, read},
};
use crate::{
    images::{
        Digest, ImageError, ImageName, ImageStore,
        blobs::Lease,
        manifest::{DOCUMENT_BYTES_MAX, Descriptor, Document, INDEX_DEPTH_MAX, Manifest},
        source::FoundImage,
        store::LAYERS_MAX,
    },
    runtime::{Image, RegistryAuth},
};

/// Documents that are understood, and those of schema 1, so that the registry does not convert.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";
/// The largest layer as it comes.
const BLOB_BYTES_MAX: u64 = 64 << 30;
/// How often layers are fetched that were removed while others came.
const ROUNDS_MAX: u32 = 3;

/// A pull under way.
pub(super) struct Pull<'a> {
    pub(super) registries: &'a Registries,
    pub(super) store: &'a Arc<ImageStore>,
    pub(super) name: &'a ImageName,
    pub(super) auth: Option<&'a RegistryAuth>,
    pub(super) endpoints: &'a [Arc<Endpoint>],
}

impl Pull<'_> {
    pub(super) async fn run(&self) -> Result<Image, PullError> {
        let digest = self.resolve().await?;
        let name = self.name.clone().exact();
        let known = self.blocking({
            let (digest, name) = (digest.clone(), name.clone());
            move |store| store.name_known(&digest, &name)
        });
        if let Some(image) = known.await? {
            return Ok(image);
        }
        let manifest = self.manifest(&digest).await?;
        let config = self.config(&manifest).await?;
        // Before it is known which are missing: what another pull has fetched of them stays until
        // it is unpacked, so that each is either still a blob, or a layer already.
        let leases: BTreeMap<&Digest, Lease> = manifest
            .layers
            .iter()
            .map(|layer| (&layer.digest, self.store.lease(&layer.digest)))
            .collect();
        let mut round = 0;
        loop {
            round += 1;
            let missing = self.store.missing_layers(&config)?;
            if missing.iter().any(|at| *at >= manifest.layers.len()) {
                return Err(PullError::Image(ImageError::Malformed {
                    what: "image".to_owned(),
                    why: "its configuration names more layers than it has".to_owned(),
                }));
            }
            self.layers(&manifest, &missing, &leases).await?;
            let found = FoundImage::new(Vec::new(), digest.clone(), config.to_vec(), &manifest);
            let name = name.clone();
            match self.blocking(move |store| store.add(found, &name)).await {
                // Somebody has removed a layer that was there when the others were fetched.
                Err(PullError::Image(ImageError::Missing { .. })) if round < ROUNDS_MAX => {}
                other => return other,
            }
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ImageStore) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, PullError> {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        let died = |error| ImageError::io("the import died")(std::io::Error::other(error));
        Ok(done.map_err(died)??)
    }

    /// Which digest the name means.
    async fn resolve(&self) -> Result<Digest, PullError> {
        if let Some(digest) = self.name.digest() {
            return Ok(digest.clone());
        }
        let tag = self.name.tag().unwrap_or("latest");
        let resolved = self
            .first_of(Capability::Resolve, |endpoint| {
                async move {
                    let answer = endpoint.send(&self.ask(Method::HEAD, tag)).await?;
                    let said = answer.headers().get("docker-content-digest");
                    match said.and_then(|value| value.to_str().ok()?.parse::<Digest>().ok()) {
                        Some(digest) => Ok(digest),
                        // It need not say: then its answer does.
                        None => {
                            let (_, bytes) = self.document(endpoint, tag).await?;
                            Ok(Digest::of(&bytes))
                        }
                    }
                }
                .boxed()
            })
            .await;
        resolved.map_err(|error| match error {
            PullError::NotFound { .. } => PullError::NotFound { what: self.name.to_string() },
            error => error,
        })
    }

    /// The manifest for this machine, through any index.
    async fn manifest(&self, digest: &Digest) -> Result<Manifest, PullError> {
        let mut digest = digest.clone();
        for _ in 0..=INDEX_DEPTH_MAX {
            let wanted = &digest;
            let (media_type, bytes) = self
                .first_of(Capability::Pull, |endpoint| {
                    async move {
                        let (media, bytes) = self.document(endpoint, &wanted.to_string()).await?;
                        matches(&format!("manifest {wanted}"), wanted, &bytes)?;
                        Ok((media, bytes))
                    }
                    .boxed()
                })
                .await?;
            match Document::parse(&media_type, &bytes)? {
                Document::Image(manifest) => return checked(manifest),
                Document::Index(index) => digest = index.fitting()?.digest.clone(),
            }
        }
        Err(PullError::Image(ImageError::TooLarge {
            what: "the nesting of the image's indexes".to_owned(),
            limit: INDEX_DEPTH_MAX.to_string(),
        }))
    }

    /// The bytes of a document, and what it came as.
    async fn document(
        &self,
        endpoint: &Endpoint,
        reference: &str,
    ) -> Result<(String, Bytes), PullError> {
        let answer = endpoint.send(&self.ask(Method::GET, reference)).await?;
        let media_type = answer.headers().get(header::CONTENT_TYPE);
        let media_type = media_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = media_type.to_owned();
        let what = format!("manifest {reference}");
        let limit = DOCUMENT_BYTES_MAX as usize;
        let bytes = read(&what, answer.into_body(), limit, self.registries.idle_timeout).await?;
        Ok((media_type, bytes))
    }

    fn ask(&self, method: Method, reference: &str) -> Ask<'_> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(ACCEPTED));
        let rest = format!("manifests/{reference}");
        Ask { method, repository: self.name.path(), rest, headers, auth: self.auth }
    }

    async fn config(&self, manifest: &Manifest) -> Result<Bytes, PullError> {
        let descriptor = &manifest.config;
        let what = &format!("configuration {}", descriptor.digest);
        self.first_of(Capability::Pull, |endpoint| {
            async move {
                let ask = Ask {
                    method: Method::GET,
                    repository: self.name.path(),
                    rest: format!("blobs/{}", descriptor.digest),
                    headers: HeaderMap::new(),
                    auth: self.auth,
                };
                let body = endpoint.send(&ask).await?.into_body();
                let limit = descriptor.size as usize;
                let bytes = read(what, body, limit, self.registries.idle_timeout).await?;
                matches(what, &descriptor.digest, &bytes)?;
                Ok(bytes)
            }
            .boxed()
        })
        .await
    }

    /// Fetches layers, some at a time. The first that fails ends the others.
    async fn layers(
        &self,
        manifest: &Manifest,
        missing: &[usize],
        leases: &BTreeMap<&Digest, Lease>,
    ) -> Result<(), PullError> {
        // A layer may come twice in an image, with something else below it.
        let wanted: BTreeMap<&Digest, &Descriptor> = missing
            .iter()
            .map(|at| &manifest.layers[*at])
            .map(|layer| (&layer.digest, layer))
            .collect();
        let fetches: Vec<BoxFuture<'_, Result<(), PullError>>> = wanted
            .into_iter()
            .filter_map(|(digest, layer)| Some(self.layer(layer, leases.get(digest)?).boxed()))
            .collect();
        stream::iter(fetches).buffer_unordered(self.registries.layers_at_once).try_collect().await
    }

    async fn layer(&self, descriptor: &Descriptor, lease: &Lease) -> Result<(), PullError> {
        let blob = Blob {
            repository: self.name.path(),
            descriptor,
            auth: self.auth,
            idle: self.registries.idle_timeout,
        };
        self.first_of(Capability::Pull, |endpoint| blob.fetch(endpoint, lease).boxed()).await
    }

    /// Asks one host after the other, until one knows. What the registry itself says is the answer
    /// when none does.
    async fn first_of<'f, T>(
        &'f self,
        what: Capability,
        ask: impl Fn(&'f Endpoint) -> BoxFuture<'f, Result<T, PullError>>,
    ) -> Result<T, PullError> {
        let mut last = None;
        for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.can(what)) {
            match ask(endpoint).await {
                Ok(answer) => return Ok(answer),
                // A full disk is nobody else's.
                Err(error @ PullError::Image(ImageError::Io { .. })) => return Err(error),
                Err(error) => {
                    tracing::debug!(image = %self.name, %error, "a host does not have it");
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| PullError::Configuration {
            what: self.name.registry().to_owned(),
            why: format!("no host may be asked to {what:?}").to_lowercase(),
        }))
    }
}

/// What is known to be wrong before anything is fetched.
fn checked(manifest: Manifest) -> Result<Manifest, PullError> {
    let too_large =
        |what: &str, limit: String| ImageError::TooLarge { what: what.to_owned(), limit };
    if manifest.layers.len() > LAYERS_MAX {
        let what = "the image's number of layers";
        return Err(PullError::Image(too_large(what, LAYERS_MAX.to_string())));
    }
    if manifest.config.size > DOCUMENT_BYTES_MAX {
        let what = "the image's configuration";
        return Err(PullError::Image(too_large(what, "4 MiB".to_owned())));
    }
    if manifest.layers.iter().any(|layer| layer.size > BLOB_BYTES_MAX) {
        return Err(PullError::Image(too_large("a layer of the image", "64 GiB".to_owned())));
    }
    Ok(manifest)
}

fn matches(what: &str, expected: &Digest, bytes: &[u8]) -> Result<(), PullError> {
    let found = Digest::of(bytes);
    if found == *expected {
        return Ok(());
    }
    Err(PullError::Image(ImageError::DigestMismatch {
        what: what.to_owned(),
        expected: expected.clone(),
        found,
    }))
}
