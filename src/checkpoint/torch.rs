//! Arrays of torchvision and timm, read from and written to safetensors files.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use hlo::{DType, Literal, Shape};
use models::{Declaration, Options, Renamed, Scheme, Variant};

use super::fit::{Problem, converted};
use super::header::Header;
use super::{Checkpoint, Error, Metadata, Result, file};
use crate::config::Run;
use crate::data::imagenet::Kind;
use crate::data::pixels::Preprocessing;
use crate::named::Named;

/// Keys of [`Metadata::extra`] with the [`models::Variant`] of a network, its [`Preprocessing`] of pixels and the
/// [`Kind`] of its preparation of pictures.
pub const VARIANT: &str = "variant";
/// See [`VARIANT`].
pub const PREPROCESSING: &str = "preprocessing";
/// See [`VARIANT`].
pub const PICTURES: &str = "pictures";

/// Number of training batches, which PyTorch counts in every normalisation and uses nowhere.
const COUNTER: &str = "num_batches_tracked";

/// Name and variant of the network that a file says it holds, or that its names show, from its header alone; `None` if
/// it cannot be read or is not recognised.
pub fn network_of(path: &Path) -> Option<(String, Option<Variant>)> {
    let header = Header::read(path, &mut file::open(path).ok()?).ok()?;
    if let Some((_, options)) = Scheme::recognise(header.arrays.iter().map(|array| array.name.as_str())) {
        return Some((options.name, options.variant));
    }
    let metadata: Metadata = serde_json::from_str(&header.metadata?).ok()?;
    let run = Run::from_toml(&metadata.config, "").ok();
    let recorded = metadata.extra.get(VARIANT).and_then(|name| Variant::from_name(name));
    Some((metadata.model, run.and_then(|run| run.model.variant).or(recorded)))
}

/// Gives arrays of torchvision or timm the names and layouts of this program, in f32, and metadata with the network.
/// Another checkpoint is returned as it is.
///
/// # Errors
/// [`Error::Unfit`] for arrays that are missing or have other dimensions, [`Error::NotTorch`] for arrays that no part of
/// the network has.
pub fn recognised(checkpoint: Checkpoint) -> Result<Checkpoint> {
    let names = checkpoint.tensors.keys().chain(checkpoint.unread.keys());
    let Some((scheme, options)) = Scheme::recognise(names.map(String::as_str)) else {
        return Ok(checkpoint);
    };
    let Checkpoint {
        path,
        mut tensors,
        unread,
        ..
    } = checkpoint;
    let of = |options: &Options| {
        let declaration = options.build().ok()?.declaration();
        scheme.arrays(options, &declaration)
    };
    // Names depend on neither width nor classes.
    let Some(arrays) = of(&options) else {
        return Err(not_torch(&path, &options, tensors.keys()));
    };
    let mut ours = BTreeMap::new();
    for array in &arrays {
        if let Some((name, found)) = tensors.remove_entry(&array.theirs) {
            match array.layout.ours(found.dims(), array.dims.len()) {
                Some(dims) => drop(ours.insert(array.ours.clone(), laid_out(array, dims, found))),
                None => drop(tensors.insert(name, found)),
            }
        }
    }
    let found = models::infer_variant(
        ours.iter().map(|(name, array)| (name.as_str(), array.dims())),
        options.variant,
    );
    let options = found.filter(|found| of(found).is_some()).unwrap_or(options);
    let problems = problems(&of(&options).unwrap_or_default(), &ours, &tensors, &unread);
    if !problems.is_empty() {
        return Err(Error::Unfit { path, problems });
    }
    let others: Vec<&String> = tensors
        .keys()
        .chain(unread.keys())
        .filter(|name| !name.ends_with(COUNTER))
        .collect();
    if !others.is_empty() {
        return Err(not_torch(&path, &options, others.into_iter()));
    }
    Ok(Checkpoint {
        path,
        tensors: ours,
        unread: BTreeMap::new(),
        metadata: Some(metadata(&options, scheme)),
    })
}

/// Metadata of a network of torchvision or timm.
fn metadata(options: &Options, scheme: Scheme) -> Metadata {
    let variant = options.variant.unwrap_or_default();
    let extra = [
        (VARIANT, variant.name()),
        (PREPROCESSING, Preprocessing::ImageNet.name()),
        (PICTURES, Kind::Antialiased.name()),
        ("epsilon", "1e-5"),
        (
            "names",
            match scheme {
                Scheme::Torchvision => "torchvision",
                Scheme::Timm => "timm",
            },
        ),
    ];
    let extra = extra.map(|(key, value)| (key.to_owned(), value.to_owned()));
    Metadata {
        extra: extra.into(),
        ..Metadata::new(&options.name, 0, "")
    }
}

fn not_torch<'a>(path: &Path, options: &Options, names: impl Iterator<Item = &'a String>) -> Error {
    let mut names = names.map(|name| format!("'{}'", name.escape_debug()));
    let first: Vec<String> = names.by_ref().take(3).collect();
    let more = match names.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Error::NotTorch {
        path: path.into(),
        found: format!("{}{more}", first.join(", ")),
        model: options.name.clone(),
    }
}

/// An array of PyTorch in the layout of this program, where it has `dims`, in f32.
fn laid_out(array: &Renamed, dims: Vec<usize>, found: Literal) -> Literal {
    let found = converted(found, DType::F32);
    let size = found.dtype().size();
    let bytes = array.layout.from_theirs(&dims, size, found.bytes());
    Literal::from_bytes(Shape::new(found.dtype(), dims), bytes).unwrap_or(found)
}

/// Arrays that are missing or misshapen, under the names of PyTorch.
fn problems(
    expected: &[Renamed],
    ours: &BTreeMap<String, Literal>,
    others: &BTreeMap<String, Literal>,
    unread: &BTreeMap<String, String>,
) -> Vec<Problem> {
    let problem = |array: &Renamed| {
        let name = array.theirs.clone();
        let expected = Shape::new(DType::F32, array.layout.theirs(&array.dims));
        let of_shape = |found: Shape| Problem::Shape {
            name: name.clone(),
            found,
            expected: expected.clone(),
        };
        match (ours.get(&array.ours), others.get(&name), unread.get(&name)) {
            (Some(found), _, _) if found.dims() == array.dims && found.dtype() == DType::F32 => None,
            (Some(found), _, _) => Some(of_shape(Shape::new(found.dtype(), array.layout.theirs(found.dims())))),
            (None, Some(found), _) => Some(of_shape(found.shape().clone())),
            (None, None, Some(found)) => Some(Problem::Type {
                name: name.clone(),
                found: found.clone(),
                expected: expected.clone(),
            }),
            (None, None, None) => Some(Problem::Missing {
                name: name.clone(),
                expected: expected.clone(),
            }),
        }
    };
    expected.iter().filter_map(problem).collect()
}

/// Renames and lays out arrays of this program as PyTorch's, masks applied; `None` if PyTorch has no such network under
/// these names. `steps` is the number of training batches, which normalisations count.
pub fn renamed(
    scheme: Scheme,
    options: &Options,
    declaration: &Declaration,
    arrays: &BTreeMap<String, Literal>,
    steps: i64,
) -> Option<BTreeMap<String, Literal>> {
    let mut renamed = BTreeMap::new();
    for array in scheme.arrays(options, declaration)? {
        let param = declaration.params.iter().find(|param| param.name == array.ours);
        let mask = param.and_then(|param| arrays.get(param.mask.as_ref()?)?.to_bools());
        let found = masked(arrays.get(&array.ours)?, mask);
        let bytes = array.layout.to_theirs(&array.dims, found.dtype().size(), found.bytes());
        let shape = Shape::new(found.dtype(), array.layout.theirs(&array.dims));
        if let Some(norm) = array.theirs.strip_suffix(".running_mean") {
            renamed.insert(format!("{norm}.{COUNTER}"), Literal::scalar(steps));
        }
        renamed.insert(array.theirs, Literal::from_bytes(shape, bytes)?);
    }
    Some(renamed)
}

/// An array, 0 outside of its mask if it has one.
pub(crate) fn masked(array: &Literal, mask: Option<Vec<bool>>) -> Literal {
    match (mask, array.to_vec::<f32>()) {
        (Some(mask), Some(mut values)) => {
            let dropped = values.iter_mut().zip(mask).filter(|(_, kept)| !kept);
            dropped.for_each(|(value, _)| *value = 0.0);
            Literal::new(array.dims(), &values)
        }
        _ => array.clone(),
    }
}

/// Saves arrays for other programs, atomically, with at most one entry of metadata.
///
/// # Errors
/// [`Error::Save`].
pub fn save(path: &Path, arrays: &BTreeMap<String, Literal>, metadata: HashMap<String, String>) -> Result<()> {
    file::save_as(path, arrays, Some(metadata))
}
