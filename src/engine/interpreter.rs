//! The interpreter of [`hlo`] as an engine: one device, the host's memory, no compiler.

use super::{Array, Buffer, Engine, Program, Reading, Result, erased, own};
use hlo::{Alias, Computation, Literal};

/// The engine.
pub(super) struct Interpreter;

impl Engine for Interpreter {
    fn platform(&self) -> Result<String> {
        Ok("interpreter".to_owned())
    }

    fn device_count(&self) -> usize {
        1
    }

    fn compile(&self, computation: &Computation, _: &[Alias], replicas: usize) -> Result<Box<dyn Program>> {
        super::enough(self, replicas)?;
        Ok(Box::new(computation.clone()))
    }

    fn upload(&self, array: &Literal, device: usize) -> Result<Buffer> {
        self.send(array.clone(), device)
    }

    fn send(&self, array: Literal, device: usize) -> Result<Buffer> {
        match device {
            0 => Ok(Buffer(Box::new(array))),
            _ => Err(pjrt::Error::NoSuchDevice { device, count: 1 }.into()),
        }
    }
}

impl Program for Computation {
    fn execute_replicated(&self, args: Vec<Vec<super::Arg<'_>>>) -> Result<Vec<Vec<Buffer>>> {
        let of_replica = |args: Vec<pjrt::Arg<'_, Literal>>| {
            let values: Vec<Literal> = args.iter().map(|arg| arg.buffer().clone()).collect();
            Ok(self.evaluate(&values)?)
        };
        let results = own(args)?.into_iter().map(of_replica);
        Ok(erased(results.collect::<Result<_>>()?))
    }
}

impl Array for Literal {
    fn read(&self) -> Result<Reading> {
        let array = self.clone();
        Ok(Box::new(move || Ok(array)))
    }
}
