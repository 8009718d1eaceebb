//! Reads and writes one checkpoint file in safetensors format, with one copy of the data in memory.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, Read, Seek, Write},
    path::Path,
};

use hlo::{DType, Literal, Shape};
use safetensors::tensor::{Dtype, Metadata as ContainerHeader, TensorInfo};

use serde::{Serialize, de::IgnoredAny};

use super::header::{Entry, Header};
use super::{Checkpoint, Error, FORMAT, METADATA_KEY, Metadata, Result, atomic, damaged, foreign, sparse};

/// Saves arrays and metadata to `path`, atomically and durably. Stores `pred` as BOOL. Streams the arrays without
/// copying them. The same arguments give the same bytes.
///
/// # Errors
/// [`Error::Save`] with the cause. Nothing has changed on disk then.
pub fn save(path: &Path, tensors: &BTreeMap<String, Literal>, metadata: &Metadata) -> Result<()> {
    save_with(path, tensors, Some(metadata))
}

/// As [`save`], with any or no value of [`METADATA_KEY`].
pub(super) fn save_with(
    path: &Path,
    tensors: &BTreeMap<String, Literal>,
    metadata: Option<&impl Serialize>,
) -> Result<()> {
    let failed = |source| Error::Save {
        path: path.into(),
        source,
    };
    // A single key, because the container keeps metadata in a map with random order.
    let ours = metadata.map(serde_json::to_string).transpose();
    let ours = ours.map_err(|error| failed(error.into()))?;
    save_as(
        path,
        tensors,
        ours.map(|text| HashMap::from([(METADATA_KEY.to_owned(), text)])),
    )
}

/// As [`save`], with any metadata.
pub(super) fn save_as(
    path: &Path,
    tensors: &BTreeMap<String, Literal>,
    metadata: Option<HashMap<String, String>>,
) -> Result<()> {
    let save = || atomic::write(path, |out| write(out, tensors, metadata));
    save().map_err(|source| Error::Save {
        path: path.into(),
        source,
    })
}

fn write(
    out: &mut impl Write,
    tensors: &BTreeMap<String, Literal>,
    metadata: Option<HashMap<String, String>>,
) -> io::Result<()> {
    let mut ordered: Vec<_> = tensors.iter().collect();
    // Widest elements first, so that each array is aligned for readers that map the file. The sort is stable: names
    // stay sorted.
    ordered.sort_by_key(|(_, array)| std::cmp::Reverse(stored_type(array.dtype())));
    let arrays = ordered.iter().map(|(name, array)| ArrayInfo {
        name,
        dtype: stored_type(array.dtype()),
        dims: array.dims(),
        bytes: array.bytes().len(),
    });
    write_header(out, arrays, metadata)?;
    ordered.iter().try_for_each(|(_, array)| out.write_all(array.bytes()))
}

/// An array whose data follows the header.
pub(super) struct ArrayInfo<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    pub dims: &'a [usize],
    pub bytes: usize,
}

/// Writes the header of arrays whose data follows in the same order without gaps.
pub(super) fn write_header<'a>(
    out: &mut impl Write,
    arrays: impl Iterator<Item = ArrayInfo<'a>>,
    metadata: Option<HashMap<String, String>>,
) -> io::Result<()> {
    let mut end = 0;
    let infos = arrays.map(|array| {
        let begin = end;
        end += array.bytes;
        let info = TensorInfo {
            dtype: array.dtype,
            shape: array.dims.to_vec(),
            data_offsets: (begin, end),
        };
        (array.name.to_owned(), info)
    });
    let header = ContainerHeader::new(metadata, infos.collect()).map_err(io::Error::other)?;
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)
}

/// Opens a checkpoint file.
///
/// # Errors
/// A folder, a TensorFlow checkpoint, a missing file, or what the system reports.
pub(super) fn open(path: &Path) -> Result<File> {
    if path.is_dir() {
        return Err(Error::Folder { path: path.into() });
    }
    crate::files::open(path).map_err(|error| match foreign::tensorflow(path) {
        Some(tensorflow) => tensorflow,
        None if error.kind() == io::ErrorKind::NotFound => Error::Missing { path: path.into() },
        None => Error::io(path)(error),
    })
}

/// Loads every array of a safetensors file, whichever program wrote it. Arrays with element types that this program
/// lacks are listed in [`Checkpoint::unread`]. Arrays of a [sparse](super::sparse) file are restored to complete ones.
///
/// Sizes in the header are checked against the file's length before memory is allocated.
///
/// # Errors
/// A file that cannot be read, is truncated, damaged, or of another kind or a newer format.
pub fn load(path: &Path) -> Result<Checkpoint> {
    let mut file = open(path)?;
    let header = Header::read(path, &mut file)?;
    let metadata = header.metadata.as_deref().map(|ours| read_metadata(path, ours));
    let metadata = metadata.transpose()?.flatten();
    let (mut tensors, mut unread) = (BTreeMap::new(), BTreeMap::new());
    for array in header.arrays {
        match DType::ALL
            .into_iter()
            .find(|&ours| Some(stored_type(ours)) == array.known())
        {
            Some(dtype) => {
                let read = read_array(path, &mut file, &array, dtype)?;
                tensors.insert(array.name, read);
            }
            None => {
                file.seek_relative((array.end - array.begin) as i64)
                    .map_err(Error::io(path))?;
                unread.insert(array.name.clone(), array.shape());
            }
        }
    }
    if let Some(ours) = &header.metadata {
        tensors = sparse::complete(path, ours, tensors)?;
    }
    Ok(Checkpoint {
        path: path.into(),
        tensors,
        unread,
        metadata,
    })
}

/// An array in a safetensors file.
pub struct Stored {
    /// Name.
    pub name: String,
    /// Element type as spelt in the file.
    pub dtype: String,
    /// Dimensions.
    pub dims: Vec<usize>,
    /// First byte in the file.
    pub offset: u64,
}

/// The arrays of a safetensors file, whichever program wrote it, without reading their data.
///
/// # Errors
/// As [`load`].
pub fn layout(path: &Path) -> Result<Vec<Stored>> {
    let mut file = open(path)?;
    let header = Header::read(path, &mut file)?;
    let start = io::Seek::stream_position(&mut file).map_err(Error::io(path))?;
    let stored = |array: super::header::Entry| Stored {
        offset: start + array.begin as u64,
        name: array.name,
        dtype: array.dtype,
        dims: array.dims,
    };
    Ok(header.arrays.into_iter().map(stored).collect())
}

fn read_metadata(path: &Path, ours: &str) -> Result<Option<Metadata>> {
    #[derive(serde::Deserialize)]
    struct Version {
        format: u32,
        #[serde(default)]
        model: Option<IgnoredAny>,
    }
    let json = |error: serde_json::Error| damaged(path, &format!("metadata '{METADATA_KEY}': {error}"));
    // Check the version first: a newer format need not have the other fields.
    let version: Version = serde_json::from_str(ours).map_err(json)?;
    if version.format > FORMAT {
        return Err(Error::Format {
            path: path.into(),
            found: version.format,
        });
    }
    // A sparse file converted from another program's checkpoint has only a layout.
    if version.model.is_none() && sparse::has_layout(ours) {
        return Ok(None);
    }
    serde_json::from_str(ours).map(Some).map_err(json)
}

fn read_array(path: &Path, file: &mut File, array: &Entry, dtype: DType) -> Result<Literal> {
    let name = &array.name;
    let mut bytes = vec![0; array.end - array.begin];
    file.read_exact(&mut bytes).map_err(Error::io(path))?;
    if dtype == DType::Pred
        && let Some(found) = bytes.iter().find(|&&byte| byte > 1)
    {
        let reason = format!("tensor '{name}': boolean of value {found}, expected 0 or 1");
        return Err(damaged(path, &reason));
    }
    let shape = Shape::new(dtype, array.dims.clone());
    Literal::from_bytes(shape, bytes).ok_or_else(|| damaged(path, &format!("tensor '{name}': shape and size differ")))
}

/// Product of dimensions, or `None` if any stride in bytes overflows: a zero could hide an overflow of the others.
pub(super) fn elements(dims: &[usize], size: usize) -> Option<usize> {
    let mut extents = dims.iter().filter(|&&dim| dim > 0);
    extents.try_fold(size, |n, &dim| n.checked_mul(dim))?;
    Some(if dims.contains(&0) { 0 } else { dims.iter().product() })
}

/// Safetensors' name of an element type.
fn stored_type(dtype: DType) -> Dtype {
    match dtype {
        DType::Pred => Dtype::BOOL,
        DType::S32 => Dtype::I32,
        DType::S64 => Dtype::I64,
        DType::U8 => Dtype::U8,
        DType::U32 => Dtype::U32,
        DType::U64 => Dtype::U64,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn one_of_each() -> BTreeMap<String, Literal> {
        let array = |dtype: DType| {
            let shape = Shape::new(dtype, [2, 3]);
            let bytes = (0..shape.bytes())
                .map(|i| if dtype == DType::Pred { i % 2 } else { 7 * i } as u8)
                .collect();
            Literal::from_bytes(shape, bytes).unwrap()
        };
        let mut all: BTreeMap<_, _> = DType::ALL.map(|dtype| (format!("layer/{dtype}"), array(dtype))).into();
        all.insert("scalar".into(), Literal::scalar(-5i64));
        all.insert("empty".into(), Literal::zeros(Shape::new(DType::F32, [0, 4])));
        all
    }

    fn metadata() -> Metadata {
        let extra = [("b", "2"), ("a", "\"quoted\"\n")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        Metadata {
            extra: extra.into(),
            ..Metadata::new("mnist-fc", 1200, "seed = 1\n")
        }
    }

    #[test]
    fn round_trips_every_type_and_the_metadata() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        save(&path, &one_of_each(), &metadata()).unwrap();
        let loaded = load(&path).unwrap();
        assert_eq!((loaded.tensors, loaded.metadata), (one_of_each(), Some(metadata())));
    }

    #[test]
    fn same_state_same_bytes_and_the_container_agrees() {
        let bytes = || {
            let mut out = Vec::new();
            let text = serde_json::to_string(&metadata()).unwrap();
            let ours = HashMap::from([(METADATA_KEY.to_owned(), text)]);
            write(&mut out, &one_of_each(), Some(ours)).unwrap();
            out
        };
        assert_eq!(bytes(), bytes());
        let bytes = bytes();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(theirs.len(), one_of_each().len());
        for (name, array) in one_of_each() {
            let view = theirs.tensor(&name).unwrap();
            assert_eq!((view.shape(), view.data()), (array.dims(), array.bytes()), "{name}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_device_is_an_error() {
        let mut full = std::io::BufWriter::new(File::options().write(true).open("/dev/full").unwrap());
        let outcome = write(&mut full, &one_of_each(), None).and_then(|()| full.flush());
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
