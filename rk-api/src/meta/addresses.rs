//! IP addresses and blocks of them, as fields have them that are older than today's rules (KEP-4858).
//!
//! Such a field has always taken what Go's parser once took. What software reads in two ways is
//! refused by now, unless it was there before; what is merely not written as RFC 5952 has it is
//! warned of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::field::Path;

/// What is wrong with an address; nothing or one thing.
pub fn ip(text: &str) -> Vec<String> {
    let wrong = match (text.parse::<IpAddr>(), parse_sloppy(text)) {
        (_, None) => "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        (Err(_), Some(_)) => LEADING_ZEROS,
        (Ok(ip), Some(_)) if is_mapped(ip) => MAPPED,
        (Ok(_), Some(_)) => return Vec::new(),
    };
    vec![wrong.to_owned()]
}

/// What is wrong with a block of addresses such as `10.0.0.0/8`; nothing or one thing.
pub fn cidr(text: &str) -> Vec<String> {
    let Some(block) = Block::parse_sloppy(text) else {
        return vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()];
    };
    let wrong = if !block.is_plain {
        LEADING_ZEROS_IN_BLOCK
    } else if is_mapped(block.address) {
        MAPPED_IN_BLOCK
    } else if block.network() != block.address {
        BITS_BEYOND
    } else {
        return Vec::new();
    };
    vec![wrong.to_owned()]
}

const LEADING_ZEROS: &str = "must not have leading 0s";
const LEADING_ZEROS_IN_BLOCK: &str = "must not have leading 0s in IP or prefix length";
const MAPPED: &str = "must not be an IPv4-mapped IPv6 address";
const MAPPED_IN_BLOCK: &str = "must not have an IPv4-mapped IPv6 address";
const BITS_BEYOND: &str = "must not have bits set beyond the prefix length";

/// Whether this is said of a value that is refused by now, and was not always.
pub fn was_once_valid(wrong: &str) -> bool {
    [LEADING_ZEROS, LEADING_ZEROS_IN_BLOCK, MAPPED, MAPPED_IN_BLOCK, BITS_BEYOND].contains(&wrong)
}

/// What a client is told of an address that is valid, or was.
pub fn ip_warnings(path: &Path<'_>, text: &str) -> Option<String> {
    let ip = parse_sloppy(text)?;
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => None,
        Ok(IpAddr::V6(v6)) if !is_mapped(ip) => {
            let canonical = v6.to_string();
            (canonical != text).then(|| {
                format!(
                    "{path}: IPv6 address {text:?} should be in RFC 5952 canonical format \
                     ({canonical:?})"
                )
            })
        }
        _ => {
            let ip = ip.to_canonical().to_string();
            Some(format!("{path}: non-standard IP address {text:?} is invalid: use {ip:?}"))
        }
    }
}

/// What a client is told of a block of addresses that is valid, or was.
pub fn cidr_warnings(path: &Path<'_>, text: &str) -> Vec<String> {
    let Some(block) = Block::parse_sloppy(text) else { return Vec::new() };
    let mut warnings = Vec::new();
    let canonical = block.canonical();
    if block.network() != block.address {
        let address = block.address.to_canonical();
        let single = format!("{address}/{}", bits(block.address));
        warnings.push(format!(
            "{path}: CIDR value {text:?} is ambiguous in this context (should be {canonical:?} or \
             {single:?}?)"
        ));
    }
    if !block.is_plain || is_mapped(block.address) {
        warnings.push(format!(
            "{path}: non-standard CIDR value {text:?} is invalid: use {canonical:?}"
        ));
    }
    if warnings.is_empty() && block.address.is_ipv6() && canonical != text {
        warnings.push(format!(
            "{path}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format \
             ({canonical:?})"
        ));
    }
    warnings
}

fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}

/// An address in which IPv4 numbers may have leading zeros.
fn parse_sloppy(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let Some((head, last)) = text.rsplit_once(':') else {
        return sloppy_v4(text).map(IpAddr::V4);
    };
    let last = sloppy_v4(last)?;
    format!("{head}:{last}").parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

fn sloppy_v4(text: &str) -> Option<Ipv4Addr> {
    let mut parts = text.split('.').map(|part| {
        let is_number = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| part.parse::<u8>().ok()).flatten()
    });
    let mut next = || parts.next().flatten();
    let ip = Ipv4Addr::new(next()?, next()?, next()?, next()?);
    parts.next().is_none().then_some(ip)
}

/// A block of addresses as it was written.
struct Block {
    address: IpAddr,
    prefix: u8,
    /// Whether neither of them has leading zeros.
    is_plain: bool,
}

impl Block {
    fn parse_sloppy(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let is_plain =
            address.parse::<IpAddr>().is_ok() && (prefix == "0" || !prefix.starts_with('0'));
        let address = parse_sloppy(address)?;
        let is_number = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix: u8 = prefix.parse().ok().filter(|_| is_number)?;
        (prefix <= bits(address)).then_some(Self { address, prefix, is_plain })
    }

    /// The address without what is beyond the prefix.
    fn network(&self) -> IpAddr {
        let rest = u32::from(bits(self.address) - self.prefix);
        match self.address {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(rest).unwrap_or(0);
                Ipv4Addr::from_bits(ip.to_bits() & mask).into()
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
                Ipv6Addr::from_bits(ip.to_bits() & mask).into()
            }
        }
    }

    /// Where it begins and how long its addresses are, an IPv4 address taken for one if the prefix
    /// says so too.
    fn shown(&self) -> (IpAddr, u8) {
        let network = self.network();
        match is_mapped(network) && self.prefix >= 96 {
            true => (network.to_canonical(), 32),
            false => (network, bits(network)),
        }
    }

    fn canonical(&self) -> String {
        let (network, length) = self.shown();
        let prefix = self.prefix - (bits(self.address) - length);
        format!("{network}/{prefix}")
    }
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn of_ip(text: &str, wrong: &[&str], warning: Option<&str>) {
        assert_eq!(ip(text), wrong);
        let warning = warning.map(|warning| format!("f: {warning}"));
        assert_eq!(ip_warnings(&Path::new("f"), text), warning);
    }

    #[track_caller]
    fn of_block(text: &str, wrong: &[&str], warnings: &[&str]) {
        assert_eq!(cidr(text), wrong);
        let warnings: Vec<_> = warnings.iter().map(|warning| format!("f: {warning}")).collect();
        assert_eq!(cidr_warnings(&Path::new("f"), text), warnings);
    }

    #[test]
    fn an_address_is_written_in_one_way() {
        let malformed = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        for fine in ["192.12.2.2", "2001:db8::1", "::", "0.0.0.0"] {
            of_ip(fine, &[], None);
        }
        for wrong in ["", "1.2.3", "1.2.3.4.5", "1.2.3.256", "1.2.3.x", "fe80::1%eth0", "+1.2.3.4"]
        {
            of_ip(wrong, &[malformed], None);
        }
        let odd = "non-standard IP address \"192.012.2.2\" is invalid: use \"192.12.2.2\"";
        of_ip("192.012.2.2", &[LEADING_ZEROS], Some(odd));
        let odd = "non-standard IP address \"::ffff:192.12.2.2\" is invalid: use \"192.12.2.2\"";
        of_ip("::ffff:192.12.2.2", &[MAPPED], Some(odd));
        let odd = "non-standard IP address \"::ffff:192.012.2.2\" is invalid: use \"192.12.2.2\"";
        of_ip("::ffff:192.012.2.2", &[LEADING_ZEROS], Some(odd));
        let long = "IPv6 address \"2001:DB8:0::1\" should be in RFC 5952 canonical format \
                    (\"2001:db8::1\")";
        of_ip("2001:DB8:0::1", &[], Some(long));
    }

    #[test]
    fn a_block_is_written_in_one_way() {
        let malformed = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        for fine in ["10.0.0.0/8", "0.0.0.0/0", "2001:db8::/64", "::/0", "1.2.3.4/32"] {
            of_block(fine, &[], &[]);
        }
        for wrong in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/"] {
            of_block(wrong, &[malformed], &[]);
        }
        of_block(
            "10.1.2.3/8",
            &[BITS_BEYOND],
            &[
                "CIDR value \"10.1.2.3/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \
               \"10.1.2.3/32\"?)",
            ],
        );
        of_block(
            "10.0.0.0/08",
            &[LEADING_ZEROS_IN_BLOCK],
            &["non-standard CIDR value \"10.0.0.0/08\" is invalid: use \"10.0.0.0/8\""],
        );
        of_block(
            "::ffff:10.0.0.0/104",
            &[MAPPED_IN_BLOCK],
            &["non-standard CIDR value \"::ffff:10.0.0.0/104\" is invalid: use \"10.0.0.0/8\""],
        );
        of_block(
            "2001:db8:0::/64",
            &[],
            &["IPv6 CIDR value \"2001:db8:0::/64\" should be in RFC 5952 canonical format \
               (\"2001:db8::/64\")"],
        );
    }
}
