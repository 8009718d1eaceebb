//! Sparse layers: what a compiled program's calls of the functions of [`models::layers::sparse`] run.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use cpu::{Epilogue, Gradients, Halo, Kernel, Layout, Options, SparseConv, Window};
use models::layers::sparse::LANES;

use super::parallel_for::parallel_for;
use pjrt::ffi::{self, Call, CallFrame};

macro_rules! handlers {
    ($($(#[$doc:meta])* $name:ident => $run:ident;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// To be called by XLA only.
            pub unsafe extern "C" fn $name(frame: *mut CallFrame) -> *mut c_void {
                // SAFETY: as the caller says.
                unsafe { ffi::handle(frame, $run) }
            }
        )*
    };
}

handlers! {
    /// Runs [`models::layers::sparse::MASK_KEY`].
    mask_key => run_mask_key;
    /// Runs [`models::layers::sparse::SPARSE_FORWARD`].
    forward => run_forward;
    /// Runs [`models::layers::sparse::SPARSE_INPUT_GRADIENT`].
    input_gradient => run_input_gradient;
    /// Runs [`models::layers::sparse::SPARSE_KERNEL_GRADIENT`].
    kernel_gradient => run_kernel_gradient;
    /// Runs [`models::layers::sparse::EXPAND`].
    expand => run_expand;
    /// Runs [`models::layers::sparse::CONDENSE`].
    condense => run_condense;
}

/// A bijective hash, as [`models::layers::sparse::mixed`].
fn mixed(x: u32) -> u32 {
    let x = x.wrapping_add(1).wrapping_mul(0x9E37_79B1);
    let x = (x ^ (x >> 15)).wrapping_mul(0x85EB_CA77);
    x ^ (x >> 13)
}

fn run_mask_key(call: &Call<'_>) -> Result<(), String> {
    let mask = call.argument_of::<u8>(0).ok_or(LACKING)?;
    let mut sums = [0u32; 2];
    for (i, _) in (0u32..).zip(mask).filter(|&(_, &one)| one != 0) {
        let number = mixed(i);
        sums[0] = sums[0].wrapping_add(number);
        sums[1] = sums[1].wrapping_add(mixed(number));
    }
    call.write(0, |out: &mut [u32]| out.copy_from_slice(&sums))
        .ok_or(LACKING.into())
}

/// Kind of a sparse layer.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// A convolution of blocked images.
    Conv,
    /// A depthwise convolution of blocked images, with a kernel `[height, width, channels, multiplier]`.
    Depthwise,
    /// A matrix product, on matrices `[units][examples]`.
    Dense,
}

/// Shapes of a sparse layer. A dense layer is a convolution of one pixel.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Shapes {
    batch: usize,
    /// Height and width of the input.
    image: [usize; 2],
    /// Height, width, input channels and output channels of the kernel.
    kernel: [usize; 4],
    stride: [usize; 2],
    pad_low: [usize; 2],
    /// Height and width of the output.
    output: [usize; 2],
    kind: Kind,
}

/// A layer prepared for a mask.
struct Prepared {
    layer: SparseConv,
    /// Elements of the whole kernel.
    elements: usize,
    /// [`Prepared::ranks`], for condensed weights only.
    ranks: OnceLock<Vec<u32>>,
}

/// Prepared layers by mask key and shapes, each with the number of the last call that used it.
#[derive(Default)]
struct Cache {
    entries: HashMap<([u32; 2], Shapes), (u64, Arc<Prepared>)>,
    calls: u64,
}

/// Capacity of the cache: more layers than the largest network has.
const KEPT: usize = 256;

fn cache() -> &'static Mutex<Cache> {
    static CACHE: OnceLock<Mutex<Cache>> = OnceLock::new();
    CACHE.get_or_init(Mutex::default)
}

/// The prepared layer of these shapes and this mask, from the cache if it is there.
fn prepared(key: &[u32], mask: &[u8], shapes: Shapes) -> Result<Arc<Prepared>, String> {
    let &[first, second] = key else {
        return Err("a mask's key has two numbers".into());
    };
    let id = ([first, second], shapes);
    let lock = || cache().lock().unwrap_or_else(PoisonError::into_inner);
    {
        let mut cache = lock();
        cache.calls += 1;
        let now = cache.calls;
        if let Some((last, found)) = cache.entries.get_mut(&id) {
            *last = now;
            return Ok(Arc::clone(found));
        }
    }
    let made = Arc::new(Prepared {
        layer: layer(shapes, mask).map_err(|error| error.to_string())?,
        elements: mask.len(),
        ranks: OnceLock::new(),
    });
    let mut cache = lock();
    let now = cache.calls;
    cache.entries.insert(id, (now, Arc::clone(&made)));
    while cache.entries.len() > KEPT {
        let oldest = cache
            .entries
            .iter()
            .min_by_key(|(_, (last, _))| *last)
            .map(|(&id, _)| id);
        oldest.and_then(|id| cache.entries.remove(&id));
    }
    Ok(made)
}

impl Prepared {
    /// For each connection, in the order of the layer's structure, its place in condensed weights: the number of connections at
    /// earlier positions of the kernel.
    fn ranks(&self) -> &[u32] {
        self.ranks.get_or_init(|| {
            let positions = &self.layer.structure().index;
            let mut order: Vec<usize> = (0..positions.len()).collect();
            order.sort_unstable_by_key(|&connection| positions[connection]);
            let mut ranks = vec![0; order.len()];
            for (rank, connection) in (0..).zip(order) {
                ranks[connection] = rank;
            }
            ranks
        })
    }

    /// The values of whole or condensed weights, in the order of the layer's structure.
    fn values(&self, weights: &[f32]) -> Result<Vec<f32>, String> {
        if !self.is_condensed(weights.len()) {
            return self.layer.gather(weights).map_err(|error| error.to_string());
        }
        check_connections(self.layer.connections(), weights.len())?;
        Ok(self.ranks().iter().map(|&rank| weights[rank as usize]).collect())
    }

    /// Writes values in the order of the layer's structure as whole or condensed weights.
    fn write(&self, values: &[f32], weights: &mut [f32]) -> Result<(), String> {
        if !self.is_condensed(weights.len()) {
            weights.fill(0.0);
            return self
                .layer
                .structure()
                .scatter(values, weights)
                .map_err(|error| error.to_string());
        }
        check_connections(self.layer.connections(), weights.len())?;
        for (&rank, &value) in self.ranks().iter().zip(values) {
            weights[rank as usize] = value;
        }
        Ok(())
    }

    /// Whether an array of this length is not a whole kernel.
    fn is_condensed(&self, length: usize) -> bool {
        length != self.elements
    }
}

/// Checks that a mask has as many true elements as condensed values.
fn check_connections(found: usize, expected: usize) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("a mask has {found} connections, expected {expected}")),
    }
}

fn run_expand(call: &Call<'_>) -> Result<(), String> {
    let (Some(values), Some(mask)) = (call.argument(0), call.argument_of::<u8>(1)) else {
        return Err(LACKING.into());
    };
    check_connections(mask.iter().filter(|&&one| one != 0).count(), values.len())?;
    let mut values = values.iter();
    let mut next = |&one: &u8| {
        if one == 0 {
            0.0
        } else {
            values.next().copied().unwrap_or(0.0)
        }
    };
    call.write(0, |whole: &mut [f32]| {
        whole
            .iter_mut()
            .zip(mask)
            .for_each(|(element, one)| *element = next(one));
    })
    .ok_or(LACKING.into())
}

fn run_condense(call: &Call<'_>) -> Result<(), String> {
    let (Some(whole), Some(mask)) = (call.argument(0), call.argument_of::<u8>(1)) else {
        return Err(LACKING.into());
    };
    let run = |values: &mut [f32]| {
        check_connections(mask.iter().filter(|&&one| one != 0).count(), values.len())?;
        let active = whole.iter().zip(mask).filter(|&(_, &one)| one != 0);
        values
            .iter_mut()
            .zip(active)
            .for_each(|(value, (&weight, _))| *value = weight);
        Ok(())
    };
    call.write(0, run).ok_or(LACKING)?
}

/// Prepares a layer and its gradients for the layouts that programs use.
fn layer(shapes: Shapes, mask: &[u8]) -> cpu::Result<SparseConv> {
    let Shapes {
        batch,
        image,
        kernel: [rows, columns, inputs, outputs],
        stride,
        pad_low,
        output,
        kind,
    } = shapes;
    let pad = |axis: usize, size: usize| {
        let covered = output[axis].saturating_sub(1) * stride[axis] + size;
        [pad_low[axis], covered.saturating_sub(image[axis] + pad_low[axis])]
    };
    let window = Window {
        stride,
        pads: [pad(0, rows), pad(1, columns)],
    };
    let layout = |[height, width]: [usize; 2], channels| match kind {
        Kind::Dense => Layout::features(batch, channels),
        Kind::Conv | Kind::Depthwise => Layout::lanes(batch, height, width, channels, Halo::default()),
    };
    let kernel = match kind {
        Kind::Conv | Kind::Dense => Kernel::new(rows, columns, inputs, outputs),
        Kind::Depthwise => Kernel::depthwise(rows, columns, inputs, outputs),
    };
    let (x, y) = (layout(image, kernel.inputs), layout(output, kernel.outputs));
    let mask: Vec<bool> = mask.iter().map(|&one| one != 0).collect();
    let options = Options::default();
    let gradients = Gradients { output: y, input: x };
    SparseConv::new(kernel, window, x, y, &mask, &options)?.with_gradients(gradients, &options)
}

/// The shapes of a call, from the indices of its images (or matrices) `x` and `y` and its kernel. Each is an argument, or the
/// result where the index is `None`.
fn shapes(call: &Call<'_>, [x, kernel, y]: [Option<usize>; 3]) -> Result<Shapes, String> {
    fn dims<const RANK: usize>(call: &Call<'_>, index: Option<usize>) -> Option<[usize; RANK]> {
        index.map_or_else(|| call.result_dims(0), |index| call.argument_dims(index))
    }
    let pair = |name| -> Option<[usize; 2]> {
        let numbers: [i64; 2] = call.numbers(name)?.try_into().ok()?;
        Some(numbers.map(|n| usize::try_from(n).unwrap_or(0)))
    };
    let conv = || {
        let [blocks, lanes, height, width, _] = dims::<5>(call, x)?;
        let [_, _, high, wide, _] = dims::<5>(call, y)?;
        Some(Shapes {
            batch: blocks * lanes,
            image: [height, width],
            kernel: dims(call, kernel)?,
            stride: pair("stride")?,
            pad_low: pair("pad_low")?,
            output: [high, wide],
            kind: match call.numbers("depthwise")?[..] {
                [0] => Kind::Conv,
                _ => Kind::Depthwise,
            },
        })
    };
    let dense = || {
        let ([batch, _], [inputs, outputs]) = (dims::<2>(call, x)?, dims::<2>(call, kernel)?);
        Some(Shapes {
            batch,
            image: [1; 2],
            kernel: [1, 1, inputs, outputs],
            stride: [1; 2],
            pad_low: [0; 2],
            output: [1; 2],
            kind: Kind::Dense,
        })
    };
    let found = conv()
        .or_else(dense)
        .ok_or("the call's arrays are not those of a layer")?;
    match found.batch.is_multiple_of(LANES) {
        true => Ok(found),
        false => Err(format!("a batch of {} is not a multiple of {LANES}", found.batch)),
    }
}

const LACKING: &str = "the call lacks an argument or a result";

/// The two arrays of a call, and the layer of the mask and the key that follow them.
type Operands<'a> = (&'a [f32], &'a [f32], Arc<Prepared>);

fn operands<'a>(call: &'a Call<'_>, shapes: Shapes) -> Result<Operands<'a>, String> {
    let arrays = (call.argument(0), call.argument(1));
    let (Some(first), Some(second)) = arrays else {
        return Err(LACKING.into());
    };
    let (Some(mask), Some(key)) = (call.argument_of(2), call.argument_of(3)) else {
        return Err(LACKING.into());
    };
    Ok((first, second, prepared(key, mask, shapes)?))
}

fn run_forward(call: &Call<'_>) -> Result<(), String> {
    let shapes = shapes(call, [Some(0), Some(2), None])?;
    let (x, weights, prepared) = operands(call, shapes)?;
    let values = prepared.values(weights)?;
    let run = |y: &mut [f32]| {
        prepared
            .layer
            .forward(&values, x, y, &Epilogue::default(), &|pieces, run| {
                parallel_for(call, pieces, run)
            })
    };
    let done = call.write(0, run).ok_or(LACKING)?;
    done.map_err(|error: cpu::Error| error.to_string())
}

fn run_input_gradient(call: &Call<'_>) -> Result<(), String> {
    let shapes = shapes(call, [None, Some(2), Some(0)])?;
    let (dy, weights, prepared) = operands(call, shapes)?;
    let values = prepared.values(weights)?;
    let run = |dx: &mut [f32]| {
        prepared
            .layer
            .input_gradient(&values, dy, dx, &|pieces, run| parallel_for(call, pieces, run))
    };
    let done = call.write(0, run).ok_or(LACKING)?;
    done.map_err(|error: cpu::Error| error.to_string())
}

fn run_kernel_gradient(call: &Call<'_>) -> Result<(), String> {
    let shapes = shapes(call, [Some(0), Some(2), Some(1)])?;
    let (x, dy, prepared) = operands(call, shapes)?;
    let mut values = vec![0.0; prepared.layer.connections()];
    let done = prepared
        .layer
        .kernel_gradient(x, dy, &mut values, &|pieces, run| parallel_for(call, pieces, run));
    done.map_err(|error| error.to_string())?;
    call.write(0, |gradient: &mut [f32]| prepared.write(&values, gradient))
        .ok_or(LACKING)?
}
