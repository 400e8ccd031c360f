# What every script here shares: where things are, how a line is said, how a package is installed. Sourced, never run.

set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build="$top/build"

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# Where cargo puts what it builds: the same place that cargo itself would take.
target_dir() { printf '%s\n' "${CARGO_TARGET_DIR:-$top/target}"; }

# Installs the packages among the arguments that are not there yet.
install_missing() {
    local package missing=()
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
    done
    [ "${#missing[@]}" -eq 0 ] || install_packages "${missing[@]}"
}

# Sets as_root to what goes in front of a command that needs root.
need_root() {
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "needs root or sudo to $*"
        as_root=(sudo)
    fi
}

# Installs packages of a server for their programs only: install_stopped UNIT PACKAGE... Where the server was not there, it neither
# starts now nor at the next boot.
install_stopped() {
    local unit=$1 package missing=() as_root policy=/usr/sbin/policy-rc.d ours= status=0
    shift
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    need_root "install: apt-get install ${missing[*]}"
    if [ ! -e "$policy" ]; then
        ours=yes
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod 755 "$policy"
    fi
    (install_packages "${missing[@]}") || status=$?
    [ -z "$ours" ] || "${as_root[@]}" rm "$policy"
    [ "$status" -eq 0 ] || exit "$status"
    if [ "${missing[0]}" = "$1" ] && command -v systemctl >/dev/null; then
        "${as_root[@]}" systemctl disable --quiet "$unit" 2>/dev/null || true
    fi
}

# Installs packages, or brings them up to date.
install_packages() {
    command -v apt-get >/dev/null || die "needs the Debian packages $*, and there is no apt-get here: install what they hold yourself"
    local as_root
    need_root "install: apt-get install $*"
    say "Installing $*"
    local log
    log=$(mktemp)
    if ! { "${as_root[@]}" apt-get update -q && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        die "could not install $* (above: the end of what apt-get said)"
    fi
    rm -f "$log"
}
