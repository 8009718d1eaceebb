//! Finds arrays in files and folders.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Error, Input, Result, Source, Stored, npy};
use crate::checkpoint;

/// Extensions of token files, with the type of a token.
const TOKENS: [(&str, Stored); 3] = [("bin", Stored::U16), ("u16", Stored::U16), ("u32", Stored::U32)];
/// Extensions of files with arrays.
const EXTENSIONS: [&str; 6] = ["safetensors", "npz", "npy", "bin", "u16", "u32"];
/// Maximum number of entries of a folder.
const MAX_ENTRIES: usize = 4096;

/// A part of a data set, by the first component of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `train/NAME`
    Train,
    /// `test/NAME`, `validation/NAME`, `val/NAME` or `eval/NAME`
    Test,
}

impl Part {
    fn named(name: &str) -> Option<Self> {
        match name {
            "train" => Some(Part::Train),
            "test" | "validation" | "val" | "eval" => Some(Part::Test),
            _ => None,
        }
    }

    /// Splits the part off a name.
    pub(super) fn of(name: &str) -> (Option<Self>, &str) {
        match name.split_once('/').map(|(first, rest)| (Part::named(first), rest)) {
            Some((Some(part), rest)) => (Some(part), rest),
            _ => (None, name),
        }
    }

    /// Name for reports.
    pub fn name(self) -> &'static str {
        match self {
            Part::Train => "train",
            Part::Test => "test",
        }
    }
}

/// An array in a file.
#[derive(Clone, Debug)]
pub struct Found {
    /// Part of the data set, if the name has one.
    pub part: Option<Part>,
    /// The file.
    pub path: PathBuf,
    /// Name, without the part.
    pub name: String,
    /// Element type.
    pub stored: Stored,
    /// Dimensions.
    pub dims: Vec<usize>,
    pub(super) source: Source,
}

impl Found {
    /// Whether it is one sequence of tokens from which `input` takes windows.
    pub(super) fn is_tokens_for(&self, input: &Input) -> bool {
        let tokens = self.dims.len() == 1 && self.stored.is_integer();
        tokens && input.example.dims.len() == 1 && !input.example.dtype.is_float()
    }
}

/// Checks that the file or folder exists.
///
/// # Errors
/// [`Error::NotGiven`] or [`Error::NotFound`].
pub fn exists(path: &str) -> crate::data::Result<()> {
    match path {
        "" => Err(Error::NotGiven.into()),
        path if !Path::new(path).exists() => Err(Error::NotFound { path: path.into() }.into()),
        _ => Ok(()),
    }
}

/// The arrays of a file or folder.
///
/// # Errors
/// Files that cannot be read, that are damaged, or that hold no array.
pub fn found(path: &Path) -> Result<Vec<Found>> {
    let found = match path.is_dir() {
        true => folder(path)?,
        false => file(path, None, None)?,
    };
    if found.is_empty() {
        return Err(Error::NoArrays { path: path.into() });
    }
    let mut seen = BTreeSet::new();
    for array in &found {
        if !seen.insert((array.part.map(Part::name), &array.name)) {
            return Err(Error::Twice {
                path: path.into(),
                name: array.name.clone(),
            });
        }
    }
    Ok(found)
}

/// Files and folders in a folder, by name.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(Error::io(dir))?.take(MAX_ENTRIES);
    let paths: std::io::Result<Vec<PathBuf>> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut paths = paths.map_err(Error::io(dir))?;
    paths.sort();
    Ok(paths)
}

/// Whether this is a file of arrays, by its name.
pub fn has_arrays(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str);
    path.is_file() && extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
}

/// `train.npz`, `test.npz`; `train/NAME.npy`, `test/NAME.npy`; or `NAME.npy`.
fn folder(dir: &Path) -> Result<Vec<Found>> {
    let mut found = vec![];
    for path in entries(dir)? {
        let part = path.file_stem().and_then(OsStr::to_str).and_then(Part::named);
        if path.is_dir() && part.is_some() {
            for path in entries(&path)?.iter().filter(|path| has_arrays(path)) {
                found.extend(file(path, part, None)?);
            }
        } else if has_arrays(&path) {
            let tokens = part.map(|_| "tokens");
            found.extend(file(&path, part, tokens)?);
        }
    }
    Ok(found)
}

/// The arrays of a file, in `part` unless their names say otherwise. A file of a single array has the name `single`, else
/// that of the file.
fn file(path: &Path, part: Option<Part>, single: Option<&str>) -> Result<Vec<Found>> {
    let mut open = crate::files::open(path).map_err(Error::io(path))?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = single.unwrap_or(&stem);
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    if let Some((_, stored)) = TOKENS.iter().find(|(known, _)| *known == extension) {
        let bytes = open.metadata().map_err(Error::io(path))?.len();
        return Ok(vec![Found {
            part,
            path: path.into(),
            name: name.to_owned(),
            stored: *stored,
            dims: vec![bytes as usize / stored.bytes()],
            source: Source::File {
                file: Arc::new(open),
                offset: 0,
            },
        }]);
    }
    let [archive, array] = npy::starts_like(&mut open).map_err(Error::io(path))?;
    let mut found = match (archive, array) {
        (true, _) => npy::npz(path, open)?,
        (_, true) => vec![npy::npy(path, open, name, part)?],
        _ => safetensors(path, open)?,
    };
    found.iter_mut().for_each(|array| array.part = array.part.or(part));
    Ok(found)
}

fn safetensors(path: &Path, file: fs::File) -> Result<Vec<Found>> {
    let file = Arc::new(file);
    let mut found = vec![];
    for array in checkpoint::layout(path)? {
        let (part, name) = Part::of(&array.name);
        let stored = Stored::of_safetensors(&array.dtype).ok_or_else(|| Error::Shape {
            path: path.into(),
            name: name.to_owned(),
            found: array.dtype.clone(),
            expected: "whole numbers, floats or bool".into(),
        })?;
        found.push(Found {
            part,
            path: path.into(),
            name: name.to_owned(),
            stored,
            dims: array.dims.clone(),
            source: Source::File {
                file: Arc::clone(&file),
                offset: array.offset,
            },
        });
    }
    Ok(found)
}
