//! Prediction on the processor by kernels that compute a network's connections alone, without a device.

mod compile;
mod constants;
mod scores;

pub use scores::score;

use crate::threads::cores;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use cpu::{Network, Threads};
use hlo::{DType, Literal};
use models::Precision;

use crate::checkpoint;
use crate::config::SparseLayers;
use crate::data::pixels::Preprocessing;
use crate::train::eval::{Inference, prediction};
use crate::train::inference::{check_input, wrong_input};
use crate::train::loaded_network::infer_network;
use crate::train::{Error, Result};

/// Images that are made ready at a time.
const CHUNK: usize = 64;

/// A network that is ready to predict.
///
/// [`SparsePredictor::logits`] may be called from many threads at once: they share the kernels, and those that are to compute side by
/// side take [`Threads`] of their own in [`SparsePredictor::logits_on`]. A connection that a mask drops passes nothing on, not even the
/// NaN that a masked layer makes of 0 times an infinite or NaN activation.
pub struct SparsePredictor {
    network: Network,
    threads: Threads,
    /// Inputs of earlier predictions, whose memory serves again.
    spare: Mutex<Vec<Vec<f32>>>,
    preprocessing: Preprocessing,
    /// Dimensions of an image.
    dims: Vec<usize>,
    name: String,
}

impl SparsePredictor {
    /// The network of a checkpoint, or of the newest one in the folder of a run.
    ///
    /// # Errors
    /// A checkpoint that cannot be read or is of no known network; [`Error::NotSparse`].
    pub fn load(path: &Path) -> Result<Self> {
        let network = infer_network(checkpoint::load(&checkpoint::resolve(path)?)?, None, None)?;
        Self::new(network.inference(), &network.weights)
    }

    /// From weights in the order of [`crate::train::state::inference_specs`], with a thread per core.
    ///
    /// # Errors
    /// [`Error::NotSparse`] for a network that these kernels do not compute.
    pub fn new(network: Inference, weights: &[Literal]) -> Result<Self> {
        let model = network.model;
        let refused = |reason: String| Error::NotSparse {
            model: model.name().to_owned(),
            reason,
        };
        if network.precision != Precision::F32 {
            return Err(refused(format!(
                "its precision is {}, not f32",
                network.precision.name()
            )));
        }
        // As masked layers: the compiler looks for these.
        let none = SparseLayers::new();
        let graph = prediction(
            Inference {
                sparse: &none,
                ..network
            },
            1,
            DType::F32,
        )?;
        Ok(SparsePredictor {
            network: compile::compile(&graph, weights).map_err(refused)?,
            spare: Mutex::default(),
            threads: Threads::new(cores()),
            preprocessing: network.preprocessing,
            dims: model.input_dims(),
            name: model.name().to_owned(),
        })
    }

    /// Share of the dense network's multiply-adds that its connections need.
    pub fn density(&self) -> f64 {
        let [sparse, dense] = self.network.multiply_adds();
        sparse as f64 / dense.max(1) as f64
    }

    /// The kernels, for images as the network takes them.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Logits `f32[n, classes]` of `n` images, as [`crate::train::inference::predict`] takes them.
    ///
    /// # Errors
    /// Images that the model does not take.
    pub fn logits(&self, images: &Literal) -> Result<Literal> {
        self.logits_on(images, &self.threads)
    }

    /// [`SparsePredictor::logits`] on other threads than its own.
    ///
    /// # Errors
    /// As there.
    pub fn logits_on(&self, images: &Literal, threads: &Threads) -> Result<Literal> {
        let n = check_input(&self.name, &self.dims, images)?;
        let image = self.network.inputs();
        let mut logits = vec![0.0; n * self.network.outputs()];
        let mut run = |inputs: &[f32], first: usize| {
            let count = inputs.len() / image;
            let outputs = &mut logits[first * self.network.outputs()..][..count * self.network.outputs()];
            self.network
                .predict(inputs, outputs, threads)
                .map_err(|error| self.failed(&error))
        };
        match images.dtype() {
            DType::F32 => {
                let inputs: Vec<f32> = images
                    .to_vec()
                    .ok_or_else(|| wrong_input(&self.name, &self.dims, images))?;
                run(&inputs, 0)?;
            }
            // Pixels: a part at a time, so that memory does not grow with their number.
            _ => {
                let spare = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
                let mut inputs = spare().pop().unwrap_or_default();
                inputs.resize(CHUNK.min(n) * image, 0.0);
                for (i, pixels) in images.bytes().chunks(CHUNK * image).enumerate() {
                    let inputs = &mut inputs[..pixels.len()];
                    self.each_image(inputs, threads, &|n, target| {
                        let values = pixels[n * image..].iter().map(|&pixel| f32::from(pixel));
                        target.iter_mut().zip(values).for_each(|(to, value)| *to = value);
                        self.preprocessing.apply_on_host(target);
                    });
                    run(inputs, i * CHUNK)?;
                }
                spare().push(inputs);
            }
        }
        Ok(Literal::new(&[n, self.network.outputs()], &logits))
    }

    /// Logits of images `f32[n, ..]` from 0 to 255, as files of records give them.
    fn logits_of_pixels(&self, images: &Literal) -> Result<Literal> {
        let mut values: Vec<f32> = images.to_vec().ok_or(Error::Output("f32 images"))?;
        self.each_image(&mut values, &self.threads, &|_, image| {
            self.preprocessing.apply_on_host(image);
        });
        self.logits(&Literal::new(images.dims(), &values))
    }

    /// Calls `run` with the number and the values of each image, on all threads.
    fn each_image(&self, values: &mut [f32], threads: &Threads, run: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        let images: Vec<_> = values.chunks_mut(self.network.inputs()).map(Mutex::new).collect();
        threads.run(images.len(), &|n| {
            // Each image has one thread, so nothing waits here.
            run(n, &mut images[n].lock().unwrap_or_else(PoisonError::into_inner));
        });
    }

    fn failed(&self, error: &cpu::Error) -> Error {
        Error::NotSparse {
            model: self.name.clone(),
            reason: error.to_string(),
        }
    }
}
