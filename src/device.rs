//! The devices of a run.

use crate::config::Plan;
use crate::distributed::{self, Group};
use crate::engine::{self, Arg, Buffer, Engine, EngineKind, Pjrt, Program, Result};
use hlo::{Alias, Computation, Literal};
use pjrt::{DeviceKind, Profiler};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// The devices of a run, one for each replica, and their engine. Clones share it.
#[derive(Clone)]
pub struct Device {
    /// Kind of the devices.
    pub kind: DeviceKind,
    /// Number of replicas over all processes.
    pub replicas: usize,
    /// The replicas of this process, in the order of its devices.
    pub own: Range<usize>,
    /// The group of processes; `None` for a single process.
    pub group: Option<Arc<Group>>,
    engine: Arc<dyn Engine>,
}

impl Device {
    /// Finds or fetches the plugin for `kind` and starts it with one device.
    ///
    /// # Errors
    /// If the plugin cannot be found, loaded or started.
    pub fn open(kind: DeviceKind, plugin: Option<&str>) -> Result<Self> {
        Device::open_replicas(EngineKind::Pjrt, kind, plugin, 1)
    }

    /// Opens the devices of a run. The processes of a group share the replicas equally and must open their devices together.
    ///
    /// # Errors
    /// As [`Device::open_replicas`], and for several processes an engine or plugin that does not support them.
    pub fn of(plan: &Plan, group: Option<Arc<Group>>) -> Result<Self> {
        let (engine, kind, replicas) = (plan.engine(), plan.run.device.kind, plan.replicas());
        let Some(group) = group else {
            return Device::open_replicas(engine, kind, plan.plugin(), replicas);
        };
        if engine != EngineKind::Pjrt {
            return Err(engine::Error::OneProcess { engine });
        }
        let (each, process) = (replicas / group.count(), group.process());
        Ok(Device {
            kind,
            replicas,
            own: each * process..each * (process + 1),
            engine: Arc::new(Pjrt::open_shared(kind, plan.plugin(), each, &group)?),
            group: Some(group),
        })
    }

    /// Starts an engine ([`engine::open`]) with a device for each replica. A CPU simulates them.
    ///
    /// # Errors
    /// If the engine cannot be started or has fewer devices.
    pub fn open_replicas(engine: EngineKind, kind: DeviceKind, plugin: Option<&str>, replicas: usize) -> Result<Self> {
        let engine = engine::open(engine, kind, plugin, replicas)?;
        engine::enough(&*engine, replicas)?;
        Ok(Device {
            kind,
            replicas,
            own: 0..replicas,
            group: None,
            engine,
        })
    }

    /// Calls `make` with the number of each replica of this process and of its device.
    ///
    /// # Errors
    /// The first error of `make`.
    pub fn each<T, E>(
        &self,
        make: impl Fn(usize, usize) -> std::result::Result<T, E>,
    ) -> std::result::Result<Vec<T>, E> {
        let own = self.own.clone().enumerate();
        own.map(|(device, replica)| make(replica, device)).collect()
    }

    /// Sums over all processes, which must make the same sequence of calls.
    ///
    /// # Errors
    /// Failures of the communication between processes.
    pub fn sums(&self, own: &[usize]) -> distributed::Result<Vec<usize>> {
        match &self.group {
            Some(group) => group.sums(own),
            None => Ok(own.to_vec()),
        }
    }

    /// Whether this process writes the files of the run.
    pub fn writes(&self) -> bool {
        self.own.start == 0
    }

    /// Compiles a graph for all replicas. With `aliases` parameters may be donated to outputs.
    ///
    /// # Errors
    /// Errors of the compiler.
    pub fn replicated(&self, computation: &Computation, aliases: &[Alias]) -> Result<Box<dyn Program>> {
        self.engine.compile(computation, aliases, self.replicas)
    }

    /// Compiles a graph for the first device with its first arguments fixed. Computes everything that depends only on them
    /// ([`lowering::prepare`]).
    ///
    /// # Errors
    /// Errors of the compiler, or if the device refuses the arrays.
    pub fn prepared(&self, computation: &Computation, fixed: &[Literal]) -> Result<Prepared> {
        let [first, program] = self.engine.compile_prepared(computation, fixed.len())?;
        let upload = |array| Ok(Arg::Donate(self.upload(array, 0)?));
        Ok(Prepared {
            program,
            fixed: first.execute(fixed.iter().map(upload).collect::<Result<_>>()?)?,
        })
    }

    /// Copies an array to a device of this process.
    ///
    /// # Errors
    /// If the device refuses the array.
    pub fn upload(&self, array: &Literal, device: usize) -> Result<Buffer> {
        self.engine.upload(array, device)
    }

    /// [`Device::upload`] without waiting, if the engine supports it.
    ///
    /// # Errors
    /// As [`Device::upload`]; a failure of the transfer may surface only when the array is read.
    pub fn send(&self, array: Literal, device: usize) -> Result<Buffer> {
        self.engine.send(array, device)
    }

    /// Names and digests of the engine and its machine ([`Engine::identity`]).
    ///
    /// # Errors
    /// If the engine fails to answer.
    pub fn identity(&self) -> Result<BTreeMap<String, String>> {
        self.engine.identity()
    }

    /// Memory of a device ([`Engine::memory_limit`]).
    ///
    /// # Errors
    /// If the engine fails to answer.
    pub fn memory_limit(&self) -> Result<Option<u64>> {
        self.engine.memory_limit()
    }

    /// The profiler of the devices, not started; `None` if the engine has none.
    ///
    /// # Errors
    /// If the engine cannot create it.
    pub fn profiler(&self) -> Result<Option<Profiler>> {
        self.engine.profiler()
    }
}

/// A program on a device with some arguments fixed.
pub struct Prepared {
    program: Box<dyn Program>,
    fixed: Vec<Buffer>,
}

impl Prepared {
    /// Runs it with the remaining arguments.
    ///
    /// # Errors
    /// As [`Program::execute`].
    pub fn execute(&self, varying: &[&Buffer]) -> Result<Vec<Buffer>> {
        let args = self.fixed.iter().chain(varying.iter().copied());
        self.program.execute(args.map(Arg::Keep).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_replica_needs_a_device() {
        let device = Device::open_replicas(EngineKind::Pjrt, DeviceKind::Cpu, None, 3).unwrap();
        engine::enough(&*device.engine, 3).unwrap();
        assert_eq!(
            engine::enough(&*device.engine, 4).unwrap_err().to_string(),
            "4 replicas: the cpu client has 3 addressable devices; expected one for each replica"
        );
    }
}
