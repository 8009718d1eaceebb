//! Max pooling and its gradient: [`lowering::MAX_POOL`] and [`lowering::MAX_POOL_GRADIENT`].

use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use multiversion::multiversion;

use super::parallel_for::{ParallelFor, parallel_for};
use pjrt::ffi::{self, Call, CallFrame};

/// Handler of [`lowering::MAX_POOL`].
///
/// # Safety
/// To be called by XLA only.
pub unsafe extern "C" fn forward(frame: *mut CallFrame) -> *mut c_void {
    // SAFETY: as the caller says.
    unsafe { ffi::handle(frame, maxima) }
}

/// Handler of [`lowering::MAX_POOL_GRADIENT`].
///
/// # Safety
/// To be called by XLA only.
pub unsafe extern "C" fn gradient(frame: *mut CallFrame) -> *mut c_void {
    // SAFETY: as the caller says.
    unsafe { ffi::handle(frame, gradients) }
}

/// Shapes of the images and windows; pairs are height and width.
struct Windows {
    batch: usize,
    image: [usize; 2],
    positions: [usize; 2],
    channels: usize,
    size: [usize; 2],
    stride: [usize; 2],
    pad_low: [usize; 2],
}

fn maxima(call: &Call<'_>) -> Result<(), String> {
    let (Some(x), Some((out, room))) = (call.argument(0), call.result(0)) else {
        return Err("the call lacks an argument and a result".into());
    };
    let windows = Windows::from_call(call, x.len(), room)?;
    // SAFETY: the result has this many elements, and any bytes are valid numbers.
    let out = unsafe { std::slice::from_raw_parts_mut(out, room) };
    windows.maxima(x, out, &|pieces, run| parallel_for(call, pieces, run));
    Ok(())
}

fn gradients(call: &Call<'_>) -> Result<(), String> {
    let (Some(x), Some(y), Some((out, room))) = (call.argument(0), call.argument(1), call.result(0)) else {
        return Err("the call lacks two arguments and a result".into());
    };
    let windows = Windows::from_call(call, x.len(), y.len())?;
    if room != x.len() {
        return Err("the call's result does not have the size of its argument".into());
    }
    // SAFETY: the result has this many elements, and any bytes are valid numbers.
    let out = unsafe { std::slice::from_raw_parts_mut(out, room) };
    windows.gradients(x, y, out, &|pieces, run| parallel_for(call, pieces, run));
    Ok(())
}

impl Windows {
    /// Reads the attributes of a call and checks them against the number of elements of images and maxima.
    fn from_call(call: &Call<'_>, x: usize, y: usize) -> Result<Self, String> {
        let list = |name: &str| {
            let numbers = call.numbers(name)?.into_iter().map(usize::try_from);
            numbers.collect::<Result<Vec<usize>, _>>().ok()
        };
        let pair = |name: &str| <[usize; 2]>::try_from(list(name)?).ok();
        let dims = |name: &str| <[usize; 4]>::try_from(list(name)?).ok();
        let (Some([batch, height, width, channels]), Some([_, rows, columns, _])) = (dims("x"), dims("y")) else {
            return Err("the call lacks the dimensions of its arrays".into());
        };
        let (Some(size), Some(stride), Some(pad_low)) = (pair("window"), pair("stride"), pair("pad_low")) else {
            return Err("the call lacks a window".into());
        };
        if [x, y] != [[height, width], [rows, columns]].map(|[h, w]| batch * h * w * channels) {
            return Err("the call's arrays do not have the sizes of its attributes".into());
        }
        Ok(Windows {
            batch,
            image: [height, width],
            positions: [rows, columns],
            channels,
            size,
            stride,
            pad_low,
        })
    }

    /// Number of elements of an image, and of its maxima.
    fn elements(&self) -> [usize; 2] {
        [self.image, self.positions].map(|[height, width]| height * width * self.channels)
    }

    /// Maxima of all images. Each row of an image is a piece of work.
    fn maxima(&self, x: &[f32], out: &mut [f32], parallel_for: &ParallelFor<'_>) {
        let image = self.elements()[0];
        let [rows, columns] = self.positions;
        let length = columns * self.channels;
        if length == 0 {
            return;
        }
        let pieces: Vec<_> = out.chunks_exact_mut(length).map(Mutex::new).collect();
        parallel_for(self.batch * rows, &|i| {
            let mut out = pieces[i].lock().unwrap_or_else(PoisonError::into_inner);
            let x = &x[i / rows * image..][..image];
            for (column, out) in out.chunks_exact_mut(self.channels).enumerate() {
                out.fill(f32::NEG_INFINITY);
                for pixel in self.inside([i % rows, column]) {
                    maximum(&x[pixel * self.channels..][..self.channels], out);
                }
            }
        });
    }

    /// Gradients of all images. Each image is a piece of work.
    fn gradients(&self, x: &[f32], y: &[f32], out: &mut [f32], parallel_for: &ParallelFor<'_>) {
        let [image, positions] = self.elements();
        if image == 0 || positions == 0 {
            return out.fill(0.0);
        }
        let images: Vec<_> = out.chunks_exact_mut(image).map(Mutex::new).collect();
        parallel_for(images.len(), &|i| {
            let mut out = images[i].lock().unwrap_or_else(PoisonError::into_inner);
            let [x, y] = [(x, image), (y, positions)].map(|(all, size)| &all[i * size..][..size]);
            self.gradient(x, y, &mut out);
        });
    }

    /// Gradient of one image. Where windows overlap, gradients are added in the order of the windows, as in XLA.
    fn gradient(&self, x: &[f32], y: &[f32], out: &mut [f32]) {
        let channels = self.channels;
        let (mut largest, mut place) = (vec![0.0; channels], vec![0; channels]);
        out.fill(0.0);
        for (position, y) in y.chunks_exact(channels).enumerate() {
            let at = [position / self.positions[1], position % self.positions[1]];
            let inside = || self.inside(at).map(|pixel| pixel * channels..(pixel + 1) * channels);
            for (number, pixel) in inside().enumerate() {
                match number {
                    0 => {
                        largest.copy_from_slice(&x[pixel]);
                        place.fill(0);
                    }
                    _ => argmax(&x[pixel], number as i32, &mut largest, &mut place),
                }
            }
            for (number, pixel) in inside().enumerate() {
                scatter(y, number as i32, &place, &mut out[pixel]);
            }
        }
    }

    /// Indices of the pixels in the window at a position, in row-major order.
    fn inside(&self, at: [usize; 2]) -> impl Iterator<Item = usize> + use<> {
        let [rows, columns] = [0, 1].map(|axis| {
            let start = at[axis] * self.stride[axis];
            let index = move |padded: usize| padded.saturating_sub(self.pad_low[axis]).min(self.image[axis]);
            index(start)..index(start + self.size[axis])
        });
        let width = self.image[1];
        rows.flat_map(move |row| columns.clone().map(move |column| row * width + column))
    }
}

/// Elementwise maximum; NaN wins.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn maximum(x: &[f32], largest: &mut [f32]) {
    for (x, largest) in x.iter().zip(largest) {
        *largest = if *x > *largest || x.is_nan() { *x } else { *largest };
    }
}

/// Elementwise maximum with its position. Like XLA's select-and-scatter: a NaN replaces, and is replaced by, any number.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn argmax(x: &[f32], number: i32, largest: &mut [f32], place: &mut [i32]) {
    for ((x, largest), place) in x.iter().zip(largest).zip(place) {
        #[expect(clippy::neg_cmp_op_on_partial_ord, reason = "a comparison with NaN is false")]
        let takes = !(*largest >= *x);
        *largest = if takes { *x } else { *largest };
        *place = if takes { number } else { *place };
    }
}

/// Adds `y` where the maximum is at position `number`.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn scatter(y: &[f32], number: i32, place: &[i32], out: &mut [f32]) {
    for ((y, place), out) in y.iter().zip(place).zip(out) {
        *out += if *place == number { *y } else { 0.0 };
    }
}
