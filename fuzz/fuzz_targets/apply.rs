//! Server-side apply, given anything: configurations and managers are taken from the bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rk_api::server::fuzzing;

fuzz_target!(|bytes: &[u8]| {
    fuzzing::apply(bytes);
});
