//! `rigl-xla export`: networks for other programs.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::input_args::NetworkArgs;
use crate::checkpoint::{self, torch};
use crate::cli::error::{Result, Usage, bail};
use crate::data::classes::Classes;
use crate::export::{Exported, Input, onnx, pytorch, stablehlo};
use crate::report::escape;

/// Arguments of `export`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Checkpoint in safetensors format, also of torchvision or timm, or a run folder
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    #[command(flatten)]
    network: NetworkArgs,
    /// Form of the network
    #[arg(long, value_enum)]
    format: Format,
    /// Output file: .onnx, .mlir or .safetensors
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Input of the network, channels last
    #[arg(long, value_enum, default_value_t, value_name = "KIND")]
    input: Input,
    /// List of classes, one per line in label order, to store with the network [default: classes.txt in the data folder
    /// of the run, if there is one]
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// stablehlo: examples per batch; the other forms take any number
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: Option<u32>,
    /// stablehlo: weights as constants of the program, or as its inputs, in a safetensors file beside it
    #[arg(long, value_enum, value_name = "WHERE")]
    weights: Option<Where>,
    /// onnx: kernels as bf16; the model converts them to f32, in which it computes
    #[arg(long)]
    bf16_weights: bool,
    /// onnx: kernels with zeros as sparse initializers
    #[arg(long)]
    sparse_initializers: bool,
    /// onnx: keep batch normalisation as an operator, or else fold it into kernels
    #[arg(long)]
    keep_batch_norm: bool,
    /// Replace the output if it exists
    #[arg(long)]
    overwrite: bool,
}

/// Form of an exported network.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// ONNX, for ONNX Runtime, TensorRT, OpenVINO
    Onnx,
    /// StableHLO as MLIR text, for XLA and JAX
    Stablehlo,
    /// A safetensors file, and a module in Python that builds the network with its masks
    Pytorch,
}

/// Where the weights of a StableHLO program are.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Where {
    /// Constants of the program
    #[default]
    Baked,
    /// Inputs of the program
    Inputs,
}

/// Runs `export`.
///
/// # Errors
/// A checkpoint that cannot be read, a network that the form does not have, or an output that cannot be written.
pub fn run(args: Args, json: bool) -> Result<()> {
    args.check()?;
    super::check_output(&args.output)?;
    super::refuse_existing(&args.output, &args.output, args.overwrite)?;
    let path = checkpoint::resolve(&args.checkpoint)?;
    let (network, _) = args.network.load(&path)?;
    let folder = network
        .run
        .as_ref()
        .map(|run| Path::new(&run.data.dir).join("classes.txt"));
    let list = args.classes.clone().or(folder.filter(|list| list.is_file()));
    let classes = match &list {
        Some(list) => class_names(list, network.model.classes())?,
        None => vec![],
    };
    let exported = Exported::new(&network, args.input, &classes);
    let files = match args.format {
        Format::Onnx => vec![args.onnx(&exported)?],
        Format::Stablehlo => args.stablehlo(&exported)?,
        Format::Pytorch => args.pytorch(&exported)?,
    };
    let shown: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    match json {
        true => super::print_json(&json!({
            "model": network.model.name(),
            "files": shown,
            "bytes": files.iter().map(|file| std::fs::metadata(file).map_or(0, |m| m.len())).sum::<u64>(),
            "classes": classes.len(),
        })),
        false => super::print(&format!("{} in {}\n", network.model.name(), shown.join(" and "))),
    }
}

/// Names of classes in label order.
fn class_names(list: &Path, expected: usize) -> Result<Vec<String>> {
    let classes = Classes::read(list)?;
    if classes.len() != expected {
        bail!(
            "{}: {} classes, expected {expected}, as the network has",
            escape::path(list),
            classes.len()
        );
    }
    Ok((0..classes.len())
        .map(|label| classes.get(label).0.to_owned())
        .collect())
}

impl Args {
    /// Refuses options of other forms.
    fn check(&self) -> Result<(), Usage> {
        let options = [
            ("--batch-size", Format::Stablehlo, self.batch_size.is_some()),
            ("--weights", Format::Stablehlo, self.weights.is_some()),
            ("--bf16-weights", Format::Onnx, self.bf16_weights),
            ("--sparse-initializers", Format::Onnx, self.sparse_initializers),
            ("--keep-batch-norm", Format::Onnx, self.keep_batch_norm),
        ];
        let wrong = options.into_iter().find(|(_, of, given)| *given && *of != self.format);
        match wrong {
            None => Ok(()),
            Some((flag, of, _)) => {
                let of = match of {
                    Format::Onnx => "onnx",
                    Format::Stablehlo => "stablehlo",
                    Format::Pytorch => "pytorch",
                };
                Err(Usage(format!("{flag}: an option of --format {of}; leave it out")))
            }
        }
    }

    fn onnx(&self, exported: &Exported<'_>) -> Result<PathBuf> {
        let options = onnx::Options {
            bf16: self.bf16_weights,
            sparse: self.sparse_initializers,
            keep_batch_norm: self.keep_batch_norm,
        };
        super::write_file(&self.output, &onnx::model(exported, options)?)?;
        Ok(self.output.clone())
    }

    fn stablehlo(&self, exported: &Exported<'_>) -> Result<Vec<PathBuf>> {
        let baked = self.weights.unwrap_or_default() == Where::Baked;
        let batch = self.batch_size.unwrap_or(1) as usize;
        let mut files = vec![self.output.clone()];
        if !baked {
            files.push(self.beside("safetensors")?);
            let names: Vec<&String> = exported.arrays().iter().map(|(name, _)| name).collect();
            let arrays = exported.arrays().iter().cloned().collect();
            let inputs = json!({ "inputs": names }).to_string();
            torch::save(&files[1], &arrays, [("program".to_owned(), inputs)].into())?;
        }
        super::write_file(&self.output, stablehlo::module(exported, batch, baked)?.as_bytes())?;
        Ok(files)
    }

    fn pytorch(&self, exported: &Exported<'_>) -> Result<Vec<PathBuf>> {
        let module = self.beside("py")?;
        let (arrays, metadata) = pytorch::arrays(exported)?;
        torch::save(&self.output, &arrays, metadata)?;
        super::write_file(&module, pytorch::LOADER.as_bytes())?;
        Ok(vec![self.output.clone(), module])
    }

    /// A second file beside the output.
    fn beside(&self, extension: &str) -> Result<PathBuf, Usage> {
        let path = self.output.with_extension(extension);
        if path == self.output {
            let shown = escape::path(&path);
            return Err(Usage(format!(
                "--output {shown}: a second file has this name, expected another extension"
            )));
        }
        super::refuse_existing(&path, &path, self.overwrite)?;
        Ok(path)
    }
}
