//! Checkpoints that store only the connections of masked layers; `docs/formats.md` describes the formats.
//!
//! A layer of scope `S` is masked if it has a kernel `S/weights` and a mask `S/mask` of the same shape. The [`Format`]
//! replaces these two arrays; all others are stored unchanged. [`load`](super::load) reads the bitmask format like any
//! other checkpoint: it returns complete kernels, with 0 for inactive weights.

mod bitmask;
mod csr;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use hlo::{DType, Literal, Shape};
use models::layers::BatchNorm;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::header::Header;
use super::{Error, FORMAT, Metadata, Result, file, fit};
use sparse::names::Unknown;

/// The layout version that this program writes, and the newest it reads.
pub const VERSION: u32 = 1;

/// Arrays by variable name.
pub type Arrays = BTreeMap<String, Literal>;

/// Storage format of masked layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Complete kernels and masks, as in an ordinary checkpoint.
    #[default]
    Complete,
    /// One bit per weight, and the values of the connections.
    Bitmask,
    /// Compressed sparse rows, for other programs. This program cannot read them.
    Csr,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 3] = [Format::Complete, Format::Bitmask, Format::Csr];

    /// Name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Format::Complete => "complete",
            Format::Bitmask => "bitmask",
            Format::Csr => "csr",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = Unknown;

    fn from_str(name: &str) -> std::result::Result<Self, Unknown> {
        let named = Format::ALL.into_iter().find(|format| format.name() == name);
        named.ok_or_else(|| Unknown::new("format", name, Format::ALL.map(Format::name)))
    }
}

/// Layout of masked layers, stored as `sparse` in [`METADATA_KEY`](super::METADATA_KEY).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Layout {
    /// Name of a [`Format`].
    format: String,
    version: u32,
    /// Masked layers by scope.
    layers: BTreeMap<String, Layer>,
    /// Scopes of batch normalisations that only add `beta`. Their other three arrays, [`FOLDED`], are not stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    folded: Vec<String>,
}

/// A masked layer in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Layer {
    /// Shape of the kernel and the mask.
    shape: Vec<usize>,
    /// Number of ones in the mask.
    connections: usize,
}

/// Arrays of a batch normalisation that returns exactly `x + beta`, with their values: this variance plus
/// [`BatchNorm::EPSILON`] is 1 in f32.
pub const FOLDED: [(&str, f32); 3] = [
    ("gamma", 1.0),
    ("moving_mean", 0.0),
    ("moving_variance", (1.0 - BatchNorm::EPSILON) as f32),
];

/// Summary of a saved file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Number of arrays.
    pub arrays: usize,
    /// Bytes of the arrays, without the header.
    pub bytes: u64,
    /// Number of masked layers.
    pub layers: usize,
    /// Total ones of all masks.
    pub connections: usize,
}

/// Saves a checkpoint in any format, atomically. The same arguments give the same bytes.
///
/// # Errors
/// [`Error::Unfit`] for a mask with values other than 0 and 1, [`Error::NameTaken`], [`Error::Save`].
pub fn save(path: &Path, mut arrays: Arrays, metadata: Option<&Metadata>, format: Format) -> Result<Written> {
    let masks = masks(path, &arrays)?;
    let layers = masks
        .iter()
        .map(|(scope, mask)| (scope.clone(), layer(&arrays, scope, mask)));
    let layout = Layout {
        format: format.name().into(),
        version: VERSION,
        layers: layers.collect(),
        folded: match format {
            Format::Bitmask => take_folded(&mut arrays),
            Format::Complete | Format::Csr => vec![],
        },
    };
    for (scope, mask) in &masks {
        let packed = match format {
            Format::Complete => continue,
            Format::Bitmask => bitmask::pack(&mut arrays, scope, mask),
            Format::Csr => csr::pack(&mut arrays, scope, mask).map_err(|reason| Error::Save {
                path: path.into(),
                source: std::io::Error::other(reason),
            })?,
        };
        for (name, array) in packed {
            if arrays.insert(name.clone(), array).is_some() {
                return Err(Error::NameTaken {
                    path: path.into(),
                    name,
                });
            }
        }
    }
    if format == Format::Complete {
        file::save_with(path, &arrays, metadata)?;
    } else {
        let ours = ours(metadata, &layout).map_err(|error| Error::Save {
            path: path.into(),
            source: error.into(),
        })?;
        file::save_with(path, &arrays, Some(&ours))?;
    }
    Ok(Written {
        arrays: arrays.len(),
        bytes: arrays.values().map(|array| array.bytes().len() as u64).sum(),
        layers: layout.layers.len(),
        connections: layout.layers.values().map(|layer| layer.connections).sum(),
    })
}

/// Builds the value of [`METADATA_KEY`](super::METADATA_KEY): that of an ordinary checkpoint, plus the layout as
/// `sparse`.
fn ours(metadata: Option<&Metadata>, layout: &Layout) -> serde_json::Result<Value> {
    let mut ours = match metadata {
        Some(metadata) => serde_json::to_value(metadata)?,
        None => json!({ "format": FORMAT }),
    };
    ours["sparse"] = serde_json::to_value(layout)?;
    Ok(ours)
}

fn layer(arrays: &Arrays, scope: &str, mask: &[bool]) -> Layer {
    Layer {
        shape: arrays
            .get(&kernel(scope))
            .map(|kernel| kernel.dims().to_vec())
            .unwrap_or_default(),
        connections: mask.iter().filter(|&&one| one).count(),
    }
}

/// Returns the masks of all masked layers, by scope.
fn masks(path: &Path, arrays: &Arrays) -> Result<BTreeMap<String, Vec<bool>>> {
    let scopes = arrays.keys().filter_map(|name| name.strip_suffix("/mask"));
    let mut masks = BTreeMap::new();
    for scope in scopes {
        let (name, Some(kernel)) = (mask(scope), arrays.get(&kernel(scope))) else {
            continue;
        };
        let Some(array) = arrays.get(&name).filter(|mask| mask.dims() == kernel.dims()) else {
            continue;
        };
        let expected = Shape::new(DType::Pred, kernel.dims());
        if let Some(problem) = fit::problem(&name, Some(array), &expected) {
            return Err(Error::Unfit {
                path: path.into(),
                problems: vec![problem],
            });
        }
        masks.insert(
            scope.to_owned(),
            fit::to_pred(array.clone()).to_bools().unwrap_or_default(),
        );
    }
    Ok(masks)
}

fn kernel(scope: &str) -> String {
    format!("{scope}/weights")
}

fn mask(scope: &str) -> String {
    format!("{scope}/mask")
}

/// Removes the arrays of normalisations that only add `beta`, and returns their scopes.
fn take_folded(arrays: &mut Arrays) -> Vec<String> {
    let is_folded = |scope: &&str| {
        let beta = arrays.get(&format!("{scope}/beta"));
        let is = |(part, value): (&str, f32)| {
            let array = arrays.get(&format!("{scope}/{part}"))?;
            let values: Vec<f32> = array.to_vec()?;
            let same = array.dims() == beta?.dims() && array.dims().len() == 1;
            Some(same && values.iter().all(|found| found.to_bits() == value.to_bits()))
        };
        beta.is_some_and(|beta| beta.dtype() == DType::F32) && FOLDED.into_iter().all(|part| is(part) == Some(true))
    };
    let scopes = arrays.keys().filter_map(|name| name.strip_suffix("/gamma"));
    let scopes: Vec<String> = scopes.filter(is_folded).map(str::to_owned).collect();
    for scope in &scopes {
        for (part, _) in FOLDED {
            arrays.remove(&format!("{scope}/{part}"));
        }
    }
    scopes
}

/// The `sparse` entry of [`METADATA_KEY`](super::METADATA_KEY).
#[derive(Deserialize)]
struct Ours<T> {
    sparse: Option<T>,
}

/// Whether this value of [`METADATA_KEY`](super::METADATA_KEY) has a layout.
pub(super) fn has_layout(ours: &str) -> bool {
    serde_json::from_str(ours).is_ok_and(|ours: Ours<IgnoredAny>| ours.sparse.is_some())
}

/// Whether a safetensors file stores masked layers in a sparse format.
///
/// # Errors
/// A file that cannot be read, or a damaged header.
pub fn is_sparse(path: &Path) -> Result<bool> {
    let mut file = file::open(path)?;
    Ok(Header::read(path, &mut file)?
        .metadata
        .as_deref()
        .is_some_and(has_layout))
}

/// Restores the complete arrays of a file with this value of [`METADATA_KEY`](super::METADATA_KEY). Memory is at most
/// 72 times the file's size, because each weight has a bit in the file.
///
/// # Errors
/// [`Error::SparseFormat`], or [`Error::Damaged`] if arrays and layout disagree.
pub(super) fn complete(path: &Path, ours: &str, mut arrays: Arrays) -> Result<Arrays> {
    #[derive(Deserialize)]
    struct Version {
        format: String,
        version: u32,
    }
    let damaged = |reason: &dyn fmt::Display| super::damaged(path, reason);
    let unreadable = |error| damaged(&format!("its metadata: {error}"));
    // Check the version first: a newer format need not have the other fields.
    let version: Ours<Version> = serde_json::from_str(ours).map_err(unreadable)?;
    let Some(Version { format, version }) = version.sparse else {
        return Ok(arrays);
    };
    if format != Format::Bitmask.name() || version > VERSION {
        let path = path.into();
        return Err(Error::SparseFormat { path, format, version });
    }
    let layout: Ours<Layout> = serde_json::from_str(ours).map_err(unreadable)?;
    let Some(layout) = layout.sparse else { return Ok(arrays) };
    for (scope, layer) in &layout.layers {
        let unpacked = bitmask::unpack(&mut arrays, scope, layer).map_err(|reason| damaged(&reason))?;
        insert(&mut arrays, unpacked).map_err(|reason| damaged(&reason))?;
    }
    for scope in &layout.folded {
        let beta = format!("{scope}/beta");
        let channels = match arrays.get(&beta) {
            Some(array) if array.dtype() == DType::F32 && array.dims().len() == 1 => array.dims()[0],
            Some(array) => {
                return Err(damaged(&format!(
                    "'{beta}' is {}, expected f32 of one dimension",
                    array.shape()
                )));
            }
            None => {
                return Err(damaged(&format!(
                    "'{beta}' is missing, expected that of a folded normalisation"
                )));
            }
        };
        let constant = |(part, value)| {
            (
                format!("{scope}/{part}"),
                Literal::new(&[channels], &vec![value; channels]),
            )
        };
        insert(&mut arrays, FOLDED.map(constant)).map_err(|reason| damaged(&reason))?;
    }
    Ok(arrays)
}

fn insert(arrays: &mut Arrays, new: impl IntoIterator<Item = (String, Literal)>) -> std::result::Result<(), String> {
    for (name, array) in new {
        if arrays.contains_key(&name) {
            return Err(format!(
                "'{name}' is stored both complete and sparse, expected one of them"
            ));
        }
        arrays.insert(name, array);
    }
    Ok(())
}
