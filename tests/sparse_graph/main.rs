//! Selection, mask update and training as graphs, held equal to the plain-Rust reference of `sparse::reference`: on the
//! evaluator and on the default CPU plugin. An unavailable plugin fails the tests: nothing is skipped.
#![allow(clippy::unwrap_used)]

mod bucketed;
mod launches;
mod layer;
mod select;
mod training;
mod update;

use hlo::{Computation, Literal};
use pjrt::{Arg, Buffer, CompileOptions, DeviceKind, Executable};
use rigl_xla::engine::Pjrt;
use sparse::rng::{Stream, stream};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

/// One client for all tests of this process.
static DEVICE: LazyLock<Pjrt> = LazyLock::new(|| Pjrt::open(DeviceKind::Cpu, None, 1).unwrap());

/// A program that one test compiles and others may wait for.
type Compiled = Arc<OnceLock<Executable>>;

/// Compiled programs by serialised graph.
static PROGRAMS: LazyLock<Mutex<HashMap<Vec<u8>, Compiled>>> = LazyLock::new(Default::default);

/// Executes graphs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Backend {
    Evaluator,
    Plugin,
}

const BACKENDS: [Backend; 2] = [Backend::Evaluator, Backend::Plugin];

/// A graph made ready to run.
enum Program {
    Evaluator(Computation),
    Plugin(Compiled),
}

impl Backend {
    /// Compiles, each graph once, without the cache on disk, which is the user's.
    fn program(self, computation: Computation) -> Program {
        match self {
            Backend::Evaluator => Program::Evaluator(computation),
            Backend::Plugin => {
                let bytes = computation.to_bytes(&[]);
                let program = PROGRAMS.lock().unwrap().entry(bytes.clone()).or_default().clone();
                program.get_or_init(|| DEVICE.client.compile(&bytes, &CompileOptions::default()).unwrap());
                Program::Plugin(program)
            }
        }
    }
}

impl Program {
    fn run(&self, arguments: &[Literal]) -> Vec<Literal> {
        match self {
            Program::Evaluator(computation) => computation.evaluate(arguments).unwrap(),
            Program::Plugin(program) => {
                let executable = program.get().unwrap();
                let upload = |l: &Literal| DEVICE.client.to_device(l, 0).unwrap();
                let buffers: Vec<Buffer> = arguments.iter().map(upload).collect();
                let outputs = executable.execute(buffers.iter().map(Arg::Keep).collect()).unwrap();
                outputs.iter().map(|b| b.to_literal().unwrap()).collect()
            }
        }
    }
}

/// Random numbers of a test.
fn random(test: &str, case: usize) -> Stream {
    stream(0, "sparse_graph", test, case as u64)
}

fn normals(n: usize, rng: &mut Stream) -> Vec<f32> {
    (0..n).map(|_| rng.normal() as f32).collect()
}

fn f32s(array: &Literal) -> Vec<f32> {
    array.to_vec().unwrap()
}

fn bools(array: &Literal) -> Vec<bool> {
    array.to_bools().unwrap()
}

fn count(mask: &[bool]) -> usize {
    mask.iter().filter(|&&m| m).count()
}

/// Bits of every number, with one representation of NaN, because its bits depend on the platform.
fn bits(values: &[f32]) -> Vec<u32> {
    let bits = |v: &f32| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() };
    values.iter().map(bits).collect()
}
