//! What a change to one Service costs with many Services. The kernel's part needs root and `nft`
//! and is left out without.
//!
//! `cargo bench -p rk-proxy`

use std::{path::PathBuf, sync::OnceLock};

use divan::Bencher;
use rk_proxy::{
    Changes, NodeView, Rules, ServiceProxy,
    nftables::{NftablesConfig, NftablesProxy},
    plan,
    testing::{endpoint_slice, service},
};

fn main() {
    divan::main();
    let _ = rk_net::netns::delete(&namespace_path());
}

fn namespace_path() -> PathBuf {
    std::env::temp_dir().join(format!("rk-proxy-bench-{}", std::process::id()))
}

const SERVICES: &[usize] = &[1_000, 10_000];

/// Services with two endpoints each.
fn rules(count: usize) -> Rules {
    let mut rules = Rules::new();
    for i in 0..count {
        set(&mut rules, i, 2);
    }
    rules
}

fn set(rules: &mut Rules, i: usize, endpoints: u8) {
    let name = format!("service-{i}");
    let [high, low] = (i as u16).to_be_bytes();
    let web = service(&name).cluster_ip(&format!("10.96.{high}.{low}")).port(80);
    let slice = endpoint_slice(&name).port(8080);
    let slice = (0..endpoints).fold(slice, |s, e| s.ready(&format!("10.{}.{high}.{low}", 100 + e)));
    let ports = plan::plan_service(&web, &[&slice], &NodeView::new("node"));
    rules.set_service("default", &name, ports);
}

/// Planning one Service anew and finding the difference.
#[divan::bench(args = SERVICES)]
fn plan_and_diff_one_change(bencher: Bencher<'_, '_>, count: usize) {
    let old = rules(count);
    bencher.bench_local(|| {
        let mut new = old.clone();
        set(&mut new, count / 2, 3);
        assert_eq!(Changes::between(&old, &new).len(), 1);
    });
}

/// The text of a table made anew.
#[divan::bench(args = SERVICES)]
fn render_all(bencher: Bencher<'_, '_>, count: usize) {
    let (rules, proxy) = (rules(count), NftablesProxy::new(NftablesConfig::default()));
    bencher.bench_local(|| proxy.render(&rules).len());
}

/// One endpoint more, then one less, in the kernel. Half of this is one change.
#[divan::bench(args = SERVICES, sample_count = 10)]
fn nftables_two_changes(bencher: Bencher<'_, '_>, count: usize) {
    let Some(netns) = namespace() else { return };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let proxy = NftablesProxy::new(NftablesConfig { netns: Some(netns), ..Default::default() });
    let old = rules(count);
    let mut new = old.clone();
    set(&mut new, count / 2, 3);
    runtime.block_on(proxy.apply(&old)).expect("applied");
    bencher.bench_local(|| {
        runtime.block_on(proxy.apply(&new)).expect("applied");
        runtime.block_on(proxy.apply(&old)).expect("applied");
    });
    runtime.block_on(proxy.teardown()).expect("removed");
}

/// All rules from nothing, in the kernel.
#[divan::bench(args = SERVICES, sample_count = 3)]
fn nftables_from_nothing(bencher: Bencher<'_, '_>, count: usize) {
    let Some(netns) = namespace() else { return };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let config = NftablesConfig { netns: Some(netns), ..Default::default() };
    let rules = rules(count);
    bencher.bench_local(|| {
        let proxy = NftablesProxy::new(config.clone());
        runtime.block_on(proxy.apply(&rules)).expect("applied");
        runtime.block_on(proxy.teardown()).expect("removed");
    });
}

/// A network namespace of this process's own; none without the right to make one.
fn namespace() -> Option<PathBuf> {
    static MADE: OnceLock<bool> = OnceLock::new();
    let path = namespace_path();
    let made = *MADE.get_or_init(|| {
        rk_net::netns::create(&path).inspect_err(|error| println!("SKIP nftables: {error}")).is_ok()
    });
    made.then_some(path)
}
