use proptest::prelude::*;

use super::{super::Soa, *};

const NAME: &str = "web.default.svc.cluster.local";

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

/// A query for the A records of `NAME`, with something after the question.
fn query(additional: &[u8]) -> Vec<u8> {
    let mut bytes = ask(0x1234, &Question { name: name(NAME), kind: Type::A });
    if !additional.is_empty() {
        bytes[11] = 1;
        bytes.extend(additional);
    }
    bytes
}

/// An OPT record of this size and these flags (extended code, version, DO).
fn opt(size: u16, flags: u32) -> Vec<u8> {
    [&[0, 0, 41][..], &size.to_be_bytes(), &flags.to_be_bytes(), &[0, 0]].concat()
}

fn record(of: &str, data: Data) -> Record {
    Record { name: name(of), ttl: 30, data }
}

fn addresses(count: u8) -> Vec<Record> {
    (0..count).map(|last| record(NAME, Data::A([10, 0, 0, last].into()))).collect()
}

fn counts(message: &[u8]) -> [u16; 4] {
    [4, 6, 8, 10].map(|at| be16(message, at).unwrap())
}

fn code_of(message: &[u8]) -> u16 {
    be16(message, 2).unwrap() & 0xf
}

#[track_caller]
fn told(message: &[u8]) -> Vec<u8> {
    match Query::read(message) {
        Err(Unanswerable::Told(answer)) => answer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_query_is_read_whatever_the_case_and_answered_in_its_own() {
    let mut bytes = query(&[]);
    bytes[HEADER + 1..HEADER + 4].copy_from_slice(b"WeB");
    let read = Query::read(&bytes).unwrap();
    assert_eq!(read.question, Question { name: name(NAME), kind: Type::A });

    let answer = Answer::of(addresses(1));
    let written = read.write(&bytes, &answer, Transport::Udp, true);
    assert_eq!(written[..2], [0x12, 0x34]);
    assert_eq!(written[2..4], [0x85, 0x80], "answer, authoritative, recursion wanted and there");
    assert_eq!(counts(&written), [1, 1, 0, 0]);
    assert_eq!(written[HEADER..bytes.len()], bytes[HEADER..]);
    let rest = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 10, 0, 0, 0];
    assert_eq!(written[bytes.len()..], rest, "the owner is the question's name");
}

#[test]
fn every_kind_of_record_is_written_so_that_it_can_be_read() {
    let soa = Soa {
        mname: name("ns.dns.cluster.local"),
        rname: name("hostmaster.cluster.local"),
        serial: 1,
        refresh: 2,
        retry: 3,
        expire: 4,
        minimum: 5,
    };
    let (v4, v6) = ([10, 0, 0, 1].into(), "fd00::1".parse().unwrap());
    let answer = Answer {
        answers: vec![
            record(NAME, Data::Cname(name("one.example.com"))),
            record("one.example.com", Data::A(v4)),
            record("one.example.com", Data::Aaaa(v6)),
            record(NAME, Data::Txt("1.1.0".to_owned())),
            record(
                NAME,
                Data::Srv { priority: 0, weight: 50, port: 80, target: name("a.cluster.local") },
            ),
        ],
        authority: vec![record("cluster.local", Data::Soa(Box::new(soa)))],
        additional: vec![record("a.cluster.local", Data::Ns(name("b.a.cluster.local")))],
        ..Answer::default()
    };
    let bytes = query(&[]);
    let read = Query::read(&bytes).unwrap();
    let written = read.write(&bytes, &answer, Transport::Tcp, false);
    let reply = Reply::to(&bytes, bytes.len(), &written).unwrap();
    assert_eq!(reply.addresses(bytes.len()), answer.answers[..3]);

    let heads = reply.heads(bytes.len()).unwrap();
    assert_eq!(heads.last().unwrap().end, written.len());
    let data = |at: usize| &written[heads[at].data..heads[at].end];
    assert_eq!(data(3), b"\x051.1.0");
    assert_eq!(data(4), b"\0\0\0\x32\0\x50\x01a\x07cluster\x05local\0", "not compressed");
    assert_eq!(Name::read(&written, heads[5].data).unwrap().0, name("ns.dns.cluster.local"));
    assert_eq!(data(5)[data(5).len() - 4..], [0, 0, 0, 5]);
    assert_eq!(Name::read(&written, heads[6].data).unwrap().0, name("b.a.cluster.local"));
    assert_eq!(data(6).len(), 4, "one label and a pointer");
}

#[test]
fn what_does_not_fit_is_left_out_and_told() {
    let answer = Answer::of(addresses(100));
    let written = |additional: &[u8], transport| {
        let bytes = query(additional);
        Query::read(&bytes).unwrap().write(&bytes, &answer, transport, false)
    };
    let is_truncated = |message: &[u8]| be16(message, 2).unwrap() & TRUNCATED != 0;

    let small = written(&[], Transport::Udp);
    assert!(small.len() <= 512 && is_truncated(&small));
    assert_eq!(counts(&small)[1], 29);
    let larger = written(&opt(1232, 0), Transport::Udp);
    assert!(larger.len() <= 1232 && is_truncated(&larger));
    assert_eq!(counts(&larger), [1, 73, 0, 1], "with the OPT record");
    let tiny = written(&opt(7, 0), Transport::Udp);
    assert_eq!(counts(&tiny)[1], 28, "nobody takes less than 512");
    for all in [written(&opt(4096, 0), Transport::Udp), written(&[], Transport::Tcp)] {
        assert_eq!((counts(&all)[1], is_truncated(&all)), (100, false));
    }

    // Without what nobody asked for the answer is whole.
    let answer = Answer { additional: addresses(100), ..Answer::of(addresses(1)) };
    let bytes = query(&[]);
    let written = Query::read(&bytes).unwrap().write(&bytes, &answer, Transport::Udp, false);
    assert_eq!((counts(&written), is_truncated(&written)), ([1, 1, 0, 28], false));
}

#[test]
fn edns_is_answered_with_edns() {
    let bytes = query(&opt(1232, 0x8000));
    let read = Query::read(&bytes).unwrap();
    let written = read.write(&bytes, &Answer::default(), Transport::Udp, false);
    assert_eq!(written[written.len() - OPT..], opt(UDP_ADVISED, 0x8000)[..]);

    let newer = told(&query(&opt(1232, 1 << 16)));
    assert_eq!(newer[newer.len() - OPT..], opt(UDP_ADVISED, 1 << 24)[..], "BADVERS");
    assert_eq!(
        code_of(&told(&{
            let mut twice = query(&[opt(512, 0), opt(512, 0)].concat());
            twice[11] = 2;
            twice
        })),
        Code::FormErr as u16
    );
}

#[test]
fn what_is_no_query_is_ignored_or_told_so() {
    assert_eq!(Query::read(b"short"), Err(Unanswerable::Ignored));
    let mut answer = query(&[]);
    answer[2] |= 0x80;
    assert_eq!(Query::read(&answer), Err(Unanswerable::Ignored), "or two servers talk for ever");

    let check = |change: fn(&mut Vec<u8>), code: Code| {
        let mut bytes = query(&[]);
        change(&mut bytes);
        let answer = told(&bytes);
        assert_eq!((code_of(&answer), &answer[..2]), (code as u16, &bytes[..2]));
        assert!(answer[2] & 0x80 != 0);
    };
    check(|bytes| bytes[2] = 4 << 3, Code::NotImp);
    check(|bytes| bytes[5] = 0, Code::FormErr);
    check(|bytes| bytes[5] = 2, Code::FormErr);
    check(|bytes| bytes[11] = 9, Code::FormErr);
    check(|bytes| bytes.truncate(20), Code::FormErr);
    check(|bytes| bytes[HEADER] = 0xc0, Code::FormErr);
    check(|bytes| *bytes.last_mut().unwrap() = 3, Code::Refused);
    check(
        |bytes| {
            let end = bytes.len();
            bytes[end - 3] = 252
        },
        Code::Refused,
    );
}

#[test]
fn the_seeds_of_the_fuzz_target_are_queries() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus-seeds/dns");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        names.push(Query::read(&bytes).unwrap().question.name.to_string());
    }
    names.sort();
    assert_eq!(names.first().map(String::as_str), Some("10-244-0-7.default.pod.cluster.local."));
    assert_eq!(names.len(), 8);
}

proptest! {
    #[test]
    fn nothing_that_is_sent_breaks_the_reader(
        mut bytes in prop::collection::vec(any::<u8>(), 0..80),
        begin in 0..60_usize,
    ) {
        // What begins as a query comes further.
        let sound = query(&opt(1232, 0));
        let begin = begin.min(bytes.len()).min(sound.len());
        bytes[..begin].copy_from_slice(&sound[..begin]);
        match Query::read(&bytes) {
            Ok(query) => {
                let answer = query.write(&bytes, &Answer::of(addresses(3)), Transport::Udp, false);
                prop_assert!(Reply::to(&bytes, query.question_end, &answer).is_some());
            }
            Err(Unanswerable::Told(answer)) => prop_assert_eq!(&answer[..2], &bytes[..2]),
            Err(Unanswerable::Ignored) => prop_assert!(bytes.len() < HEADER || bytes[2] & 0x80 != 0),
        }
        let reply = Reply(&bytes);
        let _ = (reply.heads(begin), reply.addresses(begin), reply.is_truncated());
    }

    #[test]
    fn names_are_read_as_they_were_written(
        names in prop::collection::vec("[a-d]{1,3}(\\.[a-d]{1,2}){0,5}", 1..30),
    ) {
        let records: Vec<_> = names.iter().map(|of| record(of, Data::Ptr(name(of)))).collect();
        let bytes = query(&[]);
        let read = Query::read(&bytes).unwrap();
        let written = read.write(&bytes, &Answer::of(records), Transport::Tcp, false);
        let mut at = bytes.len();
        for text in &names {
            let (owner, _) = Name::read(&written, at).unwrap();
            let head = Head::read(&written, at).unwrap();
            prop_assert_eq!(&owner, &name(text));
            prop_assert_eq!(Name::read(&written, head.data), Some((name(text), head.end)));
            at = head.end;
        }
        prop_assert_eq!(at, written.len());
    }
}
