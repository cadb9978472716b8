//! The part of the table that does not hang on services.

use std::{fmt::Write, net::IpAddr};

use super::{NftablesConfig, PodTraffic, addresses_of, compile::Fingerprint};
use crate::Family;

/// Chains that a hook calls: name, type, hook, priority. Source ranges are checked before DNAT
/// (-100), while the destination is what the client chose. What still has a service's address as
/// its destination after DNAT found no endpoint, and is refused or dropped there.
const HOOKED: &[(&str, &str, &str, i32)] = &[
    ("filter-prerouting-pre-dnat", "filter", "prerouting", -110),
    ("filter-output-pre-dnat", "filter", "output", -110),
    ("filter-input", "filter", "input", 0),
    ("filter-forward", "filter", "forward", 0),
    ("filter-output", "filter", "output", 0),
    ("nat-prerouting", "nat", "prerouting", -100),
    ("nat-output", "nat", "output", -100),
    ("nat-postrouting", "nat", "postrouting", 100),
];

const PLAIN: &[&str] = &[
    "endpoints-check",
    "firewall-check",
    "cluster-ips-check",
    "reject-chain",
    "services",
    "mark-for-masquerade",
    "masquerading",
    FINGERPRINT,
];

const FINGERPRINT: &str = "fingerprint";

/// `ip` or `ip6`: the table family and the protocol in expressions are the same word.
pub(super) fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// Deletes the table, be it there or not.
pub(super) fn delete(text: &mut String, family: Family, table: &str) {
    let ip = ip(family);
    let _ = write!(text, "add table {ip} {table}\ndelete table {ip} {table}\n");
}

/// An empty table in place of whatever was there.
pub(super) fn recreate(
    text: &mut String,
    family: Family,
    config: &NftablesConfig,
    node_port_addresses: &[IpAddr],
) {
    let (ip, table) = (ip(family), &config.table);
    delete(text, family, table);
    let _ = writeln!(text, "add table {ip} {table}");
    for (name, kind, hook, priority) in HOOKED {
        let _ = writeln!(
            text,
            "add chain {ip} {table} {name} {{ type {kind} hook {hook} priority {priority} ; }}"
        );
    }
    for name in PLAIN {
        let _ = writeln!(text, "add chain {ip} {table} {name}");
    }
    for (name, kind) in maps(family) {
        let _ = writeln!(
            text,
            "add {name} {{ {kind} ; }}",
            name = name.replace('@', &format!("{ip} {table} "))
        );
    }
    let nodes = addresses_of(node_port_addresses, family);
    if !nodes.is_empty() {
        let _ = writeln!(text, "add element {ip} {table} nodeport-ips {}", super::braces(&nodes));
    }
    if let PodTraffic::From(ranges) = &config.pod_traffic {
        let ranges: Vec<_> = ranges.iter().filter(|range| range.family() == family).collect();
        if !ranges.is_empty() {
            let ranges = super::braces(ranges);
            let _ = writeln!(text, "add element {ip} {table} pod-ips {ranges}");
        }
    }
    // Without configured addresses any local one will do, except loopback: a connection to it
    // cannot leave the node with that source.
    let to_node = match (node_port_addresses.is_empty(), family) {
        (false, _) => format!("{ip} daddr @nodeport-ips"),
        (true, Family::V4) => "fib daddr type local ip daddr != 127.0.0.0/8".to_owned(),
        (true, Family::V6) => "fib daddr type local ip6 daddr != ::1".to_owned(),
    };
    for (chain, rule) in rules(ip, &to_node, config.masquerade_mark) {
        let _ = writeln!(text, "add rule {ip} {table} {chain} {rule}");
    }
}

fn maps(family: Family) -> Vec<(&'static str, String)> {
    let address = match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    };
    let by_address = format!("type {address} . inet_proto . inet_service : verdict");
    let by_port = "type inet_proto . inet_service : verdict".to_owned();
    let set = format!("type {address}");
    vec![
        ("map @service-ips", by_address.clone()),
        ("map @service-nodeports", by_port.clone()),
        ("map @no-endpoint-services", by_address.clone()),
        ("map @no-endpoint-nodeports", by_port),
        ("map @firewall-ips", by_address),
        ("set @cluster-ips", set.clone()),
        ("set @nodeport-ips", set.clone()),
        ("set @pod-ips", format!("{set} ; flags interval ; auto-merge")),
    ]
}

fn rules(ip: &str, to_node: &str, mark: u32) -> Vec<(&'static str, String)> {
    let destination = format!("{ip} daddr . meta l4proto . th dport vmap");
    let node_port = format!("{to_node} meta l4proto . th dport vmap");
    let jump = |chain: &str| format!("jump {chain}");
    let jump_if_new = |chain: &str| format!("ct state new jump {chain}");
    vec![
        ("filter-prerouting-pre-dnat", jump_if_new("firewall-check")),
        ("filter-output-pre-dnat", jump_if_new("firewall-check")),
        ("filter-input", jump_if_new("endpoints-check")),
        ("filter-forward", jump_if_new("endpoints-check")),
        ("filter-forward", jump_if_new("cluster-ips-check")),
        ("filter-output", jump_if_new("endpoints-check")),
        ("filter-output", jump_if_new("cluster-ips-check")),
        ("nat-prerouting", jump("services")),
        ("nat-output", jump("services")),
        ("nat-postrouting", jump("masquerading")),
        ("endpoints-check", format!("{destination} @no-endpoint-services")),
        ("endpoints-check", format!("{node_port} @no-endpoint-nodeports")),
        ("firewall-check", format!("{destination} @firewall-ips")),
        ("cluster-ips-check", format!("{ip} daddr @cluster-ips reject")),
        ("reject-chain", "reject".to_owned()),
        ("services", format!("{destination} @service-ips")),
        ("services", format!("{node_port} @service-nodeports")),
        ("mark-for-masquerade", format!("meta mark set meta mark or {mark:#x}")),
        ("masquerading", format!("meta mark and {mark:#x} == 0 return")),
        ("masquerading", format!("meta mark set meta mark xor {mark:#x}")),
        ("masquerading", "masquerade fully-random".to_owned()),
    ]
}

/// The fingerprint is the comment of the one rule in a chain that nothing calls, so that it
/// changes in the same transaction as what it stands for.
pub(super) fn write_fingerprint(
    text: &mut String,
    family: Family,
    table: &str,
    fingerprint: Fingerprint,
) {
    let ip = ip(family);
    let _ = writeln!(text, "flush chain {ip} {table} {FINGERPRINT}");
    let _ = writeln!(text, "add rule {ip} {table} {FINGERPRINT} return comment \"{fingerprint}\"");
}

/// The fingerprint in the output of `nft list chain` for that chain.
pub(super) fn parse_fingerprint(listed: &str) -> Option<Fingerprint> {
    let (_, rest) = listed.split_once("comment \"")?;
    let (text, _) = rest.split_once('"')?;
    text.parse().ok()
}

/// The arguments of `nft` that print it.
pub(super) fn list_fingerprint(family: Family, table: &str) -> [&str; 5] {
    ["list", "chain", ip(family), table, FINGERPRINT]
}
