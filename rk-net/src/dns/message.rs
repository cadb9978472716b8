//! Messages on the wire: RFC 1035, section 4, with EDNS (RFC 6891).
//!
//! A server has to read questions only, and writes a handful of types, so this is all there is to it;
//! what another server answered is passed on as it came.

use super::{
    Name,
    name::suffixes,
    record::{Answer, Code, Data, Question, Record, Type},
};

/// Octets of a header.
pub(super) const HEADER: usize = 12;
/// Octets of our OPT record.
const OPT: usize = 11;
/// What a client without EDNS takes over UDP.
const UDP: usize = 512;
/// The largest message over UDP, received and sent. Larger ones come by TCP.
pub(super) const UDP_MAX: usize = 4096;
/// What we say we take: it fits a packet (RFC 9715).
const UDP_ADVISED: u16 = 1232;
/// The class of the Internet.
const IN: u16 = 1;
/// Any class: what is asked so is answered with the Internet's.
const ANY: u16 = 255;
/// EDNS of a version that we do not know (RFC 6891, section 6.1.3).
const BAD_VERSION: u16 = 16;
/// Bits of the header's second 16.
const RESPONSE: u16 = 1 << 15;
const AUTHORITATIVE: u16 = 1 << 10;
const TRUNCATED: u16 = 1 << 9;
const RECURSION_DESIRED: u16 = 1 << 8;
const RECURSION_AVAILABLE: u16 = 1 << 7;
const CHECKING_DISABLED: u16 = 1 << 4;
const OPCODE: u16 = 0xf << 11;

/// How a message came, and its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// As one packet, whose size is limited.
    Udp,
    /// In a stream, with its length before it.
    Tcp,
}

/// A question with what is around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    id: u16,
    /// Those that an answer repeats.
    flags: u16,
    /// What is asked.
    pub question: Question,
    /// Where the question ends in the message, and other records begin.
    pub(super) question_end: usize,
    edns: Option<Edns>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edns {
    size: u16,
    wants_dnssec: bool,
}

/// A message is no question that can be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unanswerable {
    /// It is no question at all: nothing must be sent, or two servers could answer each other for
    /// ever.
    Ignored,
    /// It gets this answer.
    Told(Vec<u8>),
}

impl Query {
    /// Reads a message.
    ///
    /// # Errors
    /// [`Unanswerable`], for whatever was sent.
    pub fn read(message: &[u8]) -> Result<Self, Unanswerable> {
        let Some(header) = message.first_chunk::<HEADER>() else {
            return Err(Unanswerable::Ignored);
        };
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let (id, all_flags) = (word(0), word(2));
        if all_flags & RESPONSE != 0 {
            return Err(Unanswerable::Ignored);
        }
        let flags = all_flags & (OPCODE | RECURSION_DESIRED | CHECKING_DISABLED);
        let told = |code: Code| {
            let mut bytes = header.to_vec();
            bytes[2..4].copy_from_slice(&(RESPONSE | flags | code as u16).to_be_bytes());
            bytes[4..].fill(0);
            Unanswerable::Told(bytes)
        };
        if all_flags & OPCODE != 0 {
            return Err(told(Code::NotImp));
        }
        let counts = [word(4), word(6), word(8), word(10)];
        let Some((question, class, question_end, opt)) = read_body(message, counts) else {
            return Err(told(Code::FormErr));
        };
        let edns = opt.map(|opt| Edns { size: opt.class, wants_dnssec: opt.ttl & 0x8000 != 0 });
        let query = Self { id, flags, question, question_end, edns };
        if opt.is_some_and(|opt| opt.ttl >> 16 & 0xff != 0) {
            let answer = query.write(message, &Answer::default(), Transport::Udp, false);
            return Err(Unanswerable::Told(with_bad_version(answer)));
        }
        let transfer = matches!(query.question.kind, Type::AXFR | Type::IXFR);
        if transfer || !matches!(class, IN | ANY) {
            let refused = Answer::error(Code::Refused);
            return Err(Unanswerable::Told(query.write(message, &refused, Transport::Udp, false)));
        }
        Ok(query)
    }

    /// The message that answers this query, which came as `message`. What does not fit is left out,
    /// and the client told so where it needs to know (RFC 2181, section 9).
    pub fn write(
        &self,
        message: &[u8],
        answer: &Answer,
        transport: Transport,
        recursion: bool,
    ) -> Vec<u8> {
        let limit = match (transport, self.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => UDP,
            (Transport::Udp, Some(edns)) => usize::from(edns.size).clamp(UDP, UDP_MAX),
        };
        let room = limit - if self.edns.is_some() { OPT } else { 0 };
        let question = message.get(HEADER..self.question_end).unwrap_or_default();
        let mut writer = Writer::begin(question, room);

        let mut flags = RESPONSE | self.flags | answer.code as u16;
        flags |= if answer.authoritative { AUTHORITATIVE } else { 0 };
        flags |= if recursion { RECURSION_AVAILABLE } else { 0 };
        let (answers, all_answers) = writer.section(&answer.answers);
        let (authority, all_authority) = match all_answers {
            true => writer.section(&answer.authority),
            false => (0, true),
        };
        let truncated = !(all_answers && all_authority);
        flags |= if truncated { TRUNCATED } else { 0 };
        let (mut additional, _) = match truncated {
            true => (0, false),
            false => writer.section(&answer.additional),
        };
        let mut bytes = writer.bytes;
        if let Some(edns) = self.edns {
            bytes.push(0);
            bytes.extend(Type::OPT.0.to_be_bytes());
            bytes.extend(UDP_ADVISED.to_be_bytes());
            bytes.extend((if edns.wants_dnssec { 0x8000_u32 } else { 0 }).to_be_bytes());
            bytes.extend([0, 0]);
            additional += 1;
        }
        let header = [self.id, flags, 1, answers, authority, additional];
        for (at, word) in header.iter().enumerate() {
            bytes[2 * at..2 * at + 2].copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

/// A question of our own, to ask another server.
pub(super) fn ask(id: u16, question: &Question) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [id, RECURSION_DESIRED, 1, 0, 0, 0] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(question.name.wire());
    bytes.extend(question.kind.0.to_be_bytes());
    bytes.extend(IN.to_be_bytes());
    bytes
}

/// Tells in an answer with EDNS that the version is not known: the upper bits of the code are in the
/// OPT record, which is the last.
fn with_bad_version(mut answer: Vec<u8>) -> Vec<u8> {
    let upper = answer.len() - OPT + 5;
    answer[upper] = u8::try_from(BAD_VERSION >> 4).unwrap_or_default();
    answer
}

/// The question with its class, where it ends, and the OPT record.
fn read_body(message: &[u8], counts: [u16; 4]) -> Option<(Question, u16, usize, Option<Head>)> {
    if counts[0] != 1 {
        return None;
    }
    let (name, at) = Name::read(message, HEADER)?;
    // Of a name with a pointer in it the end is not the length; nobody has reason to send one.
    if at != HEADER + name.wire().len() {
        return None;
    }
    let kind = Type(be16(message, at)?);
    let class = be16(message, at + 2)?;
    let question_end = at + 4;
    let (mut at, mut opt) = (question_end, None);
    for _ in 0..counts[1..].iter().map(|count| u32::from(*count)).sum::<u32>() {
        let head = Head::read(message, at)?;
        at = head.end;
        if head.kind == Type::OPT && opt.replace(head).is_some() {
            return None;
        }
    }
    Some((Question { name, kind }, class, question_end, opt))
}

/// What is before the data of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) kind: Type,
    class: u16,
    pub(super) ttl: u32,
    /// Where the TTL is.
    pub(super) ttl_at: usize,
    /// Where the data begin.
    pub(super) data: usize,
    /// Where they end.
    pub(super) end: usize,
}

impl Head {
    /// Reads the record at `at`.
    pub(super) fn read(message: &[u8], at: usize) -> Option<Self> {
        let ttl_at = skip_name(message, at)? + 4;
        let ttl = u32::from_be_bytes(*message.get(ttl_at..)?.first_chunk()?);
        let data = ttl_at + 6;
        let end = data + usize::from(be16(message, ttl_at + 4)?);
        (end <= message.len()).then_some(Self {
            kind: Type(be16(message, ttl_at - 4)?),
            class: be16(message, ttl_at - 2)?,
            ttl,
            ttl_at,
            data,
            end,
        })
    }
}

fn be16(message: &[u8], at: usize) -> Option<u16> {
    message.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

/// Another server's answer.
pub(super) struct Reply<'a>(pub(super) &'a [u8]);

impl<'a> Reply<'a> {
    /// `reply`, if it answers `query`: the same id and, to the letter, the same question.
    pub(super) fn to(query: &[u8], question_end: usize, reply: &'a [u8]) -> Option<Self> {
        let answers = reply.get(..2)? == query.get(..2)?
            && be16(reply, 2)? & RESPONSE != 0
            && be16(reply, 4)? == 1
            && reply.get(HEADER..question_end)? == query.get(HEADER..question_end)?;
        answers.then_some(Self(reply))
    }

    pub(super) fn is_truncated(&self) -> bool {
        be16(self.0, 2).is_none_or(|flags| flags & TRUNCATED != 0)
    }

    /// Whether it says something about the name, and not that the server could not say.
    pub(super) fn is_definite(&self) -> bool {
        let code = be16(self.0, 2).map(|flags| flags & 0xf);
        code == Some(Code::NoError as u16) || code == Some(Code::NxDomain as u16)
    }

    /// The heads of the records in all sections but OPT. `None` if they cannot be read.
    pub(super) fn heads(&self, question_end: usize) -> Option<Vec<Head>> {
        self.read_heads(question_end, &[6, 8, 10])
    }

    /// Aliases and addresses among the answers.
    pub(super) fn addresses(&self, question_end: usize) -> Vec<Record> {
        let mut at = question_end;
        let mut records = Vec::new();
        for head in self.read_heads(question_end, &[6]).unwrap_or_default() {
            let data = &self.0[head.data..head.end];
            let data = match head.kind {
                Type::A => data.try_into().ok().map(|octets: [u8; 4]| Data::A(octets.into())),
                Type::AAAA => {
                    data.try_into().ok().map(|octets: [u8; 16]| Data::Aaaa(octets.into()))
                }
                Type::CNAME => Name::read(self.0, head.data).map(|(name, _)| Data::Cname(name)),
                _ => None,
            };
            if let (Some((name, _)), Some(data)) = (Name::read(self.0, at), data) {
                records.push(Record { name, ttl: head.ttl, data });
            }
            at = head.end;
        }
        records
    }

    fn read_heads(&self, question_end: usize, counts: &[usize]) -> Option<Vec<Head>> {
        let mut heads = Vec::new();
        let mut at = question_end;
        for count in counts {
            for _ in 0..be16(self.0, *count)? {
                let head = Head::read(self.0, at)?;
                at = head.end;
                if head.kind != Type::OPT {
                    heads.push(head);
                }
            }
        }
        Some(heads)
    }
}

/// How many names are remembered to point to.
const REMEMBERED: usize = 64;

/// A message as it grows, up to a limit.
struct Writer {
    bytes: Vec<u8>,
    limit: usize,
    /// Where names begin that later ones may point to.
    names: Vec<u16>,
}

impl Writer {
    /// A message with room for its header, and the question.
    fn begin(question: &[u8], limit: usize) -> Self {
        let mut writer = Self { bytes: vec![0; HEADER], limit, names: Vec::new() };
        writer.bytes.extend(question);
        writer.remember(HEADER, question);
        writer
    }

    /// Writes records as long as they fit: how many, and whether these are all.
    fn section(&mut self, records: &[Record]) -> (u16, bool) {
        let mut written = 0;
        for record in records {
            let (length, names) = (self.bytes.len(), self.names.len());
            self.record(record);
            if self.bytes.len() > self.limit {
                self.bytes.truncate(length);
                self.names.truncate(names);
                return (written, false);
            }
            written += 1;
        }
        (written, true)
    }

    fn record(&mut self, record: &Record) {
        self.name(&record.name);
        self.bytes.extend(record.data.kind().0.to_be_bytes());
        self.bytes.extend(IN.to_be_bytes());
        self.bytes.extend(record.ttl.to_be_bytes());
        let length_at = self.bytes.len();
        self.bytes.extend([0, 0]);
        match &record.data {
            Data::A(address) => self.bytes.extend(address.octets()),
            Data::Aaaa(address) => self.bytes.extend(address.octets()),
            Data::Cname(name) | Data::Ns(name) | Data::Ptr(name) => self.name(name),
            Data::Txt(text) => {
                let text = &text.as_bytes()[..text.len().min(255)];
                self.bytes.push(text.len() as u8);
                self.bytes.extend(text);
            }
            Data::Srv { priority, weight, port, target } => {
                for word in [priority, weight, port] {
                    self.bytes.extend(word.to_be_bytes());
                }
                // RFC 2782: not compressed.
                self.bytes.extend(target.wire());
            }
            Data::Soa(soa) => {
                self.name(&soa.mname);
                self.name(&soa.rname);
                for word in [soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum] {
                    self.bytes.extend(word.to_be_bytes());
                }
            }
        }
        let length = self.bytes.len() - length_at - 2;
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        self.bytes[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    }

    /// Writes as much of a name as was not written before, and then where the rest is.
    fn name(&mut self, name: &Name) {
        let wire = name.wire();
        let known = suffixes(wire).find_map(|suffix| {
            let same = |at: &&u16| self.is_at(suffix, usize::from(**at));
            self.names.iter().find(same).map(|at| (wire.len() - suffix.len(), *at))
        });
        let begin = self.bytes.len();
        match known {
            Some((own, at)) => {
                self.bytes.extend(&wire[..own]);
                self.bytes.extend((0xc000 | at).to_be_bytes());
                self.remember(begin, &wire[..own]);
            }
            None => {
                self.bytes.extend(wire);
                self.remember(begin, wire);
            }
        }
    }

    /// Notes where the labels of a name that begins at `begin` are.
    fn remember(&mut self, begin: usize, wire: &[u8]) {
        for suffix in suffixes(wire) {
            let at = begin + wire.len() - suffix.len();
            // 14 bits are for the place.
            if at < 0x4000 && self.names.len() < REMEMBERED {
                self.names.extend(u16::try_from(at));
            }
        }
    }

    /// Whether the name that is written at `at` is this one, in whatever case.
    fn is_at(&self, wire: &[u8], mut at: usize) -> bool {
        let mut rest = wire;
        loop {
            let Some(&length) = self.bytes.get(at) else { return false };
            if length >= 0xc0 {
                // Only our own pointers are here, and they point back.
                let Some(low) = self.bytes.get(at + 1) else { return false };
                at = usize::from(length & 0x3f) << 8 | usize::from(*low);
                continue;
            }
            let end = 1 + usize::from(length);
            let same = self.bytes.get(at..at + end).zip(rest.get(..end));
            if !same.is_some_and(|(written, wanted)| written.eq_ignore_ascii_case(wanted)) {
                return false;
            }
            if length == 0 {
                return true;
            }
            (at, rest) = (at + end, &rest[end..]);
        }
    }
}

#[cfg(test)]
mod tests;
