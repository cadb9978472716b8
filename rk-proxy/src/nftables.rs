//! Services by nftables: one table per IP family, changed by transactions of `nft -f -`.
//!
//! The table is laid out as kube-proxy's is, chain for chain:
//!
//! ```text
//! nat-prerouting, nat-output -> services -> @service-ips, @service-nodeports
//!   -> external-…   traffic from outside: masquerade or not, by traffic policy
//!   -> service-…    affinity, else numgen random: goto endpoint-…       (local-… for Local)
//!   -> endpoint-…   hairpin mark, affinity, dnat
//! filter-…          -> @no-endpoint-services, @no-endpoint-nodeports: refuse or drop
//!                   -> @firewall-ips: loadBalancerSourceRanges
//!                   -> @cluster-ips: refuse ports that a Service does not have
//! nat-postrouting   -> masquerading: what carries the mark
//! ```
//!
//! A change to one service sends that service's chains and map elements and nothing else. The
//! table also carries a fingerprint of the rules it was made from. A new process whose rules have
//! the same fingerprint leaves the table as it is; otherwise the table is made anew in one
//! transaction. Neither disturbs an established connection: the kernel's connection tracking has
//! them. What a table made anew forgets is which client had affinity to which endpoint.
//!
//! # Needs
//! Root over the network namespace, the `nft` command (1.0 or later), and a kernel with nftables
//! NAT (5.13 or later to the letter of kube-proxy). Before 6.2 a kernel may refuse to delete a
//! chain together with the last map element that names it: the table is then made anew instead.
//! If the kernel lacks an expression, [`ProxyError::Unsupported`] names it.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    Applied, Changes, Cidr, Family, How, ProxyError, Rules, ServicePort, ServiceProxy,
    nftables::{claims::Claims, command::Nft, compile::Fingerprint, transaction::Transaction},
};

mod base;
mod claims;
mod command;
mod compile;
mod features;
#[cfg(test)]
mod tests;
mod transaction;

/// What to set before [`NftablesProxy::new`].
#[derive(Clone, Debug)]
pub struct NftablesConfig {
    /// The network namespace to work in; the process's own without.
    pub netns: Option<PathBuf>,
    /// The `nft` command.
    pub nft: PathBuf,
    /// Name of the table, the same in each family. Default `rk-proxy`.
    pub table: String,
    /// Families to serve; entries of others are ignored. Default IPv4 only.
    pub families: Vec<Family>,
    /// The bit of the packet mark that asks for masquerading. Default `0x4000`, as in Kubernetes.
    pub masquerade_mark: u32,
    /// Masquerade all traffic to cluster IPs. Default no.
    pub masquerade_all: bool,
    /// How to tell pods' traffic from that of others.
    pub pod_traffic: PodTraffic,
    /// How long one run of `nft` may take. Default 30 s.
    pub timeout: Duration,
}

impl Default for NftablesConfig {
    fn default() -> Self {
        Self {
            netns: None,
            nft: "nft".into(),
            table: "rk-proxy".to_owned(),
            families: vec![Family::V4],
            masquerade_mark: 0x4000,
            masquerade_all: false,
            pod_traffic: PodTraffic::Unknown,
            timeout: Duration::from_secs(30),
        }
    }
}

/// How to tell traffic of pods of this node from other traffic. With that knowledge, others can
/// use cluster IPs through this node (they are masqueraded), and pods can use external addresses
/// under the policy `Local` without it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PodTraffic {
    /// It cannot be told.
    #[default]
    Unknown,
    /// By source address.
    From(Vec<Cidr>),
    /// By the name of the interface or bridge it comes from.
    Interface(String),
    /// By the beginning of the name of the interface it comes from.
    InterfacePrefix(String),
}

impl PodTraffic {
    /// A match for traffic from pods, or for all other traffic.
    fn matching(&self, family: Family, from_pods: bool) -> Option<String> {
        let not = if from_pods { "" } else { "!= " };
        match self {
            Self::Unknown => None,
            Self::From(ranges) => {
                let any = ranges.iter().any(|range| range.family() == family);
                any.then(|| format!("{} saddr {not}@pod-ips", base::ip(family)))
            }
            Self::Interface(name) => Some(format!("iifname {not}\"{name}\"")),
            Self::InterfacePrefix(prefix) => Some(format!("iifname {not}\"{prefix}*\"")),
        }
    }
}

/// `{ a, b }`, as nft writes an anonymous set.
fn braces<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
    format!("{{ {} }}", items.join(", "))
}

/// The nftables backend. One value per network namespace and table.
#[derive(Debug)]
pub struct NftablesProxy {
    config: NftablesConfig,
    nft: Nft,
    /// What this process left in the kernel. None: unknown. The lock is held for all of a change.
    in_force: tokio::sync::Mutex<Option<InForce>>,
}

#[derive(Debug)]
struct InForce {
    rules: Rules,
    claims: Claims,
    fingerprint: Fingerprint,
}

impl NftablesProxy {
    /// A backend that has not touched the kernel yet.
    pub fn new(config: NftablesConfig) -> Self {
        let nft = Nft::new(&config);
        Self { config, nft, in_force: tokio::sync::Mutex::default() }
    }

    /// The transaction that makes `rules` out of nothing, as text for `nft -f`.
    pub fn render(&self, rules: &Rules) -> String {
        self.full(rules).0
    }

    fn full(&self, rules: &Rules) -> (String, InForce) {
        let mut claims = Claims::default();
        let mut fingerprint = Fingerprint::of_config(&self.config, rules.node_port_addresses());
        let mut transaction = Transaction::default();
        for port in rules.iter().filter(|port| self.serves(port)) {
            let compiled = compile::compile(port, &self.config);
            fingerprint.add(&compiled);
            transaction.replace(None, Some(compiled));
            claims.change(None, Some(port));
        }
        transaction.elements(claims.all());

        let mut text = String::new();
        for family in &self.config.families {
            base::recreate(&mut text, *family, &self.config, rules.node_port_addresses());
        }
        transaction.write(&mut text, &self.config.table);
        self.write_fingerprint(&mut text, fingerprint);
        (text, InForce { rules: rules.clone(), claims, fingerprint })
    }

    /// The transaction that makes `rules` out of what is in force.
    fn incremental(&self, was: InForce, rules: &Rules, changes: &Changes) -> (String, InForce) {
        let InForce { mut claims, mut fingerprint, .. } = was;
        let mut transaction = Transaction::default();
        let mut touched = BTreeMap::new();
        let served = |port: Option<&Arc<ServicePort>>| {
            port.filter(|port| self.serves(port)).map(|port| compile::compile(port, &self.config))
        };
        for (old, new) in changes.pairs() {
            let (was, is) = (served(old), served(new));
            was.iter().for_each(|compiled| fingerprint.subtract(compiled));
            is.iter().for_each(|compiled| fingerprint.add(compiled));
            for element in [&was, &is].into_iter().flatten().flat_map(|c| c.elements.keys()) {
                touched.entry(*element).or_insert_with(|| claims.value(element));
            }
            transaction.replace(was, is);
            claims
                .change(old.filter(|port| self.serves(port)), new.filter(|port| self.serves(port)));
        }
        for (element, was) in touched {
            let is = claims.value(&element);
            transaction.element(element, was, is);
        }

        let mut text = String::new();
        transaction.write(&mut text, &self.config.table);
        self.write_fingerprint(&mut text, fingerprint);
        (text, InForce { rules: rules.clone(), claims, fingerprint })
    }

    fn write_fingerprint(&self, text: &mut String, fingerprint: Fingerprint) {
        for family in &self.config.families {
            base::write_fingerprint(text, *family, &self.config.table, fingerprint);
        }
    }

    fn serves(&self, port: &ServicePort) -> bool {
        self.config.families.contains(&port.key.family)
    }

    /// Makes everything anew, unless `adopt` and the kernel has it already.
    async fn resync(&self, rules: &Rules, adopt: bool) -> Result<(How, InForce), ProxyError> {
        let tables = self.nft.tables().await?;
        let (mut text, in_force) = self.full(rules);
        if adopt && tables == self.config.families && self.is_in_kernel(&in_force).await {
            return Ok((How::Unchanged, in_force));
        }
        for family in tables.iter().filter(|family| !self.config.families.contains(family)) {
            base::delete(&mut text, *family, &self.config.table);
        }
        match self.nft.run(text).await {
            Ok(()) => Ok((How::Full, in_force)),
            Err(ProxyError::Rejected(reason)) => Err(self.explain(reason).await),
            Err(error) => Err(error),
        }
    }

    /// Whether the tables carry this fingerprint. What cannot be read is not as it should be.
    async fn is_in_kernel(&self, in_force: &InForce) -> bool {
        for family in &self.config.families {
            let found = self.nft.fingerprint(*family).await;
            if !found.is_ok_and(|found| found == Some(in_force.fingerprint)) {
                return false;
            }
        }
        true
    }

    /// Names what the kernel lacks, if that is why a table was refused.
    async fn explain(&self, reason: String) -> ProxyError {
        match features::missing(&self.nft).await {
            Ok(missing) if !missing.is_empty() => ProxyError::Unsupported(missing.join(", ")),
            _ => ProxyError::Rejected(reason),
        }
    }
}

#[async_trait]
impl ServiceProxy for NftablesProxy {
    async fn apply(&self, rules: &Rules) -> Result<Applied, ProxyError> {
        let mut guard = self.in_force.lock().await;
        // Empty until the end: after an error, or a dropped future, the kernel is asked again.
        let Some(was) = guard.take() else {
            let (how, in_force) = self.resync(rules, true).await?;
            *guard = Some(in_force);
            return Ok(Applied { how, changed: rules.len() });
        };

        let changes = Changes::between(&was.rules, rules);
        let changed = changes.len();
        if changes.is_empty() {
            let (how, in_force) = if self.is_in_kernel(&was).await {
                (How::Unchanged, was)
            } else {
                self.resync(rules, false).await?
            };
            *guard = Some(in_force);
            return Ok(Applied { how, changed });
        }

        let (how, in_force) = if changes.node_port_addresses {
            self.resync(rules, false).await?
        } else {
            let (text, in_force) = self.incremental(was, rules, &changes);
            match self.nft.run(text).await {
                Ok(()) => (How::Incremental, in_force),
                Err(ProxyError::Rejected(reason)) => {
                    tracing::warn!(reason, "the table is not as it was left; making it anew");
                    self.resync(rules, false).await?
                }
                Err(error) => return Err(error),
            }
        };
        *guard = Some(in_force);
        Ok(Applied { how, changed })
    }

    async fn teardown(&self) -> Result<(), ProxyError> {
        let mut guard = self.in_force.lock().await;
        *guard = None;
        let mut text = String::new();
        for family in self.nft.tables().await? {
            base::delete(&mut text, family, &self.config.table);
        }
        if text.is_empty() { Ok(()) } else { self.nft.run(text).await }
    }
}

/// Addresses of one family, in the notation of nft.
fn addresses_of(addresses: &[IpAddr], family: Family) -> Vec<IpAddr> {
    addresses.iter().copied().filter(|address| Family::of(*address) == family).collect()
}
