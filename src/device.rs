//! Devices ready to run graphs.

use crate::config::Plan;
use crate::distributed::{self, Group};
use crate::engine::{self, Arg, Buffer, Engine, EngineKind, Pjrt, Program, Result};
use crate::pjrt::{DeviceKind, Profiler};
use hlo::{Alias, Computation, Literal};
use std::ops::Range;
use std::sync::Arc;

/// The devices that a run uses, one of them or one for each of its replicas, and the engine that drives them. Clones share
/// it.
#[derive(Clone)]
pub struct Device {
    /// Which kind they are.
    pub kind: DeviceKind,
    /// Replicas of programs that run on all devices, of all processes together.
    pub replicas: usize,
    /// Which of them are on this process's devices, in the order of the devices.
    pub own: Range<usize>,
    /// The processes that share the replicas; `None` for one that is alone.
    pub group: Option<Arc<Group>>,
    engine: Arc<dyn Engine>,
}

impl Device {
    /// Finds, or fetches, the plugin for `kind` and starts it with one device.
    ///
    /// # Errors
    /// What keeps the plugin from being found, loaded or started.
    pub fn open(kind: DeviceKind, plugin: Option<&str>) -> Result<Self> {
        Device::open_replicas(EngineKind::Pjrt, kind, plugin, 1)
    }

    /// What a run asks for. Of a group of processes each has as many of the replicas, the first ones process 0; all of them
    /// open their devices together.
    ///
    /// # Errors
    /// As [`Device::open_replicas`]; of several processes, an engine or a plugin that runs in one alone.
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

    /// Starts an engine, as [`engine::open`] does, with a device for each of `replicas`; a CPU pretends to have that many.
    ///
    /// # Errors
    /// What keeps the engine from being started, and fewer devices.
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

    /// What `make` makes for each replica of this process, which it is told the number of, with that of its device.
    ///
    /// # Errors
    /// The first of `make`.
    pub fn each<T, E>(
        &self,
        make: impl Fn(usize, usize) -> std::result::Result<T, E>,
    ) -> std::result::Result<Vec<T>, E> {
        let own = self.own.clone().enumerate();
        own.map(|(device, replica)| make(replica, device)).collect()
    }

    /// Sums over all processes, which all ask for them in the same order.
    ///
    /// # Errors
    /// What keeps the processes from telling each other.
    pub fn sums(&self, own: &[usize]) -> distributed::Result<Vec<usize>> {
        match &self.group {
            Some(group) => group.sums(own),
            None => Ok(own.to_vec()),
        }
    }

    /// Whether this process is the one that writes what the run leaves behind.
    pub fn writes(&self) -> bool {
        self.own.start == 0
    }

    /// Compiles a graph for all replicas, which run it together. With `aliases` parameters may be donated to outputs.
    ///
    /// # Errors
    /// The compiler's.
    pub fn replicated(&self, computation: &Computation, aliases: &[Alias]) -> Result<Box<dyn Program>> {
        self.engine.compile(computation, aliases, self.replicas)
    }

    /// Compiles a graph for the first device and gives it its first arguments, for all launches: what depends on those alone
    /// is computed here ([`lowering::prepare`]).
    ///
    /// # Errors
    /// The compiler's, and when the device refuses the arrays.
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
    /// When the device refuses the array.
    pub fn upload(&self, array: &Literal, device: usize) -> Result<Buffer> {
        self.engine.upload(array, device)
    }

    /// [`Device::upload`] without waiting, where the engine can: what the device takes is read in the background.
    ///
    /// # Errors
    /// As [`Device::upload`]; a failure of the transfer itself may show only where the array is read.
    pub fn send(&self, array: Literal, device: usize) -> Result<Buffer> {
        self.engine.send(array, device)
    }

    /// The profiler of the devices, not started; `None` where the engine has none.
    ///
    /// # Errors
    /// When the engine refuses to make it.
    pub fn profiler(&self) -> Result<Option<Profiler>> {
        self.engine.profiler()
    }
}

/// A program on a device, with those of its arguments that stay.
pub struct Prepared {
    program: Box<dyn Program>,
    fixed: Vec<Buffer>,
}

impl Prepared {
    /// Runs it on the other arguments.
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
