//! What it costs to make discovery and OpenAPI documents.

use rk_api::{
    discovery,
    openapi::{self, Documents},
    resources::Resources,
    schema,
};

fn main() {
    divan::main();
}

/// The schemas of one kind and all that it refers to, before they are condensed to the graph.
#[divan::bench]
fn definitions_of_pod() -> usize {
    schema::definitions(["io.k8s.api.core.v1.Pod"]).len()
}

#[divan::bench]
fn graph() -> schema::Graph {
    schema::Graph::build()
}

#[divan::bench(sample_count = 20)]
fn openapi_v3_core(bencher: divan::Bencher<'_, '_>) {
    let resources = Resources::builtin();
    bencher.bench(|| {
        Documents::new(resources.clone()).v3("api/v1").map(|document| document.body.len())
    });
}

#[divan::bench(sample_count = 20)]
fn openapi_v3_index_with_all_documents(bencher: divan::Bencher<'_, '_>) {
    let resources = Resources::builtin();
    bencher.bench(|| Documents::new(resources.clone()).v3_index().body.len());
}

#[divan::bench(sample_count = 20)]
fn openapi_v2_protobuf(bencher: divan::Bencher<'_, '_>) {
    let resources = Resources::builtin();
    bencher.bench(|| Documents::new(resources.clone()).v2_protobuf().body.len());
}

#[divan::bench(sample_count = 20)]
fn openapi_v2_tree(bencher: divan::Bencher<'_, '_>) {
    let resources = Resources::builtin();
    bencher.bench(|| openapi::v2(&resources));
}

#[divan::bench]
fn aggregated_discovery(bencher: divan::Bencher<'_, '_>) {
    let resources = Resources::builtin();
    bencher.bench(|| discovery::aggregated_groups(&resources).to_string().len());
}
