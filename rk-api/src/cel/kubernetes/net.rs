//! IP addresses and ranges of them.

use std::{fmt, net::IpAddr};

use super::{LibraryValue, wrong};
use crate::cel::{
    EvalError, Value,
    functions::{Cost, Function, function, global, method, text},
    types::{Library, Type},
};

/// A range of IP addresses: an address, of which the first bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address, as it was written.
    pub address: IpAddr,
    /// How many bits count.
    pub prefix: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Cidr {
    fn masked(self) -> Self {
        let address = match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V4((u32::from(address) & mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V6((u128::from(address) & mask).into())
            }
        };
        Self { address, ..self }
    }

    fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && Self { address, prefix: self.prefix }.masked().address == self.masked().address
    }
}

fn parse_ip(raw: &str) -> std::result::Result<IpAddr, EvalError> {
    if raw.contains('%') && raw.contains(':') {
        let message = format!("IP address {raw:?} with zone value is not allowed");
        return Err(EvalError::new(message));
    }
    let address: IpAddr = raw.parse().map_err(|_| {
        EvalError::new(format!(
            "IP Address {raw:?} parse error during conversion from string: \
             ParseAddr({raw:?}): unable to parse IP"
        ))
    })?;
    if is_mapped(address) {
        let message = format!("IPv4-mapped IPv6 address {raw:?} is not allowed");
        return Err(EvalError::new(message));
    }
    Ok(address)
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some())
}

fn parse_cidr(raw: &str) -> std::result::Result<Cidr, EvalError> {
    let bad = |why: &str| {
        EvalError::new(format!(
            "network address parse error during conversion from string: \
             network address parse error during conversion from string: \
             netip.ParsePrefix({raw:?}): {why}"
        ))
    };
    let (address, prefix) = raw.rsplit_once('/').ok_or_else(|| bad("no '/'"))?;
    let address: IpAddr =
        address.parse().map_err(|_| bad(&format!("ParseAddr({address:?}): unable to parse IP")))?;
    let digits = prefix.bytes().all(|b| b.is_ascii_digit());
    let leading_zero = prefix.len() > 1 && prefix.starts_with('0');
    let bits = match prefix.parse::<u8>() {
        Ok(bits) if digits && !leading_zero => bits,
        _ => return Err(bad(&format!("bad bits after slash: {prefix:?}"))),
    };
    if bits > if address.is_ipv4() { 32 } else { 128 } {
        return Err(bad("prefix length out of range"));
    }
    if is_mapped(address) {
        return Err(EvalError::new(format!(
            "network address parse error during conversion from string: \
             IPv4-mapped IPv6 address {raw:?} is not allowed"
        )));
    }
    Ok(Cidr { address, prefix: bits })
}

fn ip<'a>(address: IpAddr) -> Value<'a> {
    Value::Library(LibraryValue::Ip(address))
}

fn cidr<'a>(cidr: Cidr) -> Value<'a> {
    Value::Library(LibraryValue::Cidr(cidr))
}

pub(super) fn functions() -> Vec<Function> {
    use Type::{Bool, Int, String};
    let (address, range) = (Type::Library(Library::Ip), Type::Library(Library::Cidr));
    let one = Cost::One;
    let parse = |id, result: Type| vec![global(id, vec![String], result, Cost::Parse)];
    let of_address = |id, result: Type| vec![method(id, vec![address.clone()], result, one)];
    let of_range = |id, result: Type| vec![method(id, vec![range.clone()], result, one)];
    let in_range =
        |id, other: &Type, cost| method(id, vec![range.clone(), other.clone()], Bool, cost);
    macro_rules! is {
        ($name:literal, $id:literal, $test:expr) => {
            function(
                $name,
                one,
                |_, args| match args {
                    [Value::Library(LibraryValue::Ip(address))] => Ok(Value::Bool($test(address))),
                    _ => wrong(),
                },
                of_address($id, Bool),
            )
        };
    }
    vec![
        function(
            "ip",
            Cost::Parse,
            |_, args| match args {
                [Value::Library(LibraryValue::Cidr(cidr))] => Ok(ip(cidr.address)),
                [value] => parse_ip(text(value)?).map(ip),
                _ => wrong(),
            },
            vec![
                global("string_to_ip", vec![String], address.clone(), Cost::Parse),
                method("cidr_ip", vec![range.clone()], address.clone(), one),
            ],
        ),
        function(
            "isIP",
            Cost::Parse,
            |_, args| match args {
                [value] => Ok(Value::Bool(parse_ip(text(value)?).is_ok())),
                _ => wrong(),
            },
            parse("is_ip", Bool),
        ),
        function(
            "ip.isCanonical",
            Cost::ParseTwice,
            |_, args| match args {
                [value] => {
                    let raw = text(value)?;
                    Ok(Value::Bool(parse_ip(raw)?.to_string() == raw))
                }
                _ => wrong(),
            },
            vec![global("ip_is_canonical", vec![String], Bool, Cost::ParseTwice)],
        ),
        function(
            "family",
            one,
            |_, args| match args {
                [Value::Library(LibraryValue::Ip(address))] => {
                    Ok(Value::Int(if address.is_ipv4() { 4 } else { 6 }))
                }
                _ => wrong(),
            },
            of_address("ip_family", Int),
        ),
        is!("isUnspecified", "ip_is_unspecified", IpAddr::is_unspecified),
        is!("isLoopback", "ip_is_loopback", IpAddr::is_loopback),
        is!("isLinkLocalMulticast", "ip_is_link_local_multicast", link_local_multicast),
        is!("isLinkLocalUnicast", "ip_is_link_local_unicast", link_local_unicast),
        is!("isGlobalUnicast", "ip_is_global_unicast", global_unicast),
        function(
            "cidr",
            Cost::Parse,
            |_, args| match args {
                [value] => parse_cidr(text(value)?).map(cidr),
                _ => wrong(),
            },
            parse("string_to_cidr", range.clone()),
        ),
        function(
            "isCIDR",
            Cost::Parse,
            |_, args| match args {
                [value] => Ok(Value::Bool(parse_cidr(text(value)?).is_ok())),
                _ => wrong(),
            },
            parse("is_cidr", Bool),
        ),
        function(
            "containsIP",
            Cost::ContainsIp { text: false },
            |_, args| match args {
                [Value::Library(LibraryValue::Cidr(cidr)), other] => {
                    let address = match other {
                        Value::Library(LibraryValue::Ip(address)) => *address,
                        other => parse_ip(text(other)?)?,
                    };
                    Ok(Value::Bool(cidr.contains(address)))
                }
                _ => wrong(),
            },
            vec![
                in_range("cidr_contains_ip_string", &String, Cost::ContainsIp { text: true }),
                in_range("cidr_contains_ip_ip", &address, Cost::ContainsIp { text: false }),
            ],
        ),
        function(
            "containsCIDR",
            Cost::ContainsCidr { text: false },
            |_, args| match args {
                [Value::Library(LibraryValue::Cidr(cidr)), other] => {
                    let inner = match other {
                        Value::Library(LibraryValue::Cidr(inner)) => *inner,
                        other => parse_cidr(text(other)?)?,
                    };
                    Ok(Value::Bool(cidr.prefix <= inner.prefix && cidr.contains(inner.address)))
                }
                _ => wrong(),
            },
            vec![
                in_range("cidr_contains_cidr_string", &String, Cost::ContainsCidr { text: true }),
                in_range("cidr_contains_cidr", &range, Cost::ContainsCidr { text: false }),
            ],
        ),
        function(
            "prefixLength",
            one,
            |_, args| match args {
                [Value::Library(LibraryValue::Cidr(cidr))] => {
                    Ok(Value::Int(i64::from(cidr.prefix)))
                }
                _ => wrong(),
            },
            of_range("cidr_prefix_length", Int),
        ),
        function(
            "masked",
            one,
            |_, args| match args {
                [Value::Library(LibraryValue::Cidr(range))] => Ok(cidr(range.masked())),
                _ => wrong(),
            },
            of_range("cidr_masked", range.clone()),
        ),
    ]
}

fn link_local_multicast(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0],
        IpAddr::V6(address) => address.segments()[0] & 0xff0f == 0xff02,
    }
}

fn link_local_unicast(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// As Go has it: private addresses are global, too.
fn global_unicast(address: &IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(broadcast
        || address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || link_local_unicast(address))
}
