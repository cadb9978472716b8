//! What others find in etcd.

use rk_store::{EtcdOptions, EtcdStore, Expect, Keyspace, Range, Store};

use crate::{
    cluster::{Etcd, present},
    options, store_on,
};

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_values_are_in_etcd_as_they_are_here() {
    let Some(etcd) = Etcd::start(1).await.filter(|_| present("etcdctl")) else { return };
    let store = store_on(&etcd).await;
    let value = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}"#;
    store.put("/registry/pods/default/a", value.into(), Expect::Absent, None).await.unwrap();

    let printed = etcd.etcdctl(&["get", "/registry/", "--prefix"]).stdout;
    assert_eq!(String::from_utf8(printed).unwrap(), format!("/registry/pods/default/a\n{value}\n"));

    etcd.etcdctl(&["put", "/registry/pods/default/b", "theirs"]);
    let theirs = store.get("/registry/pods/default/b").await.unwrap().unwrap();
    assert_eq!(theirs.value, "theirs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_a_prefix_of_its_own_sees_no_other_keys() {
    let Some(etcd) = Etcd::start(1).await else { return };
    let whole = store_on(&etcd).await;
    let keyspace = Keyspace::moved("/registry/", "/east/");
    let east = EtcdStore::open(EtcdOptions { keyspace, ..options(&etcd) }).await.unwrap();

    whole.put("/registry/a", "west".into(), Expect::Absent, None).await.unwrap();
    east.put("/registry/a", "east".into(), Expect::Absent, None).await.unwrap();

    assert_eq!(whole.get("/east/a").await.unwrap().unwrap().value, "east");
    let all = east.range(Range { prefix: "/", ..Range::default() }).await.unwrap();
    let all: Vec<_> = all.items.iter().map(|item| (&*item.key, &item.value[..])).collect();
    assert_eq!(all, [("/registry/a", &b"east"[..])]);
    assert!(east.put("/elsewhere", "".into(), Expect::Any, None).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_many_pages_is_complete_and_of_one_revision() {
    let Some(etcd) = Etcd::start(1).await else { return };
    let store = store_on(&etcd).await;
    let writers = (0..8).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for number in 0..300 {
                let key = format!("/many/{writer}/{number:04}");
                store.put(&key, vec![b'x'; 5000].into(), Expect::Absent, None).await.unwrap();
            }
        })
    });
    let mut last = 0;
    for written in futures::future::join_all(writers).await {
        written.unwrap();
        last += 300;
    }
    let then = store.revision().await.unwrap();
    store.delete("/many/0/0000", Expect::Any).await.unwrap();

    let range = Range { prefix: "/many/", revision: Some(then), ..Range::default() };
    let all = store.range(range).await.unwrap();
    assert_eq!((all.items.len(), all.remaining, all.revision), (last, 0, then));
    assert!(all.items.is_sorted_by(|one, next| one.key < next.key));
    let now =
        store.range(Range { prefix: "/many/", limit: 1500, ..Range::default() }).await.unwrap();
    assert_eq!((now.items.len(), now.remaining), (1500, last - 1501));
}
