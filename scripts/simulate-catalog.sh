#!/usr/bin/env bash
# Whole lives of a catalog on a simulated disk, one seed after another, until one breaks a promise.
#
#   scripts/simulate-catalog.sh [SEEDS [FIRST]]      1000 seeds from a random one, unless told
#
# A failure names its seed: `scripts/simulate-catalog.sh 1 SEED` runs the same lives again.
set -euo pipefail
cd "$(dirname "$0")/.."

export RINGLOG_SIM_SEEDS="${1:-1000}"
export RINGLOG_SIM_FIRST="${2:-$((RANDOM * 32768 + RANDOM))}"
cargo test --locked -p ringlog --lib -- \
    --ignored --exact catalog::simulation::tests::as_many_seeds_as_asked_for --nocapture
