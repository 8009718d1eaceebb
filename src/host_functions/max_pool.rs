//! Max pooling and its gradient: [`lowering::MAX_POOL`] and [`lowering::MAX_POOL_GRADIENT`].

use std::ffi::c_void;

use cpu::MaxPool;

use super::parallel_for::parallel_for;
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

fn maxima(call: &Call<'_>) -> Result<(), String> {
    let (Some(x), Some((out, room))) = (call.argument(0), call.result(0)) else {
        return Err("the call lacks an argument and a result".into());
    };
    let windows = from_call(call, x.len(), room)?;
    // SAFETY: the result has this many elements, and any bytes are valid numbers.
    let out = unsafe { std::slice::from_raw_parts_mut(out, room) };
    windows.maxima(x, out, &|pieces, run| parallel_for(call, pieces, run));
    Ok(())
}

fn gradients(call: &Call<'_>) -> Result<(), String> {
    let (Some(x), Some(y), Some((out, room))) = (call.argument(0), call.argument(1), call.result(0)) else {
        return Err("the call lacks two arguments and a result".into());
    };
    let windows = from_call(call, x.len(), y.len())?;
    if room != x.len() {
        return Err("the call's result does not have the size of its argument".into());
    }
    // SAFETY: the result has this many elements, and any bytes are valid numbers.
    let out = unsafe { std::slice::from_raw_parts_mut(out, room) };
    windows.gradients(x, y, out, &|pieces, run| parallel_for(call, pieces, run));
    Ok(())
}

/// Reads the attributes of a call and checks them against the number of elements of images and maxima.
fn from_call(call: &Call<'_>, x: usize, y: usize) -> Result<MaxPool, String> {
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
    Ok(MaxPool {
        batch,
        image: [height, width],
        positions: [rows, columns],
        channels,
        size,
        stride,
        pad_low,
    })
}
