//! Maxima under a window, and their gradient: what a compiled program's calls of [`lowering::MAX_POOL`] and
//! [`lowering::MAX_POOL_GRADIENT`] run.

use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use multiversion::multiversion;

use super::ffi::{self, Call, CallFrame};
use super::share::{Share, share};

/// What programs call as [`lowering::MAX_POOL`].
///
/// # Safety
/// To be called by XLA only.
pub unsafe extern "C" fn forward(frame: *mut CallFrame) -> *mut c_void {
    // SAFETY: as the caller says.
    unsafe { ffi::answer(frame, maxima) }
}

/// What programs call as [`lowering::MAX_POOL_GRADIENT`].
///
/// # Safety
/// To be called by XLA only.
pub unsafe extern "C" fn gradient(frame: *mut CallFrame) -> *mut c_void {
    // SAFETY: as the caller says.
    unsafe { ffi::answer(frame, gradients) }
}

/// Where the windows lie, along height and width.
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
    let windows = Windows::told(call, x.len(), room)?;
    // SAFETY: there is room for so many elements, and any bytes are numbers.
    let out = unsafe { std::slice::from_raw_parts_mut(out, room) };
    windows.maxima(x, out, &|pieces, run| share(call, pieces, run));
    Ok(())
}

fn gradients(call: &Call<'_>) -> Result<(), String> {
    let (Some(x), Some(y), Some((out, room))) = (call.argument(0), call.argument(1), call.result(0)) else {
        return Err("the call lacks two arguments and a result".into());
    };
    let windows = Windows::told(call, x.len(), y.len())?;
    if room != x.len() {
        return Err("the call's result has another size than it says".into());
    }
    // SAFETY: there is room for so many elements, and any bytes are numbers.
    let out = unsafe { std::slice::from_raw_parts_mut(out, room) };
    windows.gradients(x, y, out, &|pieces, run| share(call, pieces, run));
    Ok(())
}

impl Windows {
    /// What a call says, on images and maxima of so many elements.
    fn told(call: &Call<'_>, x: usize, y: usize) -> Result<Self, String> {
        let list = |name: &str| {
            let numbers = call.numbers(name)?.into_iter().map(usize::try_from);
            numbers.collect::<Result<Vec<usize>, _>>().ok()
        };
        let pair = |name: &str| <[usize; 2]>::try_from(list(name)?).ok();
        let dims = |name: &str| <[usize; 4]>::try_from(list(name)?).ok();
        let (Some([batch, height, width, channels]), Some([_, rows, columns, _])) = (dims("x"), dims("y")) else {
            return Err("the call does not say its arrays' dimensions".into());
        };
        let (Some(size), Some(stride), Some(pad_low)) = (pair("window"), pair("stride"), pair("pad_low")) else {
            return Err("the call says no window".into());
        };
        if [x, y] != [[height, width], [rows, columns]].map(|[h, w]| batch * h * w * channels) {
            return Err("the call's arrays have other sizes than it says".into());
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

    /// Elements of an image, and of its maxima.
    fn elements(&self) -> [usize; 2] {
        [self.image, self.positions].map(|[height, width]| height * width * self.channels)
    }

    /// Maxima of all images, a piece of work for each of their rows.
    fn maxima(&self, x: &[f32], out: &mut [f32], share: &Share<'_>) {
        let image = self.elements()[0];
        let [rows, columns] = self.positions;
        let length = columns * self.channels;
        if length == 0 {
            return;
        }
        let pieces: Vec<_> = out.chunks_exact_mut(length).map(Mutex::new).collect();
        share(self.batch * rows, &|i| {
            let mut out = pieces[i].lock().unwrap_or_else(PoisonError::into_inner);
            let x = &x[i / rows * image..][..image];
            for (column, out) in out.chunks_exact_mut(self.channels).enumerate() {
                out.fill(f32::NEG_INFINITY);
                for pixel in self.inside([i % rows, column]) {
                    raise(&x[pixel * self.channels..][..self.channels], out);
                }
            }
        });
    }

    /// Gradients of all images, a piece of work for each.
    fn gradients(&self, x: &[f32], y: &[f32], out: &mut [f32], share: &Share<'_>) {
        let [image, positions] = self.elements();
        if image == 0 || positions == 0 {
            return out.fill(0.0);
        }
        let images: Vec<_> = out.chunks_exact_mut(image).map(Mutex::new).collect();
        share(images.len(), &|i| {
            let mut out = images[i].lock().unwrap_or_else(PoisonError::into_inner);
            let [x, y] = [(x, image), (y, positions)].map(|(all, size)| &all[i * size..][..size]);
            self.gradient(x, y, &mut out);
        });
    }

    /// Of one image. What windows share is added in the order of their positions, as XLA's operator does.
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
                    _ => choose(&x[pixel], number as i32, &mut largest, &mut place),
                }
            }
            for (number, pixel) in inside().enumerate() {
                give(y, number as i32, &place, &mut out[pixel]);
            }
        }
    }

    /// The pixels under the window at a position, in row-major order.
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

/// Takes `x` where it is larger than what is largest so far, or no number.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn raise(x: &[f32], largest: &mut [f32]) {
    for (x, largest) in x.iter().zip(largest) {
        *largest = if *x > *largest || x.is_nan() { *x } else { *largest };
    }
}

/// Takes `x` where what is largest so far is neither larger nor equal, as XLA's operator does.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn choose(x: &[f32], number: i32, largest: &mut [f32], place: &mut [i32]) {
    for ((x, largest), place) in x.iter().zip(largest).zip(place) {
        #[expect(clippy::neg_cmp_op_on_partial_ord, reason = "what is not a number is neither")]
        let takes = !(*largest >= *x);
        *largest = if takes { *x } else { *largest };
        *place = if takes { number } else { *place };
    }
}

/// Adds `y` where the largest is this one.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
fn give(y: &[f32], number: i32, place: &[i32], out: &mut [f32]) {
    for ((y, place), out) in y.iter().zip(place).zip(out) {
        *out += if *place == number { *y } else { 0.0 };
    }
}
