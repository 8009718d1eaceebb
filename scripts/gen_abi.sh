#!/bin/sh
# Regenerates pjrt/src/abi.rs from the header inside a PJRT plugin package; with --check only says whether the file is current.
# Needs: python3 with pip, a C compiler (for its stddef.h), rustfmt.
set -eu
cd "$(dirname "$0")/.."
package=xla-cpu-pjrt version=0.0.1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --target "$work/plugin" "$package==$version"
python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$work/clang" "libclang==18.1.1"
header=$(find "$work/plugin" -name pjrt_c_api.h)
PYTHONPATH="$work/clang" python3 scripts/gen_abi.py "$header" "$(cc -print-file-name=include)" "package $package $version" >"$work/abi.rs"
rustfmt --edition 2024 --config-path rustfmt.toml "$work/abi.rs"

if [ "${1:-}" = --check ]; then
    diff -u pjrt/src/abi.rs "$work/abi.rs" && echo "pjrt/src/abi.rs is current"
else
    mv "$work/abi.rs" pjrt/src/abi.rs
fi
