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

# Installs packages, or brings them up to date.
install_packages() {
    command -v apt-get >/dev/null || die "needs the Debian packages $*, and there is no apt-get here: install what they hold yourself"
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "needs root or sudo to install: apt-get install $*"
        as_root=(sudo)
    fi
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
