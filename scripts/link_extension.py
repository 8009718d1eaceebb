"""Links the engine on the crate `xla` and trains with it; by hand, as CI has no time for it. CPU only.

No package index has the crate's own C++ library, but TensorFlow's wheel holds the same XLA, with most headers. The functions of
the crate's C++ file that the engine calls are compiled against it; headers that the wheel lacks are replaced by declarations of
what those that it has name, none of which is used.

    python3 scripts/link_extension.py
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "target/extension"
PACKAGES = {"tensorflow": "tensorflow-cpu==2.21.0", "clang": "libclang==18.1.1", "safetensors": "safetensors==0.5.3"}
FLAGS = "--xla_cpu_enable_fast_min_max=false --xla_cpu_use_xnnpack=false --xla_force_host_platform_device_count=2"

# Called by the engine, and by the crate's `Drop` implementations and error messages.
FUNCTIONS = """
    pjrt_cpu_client_create pjrt_client_addressable_device_count pjrt_client_addressable_devices pjrt_client_platform_name
    pjrt_client_free pjrt_loaded_executable_free pjrt_buffer_from_host_buffer pjrt_buffer_to_literal_sync pjrt_buffer_free
    compile_replicated execute_replicated_b literal_reshape literal_copy_to literal_size_bytes literal_free
    xla_computation_from_hlo_module_proto xla_computation_free hlo_module_proto_parse_proto hlo_module_proto_free
    status_error_message status_free""".split()

MLIR = """#include <cstddef>
namespace mlir { struct MLIRContext; struct DialectRegistry; struct StringRef; struct ModuleOp { void* state; };
template <class T> struct OwningOpRef { T op; T get() const { return op; } T operator*() const { return op; }
OwningOpRef() = default; OwningOpRef(T op) : op(op) {} explicit operator bool() const { return true; } }; }"""
HASH = """#include <cstdint>
#define HH_TARGET_PREFERRED 1
namespace highwayhash { typedef uint64_t HHKey[4];
template <int T> struct HighwayHashCatT { HighwayHashCatT(const HHKey&) {} uint64_t state[64]; }; }"""
FARM = """#include <cstdint>
#include <cstddef>
#include <utility>
namespace util { typedef std::pair<uint64_t, uint64_t> uint128_t; uint32_t Fingerprint32(const char*, size_t);
uint64_t Fingerprint64(const char*, size_t); uint128_t Fingerprint128(const char*, size_t); uint64_t Uint128Low64(uint128_t);
uint64_t Uint128High64(uint128_t); }
namespace farmhash = util;"""
HEADERS = {
    **dict.fromkeys(["mlir/IR/BuiltinOps.h", "mlir/IR/MLIRContext.h", "mlir/IR/OwningOpRef.h"], MLIR),
    **dict.fromkeys(["mlir/IR/DialectRegistry.h", "mlir/Support/LLVM.h"], MLIR),
    **dict.fromkeys([f"highwayhash/{name}.h" for name in ("arch_specific", "hh_types", "highwayhash")], HASH),
    "farmhash.h": FARM,
}


def run(*command, **more):
    print("+", *map(str, command[:6]), "…" if len(command) > 6 else "", file=sys.stderr)
    return subprocess.run(command, check=True, cwd=ROOT, **more)


def package(module):
    folder = HERE / module
    if not folder.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
        run(*pip, "--target", folder.with_suffix(".part"), PACKAGES[module])
        folder.with_suffix(".part").rename(folder)
    return folder


def crate_source():
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--features", "xla-extension"]
    packages = json.loads(run(*command, stdout=subprocess.PIPE).stdout)["packages"]
    [manifest] = [package["manifest_path"] for package in packages if package["name"] == "xla"]
    return Path(manifest).parent / "xla_rs"


def shim(source):
    """The crate's header and file, reduced to the functions called and to headers for CPUs."""
    text = (source / "xla_rs.cc").read_text()
    functions = [text[: text.index("#define BEGIN_PROTECT_OP")]]
    for name in FUNCTIONS:
        # On one line, or to the first brace at the start of one.
        pattern = rf"^(\w[\w *]*\s)?\*?{name}\([^)]*\)\s*\{{([^\n]*\}}|.*?\n\}})$"
        functions.append(re.search(pattern, text, re.M | re.S).group())
    refused = ["gpu", "tpu"]
    for kind, parameters in zip(refused, ["double, bool", "int"]):
        body = f'return new Status(absl::UnimplementedError("no {kind} here"));'
        functions.append(f"status pjrt_{kind}_client_create(pjrt_client *, {parameters}) {{ {body} }}")
    unused = re.compile(r'#include "(llvm|mlir|xla/pjrt/gpu|xla/pjrt/plugin/xla_gpu|xla/pjrt/c_api|xla/hlo/translate).*\n')
    header = unused.sub("", (source / "xla_rs.h").read_text())
    for name, text in {"xla_rs.h": header, "xla_rs.cc": "\n\n".join(functions), **HEADERS}.items():
        path = HERE / "shim" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(("#pragma once\n" if path.suffix == ".h" else "") + text)
    return HERE / "shim"


def main():
    tensorflow, clang = package("tensorflow") / "tensorflow", package("clang")
    sources, include = shim(crate_source()), tensorflow / "include"
    compiled = HERE / "xla_rs.o"
    flags = ["-std=c++20", "-w", "-fPIC", "-DNDEBUG", f"-I{sources}", f"-I{include}", f"-I{include}/external/local_xla"]
    run("c++", *flags, "-c", sources / "xla_rs.cc", "-o", compiled)
    headers = subprocess.check_output(["cc", "-print-file-name=include"], text=True).strip()
    environment = {
        **os.environ,
        "LIBCLANG_PATH": str(clang / "clang/native"),
        "BINDGEN_EXTRA_CLANG_ARGS": f"-I{headers}",
        "DOCS_RS": "1",  # the crate's own build script is not to look for its library
        "CARGO_TARGET_DIR": str(HERE / "build"),
    }
    libraries = [compiled, *(tensorflow / f"libtensorflow_{part}.so.2" for part in ("cc", "framework"))]
    link = [f"-Wl,-rpath,{tensorflow}", "-lstdc++", "-Wl,--unresolved-symbols=ignore-all"]
    link = [word for argument in [*libraries, *link] for word in ("-C", f"link-arg={argument}")]
    for target in [["--bin", "rigl-xla"], ["--lib", "--profile", "test"]]:
        run("cargo", "rustc", "--locked", "--features", "xla-extension", *target, "--", *link, env=environment)
    binaries = HERE / "build/debug"
    quiet = {**os.environ, "XLA_FLAGS": FLAGS, "TF_CPP_MIN_LOG_LEVEL": "3"}
    tests = max((path for path in (binaries / "deps").glob("rigl_xla-*") if not path.suffix), key=os.path.getmtime)
    run(tests, "engine::", env=quiet)
    vgg = ["--model", "vgg-a", "--width", "0.0625", "--set", "model.image_size=32"]
    # VGG for few iterations: two builds of XLA round differently, which decides near ties of later updates.
    for steps, case in [(30, []), (30, ["--replicas", "2"]), (8, vgg)]:
        compare(binaries / "rigl-xla", ["--steps", str(steps), *case], quiet)


def compare(program, case, environment):
    """The same short run through both engines: masks and counters to the bit, everything else within rounding."""
    sys.path.insert(0, str(package("safetensors")))
    from safetensors import safe_open

    arguments = "--data synthetic --set data.examples=640 --batch-size 32 --steps-per-launch 7 --overwrite".split()
    arguments += ["--set", "mask_update.frequency_steps=5", *case]
    tensors = []
    for engine in ["pjrt", "xla"]:
        out = HERE / "runs" / engine
        run(program, "train", "--engine", engine, "--out", out, *arguments, env=environment, stdout=subprocess.DEVNULL)
        with safe_open(max(out.glob("ckpt-*"), key=os.path.getmtime), "np") as file:
            tensors.append({name: file.get_tensor(name) for name in file.keys()})
    there, here = tensors
    assert there.keys() == here.keys()
    worst = 0.0
    for name, array in there.items():
        if array.dtype.kind != "f":
            assert (array == here[name]).all(), name
        elif array.any():
            worst = max(worst, abs(array - here[name]).max() / abs(array).max())
    assert worst < 1e-5, worst
    print(f"train {' '.join(case)}: same masks and counters, floats within {worst:.1e} of their largest")


if __name__ == "__main__":
    main()
