//! Named arrays whose first axis is the example, from safetensors, NumPy (`.npz`, `.npy`) and token files.
//!
//! Rows are read from the files when they are needed, so a set may be larger than memory. They are not mapped: a file that is
//! truncated meanwhile would end the process by a signal. Only compressed members of an `.npz` are unpacked into memory.

mod convert;
mod error;
mod files;
mod npy;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hlo::{Literal, Shape};

use super::Split;
pub use convert::Stored;
pub use error::Error;
pub use files::{Found, Part, exists, found, has_arrays};

/// Results of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// An array that a model takes.
#[derive(Clone, Debug)]
pub struct Input {
    /// Name.
    pub name: String,
    /// Type and dimensions of one example.
    pub example: Shape,
}

/// The examples of a split.
#[derive(Clone, Debug)]
pub struct Arrays {
    columns: Vec<Column>,
    /// Rows of the files that are examples.
    rows: Rows,
    /// Where the examples come from, if it was not given.
    pub note: Option<&'static str>,
}

#[derive(Clone, Debug)]
enum Rows {
    /// The first ones.
    First(usize),
    /// These.
    Chosen(Arc<Vec<usize>>),
}

/// Bytes of an array.
#[derive(Clone, Debug)]
enum Source {
    /// In a file, from an offset.
    File { file: Arc<File>, offset: u64 },
    /// Unpacked.
    Memory(Arc<Vec<u8>>),
}

#[derive(Clone, Debug)]
struct Column {
    path: PathBuf,
    name: String,
    stored: Stored,
    example: Shape,
    /// Elements of the file from one example to the next.
    step: usize,
    /// Elements before the first example.
    shift: usize,
    source: Source,
}

impl Arrays {
    /// Opens the examples of `split` in a file or folder. Without a part for evaluation, those are the training examples.
    ///
    /// # Errors
    /// Files that cannot be read, or arrays that are missing or do not fit the inputs.
    pub fn open(path: &Path, split: Split, inputs: &[Input]) -> Result<Self> {
        let found = found(path)?;
        let of = |part: Option<Part>| -> Vec<&Found> { found.iter().filter(|array| array.part == part).collect() };
        let (train, test) = (of(Some(Part::Train)), of(Some(Part::Test)));
        let train = if train.is_empty() { of(None) } else { train };
        match split {
            Split::Train => Arrays::matched(path, &train, inputs),
            Split::Test if !test.is_empty() => Arrays::matched(path, &test, inputs),
            Split::Test => Ok(Arrays {
                note: Some("the data has no arrays for evaluation (test/NAME): the training examples are evaluated"),
                ..Arrays::matched(path, &train, inputs)?
            }),
        }
    }

    /// Finds each input among the arrays.
    fn matched(path: &Path, arrays: &[&Found], inputs: &[Input]) -> Result<Self> {
        let mut columns = vec![];
        let mut examples: Option<(usize, &str)> = None;
        for input in inputs {
            let found = pick(path, arrays, input, inputs.len())?;
            let (column, rows) = Column::new(found, input, inputs.len())?;
            let (expected, first) = *examples.get_or_insert((rows, input.name.as_str()));
            if rows != expected {
                return Err(Error::Lengths {
                    path: path.into(),
                    names: [first.to_owned(), input.name.clone()],
                    found: [expected, rows],
                });
            }
            columns.push(column);
        }
        let examples = examples.map_or(0, |(rows, _)| rows);
        if examples == 0 || i32::try_from(examples).is_err() {
            return Err(Error::Count {
                path: path.into(),
                found: examples,
            });
        }
        Ok(Arrays {
            columns,
            rows: Rows::First(examples),
            note: None,
        })
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        match &self.rows {
            Rows::First(examples) => *examples,
            Rows::Chosen(rows) => rows.len(),
        }
    }

    /// Whether there are no examples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Type and dimensions of an example of the first input.
    pub fn example(&self) -> Shape {
        let first = self.columns.first().map(|column| column.example.clone());
        first.unwrap_or(Shape::scalar(hlo::DType::F32))
    }

    /// The examples with these indices.
    pub(super) fn chosen(&self, indices: &[usize]) -> Self {
        let rows = indices.iter().map(|&index| self.row(index)).collect();
        Arrays {
            rows: Rows::Chosen(Arc::new(rows)),
            ..self.clone()
        }
    }

    /// Row of an example in the files.
    fn row(&self, index: usize) -> usize {
        match &self.rows {
            Rows::First(_) => index,
            Rows::Chosen(rows) => rows.get(index).copied().unwrap_or_default(),
        }
    }

    /// The examples with these indices, padded with zeros to `rows`: an array `[rows, ..]` for each input.
    ///
    /// # Errors
    /// A file that cannot be read, or a value that its input cannot hold.
    pub fn gather(&self, indices: &[i32], rows: usize) -> Result<Vec<Literal>> {
        let places: Vec<usize> = indices.iter().map(|&index| self.row(index.max(0) as usize)).collect();
        self.columns.iter().map(|column| column.gather(&places, rows)).collect()
    }

    /// Passes names, types and rows to `add`.
    pub(super) fn describe(&self, mut add: impl FnMut(&[u8])) {
        for column in &self.columns {
            let Column {
                name,
                stored,
                example,
                step,
                shift,
                ..
            } = column;
            add(format!("{name} {stored:?} {example} {step} {shift} {}\n", self.len()).as_bytes());
        }
        if let Rows::Chosen(rows) = &self.rows {
            rows.iter().for_each(|row| add(&row.to_le_bytes()));
        }
    }
}

/// The array for an input: that of its name, else the only one, else the one of tokens.
fn pick<'a>(path: &Path, arrays: &[&'a Found], input: &Input, inputs: usize) -> Result<&'a Found> {
    let named = |name: &str| arrays.iter().find(|array| array.name == name).copied();
    let only = || match arrays {
        &[only] if inputs == 1 || only.is_tokens_for(input) => Some(only),
        _ => None,
    };
    let tokens = || named("tokens").filter(|array| array.is_tokens_for(input));
    let picked = named(&input.name).or_else(only).or_else(tokens);
    picked.ok_or_else(|| Error::Missing {
        path: path.into(),
        name: input.name.clone(),
        found: arrays.iter().map(|array| array.name.clone()).collect(),
    })
}

/// Names of inputs that are the other inputs shifted by one token.
const TARGETS: [&str; 5] = ["target", "targets", "label", "labels", "y"];

impl Column {
    /// The column of an input, and its number of examples.
    fn new(found: &Found, input: &Input, inputs: usize) -> Result<(Self, usize)> {
        let dims = &input.example.dims;
        let refused = || Error::Shape {
            path: found.path.clone(),
            name: found.name.clone(),
            found: format!("{}{:?}", found.stored.name(), found.dims),
            expected: format!("{}, examples first: {:?} each", input.example.dtype, dims),
        };
        if !found.stored.converts_to(input.example.dtype) {
            return Err(refused());
        }
        let elements: usize = dims.iter().product();
        let whole = found
            .dims
            .first()
            .copied()
            .filter(|_| found.dims.get(1..) == Some(&dims[..]));
        let (rows, shift) = match whole {
            Some(rows) => (rows, 0),
            None if found.is_tokens_for(input) && elements > 0 => {
                let last = input.name.rsplit('/').next().unwrap_or_default();
                let (shifted, pair) = (TARGETS.contains(&last), inputs > 1);
                // All inputs have as many windows as the shifted ones.
                let tokens = found.dims[0].saturating_sub(usize::from(pair));
                (tokens / elements, usize::from(pair && shifted))
            }
            None => return Err(refused()),
        };
        let column = Column {
            path: found.path.clone(),
            name: found.name.clone(),
            stored: found.stored,
            example: input.example.clone(),
            step: elements,
            shift,
            source: found.source.clone(),
        };
        Ok((column, rows))
    }

    fn gather(&self, places: &[usize], rows: usize) -> Result<Literal> {
        let width = self.stored.bytes();
        let row = self.step * width;
        let to = self.example.dtype;
        let mut bytes = Vec::with_capacity(rows * self.step * to.size());
        let mut buffer = vec![0; row];
        for &example in places {
            let at = ((self.shift + example * self.step) * width) as u64;
            self.read(&mut buffer, at)?;
            self.stored
                .convert(&buffer, to, &mut bytes)
                .map_err(|value| Error::Value {
                    path: self.path.clone(),
                    name: self.name.clone(),
                    example,
                    value,
                    expected: to.to_string(),
                })?;
        }
        let shape = Shape::new(to, [&[rows], &self.example.dims[..]].concat());
        bytes.resize(shape.bytes(), 0);
        Literal::from_bytes(shape, bytes).ok_or(Error::Batch)
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> Result<()> {
        let io = |source| Error::Io {
            path: self.path.clone(),
            source,
        };
        match &self.source {
            Source::File { file, offset } => file.read_exact_at(buffer, offset + at).map_err(io),
            Source::Memory(bytes) => {
                let at = at as usize;
                let range = bytes.get(at..at + buffer.len());
                let range = range.ok_or_else(|| io(std::io::ErrorKind::UnexpectedEof.into()))?;
                buffer.copy_from_slice(range);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
