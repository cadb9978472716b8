//! What it costs to apply a patch.

use rk_api::patch::{PatchKind, apply};
use serde_json::{Value, json};

fn main() {
    // Made by the first strategic merge patch of a process; not a cost of the next ones.
    rk_api::schema::graph();
    divan::main();
}

/// A Deployment of `containers` containers, each with some environment.
fn deployment(containers: usize) -> Value {
    let env: Vec<_> =
        (0..20).map(|each| json!({"name": format!("E{each}"), "value": "v"})).collect();
    let container =
        |each| json!({"name": format!("c{each}"), "image": "example.com/i:1", "env": env});
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"app": "web"}, "finalizers": ["example.com/a"]},
        "spec": {
            "replicas": 3,
            "template": {"spec": {"containers": (0..containers).map(container).collect::<Vec<_>>()}},
        },
    })
}

fn bench(bencher: divan::Bencher<'_, '_>, kind: PatchKind, containers: usize, patch: &Value) {
    let patch = patch.to_string();
    bencher.with_inputs(|| deployment(containers)).bench_values(|mut object| {
        apply(kind, "io.k8s.api.apps.v1.Deployment", &mut object, patch.as_bytes()).map(|()| object)
    });
}

#[divan::bench(args = [1, 100])]
fn json_patch_replicas(bencher: divan::Bencher<'_, '_>, containers: usize) {
    let patch = json!([{"op": "replace", "path": "/spec/replicas", "value": 5}]);
    bench(bencher, PatchKind::Json, containers, &patch);
}

#[divan::bench(args = [1, 100])]
fn merge_patch_replicas(bencher: divan::Bencher<'_, '_>, containers: usize) {
    bench(bencher, PatchKind::Merge, containers, &json!({"spec": {"replicas": 5}}));
}

#[divan::bench(args = [1, 100])]
fn strategic_patch_replicas(bencher: divan::Bencher<'_, '_>, containers: usize) {
    bench(bencher, PatchKind::Strategic, containers, &json!({"spec": {"replicas": 5}}));
}

#[divan::bench(args = [1, 100])]
fn strategic_patch_image(bencher: divan::Bencher<'_, '_>, containers: usize) {
    let patch = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "c0", "image": "example.com/i:2", "env": [{"name": "E7", "value": "w"}]},
    ]}}}});
    bench(bencher, PatchKind::Strategic, containers, &patch);
}
