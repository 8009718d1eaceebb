//! `rigl-xla convert`: converts checkpoints between formats.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::convert_torch::{self, To};
use super::sparse_files::{self, Conversion};
use super::table_args::TableArgs;
use crate::checkpoint;
use crate::checkpoint::sparse::Format;
use crate::checkpoint::tf::{self, Array, Bundle, DataType, Role, Variable};
use crate::cli::error::{Result, Usage};
use crate::report::note;
use crate::report::table::{Style, Table};

/// Arguments of `convert`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// TensorFlow checkpoint: a prefix such as model.ckpt-1000, or a folder (its newest); or a safetensors file,
    /// complete or bitmask, of torchvision or timm (ResNet, MobileNet-v2, VGG), or a run folder
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// Output safetensors file; with --to-tf the prefix of the checkpoint
    #[arg(value_name = "OUT", required_unless_present = "list")]
    output: Option<PathBuf>,
    /// Print name, type, shape, bytes and role of each variable; convert only if OUT is given
    #[arg(long)]
    list: bool,
    /// Storage of masked layers: complete; bitmask, one bit per weight and the values of connections; or csr, for SciPy
    /// and PyTorch (docs/formats.md). The last two drop what only training needs [default: complete]
    #[arg(long, value_name = "FORMAT", conflicts_with = "to_tf")]
    format: Option<Format>,
    /// Fold batch normalisation into the preceding kernels, for inference; with --format bitmask the published size
    #[arg(long, conflicts_with = "to_tf")]
    fold_batch_norm: bool,
    /// Drop what only training needs: optimizer slots, averages, thresholds, counters
    #[arg(long)]
    strip_training: bool,
    /// Convert safetensors to a TensorFlow checkpoint that the original restores: masks become float32, averages of
    /// gradients get the names of its graph, thresholds of 0 are added, and masks of ones for networks that it always
    /// masks
    #[arg(long, conflicts_with = "list")]
    to_tf: bool,
    /// Write the state dict of torchvision's or timm's network, masks applied
    #[arg(long, value_name = "PROGRAM", conflicts_with_all = ["to_tf", "list", "format", "fold_batch_norm", "strip_training"])]
    to: Option<To>,
    /// Keep BOOL masks as BOOL
    #[arg(long, requires = "to_tf")]
    bool_masks: bool,
    /// Replace the output if it exists
    #[arg(long)]
    overwrite: bool,
    /// Format of the table of --list
    #[command(flatten)]
    table: TableArgs,
}

/// JSON output of `convert`.
#[derive(Serialize)]
struct Report {
    #[serde(serialize_with = "crate::report::path")]
    input: PathBuf,
    #[serde(serialize_with = "crate::report::path_or_none")]
    output: Option<PathBuf>,
    /// Number of arrays written, and their bytes.
    arrays: usize,
    bytes: u64,
    /// Variables skipped because they are strings, and those dropped because only training needs them.
    skipped: Vec<String>,
    stripped: Vec<String>,
    /// Variables of the original that the file lacked, with `--to-tf`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    added: Vec<String>,
    /// Every variable, with `--list`.
    #[serde(skip_serializing_if = "Option::is_none")]
    variables: Option<Vec<Listed>>,
}

/// A variable of the checkpoint.
#[derive(Serialize)]
struct Listed {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    bytes: u64,
    role: Role,
    /// Number of slices; above 1 if partitioned.
    slices: usize,
}

/// Runs `convert`.
///
/// # Errors
/// A checkpoint that cannot be read or has types that the other format lacks, or an output that cannot be written.
pub fn run(args: Args, json: bool) -> Result<()> {
    let style = args.table.style(json)?;
    if args.to_tf {
        return to_tf(&args, json);
    }
    if let Some(to) = args.to {
        let output = args.output()?;
        super::refuse_existing(output, output, args.overwrite)?;
        return convert_torch::run(&args.input, output, to, json);
    }
    if let Some(input) = sparse_files::safetensors(&args.input) {
        return from_safetensors(&args, &input, json);
    }
    let prefix = tf::resolve(&args.input)?;
    if args.conversion().needs_arrays() {
        let output = args.output()?;
        super::refuse_existing(output, output, args.overwrite)?;
        return sparse_files::convert_tensorflow(&prefix, output, args.conversion())?.print(json);
    }
    let bundle = Bundle::open(&prefix)?;
    let (strings, others): (Vec<&Variable>, Vec<&Variable>) = bundle
        .variables()
        .iter()
        .partition(|variable| variable.dtype == DataType::STRING);
    let (stripped, kept): (Vec<&Variable>, Vec<&Variable>) = others
        .into_iter()
        .partition(|variable| args.strip_training && Role::of(&variable.name).is_training());
    let report = Report {
        input: prefix.clone(),
        output: args.output.clone(),
        arrays: kept.len(),
        bytes: kept.iter().map(|variable| variable.bytes()).sum(),
        skipped: names(&strings),
        stripped: names(&stripped),
        added: vec![],
        variables: args.list.then(|| bundle.variables().iter().map(Listed::new).collect()),
    };
    if let Some(output) = &args.output {
        refuse_input_as_output(&bundle, output)?;
        super::refuse_existing(output, output, args.overwrite)?;
        for name in &report.skipped {
            note!("note: '{name}' holds strings, which safetensors cannot: left out");
        }
        tf::to_safetensors(&bundle, &kept, output)?;
    }
    report.print(json, style)
}

/// Converts a safetensors file of any format.
fn from_safetensors(args: &Args, input: &Path, json: bool) -> Result<()> {
    if args.list {
        let input = input.display();
        return Err(Usage(format!(
            "--list: {input} is not a TensorFlow checkpoint, whose variables it lists"
        ))
        .into());
    }
    let output = args.output()?;
    sparse_files::refuse_input_as_output(input, output)?;
    super::refuse_existing(output, output, args.overwrite)?;
    sparse_files::convert(input, output, args.conversion())?.print(json)
}

impl Args {
    fn output(&self) -> Result<&Path, Usage> {
        let output = self.output.as_deref();
        output.ok_or_else(|| Usage("no output given, expected OUT after IN".into()))
    }

    fn conversion(&self) -> Conversion {
        Conversion {
            format: self.format.unwrap_or_default(),
            fold: self.fold_batch_norm,
            strip: self.strip_training,
        }
    }
}

/// Converts to a TensorFlow checkpoint.
fn to_tf(args: &Args, json: bool) -> Result<()> {
    let Some(output) = &args.output else {
        return Err(Usage("--to-tf: no prefix to write".into()).into());
    };
    if output.is_dir() || output.file_name().is_none() {
        let output = output.display();
        return Err(Usage(format!(
            "--to-tf: {output} is a folder, expected a prefix, as {output}/model.ckpt-1000"
        ))
        .into());
    }
    super::refuse_existing(output, &tf::index_path(output), args.overwrite)?;
    let input = checkpoint::resolve(&args.input)?;
    let mut stripped = Vec::new();
    let complete = sparse_files::complete(&input, output)?;
    let source = complete.as_ref().map_or(&*input, |file| file.path());
    let written = tf::from_safetensors(source, output, !args.bool_masks, |name| {
        let strip = args.strip_training && Role::of(name).is_training();
        stripped.extend(strip.then(|| name.to_owned()));
        !strip
    })?;
    tf::write_state(output)?;
    if written.widened > 0 {
        note!(
            "note: {} masks written as float32, as the original has them; --bool-masks keeps them bool",
            written.widened
        );
    }
    if !written.added.is_empty() {
        let added = written.added.len();
        note!(
            "note: {added} variables added that the original has: thresholds, and masks of ones where there were none"
        );
    }
    Report {
        input,
        output: Some(output.clone()),
        arrays: written.arrays.len(),
        bytes: written.arrays.iter().map(Array::bytes).sum(),
        skipped: vec![],
        stripped,
        added: written.added,
        variables: None,
    }
    .print(json, Style::Text)
}

fn names(variables: &[&Variable]) -> Vec<String> {
    variables.iter().map(|variable| variable.name.clone()).collect()
}

/// Refuses an output that is one of the bundle's own files.
fn refuse_input_as_output(bundle: &Bundle, output: &Path) -> Result<(), Usage> {
    let real = |path: &Path| fs::canonicalize(path).ok();
    let ours = real(output);
    if ours.is_some() && bundle.files().iter().any(|file| real(file) == ours) {
        let output = output.display();
        return Err(Usage(format!(
            "{output} is a file of the checkpoint itself, expected another"
        )));
    }
    Ok(())
}

impl Listed {
    fn new(variable: &Variable) -> Self {
        Listed {
            name: variable.name.clone(),
            dtype: variable.dtype.to_string(),
            shape: variable.dims.clone(),
            bytes: variable.bytes(),
            role: Role::of(&variable.name),
            slices: variable.slices(),
        }
    }
}

impl Report {
    fn print(&self, json: bool, style: Style) -> Result<()> {
        if json {
            return super::print_json(self);
        }
        let mut text = String::new();
        if let Some(variables) = &self.variables {
            let mut table = Table::new(&["name", "dtype", "shape", "bytes", "role", "slices"]);
            for v in variables {
                let shape = v.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
                table.row([
                    v.name.clone(),
                    v.dtype.clone(),
                    shape,
                    v.bytes.to_string(),
                    v.role.to_string(),
                    v.slices.to_string(),
                ]);
            }
            text = table.write(style);
        }
        if let Some(output) = self.output.as_ref().filter(|_| style != Style::Csv) {
            text += &format!("{} arrays, {} bytes, in {}", self.arrays, self.bytes, output.display());
            if !self.stripped.is_empty() {
                text += &format!("; {} of training left out", self.stripped.len());
            }
            text.push('\n');
        }
        super::print(&text)
    }
}
