//! Many keys: prefixes, pages, the past, compaction.

use std::{collections::BTreeMap, sync::Arc};

use super::{Dice, PREFIX, all_at, bytes, delete, key, now, put};
use crate::{Expect, Range, RangeResponse, Revision, Store, StoreError, Versioned};

async fn range(store: &dyn Store, range: Range<'_>) -> RangeResponse {
    store.range(range).await.expect("a kept revision can be read")
}

fn names(answer: &RangeResponse) -> Vec<&str> {
    answer.items.iter().map(|item| &item.key[PREFIX.len()..]).collect()
}

pub(super) async fn a_range_has_the_keys_of_its_prefix_in_byte_order(store: Arc<dyn Store>) {
    for name in ["b/1", "a", "a/2", "a/1", "a0", "ä", "a/", "b"] {
        put(&*store, name, name).await;
    }
    let last = now(&*store).await;

    let all = all_at(&*store, None).await;
    assert_eq!(names(&all), ["a", "a/", "a/1", "a/2", "a0", "b", "b/1", "ä"]);
    assert_eq!((all.revision, all.remaining), (last, 0));
    for item in &all.items {
        assert_eq!(item.value, bytes(&item.key[PREFIX.len()..]));
    }

    let prefix = key("a/");
    let some = range(&*store, Range { prefix: &prefix, ..Range::default() }).await;
    assert_eq!(names(&some), ["a/", "a/1", "a/2"]);
    let prefix = key("c");
    let none = range(&*store, Range { prefix: &prefix, ..Range::default() }).await;
    assert_eq!((none.items.len(), none.revision, none.remaining), (0, last, 0));
}

pub(super) async fn a_limited_range_counts_what_remains(store: Arc<dyn Store>) {
    for number in 0..10 {
        put(&*store, &format!("n/{number}"), number).await;
    }
    put(&*store, "other", "").await;
    let prefix = key("n/");
    let (third, last) = (key("n/3"), key("n/9"));
    let cases: [(Option<&str>, usize, usize, usize); 7] = [
        (None, 0, 10, 0),
        (None, 4, 4, 6),
        (None, 10, 10, 0),
        (None, 99, 10, 0),
        (Some(&third), 4, 4, 2),
        (Some(&third), 0, 6, 0),
        (Some(&last), 4, 0, 0),
    ];
    for (after, limit, items, remaining) in cases {
        let answer = range(&*store, Range { prefix: &prefix, after, limit, revision: None }).await;
        let got = (answer.items.len(), answer.remaining);
        assert_eq!(got, (items, remaining), "after {after:?}, limit {limit}");
        assert!(after.is_none_or(|after| answer.items.iter().all(|item| &*item.key > after)));
    }
}

pub(super) async fn pages_at_one_revision_make_up_the_range_of_that_revision(
    store: Arc<dyn Store>,
) {
    for number in 0..50 {
        put(&*store, &format!("{number:02}"), number).await;
    }
    let whole = all_at(&*store, None).await;
    let mut items: Vec<Versioned> = Vec::new();
    for page in 0..99 {
        let after = items.last().map(|item| item.key.clone());
        let revision = Some(whole.revision);
        let asked = Range { prefix: PREFIX, after: after.as_deref(), limit: 7, revision };
        let answer = range(&*store, asked).await;
        assert_eq!(answer.revision, whole.revision);
        items.extend(answer.items);
        assert_eq!(items.len() + answer.remaining, 50);
        if answer.remaining == 0 {
            break;
        }
        // Changes meanwhile: before, at and after the place where the next page begins.
        put(&*store, "00", "changed").await;
        put(&*store, &format!("new-{page}"), "").await;
        for number in [page * 7 + 6, 49 - page] {
            // Some are gone already.
            let _ = store.delete(&key(format!("{number:02}")), Expect::Any).await;
        }
    }
    assert_eq!(items, whole.items);
}

/// Writes at random, and says what was there after each write.
async fn scribble(store: &dyn Store, seed: u64) -> Vec<(Revision, BTreeMap<String, Versioned>)> {
    let mut dice = Dice(seed);
    let mut model: BTreeMap<String, Versioned> = BTreeMap::new();
    let mut history = Vec::new();
    for round in 0..120 {
        let name = format!("{}/{}", ["a", "b"][dice.below(2) as usize], dice.below(12));
        let there = model.get(&key(&name)).map(|item| item.created);
        let revision = if there.is_some() && dice.below(3) == 0 {
            model.remove(&key(&name));
            delete(store, &name).await
        } else {
            let revision = put(store, &name, round).await;
            let item = Versioned {
                key: key(&name).into(),
                value: bytes(round),
                created: there.unwrap_or(revision),
                modified: revision,
            };
            model.insert(key(&name), item);
            revision
        };
        history.push((revision, model.clone()));
    }
    history
}

pub(super) async fn a_range_at_any_kept_revision_is_what_was_there_then(store: Arc<dyn Store>) {
    let history = scribble(&*store, 1).await;
    let mut dice = Dice(2);
    for (revision, model) in &history {
        let prefix = [key(""), key("a/"), key("b/1")][dice.below(3) as usize].clone();
        let after = key(format_args!("a/{}", dice.below(12)));
        let after = (dice.below(2) == 0).then_some(&*after);
        let limit = dice.below(6) as usize;
        let asked = Range { prefix: &prefix, after, limit, revision: Some(*revision) };
        let answer = range(&*store, asked).await;

        let wanted = model.values().filter(|item| {
            item.key.starts_with(&prefix) && after.is_none_or(|after| &*item.key > after)
        });
        let wanted: Vec<_> = wanted.cloned().collect();
        let page = if limit == 0 { wanted.len() } else { limit.min(wanted.len()) };
        assert_eq!(answer.items, wanted[..page], "{asked:?}");
        assert_eq!(answer.remaining, wanted.len() - page, "{asked:?}");
        assert_eq!(answer.revision, *revision);
    }
}

pub(super) async fn a_range_in_the_future_is_refused(store: Arc<dyn Store>) {
    let latest = put(&*store, "a", "").await;
    let asked = Revision(latest.0 + 100);
    let range = Range { prefix: PREFIX, revision: Some(asked), ..Range::default() };
    match store.range(range).await {
        Err(StoreError::Future { asked: named, latest: known }) => {
            assert_eq!((named, known), (asked, latest));
        }
        other => panic!("expected Future, not: {other:?}"),
    }
}

pub(super) async fn compaction_forgets_the_past_and_keeps_the_present(store: Arc<dyn Store>) {
    let history = scribble(&*store, 3).await;
    let (at, then) = &history[60];
    let (latest, present) = history.last().expect("it was written to");

    store.compact(*at).await.expect("a kept revision can be compacted to");

    let kept = all_at(&*store, Some(*at)).await;
    assert_eq!(kept.items, then.values().cloned().collect::<Vec<_>>());
    let current = all_at(&*store, None).await;
    assert_eq!(current.items, present.values().cloned().collect::<Vec<_>>());
    assert_eq!(current.revision, *latest);
    for (revision, _) in &history[..60] {
        let range = Range { prefix: PREFIX, revision: Some(*revision), ..Range::default() };
        match store.range(range).await {
            Err(StoreError::Compacted { asked, oldest }) => {
                assert_eq!(asked, *revision);
                assert!(oldest > *revision && oldest <= *at, "{oldest} is the oldest kept");
            }
            other => panic!("expected Compacted, not: {other:?}"),
        }
    }

    store.compact(*latest).await.expect("all of the past can be forgotten");
    let current = all_at(&*store, Some(*latest)).await;
    assert_eq!(current.items, present.values().cloned().collect::<Vec<_>>());
    let held = store.put(&key("a/1"), bytes("x"), Expect::Any, None).await;
    assert!(held.expect("writing goes on") > *latest);
}
