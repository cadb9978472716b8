//! The request path, given anything: method, path, headers and body are taken from the bytes.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use rk_api::server::{ApiServer, fuzzing};
use tokio::runtime::Runtime;

/// One server for all inputs, so that an input also meets what others left behind.
fn server() -> &'static (Runtime, ApiServer) {
    static SERVER: OnceLock<(Runtime, ApiServer)> = OnceLock::new();
    SERVER.get_or_init(|| {
        let runtime = Runtime::new().expect("threads");
        let server = runtime.block_on(fuzzing::server()).expect("a server in memory");
        (runtime, server)
    })
}

fuzz_target!(|bytes: &[u8]| {
    let (runtime, server) = server();
    if let Some(request) = fuzzing::request(bytes) {
        runtime.block_on(fuzzing::run(server, request));
    }
});
