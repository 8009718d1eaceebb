//! A device ready to run graphs: plugin, client and the cache of compiled programs.

use crate::pjrt::{
    self, Cache, CacheOutcome, Client, ClientOptions, CompileOptions, DeviceKind, Executable, OptionValue, Place,
};
use crate::processes::{self, Group};
use crate::report::{self, note};
use hlo::{Alias, Computation, Target};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// The devices that a run uses, one of them or one for each of its replicas, and what is needed to put programs on them.
pub struct Device {
    /// Which kind it is.
    pub kind: DeviceKind,
    /// The plugin's client.
    pub client: Client,
    /// Replicas of programs that run on all devices, of all processes together.
    pub replicas: usize,
    /// Which of them are on this process's devices, in the order of the devices.
    pub own: Range<usize>,
    /// The processes that share the replicas; `None` for one that is alone.
    pub group: Option<Arc<Group>>,
    /// The plugin's ids of the devices of all replicas.
    ids: Vec<i64>,
    /// `None` where there is no folder for it, and where processes share the devices: their compilers help each other, so that
    /// one that took its program from the cache would let the others wait.
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
        Device::open_shared(kind, plugin, replicas, None)
    }

    /// [`Device::open_replicas`] of a group of processes, each of which has as many of the replicas (a multiple of their
    /// number): the first ones are process 0's. All processes open theirs together.
    ///
    /// # Errors
    /// As [`Device::open_replicas`], and for a plugin that does not run over several processes.
    pub fn open_shared(
        kind: DeviceKind,
        plugin: Option<&str>,
        replicas: usize,
        group: Option<Arc<Group>>,
    ) -> pjrt::Result<Self> {
        let started = Instant::now();
        pjrt::require(kind, plugin)?;
        let plugin = pjrt::open(kind, plugin)?;
        let (process, count) = group.as_ref().map_or((0, 1), |group| (group.process(), group.count()));
        let each = replicas / count;
        let mut options = ClientOptions::for_device(kind);
        if kind == DeviceKind::Cpu {
            options = options.with_cpu_devices(each);
        }
        if let Some(group) = &group {
            let store = Arc::clone(group) as Arc<dyn pjrt::KeyValueStore>;
            options = options.in_group(kind, pjrt::Group { process, count, store });
        }
        let client = plugin.client(&options)?;
        let ids = match group {
            Some(_) => {
                let platform = client.platform_name()?;
                let ids = assigned(
                    &platform,
                    &client.all_places()?,
                    client.process()?,
                    (process, count),
                    each,
                )?;
                in_order(&ids[each * process..][..each], &client.own_places()?)?;
                ids
            }
            None => {
                enough(&client, replicas)?;
                let own = client.own_places()?.into_iter().take(replicas);
                own.map(|place| place.id).collect()
            }
        };
        report::detail(|| format!("plugin {} ready in {:.2?}", plugin.path().display(), started.elapsed()));
        let cache = || Cache::open().inspect_err(|e| note!("no compile cache: {e}")).ok();
        Ok(Device {
            kind,
            client,
            replicas,
            own: each * process..each * (process + 1),
            ids,
            cache: if group.is_some() { None } else { cache() },
            group,
        })
    }

    /// What `make` makes for each replica of this process, which it is told the number of, with that of its device.
    ///
    /// # Errors
    /// The first of `make`.
    pub fn each<T, E>(&self, make: impl Fn(usize, usize) -> Result<T, E>) -> Result<Vec<T>, E> {
        let own = self.own.clone().enumerate();
        own.map(|(device, replica)| make(replica, device)).collect()
    }

    /// Sums over all processes, which all ask for them in the same order.
    ///
    /// # Errors
    /// What keeps the processes from telling each other.
    pub fn sums(&self, own: &[usize]) -> processes::Result<Vec<usize>> {
        match &self.group {
            Some(group) => group.sums(own),
            None => Ok(own.to_vec()),
        }
    }

    /// Whether this process is the one that writes what the run leaves behind.
    pub fn writes(&self) -> bool {
        self.own.start == 0
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
        let options = CompileOptions {
            num_replicas: self.replicas,
            device_ids: Some(self.ids.clone()),
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

/// The devices of all replicas: of each process its first `each`. The plugin must know of as many processes as there are, and
/// number them alike.
fn assigned(
    platform: &str,
    places: &[Place],
    found: usize,
    (process, count): (usize, usize),
    each: usize,
) -> pjrt::Result<Vec<i64>> {
    let known = places
        .iter()
        .map(|place| place.process)
        .max()
        .map_or(0, |last| last + 1);
    if known != count {
        return Err(pjrt::Error::OtherProcesses {
            platform: platform.into(),
            known,
            count,
        });
    }
    if found != process {
        return Err(pjrt::Error::OtherNumber {
            platform: platform.into(),
            found,
            process,
        });
    }
    let of = |process: usize| {
        let own = places.iter().filter(|place| place.process == process);
        let ids: Vec<i64> = own.map(|place| place.id).take(each).collect();
        match ids.len() {
            n if n == each => Ok(ids),
            found => Err(pjrt::Error::TooFewOfProcess { process, each, found }),
        }
    };
    let ids: Vec<Vec<i64>> = (0..count).map(of).collect::<pjrt::Result<_>>()?;
    Ok(ids.concat())
}

/// Checks that this process's replicas are on its first devices, in their order: arguments are given device by device.
fn in_order(ids: &[i64], own: &[Place]) -> pjrt::Result<()> {
    let first: Vec<i64> = own.iter().map(|place| place.id).take(ids.len()).collect();
    match first == ids {
        true => Ok(()),
        false => Err(pjrt::Error::Unexpected {
            call: "PJRT_Client_AddressableDevices",
            found: format!("devices {first:?}"),
            expected: format!("{ids:?}, their order among those of all processes"),
        }),
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

    /// Two hosts with two devices each, as a GPU client and a TPU's list them.
    #[test]
    fn replicas_are_on_the_devices_of_their_process() {
        let places = |of: [(i64, usize); 4]| of.map(|(id, process)| Place { id, process });
        let grouped = places([(0, 0), (1, 0), (8, 1), (9, 1)]);
        let mixed = places([(0, 0), (2, 1), (1, 0), (3, 1)]);
        let assigned = |places: &[Place], number, each| assigned("gpu", places, number, (1, 2), each);
        assert_eq!(assigned(&grouped, 1, 2).unwrap(), [0, 1, 8, 9]);
        assert_eq!(assigned(&grouped, 1, 1).unwrap(), [0, 8]);
        assert_eq!(assigned(&mixed, 1, 2).unwrap(), [0, 1, 2, 3]);
        let refused = |places: &[Place], number, each| assigned(places, number, each).unwrap_err().to_string();
        assert_eq!(
            refused(&grouped, 1, 3),
            "process 0 has 2 devices, expected at least 3: --replicas counts those of all processes together"
        );
        assert_eq!(
            refused(&grouped, 0, 2),
            "the gpu client is process 0 for its plugin, expected --process-id 1: give each process the plugin's number"
        );
        assert_eq!(
            refused(&grouped[..2], 0, 2),
            "the gpu client knows devices of 1 process, expected those of 2: its plugin does not run over several processes, or \
             was not started on all of them"
        );
        in_order(&[8, 9], &grouped[2..]).unwrap();
        let swapped = in_order(&[9, 8], &grouped[2..]).unwrap_err().to_string();
        assert!(swapped.contains("devices [8, 9]"), "{swapped}");
    }
}
