//! A container's environment and command line.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVarSource, ObjectFieldSelector, Pod, Secret, Service,
};

use super::resources;

/// The ConfigMaps and Secrets of a namespace, as far as they were found.
#[derive(Debug, Default)]
pub(crate) struct Referenced {
    pub(crate) config_maps: BTreeMap<String, std::sync::Arc<ConfigMap>>,
    pub(crate) secrets: BTreeMap<String, std::sync::Arc<Secret>>,
}

/// What downward references can ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) node_name: &'a str,
    pub(crate) host_ips: &'a [IpAddr],
    pub(crate) pod_ips: &'a [IpAddr],
    /// What a container without a limit may use of the node: CPU in millicores and memory in bytes.
    pub(crate) allocatable: (i64, i64),
}

/// Names of the ConfigMaps and Secrets that a container's environment refers to.
pub(crate) fn references(container: &Container) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let (mut config_maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for from in container.env_from.iter().flatten() {
        config_maps.extend(from.config_map_ref.as_ref().map(|r| r.name.as_str()));
        secrets.extend(from.secret_ref.as_ref().map(|r| r.name.as_str()));
    }
    for source in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
        config_maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.as_str()));
        secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.as_str()));
    }
    (config_maps, secrets)
}

/// The environment of a container; an error is the message of `CreateContainerConfigError`.
///
/// Later sources replace earlier ones of the same name: services, then `envFrom` in order, then
/// `env` in order, whose values may refer to all before them.
pub(crate) fn environment(
    container: &Container,
    facts: &Facts<'_>,
    referenced: &Referenced,
    services: &[(String, String)],
) -> Result<Vec<(String, String)>, String> {
    let namespace = facts.pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut env = Environment::default();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            match referenced.config_maps.get(&reference.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        env.set(format!("{prefix}{key}"), value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", reference.name)),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match referenced.secrets.get(&reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        let value = String::from_utf8_lossy(&value.0).into_owned();
                        env.set(format!("{prefix}{key}"), value);
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", reference.name)),
            }
        }
    }
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(value), _) if !value.is_empty() => {
                Some(expand(value, |name| env.get(name).or_else(|| find(services, name))))
            }
            (_, Some(source)) => value_from(source, container, facts, referenced, namespace)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            env.set(var.name.clone(), value);
        }
    }
    let declared = &env.index;
    let unset = services.iter().filter(|(name, _)| !declared.contains_key(name));
    Ok(unset.cloned().chain(env.list.iter().cloned()).collect())
}

fn find<'a>(list: &'a [(String, String)], name: &str) -> Option<&'a str> {
    list.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Variables in the order in which they were first set.
#[derive(Default)]
struct Environment {
    list: Vec<(String, String)>,
    index: BTreeMap<String, usize>,
}

impl Environment {
    fn set(&mut self, name: String, value: String) {
        match self.index.get(&name) {
            Some(&at) => self.list[at].1 = value,
            None => {
                self.index.insert(name.clone(), self.list.len());
                self.list.push((name, value));
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.index.get(name).map(|&at| self.list[at].1.as_str())
    }
}

/// The value of a reference; `None` if it is optional and leads nowhere.
fn value_from(
    source: &EnvVarSource,
    container: &Container,
    facts: &Facts<'_>,
    referenced: &Referenced,
    namespace: &str,
) -> Result<Option<String>, String> {
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(map) = referenced.config_maps.get(&reference.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(format!("configmap {:?} not found", reference.name))
            };
        };
        let found = map.data.as_ref().and_then(|data| data.get(&reference.key));
        return match found {
            None if !optional => Err(format!(
                "couldn't find key {} in ConfigMap {namespace}/{}",
                reference.key, reference.name
            )),
            found => Ok(found.cloned()),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(secret) = referenced.secrets.get(&reference.name) else {
            return if optional {
                Ok(None)
            } else {
                Err(format!("secret {:?} not found", reference.name))
            };
        };
        let found = secret.data.as_ref().and_then(|data| data.get(&reference.key));
        return match found {
            None if !optional => Err(format!(
                "couldn't find key {} in Secret {namespace}/{}",
                reference.key, reference.name
            )),
            found => Ok(found.map(|value| String::from_utf8_lossy(&value.0).into_owned())),
        };
    }
    if let Some(reference) = &source.field_ref {
        return field(reference, facts).map(Some);
    }
    if let Some(reference) = &source.resource_field_ref {
        return resources::field(reference, container, facts).map(Some);
    }
    Ok(Some(String::new()))
}

/// The value of a field of the pod (`fieldRef`), in an environment or a downward API file.
pub(crate) fn field(reference: &ObjectFieldSelector, facts: &Facts<'_>) -> Result<String, String> {
    let meta = &facts.pod.metadata;
    let spec = facts.pod.spec.as_ref();
    let join = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
    let first = |ips: &[IpAddr]| ips.first().map(IpAddr::to_string).unwrap_or_default();
    let path = reference.field_path.as_str();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|path| path.split_once("['")) {
        let map = match map {
            "metadata.annotations" => &meta.annotations,
            "metadata.labels" => &meta.labels,
            _ => return Err(format!("fieldPath {path:?} does not support subscript")),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => format_map(&meta.labels),
        "metadata.annotations" => format_map(&meta.annotations),
        "spec.nodeName" => facts.node_name.to_string(),
        "spec.serviceAccountName" => {
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.hostIP" => first(facts.host_ips),
        "status.hostIPs" => join(facts.host_ips),
        "status.podIP" => first(facts.pod_ips),
        "status.podIPs" => join(facts.pod_ips),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// Lines of `key="value"`, sorted, as downward API files show labels and annotations.
fn format_map(map: &Option<BTreeMap<String, String>>) -> String {
    let lines = map.iter().flatten().map(|(key, value)| format!("{key}={value:?}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Replaces `$(NAME)` by the variable's value; `$$` is a dollar sign. A reference to what is not
/// there stays as it is written.
pub(crate) fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|s| s.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// [`expand`] for each word of a command line, with a container's environment.
pub(crate) fn expand_all(words: Option<&[String]>, env: &[(String, String)]) -> Vec<String> {
    words.unwrap_or_default().iter().map(|word| expand(word, |name| find(env, name))).collect()
}

/// The variables that tell a container of the services of its namespace, and of the API server:
/// `REDIS_SERVICE_HOST` and the like, as Docker links had them.
pub(crate) fn service_variables<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    namespace: &str,
    links: bool,
) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for service in services {
        let meta = &service.metadata;
        let (Some(name), Some(own), Some(spec)) = (&meta.name, &meta.namespace, &service.spec)
        else {
            continue;
        };
        let master = own == "default" && name == "kubernetes";
        if !(master || links && own == namespace) {
            continue;
        }
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !matches!(*ip, "" | "None")) else {
            continue;
        };
        let (Some(ports), prefix) = (&spec.ports, name.to_uppercase().replace('-', "_")) else {
            continue;
        };
        let Some(first) = ports.first() else { continue };
        out.push((format!("{prefix}_SERVICE_HOST"), ip.to_string()));
        out.push((format!("{prefix}_SERVICE_PORT"), first.port.to_string()));
        for port in ports {
            if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                let name = name.to_uppercase().replace('-', "_");
                out.push((format!("{prefix}_SERVICE_PORT_{name}"), port.port.to_string()));
            }
        }
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() };
        for (number, port) in ports.iter().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let lower = protocol.to_lowercase();
            let url = format!("{lower}://{host}:{}", port.port);
            if number == 0 {
                out.push((format!("{prefix}_PORT"), url.clone()));
            }
            let prefix = format!("{prefix}_PORT_{}_{protocol}", port.port);
            out.push((prefix.clone(), url));
            out.push((format!("{prefix}_PROTO"), lower));
            out.push((format!("{prefix}_PORT"), port.port.to_string()));
            out.push((format!("{prefix}_ADDR"), ip.to_string()));
        }
    }
    out
}

#[cfg(test)]
#[path = "env_tests.rs"]
mod tests;
