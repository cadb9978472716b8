#!/usr/bin/env bash
# Installs what the tests need and is missing, then runs every test.
#
#   tests/run.sh          everything
#   tests/run.sh --fast   only what needs neither root nor kubectl
#
# As root on Debian or Ubuntu it installs packages. Elsewhere it says what is missing, and the tests
# that need it are skipped by name. RK_REQUIRE=all turns every such skip into a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

fast=false
case "${1:-}" in
  '') ;;
  --fast) fast=true ;;
  *) echo "tests/run.sh: unknown argument '$1' (try --fast)" >&2; exit 2 ;;
esac

step() { printf '\n== %s\n' "$*"; }

# command, or file, and the packages that bring it, the preferred one first
needs='
kubectl:kubectl kubernetes-client
/bin/busybox:busybox-static
nft:nftables
ip:iproute2
script:bsdutils util-linux
openssl:openssl
containerd:containerd
runc:runc
/usr/lib/cni/bridge:containernetworking-plugins
curl:curl
etcd:etcd-server
etcdctl:etcd-client
docker-registry:docker-registry
skopeo:skopeo
setpriv:util-linux
/usr/lib/python3/dist-packages/kubernetes/__init__.py:python3-kubernetes
'

present() { case "$1" in *.py) [ -e "$1" ] ;; /*) [ -x "$1" ] ;; *) command -v "$1" >/dev/null ;; esac; }

install_missing() {
  local updated=false line thing package
  while IFS= read -r line; do
    [ -n "$line" ] || continue
    thing=${line%%:*}
    present "$thing" && continue
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
      echo "missing: $thing (Debian: ${line#*:}); what needs it is skipped"
      continue
    fi
    $updated || { apt-get update -qq; updated=true; }
    for package in ${line#*:}; do
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package" >/dev/null 2>&1 || true
      present "$thing" && { echo "installed: $package"; break; }
    done
    present "$thing" || echo "missing: $thing could not be installed; what needs it is skipped"
  done <<< "$needs"
}

if ! $fast; then
  step 'what the tests need'
  install_missing
fi

output=$(mktemp)
trap 'rm -f "$output"' EXIT

features=()
if ! $fast; then
  step 'the compiler that the feature etcd needs'
  if PROTOC=$(tests/protoc.sh); then
    export PROTOC
    features=(--features rk/etcd,rk-store/etcd)
  elif [ "${RK_REQUIRE:-}" = all ]; then
    echo 'the tests of etcd cannot be built' >&2
    exit 1
  else
    echo 'SKIP the tests of etcd: there is no protoc, and protox could not be installed'
  fi
fi

step 'unit tests, conformance kits, doc examples'
if $fast; then
  cargo test --workspace --locked --lib --bins
  cargo test --workspace --locked --doc
  exit
fi
cargo test --workspace --locked --no-fail-fast "${features[@]}" 2>&1 | tee "$output"

step 'summary'
awk '
  /^test result:/ { passed += $4; failed += $6; skipped += $8 }
  /^scenarios: /  { scenarios = $0 }
  /^conformance: / { conformance = $0 }
  /^SKIP /        { print }
  END {
    if (scenarios) print scenarios
    if (conformance) print conformance
    printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
  }
' "$output"
