//! What the table needs from the kernel, one thing at a time, to say what is missing.

use super::command::Nft;
use crate::ProxyError;

/// A name, and commands on a table `probe` that use the one thing. They are checked, never made.
const FEATURES: &[(&str, &str)] = &[
    ("nftables", ""),
    ("NAT chains", "add chain ip probe nat { type nat hook prerouting priority -100 ; }"),
    (
        "masquerade",
        "add chain ip probe nat { type nat hook postrouting priority 100 ; }\nadd rule ip probe nat masquerade fully-random",
    ),
    (
        "dnat",
        "add chain ip probe nat { type nat hook prerouting priority -100 ; }\nadd rule ip probe nat meta l4proto tcp dnat to 192.0.2.1:80",
    ),
    (
        "verdict maps",
        "add map ip probe m { type ipv4_addr . inet_proto . inet_service : verdict ; }\nadd chain ip probe c\nadd rule ip probe c ip daddr . meta l4proto . th dport vmap @m",
    ),
    (
        "numgen",
        "add chain ip probe c\nadd rule ip probe c numgen random mod 2 vmap { 0 : accept , 1 : drop }",
    ),
    (
        "reject",
        "add chain ip probe f { type filter hook input priority 0 ; }\nadd rule ip probe f reject",
    ),
    ("ct state", "add chain ip probe c\nadd rule ip probe c ct state new"),
    ("meta mark", "add chain ip probe c\nadd rule ip probe c meta mark set meta mark or 0x4000"),
    (
        "fib",
        "add chain ip probe f { type filter hook prerouting priority 0 ; }\nadd rule ip probe f fib daddr type local",
    ),
    (
        "sets with timeouts",
        "add set ip probe s { type ipv4_addr ; flags dynamic, timeout ; timeout 1h ; }\nadd chain ip probe c\nadd rule ip probe c update @s { ip saddr }",
    ),
];

/// The names of what this kernel, or its `nft`, cannot do.
pub(super) async fn missing(nft: &Nft) -> Result<Vec<&'static str>, ProxyError> {
    let mut missing = Vec::new();
    for (name, commands) in FEATURES {
        match nft.check(format!("add table ip probe\n{commands}\n")).await {
            Ok(()) => {}
            Err(ProxyError::Rejected(_)) => missing.push(*name),
            Err(error) => return Err(error),
        }
    }
    Ok(missing)
}
