//! What other servers must know to believe this one: the ConfigMap
//! `extension-apiserver-authentication` of kube-system, which servers made with Kubernetes' libraries
//! read when they start.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde_json::json;

use crate::{
    resources::Part,
    server::{Inner, authn::RequestHeaders, status::Result, writer::Writer},
};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";

/// The authorities that other servers need to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtensionAuthentication {
    /// The authority of clients, in PEM (`--client-ca-file`); empty for none.
    pub client_ca_pem: String,
    /// The authority of this server's certificate as a proxy, in PEM
    /// (`--requestheader-client-ca-file`); empty for none.
    pub request_header_ca_pem: String,
}

/// What the ConfigMap is to say.
pub(in crate::server) fn published(
    authorities: &ExtensionAuthentication,
    headers: Option<&RequestHeaders>,
) -> BTreeMap<String, String> {
    let mut data = BTreeMap::new();
    let mut add = |key: &str, value: String| {
        data.insert(key.to_owned(), value);
    };
    if !authorities.client_ca_pem.is_empty() {
        add("client-ca-file", authorities.client_ca_pem.clone());
    }
    if !authorities.request_header_ca_pem.is_empty() {
        let headers = headers.cloned().unwrap_or_default();
        add("requestheader-client-ca-file", authorities.request_header_ca_pem.clone());
        add("requestheader-allowed-names", json!(headers.allowed_names).to_string());
        add("requestheader-username-headers", json!(headers.user_headers).to_string());
        add("requestheader-group-headers", json!(headers.group_headers).to_string());
        add("requestheader-uid-headers", json!(headers.uid_headers).to_string());
        add("requestheader-extra-headers-prefix", json!(headers.extra_prefixes).to_string());
    }
    data
}

/// Brings the ConfigMap up to date.
pub(super) async fn publish(server: &Inner) -> Result<()> {
    let wanted = &server.published_authentication;
    if wanted.is_empty() {
        return Ok(());
    }
    let writer = Writer { server, manager: "kube-apiserver" };
    match server.reader.get::<ConfigMap>(Some(NAMESPACE), NAME).await? {
        None => {
            let map = ConfigMap {
                metadata: ObjectMeta {
                    name: Some(NAME.to_owned()),
                    namespace: Some(NAMESPACE.to_owned()),
                    ..ObjectMeta::default()
                },
                data: Some(wanted.clone()),
                ..ConfigMap::default()
            };
            writer.create(Some(NAMESPACE), &map).await
        }
        Some(found) => {
            let merged = merged(found.data.clone().unwrap_or_default(), wanted);
            if found.data.as_ref() == Some(&merged) {
                return Ok(());
            }
            let change = move |map: &mut ConfigMap| map.data = Some(merged.clone());
            writer.update(Some(NAMESPACE), NAME, Part::Main, change).await
        }
    }
}

/// What is there, and what is wanted: servers of one store may have different authorities, and each
/// must be believed.
fn merged(
    mut found: BTreeMap<String, String>,
    wanted: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    for (key, value) in wanted {
        let entry = found.entry(key.clone()).or_default();
        *entry = match key.ends_with("ca-file") {
            true => all_certificates(entry, value),
            false => all_words(entry, value),
        };
    }
    found
}

const END: &str = "-----END CERTIFICATE-----";

fn all_certificates(found: &str, wanted: &str) -> String {
    let mut all: Vec<&str> = Vec::new();
    for certificate in found.split_inclusive(END).chain(wanted.split_inclusive(END)) {
        let certificate = certificate.trim();
        if certificate.ends_with(END) && !all.contains(&certificate) {
            all.push(certificate);
        }
    }
    all.iter().map(|certificate| format!("{certificate}\n")).collect()
}

fn all_words(found: &str, wanted: &str) -> String {
    let words = |text: &str| serde_json::from_str::<Vec<String>>(text).unwrap_or_default();
    let mut all = words(found);
    for word in words(wanted) {
        if !all.contains(&word) {
            all.push(word);
        }
    }
    json!(all).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(text: &str) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{text}\n{END}\n")
    }

    #[test]
    fn each_server_adds_its_authorities_and_names() {
        let of = |ca: &str, name: &str| {
            let authorities = ExtensionAuthentication {
                client_ca_pem: certificate(ca),
                request_header_ca_pem: certificate(ca),
            };
            let headers =
                RequestHeaders { allowed_names: vec![name.to_owned()], ..Default::default() };
            published(&authorities, Some(&headers))
        };
        let (first, second) = (of("a", "x"), of("b", "y"));
        let both = merged(first.clone(), &second);
        assert_eq!(both["client-ca-file"], certificate("a") + &certificate("b"));
        assert_eq!(both["requestheader-allowed-names"], "[\"x\",\"y\"]");
        assert_eq!(both["requestheader-group-headers"], "[\"X-Remote-Group\"]");
        assert_eq!(merged(both.clone(), &first), both);
    }
}
