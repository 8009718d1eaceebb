//! Column sums for batch normalisation: [`lowering::COLUMN_SUMS`]. XLA would compile code for each of hundreds of such sums, and
//! read the operands once per sum.

use std::ffi::c_void;

use cpu::{Summand, column_sums as sums};

use super::parallel_for::parallel_for;
use pjrt::ffi::{self, Call, CallFrame};

/// Handler of [`lowering::COLUMN_SUMS`].
///
/// # Safety
/// To be called by XLA only.
pub unsafe extern "C" fn column_sums(frame: *mut CallFrame) -> *mut c_void {
    // SAFETY: as the caller says.
    unsafe { ffi::handle(frame, run) }
}

fn run(call: &Call<'_>) -> Result<(), String> {
    let Some((_, columns)) = call.result(0) else {
        return Err("the call lacks a result".into());
    };
    let summand = match [0, 1, 2].map(|index| call.argument(index)) {
        [Some(a), None, None] => Summand::Moments(a),
        [Some(a), Some(m), None] if m.len() == columns => Summand::Squares(a, m),
        [Some(a), Some(b), Some(m)] if a.len() == b.len() && m.len() == columns => Summand::Products(a, b, m),
        _ => return Err("the call's arguments do not fit each other".into()),
    };
    let both = sums(summand, columns, &|pieces, run| parallel_for(call, pieces, run));
    let results = [call.result(0), call.result(1)].into_iter().zip(both);
    for (result, sums) in results {
        let Some((out, room)) = result else { continue };
        if room != columns {
            return Err("the call's results do not fit each other".into());
        }
        // SAFETY: there is room for one number per column.
        unsafe { out.copy_from_nonoverlapping(sums.as_ptr(), columns) };
    }
    Ok(())
}
