# Sourced by the other scripts: makes virtual environments from the locks and installs axlebox in them.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
ROOT=$PWD
SOURCES=(firmware_bundle runtime training export requirements pyproject.toml README.md LICENSE)

die() { echo "$1" >&2; exit "${2:-20}"; }

find_python() {
    local name
    for name in ${PYTHON:-} python3.11 python3.12 python3.13 python3; do
        if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    die "Python 3.11, 3.12 or 3.13 is needed and was not found; name one with PYTHON=..."
}

fingerprint() { cat "$@" | sha256sum | cut -d' ' -f1; }

# make_venv FOLDER LOCK...: a virtual environment with the first lock, unless it holds one of them already.
make_venv() {
    local venv=$1 wanted=$2 lock held python
    shift
    held=$(cat "$venv/.lock-held" 2>/dev/null || true)
    for lock in "$@"; do
        [ "$held" = "$(fingerprint "$lock")" ] && return
    done
    echo "installing $wanted into ${venv#"$ROOT"/} (once; a few minutes with pip, seconds with uv)" >&2
    rm -rf "$venv"
    python=$(find_python) || exit
    if command -v uv >/dev/null; then
        uv venv --quiet --python "$python" "$venv"
        uv pip install --quiet --python "$venv/bin/python" --require-hashes --no-deps -r "$wanted"
    else
        "$python" -m venv "$venv" || die "python's venv module does not work here (Debian: install python3-venv)"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r "$wanted"
    fi
    fingerprint "$wanted" >"$venv/.lock-held"
}

# make_wheel: build/wheel/*.whl from a clean copy of the sources, unless it is there already.
# A clean copy, because a wheel built in the tree once contained a module that had been deleted.
make_wheel() {
    local want copy
    want=$(find "${SOURCES[@]}" -type f ! -path '*/__pycache__/*' -print0 | sort -z | xargs -0 sha256sum | sha256sum)
    [ "$(cat build/wheel/.made-of 2>/dev/null)" = "$want" ] && return
    rm -rf build/wheel
    mkdir -p build/wheel
    copy=$(mktemp -d)
    cp -r "${SOURCES[@]}" "$copy"
    find "$copy" -name __pycache__ -prune -exec rm -rf {} +
    if ! (cd "$copy" && "$ROOT/.venv/bin/python" -m build --wheel --no-isolation --outdir "$ROOT/build/wheel" .) \
        >build/wheel/log 2>&1; then
        rm -rf "$copy"
        cat build/wheel/log >&2
        die "the wheel could not be built" 70
    fi
    rm -rf "$copy"
    echo "$want" >build/wheel/.made-of
}

# install_wheel FOLDER: put the built wheel into a virtual environment, unless it is in there.
install_wheel() {
    local venv=$1 pip
    cmp -s build/wheel/.made-of "$venv/.wheel-held" && return
    if command -v uv >/dev/null; then
        uv pip install --quiet --python "$venv/bin/python" --no-deps --reinstall --no-index build/wheel/*.whl
    else
        pip=("$venv/bin/python" -m pip)
        # Where uv made the environment and is gone, there is no pip in it.
        "${pip[@]}" --version >/dev/null 2>&1 || pip=("$(find_python)" -m pip --python "$venv/bin/python")
        "${pip[@]}" install --quiet --disable-pip-version-check --no-deps --force-reinstall --no-index build/wheel/*.whl
    fi
    cp build/wheel/.made-of "$venv/.wheel-held"
}
