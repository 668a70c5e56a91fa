#!/usr/bin/env bash
# Looks for bytes that break a parser: fuzz/run.sh SECONDS [TARGET…]; each target for so long, all of them if none is named.
#
# libFuzzer, with coverage as rustc and LLVM count it by themselves: stable Rust and a C++ compiler are enough. What was found
# before is in corpus/; what is new there, and only locally, is kept in the target directory for the next time.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:?fuzz/run.sh SECONDS [TARGET…]}
shift
host=$(rustc -vV | sed -n 's/^host: //p')
target=${CARGO_TARGET_DIR:-target}/fuzz

# Only what is built for the host as a target has them, and no build script.
instruments=(--cfg fuzzing -Cpasses=sancov-module)
for one in level=4 inline-8bit-counters pc-table trace-compares; do
    instruments+=("-Cllvm-args=-sanitizer-coverage-$one")
done
CARGO_TARGET_DIR=$target RUSTFLAGS="${instruments[*]}" \
    "${CARGO:-cargo}" build --locked --release --quiet --target "$host"

[ $# -gt 0 ] || set -- corpus/*/
failed=()
for one in "$@"; do
    one=$(basename "$one")
    mkdir -p "$target/found/$one" artifacts
    log=$target/$one.log
    if DWELL_FUZZ_TARGET=$one "$target/$host/release/dwell-fuzz" "$target/found/$one" "corpus/$one" \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=512 \
        -artifact_prefix="artifacts/$one-" >"$log" 2>&1; then
        printf '%-22s %s\n' "$one" "$(grep -aE '^Done|^stat::number' "$log" | tail -1)"
    else
        failed+=("$one")
        printf '%-22s failed:\n' "$one"
        tail -n 25 "$log"
    fi
done
[ ${#failed[@]} = 0 ] || {
    echo "failed: ${failed[*]}. The input is in fuzz/artifacts; mend the parser, and keep the input in fuzz/corpus/TARGET."
    exit 1
}
