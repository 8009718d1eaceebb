"""Shared by the benchmarks: paths, running a program, describing the machine. Standard library only."""
import json
import os
import platform
import statistics
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
RESULTS = os.path.join(HERE, "results")
WORK = os.path.join(ROOT, "target", "bench")
BINARY = os.path.join(ROOT, "target", "release", "rigl-xla")
DATA = os.path.join(WORK, "mnist")
JAX = os.path.join(WORK, "venv", "bin", "python")
PATHS = ("run_dir", "checkpoint")  # fields of our records that depend on where the repository lies
TF1 = os.path.join(WORK, "tf1", "bin", "python")


def run_json(command, environment=None):
    """The JSON object that `command` prints last, with its wall seconds and peak memory; its stderr passes through."""
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit status {child.returncode}")
    record = json.loads(output.strip().splitlines()[-1])
    record = {field: value for field, value in record.items() if field not in PATHS}
    return {**record, "wall_s": round(time.perf_counter() - started, 3), "peak_rss_mb": round(usage.ru_maxrss / 1024, 1)}


def doctor(*flags, binary=BINARY, environment=None):
    """The report of `plugin doctor`, by default on the CPU plugin, which it fetches if the cache has none."""
    return run_json([binary, "plugin", "doctor", "--json", *flags], environment)


def dump_flags(folder):
    """The $XLA_FLAGS with which XLA writes the graphs that it compiles into `folder`."""
    return f"--xla_dump_to={folder} --xla_dump_hlo_as_text"


def dumping(folder, plugin):
    """Environment in which XLA writes the graphs and object files that it compiles into `folder`."""
    return {
        **os.environ,
        "XLA_FLAGS": dump_flags(folder),
        "RIGL_XLA_CACHE": os.path.join(folder, "cache"),  # a program from the cache writes nothing
        "RIGL_XLA_PLUGIN": plugin,
    }


def train_command(method, steps, seed, out, binary=BINARY, extra=()):
    """Our program on the MNIST recipe of `method`."""
    steps = [] if steps is None else ["--steps", str(steps)]
    return [
        binary, "train", f"mnist-{method}", *steps, "--seed", str(seed), "--data", DATA, "--out", out, "--overwrite",
        "--json", *extra,
    ]  # fmt: skip


def shown(command):
    """A command for a results file, paths relative to the repository; of a program elsewhere, its name alone."""
    words = [os.path.relpath(word, ROOT) if word.startswith(ROOT + os.sep) else word for word in command]
    return " ".join([os.path.basename(words[0]) if os.path.isabs(words[0]) else words[0], *words[1:]])


def plugin(device="cpu", binary=BINARY):
    """Package file, API version and build of the plugin that our program uses; none where it is not built."""
    if not os.path.exists(binary):
        return None
    found = doctor("--device", device, binary=binary)
    return {
        "file": os.path.basename(found["path"]),
        "api_version": ".".join(str(part) for part in found["api_version"]),
        "fingerprint": found["fingerprint"][:16],
    }


def machine(device="cpu"):
    """Processor, cores, load, plugin for a device, and the revision measured."""
    model = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), model)
    lscpu = subprocess.run(["lscpu"], stdout=subprocess.PIPE, text=True, check=False).stdout
    fields = dict(line.split(":", 1) for line in lscpu.splitlines() if ":" in line)
    git = subprocess.run(
        ["git", "-C", ROOT, "describe", "--always", "--dirty"], stdout=subprocess.PIPE, text=True, check=False
    )
    load = [round(load, 2) for load in os.getloadavg()]
    return {
        "cpu": model,
        "cpu_family_model": f"{fields.get('CPU family', '?').strip()}/{fields.get('Model', '?').strip()}",
        "cores": os.cpu_count(),
        "load_average_before": load,
        "plugin": plugin(device),
        "system": f"{platform.system()} {platform.release()}",
        "revision": git.stdout.strip(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def processor(machine):
    """Processor and cores of `machine`, as results files show them."""
    return f"{machine['cpu']} (family/model {machine['cpu_family_model']}), {machine['cores']} cores"


def gpu():
    """Name, driver and memory of the first GPU."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader", "--id=0"]
    return subprocess.run(query, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def median(records, field):
    values = [record[field] for record in records if record.get(field) is not None]
    return statistics.median(values) if values else None


def save(name, record, table):
    """Writes `results/NAME.json` and `results/NAME.md`, and shows the table."""
    os.makedirs(RESULTS, exist_ok=True)
    with open(os.path.join(RESULTS, name + ".json"), "w") as file:
        json.dump(record, file, indent=1)
        file.write("\n")
    with open(os.path.join(RESULTS, name + ".md"), "w") as file:
        file.write(table)
    print(table)
