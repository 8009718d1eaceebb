//! Sums per channel of blocked images, as batch normalisation needs them: what a compiled program's calls of
//! [`models::layers::sparse::BLOCKED_MOMENTS`] and [`models::layers::sparse::BLOCKED_PRODUCTS`] run.

use std::ffi::c_void;

use cpu::{blocked_moments, blocked_products};

use super::parallel_for::parallel_for;
use pjrt::ffi::{self, Call, CallFrame};

/// Runs [`models::layers::sparse::BLOCKED_MOMENTS`].
///
/// # Safety
/// To be called by XLA only.
pub unsafe extern "C" fn moments(frame: *mut CallFrame) -> *mut c_void {
    // SAFETY: as the caller says.
    unsafe { ffi::handle(frame, run_moments) }
}

/// Runs [`models::layers::sparse::BLOCKED_PRODUCTS`].
///
/// # Safety
/// To be called by XLA only.
pub unsafe extern "C" fn products(frame: *mut CallFrame) -> *mut c_void {
    // SAFETY: as the caller says.
    unsafe { ffi::handle(frame, run_products) }
}

fn run_moments(call: &Call<'_>) -> Result<(), String> {
    let (Some(x), Some(dims)) = (call.argument(0), call.argument_dims::<5>(0)) else {
        return Err("the call lacks images".into());
    };
    write(call, &blocked_moments(x, dims, &|n, run| parallel_for(call, n, run)))
}

fn run_products(call: &Call<'_>) -> Result<(), String> {
    let arguments = (
        call.argument(0),
        call.argument(1),
        call.argument(2),
        call.argument_dims::<5>(0),
    );
    let (Some(a), Some(b), Some(m), Some(dims)) = arguments else {
        return Err("the call lacks images and means".into());
    };
    if b.len() != a.len() || m.len() != dims[4] {
        return Err("the call's arguments do not fit each other".into());
    }
    write(
        call,
        &blocked_products([a, b], m, dims, &|n, run| parallel_for(call, n, run)),
    )
}

fn write(call: &Call<'_>, sums: &[[f64; 2]]) -> Result<(), String> {
    for index in [0, 1] {
        let written = call.write(index, |out: &mut [f32]| {
            out.iter_mut()
                .zip(sums)
                .for_each(|(out, both)| *out = both[index] as f32);
            out.len() == sums.len()
        });
        if written != Some(true) {
            return Err("the call's results do not fit its images".into());
        }
    }
    Ok(())
}
