//! What a disk can do to a store, on a disk that does it.

use std::collections::BTreeMap;

use futures::executor::block_on;

use super::*;
use crate::{
    EmbeddedStore, OpenReport, Options, Range, Store,
    embedded::{disk::sim::Sim, log::segment_number, segment},
};

const OPTIONS: Options = Options {
    history_events_max: 1000,
    history_bytes_max: 1 << 20,
    segment_bytes: 4096,
    snapshot_bytes: 12_000,
};

type Model = BTreeMap<String, (Bytes, u64)>;

fn open(sim: &Sim) -> Result<EmbeddedStore, StoreError> {
    EmbeddedStore::open_disk(Arc::new(sim.clone()), None, &OPTIONS)
}

fn report(store: &EmbeddedStore) -> &OpenReport {
    store.open_report().unwrap()
}

fn state(store: &EmbeddedStore) -> (Model, u64) {
    let all = block_on(store.range(Range::default())).unwrap();
    let items = all.items.into_iter();
    let model = items.map(|item| (item.key.to_string(), (item.value, item.modified.0))).collect();
    (model, all.revision.0)
}

/// Makes `work` one batch: nothing is flushed before all of it is queued.
fn together(
    store: &EmbeddedStore,
    work: impl Iterator<Item = (String, Option<Bytes>)>,
) -> Vec<Result<Revision, StoreError>> {
    let durable = store.core.durable.as_ref().unwrap();
    durable.queue.lock().flushing = true;
    let mut writes: Vec<_> = work
        .map(|(key, value)| {
            Box::pin(async move {
                match value {
                    Some(value) => store.put(&key, value, Expect::Any, None).await,
                    None => store.delete(&key, Expect::Any).await.map(|(revision, _)| revision),
                }
            })
        })
        .collect();
    block_on(async {
        for write in &mut writes {
            assert!(futures::poll!(write.as_mut()).is_pending(), "it waits for the flush");
        }
        Durable::flush(Arc::clone(durable));
        futures::future::join_all(writes).await
    })
}

/// Some writes, at most one per key, that all succeed on `model`.
fn some_writes(dice: &mut Dice, model: &Model) -> BTreeMap<String, Option<Bytes>> {
    let count = 1 + dice.below(4);
    let mut writes = BTreeMap::new();
    for _ in 0..count {
        let key = format!("/k/{}", dice.below(12));
        let length = [10, 100, 700, 3000][dice.below(4) as usize];
        let delete = model.contains_key(&key) && dice.below(4) == 0;
        let byte = 1 + dice.below(255) as u8;
        writes.insert(key, (!delete).then(|| Bytes::from(vec![byte; length])));
    }
    writes
}

fn apply(model: &mut Model, revision: &mut u64, writes: BTreeMap<String, Option<Bytes>>) {
    for (key, value) in writes {
        *revision += 1;
        match value {
            Some(value) => model.insert(key, (value, *revision)),
            None => model.remove(&key),
        };
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Writes batch after batch until one fails or `batches` are done. `model` gets what was
/// acknowledged; returned is the state in which the failed batch had happened too.
fn write_until_failure(
    store: &EmbeddedStore,
    dice: &mut Dice,
    model: &mut (Model, u64),
    batches: u64,
) -> Option<(Model, u64)> {
    for _ in 0..batches {
        let writes = some_writes(dice, &model.0);
        let mut next = model.clone();
        apply(&mut next.0, &mut next.1, writes.clone());
        let outcomes = together(store, writes.into_iter());
        if outcomes.iter().any(Result::is_err) {
            assert!(outcomes.iter().all(Result::is_err), "a batch fails as a whole");
            assert_eq!(state(store), *model, "what failed must not be seen");
            return Some(next);
        }
        *model = next;
        assert_eq!(state(store), *model);
    }
    None
}

#[test]
fn no_loss_of_power_at_any_moment_loses_what_was_acknowledged() {
    let rounds = 600;
    let mut torn = 0;
    for seed in 0..rounds {
        let mut dice = Dice(seed);
        let mut sim = Sim::new(seed);
        if seed % 3 == 0 {
            sim.write_short();
        }
        let mut model = (Model::new(), 0);
        for _ in 0..4 {
            let mut possible = vec![model.clone()];
            sim.fail_power_after(dice.below(250));
            // Opening can be hit as well.
            if let Ok(store) = open(&sim) {
                assert_eq!(state(&store), model, "seed {seed}");
                possible.extend(write_until_failure(&store, &mut dice, &mut model, 60));
                possible[0] = model.clone();
            }
            sim = sim.after_power_loss();
            let store = open(&sim.copy()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            torn += u64::from(report(&store).torn.is_some());
            let found = state(&store);
            assert!(possible.contains(&found), "seed {seed}: {found:?} is none of {possible:?}");
            model = found;
            // What was read from an opened store must stay, whatever happens next.
            drop(store);
            let store = open(&sim).unwrap();
            assert_eq!(state(&store), model, "seed {seed}");
            drop(store);
            sim = sim.after_power_loss();
            assert_eq!(state(&open(&sim).unwrap()), model, "seed {seed}");
        }
    }
    assert!(torn > rounds / 20, "only {torn} torn tails: the test does not reach them");
}

#[test]
fn a_failed_flush_makes_the_store_read_only_and_undoes_nothing_that_was_seen() {
    for seed in 0..300 {
        let mut dice = Dice(seed);
        let sim = Sim::new(seed);
        let mut model = (Model::new(), 0);
        let store = open(&sim).unwrap();
        sim.fail_flush_after(dice.below(40));
        let Some(failed) = write_until_failure(&store, &mut dice, &mut model, 80) else {
            // It was the flush of a snapshot that failed, which harms nobody.
            continue;
        };
        let refused = block_on(store.put("/k/0", Bytes::new(), Expect::Any, None));
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
        assert_eq!(state(&store), model);
        drop(store);

        // The process ends; the system still has in its cache what the disk may not have.
        let store = open(&sim).unwrap();
        let seen = state(&store);
        assert!([&model, &failed].contains(&&seen), "seed {seed}");
        drop(store);
        assert_eq!(state(&open(&sim.after_power_loss()).unwrap()), seen, "seed {seed}");
    }
}

#[test]
fn a_full_disk_makes_the_store_read_only_until_it_is_opened_with_room() {
    for seed in 0..100 {
        let mut dice = Dice(seed);
        let sim = Sim::new(seed);
        let mut model = (Model::new(), 0);
        let store = open(&sim).unwrap();
        sim.limit(Some(sim.used() + dice.below(20_000) as usize));
        let failed = write_until_failure(&store, &mut dice, &mut model, 500).unwrap();
        assert_eq!(state(&store), model);
        drop(store);

        sim.limit(None);
        let store = open(&sim).unwrap();
        let seen = state(&store);
        assert!([&model, &failed].contains(&&seen), "seed {seed}");
        model = seen;
        assert_eq!(write_until_failure(&store, &mut dice, &mut model, 20), None);
    }
}

/// A disk with a snapshot and segments after it, and what is in it. The store was killed, not
/// closed. The names are those of the files that matter.
fn some_disk(seed: u64) -> (Sim, (Model, u64), Vec<String>) {
    let sim = Sim::new(seed);
    let mut model = (Model::new(), 0);
    let store = open(&sim).unwrap();
    let mut dice = Dice(seed);
    loop {
        assert_eq!(write_until_failure(&store, &mut dice, &mut model, 1), None);
        // Opening removes what is not needed any more.
        let copy = sim.copy();
        let segments = report(&open(&copy).unwrap()).segments;
        assert!(segments < 20, "old segments are not removed");
        let mut names = copy.list().unwrap();
        names.retain(|n| segment_number(n).is_some() || snapshot_revision(n).is_some());
        assert!(names.len() - segments < 2, "old snapshots are not removed: {names:?}");
        if names.len() > segments && segments > 2 {
            return (sim, model, names);
        }
    }
}

/// Opening `sim` either complains of damage or shows all of `model`.
fn detected_or_harmless(sim: &Sim, model: &(Model, u64), what: &str) -> bool {
    match open(sim) {
        Err(StoreError::Corrupt { .. }) => true,
        Err(other) => panic!("{what}: {other}"),
        Ok(store) => {
            assert_eq!(&state(&store), model, "{what}");
            false
        }
    }
}

#[test]
fn no_changed_byte_goes_unnoticed_or_changes_what_is_read() {
    for seed in 0..3 {
        let (sim, model, needed) = some_disk(seed);
        let mut dice = Dice(seed);
        for name in sim.list().unwrap() {
            let contents = sim.contents(&name);
            for at in 0..contents.len() {
                let mut damaged = contents.clone();
                damaged[at] ^= 1 << dice.below(8);
                let copy = sim.copy();
                copy.replace(&name, damaged);
                let detected = detected_or_harmless(&copy, &model, &format!("{name}, byte {at}"));
                let padding = contents[at] == 0;
                let harmless = padding || !needed.contains(&name);
                assert!(detected || harmless, "{name}, byte {at}: not noticed");
            }
        }
    }
}

#[test]
fn no_missing_or_shortened_or_exchanged_file_goes_unnoticed() {
    for seed in 0..20 {
        let (sim, model, names) = some_disk(seed);
        let mut dice = Dice(seed);
        for name in &names {
            let copy = sim.copy();
            copy.remove(name).unwrap();
            assert!(detected_or_harmless(&copy, &model, &format!("without {name}")), "{name}");

            let contents = sim.contents(name);
            let length = dice.below(contents.len() as u64) as usize;
            let copy = sim.copy();
            copy.replace(name, contents[..length].to_vec());
            let what = format!("{name}, {length} bytes of it");
            assert!(detected_or_harmless(&copy, &model, &what), "{what}");

            let other = &names[dice.below(names.len() as u64) as usize];
            if other != name {
                let copy = sim.copy();
                copy.replace(name, sim.contents(other));
                let what = format!("{name} is {other}");
                assert!(detected_or_harmless(&copy, &model, &what), "{what}");
            }
        }
    }
}

#[test]
fn damage_is_reported_with_its_file_and_place() {
    let (sim, _, names) = some_disk(1);
    let name = names.iter().find(|name| segment_number(name).is_some()).unwrap();
    let mut contents = sim.contents(name);
    contents[64 + 32 + 45] ^= 1;
    sim.replace(name, contents);

    let error = open(&sim).unwrap_err();

    let StoreError::Corrupt { file, offset, detail } = &error else { panic!("{error}") };
    assert_eq!((file, *offset), (name, 96));
    assert!(detail.contains("checksum") && detail.contains("restore a backup"), "{detail}");
}

#[test]
fn a_torn_tail_is_cut_off_and_reported_and_the_log_goes_on() {
    let sim = Sim::new(0);
    let store = open(&sim).unwrap();
    for round in 0..3 {
        let put = store.put("/k", Bytes::from(vec![round; 100]), Expect::Any, None);
        block_on(put).unwrap();
    }
    drop(store);
    let name = "wal-00000000000000000001.log";
    let mut contents = sim.contents(name);
    // The third batch lost its mark and half of its record.
    let batch = segment::batch_extent(record::encoded_bytes("/k", 100));
    let (start, end) = (64 + 2 * batch, 64 + 3 * batch);
    contents[end - 32..end].fill(0);
    contents[start + 70..end - 32].fill(0);
    sim.replace(name, contents);

    let store = open(&sim).unwrap();
    let torn = report(&store).torn.clone().unwrap();
    assert_eq!((torn.file.as_str(), torn.offset as usize), (name, start));
    assert_eq!(state(&store).1, 2);
    block_on(store.put("/k", Bytes::from("four"), Expect::Any, None)).unwrap();
    drop(store);

    let store = open(&sim).unwrap();
    assert_eq!((report(&store).torn.as_ref(), state(&store).1), (None, 3));
}
