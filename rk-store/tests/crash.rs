//! Kills a process that writes, at random moments, again and again (SIGKILL), and looks afterwards:
//! every acknowledged write is there, none is torn, and history goes on where it was. Backups that
//! it was making are whole, of one revision, and restore.
//!
//! The program starts itself as the process to be killed. `RK_CRASH_ROUNDS` says how often
//! (default 300); `RK_CRASH_SECONDS` when to stop at the latest (default 120).
#![allow(clippy::unwrap_used)] // A test from top to bottom.

use std::{collections::BTreeMap, io::Write, path::Path, process::Stdio, time::Duration};

use bytes::Bytes;
use rk_store::{EmbeddedStore, Expect, Options, Range, RangeResponse, Revision, Store, Versioned};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::{Instant, sleep, timeout},
};

const WRITERS: usize = 12;
const KEYS: u64 = 8;
const DIRECTORY: &str = "RK_CRASH_DIRECTORY";
const STEPS: &str = "RK_CRASH_STEPS";
const BACKUP: &str = "RK_CRASH_BACKUP";

/// Small files, so that the process dies in new segments, seals and snapshots too.
fn options() -> Options {
    Options { segment_bytes: 64 << 10, snapshot_bytes: 256 << 10, ..Options::default() }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// What a writer does in one of its steps: this key, with this value or deleted.
fn step(writer: usize, number: u64) -> (String, Option<Bytes>) {
    let mut dice = Dice((writer as u64) << 32 | number);
    dice.below(2);
    let key = format!("/{writer}/{}", dice.below(KEYS));
    if dice.below(6) == 0 {
        return (key, None);
    }
    let length = [0, 20, 300, 2000, 9000][dice.below(5) as usize];
    let mut value = format!("{writer} {number} ").into_bytes();
    value.extend((0..length).map(|at: u64| (at.wrapping_mul(number | 1) >> 3) as u8));
    (key, Some(Bytes::from(value)))
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match std::env::var(DIRECTORY) {
        Ok(directory) => runtime.block_on(child(directory)),
        Err(_) => runtime.block_on(parent()),
    }
}

/// Writes until it is killed, and says what was acknowledged.
async fn child(directory: String) {
    let steps = std::env::var(STEPS).unwrap();
    let store = EmbeddedStore::open(directory, options()).await.unwrap();
    say("open");
    tokio::spawn(back_up(store.clone()));
    let writers: Vec<_> = steps
        .split(' ')
        .map(|number| number.parse::<u64>().unwrap())
        .enumerate()
        .map(|(writer, first)| tokio::spawn(write(store.clone(), writer, first)))
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

/// Makes one backup after the other.
async fn back_up(store: EmbeddedStore) {
    let path = std::env::var(BACKUP).unwrap();
    loop {
        store.backup(&path).await.unwrap();
        sleep(Duration::from_millis(5)).await;
    }
}

async fn write(store: EmbeddedStore, writer: usize, first: u64) {
    for number in first.. {
        let (key, value) = step(writer, number);
        let revision = match value {
            Some(value) => store.put(&key, value, Expect::Any, None).await.unwrap().0,
            None => match store.delete(&key, Expect::Any).await {
                Ok((revision, _)) => revision.0,
                Err(rk_store::StoreError::Conflict { found: None, .. }) => 0,
                Err(error) => panic!("{error}"),
            },
        };
        say(&format!("{writer} {number} {revision}"));
    }
}

/// One line, in one write: a kill leaves it whole or cuts off its end.
fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(format!("{line}\n").as_bytes()).unwrap();
    stdout.flush().unwrap();
}

/// What the parent knows to be written.
#[derive(Default)]
struct Known {
    /// The next step of each writer.
    steps: Vec<u64>,
    keys: BTreeMap<String, Bytes>,
    revisions: BTreeMap<String, u64>,
    revision: u64,
    acknowledged: u64,
    unacknowledged_but_there: u64,
    torn: u64,
    snapshots: u64,
    backups: u64,
}

impl Known {
    /// Step `number` of `writer` happened.
    fn advance(&mut self, writer: usize, number: u64, revision: Option<u64>) {
        assert_eq!(self.steps[writer], number, "writer {writer} does one step after the other");
        self.steps[writer] += 1;
        let (key, value) = step(writer, number);
        self.revisions.remove(&key);
        match value {
            Some(value) => {
                self.revisions.extend(revision.map(|revision| (key.clone(), revision)));
                self.keys.insert(key, value);
            }
            None => {
                self.keys.remove(&key);
            }
        }
    }

    fn line(&mut self, line: &str) {
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        let &[writer, number, revision] = &numbers[..] else { panic!("{line}") };
        self.advance(writer as usize, number, Some(revision));
        self.revision = self.revision.max(revision);
        self.acknowledged += 1;
    }

    /// Compares with what is found. Each writer may have done one step more than it could say.
    fn check(&mut self, found: &[Versioned], round: u64) {
        let found: BTreeMap<&str, &Versioned> =
            found.iter().map(|item| (&*item.key, item)).collect();
        for writer in 0..WRITERS {
            let next = self.steps[writer];
            let (key, value) = step(writer, next);
            let there = found.get(&*key).map(|item| &item.value);
            if self.keys.get(&key) != there && value.as_ref() == there {
                self.advance(writer, next, None);
                self.unacknowledged_but_there += 1;
            }
        }
        for (key, value) in &self.keys {
            let item = found.get(&**key);
            let item = item.unwrap_or_else(|| panic!("round {round}: {key} is lost"));
            assert_eq!(&item.value, value, "round {round}: {key} is torn or old");
            if let Some(revision) = self.revisions.get(key) {
                assert_eq!(item.modified.0, *revision, "round {round}: {key}");
            }
        }
        for key in found.keys() {
            assert!(self.keys.contains_key(*key), "round {round}: {key} was deleted");
        }
    }
}

async fn parent() {
    let number = |name, default| {
        std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok()).unwrap_or(default)
    };
    let rounds = number("RK_CRASH_ROUNDS", 300);
    let limit = Duration::from_secs(number("RK_CRASH_SECONDS", 120));
    let (home, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let copy = copies.path().join("backup");
    let mut known = Known { steps: vec![0; WRITERS], ..Known::default() };
    let mut dice = Dice(rounds);
    let begin = Instant::now();
    let mut killed = 0;
    while killed < rounds && begin.elapsed() < limit {
        kill_at_random(home.path(), &copy, &mut dice, &mut known).await;
        killed += 1;
        let found = look(home.path(), &mut known, killed).await;
        if copy.exists() {
            restore(&copy, &found, &copies.path().join(killed.to_string())).await;
            known.backups += 1;
        }
    }
    println!(
        "killed {killed} times: {} acknowledged writes were all there, {} more had become durable \
         unheard, {} torn tails were cut off, {} starts were from a snapshot, {} backups restored",
        known.acknowledged,
        known.unacknowledged_but_there,
        known.torn,
        known.snapshots,
        known.backups
    );
    assert!(known.acknowledged > killed, "the process hardly got to write");
    assert!(known.backups > 0, "the process never got to make a backup");
}

async fn kill_at_random(directory: &Path, copy: &Path, dice: &mut Dice, known: &mut Known) {
    let steps: Vec<_> = known.steps.iter().map(u64::to_string).collect();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(DIRECTORY, directory)
        .env(STEPS, steps.join(" "))
        .env(BACKUP, copy)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // Now and then while it opens the store; else after some writes, a little later.
    let writes = if dice.below(10) == 0 { 0 } else { 1 + dice.below(400) };
    let later = Duration::from_micros(dice.below(3000));
    for _ in 0..writes {
        let line = timeout(Duration::from_secs(60), lines.next_line()).await;
        let line = line.expect("the process writes").unwrap().expect("the process lives");
        if line != "open" {
            known.line(&line);
        }
    }
    sleep(later).await;
    child.start_kill().unwrap();
    child.wait().await.unwrap();
    // The rest of what it said. A line that was cut off is not an acknowledgement.
    let mut rest = Vec::new();
    let mut reader = lines.into_inner();
    tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut rest).await.unwrap();
    let whole = rest.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    for line in std::str::from_utf8(&rest[..whole]).unwrap().lines() {
        if line != "open" {
            known.line(line);
        }
    }
}

async fn look(directory: &Path, known: &mut Known, round: u64) -> RangeResponse {
    let store = EmbeddedStore::open(directory, options()).await.unwrap();
    let report = store.open_report().unwrap().clone();
    known.torn += u64::from(report.torn.is_some());
    known.snapshots += u64::from(report.snapshot > Revision(0));
    let all = store.range(Range::default()).await.unwrap();
    assert!(all.revision.0 >= known.revision, "round {round}: history went back");
    assert_eq!(all.revision, report.revision);
    known.revision = all.revision.0;
    known.check(&all.items, round);
    store.close().await;
    all
}

/// Restores the last backup, and compares it with what the store has come to since: a key that was
/// not written after the backup's revision is as it was then.
async fn restore(copy: &Path, now: &RangeResponse, directory: &Path) {
    let revision = EmbeddedStore::restore(copy, directory).await.unwrap();
    assert!(revision <= now.revision, "a backup of {revision} knows more than the store");
    let store = EmbeddedStore::open(directory, options()).await.unwrap();
    let then = store.range(Range::default()).await.unwrap();
    assert_eq!(then.revision, revision);
    assert!(then.items.iter().all(|item| item.modified <= revision));
    for item in now.items.iter().filter(|item| item.modified <= revision) {
        assert!(then.items.contains(item), "{} is not in the backup of {revision}", item.key);
    }
    store.close().await;
    std::fs::remove_dir_all(directory).unwrap();
}
