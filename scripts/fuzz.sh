#!/usr/bin/env bash
# Mutated inputs against the readers of everything that comes from outside, for as long as it is told to, optimised and with
# assertions on. Ends at the first input that fails; then the input lies, shortened, in a file, and the command that runs it
# again is printed.
#
#   scripts/fuzz.sh [--seed SEED] [SECONDS [TARGET]]      60 s over all targets from a random seed, unless told
#   scripts/fuzz.sh --input FILE TARGET                   one input
#
#   RINGLOG_FUZZ_FOLDER   where failing inputs go; the directory that it is started in, unless told
set -euo pipefail

seed=$((RANDOM * 32768 + RANDOM))
input=
while [ $# -gt 0 ]; do
    case "$1" in
        --seed) seed=$2; shift 2 ;;
        --input) input=$(realpath "$2"); shift 2 ;;
        *) break ;;
    esac
done
if [ -n "$input" ]; then
    target=${1:?"usage: scripts/fuzz.sh --input FILE TARGET"}
    seconds=0
else
    seconds=${1:-60}
    target=${2:-}
    echo "fuzz.sh: seed $seed, $seconds s"
fi

export RINGLOG_FUZZ_FOLDER=${RINGLOG_FUZZ_FOLDER:-$PWD}
cd "$(dirname "$0")/.."
export RINGLOG_FUZZ_SEED=$seed RINGLOG_FUZZ_SECONDS=$seconds RINGLOG_FUZZ_TARGET=$target RINGLOG_FUZZ_INPUT=$input
cargo test --profile fuzz --locked -p ringlog --test fuzz -- --ignored --exact as_long_as_asked_for --nocapture
