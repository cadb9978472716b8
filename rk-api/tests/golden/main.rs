//! What a reference kube-apiserver (1.20.2) answered, against what this server answers.
//!
//! `cases/` has the recorded exchanges, a file for each area and a line for each case: requests that
//! prepare it (`setup`), the `request`, what is `expect`ed of the answer, and the `cleanup`.
//! `known.txt` lists the cases whose answer differs, and why: where Kubernetes 1.37 answers
//! differently from 1.20 it is right. A difference that is not listed fails the test, and so does a
//! listed case that no longer differs.
//!
//! `GOLDEN=crd/ cargo test -p rk-api --features server --test golden` runs and prints the cases
//! whose ids begin so, listed or not.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod case;
mod compare;
mod normal;

use std::{collections::BTreeMap, sync::Arc};

use case::Replayer;
use rk_api::server::{ApiServer, UserInfo, authn::TokenList};
use rk_store::EmbeddedStore;
use serde_json::Value;

/// What the recorded administrator authenticates with.
const TOKEN: &str = "golden";

/// Ids and reasons.
fn known() -> BTreeMap<&'static str, &'static str> {
    include_str!("known.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once(' ').expect("an id and a reason"))
        .collect()
}

async fn replay(area: &str, cases: &str) {
    let admin = UserInfo::new("admin", ["system:masters"]);
    let server = ApiServer::builder(Arc::new(EmbeddedStore::in_memory()))
        .authenticator(Arc::new(TokenList::default().with(TOKEN, admin)))
        .start()
        .await
        .unwrap();
    server.roles_ready().await;
    let replayer = Replayer::new(server);
    let wanted = std::env::var("GOLDEN").ok();
    let known = known();
    let (mut same, mut different, mut wrong) = (0, 0, Vec::new());
    for line in cases.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let id = case["id"].as_str().unwrap();
        if wanted.as_ref().is_some_and(|wanted| !id.starts_with(wanted.as_str())) {
            continue;
        }
        match (replayer.run(&case).await, known.get(id)) {
            (Ok(()), None) => same += 1,
            (Ok(()), Some(_)) => wrong.push(format!("{id} is as recorded: take it from known.txt")),
            (Err(_), Some(_)) if wanted.is_none() => different += 1,
            (Err(difference), _) => wrong.push(format!("{id}\n        {difference}")),
        }
    }
    println!("{area}: {same} as recorded, {different} known to differ, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

macro_rules! areas {
    ($($area:ident),+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $area() {
            let cases = include_str!(concat!("cases/", stringify!($area), ".jsonl"));
            replay(stringify!($area), cases).await;
        })+
    };
}

areas!(
    admission,
    auth,
    crd,
    defaulting,
    discovery,
    list,
    misc,
    patch,
    selectors,
    subresources,
    table,
    validation,
    verbs,
    watch
);
