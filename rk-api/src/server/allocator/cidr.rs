//! Ranges of addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A range of addresses for Services: IPv4 down to /30, or IPv6 from /64 to /126.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    family: Family,
    base: u128,
    bits: u8,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// As `spec.ipFamilies` names it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    fn width(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

impl Cidr {
    /// Reads `10.96.0.0/16` or `fd00::/108`: IPv4 from /8 to /30, or IPv6 from /64 to /126.
    pub fn parse(text: &str) -> Option<Self> {
        Self::of_object(text).filter(|range| range.family == Family::V6 || range.bits >= 8)
    }

    /// The same for a range that an object adds, which may be wider.
    pub(super) fn of_object(text: &str) -> Option<Self> {
        let (address, bits) = text.split_once('/')?;
        let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
        let family = Family::of(address);
        let possible = match family {
            Family::V4 => 0..=30,
            Family::V6 => 64..=126,
        };
        if !possible.contains(&bits) {
            return None;
        }
        let mask = u128::MAX << (family.width() - bits);
        Some(Self { family, base: number(address) & mask, bits })
    }

    /// Which family the addresses are of.
    pub(crate) fn family(&self) -> Family {
        self.family
    }

    /// The address number `index`; 0 is the network itself.
    pub fn address(&self, index: u64) -> IpAddr {
        let number = self.base + u128::from(index);
        match self.family {
            // A range's addresses are of its family's width.
            Family::V4 => Ipv4Addr::from(number as u32).into(),
            Family::V6 => Ipv6Addr::from(number).into(),
        }
    }

    /// How many addresses can be used: all but the network's own and IPv4's broadcast address.
    pub fn usable(&self) -> u64 {
        let host_bits = self.family.width() - self.bits;
        let all = u64::MAX.checked_shr(u32::from(64 - host_bits.min(64))).unwrap_or(0);
        all - u64::from(self.family == Family::V4)
    }

    /// How many addresses at the beginning are left to those who choose one, as long as there are
    /// others (KEP-3070): a sixteenth, 16 at least and 256 at most.
    pub(super) fn left_to_choose(&self) -> u64 {
        let host_bits = self.family.width() - self.bits;
        match 1_u128 << host_bits {
            0..=16 => 0,
            size => u64::try_from(size / 16).unwrap_or(u64::MAX).clamp(16, 256),
        }
    }

    /// Whether an address can be used.
    pub fn contains(&self, address: IpAddr) -> bool {
        let index = number(address).wrapping_sub(self.base);
        Family::of(address) == self.family && (1..=u128::from(self.usable())).contains(&index)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address(0), self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, usable: u64, first: &str, last: &str) {
        let cidr = Cidr::parse(text).unwrap();
        assert_eq!(cidr.usable(), usable);
        assert_eq!(cidr.address(1), first.parse::<IpAddr>().unwrap());
        assert_eq!(cidr.address(usable), last.parse::<IpAddr>().unwrap());
        assert!(cidr.contains(cidr.address(1)) && cidr.contains(cidr.address(usable)));
        assert!(!cidr.contains(cidr.address(0)));
        assert_eq!(cidr.to_string(), text);
    }

    #[test]
    fn a_range_knows_its_addresses() {
        check("10.0.0.0/24", 254, "10.0.0.1", "10.0.0.254");
        check("10.96.0.0/12", (1 << 20) - 2, "10.96.0.1", "10.111.255.254");
        check("10.0.0.0/30", 2, "10.0.0.1", "10.0.0.2");
        check("fd00::/112", 65535, "fd00::1", "fd00::ffff");
        check("fd00::/64", u64::MAX, "fd00::1", "fd00::ffff:ffff:ffff:ffff");
    }

    #[test]
    fn the_lower_band_is_a_sixteenth_within_bounds() {
        let band = |text: &str| Cidr::of_object(text).unwrap().left_to_choose();
        assert_eq!([band("10.0.0.0/28"), band("10.0.0.0/27"), band("10.0.0.0/24")], [0, 16, 16]);
        assert_eq!([band("10.0.0.0/20"), band("10.0.0.0/8"), band("fd00::/64")], [256, 256, 256]);
        assert_eq!(band("10.0.0.0/22"), 64);
    }

    #[test]
    fn other_families_and_ranges_are_told_apart() {
        let cidr = Cidr::parse("10.0.0.7/24").unwrap();
        assert_eq!(cidr.to_string(), "10.0.0.0/24");
        for outside in ["10.0.0.255", "10.0.1.1", "9.255.255.255", "::a00:1"] {
            assert!(!cidr.contains(outside.parse().unwrap()), "{outside}");
        }
        for wrong in
            ["", "10.0.0.0", "10.0.0.0/31", "10.0.0.0/7", "fd00::/63", "fd00::/127", "x/24"]
        {
            assert_eq!(Cidr::parse(wrong), None, "{wrong}");
        }
    }
}
