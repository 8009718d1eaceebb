//! `rigl-xla convert --to torchvision|timm`.

use std::path::{Path, PathBuf};

use models::Scheme;
use serde::Serialize;

use super::sparse_files;
use crate::checkpoint::{self, torch};
use crate::cli::error::{Result, bail};
use crate::report::{escape, note};
use crate::train::loaded_network::infer_network;
use crate::train::state::inference_specs;

/// Library whose names and layouts the converted file uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum To {
    /// torchvision's
    Torchvision,
    /// timm's
    Timm,
}

/// Summary of a written file.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(serialize_with = "crate::report::path")]
    input: PathBuf,
    #[serde(serialize_with = "crate::report::path")]
    output: PathBuf,
    model: &'a str,
    /// Number of arrays, and their bytes.
    arrays: usize,
    bytes: usize,
    /// Weights of kernels that masks leave.
    connections: usize,
}

/// Converts a checkpoint into the state dict of a network of torchvision or timm, masks applied.
///
/// # Errors
/// A checkpoint that cannot be read, a network that PyTorch's programs do not have, or an output that cannot be written.
pub fn run(input: &Path, output: &Path, to: To, json: bool) -> Result<()> {
    let path = checkpoint::resolve(input)?;
    sparse_files::refuse_input_as_output(&path, output)?;
    let network = infer_network(checkpoint::load(&path)?, None, None)?;
    let (model, options) = (&network.model, &network.options);
    let declaration = model.declaration();
    let connections = network.cost().kept.iter().map(|kept| kept.nonzeros).sum();
    let names = inference_specs(&declaration).into_iter().map(|(name, _)| name);
    let arrays = names.zip(network.weights).collect();
    let scheme = match to {
        To::Torchvision => Scheme::Torchvision,
        To::Timm => Scheme::Timm,
    };
    let steps = network.global_step.unwrap_or(0);
    let variant = options.variant.unwrap_or_default();
    let Some(renamed) = torch::renamed(scheme, options, &declaration, &arrays, steps) else {
        bail!(
            "{}: a {} network, variant {}: torchvision and timm have resnet18 to resnet152, mobilenet-v2 and vgg-11 to \
             vgg-19, as variant torchvision (model.variant) builds them",
            escape::path(&path),
            model.name(),
            variant.name()
        );
    };
    if !variant.is_torchvision() {
        note!(
            "note: {} of variant original pads the pooled image on the right and below, torchvision's on all sides: set \
             model.maxpool = torch.nn.Sequential(torch.nn.ZeroPad2d((0, 1, 0, 1)), torch.nn.MaxPool2d(3, 2)) for equal logits",
            model.name()
        );
    }
    torch::save(output, &renamed, [("format".to_owned(), "pt".to_owned())].into())?;
    let report = Report {
        input: path,
        output: output.into(),
        model: model.name(),
        arrays: renamed.len(),
        bytes: renamed.values().map(|array| array.bytes().len()).sum(),
        connections,
    };
    match json {
        true => super::print_json(&report),
        false => super::print(&format!(
            "{} arrays, {} bytes, in {}: load_state_dict of {} takes them\n",
            report.arrays,
            report.bytes,
            output.display(),
            report.model
        )),
    }
}
