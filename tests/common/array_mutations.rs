//! Named arrays and exported models damaged as by a bad disk or an adversary: a number selects the mutation, and every one must be
//! refused or read without a panic or excessive memory.
#![allow(clippy::unwrap_used, dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use hlo::{DType, Graph, Literal, Module, Shape, grad};
use rigl_xla::checkpoint::{Metadata, save};
use rigl_xla::data::Split;
use rigl_xla::data::arrays::{Arrays, Input};
use rigl_xla::exported::Exported;
use sparse::rng::stream;
use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::mutations::{Outcome, below, mutate};

/// A kind of input to mutate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An array of NumPy.
    Npy,
    /// An archive of NumPy, stored or compressed.
    Npz,
    /// Arrays in safetensors format.
    Safetensors,
    /// A model file.
    Rigl,
    /// The manifest of a model, in a file that is right.
    Manifest,
    /// A program of a model, in a file that is right.
    Program,
    /// A serialized module alone.
    Module,
}

impl Kind {
    pub const ALL: [Kind; 7] = [
        Kind::Npy,
        Kind::Npz,
        Kind::Safetensors,
        Kind::Rigl,
        Kind::Manifest,
        Kind::Program,
        Kind::Module,
    ];
}

/// Valid files, and a folder for mutated ones.
pub struct Subject {
    dir: PathBuf,
    npy: Vec<u8>,
    npz: Vec<Vec<u8>>,
    safetensors: Vec<u8>,
    rigl: Vec<u8>,
    model: BTreeMap<String, Literal>,
}

const MANIFEST: &str = r#"{"format":"rigl-xla model","version":1,"jax":"0.4.38","name":"loss","batch":2,
"params":[{"name":"w","dtype":"float32","shape":[3,4],"path":["w"]}],"state":[],
"inputs":[{"name":"x","dtype":"float32","shape":[2,3],"path":["x"]}],"key":null,"metrics":[],
"evaluation":{"key":false,"results":[{"name":"loss","per_example":false}]},"prediction":null}"#;

impl Subject {
    /// `scratch` is a folder.
    pub fn new(scratch: &Path) -> Self {
        let dir = scratch.join("arrays");
        fs::create_dir_all(&dir).unwrap();
        let npy = npy();
        let npz = [CompressionMethod::Stored, CompressionMethod::Deflated].map(|method| npz(&npy, method));
        let path = dir.join("good.safetensors");
        let metadata = Metadata::new("", 0, "");
        let arrays = [
            ("train/x".to_owned(), Literal::new(&[4, 3], &[0.5f32; 12])),
            ("train/label".to_owned(), Literal::new(&[4], &[1i32; 4])),
        ];
        save(&path, &arrays.into(), &metadata).unwrap();
        let safetensors = fs::read(&path).unwrap();
        let bytes = |bytes: &[u8]| Literal::new(&[bytes.len()], bytes);
        let model: BTreeMap<String, Literal> = [
            ("manifest", bytes(MANIFEST.as_bytes())),
            ("module/train", bytes(&program(true))),
            ("module/evaluate", bytes(&program(false))),
            ("params/w", Literal::new(&[3, 4], &[0.25f32; 12])),
        ]
        .map(|(name, array)| (name.to_owned(), array))
        .into();
        let path = dir.join("good.rigl");
        save(&path, &model, &metadata).unwrap();
        Exported::open(&path).unwrap();
        Subject {
            rigl: fs::read(&path).unwrap(),
            npz: npz.into(),
            npy,
            safetensors,
            model,
            dir,
        }
    }

    /// Makes and reads one input.
    pub fn run(&self, kind: Kind, number: u64) -> Outcome {
        let mut random = stream(0, "mutation", &format!("{kind:?}"), number);
        let whole = |good: &[u8], random: &mut _| {
            let mut bytes = good.to_vec();
            mutate(random, &mut bytes, true);
            bytes
        };
        match kind {
            Kind::Npy => self.read_arrays("mutant.npy", &whole(&self.npy, &mut random)),
            Kind::Npz => {
                let good = &self.npz[below(&mut random, 2)];
                self.read_arrays("mutant.npz", &whole(good, &mut random))
            }
            Kind::Safetensors => self.read_arrays("mutant.safetensors", &whole(&self.safetensors, &mut random)),
            Kind::Rigl => self.read_model(&whole(&self.rigl, &mut random)),
            Kind::Manifest => self.read_with("manifest", &whole(MANIFEST.as_bytes(), &mut random)),
            Kind::Program => self.read_with("module/train", &whole(&program(true), &mut random)),
            Kind::Module => match Module::read(&whole(&program(true), &mut random)) {
                Ok(module) => {
                    module.macs();
                    Outcome::Accepted(module.used().len())
                }
                Err(_) => Outcome::Refused,
            },
        }
    }

    /// Opens arrays as inputs of a model, and reads all rows.
    fn read_arrays(&self, name: &str, bytes: &[u8]) -> Outcome {
        let path = self.dir.join(name);
        fs::write(&path, bytes).unwrap();
        let input = |name: &str, dtype, dims: &[usize]| Input {
            name: name.into(),
            example: Shape::new(dtype, dims),
        };
        let inputs = [input("x", DType::F32, &[3]), input("label", DType::S32, &[])];
        let inputs = if name.ends_with("npy") {
            &inputs[..1]
        } else {
            &inputs[..]
        };
        let Ok(arrays) = Arrays::open(&path, Split::Train, inputs) else {
            return Outcome::Refused;
        };
        let rows: Vec<i32> = (0..arrays.len().min(8) as i32).collect();
        match arrays.gather(&rows, rows.len()) {
            Ok(read) => Outcome::Accepted(read.len()),
            Err(_) => Outcome::Accepted(0),
        }
    }

    /// Reads the model with this array instead of the right one.
    fn read_with(&self, name: &str, bytes: &[u8]) -> Outcome {
        let mut model = self.model.clone();
        model.insert(name.into(), Literal::new(&[bytes.len()], bytes));
        let path = self.dir.join("mutant.rigl");
        save(&path, &model, &Metadata::new("", 0, "")).unwrap();
        opened(&path)
    }

    fn read_model(&self, bytes: &[u8]) -> Outcome {
        let path = self.dir.join("mutant.rigl");
        fs::write(&path, bytes).unwrap();
        opened(&path)
    }
}

fn opened(path: &Path) -> Outcome {
    match Exported::open(path) {
        Ok(exported) => {
            exported.train.macs();
            Outcome::Accepted(exported.arrays.len())
        }
        Err(_) => Outcome::Refused,
    }
}

/// `<f4` of dimensions 4 and 3, as NumPy writes it.
fn npy() -> Vec<u8> {
    let mut header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3), }".to_vec();
    header.resize(117, b' ');
    header.push(b'\n');
    let length = (header.len() as u16).to_le_bytes();
    [&b"\x93NUMPY\x01\x00"[..], &length, &header, &[0x3e; 48]].concat()
}

fn npz(x: &[u8], method: CompressionMethod) -> Vec<u8> {
    let label = [&x[..x.len() - 32]].concat();
    let label = String::from_utf8_lossy(&label[10..])
        .replace("<f4", "<i4")
        .replace("(4, 3)", "(4,)  ");
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in [
        ("x.npy", x.to_vec()),
        ("label.npy", [&x[..10], label.as_bytes()].concat()),
    ] {
        zip.start_file(name, options).unwrap();
        zip.write_all(&bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// The square of a product, with its gradient if `gradient`.
fn program(gradient: bool) -> Vec<u8> {
    let g = Graph::new("loss");
    let w = g.parameter("w", Shape::new(DType::F32, [3, 4]));
    let x = g.parameter("x", Shape::new(DType::F32, [2, 3]));
    let product = x.matmul(w);
    let loss = (product * product).reduce_sum_all();
    let gradients = if gradient { grad(loss, &[w]) } else { vec![] };
    let results: Vec<_> = [vec![loss], gradients].concat().iter().map(|t| t.output()).collect();
    g.build(&results).unwrap().to_bytes(&[])
}
