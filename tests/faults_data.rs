//! Data files that are absent, truncated, damaged or of the wrong kind: one clear error each, and never a panic or an
//! allocation that the file's content does not justify.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use rigl_xla::data::{Error, Split, idx, mnist};

/// A folder with a training set of 3 images whose files the test then damages.
struct Folder(tempfile::TempDir);

const IMAGES: &str = "train-images-idx3-ubyte";
const LABELS: &str = "train-labels-idx1-ubyte";

impl Folder {
    fn new() -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        idx::write(&folder.path(IMAGES), &hlo::Literal::new(&[3, 28, 28], &[8u8; 3 * 784])).unwrap();
        idx::write(&folder.path(LABELS), &hlo::Literal::new(&[3], &[0u8, 9, 5])).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.path(name)).unwrap();
        edit(&mut bytes);
        fs::write(self.path(name), bytes).unwrap();
    }

    /// Loads, and gives the error's message less the folder.
    fn error_text(&self) -> String {
        let message = mnist::load(self.0.path(), Split::Train).unwrap_err().to_string();
        message.replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn the_undamaged_folder_loads() {
    assert_eq!(mnist::load(Folder::new().0.path(), Split::Train).unwrap().len(), 3);
}

#[test]
fn faults_name_file_found_and_expected() {
    type Edit = fn(&mut Vec<u8>);
    let cases: [(&str, Edit, &str); 11] = [
        (
            IMAGES,
            |b| b.truncate(2000),
            "truncated: 2000 bytes, expected 2368 (uncompressed)",
        ),
        (
            IMAGES,
            |b| b.truncate(10),
            "truncated: 10 bytes, expected 16 (uncompressed)",
        ),
        (IMAGES, |b| b.clear(), "truncated: 0 bytes, expected 16 (uncompressed)"),
        (
            IMAGES,
            |b| b.extend([0; 5]),
            "trailing bytes: 2373 bytes, expected 2368 (uncompressed)",
        ),
        (
            IMAGES,
            |b| b[..2].copy_from_slice(b"PK"),
            "not an IDX file: it starts with [50, 4b], expected [00, 00]; this is a zip archive: unpack it",
        ),
        (
            IMAGES,
            |b| b[2] = 0x0d,
            "IDX element type 0x0d, expected 0x08 (unsigned bytes)",
        ),
        (IMAGES, |b| b[3] = 1, "IDX array of rank 1, expected rank 3"),
        (
            IMAGES,
            |b| (b[7], b[11]) = (1, 3 * 28),
            "images of [1, 84, 28], expected at least one of [28, 28]",
        ),
        (LABELS, |b| b[9] = 10, "label 10 at index 1, expected less than 10"),
        (
            LABELS,
            |b| b[7] = 200,
            "truncated: 11 bytes, expected 208 (uncompressed)",
        ),
        (
            LABELS,
            |b| b.truncate(4),
            "truncated: 4 bytes, expected 8 (uncompressed)",
        ),
    ];
    for (name, edit, expected) in cases {
        let folder = Folder::new();
        folder.edit(name, edit);
        assert_eq!(folder.error_text(), format!("{name}: {expected}"));
        // Gzipped, the same fault has the same message.
        folder.edit(name, |bytes| *bytes = gzip(bytes));
        assert_eq!(folder.error_text(), format!("{name}: {expected}"));
    }
}

#[test]
fn rejects_an_empty_set() {
    let folder = Folder::new();
    idx::write(&folder.path(IMAGES), &hlo::Literal::new::<u8>(&[0, 28, 28], &[])).unwrap();
    assert!(
        folder
            .error_text()
            .contains("images of [0, 28, 28], expected at least one")
    );
}

#[test]
fn counts_must_agree() {
    let folder = Folder::new();
    idx::write(&folder.path(LABELS), &hlo::Literal::new(&[2], &[1u8, 2])).unwrap();
    assert_eq!(
        folder.error_text(),
        format!("{IMAGES} has 3 images, but {LABELS} has 2 labels; expected as many")
    );
}

#[test]
fn does_not_allocate_for_absent_data() {
    // Dimensions of 2^32-1: beyond 64 bits in all, and a claim of 16 EiB that fits into 64 bits.
    for dims in [[u32::MAX; 3], [u32::MAX, u32::MAX, 1]] {
        let header: Vec<_> = [0, 0, 8, 3]
            .into_iter()
            .chain(dims.iter().flat_map(|d| d.to_be_bytes()))
            .collect();
        for bytes in [header.clone(), gzip(&header)] {
            let folder = Folder::new();
            folder.edit(IMAGES, |file| *file = bytes);
            let error = mnist::load(folder.0.path(), Split::Train).unwrap_err();
            assert!(
                matches!(
                    error,
                    Error::Overflow { .. } | Error::Truncated { found: 16, .. } | Error::TooLarge { .. }
                ),
                "{error}"
            );
        }
    }
}

#[test]
fn rejects_corrupt_gzip() {
    let whole = gzip(&fs::read(Folder::new().path(IMAGES)).unwrap());
    for cut in 2..whole.len() {
        let folder = Folder::new();
        folder.edit(IMAGES, |file| *file = whole[..cut].to_vec());
        assert!(folder.error_text().starts_with(IMAGES), "cut at {cut}");
    }
    let folder = Folder::new();
    let sum = whole.len() - 8;
    folder.edit(IMAGES, |file| *file = whole.clone());
    folder.edit(IMAGES, |file| file[sum] ^= 1);
    assert!(folder.error_text().contains("corrupt"), "{}", folder.error_text());
}

#[test]
fn names_absent_files_and_the_expected_ones() {
    let folder = Folder::new();
    fs::remove_file(folder.path(LABELS)).unwrap();
    let message = folder.error_text();
    assert!(message.ends_with(&format!(
        "found none of {LABELS}, {LABELS}.gz, train-labels.idx1-ubyte, train-labels.idx1-ubyte.gz"
    )));
    let message = mnist::load(Path::new("no/such/folder"), Split::Test)
        .unwrap_err()
        .to_string();
    assert!(message.starts_with("no/such/folder: found none of t10k-images-idx3-ubyte"));
    assert!(matches!(idx::read(folder.0.path(), 1), Err(Error::Io { .. })));
}
