//! A network prepared for one batch size.

use super::{After, Kind, Step, StepTime, elementwise};
use crate::buffer::Buffer;
use crate::conv::SparseConv;
use crate::epilogue::Epilogue;
use crate::error::{Result, check_equal};
use crate::layout::Layout;
use crate::operator::Options;
use crate::parallel::ParallelFor;
use crate::pool::{Pool, Reduction};
use crate::simd::Isa;
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
    kind: ReadyKind,
}

#[derive(Debug)]
enum ReadyKind {
    Conv {
        conv: Box<SparseConv>,
        values: Vec<f32>,
        after: After,
    },
    Pool(Box<Pool>),
    Elementwise(After),
}

impl Plan {
    pub fn new(steps: &[Step<'_>], layouts: Vec<Layout>, output: usize) -> Result<Self> {
        let (slots, buffers) = slots(&layouts, steps, output);
        let ready = |step: &Step<'_>| Ready::new(step, layouts[step.from], layouts[step.to]);
        Ok(Self {
            slots,
            buffers,
            steps: steps.iter().map(ready).collect::<Result<_>>()?,
            layouts,
            output,
            isa: Isa::detect().checked()?,
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
        let epilogue = |after: &'_ After| -> Epilogue<'_> {
            Epilogue {
                scale: None,
                shift: None,
                residual: after.residual.map(|residual| &*buffers[self.slots[residual.0]]),
                activation: after.activation,
            }
        };
        let result = match &step.kind {
            ReadyKind::Conv { conv, values, after } => {
                let epilogue = Epilogue {
                    scale: after.scale.as_deref(),
                    shift: after.shift.as_deref(),
                    ..epilogue(after)
                };
                conv.forward(values, x, &mut y, &epilogue, parallel)
            }
            ReadyKind::Pool(pool) => pool.forward(x, &mut y, parallel),
            ReadyKind::Elementwise(after) => {
                let epilogue = Epilogue {
                    scale: after.scale.as_deref(),
                    shift: after.shift.as_deref(),
                    ..epilogue(after)
                };
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

impl Ready {
    fn new(step: &Step<'_>, x: Layout, y: Layout) -> Result<Self> {
        let kind = match &step.kind {
            Kind::Conv { weights, after } => {
                let kernel = weights.kernel;
                let all = || (0..kernel.size() as u32).collect();
                let positions = weights
                    .mask
                    .as_ref()
                    .map_or_else(|| Ok(all()), |m| kernel.positions(m))?;
                let options = Options::default();
                let conv = SparseConv::from_positions(kernel, weights.window, [x, y], &positions, &options)?;
                let (mut values, mut after) = (conv.gather(&weights.values)?, after.clone());
                // An infinite scale is not folded: 0 × inf is NaN, also for channels without connections.
                let finite = |scale: &Vec<f32>| scale.iter().all(|factor| factor.is_finite());
                if let Some(scale) = after.scale.take_if(|scale| finite(scale)) {
                    conv.scale(&mut values, &scale)?;
                }
                let conv = Box::new(conv);
                ReadyKind::Conv { conv, values, after }
            }
            &Kind::Pool {
                reduction,
                size,
                window,
            } => ReadyKind::Pool(Box::new(Pool::new(reduction, size, window, x, y, None)?)),
            Kind::Elementwise { after } => {
                check_equal("layouts of an elementwise step", x, y)?;
                ReadyKind::Elementwise(after.clone())
            }
        };
        let &Step { from, to, .. } = step;
        Ok(Self { from, to, kind })
    }

    fn multiply_adds(&self) -> [usize; 2] {
        match &self.kind {
            ReadyKind::Conv { conv, .. } => {
                let positions = conv.output().height * conv.output().width;
                [conv.connections(), conv.kernel().size()].map(|weights| weights * positions)
            }
            ReadyKind::Pool(_) | ReadyKind::Elementwise(_) => [0, 0],
        }
    }

    fn name(&self, x: &Layout, y: &Layout) -> String {
        let shapes = format!(
            "{} to {}, {}x{} to {}x{}",
            x.channels, y.channels, x.height, x.width, y.height, y.width
        );
        match &self.kind {
            ReadyKind::Conv { conv, .. } => {
                let kernel = conv.kernel();
                let depthwise = if kernel.depthwise { "depthwise " } else { "" };
                format!("{depthwise}{}x{} {shapes}", kernel.rows, kernel.columns)
            }
            ReadyKind::Pool(pool) => match pool.reduction() {
                Reduction::Max => format!("max {shapes}"),
                Reduction::Average => format!("average {shapes}"),
            },
            ReadyKind::Elementwise(_) => format!("elementwise {shapes}"),
        }
    }
}

/// Assigns buffers to arrays. Returns the buffer of each array, and one array of each buffer.
fn slots(layouts: &[Layout], steps: &[Step<'_>], output: usize) -> (Vec<usize>, Vec<usize>) {
    let mut slots = vec![0; layouts.len()];
    let (mut free, mut buffers) = (Vec::<usize>::new(), vec![0]);
    for (number, step) in steps.iter().enumerate() {
        let again = free.iter().position(|&old| layouts[old] == layouts[step.to]);
        slots[step.to] = match again {
            Some(i) => slots[free.swap_remove(i)],
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
