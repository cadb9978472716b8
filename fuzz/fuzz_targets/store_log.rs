//! The reader of the store's log, given anything, and given logs that were damaged.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    rk_store::fuzzing::segment(bytes);
    rk_store::fuzzing::damaged_segment(bytes);
});
