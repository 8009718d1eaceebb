//! MNIST and data sets of the same format (Fashion-MNIST): 28x28 grey images in ten classes, in four IDX files.

use std::fs;
use std::path::{Path, PathBuf};

use hlo::{DType, Literal, Shape};

use super::{Dataset, Error, Result, Split, idx};

/// Number of examples in the published training and test sets.
pub const EXAMPLES: [usize; 2] = [60_000, 10_000];
/// Height and width of an image.
pub const SIDE: usize = 28;
/// Number of classes.
pub const CLASSES: usize = 10;

/// Subfolders that may hold the files: torchvision's layout.
const FOLDERS: [&str; 4] = ["", "raw", "MNIST/raw", "FashionMNIST/raw"];

/// Reads one split: images `u8[N, 784]`, labels `s32[N]` (reference 4.4: 60000 train, 10000 test).
///
/// The files are `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and `t10k-…`, optionally spelt with a dot
/// (`train-images.idx3-ubyte`) or in capitals, each optionally gzipped, in `dir` or in torchvision's subfolder. If
/// several spellings exist, the first in this order is read.
///
/// # Errors
/// A missing file, any error of [`idx::read`], images that are not 28x28, labels of at least [`CLASSES`], counts that
/// differ, or files in several of torchvision's folders.
pub fn load(dir: &Path, split: Split) -> Result<Dataset> {
    let [images_path, labels_path] = files(dir, split)?;
    let labels = read_labels(&labels_path)?;
    let images = read_images(&images_path)?;
    match (images.dims()[0], labels.len()) {
        (images, labels) if images != labels => Err(Error::Count {
            images_path,
            images,
            labels_path,
            labels,
        }),
        _ => Ok(Dataset {
            images,
            labels: Literal::new(&[labels.len()], &labels),
            classes: CLASSES,
        }),
    }
}

/// Returns the image and label files of a split.
///
/// # Errors
/// A missing file, or files in several of torchvision's folders.
pub fn files(dir: &Path, split: Split) -> Result<[PathBuf; 2]> {
    let dir = &folder(dir)?;
    let part = part(split);
    Ok([
        find(dir, &format!("{part}-images"), "idx3-ubyte")?,
        find(dir, &format!("{part}-labels"), "idx1-ubyte")?,
    ])
}

fn part(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::Test => "t10k",
    }
}

/// Whether a folder holds images of either split.
pub fn is_in(dir: &Path) -> bool {
    FOLDERS.iter().any(|inner| holds_images(&dir.join(inner)))
}

fn holds_images(dir: &Path) -> bool {
    let images = |split| find(dir, &format!("{}-images", part(split)), "idx3-ubyte");
    [Split::Train, Split::Test]
        .into_iter()
        .any(|split| images(split).is_ok())
}

/// Returns the folder with the files: `dir` or a subfolder; `dir` if there are none.
fn folder(dir: &Path) -> Result<PathBuf> {
    let mut found = FOLDERS
        .iter()
        .map(|inner| dir.join(inner))
        .filter(|dir| holds_images(dir));
    match (found.next(), found.next()) {
        (Some(first), Some(second)) if first != dir => Err(Error::SeveralSets { first, second }),
        (Some(first), _) => Ok(first),
        (None, _) => Ok(dir.into()),
    }
}

/// `u8[N, 784]`, N at least 1.
fn read_images(path: &Path) -> Result<Literal> {
    let images = idx::read(path, 3)?;
    let found = images.dims().to_vec();
    let flat = Shape::new(DType::U8, [found[0], SIDE * SIDE]);
    match Literal::from_bytes(flat, images.into_bytes()) {
        Some(images) if found[0] > 0 && found[1..] == [SIDE, SIDE] => Ok(images),
        _ => Err(Error::ImageSize {
            path: path.into(),
            found,
            expected: vec![SIDE, SIDE],
        }),
    }
}

fn read_labels(path: &Path) -> Result<Vec<i32>> {
    let labels = idx::read(path, 1)?;
    match labels.bytes().iter().position(|&label| usize::from(label) >= CLASSES) {
        Some(index) => Err(Error::Label {
            path: path.into(),
            index,
            found: labels.bytes()[index],
            classes: CLASSES,
        }),
        None => Ok(labels.bytes().iter().copied().map(i32::from).collect()),
    }
}

fn find(dir: &Path, stem: &str, kind: &str) -> Result<PathBuf> {
    let names = ["-", "."].map(|sep| format!("{stem}{sep}{kind}"));
    let names: Vec<_> = names
        .iter()
        .flat_map(|name| [name.clone(), format!("{name}.gz")])
        .collect();
    // A special file counts as found; reading it reports the error.
    let exact = |name: &String| Some(dir.join(name)).filter(|path| path.exists() && !path.is_dir());
    let found = names.iter().find_map(exact);
    let found = found.or_else(|| names.iter().find_map(|name| in_other_case(dir, name)));
    found.ok_or_else(|| Error::Missing {
        dir: dir.into(),
        expected: names,
    })
}

/// Finds a file whose name equals `name` except for case.
pub(super) fn in_other_case(dir: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found = entries.filter(|path| {
        let found = path.file_name().and_then(|found| found.to_str());
        found.is_some_and(|found| found.eq_ignore_ascii_case(name)) && !path.is_dir()
    });
    found.next()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_spelling() {
        let images = Literal::new(&[2, SIDE, SIDE], &vec![7u8; 2 * SIDE * SIDE]);
        let labels = Literal::new(&[2], &[9u8, 0]);
        for (sep, gz) in [("-", ""), ("-", ".gz"), (".", ""), (".", ".gz")] {
            let dir = tempfile::tempdir().unwrap();
            idx::write(&dir.path().join(format!("t10k-images{sep}idx3-ubyte{gz}")), &images).unwrap();
            idx::write(&dir.path().join(format!("t10k-labels{sep}idx1-ubyte{gz}")), &labels).unwrap();
            let test = load(dir.path(), Split::Test).unwrap();
            assert_eq!((test.len(), test.images.dims()), (2, &[2, 784][..]));
            assert_eq!(test.labels.to_vec::<i32>().unwrap(), [9, 0]);
            assert!(
                load(dir.path(), Split::Train)
                    .unwrap_err()
                    .to_string()
                    .contains("train-images.idx3-ubyte.gz")
            );
        }
    }
}
