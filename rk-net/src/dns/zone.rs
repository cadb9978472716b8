//! From what is known of a cluster to an answer, without I/O.
//!
//! The names are those of "Kubernetes DNS-Based Service Discovery" 1.1.0; where it leaves something
//! open it is as CoreDNS's `kubernetes` plugin has it under kubeadm: `pods insecure`, `ttl 30`,
//! `fallthrough in-addr.arpa ip6.arpa`.

use std::{collections::HashSet, net::IpAddr};

use k8s_openapi::{
    api::{
        core::v1::{Service, ServiceSpec},
        discovery::v1::{EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    Name,
    known::{Known, addresses_of, service_of},
    record::{Answer, Code, Data, Question, Record, Soa, Type},
};

/// How long records may be kept, in seconds.
const TTL: u32 = 30;
/// The same of the version of the specification, which is:
const VERSION_TTL: u32 = 28_800;
const VERSION: &str = "1.1.0";
/// How often an alias may lead to an alias.
const ALIASES_MAX: usize = 8;

/// The names of a cluster.
#[derive(Clone, Debug)]
pub struct Zone {
    domain: Name,
    /// The Service by which the zone's servers are reached.
    server: (String, String),
}

/// What a name stands for.
enum Found {
    /// There is no such name.
    Nothing,
    /// There is, or there are names below it; it has no records.
    Empty,
    /// The zone itself.
    Apex,
    /// The version of the specification.
    Version,
    /// Somewhere to connect to.
    Places(Vec<Place>),
    /// Another name.
    Alias(Name),
}

/// An address with a port of it.
struct Place {
    address: IpAddr,
    /// None where a headless Service has no ports.
    port: Option<u16>,
    /// The name of the address.
    name: Option<Name>,
}

/// Which places of a Service a name is for.
#[derive(Clone, Copy)]
enum Part<'a> {
    Whole,
    /// Those of the endpoints with this host name.
    Endpoint(&'a str),
    /// A port by name and protocol.
    Port(&'a str, &'a str),
}

impl Part<'_> {
    fn has_port(&self, name: Option<&str>, protocol: Option<&str>) -> bool {
        match self {
            Self::Whole | Self::Endpoint(_) => true,
            Self::Port(wanted, of) => {
                name.is_some_and(|name| name.eq_ignore_ascii_case(wanted))
                    && protocol.unwrap_or("TCP").eq_ignore_ascii_case(of)
            }
        }
    }
}

impl Zone {
    /// The zone of a cluster domain, whose servers are reached by the Service of this namespace and
    /// name.
    pub fn new(domain: Name, server: (&str, &str)) -> Self {
        Self { domain, server: (server.0.to_owned(), server.1.to_owned()) }
    }

    /// The answer, or `None` if the name is for others to know.
    ///
    /// Names below the domain are all ours. Of the names of addresses those are that a Service or an
    /// endpoint has.
    pub fn answer(&self, known: &impl Known, question: &Question) -> Option<Answer> {
        if let Some(address) = address_of(&question.name) {
            return self.name_of(known, question, address);
        }
        question.name.labels_below(&self.domain).map(|_| self.answer_below(known, question, 0))
    }

    /// Whether a name is in the zone, or the name of an address.
    pub(super) fn is_ours(&self, name: &Name) -> bool {
        name.labels_below(&self.domain).is_some() || address_of(name).is_some()
    }

    fn answer_below(&self, known: &impl Known, question: &Question, depth: usize) -> Answer {
        let labels = question.name.labels_below(&self.domain);
        let found = labels.map_or(Found::Nothing, |labels| self.find(known, &labels));
        let record = |data| Record { name: question.name.clone(), ttl: TTL, data };
        let answer = match found {
            Found::Nothing => {
                let soa = vec![self.soa(known)];
                return Answer { code: Code::NxDomain, authority: soa, ..Answer::of(Vec::new()) };
            }
            Found::Empty => Answer::default(),
            Found::Version if question.kind == Type::TXT => {
                let data = Data::Txt(VERSION.to_owned());
                Answer::of(vec![Record { ttl: VERSION_TTL, ..record(data) }])
            }
            Found::Version => Answer::default(),
            Found::Apex => match question.kind {
                Type::SOA => Answer::of(vec![self.soa(known)]),
                Type::NS => self.servers(known),
                _ => Answer::default(),
            },
            Found::Places(places) => match question.kind {
                Type::SRV => located(&question.name, &places),
                kind => Answer::of(addresses(&question.name, &places, kind)),
            },
            Found::Alias(target) => self.follow(known, question, target, depth),
        };
        if answer.answers.is_empty() {
            Answer { authority: vec![self.soa(known)], ..Answer::of(Vec::new()) }
        } else {
            answer
        }
    }

    /// An alias with what it leads to. One that leads to nothing within the zone, or in a circle, is
    /// left out.
    fn follow(
        &self,
        known: &impl Known,
        question: &Question,
        target: Name,
        depth: usize,
    ) -> Answer {
        let alias =
            Record { name: question.name.clone(), ttl: TTL, data: Data::Cname(target.clone()) };
        if question.kind == Type::CNAME {
            return Answer::of(vec![alias]);
        }
        if target.labels_below(&self.domain).is_none() {
            let elsewhere = matches!(question.kind, Type::A | Type::AAAA).then_some(target);
            return Answer { elsewhere, ..Answer::of(vec![alias]) };
        }
        if depth == ALIASES_MAX {
            return Answer::default();
        }
        let next = Question { name: target, kind: question.kind };
        let mut answer = self.answer_below(known, &next, depth + 1);
        if answer.answers.is_empty() {
            return Answer::default();
        }
        answer.answers.insert(0, alias);
        answer
    }

    fn find(&self, known: &impl Known, labels: &[&str]) -> Found {
        match labels {
            [] => Found::Apex,
            ["dns-version"] => Found::Version,
            ["svc" | "pod" | "dns"] => Found::Empty,
            ["ns", "dns"] => self.server_places(known).map_or(Found::Nothing, Found::Places),
            [.., namespace, "svc" | "pod"] if !known.has_namespace(namespace) => Found::Nothing,
            [_, "svc" | "pod"] => Found::Empty,
            [pod, _, "pod"] => dashed(pod).map_or(Found::Nothing, |address| {
                Found::Places(vec![Place { address, port: None, name: None }])
            }),
            [part @ .., service, namespace, "svc"] => {
                let service = known.service(namespace, service);
                service.map_or(Found::Nothing, |service| self.find_in(known, &service, part))
            }
            _ => Found::Nothing,
        }
    }

    /// What the labels before a Service's name stand for.
    fn find_in(&self, known: &impl Known, service: &Service, labels: &[&str]) -> Found {
        let Some(spec) = &service.spec else { return Found::Nothing };
        let part = match labels {
            [] => Part::Whole,
            // Between a port and its Service there is a name without records (RFC 8020).
            [protocol] if protocol.starts_with('_') => {
                let mut ports = spec.ports.iter().flatten();
                let same = |name: &str| name.eq_ignore_ascii_case(&protocol[1..]);
                let any = ports.any(|port| {
                    port.name.is_some() && same(port.protocol.as_deref().unwrap_or("TCP"))
                });
                return if any { Found::Empty } else { Found::Nothing };
            }
            [host] => Part::Endpoint(host),
            [port, protocol] => match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                (Some(port), Some(protocol)) => Part::Port(port, protocol),
                _ => return Found::Nothing,
            },
            _ => return Found::Nothing,
        };
        if spec.type_.as_deref() == Some("ExternalName") {
            // An address is not a name, though it looks like one.
            let target = spec.external_name.as_deref().unwrap_or_default();
            return match (part, Name::parse(target)) {
                (Part::Whole, Ok(target)) if !is_address(&target) => Found::Alias(target),
                _ => Found::Nothing,
            };
        }
        let (namespace, name) = key(&service.metadata);
        let places = match part {
            Part::Endpoint(_) => self.endpoints(known, namespace, name, part),
            _ if is_headless(spec) => self.endpoints(known, namespace, name, part),
            _ => self.cluster_ips(namespace, name, spec, part),
        };
        if places.is_empty() { Found::Nothing } else { Found::Places(places) }
    }

    /// The ports of a Service at its own addresses.
    fn cluster_ips(
        &self,
        namespace: &str,
        name: &str,
        spec: &ServiceSpec,
        part: Part<'_>,
    ) -> Vec<Place> {
        let owner = self.service_name([name, namespace, "svc"]);
        let mut places = Vec::new();
        for port in spec.ports.iter().flatten() {
            if part.has_port(port.name.as_deref(), port.protocol.as_deref()) {
                places.extend(addresses_of(spec).map(|address| Place {
                    address,
                    port: u16::try_from(port.port).ok(),
                    name: owner.clone(),
                }));
            }
        }
        places
    }

    /// The ports of a Service at its ready endpoints.
    fn endpoints(
        &self,
        known: &impl Known,
        namespace: &str,
        service: &str,
        part: Part<'_>,
    ) -> Vec<Place> {
        let mut places = Vec::new();
        for slice in known.slices(namespace, service) {
            let ports = slice.ports.as_deref().unwrap_or_default();
            let is_wanted = |port: &&EndpointPort| {
                part.has_port(port.name.as_deref(), port.protocol.as_deref())
            };
            let number = |port: &EndpointPort| port.port.and_then(|port| u16::try_from(port).ok());
            let mut wanted: Vec<_> = ports.iter().filter(is_wanted).map(number).collect();
            if ports.is_empty() && part.has_port(None, None) {
                wanted.push(None);
            }
            for (text, address, host) in ready(&slice) {
                let host = host_name(text, host);
                if let Part::Endpoint(wanted) = part
                    && !host.eq_ignore_ascii_case(wanted)
                {
                    continue;
                }
                let name = self.service_name([&*host, service, namespace, "svc"]);
                places.extend(wanted.iter().map(|&port| Place {
                    address,
                    port,
                    name: name.clone(),
                }));
            }
        }
        places
    }

    /// The names of an address. What is asked besides names, and other addresses, are not ours.
    fn name_of(&self, known: &impl Known, question: &Question, address: IpAddr) -> Option<Answer> {
        if question.kind != Type::PTR {
            return None;
        }
        let mut names = Vec::new();
        if let Some(service) = known.services_at(address).first() {
            let (namespace, name) = key(&service.metadata);
            names.extend(self.service_name([name, namespace, "svc"]));
        } else {
            for slice in known.slices_at(address) {
                let Some((namespace, service)) = service_of(&slice) else { continue };
                for (text, of, host) in ready(&slice) {
                    if of == address {
                        let host = host_name(text, host);
                        names.extend(self.service_name([&*host, service, namespace, "svc"]));
                    }
                }
            }
        }
        let mut seen = HashSet::new();
        names.retain(|name| seen.insert(name.clone()));
        let records = names.into_iter().map(|name| Record {
            name: question.name.clone(),
            ttl: TTL,
            data: Data::Ptr(name),
        });
        Some(Answer::of(records.collect())).filter(|answer| !answer.answers.is_empty())
    }

    /// Who serves the zone, and where.
    fn servers(&self, known: &impl Known) -> Answer {
        let places = self.server_places(known).unwrap_or_default();
        let named = places.first().and_then(|place| place.name.clone());
        let Some(name) = named.or_else(|| self.domain.child(["ns", "dns"])) else {
            return Answer::default();
        };
        let mut additional = addresses(&name, &places, Type::A);
        additional.extend(addresses(&name, &places, Type::AAAA));
        let data = Data::Ns(name);
        let answers = vec![Record { name: self.domain.clone(), ttl: TTL, data }];
        Answer { additional, ..Answer::of(answers) }
    }

    fn server_places(&self, known: &impl Known) -> Option<Vec<Place>> {
        let (namespace, name) = &self.server;
        let service = known.service(namespace, name)?;
        let places = self.cluster_ips(namespace, name, service.spec.as_ref()?, Part::Whole);
        Some(places).filter(|places| !places.is_empty())
    }

    fn soa(&self, known: &impl Known) -> Record {
        let name = |labels: &[&str]| {
            self.domain.child(labels.iter().copied()).unwrap_or_else(|| self.domain.clone())
        };
        let data = Data::Soa(Box::new(Soa {
            mname: name(&["ns", "dns"]),
            rname: name(&["hostmaster"]),
            serial: known.serial(),
            refresh: 7200,
            retry: 1800,
            expire: 86_400,
            minimum: TTL,
        }));
        Record { name: self.domain.clone(), ttl: TTL, data }
    }

    /// A name in the zone; `None` for one that is too long, which cannot be asked for either.
    fn service_name<const N: usize>(&self, labels: [&str; N]) -> Option<Name> {
        self.domain.child(labels)
    }
}

/// The addresses of one family among some places, each once.
fn addresses(name: &Name, places: &[Place], kind: Type) -> Vec<Record> {
    let mut seen = HashSet::new();
    places
        .iter()
        .filter(|place| Data::address(place.address).kind() == kind && seen.insert(place.address))
        .map(|place| Record { name: name.clone(), ttl: TTL, data: Data::address(place.address) })
        .collect()
}

/// Where a service is, each port of each name once, and the addresses of these names. All are as
/// good.
fn located(question: &Name, places: &[Place]) -> Answer {
    let weight = (100 / u16::try_from(places.len()).unwrap_or(u16::MAX).max(1)).max(1);
    let (mut ports, mut targets) = (HashSet::new(), HashSet::new());
    let mut answer = Answer::of(Vec::new());
    for place in places {
        let (Some(target), Some(port)) = (&place.name, place.port) else { continue };
        if ports.insert((target, port)) {
            let data = Data::Srv { priority: 0, weight, port, target: target.clone() };
            answer.answers.push(Record { name: question.clone(), ttl: TTL, data });
        }
        if targets.insert((target, place.address)) {
            let data = Data::address(place.address);
            answer.additional.push(Record { name: target.clone(), ttl: TTL, data });
        }
    }
    answer
}

/// Namespace and name.
fn key(metadata: &ObjectMeta) -> (&str, &str) {
    (
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// The ready addresses of a slice, as written and as they are, each with its endpoint's host name.
/// Whether one is ready that is not to be waited for, the slice itself says.
fn ready(slice: &EndpointSlice) -> impl Iterator<Item = (&str, IpAddr, Option<&str>)> {
    let of_names = slice.address_type == "FQDN";
    let is_ready = |conditions: &EndpointConditions| conditions.ready.unwrap_or(true);
    let endpoints = slice
        .endpoints
        .iter()
        .flatten()
        .filter(move |endpoint| !of_names && endpoint.conditions.as_ref().is_none_or(is_ready));
    endpoints.flat_map(|endpoint| {
        let host = endpoint.hostname.as_deref().filter(|host| !host.is_empty());
        let parsed = |text: &String| text.parse().ok();
        let addresses = endpoint.addresses.iter();
        addresses.filter_map(move |text| Some((text.as_str(), parsed(text)?, host)))
    })
}

/// The name of an endpoint below its Service: its own, or its address with dashes.
fn host_name<'a>(address: &'a str, host: Option<&'a str>) -> std::borrow::Cow<'a, str> {
    match host {
        Some(host) => host.into(),
        None => address.replace(['.', ':'], "-").into(),
    }
}

/// The address that is written with dashes, as in the names of Pods.
fn dashed(label: &str) -> Option<IpAddr> {
    let is_v4 = label.matches('-').count() == 3 && !label.contains("--");
    label.replace('-', if is_v4 { "." } else { ":" }).parse().ok()
}

fn is_address(name: &Name) -> bool {
    name.to_string().trim_end_matches('.').parse::<IpAddr>().is_ok()
}

/// The address whose name is asked for below `in-addr.arpa` or `ip6.arpa` (RFC 1035, section 3.5,
/// and RFC 3596, section 2.5).
fn address_of(name: &Name) -> Option<IpAddr> {
    let labels: Vec<_> =
        name.labels().filter_map(|label| std::str::from_utf8(label).ok()).collect();
    match &labels[..] {
        [octets @ .., "in-addr", "arpa"] => {
            let mut address = [0; 4];
            if octets.len() != address.len() {
                return None;
            }
            for (octet, label) in address.iter_mut().zip(octets.iter().rev()) {
                *octet = label.parse().ok()?;
            }
            Some(address.into())
        }
        [digits @ .., "ip6", "arpa"] if digits.len() == 32 => {
            let mut address = 0_u128;
            for digit in digits.iter().rev() {
                let value = u8::from_str_radix(digit, 16).ok().filter(|_| digit.len() == 1)?;
                address = address << 4 | u128::from(value);
            }
            Some(std::net::Ipv6Addr::from(address).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
