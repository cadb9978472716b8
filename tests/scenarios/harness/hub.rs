//! A registry that has the images of one archive, for containerd to pull from.

use std::{
    collections::HashMap,
    convert::Infallible,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use serde_json::Value;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Images by name, and their blobs by digest.
pub(super) struct Hub {
    /// The digest of each image's manifest, by whole name.
    images: HashMap<String, String>,
    blobs: HashMap<String, Bytes>,
}

impl Hub {
    /// Reads an OCI archive.
    pub(super) fn open(archive: &Path) -> io::Result<Self> {
        let mut files = HashMap::new();
        for entry in tar::Archive::new(std::fs::File::open(archive)?).entries()? {
            let mut entry = entry?;
            let name = entry.path()?.display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            files.insert(name, Bytes::from(content));
        }
        let index = files.get("index.json").ok_or(io::ErrorKind::NotFound)?;
        let index: Value = serde_json::from_slice(index)?;
        let manifests = index["manifests"].as_array().into_iter().flatten();
        let images = manifests.filter_map(|manifest| {
            let name = manifest["annotations"]["io.containerd.image.name"].as_str()?;
            Some((name.to_owned(), manifest["digest"].as_str()?.to_owned()))
        });
        let images = images.collect();
        let blob = |(name, content): (String, Bytes)| {
            Some((format!("sha256:{}", name.strip_prefix("blobs/sha256/")?), content))
        };
        Ok(Self { images, blobs: files.into_iter().filter_map(blob).collect() })
    }

    /// The whole names of its images.
    pub(super) fn names(&self) -> Vec<String> {
        self.images.keys().cloned().collect()
    }

    /// Answers on a port of this network namespace until the runtime ends, and returns the URL.
    pub(super) async fn serve(self, netns: PathBuf) -> io::Result<String> {
        let listener = rk::net::netns::listen(Some(netns), ([127, 0, 0, 1], 0).into()).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let hub = Arc::new(self);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let hub = hub.clone();
                tokio::spawn(async move {
                    let answer = hyper::service::service_fn(|request| {
                        let answer = hub.answer(&request);
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    // A client that goes away is none of ours.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), answer)
                        .await;
                });
            }
        });
        Ok(url)
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let Some((media, content)) = self.find(request.uri().path()) else {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        };
        let digest = rk::cri::images::Digest::of(&content).to_string();
        let length = content.len();
        let body = if request.method() == Method::HEAD { Bytes::new() } else { content };
        let response = Response::builder()
            .header(header::CONTENT_TYPE, media)
            .header(header::CONTENT_LENGTH, length)
            .header("docker-content-digest", digest);
        response.body(Full::new(body)).unwrap_or_default()
    }

    /// What is at a path: `/v2/`, `/v2/NAME/manifests/TAG-OR-DIGEST` or `/v2/NAME/blobs/DIGEST`.
    fn find(&self, path: &str) -> Option<(&'static str, Bytes)> {
        let path = path.strip_prefix("/v2/")?;
        if path.is_empty() {
            return Some(("application/json", Bytes::from_static(b"{}")));
        }
        if let Some((_, digest)) = path.split_once("/blobs/") {
            return Some(("application/octet-stream", self.blobs.get(digest)?.clone()));
        }
        let (name, reference) = path.split_once("/manifests/")?;
        let named = self.images.get(&format!("docker.io/{name}:{reference}"));
        let digest = named.map_or(reference, String::as_str);
        Some((MANIFEST, self.blobs.get(digest)?.clone()))
    }
}
