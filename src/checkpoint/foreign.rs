//! Detects other kinds of files given as checkpoints by their first bytes, so that the error can name them.

use std::path::Path;

use super::{Error, Result, tf};

/// Number of bytes inspected at the start of a file.
pub(super) const LOOKED_AT: u64 = 4096;

/// A kind of file: its first bytes, its description, and how to get a checkpoint from it.
struct Kind {
    begins: &'static [u8],
    is: &'static str,
    advice: &'static str,
}

const fn kind(begins: &'static [u8], is: &'static str, advice: &'static str) -> Kind {
    Kind { begins, is, advice }
}

const PYTORCH: &str = "make a safetensors file of its state dict in Python: import torch, safetensors.torch as s; s.save_file({k: v.contiguous() for k, v in torch.load(\"FILE.pth\", \"cpu\", weights_only=True).items()}, \"FILE.safetensors\")";
const UNPACK: &str = "unpack it first";
const OTHER: &str = "give the checkpoint itself";

/// The first match wins.
const KINDS: &[Kind] = &[
    kind(
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, which stands for a file that was not downloaded",
        "run `git lfs pull` where it was cloned",
    ),
    kind(
        b"PK\x03\x04",
        "a zip archive, as PyTorch saves .pth files (pickle)",
        PYTORCH,
    ),
    kind(
        b"\x80\x02",
        "a Python pickle, as PyTorch saved .pth files before 1.6",
        PYTORCH,
    ),
    kind(b"\x80\x03", "a Python pickle", PYTORCH),
    kind(b"\x80\x04", "a Python pickle", PYTORCH),
    kind(b"\x80\x05", "a Python pickle", PYTORCH),
    kind(b"\x1f\x8b", "compressed by gzip", UNPACK),
    kind(b"\x28\xb5\x2f\xfd", "compressed by zstd", UNPACK),
    kind(b"\xfd7zXZ\0", "compressed by xz", UNPACK),
    kind(b"BZh", "compressed by bzip2", UNPACK),
    kind(
        b"\x89HDF\r\n",
        "an HDF5 file, as Keras saves .h5 files",
        "load it in TensorFlow and save it as safetensors, or as a TensorFlow checkpoint for `rigl-xla convert`",
    ),
    kind(
        b"\x93NUMPY",
        "a NumPy array",
        "save it with safetensors.numpy.save_file, under the name of a variable",
    ),
    kind(
        b"GGUF",
        "a GGUF file",
        "take the model's safetensors files, which it was made from",
    ),
    kind(b"\xff\xd8\xff", "a JPEG picture", OTHER),
    kind(b"\x89PNG\r\n", "a PNG picture", OTHER),
    kind(b"%PDF", "a PDF document", OTHER),
    kind(b"\x7fELF", "a program or library", OTHER),
];

const WEB_PAGE: Kind = kind(
    b"",
    "a web page, as a server sends it in the place of a file",
    "download the file itself, logged in where that is needed",
);
const SHARDED: Kind = kind(
    b"",
    "the index of a checkpoint in several safetensors files",
    "join them into one file: safetensors.torch.save_file of the tensors of all",
);
const JSON: Kind = kind(b"", "a JSON file", OTHER);
const TENSORFLOW: Kind = kind(
    b"",
    "a TensorFlow checkpoint, or part of one",
    "make a safetensors file of it: rigl-xla convert PREFIX OUT.safetensors",
);

/// Refuses a file whose first bytes belong to a kind other than safetensors.
///
/// # Errors
/// [`Error::OtherKind`].
pub(super) fn refuse(path: &Path, start: &[u8]) -> Result<()> {
    if is_safetensors(start) {
        return Ok(());
    }
    match (kind_of(start), tensorflow(path)) {
        (Some(kind), _) => Err(kind.error(path)),
        (None, Some(error)) => Err(error),
        (None, None) => Ok(()),
    }
}

/// Describes a file of another kind by its first bytes, with advice.
pub(super) fn identify(start: &[u8]) -> Option<(&'static str, &'static str)> {
    let start = start.get(..LOOKED_AT as usize).unwrap_or(start);
    kind_of(start).map(|kind| (kind.is, kind.advice))
}

/// Returns an error if this path is a TensorFlow checkpoint: its prefix, one of its files, or its folder.
pub(super) fn tensorflow(path: &Path) -> Option<Error> {
    tf::resolve(path).is_ok().then(|| TENSORFLOW.error(path))
}

impl Kind {
    fn error(&self, path: &Path) -> Error {
        Error::OtherKind {
            path: path.into(),
            found: self.is,
            advice: self.advice,
        }
    }
}

/// Whether a file begins with a header length and a JSON object.
fn is_safetensors(start: &[u8]) -> bool {
    let header = start.get(8..).unwrap_or_default().trim_ascii_start();
    let length = start.first_chunk().map(|&bytes| u64::from_le_bytes(bytes));
    header.first() == Some(&b'{') && length.is_some_and(|length| length < 1 << 40)
}

fn kind_of(start: &[u8]) -> Option<&'static Kind> {
    let text = start.trim_ascii_start();
    if text.first() == Some(&b'{') {
        let has = |key: &[u8]| text.windows(key.len()).any(|window| window == key);
        return Some(if has(b"\"weight_map\"") { &SHARDED } else { &JSON });
    }
    let page = |begins: &str| {
        text.get(..begins.len())
            .is_some_and(|t| t.eq_ignore_ascii_case(begins.as_bytes()))
    };
    if ["<!doctype", "<html", "<?xml", "<head"].into_iter().any(page) {
        return Some(&WEB_PAGE);
    }
    KINDS.iter().find(|kind| start.starts_with(kind.begins))
}
