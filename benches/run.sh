#!/usr/bin/env bash
# The telling cells of every benchmark, one after the other, in about 14 minutes
# on a machine that does nothing else. Tables (Markdown) and JSON go to the
# directory named by the first argument, or to target/bench-tables.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-target/bench-tables}
mkdir -p "$out"
out=$(cd "$out" && pwd)

cargo build -q --release -p streamlease-benches --benches

# run NAME BENCH [ARGUMENTS…]; a bench that fails does not keep the others from running.
failed=()
run() {
    local name=$1 bench=$2 started=$SECONDS
    shift 2
    printf '=== %s (load %s)\n' "$name" "$(cut -d' ' -f1 /proc/loadavg)"
    timeout 600 cargo bench -q -p streamlease-benches --bench "$bench" -- \
        --json "$out/$name.json" "$@" >"$out/$name.md" || failed+=("$name")
    cat "$out/$name.md"
    printf -- '--- %s: %ds\n' "$name" "$((SECONDS - started))"
}

run assign assign                                                       # 1 min
run hold hold --only session                                            # 2 min
run hold-per-stream hold --only per-stream                              # 2 min
run hold-wire hold --only wire                                          # 2 min
run failover failover --only session                                    # 1.5 min
run failover-per-stream failover --only per-stream                      # 1 min
run failover-wire failover --only wire --streams 1000,10000             # at most 4.5 min
run handoff handoff --only session                                      # 1 min
run handoff-per-stream handoff --only per-stream                        # 1 min
run machine machine                                                     # 10 s

[ ${#failed[@]} -eq 0 ] || { printf 'failed: %s\n' "${failed[*]}" >&2; exit 1; }
