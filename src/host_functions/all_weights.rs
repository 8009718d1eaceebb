//! The gradient of a dense layer with respect to all its weights: what a compiled program's calls of
//! [`models::layers::sparse::ALL_WEIGHTS_GRADIENT`] run.

use std::ffi::c_void;

use cpu::all_weights_gradient;

use super::parallel_for::parallel_for;
use pjrt::ffi::{self, Call, CallFrame};

/// Runs [`models::layers::sparse::ALL_WEIGHTS_GRADIENT`].
///
/// # Safety
/// To be called by XLA only.
pub unsafe extern "C" fn gradient(frame: *mut CallFrame) -> *mut c_void {
    // SAFETY: as the caller says.
    unsafe { ffi::handle(frame, run) }
}

fn run(call: &Call<'_>) -> Result<(), String> {
    let wanted = call.argument_of::<u8>(0).and_then(<[u8]>::first);
    let arguments = (
        call.argument(1),
        call.argument(2),
        call.argument_dims::<2>(1),
        call.argument_dims::<2>(2),
    );
    let (Some(&wanted), (Some(x), Some(dy), Some([examples, inputs]), Some([others, outputs]))) = (wanted, arguments)
    else {
        return Err("the call lacks activations or whether a gradient is wanted".into());
    };
    if wanted == 0 {
        return Ok(());
    }
    let written = call.write(0, |gradient: &mut [f32]| {
        let fits = examples == others && gradient.len() == inputs * outputs;
        if fits {
            all_weights_gradient(x, dy, examples, gradient, &|pieces, run| {
                parallel_for(call, pieces, run)
            });
        }
        fits
    });
    match written {
        Some(true) => Ok(()),
        Some(false) | None => Err("the call's result does not fit its activations".into()),
    }
}
