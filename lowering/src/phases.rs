//! The input gradient of a strided convolution, without holes.
//!
//! With base dilation `b`, position `b·q + r` reads only every `b`-th window element, the same ones for all `q`. So
//! these positions form a convolution of the input without holes. The results of the phases are then interleaved.

use super::ConvForm;
use super::conv::{Conv, ResultAxes, indices};
use hlo::{ConvDims, Tensor, WindowDim};

/// One phase of one axis: every `step`-th window element starting at `first`, and the window that they form.
struct Phase {
    first: usize,
    step: usize,
    window: WindowDim,
    positions: usize,
}

impl<'g> Conv<'g> {
    /// The result as `[batch, positions…, channels]`. `None` if the input has no holes, or if the window has holes too.
    pub(super) fn by_phases(&self, form: ConvForm) -> Option<(Tensor<'g>, ResultAxes)> {
        let facts = &self.facts;
        let simple = facts.window.iter().all(|w| w.stride == 1 && w.window_dilation == 1);
        if !simple || !facts.has_holes() {
            return None;
        }
        let periods: Vec<usize> = facts.window.iter().map(|w| w.base_dilation).collect();
        // All phases compute as many positions as the first; surplus ones are cut off at the end.
        let rows: Vec<usize> = facts
            .positions
            .iter()
            .zip(&periods)
            .map(|(n, b)| n.div_ceil(*b))
            .collect();
        let phases: Option<Vec<_>> = indices(&periods)
            .map(|at| {
                let axes: Vec<_> = (0..at.len())
                    .map(|a| phase(&facts.window[a], at[a], rows[a], facts.extents[a]))
                    .collect();
                self.phase(&axes, form)
            })
            .collect();
        let whole = interleaved(&phases?, &periods);
        let limit = [&[facts.batch], &facts.positions[..], &[facts.filters]].concat();
        let whole = match whole.dims() == limit {
            true => whole,
            false => whole.slice(&vec![0; limit.len()], &limit),
        };
        Some((whole, ResultAxes::batch_first(periods.len())))
    }

    /// The result `[batch, positions…, channels]` of one phase per axis.
    fn phase(&self, axes: &[Phase], form: ConvForm) -> Option<Tensor<'g>> {
        let facts = &self.facts;
        let positions: Vec<usize> = axes.iter().map(|p| p.positions).collect();
        if axes.iter().any(|p| p.window.size == 0) {
            let dims = [&[facts.batch], &positions[..], &[facts.filters]].concat();
            return Some(self.x.graph().number(facts.dtype, 0.0).broadcast_to(&dims));
        }
        let own = self.kernel.dims();
        let (mut start, mut step) = (vec![0; own.len()], vec![1; own.len()]);
        for (&axis, phase) in self.dims.kernel_spatial.iter().zip(axes) {
            (start[axis], step[axis]) = (phase.first, phase.step);
        }
        let mut part = self.clone();
        part.kernel = self.kernel.slice_strided(&start, &own, &step);
        part.facts.window = axes.iter().map(|p| p.window).collect();
        part.facts.positions = positions;
        match form {
            ConvForm::Convolution => return Some(part.kept()),
            ConvForm::Ordered => return Some(part.ordered()),
            ConvForm::Taps | ConvForm::Patches | ConvForm::Positions | ConvForm::Columns | ConvForm::Direct => {}
        }
        let (result, roles) = part.in_form(form)?;
        (roles.batch == 0).then_some(result)
    }

    /// The operator itself, with result `[batch, positions…, channels]`.
    fn kept(&self) -> Tensor<'g> {
        let roles = ResultAxes::batch_first(self.facts.window.len());
        let dims = ConvDims {
            output_batch: roles.batch,
            output_feature: roles.feature,
            output_spatial: roles.spatial,
            ..self.dims.clone()
        };
        let groups = self.groups();
        self.x
            .convolution(self.kernel, self.facts.window.clone(), dims, groups[0], groups[1])
    }
}

/// The phase of positions `r`, `r + base_dilation`, … of an axis.
fn phase(w: &WindowDim, r: usize, positions: usize, extent: usize) -> Phase {
    let period = w.base_dilation as i64;
    let first = (w.pad_low - r as i64).rem_euclid(period);
    let size = (w.size as i64 - first).max(0) as usize;
    let size = size.div_ceil(w.base_dilation);
    // Input index under the phase's first window element at the phase's position 0.
    let at = (r as i64 + first - w.pad_low) / period;
    Phase {
        first: first.min(w.size as i64) as usize,
        step: w.base_dilation,
        window: WindowDim {
            size,
            pad_low: -at,
            pad_high: at + (positions + size) as i64 - 1 - extent as i64,
            ..WindowDim::unit()
        },
        positions,
    }
}

/// Interleaves phases: element `q` of phase `r` moves to position `period·q + r`, along each spatial axis of `[batch,
/// positions…, channels]`.
fn interleaved<'g>(phases: &[Tensor<'g>], periods: &[usize]) -> Tensor<'g> {
    let mut parts = phases.to_vec();
    // Start with the last axis, whose phases are adjacent.
    for (axis, &period) in periods.iter().enumerate().rev() {
        let axis = axis + 1;
        let woven = |group: &[Tensor<'g>]| {
            let mut dims = group[0].dims();
            dims.insert(axis + 1, 1);
            let rows: Vec<_> = group.iter().map(|part| part.reshape(&dims)).collect();
            dims.remove(axis + 1);
            dims[axis] *= period;
            match rows.as_slice() {
                [row] => row.reshape(&dims),
                rows => rows[0].graph().concatenate(rows, axis + 1).reshape(&dims),
            }
        };
        parts = parts.chunks(period).map(woven).collect();
    }
    parts[0]
}
