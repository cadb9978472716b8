//! Objects as components keep them: without what nobody of them looks at.

use std::{any::Any, borrow::Cow};

use http::Request;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::Watchable;

/// Sends a request and decodes the object that is the answer, as informers decode theirs: without
/// its `metadata.managedFields`. They are of no use to most and take longer than the rest.
///
/// # Errors
/// Those of [`kube::Client::request`].
pub async fn request<K: Watchable>(
    client: &kube::Client,
    request: Request<Vec<u8>>,
) -> kube::Result<K> {
    let text = client.request_text(request).await?;
    decode(text.as_bytes()).map_err(kube::Error::SerdeError)
}

/// Decodes an object, without its managed fields and with no more memory than it needs.
pub(super) fn decode<K: Watchable>(json: &[u8]) -> serde_json::Result<K> {
    let json = without_managed_fields(json);
    let mut object: K = crate::json::from_slice(&json)?;
    trim(&mut object);
    Ok(object)
}

/// Takes away managed fields, and of a Pod, of which there are many, the room in lists that the
/// decoder made for items which did not come: a list of one container's status has room for four.
pub(super) fn trim<K: Watchable>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    let object: &mut dyn Any = object;
    if let Some(pod) = object.downcast_mut::<Pod>() {
        trim_pod(pod);
    }
}

fn fit<T>(list: &mut Option<Vec<T>>) {
    if let Some(list) = list {
        list.shrink_to_fit();
    }
}

fn trim_pod(pod: &mut Pod) {
    fit(&mut pod.metadata.owner_references);
    if let Some(spec) = &mut pod.spec {
        spec.containers.shrink_to_fit();
        fit(&mut spec.init_containers);
        fit(&mut spec.volumes);
        fit(&mut spec.tolerations);
        fit(&mut spec.image_pull_secrets);
        let init = spec.init_containers.iter_mut().flatten();
        spec.containers.iter_mut().chain(init).for_each(trim_container);
        let volumes = spec.volumes.iter_mut().flatten();
        for projected in volumes.filter_map(|volume| volume.projected.as_mut()) {
            fit(&mut projected.sources);
            for source in projected.sources.iter_mut().flatten() {
                fit_items(source.config_map.as_mut().map(|source| &mut source.items));
                fit_items(source.secret.as_mut().map(|source| &mut source.items));
                fit_items(source.downward_api.as_mut().map(|source| &mut source.items));
            }
        }
    }
    if let Some(status) = &mut pod.status {
        fit(&mut status.conditions);
        fit(&mut status.container_statuses);
        fit(&mut status.init_container_statuses);
        fit(&mut status.pod_ips);
        fit(&mut status.host_ips);
        let init = status.init_container_statuses.iter_mut().flatten();
        for container in status.container_statuses.iter_mut().flatten().chain(init) {
            fit(&mut container.volume_mounts);
        }
    }
}

fn trim_container(container: &mut Container) {
    fit(&mut container.args);
    fit(&mut container.command);
    fit(&mut container.env);
    fit(&mut container.ports);
    fit(&mut container.volume_mounts);
}

fn fit_items<T>(items: Option<&mut Option<Vec<T>>>) {
    if let Some(items) = items {
        fit(items);
    }
}

/// An object without its managed fields, where our own server writes them: they take longer to
/// decode than the rest of many objects.
fn without_managed_fields(json: &[u8]) -> Cow<'_, [u8]> {
    const METADATA: &[u8] = b"\"metadata\":{";
    const VERSION: &[u8] = b"\"resourceVersion\":\"";
    const MANAGED: &[u8] = b"\"managedFields\":[";
    /// How far `apiVersion` and `kind` reach at most.
    const TYPE_BYTES_MAX: usize = 400;
    let head = &json[..json.len().min(TYPE_BYTES_MAX)];
    let Some(at) = head.windows(METADATA.len()).position(|window| window == METADATA) else {
        return Cow::Borrowed(json);
    };
    let mut start = at + METADATA.len();
    let nested = |head: &[u8]| head.iter().any(|byte| matches!(byte, b'{' | b'[' | b'\\'));
    if json.get(1..at).is_none_or(nested) {
        return Cow::Borrowed(json);
    }
    if json[start..].starts_with(VERSION) {
        let digits = &json[start + VERSION.len()..];
        let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        start += VERSION.len() + length + "\",".len();
    }
    let Some(list) = json.get(start..).and_then(|rest| rest.strip_prefix(MANAGED)) else {
        return Cow::Borrowed(json);
    };
    let (mut depth, mut quoted, mut escaped) = (1usize, false, false);
    let end = list.iter().position(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => depth += 1,
            b']' | b'}' if !quoted => depth -= 1,
            _ => {}
        }
        depth == 0
    });
    let Some(end) = end else { return Cow::Borrowed(json) };
    let after = &list[end + 1..];
    match after.strip_prefix(b",") {
        Some(after) => Cow::Owned([&json[..start], after].concat()),
        // It was the last member: the comma before it would be one too many.
        None => Cow::Borrowed(json),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, expected: &str) {
        assert_eq!(
            std::str::from_utf8(&without_managed_fields(json.as_bytes())).unwrap(),
            expected
        );
    }

    #[test]
    fn managed_fields_are_left_out_before_decoding() {
        check(
            r#"{"kind":"X","metadata":{"resourceVersion":"7","managedFields":[{"a":"]\"}"}],"name":"x"}}"#,
            r#"{"kind":"X","metadata":{"resourceVersion":"7","name":"x"}}"#,
        );
        check(r#"{"metadata":{"managedFields":[],"name":"x"}}"#, r#"{"metadata":{"name":"x"}}"#);
        for same in [
            r#"{"metadata":{"name":"x"}}"#,
            r#"{"data":{"metadata":{"managedFields":[1],"a":1}}}"#,
            r#"{"metadata":{"managedFields":[1"#,
            r#"{"metadata":{"resourceVersion":"7"#,
            "{}",
        ] {
            check(same, same);
        }
    }

    #[test]
    fn a_pod_takes_no_more_memory_than_it_needs() {
        let json = br#"{"metadata":{"managedFields":[{"manager":"m"}],"name":"x"},
            "spec":{"containers":[{"name":"c","volumeMounts":[{"mountPath":"/","name":"v"}]}]},
            "status":{"containerStatuses":[{"name":"c","image":"","imageID":"","ready":true,
                "restartCount":0}]}}"#;
        let pod: Pod = decode(json).unwrap();
        assert_eq!(pod.metadata.managed_fields, None);
        let mounts = pod.spec.unwrap().containers[0].volume_mounts.clone().unwrap();
        assert_eq!(mounts.capacity(), 1);
        assert_eq!(pod.status.unwrap().container_statuses.unwrap().capacity(), 1);
    }
}
