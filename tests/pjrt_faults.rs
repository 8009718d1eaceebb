//! Plugins that are missing, wrong, too old or damaged: one clear error each. The bad plugins are made here with the C
//! compiler, small enough to carry exactly one fault.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use pjrt::{ClientOptions, DeviceKind, Error, Plugin};
use rigl_xla::plugins::{self, Package};

/// A plugin with the head of the function table and its first slots: error text, code and destruction, initialisation.
/// `SIZE`, `MAJOR`, `MINOR` and `FAILURE` (an error text, or none) are set by each test.
const SOURCE: &str = r#"
#include <stddef.h>
#include <stdio.h>
#include <string.h>
static char text[64]; static int live;
static void error_destroy(void* args) { live--; }
static void error_message(size_t* args) { args[3] = (size_t)text; args[4] = strlen(text); }
static void* error_code(size_t* args) { *(int*)(args + 3) = 9; return 0; }
static void* initialize(void* args) {
  if (!FAILURE) return 0;
  live++;
  sprintf(text, "%s, %d live error", (char*)FAILURE, live);
  return text;
}
static struct {
  size_t size; void* extensions;
  struct { size_t size; void* extensions; int major, minor; } version;
  void* slots[200];
} table = { SIZE, 0, { 24, 0, MAJOR, MINOR }, { error_destroy, error_message, error_code, initialize } };
void* GetPjrtApi(void) { return TABLE; }
"#;

struct Fake {
    dir: tempfile::TempDir,
    path: PathBuf,
}

fn compile(source: &str, defines: &[&str]) -> Fake {
    let dir = tempfile::tempdir().unwrap();
    let (input, path) = (dir.path().join("fake.c"), dir.path().join("fake.so"));
    std::fs::write(&input, source).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-w", "-o"]).arg(&path).arg(&input);
    let defaults = [
        "-DSIZE=sizeof(table)",
        "-DMAJOR=0",
        "-DMINOR=81",
        "-DFAILURE=0",
        "-DTABLE=&table",
    ];
    let overridden = |name: &str| defines.iter().any(|d| d.split('=').next() == name.split('=').next());
    cc.args(defaults.iter().filter(|name| !overridden(name))).args(defines);
    assert!(cc.status().unwrap().success());
    Fake { dir, path }
}

fn fake(defines: &[&str]) -> Fake {
    compile(SOURCE, defines)
}

fn refusal(path: &Path) -> String {
    let text = Plugin::load(path).unwrap_err().to_string();
    let name = path.display().to_string();
    text.strip_prefix(&format!("PJRT plugin {name}: "))
        .unwrap_or_else(|| panic!("{text}"))
        .to_owned()
}

#[test]
fn rejects_a_missing_file() {
    assert!(refusal(Path::new("/no/such/plugin.so")).starts_with("no such file"));
}

#[test]
fn rejects_a_file_that_is_not_a_library() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes.so");
    std::fs::write(&path, "just some text").unwrap();
    assert!(refusal(&path).contains("it begins with \"just som\", expected a 64-bit ELF header"));
    assert!(refusal(dir.path()).ends_with("it is not a file"));
}

#[test]
fn rejects_a_truncated_library() {
    let Fake { dir: _dir, path } = fake(&[]);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let text = refusal(&path);
    let half = bytes.len() / 2;
    assert!(
        text.starts_with(&format!(
            "damaged: {half} bytes, expected at least {} bytes",
            bytes.len()
        )),
        "{text}"
    );
    std::fs::write(&path, &bytes[..20]).unwrap();
    assert!(refusal(&path).starts_with("damaged: 20 bytes"));
}

#[test]
fn rejects_a_library_with_a_missing_dependency() {
    let Fake { dir: _dir, path } = compile("void absent(void); void GetPjrtApi(void) { absent(); }", &[]);
    let text = refusal(&path);
    assert!(
        text.starts_with("not a loadable shared library: ") && text.contains("absent"),
        "{text}"
    );
}

#[test]
fn rejects_a_library_that_is_not_a_plugin() {
    let Fake { dir: _dir, path } = compile("int unrelated(void) { return 1; }", &[]);
    assert!(refusal(&path).starts_with("not a PJRT plugin: it does not export GetPjrtApi"));
    let Fake { dir: _dir, path } = fake(&["-DTABLE=0"]);
    assert!(refusal(&path).contains("GetPjrtApi returned no table"));
    let Fake { dir: _dir, path } = fake(&["-DSIZE=24"]);
    assert!(refusal(&path).contains("its function table has 24 bytes, too few for a version (40)"));
}

#[test]
fn rejects_versions_outside_the_range() {
    for (major, minor) in [(0, 57), (0, 0), (1, 58), (-1, 81)] {
        let Fake { dir: _dir, path } = fake(&[&format!("-DMAJOR={major}"), &format!("-DMINOR={minor}")]);
        let text = refusal(&path);
        assert!(
            text.starts_with(&format!("its API version is {major}.{minor}; expected 0.58 or newer")),
            "{text}"
        );
    }
    let Fake { dir: _dir, path } = fake(&["-DMINOR=58"]);
    assert_eq!(Plugin::load(&path).unwrap().api_version(), (0, 58));
}

#[test]
fn failed_initialisation_keeps_its_message_and_frees_its_error() {
    let Fake { dir: _dir, path } = fake(&["-DFAILURE=\"no device here\""]);
    for _ in 0..2 {
        let text = Plugin::load(&path).unwrap_err().to_string();
        // The second failure would count two live errors if the first had leaked.
        assert_eq!(
            text,
            "PJRT_Plugin_Initialize: no device here, 1 live error (failed precondition)"
        );
    }
}

#[test]
fn reports_missing_slots() {
    // 72 bytes: the head and the slots up to initialisation; in the other table the next slots are null.
    for (size, call) in [("-DSIZE=72", "past the end"), ("-DSIZE=sizeof(table)", "null")] {
        let Fake { dir: _dir, path } = fake(&[size]);
        let plugin = Plugin::load(&path).unwrap();
        let error = plugin.client(&ClientOptions::default()).err().unwrap();
        assert_eq!(
            error.to_string(),
            "the PJRT plugin (API 0.81) lacks PJRT_Client_Create",
            "{call}"
        );
        assert!(error.is_unimplemented());
        assert!(plugin.attributes().unwrap().is_empty(), "{call}");
        let missing = plugin.coverage().missing;
        assert_eq!(missing.len(), plugin.coverage().slots - 4, "{call}: {missing:?}");
        assert!(plugin.extensions().is_empty());
    }
    // A table that ends before initialisation.
    let Fake { dir: _dir, path } = fake(&["-DSIZE=64"]);
    let text = Plugin::load(&path).unwrap_err().to_string();
    assert_eq!(text, "the PJRT plugin (API 0.81) lacks PJRT_Plugin_Initialize");
}

#[test]
fn rejects_names_that_are_neither_file_nor_package() {
    let error = plugins::open(DeviceKind::Cpu, Some("xla-cpu-pjr")).unwrap_err();
    assert!(
        matches!(&error, plugins::Error::UnknownPackage(unknown) if unknown.near == ["xla-cpu-pjrt"]),
        "{error}"
    );
    let error = plugins::open(DeviceKind::Cpu, Some("./absent.so")).unwrap_err();
    assert!(matches!(
        &error,
        plugins::Error::Pjrt {
            source: Error::Missing { .. }
        }
    ));
}

#[test]
fn rejects_a_file_with_another_digest() {
    let Fake { dir: _dir, path } = fake(&[]);
    let package = Package::named("xla-cpu-pjrt").unwrap();
    let text = plugins::verify(package, &path).unwrap_err().to_string();
    assert!(
        text.contains(package.sha256.unwrap()) && text.contains("damaged"),
        "{text}"
    );
}

/// Each place holds a plugin with an old version of its own, so that the error shows which one was loaded.
#[test]
fn searches_flag_environment_python_and_cache_in_order() {
    let old = |minor: i32| fake(&[&format!("-DMINOR={minor}")]);
    let [flag, variable, python, cached] = [1, 2, 3, 4].map(old);
    let package = Package::named("xla-cpu-pjrt").unwrap();
    let place = |plugin: &Fake, folder: &Path| {
        let path = folder.join(package.library);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::copy(&plugin.path, &path).unwrap();
        path
    };
    place(&python, python.dir.path());
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_rigl-xla"));
    doctor
        .args(["plugin", "doctor"])
        .env("RIGL_XLA_CACHE", cached.dir.path())
        .env_remove("RIGL_XLA_PLUGIN");
    let refused = |doctor: &mut Command, version: &str| {
        let output = doctor.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            text.contains(&format!("its API version is {version};")),
            "{version}: {text}"
        );
    };
    // In the cache only the package's very file counts: one of its size is found to be damaged, and fetched again.
    let entry = place(&cached, &cached.dir.path().join("plugins/xla-cpu-pjrt-0.0.1"));
    std::fs::File::options()
        .write(true)
        .open(entry)
        .unwrap()
        .set_len(package.bytes.unwrap())
        .unwrap();
    // No Python at all at first, since the real package may be installed.
    let output = doctor.env("PATH", flag.dir.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("xla_cpu_pjrt.so: damaged: SHA-256 "), "{text}");
    assert!(text.contains("cannot fetch the package xla-cpu-pjrt=="), "{text}");
    doctor.env("PATH", std::env::var_os("PATH").unwrap());
    refused(doctor.env("PYTHONPATH", python.dir.path()), "0.3");
    refused(doctor.env("RIGL_XLA_PLUGIN", &variable.path), "0.2");
    refused(doctor.arg("--plugin").arg(&flag.path), "0.1");
}

/// Runs the program with a cache of its own and no Python, as on a machine without one.
#[test]
fn missing_pip_error_names_the_command() {
    let (cache, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let output = Command::new(env!("CARGO_BIN_EXE_rigl-xla"))
        .args(["plugin", "fetch", "xla-cpu-pjrt"])
        .env("RIGL_XLA_CACHE", cache.path())
        .env("PATH", empty.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("cannot fetch the package xla-cpu-pjrt==0.0.1"), "{text}");
    assert!(text.ends_with("\n  sudo apt-get install python3-pip\n"), "{text}");
}

/// A package index that cannot be reached, and a half-written cache entry that must not be taken for the plugin.
#[test]
fn damaged_cache_entry_is_not_used_offline() {
    let cache = tempfile::tempdir().unwrap();
    let package = Package::named("xla-cpu-pjrt").unwrap();
    let entry = cache.path().join("plugins/xla-cpu-pjrt-0.0.1").join(package.library);
    std::fs::create_dir_all(entry.parent().unwrap()).unwrap();
    std::fs::write(&entry, "half").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_rigl-xla"))
        .args(["plugin", "fetch", "cpu"])
        .env("RIGL_XLA_CACHE", cache.path())
        .env("PIP_NO_INDEX", "1")
        .env_remove("PIP_FIND_LINKS")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("pip failed: ERROR"), "{text}");
    assert_eq!(std::fs::read(&entry).unwrap(), b"half");
}

/// `dump-hlo --optimized` of a network with convolutions, as compiled with these variables: exit code and what was written.
fn compiled(cache: &Path, variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let plugin = plugins::open(DeviceKind::Cpu, None).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_rigl-xla"))
        .args(["dump-hlo", "cifar10-rigl", "--graph", "eval", "--optimized"])
        .args(["--set", "model.depth=10", "--set", "model.width=1"])
        .arg("--plugin")
        .arg(plugin.path())
        .env("RIGL_XLA_CACHE", cache)
        .env("PIP_NO_INDEX", "1")
        .env_remove("PIP_FIND_LINKS")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn compiles_convolutions_without_onednn() {
    const CALL: &str = "rigl_xla.convolution";
    let cache = tempfile::tempdir().unwrap();
    let package = Package::named("onednn-cpu-gomp").unwrap();
    let library = plugins::fetch(package).unwrap();
    let (code, graph, _) = compiled(cache.path(), &[("RIGL_XLA_ONEDNN", library.to_str().unwrap())]);
    assert!(code == Some(0) && graph.contains(CALL), "{code:?}");

    let (code, graph, stderr) = compiled(cache.path(), &[("RIGL_XLA_ONEDNN", "off")]);
    assert!(code == Some(0) && !graph.contains(CALL), "{stderr}");
    assert!(!stderr.contains("slower"), "{stderr}");

    // A package index that cannot be reached.
    let (code, graph, stderr) = compiled(cache.path(), &[]);
    assert!(code == Some(0) && !graph.contains(CALL), "{stderr}");
    assert!(
        stderr.contains("convolutions will be slower: cannot fetch the package onednn-cpu-gomp==2023.2.0"),
        "{stderr}"
    );
    assert!(stderr.contains("rigl-xla plugin fetch onednn-cpu-gomp"), "{stderr}");

    let (code, _, stderr) = compiled(cache.path(), &[("RIGL_XLA_ONEDNN", "/no/such.so")]);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("RIGL_XLA_ONEDNN=/no/such.so: not oneDNN 3: "),
        "{stderr}"
    );
    assert!(
        stderr.contains("expected the path of its shared library, or off"),
        "{stderr}"
    );
}
