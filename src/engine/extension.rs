//! The C++ extension of the crate `xla` as an engine. CI checks only its types; `scripts/link_extension.py` links and
//! runs it.

use super::extension_input::{check_flags, snapshot};
use super::{Arg, Array, Buffer, Engine, Error, Program, Reading, Result, erased, own};
use hlo::{Alias, Computation, DType, Literal, Shape};
use pjrt::DeviceKind;
use xla::{ElementType, HloModuleProto, PjRtBuffer, PjRtClient, PjRtLoadedExecutable, XlaComputation};

/// Share of a GPU's memory to allocate: XLA's default.
const GPU_MEMORY: f64 = 0.75;

/// The engine.
pub(super) struct Xla {
    kind: DeviceKind,
    client: PjRtClient,
}

impl Xla {
    /// Starts the extension's client for a kind of device. The number of CPU devices comes from the environment.
    ///
    /// # Errors
    /// For CPUs an environment without the needed options, or if the client cannot start.
    pub(super) fn open(kind: DeviceKind, replicas: usize) -> Result<Self> {
        let client = match kind {
            DeviceKind::Cpu => {
                check_flags(&std::env::var("XLA_FLAGS").unwrap_or_default(), replicas)?;
                PjRtClient::cpu().map_err(failed("PjRtClient::cpu"))
            }
            DeviceKind::Gpu => PjRtClient::gpu(GPU_MEMORY, false).map_err(failed("PjRtClient::gpu")),
            // The argument is the most launches at a time, which the extension leaves to libtpu.
            DeviceKind::Tpu => PjRtClient::tpu(1).map_err(failed("PjRtClient::tpu")),
        };
        Ok(Xla { kind, client: client? })
    }
}

impl Engine for Xla {
    fn platform(&self) -> Result<String> {
        Ok(self.client.platform_name())
    }

    fn device_count(&self) -> usize {
        self.client.addressable_device_count()
    }

    fn compile(&self, computation: &Computation, aliases: &[Alias], replicas: usize) -> Result<Box<dyn Program>> {
        let bytes = snapshot(self.kind, computation, aliases)?;
        let module = HloModuleProto::parse_proto(&bytes, true).map_err(failed("HloModuleProto::parse_proto"))?;
        let compiled = self
            .client
            .compile_replicated(&XlaComputation::from_proto(&module), replicas);
        Ok(Box::new(Compiled {
            name: computation.name.clone(),
            loaded: compiled.map_err(failed("PjRtClient::compile_replicated"))?,
            replicas,
            parameters: computation
                .parameter_specs()
                .into_iter()
                .map(|(_, shape)| shape)
                .collect(),
            results: computation.output_shapes(),
            taken: aliases.iter().map(|alias| alias.parameter).collect(),
        }))
    }

    fn upload(&self, array: &Literal, device: usize) -> Result<Buffer> {
        let devices = self.client.addressable_devices();
        let count = devices.len();
        let device = devices.get(device).ok_or(pjrt::Error::NoSuchDevice { device, count })?;
        let (element, bytes) = (element(array.dtype()), array.bytes());
        // The extension copies the bytes before this returns, and takes them to be in C order.
        let buffer = self
            .client
            .buffer_from_host_raw_bytes(element, bytes, array.dims(), Some(device));
        Ok(Buffer(Box::new(Held {
            buffer: buffer.map_err(failed("PjRtClient::buffer_from_host_raw_bytes"))?,
            shape: array.shape().clone(),
        })))
    }
}

/// A compiled program.
struct Compiled {
    name: String,
    loaded: PjRtLoadedExecutable,
    replicas: usize,
    parameters: Vec<Shape>,
    results: Vec<Shape>,
    /// Positions of the donated parameters. The crate cannot keep them.
    taken: Vec<usize>,
}

impl Program for Compiled {
    fn execute_replicated(&self, args: Vec<Vec<Arg<'_>>>) -> Result<Vec<Vec<Buffer>>> {
        let args: Vec<Vec<pjrt::Arg<'_, Held>>> = own(args)?;
        self.arity("devices", args.len(), self.replicas)?;
        args.iter().try_for_each(|of_replica| self.check(of_replica))?;
        let buffers = args.iter().map(|of_replica| {
            let buffers = of_replica.iter().map(|arg| &arg.buffer().buffer);
            buffers.collect::<Vec<&PjRtBuffer>>()
        });
        let buffers: Vec<_> = buffers.collect();
        let results = self.loaded.execute_replicated_b(&buffers);
        let results = results.map_err(failed("PjRtLoadedExecutable::execute_replicated_b"))?;
        self.arity("devices of results", results.len(), self.replicas)?;
        let held = |of_replica: Vec<PjRtBuffer>| {
            // The extension takes the tuple apart that is every program's result.
            self.arity("results", of_replica.len(), self.results.len())?;
            let each = of_replica.into_iter().zip(self.results.iter().cloned());
            Ok(each.map(|(buffer, shape)| Held { buffer, shape }).collect())
        };
        Ok(erased(results.into_iter().map(held).collect::<Result<_>>()?))
    }
}

impl Compiled {
    /// Checks the arguments of one replica: the crate leaves their shapes to the device, which reads past their end.
    fn check(&self, args: &[pjrt::Arg<'_, Held>]) -> Result<()> {
        self.arity("arguments", args.len(), self.parameters.len())?;
        for (index, (arg, parameter)) in args.iter().zip(&self.parameters).enumerate() {
            let found = &arg.buffer().shape;
            if found != parameter {
                return Err(Error::Pjrt(pjrt::Error::ArgumentShape {
                    program: self.name.clone(),
                    index,
                    found: found.clone(),
                    expected: parameter.clone(),
                }));
            }
            if matches!(arg, pjrt::Arg::Keep(_)) && self.taken.contains(&index) {
                let program = self.name.clone();
                return Err(Error::Kept { program, index });
            }
        }
        Ok(())
    }

    fn arity(&self, what: &'static str, found: usize, expected: usize) -> Result<()> {
        if found == expected {
            return Ok(());
        }
        Err(Error::Pjrt(pjrt::Error::Arity {
            program: self.name.clone(),
            what,
            found,
            expected,
        }))
    }
}

/// An array on a device.
struct Held {
    buffer: PjRtBuffer,
    shape: Shape,
}

impl Array for Held {
    fn read(&self) -> Result<Reading> {
        let found = self
            .buffer
            .to_literal_sync()
            .map_err(failed("PjRtBuffer::to_literal_sync"))?;
        // The array comes in the device's order of dimensions; to reshape it puts it in C order first.
        let dims: Vec<i64> = self.shape.dims.iter().map(|&d| d as i64).collect();
        let ordered = found.reshape(&dims).map_err(failed("Literal::reshape"))?;
        let mut bytes = vec![0; self.shape.bytes()];
        ordered
            .copy_untyped_to(&mut bytes)
            .map_err(failed("Literal::copy_untyped_to"))?;
        let array = Literal::from_bytes(self.shape.clone(), bytes).ok_or_else(|| Error::Extension {
            call: "PjRtBuffer::to_literal_sync",
            message: format!("not the bytes of {}", self.shape),
        });
        Ok(Box::new(|| array))
    }
}

/// The crate's name of an element type.
fn element(dtype: DType) -> ElementType {
    match dtype {
        DType::Pred => ElementType::Pred,
        DType::S32 => ElementType::S32,
        DType::S64 => ElementType::S64,
        DType::U8 => ElementType::U8,
        DType::U32 => ElementType::U32,
        DType::U64 => ElementType::U64,
        DType::F16 => ElementType::F16,
        DType::BF16 => ElementType::Bf16,
        DType::F32 => ElementType::F32,
        DType::F64 => ElementType::F64,
    }
}

/// An error of the crate's function `call`.
fn failed(call: &'static str) -> impl FnOnce(xla::Error) -> Error {
    move |error| {
        let message = match error {
            // Its display adds a backtrace.
            xla::Error::XlaError { msg, .. } => msg,
            other => other.to_string(),
        };
        Error::Extension { call, message }
    }
}
