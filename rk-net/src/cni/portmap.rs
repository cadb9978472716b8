//! Ports of the node that lead to pods (`hostPort`), as one nftables table.
//!
//! What is wanted is kept as one file for each container. Every change renders the whole table and
//! replaces it in one transaction, so that the kernel never has half a change and a restart can
//! only repeat what is right.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};

use super::{CniError, PortMapping};
use crate::{ipam::Cidr, netns};

/// The mappings of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mapped {
    pub(super) address: IpAddr,
    pub(super) ports: Vec<PortMapping>,
}

/// The table's name and what its rules need to know.
#[derive(Clone, Debug)]
pub(super) struct PortMaps {
    pub(super) directory: PathBuf,
    pub(super) netns: Option<PathBuf>,
    pub(super) table: String,
    pub(super) pods: Cidr,
    /// Gives pods the node's address when they talk to the world outside.
    pub(super) masquerade: bool,
}

impl PortMaps {
    /// Adds a container's mappings. Blocks.
    pub(super) fn add(&self, container_id: &str, mapped: &Mapped) -> Result<(), CniError> {
        let path = self.path(container_id);
        let write = || -> io::Result<()> {
            fs::create_dir_all(&self.directory)?;
            let temp = self.directory.join(".new");
            fs::write(&temp, serde_json::to_vec(mapped)?)?;
            fs::rename(&temp, &path)
        };
        write().map_err(|error| CniError::io("cannot write", &path, error))?;
        let applied = self.apply();
        if applied.is_err() {
            let _ = fs::remove_file(&path);
        }
        applied
    }

    /// Removes a container's mappings, if it has any. Blocks.
    pub(super) fn remove(&self, container_id: &str) -> Result<(), CniError> {
        let path = self.path(container_id);
        match fs::remove_file(&path) {
            Ok(()) => self.apply(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(CniError::io("cannot remove", &path, error)),
        }
    }

    /// Removes the mappings of all but `valid`. Blocks.
    pub(super) fn retain(&self, valid: &[String]) -> Result<(), CniError> {
        let mut changed = false;
        for id in self.all()?.into_keys() {
            if !valid.contains(&id) {
                let path = self.path(&id);
                fs::remove_file(&path)
                    .map_err(|error| CniError::io("cannot remove", &path, error))?;
                changed = true;
            }
        }
        if changed { self.apply() } else { Ok(()) }
    }

    /// [`Self::apply`] after a start, unless there is nothing to apply. Blocks.
    pub(super) fn restore(&self) -> Result<(), CniError> {
        match self.masquerade || !self.all()?.is_empty() {
            true => self.apply(),
            false => Ok(()),
        }
    }

    /// Makes the kernel's table what the files say. Blocks.
    pub(super) fn apply(&self) -> Result<(), CniError> {
        let all = self.all()?;
        if all.is_empty() && !self.masquerade {
            // Without nft there was never a table.
            return self.nft(format!("table ip {0}\ndelete table ip {0}\n", self.table)).or_else(
                |error| match error {
                    CniError::NotReady(_) => Ok(()),
                    other => Err(other),
                },
            );
        }
        let all: Vec<Mapped> = all.into_values().collect();
        self.nft(render(&self.table, &self.pods, self.masquerade, &all))
    }

    fn path(&self, container_id: &str) -> PathBuf {
        // An id may be anything to CNI; a file name may not.
        let safe: String = container_id
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
            .collect();
        self.directory.join(format!("{safe}.json"))
    }

    fn all(&self) -> Result<BTreeMap<String, Mapped>, CniError> {
        let fail = |error| CniError::io("cannot read", &self.directory, error);
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            entries => entries.map_err(fail)?,
        };
        let mut all = BTreeMap::new();
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(id) = name.strip_suffix(".json") else { continue };
            let bytes = fs::read(entry.path()).map_err(fail)?;
            let mapped = serde_json::from_slice(&bytes).map_err(|error| fail(error.into()))?;
            all.insert(id.to_owned(), mapped);
        }
        Ok(all)
    }

    fn nft(&self, rules: String) -> Result<(), CniError> {
        netns::run(self.netns.as_deref(), move || Ok(run_nft(&rules)))
            .unwrap_or_else(|error| Err(nft_failed(error)))
    }
}

fn run_nft(rules: &str) -> Result<(), CniError> {
    let spawned = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CniError::NotReady(
                "host ports need the program nft, which is not installed: install nftables"
                    .to_owned(),
            ));
        }
        Err(error) => return Err(nft_failed(error)),
    };
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(rules.as_bytes()).map_err(nft_failed)?;
    }
    let output = child.wait_with_output().map_err(nft_failed)?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(nft_failed(io::Error::other(message.lines().next().unwrap_or("it failed").to_owned())))
}

fn nft_failed(source: io::Error) -> CniError {
    CniError::Io { what: "cannot set rules with nft".to_owned(), source }
}

/// The whole table, replacing the one of that name.
fn render(table: &str, pods: &Cidr, masquerade: bool, all: &[Mapped]) -> String {
    let mut rules = String::new();
    for mapped in all {
        for port in &mapped.ports {
            let to = match port.host_ip {
                Some(ip) if !ip.is_unspecified() => format!("ip daddr {ip}"),
                _ => "fib daddr type local".to_owned(),
            };
            let protocol = match port.protocol.to_ascii_lowercase().as_str() {
                "udp" => "udp",
                "sctp" => "sctp",
                _ => "tcp",
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                rules,
                "    {to} {protocol} dport {} dnat to {}:{}",
                port.host_port, mapped.address, port.container_port
            );
        }
    }
    let outside = match masquerade {
        true => format!("    ip saddr {pods} ip daddr != {pods} masquerade\n"),
        false => String::new(),
    };
    format!(
        "table ip {table}
delete table ip {table}
table ip {table} {{
  chain ports {{
{rules}  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    jump ports
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    jump ports
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat ip saddr 127.0.0.0/8 masquerade
    ct status dnat ip saddr {pods} ip daddr {pods} masquerade
{outside}  }}
}}
"
    )
}

/// Lets packets from the loopback address be sent on to pods: a client on the node that connects
/// to `127.0.0.1:hostPort`. Only in a namespace of our own, where nothing from outside comes in.
pub(crate) fn route_localnet(netns: &Path, interface: &str) -> io::Result<()> {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/route_localnet");
    netns::run(Some(netns), move || fs::write(path, "1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_one_rule() {
        let mapping = |host_ip: Option<&str>, protocol: &str| PortMapping {
            host_port: 80,
            container_port: 8080,
            protocol: protocol.to_owned(),
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        };
        let mapped = Mapped {
            address: "10.244.0.5".parse().unwrap(),
            ports: vec![
                mapping(None, "tcp"),
                mapping(Some("10.244.0.1"), "UDP"),
                mapping(Some("0.0.0.0"), ""),
            ],
        };
        let text = render("rk", &"10.244.0.0/24".parse().unwrap(), false, &[mapped]);
        let rules: Vec<&str> =
            text.lines().map(str::trim).filter(|line| line.contains("dport")).collect();
        assert_eq!(
            rules,
            [
                "fib daddr type local tcp dport 80 dnat to 10.244.0.5:8080",
                "ip daddr 10.244.0.1 udp dport 80 dnat to 10.244.0.5:8080",
                "fib daddr type local tcp dport 80 dnat to 10.244.0.5:8080",
            ]
        );
    }
}
