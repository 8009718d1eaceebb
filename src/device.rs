//! A device ready to run graphs: plugin, client and the cache of compiled programs.

use crate::pjrt::{
    self, Cache, CacheOutcome, Client, ClientOptions, CompileOptions, DeviceKind, Executable, OptionValue,
};
use crate::report::{self, note};
use hlo::{Alias, Computation, Target};
use std::time::Instant;

/// One device and what is needed to put programs on it.
pub struct Device {
    /// Which kind it is.
    pub kind: DeviceKind,
    /// The plugin's client.
    pub client: Client,
    /// `None` where there is no folder for it.
    cache: Option<Cache>,
}

impl Device {
    /// Finds, or fetches, the plugin for `kind` and starts it with one device.
    ///
    /// # Errors
    /// What keeps the plugin from being found, loaded or started.
    pub fn open(kind: DeviceKind, plugin: Option<&str>) -> pjrt::Result<Self> {
        let started = Instant::now();
        pjrt::require(kind, plugin)?;
        let plugin = pjrt::open(kind, plugin)?;
        let client = plugin.client(&ClientOptions::for_device(kind))?;
        report::detail(|| format!("plugin {} ready in {:.2?}", plugin.path().display(), started.elapsed()));
        Ok(Device {
            kind,
            client,
            cache: Cache::open().inspect_err(|e| note!("no compile cache: {e}")).ok(),
        })
    }

    /// Compiles a graph, or loads it from the cache, in the form that suits the device ([`Computation::lowered`]). With
    /// `aliases` parameters may be donated to outputs.
    ///
    /// # Errors
    /// The compiler's.
    pub fn program(&self, computation: &Computation, aliases: &[Alias]) -> pjrt::Result<Executable> {
        let started = Instant::now();
        let bytes = module(self.kind, computation, aliases)?;
        let options = options(self.kind);
        let Some(cache) = &self.cache else {
            return self.client.compile(&bytes, &options);
        };
        let (executable, outcome) = self.client.compile_cached(cache, &bytes, &options)?;
        let name = &computation.name;
        match outcome {
            CacheOutcome::Damaged(why) => {
                note!("compile cache: the entry of {name} was damaged and is replaced ({why})")
            }
            CacheOutcome::NotSaved(why) => note!("compile cache: {name} could not be kept ({why})"),
            CacheOutcome::Hit => report::detail(|| format!("{name}: from the cache in {:.2?}", started.elapsed())),
            CacheOutcome::Miss => report::detail(|| format!("{name}: compiled in {:.2?}", started.elapsed())),
        }
        Ok(executable)
    }
}

/// Environment variable that says in which form plugins are given programs: `hlo` (default) or `stablehlo`, for a plugin
/// that takes nothing else.
const FORMAT: &str = "RIGL_XLA_PROGRAM_FORMAT";

/// A graph as a program for a plugin, in the form that suits a kind of device.
///
/// # Errors
/// A graph that cannot be rewritten (none of this crate's), or an unknown format.
pub fn module(kind: DeviceKind, computation: &Computation, aliases: &[Alias]) -> pjrt::Result<Vec<u8>> {
    let lowered = computation.lowered(target(kind))?;
    let format = std::env::var(FORMAT).unwrap_or_default();
    match format.as_str() {
        "" | "hlo" => Ok(lowered.to_bytes(aliases)),
        "stablehlo" => Ok(lowered.to_stablehlo(aliases).into_bytes()),
        _ => Err(pjrt::Error::UnknownFormat {
            variable: FORMAT,
            given: format,
        }),
    }
}

/// What graphs are rewritten for.
fn target(kind: DeviceKind) -> Target {
    match kind {
        DeviceKind::Cpu => Target::Cpu,
        _ => Target::Any,
    }
}

/// What every program of a kind of device is compiled with.
pub fn options(kind: DeviceKind) -> CompileOptions {
    let mut options = CompileOptions::default();
    if kind == DeviceKind::Cpu {
        let off = |flag: &str| (flag.to_string(), OptionValue::Bool(false));
        // Otherwise the CPU compiler lets maximum and minimum drop a NaN, and a matrix product whose right operand is an
        // argument may be computed from what was at its address in an earlier launch.
        let exact = ["xla_cpu_enable_fast_min_max", "xla_cpu_use_xnnpack"];
        options.xla_flags.extend(exact.map(off));
    }
    options
}
