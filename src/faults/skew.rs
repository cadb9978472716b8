//! Clocks that are wrong: the times in what a component writes about itself.

use bytes::Bytes;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// What a component says about when it was last alive.
const TIMES: [&str; 3] = ["renewTime", "acquireTime", "lastHeartbeatTime"];

/// Whether a request with this path may hold such times: a Lease, or a node with its status.
pub(super) fn concerns(path: &str) -> bool {
    path.contains("/leases") || path.starts_with("/api/v1/nodes")
}

/// The body of a request as a clock that is `ahead` would have had it. A body that is no JSON, or
/// holds none of the times, is left alone byte for byte.
pub(super) fn shift(body: Bytes, ahead: SignedDuration) -> Bytes {
    let Ok(mut value) = serde_json::from_slice::<Value>(&body) else { return body };
    if !shift_times(&mut value, ahead) {
        return body;
    }
    serde_json::to_vec(&value).map_or(body, Bytes::from)
}

/// Whether there was something to shift.
fn shift_times(value: &mut Value, ahead: SignedDuration) -> bool {
    let mut shifted = false;
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if TIMES.contains(&name.as_str())
                    && let Some(text) = member.as_str()
                {
                    if let Some(later) = later(text, ahead) {
                        *member = later.into();
                        shifted = true;
                    }
                } else {
                    shifted |= shift_times(member, ahead);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                shifted |= shift_times(item, ahead);
            }
        }
        _ => {}
    }
    shifted
}

/// The time of the same precision, that much later.
fn later(text: &str, ahead: SignedDuration) -> Option<String> {
    let later = text.parse::<Timestamp>().ok()?.checked_add(ahead).ok()?;
    Some(match text.rsplit_once('.') {
        Some((_, fraction)) => format!("{later:.*}", fraction.trim_end_matches('Z').len()),
        None => format!("{later:.0}"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_times_of_a_life_sign_move() {
        let body = json!({
            "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"renewTime": "2026-01-01T00:00:10.123456Z", "holderIdentity": "me"},
            "status": {"conditions": [
                {"lastHeartbeatTime": "2026-01-01T00:00:10Z", "type": "Ready"},
                {"lastTransitionTime": "2026-01-01T00:00:10Z", "lastHeartbeatTime": null},
            ]},
        });
        let shifted =
            shift(serde_json::to_vec(&body).unwrap().into(), SignedDuration::from_secs(-60));
        let shifted: Value = serde_json::from_slice(&shifted).unwrap();
        assert_eq!(shifted["spec"]["renewTime"], "2025-12-31T23:59:10.123456Z");
        let conditions = &shifted["status"]["conditions"];
        assert_eq!(conditions[0]["lastHeartbeatTime"], "2025-12-31T23:59:10Z");
        assert_eq!(conditions[1], body["status"]["conditions"][1]);
        assert_eq!(shifted["metadata"], body["metadata"]);
    }

    #[test]
    fn a_body_without_such_times_stays_as_it_is() {
        for text in [r#"{ "a" :  1 }"#, "no JSON", ""] {
            let body = Bytes::from(text);
            assert_eq!(shift(body.clone(), SignedDuration::from_secs(5)), body);
        }
    }
}
