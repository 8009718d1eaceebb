//! A device ready to run graphs: plugin, client and the cache of compiled programs.

use crate::pjrt::{
    self, Cache, CacheOutcome, Client, ClientOptions, CompileOptions, DeviceKind, Executable, OptionValue,
};
use crate::report::{self, note};
use hlo::{Alias, Computation, Target};
use std::time::Instant;

/// The devices that a run uses, one of them or one for each of its replicas, and what is needed to put programs on them.
pub struct Device {
    /// Which kind it is.
    pub kind: DeviceKind,
    /// The plugin's client.
    pub client: Client,
    /// Replicas of programs that run on all devices; replica `i` is on device `i`.
    pub replicas: usize,
    /// `None` where there is no folder for it.
    cache: Option<Cache>,
}

impl Device {
    /// Finds, or fetches, the plugin for `kind` and starts it with one device.
    ///
    /// # Errors
    /// What keeps the plugin from being found, loaded or started.
    pub fn open(kind: DeviceKind, plugin: Option<&str>) -> pjrt::Result<Self> {
        Device::open_replicas(kind, plugin, 1)
    }

    /// [`Device::open`] with a device for each of `replicas`; a CPU pretends to have that many.
    ///
    /// # Errors
    /// As [`Device::open`], and when there are fewer devices.
    pub fn open_replicas(kind: DeviceKind, plugin: Option<&str>, replicas: usize) -> pjrt::Result<Self> {
        let started = Instant::now();
        pjrt::require(kind, plugin)?;
        let plugin = pjrt::open(kind, plugin)?;
        let mut options = ClientOptions::for_device(kind);
        if kind == DeviceKind::Cpu {
            options = options.with_cpu_devices(replicas);
        }
        let client = plugin.client(&options)?;
        enough(&client, replicas)?;
        report::detail(|| format!("plugin {} ready in {:.2?}", plugin.path().display(), started.elapsed()));
        Ok(Device {
            kind,
            client,
            replicas,
            cache: Cache::open().inspect_err(|e| note!("no compile cache: {e}")).ok(),
        })
    }

    /// Compiles a graph for the first device, or loads it from the cache, in the form that suits the device
    /// ([`Computation::lowered`]). With `aliases` parameters may be donated to outputs.
    ///
    /// # Errors
    /// The compiler's.
    pub fn program(&self, computation: &Computation, aliases: &[Alias]) -> pjrt::Result<Executable> {
        self.compiled(computation, aliases, &options(self.kind))
    }

    /// [`Device::program`] for all replicas, which run it together.
    ///
    /// # Errors
    /// The compiler's.
    pub fn replicated(&self, computation: &Computation, aliases: &[Alias]) -> pjrt::Result<Executable> {
        if self.replicas == 1 {
            return self.program(computation, aliases);
        }
        let devices = self.client.devices()?.into_iter().take(self.replicas);
        let options = CompileOptions {
            num_replicas: self.replicas,
            device_ids: Some(devices.map(|d| i64::from(d.id)).collect()),
            ..options(self.kind)
        };
        self.compiled(computation, aliases, &options)
    }

    fn compiled(
        &self,
        computation: &Computation,
        aliases: &[Alias],
        options: &CompileOptions,
    ) -> pjrt::Result<Executable> {
        let started = Instant::now();
        let bytes = module(self.kind, computation, aliases)?;
        let Some(cache) = &self.cache else {
            return self.client.compile(&bytes, options);
        };
        let (executable, outcome) = self.client.compile_cached(cache, &bytes, options)?;
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

/// Checks that there is a device for each replica.
fn enough(client: &Client, replicas: usize) -> pjrt::Result<()> {
    let count = client.device_count();
    if count >= replicas {
        return Ok(());
    }
    Err(pjrt::Error::TooFewDevices {
        asked: replicas,
        platform: client.platform_name()?,
        count,
    })
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_replica_needs_a_device() {
        let device = Device::open_replicas(DeviceKind::Cpu, None, 3).unwrap();
        enough(&device.client, 3).unwrap();
        assert_eq!(
            enough(&device.client, 4).unwrap_err().to_string(),
            "4 replicas: the cpu client has 3 addressable devices; expected one for each replica"
        );
    }
}
