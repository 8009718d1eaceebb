//! A network prepared for one batch size.

use super::route::{Route, Routed, Way};
use super::{After, Kind, StepTime, Weights, elementwise};
use crate::buffer::Buffer;
use crate::conv::SparseConv;
use crate::convert::Conversion;
use crate::dense::{DenseConv, DepthwiseConv};
use crate::epilogue::Epilogue;
use crate::error::{Result, check_equal};
use crate::layout::Layout;
use crate::operator::Options;
use crate::parallel::ParallelFor;
use crate::pool::{Pool, Reduction};
use crate::simd::Isa;
use crate::window::Kernel;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Steps between layouts.
#[derive(Debug)]
pub(super) struct Plan {
    layouts: Vec<Layout>,
    /// The buffer of each array. A free buffer is reused only for the same layout, so that its halo stays zero.
    slots: Vec<usize>,
    /// Layout of each buffer.
    buffers: Vec<usize>,
    steps: Vec<Ready>,
    output: usize,
    isa: Isa,
    /// Buffers that no prediction uses now.
    spare: Mutex<Vec<Vec<Buffer>>>,
}

#[derive(Debug)]
struct Ready {
    from: usize,
    to: usize,
    residual: Option<usize>,
    kind: ReadyKind,
}

#[derive(Debug)]
enum ReadyKind {
    Conv {
        conv: Box<SparseConv>,
        values: Vec<f32>,
        after: After,
    },
    Dense {
        conv: Box<DenseConv>,
        after: After,
        /// Connections.
        count: usize,
    },
    Depthwise {
        conv: Box<DepthwiseConv>,
        after: After,
    },
    Pool(Box<Pool>),
    Elementwise(After),
    Conversion(Box<Conversion>),
}

impl Plan {
    pub fn new(route: Route<'_, '_>, output: usize) -> Result<Self> {
        let Route { steps, layouts } = route;
        let (slots, buffers) = slots(&layouts, &steps, output);
        let isa = Isa::detect().checked()?;
        let ready = |step: &Routed<'_, '_>| Ready::new(step, layouts[step.from], layouts[step.to], isa);
        Ok(Self {
            slots,
            buffers,
            steps: steps.iter().map(ready).collect::<Result<_>>()?,
            layouts,
            output,
            isa,
            spare: Mutex::default(),
        })
    }

    /// Inputs that are computed together.
    pub fn batch(&self) -> usize {
        self.layouts[0].batch
    }

    /// Multiply-adds per input: of the connections, and of all weights.
    pub fn multiply_adds(&self) -> [usize; 2] {
        let each = self.steps.iter().map(Ready::multiply_adds);
        each.fold([0, 0], |sum, step| [sum[0] + step[0], sum[1] + step[1]])
    }

    /// Predicts for up to [`Plan::batch`] inputs.
    pub fn run(&self, inputs: &[f32], outputs: &mut [f32], parallel: &ParallelFor<'_>) -> Result<()> {
        let mut buffers = self.take();
        let result = self.run_in(&mut buffers, inputs, outputs, parallel);
        self.spares().push(buffers);
        result
    }

    fn run_in(
        &self,
        buffers: &mut [Buffer],
        inputs: &[f32],
        outputs: &mut [f32],
        parallel: &ParallelFor<'_>,
    ) -> Result<()> {
        self.load(buffers, inputs, parallel)?;
        for step in &self.steps {
            self.step(step, buffers, parallel)?;
        }
        let (layout, result) = (&self.layouts[self.output], &buffers[self.slots[self.output]]);
        let whole = layout.batch * layout.height * layout.width * layout.channels;
        if outputs.len() == whole {
            return layout.to_nhwc(result, outputs, parallel);
        }
        let mut all = vec![0.0; whole];
        layout.to_nhwc(result, &mut all, parallel)?;
        outputs.copy_from_slice(&all[..outputs.len()]);
        Ok(())
    }

    /// Copies inputs into their buffer and fills the rest of the batch with zeros.
    fn load(&self, buffers: &mut [Buffer], inputs: &[f32], parallel: &ParallelFor<'_>) -> Result<()> {
        let layout = &self.layouts[0];
        let whole = layout.batch * layout.height * layout.width * layout.channels;
        let target = &mut buffers[self.slots[0]];
        if inputs.len() == whole {
            return layout.from_nhwc(inputs, target, parallel);
        }
        let mut filled = inputs.to_vec();
        filled.resize(whole, 0.0);
        layout.from_nhwc(&filled, target, parallel)
    }

    fn step(&self, step: &Ready, buffers: &mut [Buffer], parallel: &ParallelFor<'_>) -> Result<()> {
        let mut y = std::mem::replace(&mut buffers[self.slots[step.to]], Buffer::zeros(0));
        let x = &buffers[self.slots[step.from]];
        let residual = step.residual.map(|array| &*buffers[self.slots[array]]);
        let epilogue = step.kind.after().map_or_else(Epilogue::default, |after| Epilogue {
            scale: after.scale.as_deref(),
            shift: after.shift.as_deref(),
            residual,
            activation: after.activation,
        });
        let result = match &step.kind {
            ReadyKind::Conv { conv, values, .. } => conv.forward(values, x, &mut y, &epilogue, parallel),
            ReadyKind::Dense { conv, .. } => conv.forward(x, &mut y, &epilogue, parallel),
            ReadyKind::Depthwise { conv, .. } => conv.forward(x, &mut y, &epilogue, parallel),
            ReadyKind::Pool(pool) => pool.forward(x, &mut y, parallel),
            ReadyKind::Conversion(conversion) => conversion.run(x, &mut y, parallel),
            ReadyKind::Elementwise(_) => {
                elementwise::run(self.isa, &self.layouts[step.to], x, &mut y, &epilogue, parallel)
            }
        };
        buffers[self.slots[step.to]] = y;
        result
    }

    pub fn profile(&self, input: &[f32], parallel: &ParallelFor<'_>) -> Result<Vec<StepTime>> {
        let mut buffers = self.take();
        self.load(&mut buffers, input, parallel)?;
        let times = self.steps.iter().map(|step| {
            let start = Instant::now();
            self.step(step, &mut buffers, parallel)?;
            Ok(StepTime {
                name: step.name(&self.layouts[step.from], &self.layouts[step.to]),
                multiply_adds: step.multiply_adds()[0],
                seconds: start.elapsed().as_secs_f64(),
            })
        });
        let times = times.collect();
        self.spares().push(buffers);
        times
    }

    fn spares(&self) -> std::sync::MutexGuard<'_, Vec<Vec<Buffer>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<Buffer> {
        let spare = self.spares().pop();
        let zeros = |&array: &usize| Buffer::zeros(self.layouts[array].len);
        spare.unwrap_or_else(|| self.buffers.iter().map(zeros).collect())
    }
}

impl ReadyKind {
    fn new(step: &Routed<'_, '_>, x: Layout, y: Layout, isa: Isa) -> Result<Self> {
        let Some(kind) = step.step.map(|step| &step.kind) else {
            return Ok(Self::Conversion(Box::new(Conversion::new(x, y, isa)?)));
        };
        Ok(match kind {
            Kind::Conv { weights, after } if step.way == Way::Dense => {
                Self::dense(weights, after.clone(), [x, y], isa)?
            }
            Kind::Conv { weights, after } => Self::sparse(weights, after.clone(), [x, y])?,
            &Kind::Pool {
                reduction,
                size,
                window,
            } => Self::Pool(Box::new(Pool::new(reduction, size, window, x, y, None)?)),
            Kind::Elementwise { after } => {
                check_equal("layouts of an elementwise step", x, y)?;
                Self::Elementwise(after.clone())
            }
        })
    }

    fn sparse(weights: &Weights<'_>, mut after: After, layouts: [Layout; 2]) -> Result<Self> {
        let kernel = weights.kernel;
        let all = || (0..kernel.size() as u32).collect();
        let positions = weights
            .mask
            .as_ref()
            .map_or_else(|| Ok(all()), |m| kernel.positions(m))?;
        let options = Options::default();
        let conv = SparseConv::from_positions(kernel, weights.window, layouts, &positions, &options)?;
        let mut values = conv.gather(&weights.values)?;
        if let Some(scale) = after.finite_scale() {
            conv.scale(&mut values, &scale)?;
        }
        let conv = Box::new(conv);
        Ok(Self::Conv { conv, values, after })
    }

    fn dense(weights: &Weights<'_>, mut after: After, layouts: [Layout; 2], isa: Isa) -> Result<Self> {
        let Weights { kernel, window, .. } = *weights;
        let mut values = weights.masked();
        if let Some(scale) = after.finite_scale() {
            for filters in values.chunks_exact_mut(kernel.outputs) {
                filters
                    .iter_mut()
                    .zip(&scale)
                    .for_each(|(value, factor)| *value *= factor);
            }
        }
        if kernel.depthwise {
            let conv = Box::new(DepthwiseConv::new(kernel, window, layouts, &values, isa)?);
            return Ok(Self::Depthwise { conv, after });
        }
        let count = (weights.density() * kernel.size() as f64).round() as usize;
        let conv = Box::new(DenseConv::new(kernel, window, layouts, &values, isa)?);
        Ok(Self::Dense { conv, after, count })
    }

    fn after(&self) -> Option<&After> {
        match self {
            Self::Conv { after, .. } | Self::Dense { after, .. } | Self::Depthwise { after, .. } => Some(after),
            Self::Elementwise(after) => Some(after),
            Self::Pool(_) | Self::Conversion(_) => None,
        }
    }

    /// Kernel, output, and connections of a convolution.
    fn conv(&self) -> Option<(&Kernel, &Layout, usize)> {
        match self {
            Self::Conv { conv, .. } => Some((conv.kernel(), conv.output(), conv.connections())),
            Self::Dense { conv, count, .. } => {
                let windows = conv.windows();
                Some((&windows.kernel, &windows.y, *count))
            }
            Self::Depthwise { conv, .. } => {
                let windows = conv.windows();
                Some((&windows.kernel, &windows.y, windows.kernel.size()))
            }
            Self::Pool(_) | Self::Elementwise(_) | Self::Conversion(_) => None,
        }
    }
}

impl Ready {
    fn new(step: &Routed<'_, '_>, x: Layout, y: Layout, isa: Isa) -> Result<Self> {
        let &Routed { from, to, residual, .. } = step;
        Ok(Self {
            from,
            to,
            residual,
            kind: ReadyKind::new(step, x, y, isa)?,
        })
    }

    fn multiply_adds(&self) -> [usize; 2] {
        self.kind.conv().map_or([0, 0], |(kernel, y, connections)| {
            [connections, kernel.size()].map(|weights| weights * y.height * y.width)
        })
    }

    fn name(&self, x: &Layout, y: &Layout) -> String {
        let shapes = format!(
            "{} to {}, {}x{} to {}x{}",
            x.channels, y.channels, x.height, x.width, y.height, y.width
        );
        if let Some((kernel, ..)) = self.kind.conv() {
            let depthwise = if kernel.depthwise { "depthwise " } else { "" };
            return format!("{depthwise}{}x{} {shapes}, {:?}", kernel.rows, kernel.columns, y.order);
        }
        match &self.kind {
            ReadyKind::Pool(pool) => match pool.reduction() {
                Reduction::Max => format!("max {shapes}"),
                Reduction::Average => format!("average {shapes}"),
            },
            ReadyKind::Conversion(_) => format!("copy {shapes}, {:?}", y.order),
            ReadyKind::Elementwise(_)
            | ReadyKind::Conv { .. }
            | ReadyKind::Dense { .. }
            | ReadyKind::Depthwise { .. } => format!("elementwise {shapes}"),
        }
    }
}

/// Assigns buffers to arrays. Returns the buffer of each array, and one array of each buffer.
fn slots(layouts: &[Layout], steps: &[Routed<'_, '_>], output: usize) -> (Vec<usize>, Vec<usize>) {
    let mut slots = vec![0; layouts.len()];
    let (mut free, mut buffers) = (Vec::<usize>::new(), vec![0]);
    for (number, step) in steps.iter().enumerate() {
        let again = free.iter().rposition(|&old| layouts[old] == layouts[step.to]);
        slots[step.to] = match again {
            Some(i) => slots[free.remove(i)],
            None => {
                buffers.push(step.to);
                buffers.len() - 1
            }
        };
        let later = |array: usize| array == output || steps[number + 1..].iter().any(|step| step.reads(array));
        free.extend((0..layouts.len()).filter(|&array| step.reads(array) && !later(array)));
    }
    (slots, buffers)
}
