//! A node's range of pod addresses.

use std::{collections::BTreeSet, net::Ipv4Addr};

/// Hands out the addresses of a range, each one anew only after all others were.
#[derive(Debug)]
pub(super) struct Pool {
    first: u32,
    last: u32,
    next: u32,
    used: BTreeSet<u32>,
}

impl Pool {
    /// The hosts of an IPv4 range such as `10.244.3.0/24`, without its first one, which is the
    /// node's own in most networks.
    pub(super) fn new(range: &str) -> Option<Self> {
        let (address, length) = range.split_once('/')?;
        let length: u32 = length.parse().ok().filter(|length| (8..=30).contains(length))?;
        let mask = u32::MAX << (32 - length);
        let base = u32::from(address.parse::<Ipv4Addr>().ok()?) & mask;
        let (first, last) = (base + 2, (base | !mask) - 1);
        Some(Self { first, last, next: first, used: BTreeSet::new() })
    }

    /// The first address handed out.
    pub(super) fn first(&self) -> u32 {
        self.first
    }

    pub(super) fn take(&mut self) -> Option<u32> {
        let free = (self.next..=self.last)
            .chain(self.first..self.next)
            .find(|address| !self.used.contains(address))?;
        self.used.insert(free);
        self.next = if free == self.last { self.first } else { free + 1 };
        Some(free)
    }

    pub(super) fn give_back(&mut self, address: u32) {
        self.used.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_again_only_after_the_others() {
        let mut pool = Pool::new("10.0.0.9/29").unwrap();
        let take = |pool: &mut Pool| pool.take().map(|a| Ipv4Addr::from(a).octets()[3]);
        assert_eq!([take(&mut pool), take(&mut pool)], [Some(10), Some(11)]);
        pool.give_back(u32::from(Ipv4Addr::new(10, 0, 0, 10)));
        assert_eq!(
            [take(&mut pool), take(&mut pool), take(&mut pool)],
            [Some(12), Some(13), Some(14)]
        );
        assert_eq!([take(&mut pool), take(&mut pool)], [Some(10), None]);
    }

    #[test]
    fn only_ipv4_ranges_with_room_are_ranges() {
        for range in ["10.0.0.0", "10.0.0.0/31", "10.0.0.0/x", "fd00::/64", "10.0.0/24"] {
            assert!(Pool::new(range).is_none(), "{range}");
        }
    }
}
