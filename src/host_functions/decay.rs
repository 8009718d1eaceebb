//! Steps without a gradient: what a compiled program's calls of [`crate::optimizer::DECAY_STEPS`] run.

use std::ffi::c_void;

use cpu::{DecayStep, decay_steps};

use super::parallel_for::parallel_for;
use pjrt::ffi::{self, Call, CallFrame};

/// Runs [`crate::optimizer::DECAY_STEPS`].
///
/// # Safety
/// To be called by XLA only.
pub unsafe extern "C" fn steps(frame: *mut CallFrame) -> *mut c_void {
    // SAFETY: as the caller says.
    unsafe { ffi::handle(frame, run) }
}

fn run(call: &Call<'_>) -> Result<(), String> {
    let arrays = (call.argument(0), call.argument(1), call.argument(2));
    let others = (call.argument_of::<i32>(3), call.argument(4));
    let ((Some(weights), Some(velocities), Some(schedule)), (Some(&[first, end]), Some(&[l2, momentum]))) =
        (arrays, others)
    else {
        return Err(LACKING.into());
    };
    let Some([rows, columns]) = call.argument_dims::<2>(2) else {
        return Err(LACKING.into());
    };
    let row = |row: i32| usize::try_from(row).unwrap_or(0).min(rows);
    let nesterov = call.numbers("nesterov").is_some_and(|value| value == [1]);
    if columns < 3 || velocities.len() != weights.len() {
        return Err("the call's arrays do not fit each other".into());
    }
    let steps: Vec<DecayStep> = schedule[row(first).min(row(end)) * columns..row(end) * columns]
        .chunks_exact(columns)
        .map(|row| DecayStep {
            rate: row[0],
            decay: row[1],
            l2: if row[2] > 0.0 { l2 } else { 0.0 },
            momentum,
            nesterov,
        })
        .collect();
    let write = |new_weights: &mut [f32], new_velocities: &mut [f32]| {
        new_weights.copy_from_slice(weights);
        new_velocities.copy_from_slice(velocities);
        decay_steps(&steps, new_weights, new_velocities, &|pieces, run| {
            parallel_for(call, pieces, run)
        });
    };
    let fits = |index: usize| call.result(index).is_some_and(|(_, length)| length == weights.len());
    if !(fits(0) && fits(1)) {
        return Err("the call's results do not fit its arrays".into());
    }
    let written = call.write(0, |weights: &mut [f32]| {
        call.write(1, |velocities: &mut [f32]| write(weights, velocities))
    });
    written.flatten().ok_or(LACKING.into())
}

const LACKING: &str = "the call lacks an argument or a result";
