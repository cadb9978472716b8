//! Addresses of pods: which one is next ([`Range`], pure), and who has which ([`HostLocal`], files).
//!
//! The files are laid out as the CNI plugin `host-local` lays them out: one for each address, named
//! after it, with the container's id and interface inside, and `last_reserved_ip.0`.

use std::{
    cmp::Ordering,
    collections::BTreeSet,
    fmt, fs, io,
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::cni::CniError;

/// An address block, such as `10.244.0.0/24`. Its address is the block's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    first: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The block of this prefix length that `address` is in.
    ///
    /// # Errors
    /// [`CniError::InvalidConfig`] when the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, CniError> {
        let bits = bits_of(address);
        if prefix > bits {
            return Err(CniError::InvalidConfig(format!("{address}/{prefix} is no address block")));
        }
        let host = u128::MAX.checked_shr(u32::from(128 - (bits - prefix))).unwrap_or(0);
        Ok(Self { first: from_number(number(address) & !host, address), prefix })
    }

    /// The first address, which names the network.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The last address.
    pub fn last(&self) -> IpAddr {
        let bits = bits_of(self.first) - self.prefix;
        let host = u128::MAX.checked_shr(u32::from(128 - bits)).unwrap_or(0);
        from_number(number(self.first) | host, self.first)
    }

    /// The prefix length.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether the address is in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4()
            && (number(self.first)..=number(self.last())).contains(&number(address))
    }

    /// The address that the bridge has by default: the one after the first.
    pub fn gateway(&self) -> IpAddr {
        from_number(number(self.first) + 1, self.first)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = CniError;

    fn from_str(text: &str) -> Result<Self, CniError> {
        let invalid = || CniError::InvalidConfig(format!("{text:?} is no address block"));
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address = address.parse().map_err(|_| invalid())?;
        Self::new(address, prefix.parse().map_err(|_| invalid())?)
    }
}

impl TryFrom<String> for Cidr {
    type Error = CniError;

    fn try_from(text: String) -> Result<Self, CniError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> String {
        cidr.to_string()
    }
}

fn bits_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The address of this number, of the same family as `like`.
fn from_number(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

/// The addresses of a block that pods may have: all but the network's, the gateway's and, in
/// version 4, the broadcast address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    block: Cidr,
    gateway: IpAddr,
    first: u128,
    last: u128,
}

impl Range {
    /// Those of `block`, with `gateway` left out.
    ///
    /// # Errors
    /// [`CniError::InvalidConfig`] when the block has no room for a pod, or the gateway is not in it.
    pub fn new(block: Cidr, gateway: IpAddr) -> Result<Self, CniError> {
        if !block.contains(gateway) {
            return Err(CniError::InvalidConfig(format!("gateway {gateway} is not in {block}")));
        }
        let broadcast = u128::from(block.first.is_ipv4());
        let (first, last) = (number(block.first) + 1, number(block.last()) - broadcast);
        let range = Self { block, gateway, first, last };
        if range.first >= range.last {
            return Err(CniError::InvalidConfig(format!("{block} has no room for pods")));
        }
        Ok(range)
    }

    /// The block.
    pub fn block(&self) -> Cidr {
        self.block
    }

    /// The gateway.
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// The next address that is not `taken`, after the one given out `last` and round again, so
    /// that an address is not reused right after its pod is gone. `None` when all are taken.
    pub fn next_free(&self, taken: &BTreeSet<IpAddr>, last: Option<IpAddr>) -> Option<IpAddr> {
        let start = match last.map(number) {
            Some(last) if (self.first..self.last).contains(&last) => last + 1,
            _ => self.first,
        };
        self.gap(start, self.last, taken).or_else(|| self.gap(self.first, start - 1, taken))
    }

    /// The first free address from `from` to `to`. Costs as much as addresses are taken in a row.
    fn gap(&self, from: u128, to: u128, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let mut candidate = from;
        let address = |number| from_number(number, self.gateway);
        if from > to {
            return None;
        }
        for busy in taken.range(address(from)..=address(to)) {
            if candidate == number(self.gateway) {
                candidate += 1;
            }
            match number(*busy).cmp(&candidate) {
                Ordering::Less => {}
                Ordering::Equal => candidate += 1,
                Ordering::Greater => break,
            }
        }
        if candidate == number(self.gateway) {
            candidate += 1;
        }
        (candidate <= to).then(|| address(candidate))
    }
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reservation {
    /// The address.
    pub address: IpAddr,
    /// The container.
    pub container_id: String,
    /// The interface in it.
    pub interface: String,
}

/// Reservations in a directory. Any number of processes may use it at once. Its calls block, for
/// as long as a few small files take.
///
/// A reservation is complete as soon as its file is there, so that a crash leaves either none or
/// one that [`HostLocal::list`] shows and [`HostLocal::release`] frees.
#[derive(Clone, Debug)]
pub struct HostLocal {
    directory: PathBuf,
    range: Range,
}

impl HostLocal {
    /// Uses `directory`, which is made if missing.
    ///
    /// # Errors
    /// [`CniError::Io`] when it cannot be made.
    pub fn open(directory: impl Into<PathBuf>, range: Range) -> Result<Self, CniError> {
        let directory = directory.into();
        fs::create_dir_all(&directory)
            .map_err(|error| CniError::io("cannot make", &directory, error))?;
        Ok(Self { directory, range })
    }

    /// The range.
    pub fn range(&self) -> &Range {
        &self.range
    }

    /// Reserves an address; the one it has, when it has one.
    ///
    /// # Errors
    /// [`CniError::NoAddress`] when the range is exhausted; [`CniError::Io`].
    pub fn reserve(&self, container_id: &str, interface: &str) -> Result<IpAddr, CniError> {
        let _lock = self.lock()?;
        let all = self.list()?;
        let own = all.iter().find(|one| {
            one.container_id == container_id
                && one.interface == interface
                && self.range.block.contains(one.address)
        });
        if let Some(own) = own {
            return Ok(own.address);
        }
        let taken: BTreeSet<IpAddr> = all.iter().map(|one| one.address).collect();
        let last_path = self.directory.join("last_reserved_ip.0");
        let last = fs::read_to_string(&last_path).ok().and_then(|text| text.trim().parse().ok());
        let address = self
            .range
            .next_free(&taken, last)
            .ok_or_else(|| CniError::NoAddress { range: self.range.block.to_string() })?;
        let content = format!("{container_id}\r\n{interface}");
        let path = self.directory.join(address.to_string());
        self.replace(&path, &content)
            .and_then(|()| self.replace(&last_path, &address.to_string()))
            .map_err(|error| CniError::io("cannot write", &path, error))?;
        Ok(address)
    }

    /// Frees what a container has; nothing is no error.
    ///
    /// # Errors
    /// [`CniError::Io`].
    pub fn release(&self, container_id: &str, interface: &str) -> Result<(), CniError> {
        let _lock = self.lock()?;
        for one in self.list()? {
            if one.container_id == container_id && one.interface == interface {
                self.free(one.address)?;
            }
        }
        Ok(())
    }

    /// Frees what belongs to no container of `valid`, and returns what it was.
    ///
    /// # Errors
    /// [`CniError::Io`].
    pub fn retain(&self, valid: &[String]) -> Result<Vec<Reservation>, CniError> {
        let _lock = self.lock()?;
        let mut freed = self.list()?;
        freed.retain(|one| !valid.contains(&one.container_id));
        for one in &freed {
            self.free(one.address)?;
        }
        Ok(freed)
    }

    /// All reservations, by address.
    ///
    /// # Errors
    /// [`CniError::Io`].
    pub fn list(&self) -> Result<Vec<Reservation>, CniError> {
        let fail = |error| CniError::io("cannot read", &self.directory, error);
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let Ok(address) = entry.file_name().to_string_lossy().parse::<IpAddr>() else {
                continue;
            };
            let content = match fs::read_to_string(entry.path()) {
                Ok(content) => content,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(fail(error)),
            };
            let mut lines = content.lines();
            all.push(Reservation {
                address,
                container_id: lines.next().unwrap_or_default().trim().to_owned(),
                interface: lines.next().unwrap_or_default().trim().to_owned(),
            });
        }
        all.sort();
        Ok(all)
    }

    fn free(&self, address: IpAddr) -> Result<(), CniError> {
        let path = self.directory.join(address.to_string());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(CniError::io("cannot remove", &path, error))
            }
            _ => Ok(()),
        }
    }

    fn replace(&self, path: &Path, content: &str) -> io::Result<()> {
        let temp = self.directory.join(".new");
        let mut file = fs::File::create(&temp)?;
        file.write_all(content.as_bytes())?;
        fs::rename(&temp, path)
    }

    /// Keeps others out until the value is dropped.
    fn lock(&self) -> Result<fs::File, CniError> {
        let path = self.directory.join("lock");
        let open = || {
            let file = fs::File::options().create(true).truncate(false).write(true).open(&path)?;
            file.lock()?;
            Ok(file)
        };
        open().map_err(|error| CniError::io("cannot lock", &path, error))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_block_knows_its_bounds() {
        let block: Cidr = "10.244.3.77/24".parse().unwrap();
        assert_eq!(block.to_string(), "10.244.3.0/24");
        assert_eq!(block.last().to_string(), "10.244.3.255");
        assert_eq!(block.gateway().to_string(), "10.244.3.1");
        let block: Cidr = "fd00::/64".parse().unwrap();
        assert_eq!(block.last().to_string(), "fd00::ffff:ffff:ffff:ffff");
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert_eq!(all.last().to_string(), "255.255.255.255");
        assert!("10.0.0.0/33".parse::<Cidr>().is_err());
        assert!("10.0.0.0".parse::<Cidr>().is_err());
    }

    #[test]
    fn a_block_without_room_is_refused() {
        for block in ["10.0.0.0/32", "10.0.0.0/31"] {
            let block: Cidr = block.parse().unwrap();
            assert!(Range::new(block, block.first()).is_err(), "{block}");
        }
        let block: Cidr = "10.0.0.0/30".parse().unwrap();
        let range = Range::new(block, block.gateway()).unwrap();
        assert_eq!(range.next_free(&BTreeSet::new(), None), Some("10.0.0.2".parse().unwrap()));
    }

    proptest! {
        /// Against the obvious way: look at every address in turn.
        #[test]
        fn the_next_address_is_the_first_free_one_after_the_last(
            prefix in 26u8..=30,
            gateway in 0u32..64,
            taken in proptest::collection::btree_set(0u32..64, 0..64),
            last in proptest::option::of(0u32..64),
        ) {
            let base = u32::from(Ipv4Addr::new(10, 0, 0, 0));
            let address = |offset: u32| IpAddr::from(Ipv4Addr::from(base + offset));
            let block: Cidr = format!("10.0.0.0/{prefix}").parse().unwrap();
            let size = 1u32 << (32 - prefix);
            let gateway = gateway % size;
            let range = Range::new(block, address(gateway)).unwrap();
            let busy: BTreeSet<IpAddr> = taken.iter().map(|offset| address(*offset)).collect();

            let start = match last {
                Some(last) if (1..size - 2).contains(&last) => last + 1,
                _ => 1,
            };
            let mut turn = (start..size - 1).chain(1..start);
            let expected = turn.find(|offset| !taken.contains(offset) && *offset != gateway);

            prop_assert_eq!(range.next_free(&busy, last.map(address)), expected.map(address));
        }

        /// The files against a map.
        #[test]
        fn reservations_are_distinct_until_released(
            steps in proptest::collection::vec((0u8..12, any::<bool>()), 1..40),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let block: Cidr = "10.0.0.0/29".parse().unwrap();
            let range = Range::new(block, block.gateway()).unwrap();
            let ipam = HostLocal::open(directory.path(), range).unwrap();
            let mut model = std::collections::BTreeMap::new();
            for (container, add) in steps {
                let id = format!("container-{container}");
                if add {
                    match ipam.reserve(&id, "eth0") {
                        Ok(address) => {
                            let had = model.insert(id, address);
                            prop_assert!(had.is_none_or(|had| had == address));
                        }
                        Err(CniError::NoAddress { .. }) => {
                            prop_assert_eq!(model.len(), 5);
                            prop_assert!(!model.contains_key(&id));
                        }
                        Err(error) => return Err(TestCaseError::fail(error.to_string())),
                    }
                } else {
                    ipam.release(&id, "eth0").unwrap();
                    model.remove(&id);
                }
                let distinct: BTreeSet<&IpAddr> = model.values().collect();
                prop_assert_eq!(distinct.len(), model.len());
                prop_assert_eq!(ipam.list().unwrap().len(), model.len());
            }
        }
    }

    #[test]
    fn concurrent_reservations_are_distinct() {
        let directory = tempfile::tempdir().unwrap();
        let block: Cidr = "10.0.0.0/24".parse().unwrap();
        let range = Range::new(block, block.gateway()).unwrap();
        let ipam = HostLocal::open(directory.path(), range).unwrap();
        let all: Vec<IpAddr> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|thread| {
                    let ipam = &ipam;
                    scope.spawn(move || {
                        (0..10)
                            .map(|n| ipam.reserve(&format!("{thread}-{n}"), "eth0").unwrap())
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 80);
    }

    #[test]
    fn what_belongs_to_no_valid_container_is_freed() {
        let directory = tempfile::tempdir().unwrap();
        let block: Cidr = "10.0.0.0/24".parse().unwrap();
        let range = Range::new(block, block.gateway()).unwrap();
        let ipam = HostLocal::open(directory.path(), range).unwrap();
        let kept = ipam.reserve("a", "eth0").unwrap();
        ipam.reserve("b", "eth0").unwrap();
        // What an interrupted writer of another kind could leave.
        fs::write(directory.path().join("10.0.0.9"), "").unwrap();

        let freed = ipam.retain(&["a".to_owned()]).unwrap();

        assert_eq!(freed.len(), 2);
        assert_eq!(ipam.list().unwrap().len(), 1);
        assert_eq!(ipam.reserve("a", "eth0").unwrap(), kept);
    }
}
