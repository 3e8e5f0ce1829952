#!/usr/bin/env bash
# The whole gate: format, lints, tests, simulated lives, documentation. Green here is what may be merged.
#
#   scripts/check.sh
#
#   SEEDS=2000        simulated lives, from seed 1
#   LYING_SEEDS=20    lives on a disk that lies about syncs, each of which must be caught
set -euo pipefail

seeds=${SEEDS:-2000}
lying_seeds=${LYING_SEEDS:-20}
cd "$(dirname "$0")/.."

SECONDS=0
step_name=
step_from=0

report() {
    local code=$?
    if [ "$code" -ne 0 ]; then
        printf '\ncheck.sh: FAILED after %d s: %s\n' "$SECONDS" "$step_name" >&2
    fi
}
trap report EXIT

# step NAME COMMAND...
step() {
    step_name=$1
    step_from=$SECONDS
    shift
    printf '\n==> %s  (at %d s)\n    %s\n' "$step_name" "$SECONDS" "$*"
    "$@"
    printf '    %s: %d s\n' "$step_name" $((SECONDS - step_from))
}

simulate() {
    cargo run --release --locked -p ringlog-engine --bin simulate -- "$@"
}

document() {
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
}

step "format" cargo fmt --all --check
step "lints" cargo clippy --workspace --all-targets --locked -- -D warnings
step "tests" cargo test --workspace --locked
step "simulated lives" simulate --first-seed 1 --seeds "$seeds"
step "a lying disk is caught" simulate --lying-disk --first-seed 1 --seeds "$lying_seeds"
step "simulated lives of a catalog" scripts/simulate-catalog.sh 200 1000
step "documentation" document
printf '\ncheck.sh: OK in %d s\n' "$SECONDS"
