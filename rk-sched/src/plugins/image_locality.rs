//! Prefers nodes that hold a Pod's images already.

use crate::{
    NodeInfo, PodInfo, Snapshot, Status,
    framework::{CycleState, MAX_NODE_SCORE, Plugin, PreFilter, PreFiltered, PreScore, Score},
    plugins::{no_args, sign_count, sign_part},
};

/// The plugin's name.
pub const NAME: &str = "ImageLocality";

/// Smaller images are quickly pulled and do not count.
const MIN_BYTES: i64 = 23 << 20;
/// Each container counts for at most this much.
const MAX_BYTES_PER_CONTAINER: i64 = 1000 << 20;

/// Scores the size of those of the Pod's images that a node holds, each scaled by the part of all
/// nodes that hold it, so that not all Pods go to the one node that happens to have an image.
#[derive(Debug, Default)]
pub struct ImageLocality;

no_args!(ImageLocality);

/// How common each image is, from 0 to 1, in the order of the Pod's containers.
struct Spread(Vec<(String, f64)>);

fn images(pod: &PodInfo) -> impl Iterator<Item = &str> {
    let spec = pod.spec();
    let init = spec.and_then(|spec| spec.init_containers.as_ref());
    let containers = spec.map(|spec| &spec.containers);
    init.into_iter()
        .flatten()
        .chain(containers.into_iter().flatten())
        .map(|container| container.image.as_deref().unwrap_or_default())
}

/// An image without a tag is the tag `latest`, as nodes report it.
fn normalized(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains(':') || image.contains('@') || image.is_empty() {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        NAME
    }
    /// How common an image is hangs on all nodes; the snapshot gives up what is shared when that
    /// changes.
    fn sign(&self, pod: &PodInfo, _: &Snapshot, signature: &mut Vec<u8>) -> bool {
        sign_count(signature, images(pod).count());
        images(pod).for_each(|image| sign_part(signature, image));
        true
    }
    fn as_pre_filter(&self) -> Option<&dyn PreFilter> {
        Some(self)
    }
    fn as_pre_score(&self) -> Option<&dyn PreScore> {
        Some(self)
    }
    fn as_score(&self) -> Option<&dyn Score> {
        Some(self)
    }
}

impl PreFilter for ImageLocality {
    fn pre_filter(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        snapshot: &Snapshot,
    ) -> PreFiltered {
        let nodes = snapshot.nodes().len().max(1) as f64;
        let spread = |image: &str| {
            let image = normalized(image);
            let part = snapshot.nodes_with_image(&image) as f64 / nodes;
            (image, part)
        };
        state.insert(Spread(images(pod).map(spread).collect()));
        PreFiltered::Skip
    }
}

impl PreScore for ImageLocality {
    fn pre_score(&self, state: &mut CycleState, _: &PodInfo, _: &[&NodeInfo]) -> Status {
        let held = |Spread(wanted): &Spread| wanted.iter().any(|(_, part)| *part > 0.0);
        if state.get().is_some_and(held) { Status::success() } else { Status::skip() }
    }
}

impl Score for ImageLocality {
    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(Spread(wanted)) = state.get().filter(|_| node.has_images()) else { return 0 };
        let held = node.node.status.as_ref().and_then(|status| status.images.as_ref());
        let Some(held) = held else { return 0 };
        let size = |image: &String| {
            let holds = |names: &Option<Vec<String>>| {
                names.as_ref().is_some_and(|names| names.contains(image))
            };
            held.iter().find(|it| holds(&it.names)).and_then(|it| it.size_bytes).unwrap_or(0)
        };
        let sum: i64 = wanted.iter().map(|(image, part)| (size(image) as f64 * part) as i64).sum();
        let max = MAX_BYTES_PER_CONTAINER * wanted.len() as i64;
        let sum = sum.clamp(MIN_BYTES, max.max(MIN_BYTES));
        MAX_NODE_SCORE * (sum - MIN_BYTES) / (max - MIN_BYTES).max(1)
    }
}

#[cfg(test)]
mod tests {
    use rk_api::testing::{node, pod};

    use super::*;
    use crate::plugins::tests::check_scores;

    #[test]
    fn image_locality_score() {
        const MB: i64 = 1 << 20;
        let with = |name, image, size| node(name).image(image, size);
        let app = || pod("p").image("registry.example/app:v1");
        check_scores(
            &ImageLocality,
            "an image on half of the nodes counts half",
            [with("a", "registry.example/app:v1", 1000 * MB), node("b")],
            app(),
            &[48, 0],
        );
        check_scores(
            &ImageLocality,
            "small images do not count",
            [with("a", "registry.example/app:v1", 20 * MB), node("b")],
            app(),
            &[0, 0],
        );
        check_scores(
            &ImageLocality,
            "no tag is latest",
            [with("a", "app:latest", 2000 * MB), with("b", "app:v1", 2000 * MB)],
            pod("p").image("app"),
            &[100, 0],
        );
    }
}
