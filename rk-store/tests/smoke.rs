//! The store in a few lines.
use bytes::Bytes;
use futures::StreamExt;
use rk_store::*;
use std::{sync::Arc, time::Duration};

#[tokio::test(start_paused = true)]
async fn smoke() {
    let store: Arc<dyn Store> = Arc::new(EmbeddedStore::in_memory());
    let mut watch = store.watch("/a/", Revision(0)).await.unwrap();
    store.put("/a/1", Bytes::from_static(b"x"), Expect::Absent, None).await.unwrap();
    store.put("/b/1", Bytes::from_static(b"x"), Expect::Absent, None).await.unwrap();
    store
        .put("/a/2", Bytes::from_static(b"x"), Expect::Absent, Some(Duration::from_secs(5)))
        .await
        .unwrap();
    let batch = watch.next().await.unwrap().unwrap();
    assert_eq!(batch.events.len(), 2);
    let batch = watch.next().await.unwrap().unwrap();
    assert_eq!(batch.events.len(), 1);
    assert_eq!(batch.events[0].value, None);
    store.put("/b/2", Bytes::from_static(b"x"), Expect::Absent, None).await.unwrap();
    let r = store.revision().await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().revision, r);
    let old = store
        .range(Range { prefix: "/a/", revision: Some(Revision(3)), limit: 1, ..Default::default() })
        .await
        .unwrap();
    assert_eq!((old.items.len(), old.remaining), (1, 1));
    drop(store);
    assert!(watch.next().await.unwrap().is_err());
}
