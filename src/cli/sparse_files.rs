//! Conversion of checkpoints for `compact` and `convert`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tempfile::NamedTempFile;

use crate::checkpoint::sparse::{self, Arrays, Format};
use crate::checkpoint::tf::{self, Bundle, Role};
use crate::checkpoint::{self, Checkpoint, atomic};
use crate::cli::error::{Error, Result, Usage};
use crate::train::fold::fold;
use crate::train::loaded_network::infer_network;
use crate::train::state::inference_specs;

/// Options of a conversion.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conversion {
    /// Storage of masked layers.
    pub format: Format,
    /// Fold batch normalisation into the preceding kernels.
    pub fold: bool,
    /// Drop arrays that only training needs, also from complete checkpoints.
    pub strip: bool,
}

impl Conversion {
    /// Whether the conversion changes arrays, not only the container.
    pub fn needs_arrays(self) -> bool {
        self.fold || self.format != Format::Complete
    }
}

/// Summary of a written file.
#[derive(Serialize)]
pub struct Report {
    input: PathBuf,
    output: PathBuf,
    format: &'static str,
    arrays: usize,
    /// Bytes of the arrays, without the header.
    bytes: u64,
    /// Bytes of the file.
    file_bytes: u64,
    /// Number of masked layers, and their connections.
    masked_layers: usize,
    connections: usize,
    /// Number of batch normalisations folded into kernels.
    folded: usize,
    /// Size in bytes by the published count, if batch normalisation was folded.
    #[serde(skip_serializing_if = "Option::is_none")]
    published_bytes: Option<f64>,
    /// Names of the dropped arrays.
    stripped: Vec<String>,
}

/// Converts a checkpoint in safetensors format.
///
/// # Errors
/// A checkpoint that cannot be read; an unknown network, if folding; or an output that cannot be written.
pub fn convert(input: &Path, output: &Path, conversion: Conversion) -> Result<Report> {
    let Conversion { format, fold, strip } = conversion;
    refuse_input_as_output(input, output)?;
    let mut checkpoint = checkpoint::torch::recognised(checkpoint::load(input)?)?;
    if let Some((name, found)) = checkpoint.unread.iter().next() {
        let (path, name, found) = (input.into(), name.clone(), found.clone());
        return Err(checkpoint::Error::ElementType { path, name, found }.into());
    }
    let metadata = checkpoint.metadata.clone();
    let names: Vec<String> = checkpoint.tensors.keys().cloned().collect();
    if strip || format != Format::Complete {
        checkpoint.use_averages();
    }
    let mut published_bytes = None;
    let (arrays, folded) = if fold {
        let (arrays, folded, bytes) = folded(checkpoint)?;
        published_bytes = Some(bytes);
        (arrays, folded.len())
    } else {
        let mut arrays = checkpoint.tensors;
        arrays.retain(|name, _| !((strip || format != Format::Complete) && Role::of(name).is_training()));
        (arrays, 0)
    };
    let stripped = names.into_iter().filter(|name| !arrays.contains_key(name)).collect();
    let written = sparse::save(output, arrays, metadata.as_ref(), format)?;
    Ok(Report {
        input: input.into(),
        output: output.into(),
        format: format.name(),
        arrays: written.arrays,
        bytes: written.bytes,
        file_bytes: fs::metadata(output)?.len(),
        masked_layers: written.layers,
        connections: written.connections,
        folded,
        published_bytes,
        stripped,
    })
}

/// Refuses an output that would replace its own input.
///
/// # Errors
/// [`Usage`].
pub(super) fn refuse_input_as_output(input: &Path, output: &Path) -> Result<(), Usage> {
    let output_name = output.display();
    match is_same_file(input, output) {
        true => Err(Usage(format!(
            "{output_name} is the checkpoint itself, expected another file"
        ))),
        false => Ok(()),
    }
}

/// Returns the arrays that inference needs, the folded normalisations, and the published size in bytes.
fn folded(checkpoint: Checkpoint) -> Result<(Arrays, Vec<String>, f64)> {
    let path = checkpoint.path.clone();
    let network = infer_network(checkpoint, None, None)?;
    let needs = network.model.declaration();
    let published_bytes = network.cost().sparse.total.published_bits / 8.0;
    let names = inference_specs(&needs).into_iter().map(|(name, _)| name);
    let mut arrays: Arrays = names.zip(network.weights).collect();
    let folded =
        fold(&needs.layers, &mut arrays).map_err(|reason| Error::failure(format!("{}: {reason}", path.display())))?;
    Ok((arrays, folded, published_bytes))
}

/// Returns the safetensors file of an input: the file, or the newest of a run folder. `None` for a TensorFlow
/// checkpoint.
pub fn safetensors(input: &Path) -> Option<PathBuf> {
    let path = checkpoint::resolve(input).ok().filter(|path| path.is_file())?;
    matches!(tf::resolve(&path), Err(tf::Error::NoIndex { .. })).then_some(path)
}

/// Converts a TensorFlow checkpoint through a temporary safetensors file.
///
/// # Errors
/// As [`convert`].
pub fn convert_tensorflow(prefix: &Path, output: &Path, conversion: Conversion) -> Result<Report> {
    let bundle = Bundle::open(prefix)?;
    let numbers = bundle
        .variables()
        .iter()
        .filter(|variable| variable.dtype != tf::DataType::STRING);
    let file = temporary(output)?;
    tf::to_safetensors(&bundle, &numbers.collect::<Vec<_>>(), file.path())?;
    let report = convert(file.path(), output, conversion)?;
    Ok(Report {
        input: prefix.into(),
        ..report
    })
}

/// Makes a complete temporary copy of a sparse file; `None` if the file is complete already.
///
/// # Errors
/// A file that cannot be read or written.
pub fn complete(input: &Path, output: &Path) -> Result<Option<NamedTempFile>> {
    if !sparse::is_sparse(input)? {
        return Ok(None);
    }
    let file = temporary(output)?;
    convert(input, file.path(), Conversion::default())?;
    Ok(Some(file))
}

/// Creates a temporary file in the folder of an output.
fn temporary(output: &Path) -> Result<NamedTempFile> {
    let folder = atomic::folder(output);
    let file = tempfile::Builder::new().suffix(atomic::TEMPORARY).tempfile_in(folder);
    file.map_err(|error| Error::failure(format!("{}: not saved: {error}", output.display())))
}

/// Whether both paths are the same existing file.
pub fn is_same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

impl Report {
    /// Prints the summary.
    ///
    /// # Errors
    /// As [`print`](super::print()).
    pub fn print(&self, json: bool) -> Result<()> {
        if json {
            return super::print_json(self);
        }
        let mut text = format!(
            "{} arrays, {} bytes, in {} ({})",
            self.arrays,
            self.bytes,
            self.output.display(),
            self.format
        );
        if self.masked_layers > 0 {
            text += &format!(
                "; {} masked layers with {} connections",
                self.masked_layers, self.connections
            );
        }
        if let Some(published) = self.published_bytes {
            let folded = self.folded;
            text += &format!(
                "; {folded} batch normalisations folded; published size {:.3} MB",
                published / 1e6
            );
        }
        if !self.stripped.is_empty() {
            text += &format!("; {} arrays of training left out", self.stripped.len());
        }
        text.push('\n');
        super::print(&text)
    }
}
