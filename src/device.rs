//! Devices ready to run graphs.

use crate::config::Plan;
use crate::engine::{self, Buffer, Engine, EngineKind, Program, Result};
use crate::pjrt::DeviceKind;
use hlo::{Alias, Computation, Literal};
use std::sync::Arc;

/// The devices that a run uses, one of them or one for each of its replicas, and the engine that drives them. Clones share
/// it.
#[derive(Clone)]
pub struct Device {
    /// Which kind they are.
    pub kind: DeviceKind,
    /// Replicas of programs that run on all devices; replica `i` is on device `i`.
    pub replicas: usize,
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

    /// What a run asks for.
    ///
    /// # Errors
    /// As [`Device::open_replicas`].
    pub fn of(plan: &Plan) -> Result<Self> {
        let (engine, kind) = (plan.engine()?, plan.run.device.kind.parse()?);
        Device::open_replicas(engine, kind, plan.plugin(), plan.replicas())
    }

    /// Starts an engine, as [`engine::open`] does, with a device for each of `replicas`; a CPU pretends to have that many.
    ///
    /// # Errors
    /// What keeps the engine from being started, and fewer devices.
    pub fn open_replicas(engine: EngineKind, kind: DeviceKind, plugin: Option<&str>, replicas: usize) -> Result<Self> {
        let engine = engine::open(engine, kind, plugin, replicas)?;
        engine::enough(&*engine, replicas)?;
        Ok(Device { kind, replicas, engine })
    }

    /// Compiles a graph for the first device. With `aliases` parameters may be donated to outputs.
    ///
    /// # Errors
    /// The compiler's.
    pub fn program(&self, computation: &Computation, aliases: &[Alias]) -> Result<Box<dyn Program>> {
        self.engine.compile(computation, aliases, 1)
    }

    /// [`Device::program`] for all replicas, which run it together.
    ///
    /// # Errors
    /// The compiler's.
    pub fn replicated(&self, computation: &Computation, aliases: &[Alias]) -> Result<Box<dyn Program>> {
        self.engine.compile(computation, aliases, self.replicas)
    }

    /// Copies an array to the device of a replica.
    ///
    /// # Errors
    /// When the device refuses the array.
    pub fn upload(&self, array: &Literal, replica: usize) -> Result<Buffer> {
        self.engine.upload(array, replica)
    }

    /// [`Device::upload`] without waiting, where the engine can: what the device takes is read in the background.
    ///
    /// # Errors
    /// As [`Device::upload`]; a failure of the transfer itself may show only where the array is read.
    pub fn send(&self, array: Literal, replica: usize) -> Result<Buffer> {
        self.engine.send(array, replica)
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
