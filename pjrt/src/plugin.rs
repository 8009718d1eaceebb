//! One loaded plugin library.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LAZY, RTLD_LOCAL, RTLD_NOW};
use sha2::{Digest, Sha256};

use crate::abi::*;
use crate::api::{Api, OptionValue, new, read_named_values};
use crate::client::{Client, ClientOptions};
use crate::elf;
use crate::error::{Error, Result};
use crate::ffi;

/// Lowest minor version of the C API (major 0) that is accepted: 0.57 reordered the table.
pub const MINIMUM_MINOR: i32 = 58;

/// A PJRT plugin: a shared library that compiles and runs programs on one kind of device. Cheap to clone; the library
/// stays loaded until the process ends, because XLA has threads of its own.
#[derive(Clone, Copy)]
pub struct Plugin(&'static Loaded);

struct Loaded {
    path: PathBuf,
    api: Api,
    _library: ManuallyDrop<Library>,
    fingerprint: OnceLock<String>,
}

/// Functions of the header's table that a plugin offers.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SlotCoverage {
    /// Size of the plugin's table in bytes.
    pub plugin_bytes: usize,
    /// Size of the header's table in bytes.
    pub header_bytes: usize,
    /// Slots of the header.
    pub slots: usize,
    /// Names of the slots that the plugin lacks.
    pub missing: Vec<&'static str>,
}

impl Plugin {
    /// Loads the library at `path`, checks its version and initialises it. A path that is loaded already returns the same plugin.
    ///
    /// # Errors
    /// A missing file, a file that is not a library, a damaged library, a library that is not a plugin, an unsupported version, or
    /// a failed initialisation.
    pub fn load(path: &Path) -> Result<Plugin> {
        Plugin::load_with(path, &[])
    }

    /// As [`Plugin::load`], but if it is the first plugin of the process, sets those of these environment variables before that
    /// are not set.
    ///
    /// # Errors
    /// As [`Plugin::load`].
    pub fn load_with(path: &Path, variables: &[(&str, &str)]) -> Result<Plugin> {
        Plugin::load_in(path, &[&[QUIET], variables].concat())
    }

    /// As [`Plugin::load`], but only to compile for absent devices. Otherwise the TPU plugin queries the network for minutes and
    /// cannot be loaded by two processes at once. Has no effect if a plugin is loaded already.
    ///
    /// # Errors
    /// As [`Plugin::load`].
    pub fn load_compiler(path: &Path) -> Result<Plugin> {
        Plugin::load_in(path, &[&[QUIET], &WITHOUT_TPU[..]].concat())
    }

    fn load_in(path: &Path, variables: &[(&str, &str)]) -> Result<Plugin> {
        static LOADED: Mutex<BTreeMap<PathBuf, Plugin>> = Mutex::new(BTreeMap::new());
        elf::check(path)?;
        let canonical = path.canonicalize().map_err(Error::io(path))?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plugin) = loaded.get(&canonical) {
            return Ok(*plugin);
        }
        if loaded.is_empty() {
            set_unless_set(variables);
        }
        preload_cuda(&canonical);
        let plugin = Plugin::load_new(path, &canonical)?;
        loaded.insert(canonical, plugin);
        Ok(plugin)
    }

    fn load_new(path: &Path, canonical: &Path) -> Result<Plugin> {
        let not_a_plugin = |reason: String| Error::NotAPlugin {
            path: path.to_owned(),
            reason,
        };
        // SAFETY: running the library's initialisers is what the user asks for by naming a plugin; the file is a whole
        // library. It stays loaded even when refused below, since its initialisers may have started threads.
        let library =
            unsafe { Library::open(Some(canonical), RTLD_NOW | RTLD_LOCAL) }.map_err(|e| Error::NotALibrary {
                path: path.to_owned(),
                reason: loader_message(&e),
            })?;
        let library = ManuallyDrop::new(library);
        // SAFETY: the symbol, where it exists, is the C API's entry point of this type.
        let entry = unsafe { library.get::<unsafe extern "C" fn() -> *const PJRT_Api>(b"GetPjrtApi\0") }
            .map_err(|_| not_a_plugin("it does not export GetPjrtApi".into()))?;
        // SAFETY: the entry point takes nothing and returns a table that lives as long as the library, which is for ever.
        let api = unsafe { Api::from_table(entry()) }.map_err(not_a_plugin)?;
        let (major, minor) = api.version();
        if major != PJRT_API_MAJOR || minor < MINIMUM_MINOR {
            return Err(Error::Version {
                path: path.to_owned(),
                major,
                minor,
                minimum: MINIMUM_MINOR,
            });
        }
        // SAFETY: the argument holds no pointers; the caller's lock and map make this the only call in the process.
        unsafe { api.call(&mut new::<PJRT_Plugin_Initialize_Args>())? };
        let loaded = Loaded {
            path: path.to_owned(),
            api,
            _library: library,
            fingerprint: OnceLock::new(),
        };
        Ok(Plugin(Box::leak(Box::new(loaded))))
    }

    pub(super) fn api(&self) -> Api {
        self.0.api
    }

    /// The C API's version in this plugin: (major, minor).
    pub fn api_version(&self) -> (i32, i32) {
        self.0.api.version()
    }

    /// The library's file, as first given to [`Plugin::load`].
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Identifies the build of the plugin, wherever its file lies: a digest of the file's size, its API version and 128
    /// evenly spaced pages of it (the whole of a small file), so that starting does not read hundreds of megabytes.
    ///
    /// # Errors
    /// If the file can no longer be read.
    pub fn fingerprint(&self) -> Result<&str> {
        if self.0.fingerprint.get().is_none() {
            let digest = sampled_digest(&self.0.path, self.api_version()).map_err(Error::io(&self.0.path))?;
            let _ = self.0.fingerprint.set(digest);
        }
        Ok(self.0.fingerprint.get().map_or("", String::as_str))
    }

    /// Lets programs compiled for the host's processor call `handler` by `name`. Returns false if the plugin has no interface
    /// for such calls.
    ///
    /// # Errors
    /// If the plugin refuses the function.
    ///
    /// # Safety
    /// `handler` must be sound for every call frame that XLA passes.
    pub unsafe fn register_host_function(&self, name: &str, handler: ffi::Handler) -> Result<bool> {
        ffi::register(&self.0.api, name, handler)
    }

    /// Attributes of the plugin, such as `stablehlo_current_version`.
    ///
    /// # Errors
    /// If the plugin fails to answer.
    pub fn attributes(&self) -> Result<BTreeMap<String, OptionValue>> {
        let mut args = new::<PJRT_Plugin_Attributes_Args>();
        // SAFETY: no pointers go in.
        match unsafe { self.0.api.call(&mut args) } {
            Err(e) if e.is_unimplemented() => return Ok(BTreeMap::new()),
            done => done?,
        }
        // SAFETY: the call returned this array, which lives as long as the plugin.
        Ok(unsafe { read_named_values(args.attributes, args.num_attributes) })
    }

    /// Which functions of our header the plugin offers.
    pub fn coverage(&self) -> SlotCoverage {
        let missing = SLOTS
            .iter()
            .filter(|(_, offset)| !self.0.api.has(*offset))
            .map(|(name, _)| *name);
        SlotCoverage {
            plugin_bytes: self.0.api.struct_size(),
            header_bytes: size_of::<PJRT_Api>(),
            slots: SLOTS.len(),
            missing: missing.collect(),
        }
    }

    /// The extensions the plugin offers, by the header's names (`type N` for ones newer than the header).
    pub fn extensions(&self) -> Vec<String> {
        let named = |id| {
            EXTENSIONS
                .iter()
                .find(|(known, _)| *known == id)
                .map(|(_, name)| (*name).to_owned())
        };
        self.0
            .api
            .extensions()
            .into_iter()
            .map(|id| named(id).unwrap_or_else(|| format!("type {id}")))
            .collect()
    }

    /// Starts a client on the plugin's devices. Use one per process.
    ///
    /// # Errors
    /// If the plugin refuses the options or finds no device.
    pub fn client(&self, options: &ClientOptions) -> Result<Client> {
        Client::new(*self, options)
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor) = self.api_version();
        write!(f, "Plugin({}, API {major}.{minor})", self.0.path.display())
    }
}

/// Keeps XLA's informational log lines off standard error, unless the user asks for them.
const QUIET: (&str, &str) = ("TF_CPP_MIN_LOG_LEVEL", "1");

/// Settings for libtpu on a machine without TPUs: no query of the metadata server, but a fixed answer (it does not affect
/// compilation); no lock against other processes; no log output.
const WITHOUT_TPU: [(&str, &str); 8] = [
    ("TPU_SKIP_MDS_QUERY", "1"),
    ("TPU_WORKER_HOSTNAMES", "localhost"),
    ("TPU_WORKER_ID", "0"),
    ("TPU_ACCELERATOR_TYPE", "v5litepod-1"),
    ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
    ("TPU_LOG_DIR", "disabled"),
    ("TPU_MIN_LOG_LEVEL", "3"),
    ("TPU_STDERR_LOG_LEVEL", "3"),
];

/// Sets the environment variables that the user has not set.
fn set_unless_set(variables: &[(&str, &str)]) {
    for (name, value) in variables {
        if std::env::var_os(name).is_none() {
            // SAFETY: no plugin is loaded yet, so no foreign threads read the environment; Rust's own readers take a lock.
            unsafe { std::env::set_var(name, value) };
        }
    }
}

/// The message of the system's loader.
fn loader_message(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn sampled_digest(path: &Path, version: (i32, i32)) -> std::io::Result<String> {
    const SAMPLES: u64 = 128;
    const PAGE_BYTES: u64 = 4096;
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut hash = Sha256::new();
    hash.update(format!("{size} {}.{}", version.0, version.1));
    let stride = (size / SAMPLES).max(PAGE_BYTES);
    let mut page = Vec::new();
    for offset in (0..size).step_by(stride as usize) {
        page.clear();
        file.seek(SeekFrom::Start(offset))?;
        file.by_ref().take(PAGE_BYTES).read_to_end(&mut page)?;
        hash.update(&page);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Loads the CUDA libraries of the `nvidia-*` packages installed with a GPU plugin, so that the plugin finds its dependencies
/// without a library path. They depend on each other in no fixed order, so this makes several passes. Failures surface when the
/// plugin is loaded.
fn preload_cuda(plugin: &Path) {
    let Some(site) = plugin
        .ancestors()
        .nth(3)
        .filter(|_| plugin.to_string_lossy().contains("cuda"))
    else {
        return;
    };
    let mut waiting: Vec<PathBuf> = shared_libraries(&site.join("nvidia"));
    loop {
        let before = waiting.len();
        waiting.retain(|path| {
            // SAFETY: NVIDIA's libraries, asked for by installing them; never unloaded.
            match unsafe { Library::open(Some(path), RTLD_LAZY | RTLD_GLOBAL) } {
                Ok(library) => {
                    std::mem::forget(library);
                    false
                }
                Err(_) => true,
            }
        });
        if waiting.is_empty() || waiting.len() == before {
            return;
        }
    }
}

/// Shared libraries in `root/*/lib`, sorted.
fn shared_libraries(root: &Path) -> Vec<PathBuf> {
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    let is_library = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().contains(".so"));
    let mut found: Vec<PathBuf> = entries(root)
        .flat_map(|package| entries(&package.join("lib")).collect::<Vec<_>>())
        .filter(is_library)
        .collect();
    found.sort();
    found
}
