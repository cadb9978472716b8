//! How a registry is reached: containerd's `hosts.toml`, as a type.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;

/// What may be asked of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// Documents and blobs by digest.
    Pull,
    /// Which digest a tag means. Only of a host that is trusted to know.
    Resolve,
    /// Uploads. Accepted, as files made for containerd have it; nothing is ever uploaded.
    Push,
}

/// A list that may be written as its only member.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// The only one.
    One(T),
    /// All of them.
    Many(Vec<T>),
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<T> OneOrMany<T> {
    /// The members.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [T] {
        match self {
            Self::One(one) => std::slice::from_mut(one),
            Self::Many(many) => many,
        }
    }
}

/// A certificate to show, in PEM: one file with its key, or two.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum ClientCertificate {
    /// Certificate and key.
    Together(PathBuf),
    /// Certificate, key.
    Apart([PathBuf; 2]),
}

/// One host that has a registry's images: the registry itself, or a mirror.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostConfig {
    /// Its address, as `https://host:port/path`; without a scheme it is HTTPS.
    #[serde(skip)]
    pub url: String,
    /// What it may be asked; `None` is everything.
    pub capabilities: Option<Vec<Capability>>,
    /// Files with the CAs that may vouch for it, in PEM. Empty is the machine's.
    pub ca: OneOrMany<PathBuf>,
    /// Certificates that show who asks. The first one that can be used is.
    pub client: OneOrMany<ClientCertificate>,
    /// Believes any certificate: only for a try.
    pub skip_verify: bool,
    /// The path is the API's root, and `/v2` is not added to it.
    pub override_path: bool,
    /// Further headers for each request.
    pub header: BTreeMap<String, OneOrMany<String>>,
}

impl HostConfig {
    /// A host at this address, which may be asked everything.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }

    /// Adds a file with CAs that may vouch for it.
    #[must_use]
    pub fn ca(mut self, file: impl Into<PathBuf>) -> Self {
        let mut files = self.ca.as_slice().to_vec();
        files.push(file.into());
        self.ca = OneOrMany::Many(files);
        self
    }

    /// Whether it may be asked this.
    pub fn can(&self, what: Capability) -> bool {
        self.capabilities.as_ref().is_none_or(|all| all.contains(&what))
    }

    fn resolve_paths(&mut self, base: &Path) {
        for file in self.ca.as_mut_slice() {
            *file = base.join(&file);
        }
        for certificate in self.client.as_mut_slice() {
            match certificate {
                ClientCertificate::Together(file) => *file = base.join(&file),
                ClientCertificate::Apart(files) => {
                    for file in files {
                        *file = base.join(&file);
                    }
                }
            }
        }
    }
}

/// How a registry is reached.
///
/// Its text form is containerd's `hosts.toml`:
///
/// ```
/// use rk_cri::images::registry::RegistryConfig;
///
/// let config: RegistryConfig = r#"
///     server = "https://registry-1.docker.io"
///
///     [host."https://mirror.local:5000"]
///     capabilities = ["pull", "resolve"]
///     ca = "/etc/mirror/ca.pem"
/// "#.parse().unwrap();
/// assert_eq!(config.mirrors[0].url, "https://mirror.local:5000");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryConfig {
    /// The registry itself; `None` is what its name says.
    pub server: Option<HostConfig>,
    /// Hosts that are asked before it, in order.
    pub mirrors: Vec<HostConfig>,
}

impl RegistryConfig {
    /// The registry itself is here.
    pub fn server(server: HostConfig) -> Self {
        Self { server: Some(server), mirrors: Vec::new() }
    }

    /// Adds a host that is asked before the registry, after the mirrors so far.
    #[must_use]
    pub fn mirror(mut self, host: HostConfig) -> Self {
        self.mirrors.push(host);
        self
    }

    /// Names of files are relative to `base`.
    pub(super) fn resolve_paths(&mut self, base: &Path) {
        for host in self.mirrors.iter_mut().chain(&mut self.server) {
            host.resolve_paths(base);
        }
    }

    /// All hosts of the registry `name`, in the order in which they are asked.
    pub(super) fn hosts_of(&self, name: &str) -> Vec<HostConfig> {
        let mut hosts = self.mirrors.clone();
        let mut server = self.server.clone().unwrap_or_default();
        if server.url.is_empty() {
            server.url = default_url(name);
        }
        hosts.push(server);
        hosts
    }
}

/// Where a registry is that has no configuration.
fn default_url(name: &str) -> String {
    if name == "docker.io" {
        return "https://registry-1.docker.io".to_owned();
    }
    let (host, port) = match name.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (name, None),
    };
    let loopback = host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    // As containerd and Docker have it: nobody can listen in on the loopback interface.
    let scheme = if loopback && port != Some("443") { "http" } else { "https" };
    format!("{scheme}://{name}")
}

impl FromStr for RegistryConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut table: toml::Table = toml::from_str(text).map_err(|error| error.to_string())?;
        let host = |value: toml::Value| -> Result<HostConfig, String> {
            value.try_into().map_err(|error: toml::de::Error| error.to_string())
        };
        let mut mirrors = Vec::new();
        match table.remove("host") {
            None => {}
            Some(toml::Value::Table(hosts)) => {
                // In the order of the file.
                for (url, value) in hosts {
                    mirrors.push(HostConfig { url, ..host(value)? });
                }
            }
            Some(_) => return Err("host is not a table".to_owned()),
        }
        let url = match table.remove("server") {
            None => String::new(),
            Some(toml::Value::String(url)) => url,
            Some(_) => return Err("server is not a string".to_owned()),
        };
        // What is left is of the server itself.
        let server = HostConfig { url, ..host(toml::Value::Table(table))? };
        let server = (server != HostConfig::default()).then_some(server);
        Ok(Self { server, mirrors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_keep_the_order_of_the_file_and_come_before_the_server() {
        let config: RegistryConfig = r#"
            server = "https://registry.example"
            ca = "server.pem"

            [host."http://zeta:5000"]
            [host."https://alpha"]
            capabilities = ["pull"]
            ca = ["a.pem", "/b.pem"]
            client = [["cert.pem", "key.pem"]]
            [host."https://middle".header]
            x-token = "secret"
        "#
        .parse()
        .unwrap();
        let hosts = config.hosts_of("registry.example");
        let urls: Vec<&str> = hosts.iter().map(|host| host.url.as_str()).collect();
        let expected =
            ["http://zeta:5000", "https://alpha", "https://middle", "https://registry.example"];
        assert_eq!(urls, expected);
        assert!(hosts[0].can(Capability::Resolve) && !hosts[1].can(Capability::Resolve));
        assert_eq!(hosts[2].header["x-token"].as_slice(), ["secret"]);
        assert_eq!(hosts[3].ca.as_slice(), [PathBuf::from("server.pem")]);

        let mut config = config;
        config.resolve_paths(Path::new("/certs"));
        let files = [PathBuf::from("/certs/a.pem"), PathBuf::from("/b.pem")];
        assert_eq!(config.mirrors[1].ca.as_slice(), files);
    }

    #[test]
    fn what_is_misspelt_is_refused() {
        for text in
            ["server = 1", "skip-verify = true", "host = 1", "[host.a]\ncapabilities = [\"x\"]"]
        {
            assert!(text.parse::<RegistryConfig>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_registry_without_configuration_is_where_its_name_says() {
        let of = |name: &str| RegistryConfig::default().hosts_of(name).remove(0).url;
        assert_eq!(of("docker.io"), "https://registry-1.docker.io");
        assert_eq!(of("registry.example:5000"), "https://registry.example:5000");
        assert_eq!(of("localhost:5000"), "http://localhost:5000");
        assert_eq!(of("127.0.0.1:5000"), "http://127.0.0.1:5000");
        assert_eq!(of("[::1]:5000"), "http://[::1]:5000");
        assert_eq!(of("localhost:443"), "https://localhost:443");
    }
}
