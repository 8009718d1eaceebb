//! Converts between containers, one array at a time: memory holds the names and one chunk of data.

use std::io::{self, Seek, Write};
use std::path::Path;

use safetensors::Dtype;

use super::section::{CHUNK_BYTES, Section};
use super::table::Layout;
use super::{Array, Bundle, DataType, Error, Role, Variable, original, writer};
use crate::checkpoint::header::{Entry, Header, known};
use crate::checkpoint::{self, atomic, file};

/// Writes these variables of a bundle to a safetensors file under their names, atomically. The same variables give the
/// same bytes.
///
/// # Errors
/// [`checkpoint::Error::Save`] with the cause: [`Error::ElementType`], damaged data, or an I/O error. Nothing has
/// changed on disk then.
pub fn to_safetensors(bundle: &Bundle, variables: &[&Variable], path: &Path) -> checkpoint::Result<()> {
    let write = || {
        let dtypes = variables.iter().map(|variable| stored_type(bundle, variable));
        let dtypes = dtypes.collect::<io::Result<Vec<_>>>()?;
        let mut variables: Vec<_> = dtypes.into_iter().zip(variables).collect();
        // The order of our own checkpoints: widest elements first, so that each is aligned, then by name.
        variables.sort_by(|(a, left), (b, right)| (b, &left.name).cmp(&(a, &right.name)));
        atomic::write(path, |out| {
            let arrays = variables.iter().map(|(dtype, variable)| file::ArrayInfo {
                name: &variable.name,
                dtype: *dtype,
                dims: &variable.dims,
                bytes: variable.bytes() as usize,
            });
            file::write_header(out, arrays, None)?;
            variables
                .iter()
                .try_for_each(|(_, variable)| bundle.copy(variable, &mut |bytes| out.write_all(bytes)))
        })
    };
    write().map_err(|source| checkpoint::Error::Save {
        path: path.into(),
        source,
    })
}

fn stored_type(bundle: &Bundle, variable: &Variable) -> io::Result<Dtype> {
    let name = &variable.name;
    // The safetensors key for metadata.
    if name == "__metadata__" {
        return Err(io::Error::other("safetensors has no array of the name '__metadata__'"));
    }
    variable.dtype.stored().ok_or_else(|| {
        io::Error::other(Error::ElementType {
            path: bundle.prefix().into(),
            name: name.clone(),
            found: variable.dtype.to_string(),
        })
    })
}

/// Summary of [`from_safetensors`].
#[derive(Debug)]
pub struct Written {
    /// Arrays as stored in the bundle.
    pub arrays: Vec<Array>,
    /// Number of masks converted to float32.
    pub widened: usize,
    /// Names of added variables, which the original's restore needs and the file lacked.
    pub added: Vec<String>,
}

/// Source of an array's data.
enum Source {
    /// A range of the file; the flag converts a boolean mask to float32.
    File { offset: u64, size: u64, widen: bool },
    /// One value for all elements.
    Constant(f32),
}

/// Writes the arrays of a safetensors file that `keep` accepts as the bundle of `prefix`, in one shard, with the
/// original's names and its additional variables ([`original`]). With `masks_as_float32`, BOOL masks become float32, as
/// in the original.
///
/// # Errors
/// A file that is damaged or has types that TensorFlow's checkpoints lack, or an output that cannot be written.
pub fn from_safetensors(
    path: &Path,
    prefix: &Path,
    masks_as_float32: bool,
    mut keep: impl FnMut(&str) -> bool,
) -> checkpoint::Result<Written> {
    let mut file = file::open(path)?;
    let header = Header::read(path, &mut file)?;
    let start = file.stream_position().map_err(checkpoint::Error::io(path))?;
    let shapes: original::Arrays = header.arrays.iter().map(|a| (a.name.as_str(), &a.dims[..])).collect();
    let missing = original::missing(&shapes);
    let (mut arrays, mut sources) = (vec![], vec![]);
    for Entry {
        name,
        dims,
        begin,
        end,
        dtype,
    } in header.arrays.iter().filter(|array| keep(&array.name))
    {
        let Some(kind) = known(dtype).and_then(DataType::of) else {
            let (path, name, found) = (path.into(), name.clone(), dtype.clone());
            return Err(checkpoint::Error::ElementType { path, name, found });
        };
        let widen = masks_as_float32 && kind == DataType::BOOL && Role::of(name) == Role::Mask;
        sources.push(Source::File {
            offset: start + *begin as u64,
            size: (end - begin) as u64,
            widen,
        });
        arrays.push(Array {
            name: original::name_of(name, dims),
            dtype: if widen { DataType::FLOAT32 } else { kind },
            dims: dims.clone(),
            slices: vec![],
        });
    }
    let missing: Vec<_> = missing.into_iter().filter(|array| keep(&array.name)).collect();
    let added = missing.iter().map(|array| array.name.clone()).collect();
    for array in missing {
        sources.push(Source::Constant(array.value));
        arrays.push(Array {
            name: array.name,
            dtype: DataType::FLOAT32,
            dims: array.dims,
            slices: vec![],
        });
    }
    writer::write(prefix, &arrays, 1, Layout::default(), |array, _, out| {
        match sources[array] {
            Source::File { offset, size, widen } => {
                let mut section = Section::new(&file, offset, size, CHUNK_BYTES);
                section.copy(size, &mut |bytes| match widen {
                    true => out.write_all(&floats(bytes)),
                    false => out.write_all(bytes),
                })
            }
            Source::Constant(value) => {
                let elements = arrays[array].dims.iter().product();
                (0..elements).try_for_each(|_: usize| out.write_all(&value.to_le_bytes()))
            }
        }
    })?;
    let widened = |source: &&Source| matches!(source, Source::File { widen: true, .. });
    let widened = sources.iter().filter(widened).count();
    Ok(Written { arrays, widened, added })
}

/// Converts booleans to the numbers 0 and 1.
fn floats(mask: &[u8]) -> Vec<u8> {
    let number = |&byte: &u8| f32::from(u8::from(byte != 0)).to_le_bytes();
    mask.iter().flat_map(number).collect()
}
