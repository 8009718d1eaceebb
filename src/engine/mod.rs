//! Engines compile and run programs: PJRT plugins ([`pjrt`]), the C++ extension of the crate `xla`, or the interpreter of
//! [`hlo`]. Training, evaluation and prediction use only the trait [`Engine`].

mod device_assignment;
mod error;
#[cfg(feature = "xla-extension")]
mod extension;
#[cfg(any(test, feature = "xla-extension"))]
mod extension_input;
mod interpreter;
mod kind;
mod plugin;

pub use error::{Error, Result};
pub use kind::EngineKind;
pub use plugin::{Pjrt, module, options, target};

use crate::plugins;
use hlo::{Alias, Computation, Literal};
use lowering::{Prepared, prepare};
use pjrt::DeviceKind;
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A running engine; its devices are numbered from 0.
pub trait Engine: Send + Sync {
    /// Name of the platform, such as `cpu`.
    ///
    /// # Errors
    /// If the engine fails to answer.
    fn platform(&self) -> Result<String>;

    /// Names and digests of the engine, its plugin and the processor: everything that results may depend on.
    ///
    /// # Errors
    /// If the engine fails to answer.
    fn identity(&self) -> Result<BTreeMap<String, String>> {
        let processor = plugins::processor();
        let parts = [("platform", self.platform()?), ("processor", processor)];
        Ok(parts.map(|(name, value)| (name.to_owned(), value)).into())
    }

    /// Number of devices.
    fn device_count(&self) -> usize;

    /// Compiles a graph for devices `0..replicas`, counted over all processes. With `aliases` parameters may be donated to
    /// outputs.
    ///
    /// # Errors
    /// Errors of the compiler.
    fn compile(&self, computation: &Computation, aliases: &[Alias], replicas: usize) -> Result<Box<dyn Program>>;

    /// [`Engine::compile`] for the first device as two programs. The first computes everything that depends only on the first
    /// `fixed` parameters ([`lowering::prepare`]), which may be donated to it.
    ///
    /// # Errors
    /// Errors of the compiler.
    fn compile_prepared(&self, computation: &Computation, fixed: usize) -> Result<[Box<dyn Program>; 2]> {
        let Prepared { first, aliases, rest } = prepare(computation, fixed)?;
        Ok([self.compile(&first, &aliases, 1)?, self.compile(&rest, &[], 1)?])
    }

    /// Copies an array to a device.
    ///
    /// # Errors
    /// If the device does not exist or refuses the array.
    fn upload(&self, array: &Literal, device: usize) -> Result<Buffer>;

    /// [`Engine::upload`] without waiting, if the engine supports it.
    ///
    /// # Errors
    /// As [`Engine::upload`]; a failure of the transfer may surface only when the array is read.
    fn send(&self, array: Literal, device: usize) -> Result<Buffer> {
        self.upload(&array, device)
    }

    /// Memory of a device that programs may use, in bytes; `None` if the engine does not limit it.
    ///
    /// # Errors
    /// If the engine fails to answer.
    fn memory_limit(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// The profiler of the devices, not started; `None` if the engine has none.
    ///
    /// # Errors
    /// If the engine cannot create it.
    fn profiler(&self) -> Result<Option<pjrt::Profiler>> {
        Ok(None)
    }
}

/// A compiled graph on its devices.
pub trait Program: Send + Sync {
    /// Runs the program with arguments and results as `[replica][position]`. An argument is donated only if it is donated on all
    /// replicas. May return before the results exist; an error of the execution then surfaces when a result is read.
    ///
    /// # Errors
    /// If the arguments do not fit the program, or the engine refuses to start.
    fn execute_replicated(&self, args: Vec<Vec<Arg<'_>>>) -> Result<Vec<Vec<Buffer>>>;

    /// Memory that the program needs on a device; `None` if the engine does not tell.
    ///
    /// # Errors
    /// If the engine fails to answer.
    fn memory(&self) -> Result<Option<pjrt::MemoryStats>> {
        Ok(None)
    }

    /// [`Program::execute_replicated`] for a program without replicas.
    ///
    /// # Errors
    /// As [`Program::execute_replicated`].
    fn execute(&self, args: Vec<Arg<'_>>) -> Result<Vec<Buffer>> {
        Ok(self.execute_replicated(vec![args])?.pop().unwrap_or_default())
    }
}

/// An engine's handle of an array on a device; dropping it frees the array.
pub trait Array: Any + Send + Sync {
    /// Starts copying the array to the host, in C order.
    ///
    /// # Errors
    /// If the engine refuses to start.
    fn read(&self) -> Result<Reading>;
}

/// Waits for an array that is being copied to the host. Fails with the error of the copy or of the execution.
pub type Reading = Box<dyn FnOnce() -> Result<Literal>>;

/// The only handle to one array on one device.
pub struct Buffer(Box<dyn Array>);

/// One argument of a program.
pub type Arg<'a> = pjrt::Arg<'a, Buffer>;

impl Buffer {
    /// Copies the array to the host, blocking until it is there.
    ///
    /// # Errors
    /// The error of the transfer or of the execution.
    pub fn to_literal(&self) -> Result<Literal> {
        self.read()?()
    }

    /// [`Array::read`].
    ///
    /// # Errors
    /// If the engine refuses to start.
    pub fn read(&self) -> Result<Reading> {
        self.0.read()
    }
}

/// Converts arguments to the engine's arrays.
fn own<T: Array>(args: Vec<Vec<Arg<'_>>>) -> Result<Vec<Vec<pjrt::Arg<'_, T>>>> {
    let one = |arg| {
        let own = match arg {
            Arg::Keep(Buffer(array)) => (&**array as &dyn Any).downcast_ref().map(pjrt::Arg::Keep),
            Arg::Donate(Buffer(array)) => {
                let own = (array as Box<dyn Any>).downcast();
                own.ok().map(|array| pjrt::Arg::Donate(*array))
            }
        };
        own.ok_or(Error::Foreign)
    };
    let of_replica = |args: Vec<_>| args.into_iter().map(one).collect();
    args.into_iter().map(of_replica).collect()
}

/// Converts an engine's results to arrays of any engine.
fn erased<T: Array>(results: Vec<Vec<T>>) -> Vec<Vec<Buffer>> {
    let erase = |array| Buffer(Box::new(array));
    let of_replica = |results: Vec<T>| results.into_iter().map(erase).collect();
    results.into_iter().map(of_replica).collect()
}

/// Starts an engine with a device for each replica. `plugin` is for [`EngineKind::Pjrt`] only.
///
/// # Errors
/// If the engine cannot be found or started.
pub fn open(engine: EngineKind, device: DeviceKind, plugin: Option<&str>, replicas: usize) -> Result<Arc<dyn Engine>> {
    match (engine, plugin) {
        (EngineKind::Pjrt, _) => Ok(Arc::new(Pjrt::open(device, plugin, replicas)?)),
        (_, Some(plugin)) => Err(Error::Plugin {
            engine,
            plugin: plugin.to_owned(),
        }),
        (EngineKind::Interpreter, None) if device != DeviceKind::Cpu => Err(Error::NotTheCpu { device }),
        (EngineKind::Interpreter, None) => Ok(Arc::new(interpreter::Interpreter)),
        #[cfg(feature = "xla-extension")]
        (EngineKind::Xla, None) => Ok(Arc::new(extension::Xla::open(device, replicas)?)),
        #[cfg(not(feature = "xla-extension"))]
        (EngineKind::Xla, None) => Err(Error::NotBuilt),
    }
}

/// Checks that there is a device for each replica.
///
/// # Errors
/// [`Error::TooFewDevices`].
pub fn enough(engine: &dyn Engine, replicas: usize) -> Result<()> {
    let count = engine.device_count();
    if count >= replicas {
        return Ok(());
    }
    Err(Error::TooFewDevices {
        asked: replicas,
        platform: engine.platform()?,
        count,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::named::Named;
    use hlo::{DType, Graph, Shape};

    /// The engines of this build.
    fn engines() -> impl Iterator<Item = Arc<dyn Engine>> {
        let built = |engine: &EngineKind| *engine != EngineKind::Xla || cfg!(feature = "xla-extension");
        let open = |engine| open(engine, DeviceKind::Cpu, None, 1).unwrap();
        EngineKind::ALL.iter().copied().filter(built).map(open)
    }

    /// Returns the sum and the reshaped first array. The first parameter is donated to the sum.
    fn program(engine: &dyn Engine) -> Box<dyn Program> {
        let shapes = ["a", "b"].map(|name| (name.to_owned(), Shape::new(DType::F32, [2, 3])));
        let graph = Graph::function("sum", &shapes, |_, x| vec![x[0] + x[1], x[0].reshape(&[3, 2])]);
        let aliases = [Alias {
            output: 0,
            parameter: 0,
        }];
        engine.compile(&graph.unwrap(), &aliases, 1).unwrap()
    }

    #[test]
    fn engines_give_the_same_results() {
        let a = Literal::new(&[2, 3], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let b = Literal::new(&[2, 3], &[0.5f32; 6]);
        for engine in engines() {
            let program = program(&*engine);
            let kept = engine.send(b.clone(), 0).unwrap();
            let mut first = engine.upload(&a, 0).unwrap();
            for launch in 1..=2 {
                let mut results = program.execute(vec![Arg::Donate(first), Arg::Keep(&kept)]).unwrap();
                let [sum, reshaped] = [0, 1].map(|i| results[i].to_literal().unwrap());
                let expected = [1f32, 2.0, 3.0, 4.0, 5.0, 6.0].map(|v| v + 0.5 * launch as f32);
                assert_eq!(sum, Literal::new(&[2, 3], &expected));
                assert_eq!(reshaped, Literal::new(&[3, 2], &expected.map(|v| v - 0.5)));
                first = results.swap_remove(0);
            }
            assert_eq!(kept.to_literal().unwrap(), b);
        }
    }

    #[test]
    fn prepared_programs_reuse_constant_parts() {
        let shapes = ["a", "b", "c"].map(|name| (name.to_owned(), Shape::new(DType::F32, [2])));
        let graph = Graph::function("sum", &shapes, |_, x| vec![x[0] * x[0] + x[2], x[1] + x[2]]).unwrap();
        let array = |values: [f32; 2]| Literal::new(&[2], &values);
        for engine in engines() {
            let [first, rest] = engine.compile_prepared(&graph, 2).unwrap();
            let upload = |values| engine.upload(&array(values), 0).unwrap();
            let stay = [[3.0, 4.0], [5.0, 6.0]].map(|values| Arg::Donate(upload(values)));
            let stay = first.execute(stay.into()).unwrap();
            assert_eq!(stay.len(), 2);
            for c in [0.5f32, -1.0] {
                let varies = upload([c; 2]);
                let args = stay.iter().chain([&varies]).map(Arg::Keep);
                let results = rest.execute(args.collect()).unwrap();
                let [squares, plain] = [0, 1].map(|i| results[i].to_literal().unwrap());
                assert_eq!(
                    [squares, plain],
                    [array([9.0 + c, 16.0 + c]), array([5.0 + c, 6.0 + c])]
                );
            }
        }
    }

    #[test]
    fn every_element_type_survives_a_round_trip() {
        for engine in engines() {
            for dtype in DType::ALL {
                let shape = Shape::new(dtype, [3, 2]);
                // Predicates are 0 or 1; avoid NaN.
                let bytes = (0..shape.bytes()).map(|i| (i % 2) as u8).collect();
                let array = Literal::from_bytes(shape, bytes).unwrap();
                assert_eq!(engine.upload(&array, 0).unwrap().to_literal().unwrap(), array);
            }
            let after = engine.device_count();
            assert!(engine.upload(&Literal::scalar(0f32), after).is_err());
        }
    }

    #[test]
    fn rejects_wrong_arguments() {
        let engines: Vec<_> = engines().collect();
        let array = Literal::new(&[2, 3], &[0f32; 6]);
        let turned = Literal::new(&[3, 2], &[0f32; 6]);
        let upload = |engine: &dyn Engine, array| Arg::Donate(engine.upload(array, 0).unwrap());
        for (i, engine) in engines.iter().enumerate() {
            let (program, other) = (program(&**engine), &engines[(i + 1) % engines.len()]);
            let refused = |args| program.execute(args).map(drop).unwrap_err();
            let foreign = refused(vec![upload(&**engine, &array), upload(&**other, &array)]);
            assert!(matches!(foreign, Error::Foreign), "{foreign}");
            refused(vec![upload(&**engine, &array)]);
            refused(vec![upload(&**engine, &array), upload(&**engine, &turned)]);
        }
    }
}
