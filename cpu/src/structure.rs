//! The connections of a sparse operator as flat index arrays.

use crate::error::{Result, check_equal, check_length};

/// How an operator's channels are grouped, so that what is used together stays in the first-level cache.
///
/// It decides the order of the condensed values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// Input channels of a block.
    pub inputs: usize,
    /// Output channels of a group.
    pub outputs: usize,
}

/// Sizes of a structure: they depend on shapes and the number of connections only, never on which connections there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Sub-images of the output that are computed one after the other: one, or one per phase of a transposed stride.
    pub phases: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub blocking: Blocking,
}

impl Shape {
    pub fn blocks(&self) -> usize {
        self.inputs.div_ceil(self.blocking.inputs)
    }

    pub fn groups(&self) -> usize {
        self.outputs.div_ceil(self.blocking.outputs)
    }

    pub fn segments(&self) -> usize {
        self.phases * self.blocks() * self.outputs
    }

    /// Output channels of a group.
    pub fn group(&self, group: usize) -> std::ops::Range<usize> {
        let start = group * self.blocking.outputs;
        start..(start + self.blocking.outputs).min(self.outputs)
    }

    /// The first segment of a group: its output channels, block by block.
    pub fn first_segment(&self, phase: usize, group: usize) -> usize {
        let before = phase * self.outputs + group * self.blocking.outputs;
        if group == self.groups() {
            return (phase + 1) * self.outputs * self.blocks();
        }
        before * self.blocks()
    }
}

/// Where a connection belongs.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub phase: usize,
    pub input: usize,
    pub output: usize,
    /// Byte offset of the input element from the position that the kernel is at.
    pub offset: i32,
}

/// The connections of an operator in the order in which its kernels use them.
///
/// A *segment* is an output channel with its connections from one block of input channels. Segments lie by phase, group of
/// output channels and block; within those by their number of connections, so that loops over connections end where the
/// processor expects it. All lengths depend on shapes and the number of connections only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Structure {
    /// For each connection, its position in the flat dense kernel.
    pub index: Vec<u32>,
    /// For each connection, its rank in the forward structure, whose order values have.
    pub source: Vec<u32>,
    /// For each connection, the byte offset of what it multiplies.
    pub offsets: Vec<i32>,
    /// For each segment, its output channel.
    pub outputs: Vec<u32>,
    /// For each segment, its connections.
    pub counts: Vec<u32>,
    /// For each phase and group, its first connection; then the number of connections.
    pub starts: Vec<u32>,
    /// Whether all segments of a group and block read the same: of dense kernels. Then several are computed at once.
    pub(crate) uniform: bool,
}

impl Structure {
    /// Sorts connections into segments. `source` gives the rank of each connection of `positions`; without it the order of this
    /// structure becomes the order of values.
    ///
    /// Returns also the place of each connection of `positions` in the structure.
    pub(crate) fn build(
        shape: &Shape,
        positions: &[u32],
        source: Option<&[u32]>,
        place: impl Fn(u32) -> Place,
    ) -> (Self, Vec<u32>) {
        let places: Vec<Place> = positions.iter().map(|&position| place(position)).collect();
        let blocks = shape.blocks();
        let cell = |p: &Place| (p.phase * blocks + p.input / shape.blocking.inputs) * shape.outputs + p.output;
        // Per phase, block and output channel: first the number of connections, then the next free slot.
        let mut cells = vec![0u32; shape.segments()];
        for p in &places {
            cells[cell(p)] += 1;
        }
        let mut built = Self {
            index: vec![0; positions.len()],
            source: vec![0; positions.len()],
            offsets: vec![0; positions.len()],
            outputs: Vec::with_capacity(shape.segments()),
            counts: Vec::with_capacity(shape.segments()),
            starts: Vec::with_capacity(shape.phases * shape.groups() + 1),
            uniform: false,
        };
        let mut next = 0;
        for phase in 0..shape.phases {
            for group in 0..shape.groups() {
                built.starts.push(next);
                for block in 0..blocks {
                    let row = &mut cells[(phase * blocks + block) * shape.outputs..][..shape.outputs];
                    let first = built.outputs.len();
                    built.outputs.extend(shape.group(group).map(|output| output as u32));
                    built.outputs[first..].sort_by_key(|&output| row[output as usize]);
                    for i in first..built.outputs.len() {
                        let count = std::mem::replace(&mut row[built.outputs[i] as usize], next);
                        built.counts.push(count);
                        next += count;
                    }
                }
            }
        }
        built.starts.push(next);
        let mut ranks = Vec::with_capacity(positions.len());
        for (rank, (&position, p)) in positions.iter().zip(&places).enumerate() {
            let slot = &mut cells[cell(p)];
            let k = *slot as usize;
            *slot += 1;
            built.index[k] = position;
            built.source[k] = source.map_or(k as u32, |source| source[rank]);
            built.offsets[k] = p.offset;
            ranks.push(k as u32);
        }
        built.uniform = built.is_uniform(shape);
        (built, ranks)
    }

    /// Whether each segment reads the same as the one before, within groups and blocks.
    fn is_uniform(&self, shape: &Shape) -> bool {
        let mut next = 0;
        for phase in 0..shape.phases {
            for group in 0..shape.groups() {
                let size = shape.group(group).len();
                let counts = &self.counts[shape.first_segment(phase, group)..shape.first_segment(phase, group + 1)];
                for block in counts.chunks(size) {
                    let count = block[0] as usize;
                    let all = &self.offsets[next..next + block.iter().sum::<u32>() as usize];
                    let same = |i: usize| block[i] as usize == count && all[i * count..][..count] == all[..count];
                    if !(1..size).all(same) {
                        return false;
                    }
                    next += all.len();
                }
            }
        }
        true
    }

    /// Connections.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are no connections.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Takes the values of the connections from a dense kernel.
    ///
    /// # Errors
    /// If `values` has another length, or the kernel is too short.
    pub fn gather(&self, dense: &[f32], values: &mut [f32]) -> Result<()> {
        check_length("values", values.len(), self.len())?;
        check_length("dense kernel", dense.len(), dense.len().max(self.needed()))?;
        for (value, &i) in values.iter_mut().zip(&self.index) {
            *value = dense[i as usize];
        }
        Ok(())
    }

    /// Puts the values of the connections into a dense kernel. Other elements stay.
    ///
    /// # Errors
    /// As [`Structure::gather`].
    pub fn scatter(&self, values: &[f32], dense: &mut [f32]) -> Result<()> {
        check_length("values", values.len(), self.len())?;
        check_length("dense kernel", dense.len(), dense.len().max(self.needed()))?;
        for (&value, &i) in values.iter().zip(&self.index) {
            dense[i as usize] = value;
        }
        Ok(())
    }

    fn needed(&self) -> usize {
        self.index.iter().max().map_or(0, |&i| i as usize + 1)
    }

    /// Checks that kernels may follow this structure: each output channel once per block, counts that add up, offsets within
    /// `reach` (least and greatest byte offset allowed, per phase).
    pub(crate) fn check(&self, shape: &Shape, reach: &[(i64, i64)]) -> Result<()> {
        check_length("segments' outputs", self.outputs.len(), shape.segments())?;
        check_length("segments' counts", self.counts.len(), shape.segments())?;
        check_length("groups' starts", self.starts.len(), shape.phases * shape.groups() + 1)?;
        check_length("offsets", self.offsets.len(), self.len())?;
        check_length("sources", self.source.len(), self.len())?;
        check_equal("last start", self.starts.last().copied(), Some(self.len() as u32))?;
        let mut seen = vec![0u32; shape.outputs];
        let mut next = 0u64;
        for phase in 0..shape.phases {
            let begin = next as usize;
            for group in 0..shape.groups() {
                let start = u64::from(self.starts[phase * shape.groups() + group]);
                check_equal("start of a group", start, next)?;
                let segments = shape.first_segment(phase, group)..shape.first_segment(phase, group + 1);
                for (i, segment) in segments.enumerate() {
                    let block = (phase * shape.blocks() + i / shape.group(group).len()) as u32 + 1;
                    let output = self.outputs[segment] as usize;
                    check_equal("group of an output", shape.group(group).contains(&output), true)?;
                    check_equal("an output twice in a block", seen[output] < block, true)?;
                    seen[output] = block;
                    next += u64::from(self.counts[segment]);
                }
            }
            check_equal("connections of a phase fit", next <= self.len() as u64, true)?;
            let offsets = &self.offsets[begin..next as usize];
            let least = offsets.iter().min().map_or(0, |&o| i64::from(o));
            let greatest = offsets.iter().max().map_or(0, |&o| i64::from(o));
            let (low, high) = reach[phase];
            check_equal(
                "offsets within the input",
                least >= low && greatest <= high || offsets.is_empty(),
                true,
            )?;
        }
        check_equal("connections of all segments", next, self.len() as u64)
    }
}
