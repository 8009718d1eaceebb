//! NumPy's `.npy` and `.npz` formats.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use zip::{CompressionMethod, ZipArchive};

use super::files::{Found, Part};
use super::{Error, Result, Source, Stored};
use crate::data::MAX_SET_BYTES;

const MAGIC: &[u8] = b"\x93NUMPY";
/// Maximum size of the text of a header; NumPy writes 128 bytes.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// Maximum number of arrays in an archive.
const MAX_MEMBERS: usize = 4096;
const MAX_RANK: usize = 32;

/// Type, dimensions, and bytes before the data.
#[derive(Debug, PartialEq)]
struct Header {
    stored: Stored,
    dims: Vec<usize>,
    length: u64,
}

impl Header {
    fn bytes(&self) -> Option<u64> {
        let elements = self.dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64))?;
        elements
            .checked_mul(self.stored.bytes() as u64)
            .filter(|&n| n < 1 << 62)
    }

    fn read(input: &mut impl Read) -> std::result::Result<Self, String> {
        let cut = |_| "truncated header".to_owned();
        let mut start = [0; 8];
        input.read_exact(&mut start).map_err(cut)?;
        if &start[..6] != MAGIC {
            return Err("not an array of NumPy".into());
        }
        let (wide, mut size) = (start[6] >= 2, [0; 4]);
        let used = if wide { 4 } else { 2 };
        input.read_exact(&mut size[..used]).map_err(cut)?;
        let size = u32::from_le_bytes(size) as usize;
        if size > MAX_HEADER_BYTES || start[6] > 3 {
            return Err(format!("header of {size} bytes, version {}", start[6]));
        }
        let mut text = vec![0; size];
        input.read_exact(&mut text).map_err(cut)?;
        let (stored, dims) = parse(&String::from_utf8_lossy(&text))?;
        let header = Header {
            stored,
            dims,
            length: (8 + used + size) as u64,
        };
        match header.bytes() {
            Some(_) => Ok(header),
            None => Err(format!("dimensions {:?} are too large for any file", header.dims)),
        }
    }
}

/// Reads the dictionary of a header: `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
fn parse(text: &str) -> std::result::Result<(Stored, Vec<usize>), String> {
    let value = |key: &str| {
        let (_, rest) = text.split_once(&format!("'{key}':"))?;
        Some(rest.trim_start())
    };
    let lacks = |key: &str| format!("its header has no '{key}'");
    let descr = value("descr").ok_or_else(|| lacks("descr"))?;
    let name = descr.strip_prefix('\'').and_then(|rest| rest.split('\'').next());
    let stored = name.and_then(Stored::of_numpy).ok_or_else(|| {
        let shown: String = descr.chars().take(20).collect();
        format!(
            "elements of type {}, expected little-endian numbers or bool",
            shown.escape_debug()
        )
    })?;
    let shape = value("shape").and_then(|rest| rest.strip_prefix('(')?.split(')').next());
    let shape = shape.ok_or_else(|| lacks("shape"))?;
    let dims = shape
        .split(',')
        .map(str::trim)
        .filter(|dim| !dim.is_empty())
        .map(str::parse);
    let dims: Vec<usize> = dims
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| lacks("shape"))?;
    let fortran = value("fortran_order").ok_or_else(|| lacks("fortran_order"))?;
    if !fortran.starts_with("False") && dims.len() > 1 {
        return Err("Fortran order; save it with numpy.ascontiguousarray".into());
    }
    match dims.len() <= MAX_RANK {
        true => Ok((stored, dims)),
        false => Err(format!("rank {}, expected at most {MAX_RANK}", dims.len())),
    }
}

/// The array of an `.npy` file.
pub(super) fn npy(path: &Path, file: File, name: &str, part: Option<Part>) -> Result<Found> {
    let failed = |problem| Error::Npy {
        path: path.into(),
        name: name.into(),
        problem,
    };
    let header = Header::read(&mut &file).map_err(failed)?;
    let found = file.metadata().map_err(Error::io(path))?.len();
    let expected = header.length + header.bytes().unwrap_or(u64::MAX);
    if found < expected {
        return Err(failed(format!("truncated: {found} bytes, expected {expected}")));
    }
    Ok(Found {
        part,
        path: path.into(),
        name: name.into(),
        stored: header.stored,
        dims: header.dims,
        source: Source::File {
            file: Arc::new(file),
            offset: header.length,
        },
    })
}

/// The arrays of an `.npz` file.
pub(super) fn npz(path: &Path, file: File) -> Result<Vec<Found>> {
    let failed = |problem: String| Error::Npz {
        path: path.into(),
        problem,
    };
    let zip = |error: zip::result::ZipError| failed(format!("not an .npz file: {error}"));
    let shared = Arc::new(file.try_clone().map_err(Error::io(path))?);
    let length = file.metadata().map_err(Error::io(path))?.len();
    let mut archive = ZipArchive::new(file).map_err(zip)?;
    if archive.len() > MAX_MEMBERS {
        return Err(failed(format!(
            "{} members, expected at most {MAX_MEMBERS}",
            archive.len()
        )));
    }
    let (mut found, mut unpacked) = (vec![], 0u64);
    for index in 0..archive.len() {
        let mut member = archive.by_index(index).map_err(zip)?;
        let full = member.name().map_err(zip)?.into_owned();
        let Some(name) = full.strip_suffix(".npy").map(str::to_owned) else {
            continue;
        };
        let problem = |problem: String| Error::Npy {
            path: path.into(),
            name: name.clone(),
            problem,
        };
        let header = Header::read(&mut member).map_err(problem)?;
        let size = header.bytes().unwrap_or(u64::MAX);
        let stored_as_is = member.compression() == CompressionMethod::Stored;
        let start = member.data_start().filter(|_| stored_as_is);
        let source = match start {
            Some(start) => {
                let offset = start + header.length;
                if offset.checked_add(size).is_none_or(|end| end > length) {
                    return Err(problem(format!("truncated: expected {size} bytes")));
                }
                Source::File {
                    file: Arc::clone(&shared),
                    offset,
                }
            }
            None => {
                unpacked = unpacked.saturating_add(size);
                if unpacked > MAX_SET_BYTES {
                    let what = format!("{unpacked} bytes of compressed arrays, expected at most {MAX_SET_BYTES}");
                    return Err(problem(format!(
                        "{what}; save them with numpy.savez, which is read on demand"
                    )));
                }
                let mut bytes = vec![];
                member
                    .by_ref()
                    .take(size)
                    .read_to_end(&mut bytes)
                    .map_err(Error::io(path))?;
                if bytes.len() as u64 != size {
                    return Err(problem(format!("truncated: {} bytes, expected {size}", bytes.len())));
                }
                Source::Memory(Arc::new(bytes))
            }
        };
        let (part, name) = Part::of(&name);
        found.push(Found {
            part,
            path: path.into(),
            name: name.to_owned(),
            stored: header.stored,
            dims: header.dims,
            source,
        });
    }
    Ok(found)
}

/// Whether a file starts like an archive or an array.
pub(super) fn starts_like(file: &mut File) -> std::io::Result<[bool; 2]> {
    let mut start = vec![];
    file.by_ref().take(MAGIC.len() as u64).read_to_end(&mut start)?;
    file.seek(SeekFrom::Start(0))?;
    Ok([start.starts_with(b"PK"), start == MAGIC])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_numpy_are_read() {
        let of = |text: &str| parse(text);
        let whole = "{'descr': '<i8', 'fortran_order': False, 'shape': (5, 3), }   \n";
        assert_eq!(of(whole), Ok((Stored::I64, vec![5, 3])));
        assert_eq!(of(&whole.replace("(5, 3)", "(7,)")), Ok((Stored::I64, vec![7])));
        assert_eq!(of(&whole.replace("(5, 3)", "()")), Ok((Stored::I64, vec![])));
        for (from, to) in [
            ("False", "True"),
            ("<i8", ">i8"),
            ("<i8", "|O"),
            ("(5, 3)", "(-5,)"),
            ("'shape'", "'s'"),
        ] {
            assert!(of(&whole.replace(from, to)).is_err(), "{to}");
        }
    }

    #[test]
    fn damaged_headers_are_refused() {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }\n";
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        assert!(Header::read(&mut &bytes[..]).is_ok());
        for cut in 0..bytes.len() {
            assert!(Header::read(&mut &bytes[..cut]).is_err(), "{cut}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let _ = Header::read(&mut &damaged[..]);
            }
        }
    }
}
