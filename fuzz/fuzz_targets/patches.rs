//! Patches of all three kinds, given anything: the object up to a zero byte, the patch behind it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rk_api::patch::{PatchKind, apply};

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let object = parts.next().and_then(|json| serde_json::from_slice(json).ok());
    let (Some(object), Some(patch)) = (object, parts.next()) else { return };
    for kind in [PatchKind::Json, PatchKind::Merge, PatchKind::Strategic] {
        let mut patched = serde_json::Value::clone(&object);
        let _ = apply(kind, "io.k8s.api.core.v1.Pod", &mut patched, patch);
    }
});
