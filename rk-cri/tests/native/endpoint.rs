//! The native runtime behind a CRI endpoint, used as stock clients use it.

use std::sync::Arc;

use rk_cri::{
    conformance::Kit,
    cri::{CriRuntime, serve},
};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::lab::Lab;

pub async fn the_conformance_kit_passes_over_a_cri_endpoint(lab: &mut Lab) {
    let socket = lab.directory.path().join("cri.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let stop = CancellationToken::new();
    let _stopped_at_the_end = stop.clone().drop_guard();
    let served = tokio::spawn(serve(Arc::new(lab.runtime().clone()), listener, stop.clone()));
    let connected =
        CriRuntime::builder(format!("unix://{}", socket.display())).connect().await.unwrap();
    let kit = Kit::new("busybox", lab.directory.path().join("kit"));
    kit.assert_passed(Arc::new(connected)).await;
    stop.cancel();
    served.await.unwrap().unwrap();
}
