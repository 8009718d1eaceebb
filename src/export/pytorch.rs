//! A network for PyTorch: a safetensors file that describes it, and a module in Python that builds it.

use std::collections::{BTreeMap, HashMap};

use hlo::{Literal, Shape};
use models::Layout;

use super::{Error, Exported, StepKind};

/// Arrays by name.
pub type Arrays = BTreeMap<String, Literal>;

/// The module that builds a network from a file.
pub const LOADER: &str = include_str!("pytorch.py");

/// The arrays of a network in PyTorch's layouts, with masks, and the metadata that [`LOADER`] reads. Kernels keep the
/// names of their layers: `S.weight`, `S.bias` and `S.mask` for a layer of scope `S`.
///
/// # Errors
/// [`Error::Unsupported`] for a network with other steps, [`Error::Array`].
pub fn arrays(exported: &Exported<'_>) -> Result<(Arrays, HashMap<String, String>), Error> {
    let model = &exported.network.model;
    let steps = exported.steps()?;
    let declaration = model.declaration();
    let mut arrays = Arrays::new();
    for step in &steps {
        match &step.kind {
            StepKind::Conv { kernel, dims, .. } => {
                // One layout for both kinds: a depthwise kernel is [height, width, 1, channels] where it is applied.
                kernel_and_mask(exported, &declaration, kernel, dims, Layout::Conv, &mut arrays)?;
            }
            StepKind::Dense { kernel, dims } => {
                kernel_and_mask(exported, &declaration, kernel, dims, Layout::Linear, &mut arrays)?;
            }
            StepKind::Norm { scope, .. } => {
                for part in ["gamma", "beta", "moving_mean", "moving_variance"] {
                    let values = exported.f32s(&format!("{scope}/{part}"))?;
                    arrays.insert(
                        format!("{scope}.{}", part_name(part)),
                        Literal::new(&[values.len()], &values),
                    );
                }
            }
            StepKind::Bias { bias } => {
                let values = exported.f32s(bias)?;
                arrays.insert(bias.clone(), Literal::new(&[values.len()], &values));
            }
            StepKind::Columns { indices } => {
                arrays.insert(indices.clone(), exported.array(indices)?.clone());
            }
            StepKind::Relu
            | StepKind::Min { .. }
            | StepKind::Add
            | StepKind::MaxPool { .. }
            | StepKind::Mean
            | StepKind::Pixel
            | StepKind::Row => {}
        }
    }
    let mut description = exported.description();
    description["steps"] = serde_json::json!(steps);
    Ok((arrays, HashMap::from([("network".to_owned(), description.to_string())])))
}

/// PyTorch's name of a part of a normalisation.
fn part_name(part: &str) -> &'static str {
    match part {
        "gamma" => "weight",
        "beta" => "bias",
        "moving_mean" => "running_mean",
        _ => "running_var",
    }
}

fn kernel_and_mask(
    exported: &Exported<'_>,
    declaration: &models::Declaration,
    kernel: &str,
    dims: &[usize],
    layout: Layout,
    arrays: &mut Arrays,
) -> Result<(), Error> {
    let missing = || Error::Array { name: kernel.into() };
    let values = Literal::new(dims, &exported.f32s(kernel)?);
    arrays.insert(
        format!("{kernel}.weight"),
        laid_out(&values, layout).ok_or_else(missing)?,
    );
    let param = declaration.params.iter().find(|param| param.name == kernel);
    let mask = param.and_then(|param| exported.masks.get(param.mask.as_ref()?));
    if let Some(mask) = mask {
        arrays.insert(format!("{kernel}.mask"), laid_out(mask, layout).ok_or_else(missing)?);
    }
    Ok(())
}

fn laid_out(array: &Literal, layout: Layout) -> Option<Literal> {
    let bytes = layout.to_theirs(array.dims(), array.dtype().size(), array.bytes());
    Literal::from_bytes(Shape::new(array.dtype(), layout.theirs(array.dims())), bytes)
}
