//! Keys with a time to live. Stores may be late by some seconds, but never early.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use tokio::time::{Instant, sleep};

use super::{bytes, key, now, put, watch};
use crate::{Event, Expect, Store, WatchStream};

const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(1000);

async fn put_for(store: &dyn Store, name: &str, ttl: Duration) {
    let put = store.put(&key(name), bytes(name), Expect::Any, Some(ttl)).await;
    put.expect("a put without expectation commits");
}

async fn next_event(watch: &mut WatchStream) -> Event {
    loop {
        let batch = watch.next().await.expect("the watch goes on").expect("nothing is compacted");
        if let Some(event) = batch.events.into_iter().next() {
            return event;
        }
    }
}

pub(super) async fn a_key_expires_and_watchers_see_it(store: Arc<dyn Store>) {
    let begin = Instant::now();
    put_for(&*store, "short", SHORT).await;
    put_for(&*store, "long", LONG).await;
    let held = store.get(&key("short")).await.expect("a key can be read");
    let held = held.expect("it lives");
    let mut watch = watch(&*store, "", now(&*store).await).await;

    let event = next_event(&mut watch).await;

    assert!(begin.elapsed() >= SHORT, "after {:?}", begin.elapsed());
    assert_eq!((&*event.key, event.value), (&*key("short"), None));
    assert_eq!((event.created, event.previous), (held.created, Some(held)));
    assert_eq!(store.get(&key("short")).await.expect("a key can be read"), None);
    assert!(now(&*store).await >= event.revision);
    assert!(store.get(&key("long")).await.expect("a key can be read").is_some());
    let again = store.put(&key("short"), bytes(""), Expect::Absent, None).await;
    assert!(again.expect("it is absent") > event.revision);
}

pub(super) async fn a_later_put_replaces_the_time_to_live(store: Arc<dyn Store>) {
    put_for(&*store, "kept", SHORT).await;
    put_for(&*store, "prolonged", SHORT).await;
    put_for(&*store, "deleted", SHORT).await;
    put(&*store, "kept", "for good").await;
    put_for(&*store, "prolonged", LONG).await;
    store.delete(&key("deleted"), Expect::Any).await.expect("it lives");
    put(&*store, "deleted", "and made anew").await;
    put_for(&*store, "shortened", LONG).await;
    put_for(&*store, "shortened", SHORT).await;
    let mut watch = watch(&*store, "", now(&*store).await).await;

    let event = next_event(&mut watch).await;
    assert_eq!((&*event.key, event.value), (&*key("shortened"), None));

    sleep(SHORT).await;
    for name in ["kept", "prolonged", "deleted"] {
        assert!(store.get(&key(name)).await.expect("a key can be read").is_some(), "{name}");
    }
}
