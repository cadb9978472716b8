//! etcd's own backups.

use std::process::Command;

use rk_store::{Expect, Range, Store};

use crate::{
    cluster::{Etcd, present},
    store_on,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_restores_every_key_value_and_revision() {
    let Some(etcd) = Etcd::start(1).await.filter(|_| present("etcdctl")) else { return };
    let store = store_on(&etcd).await;
    for number in 0..200 {
        let key = format!("/registry/configmaps/default/{}", number % 50);
        store.put(&key, format!("value {number}").into(), Expect::Any, None).await.unwrap();
    }
    let before = store.range(Range { prefix: "/registry/", ..Range::default() }).await.unwrap();

    let directory = tempfile::tempdir().unwrap();
    let saved = directory.path().join("saved");
    etcd.etcdctl(&["snapshot", "save", saved.to_str().unwrap()]);
    store.put("/registry/configmaps/default/late", "".into(), Expect::Any, None).await.unwrap();
    drop((store, etcd));
    // Since etcd 3.6 only etcdutl restores, before 3.5 only etcdctl does.
    let tool = if Command::new("etcdutl").output().is_ok() { "etcdutl" } else { "etcdctl" };
    let restored = Command::new(tool)
        .env("ETCDCTL_API", "3")
        .args(["snapshot", "restore"])
        .arg(&saved)
        .args(["--name", "m0", "--initial-cluster", "m0=http://localhost:2380", "--data-dir"])
        .arg(directory.path().join("m0"))
        .output()
        .unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));

    let etcd = Etcd::restored(directory).await;
    let store = store_on(&etcd).await;
    let after = store.range(Range { prefix: "/registry/", ..Range::default() }).await.unwrap();
    assert_eq!(after.items, before.items);
    let next = store.put("/registry/next", "".into(), Expect::Absent, None).await.unwrap();
    assert!(next > before.revision);
}
