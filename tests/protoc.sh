#!/usr/bin/env bash
# Prints the path of a protocol buffers compiler, which only the feature `etcd` needs to be built:
# what PROTOC says, or protoc, or protox, which is one in Rust and is installed when it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -n "${PROTOC:-}" ]; then echo "$PROTOC"; exit; fi
command -v protoc && exit
command -v protox && exit
tools="${CARGO_TARGET_DIR:-target}/tools"
case "$tools" in /*) ;; *) tools="$PWD/$tools" ;; esac
[ -x "$tools/bin/protox" ] || cargo install protox --version 0.10.0 --features bin --locked --quiet --root "$tools" >&2
echo "$tools/bin/protox"
