//! PJRT plugins as an engine: plugin, client and the cache of compiled programs.

use super::device_assignment::{assign, check_order};
use super::error::Error;
use super::{Arg, Array, Buffer, Engine, Program, Reading, Result, erased, own};
use crate::distributed::Group;
use crate::host_functions;
use crate::plugins::{self, Cache, CacheOutcome};
use crate::report::{self, note};
use hlo::{Alias, Computation, Literal};
use lowering::{Prepared, Target, lower, prepare};
use pjrt::{Client, ClientOptions, CompileOptions, DeviceKind, Executable, OptionValue};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// A plugin's devices.
pub struct Pjrt {
    /// Kind of the devices.
    pub kind: DeviceKind,
    /// The plugin's client.
    pub client: Client,
    /// Ids of the devices of all replicas, process by process.
    ids: Vec<i64>,
    /// `None` without a cache folder, and for several processes: their compilers exchange data, so a process that loads its
    /// program from the cache would let the others wait.
    cache: Option<Cache>,
}

impl Pjrt {
    /// Finds or fetches the plugin for `kind` and starts it with a device for each replica. A CPU simulates them.
    ///
    /// # Errors
    /// If the plugin cannot be found, loaded or started, or has fewer devices.
    pub fn open(kind: DeviceKind, plugin: Option<&str>, replicas: usize) -> Result<Self> {
        let started = Instant::now();
        plugins::require(kind, plugin)?;
        let plugin = plugins::open(kind, plugin)?;
        let mut options = ClientOptions::for_device(kind);
        if kind == DeviceKind::Cpu {
            options = options.with_cpu_devices(replicas);
        }
        let client = plugins::start(kind, plugin, &options, None)?;
        report::detail(|| format!("plugin {} ready in {:.2?}", plugin.path().display(), started.elapsed()));
        Ok(Pjrt {
            kind,
            ids: client
                .addressable_devices()?
                .into_iter()
                .map(|place| place.id)
                .collect(),
            client,
            cache: Cache::open().inspect_err(|e| note!("no compile cache: {e}")).ok(),
        })
    }

    /// [`Pjrt::open`] with a device for each of `each` replicas in every process of a group. All processes must call it.
    ///
    /// # Errors
    /// As [`Pjrt::open`], and for a plugin that does not support several processes or differs between them.
    pub fn open_shared(kind: DeviceKind, plugin: Option<&str>, each: usize, group: &Arc<Group>) -> Result<Self> {
        plugins::require(kind, plugin)?;
        let plugin = plugins::open(kind, plugin)?;
        group.agree(&[("the plugin".to_owned(), plugin.fingerprint()?.to_owned())])?;
        let (process, count) = (group.process(), group.count());
        let mut options = ClientOptions::for_device(kind);
        if kind == DeviceKind::Cpu {
            options = options.with_cpu_devices(each);
        }
        let store = Arc::clone(group) as Arc<dyn pjrt::KeyValueStore>;
        let options = options.in_group(kind, pjrt::Group { process, count, store });
        let client = plugins::start(kind, plugin, &options, None)?;
        let (platform, all, found) = (client.platform_name()?, client.global_devices()?, client.process()?);
        let ids = assign(&platform, &all, found, (process, count), each)?;
        check_order(&ids[each * process..][..each], &client.addressable_devices()?)?;
        Ok(Pjrt {
            kind,
            client,
            ids,
            cache: None,
        })
    }

    /// Lowers a graph for the device ([`lowering::lower`]) and compiles it for devices `0..replicas`, or loads it from the cache.
    /// With `aliases` parameters may be donated to outputs.
    ///
    /// # Errors
    /// Errors of the compiler.
    pub fn executable(&self, computation: &Computation, aliases: &[Alias], replicas: usize) -> Result<Executable> {
        self.lowered_executable(&lower(computation, self.target(computation)?)?, aliases, replicas)
    }

    /// [`lowering::prepare`] of a graph that is lowered for the device.
    ///
    /// # Errors
    /// Failures of the host functions.
    pub fn prepared(&self, computation: &Computation, fixed: usize) -> Result<Prepared> {
        Ok(prepare(&lower(computation, self.target(computation)?)?, fixed)?)
    }

    /// [`Pjrt::executable`] of a lowered graph.
    ///
    /// # Errors
    /// Errors of the compiler.
    pub fn lowered_executable(
        &self,
        computation: &Computation,
        aliases: &[Alias],
        replicas: usize,
    ) -> Result<Executable> {
        let started = Instant::now();
        let bytes = in_format(computation, aliases)?;
        let options = self.options(replicas);
        let Some(cache) = &self.cache else {
            return Ok(self.client.compile(&bytes, &options)?);
        };
        let (executable, outcome) = cache.compile(&self.client, &bytes, &options)?;
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

    /// The target that a graph is lowered for. Host functions are registered, and oneDNN is fetched, only if the graph uses them.
    fn target(&self, computation: &Computation) -> Result<Target> {
        let calls = has_convolutions(computation) || computation.calls_host();
        let called = self.kind == DeviceKind::Cpu && calls && format() != STABLEHLO;
        Ok(
            match called && host_functions::register(self.client.plugin())?.is_some() {
                true => Target::CpuWithHostFunctions,
                false => target(self.kind),
            },
        )
    }

    fn options(&self, replicas: usize) -> CompileOptions {
        // Without an assignment a plugin takes the device with number 0, which may be another host's.
        if replicas == 1 && self.ids.first().is_none_or(|&id| id == 0) {
            return options(self.kind);
        }
        CompileOptions {
            num_replicas: replicas,
            device_ids: Some(self.ids.iter().take(replicas).copied().collect()),
            ..options(self.kind)
        }
    }
}

impl Engine for Pjrt {
    fn platform(&self) -> Result<String> {
        Ok(self.client.platform_name()?)
    }

    fn identity(&self) -> Result<BTreeMap<String, String>> {
        let plugin = self.client.plugin();
        let file = plugin.path().file_name().unwrap_or_default();
        let kinds: Vec<String> = self.client.devices()?.into_iter().map(|device| device.kind).collect();
        let parts = [
            ("plugin", file.to_string_lossy().into_owned()),
            ("plugin_fingerprint", plugin.fingerprint()?.to_owned()),
            ("platform", self.client.platform_name()?),
            ("platform_version", self.client.platform_version()?),
            ("devices", kinds.join(", ")),
            ("processor", plugins::processor()),
        ];
        Ok(parts.map(|(name, value)| (name.to_owned(), value)).into())
    }

    fn device_count(&self) -> usize {
        self.client.device_count()
    }

    fn compile(&self, computation: &Computation, aliases: &[Alias], replicas: usize) -> Result<Box<dyn Program>> {
        Ok(Box::new(self.executable(computation, aliases, replicas)?))
    }

    fn compile_prepared(&self, computation: &Computation, fixed: usize) -> Result<[Box<dyn Program>; 2]> {
        let Prepared { first, aliases, rest } = self.prepared(computation, fixed)?;
        let first = self.lowered_executable(&first, &aliases, 1)?;
        Ok([Box::new(first), Box::new(self.lowered_executable(&rest, &[], 1)?)])
    }

    fn upload(&self, array: &Literal, device: usize) -> Result<Buffer> {
        Ok(Buffer(Box::new(self.client.to_device(array, device)?)))
    }

    fn send(&self, array: Literal, device: usize) -> Result<Buffer> {
        Ok(Buffer(Box::new(self.client.to_device_async(array, device)?)))
    }

    fn memory_limit(&self) -> Result<Option<u64>> {
        let first = self.client.devices()?.into_iter().next();
        let limit = first.and_then(|device| device.memory?.limit_bytes);
        Ok(limit.and_then(|bytes| u64::try_from(bytes).ok()))
    }

    fn profiler(&self) -> Result<Option<pjrt::Profiler>> {
        Ok(self.client.profiler()?)
    }
}

impl Program for Executable {
    fn execute_replicated(&self, args: Vec<Vec<Arg<'_>>>) -> Result<Vec<Vec<Buffer>>> {
        Ok(erased(self.execute_replicated(own(args)?)?))
    }

    fn memory(&self) -> Result<Option<pjrt::MemoryStats>> {
        match self.compiled().memory_stats() {
            Err(error) if error.is_unimplemented() => Ok(None),
            stats => Ok(Some(stats?)),
        }
    }
}

impl Array for pjrt::Buffer {
    fn read(&self) -> Result<Reading> {
        let pending = self.to_literal_async()?;
        Ok(Box::new(move || Ok(pending.wait()?)))
    }
}

/// Environment variable with the format of programs for plugins: `hlo` (default) or `stablehlo`.
const FORMAT: &str = "RIGL_XLA_PROGRAM_FORMAT";

/// The format without calls of host functions.
const STABLEHLO: &str = "stablehlo";

fn format() -> String {
    std::env::var(FORMAT).unwrap_or_default()
}

/// Whether a computation, or one that it calls, has convolutions.
fn has_convolutions(computation: &Computation) -> bool {
    computation.nodes.iter().any(|node| {
        matches!(node.op, hlo::Op::Convolution { .. }) || node.op.called().iter().any(|called| has_convolutions(called))
    })
}

/// Lowers a graph and serialises it for a plugin.
///
/// # Errors
/// A graph that cannot be lowered, or an unknown format.
pub fn module(target: Target, computation: &Computation, aliases: &[Alias]) -> Result<Vec<u8>> {
    in_format(&lower(computation, target)?, aliases)
}

/// Serialises a graph for a plugin.
fn in_format(computation: &Computation, aliases: &[Alias]) -> Result<Vec<u8>> {
    let format = format();
    match format.as_str() {
        // The module of another program has no StableHLO text.
        STABLEHLO if computation.module().is_some() => Ok(computation.to_bytes(aliases)),
        "" | "hlo" => Ok(computation.to_bytes(aliases)),
        STABLEHLO => Ok(computation.to_stablehlo(aliases).into_bytes()),
        _ => Err(Error::UnknownFormat {
            variable: FORMAT,
            given: format,
        }),
    }
}

/// The target of lowering without host functions.
pub fn target(kind: DeviceKind) -> Target {
    match kind {
        DeviceKind::Cpu => Target::Cpu,
        DeviceKind::Tpu => Target::Tpu,
        DeviceKind::Gpu => Target::Any,
    }
}

/// Options of XLA's CPU compiler that are turned off. Otherwise maximum and minimum may lose a NaN, and a matrix product may use
/// an outdated copy of a right operand that is an argument.
pub(super) const INEXACT: [&str; 2] = ["xla_cpu_enable_fast_min_max", "xla_cpu_use_xnnpack"];

/// Compile options for a kind of device.
pub fn options(kind: DeviceKind) -> CompileOptions {
    let mut options = CompileOptions::default();
    if kind == DeviceKind::Cpu {
        let off = |flag: &str| (flag.to_string(), OptionValue::Bool(false));
        options.xla_flags.extend(INEXACT.map(off));
    }
    options
}
