//! Who may connect.

use rk_store::{EtcdOptions, EtcdStore, Expect, Store, StoreError};

use crate::{
    cluster::{Authority, Etcd, tls},
    options, store_on,
};

async fn refused(options: EtcdOptions) -> String {
    let options = EtcdOptions { timeout: std::time::Duration::from_secs(3), ..options };
    match EtcdStore::open(options).await {
        Err(StoreError::Unavailable { reason }) => reason,
        other => panic!("expected a refusal, not {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_and_members_check_each_others_certificates() {
    let (ours, other) = (Authority::new(), Authority::new());
    let strange_client = tls(&other, &ours);
    let strange_members = tls(&ours, &other);
    let Some(etcd) = Etcd::start_with(1, Some(ours)).await else { return };

    let store = store_on(&etcd).await;
    store.put("/a", "1".into(), Expect::Absent, None).await.unwrap();
    assert_eq!(store.get("/a").await.unwrap().unwrap().value, "1");

    let with = |tls| EtcdOptions { tls, ..options(&etcd) };
    for (who, tls) in [
        ("a client whose certificate another authority signed", Some(strange_client)),
        ("a client that does not trust the members' authority", Some(strange_members)),
        ("a client without a certificate", None),
    ] {
        let reason = refused(with(tls)).await;
        assert!(reason.starts_with("etcd: "), "{who}: {reason}");
    }
}
