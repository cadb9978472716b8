//! Questions and answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Name;

/// The type of a record, or of the records that are asked for (RFC 1035, section 3.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Type(pub u16);

#[allow(missing_docs, reason = "they are named as in the registry")]
impl Type {
    pub const A: Self = Self(1);
    pub const NS: Self = Self(2);
    pub const CNAME: Self = Self(5);
    pub const SOA: Self = Self(6);
    pub const PTR: Self = Self(12);
    pub const TXT: Self = Self(16);
    pub const AAAA: Self = Self(28);
    pub const SRV: Self = Self(33);
    pub(super) const OPT: Self = Self(41);
    pub(super) const IXFR: Self = Self(251);
    pub(super) const AXFR: Self = Self(252);
}

/// What is asked, in the class of the Internet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name.
    pub name: Name,
    /// The type of the records.
    pub kind: Type,
}

/// How a question was answered (RFC 1035, section 4.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Code {
    /// There is the name, though maybe without such records.
    #[default]
    NoError = 0,
    /// The question could not be read.
    FormErr = 1,
    /// The server cannot say.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
    /// The server does not do such a thing.
    NotImp = 4,
    /// The server does not answer that.
    Refused = 5,
}

/// What a server answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// How it went.
    pub code: Code,
    /// Whether the one who answers is the source, and not told by others.
    pub authoritative: bool,
    /// The records that were asked for.
    pub answers: Vec<Record>,
    /// Whose name it is: of a name or record that is not there, the zone's SOA record, by which
    /// clients know for how long that holds.
    pub authority: Vec<Record>,
    /// What a client would ask next. May be left out where room is short.
    pub additional: Vec<Record>,
    /// Where the answer goes on: a name that the last of `answers` is an alias of, and that is for
    /// another server to know.
    pub elsewhere: Option<Name>,
}

impl Answer {
    /// An answer that says why there is none.
    pub fn error(code: Code) -> Self {
        Self { code, ..Self::default() }
    }

    /// These records, from their source.
    pub fn of(answers: Vec<Record>) -> Self {
        Self { authoritative: true, answers, ..Self::default() }
    }

    /// Puts addresses into an order by chance, so that clients, which take the first, share them
    /// out. `below` draws a number below the one it is given.
    pub fn shuffle(&mut self, mut below: impl FnMut(u64) -> u64) {
        for records in [&mut self.answers, &mut self.additional] {
            // Aliases come before what they are aliases of.
            let first = records.iter().position(|record| record.data.is_address());
            let addresses = &mut records[first.unwrap_or(0)..];
            if !addresses.iter().all(|record| record.data.is_address()) {
                continue;
            }
            for last in (1..addresses.len()).rev() {
                let other = usize::try_from(below(last as u64 + 1)).unwrap_or(last);
                addresses.swap(last, other);
            }
        }
    }
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub name: Name,
    /// How long it may be kept, in seconds.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields of SRV are those of RFC 2782")]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// What the name is an alias of.
    Cname(Name),
    /// A server of the zone.
    Ns(Name),
    /// The name of an address.
    Ptr(Name),
    /// Text, of at most 255 octets.
    Txt(String),
    /// Where a service is.
    Srv { priority: u16, weight: u16, port: u16, target: Name },
    /// That a zone begins here.
    Soa(Box<Soa>),
}

/// What holds for a zone (RFC 1035, section 3.3.13). Times are in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "they are named as in the RFC")]
pub struct Soa {
    pub mname: Name,
    pub rname: Name,
    pub serial: u32,
    pub refresh: u32,
    pub retry: u32,
    pub expire: u32,
    pub minimum: u32,
}

impl Data {
    /// The record of an address.
    pub fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::A(address),
            IpAddr::V6(address) => Self::Aaaa(address),
        }
    }

    fn is_address(&self) -> bool {
        matches!(self, Self::A(_) | Self::Aaaa(_))
    }

    /// The type of such records.
    pub fn kind(&self) -> Type {
        match self {
            Self::A(_) => Type::A,
            Self::Aaaa(_) => Type::AAAA,
            Self::Cname(_) => Type::CNAME,
            Self::Ns(_) => Type::NS,
            Self::Ptr(_) => Type::PTR,
            Self::Txt(_) => Type::TXT,
            Self::Srv { .. } => Type::SRV,
            Self::Soa(_) => Type::SOA,
        }
    }
}
