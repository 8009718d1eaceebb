//! The data sets by name.

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
    /// ImageNet, or any other pictures in TFRecords with its features.
    ImageNet,
    /// Random examples in the network's form.
    Synthetic,
    /// Black images of the first class in the network's form, the original's stand-in for ImageNet (reference 4.2).
    Null,
}

/// One part of a data set.
#[derive(Clone)]
pub enum Examples {
    /// In memory.
    Whole(Dataset),
    /// In files, from which pictures are read as they are needed.
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

    /// Whether there is none, which is an error of all that make examples.
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

    /// Tells examples from others: of what is in memory by its bytes, of files by their names and where their records are.
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

/// How a network wants its examples.
#[derive(Clone, Copy, Debug)]
pub struct Form<'a> {
    /// Dimensions of an example.
    pub dims: &'a [usize],
    /// Number of classes.
    pub classes: usize,
    /// How many examples [`Set::Synthetic`] and [`Set::Null`] have, for training and for testing.
    pub examples: [usize; 2],
    /// Seed of [`Set::Synthetic`], and of the random changes that training makes to pictures in TFRecords.
    pub seed: u64,
    /// How such pictures are made ready.
    pub pictures: imagenet::Kind,
    /// How many of their files may be damaged.
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

    /// The data set of this name.
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

    /// Whether its examples are made for the network that asks for them.
    pub fn is_made_up(self) -> bool {
        matches!(self, Set::Synthetic | Set::Null)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        let named = Self::ALL.iter().find(|(_, set)| *set == self);
        named.map_or("", |(name, _)| name)
    }

    /// Number of classes; of what is made up, and of TFRecords, the most that any has here.
    pub fn classes(self) -> usize {
        match self {
            Set::Mnist | Set::FashionMnist => mnist::CLASSES,
            Set::Cifar10 => cifar::CLASSES,
            Set::ImageNet | Set::Synthetic | Set::Null => records::CLASSES,
        }
    }

    /// Published numbers of training and test examples; `synthetic` where there are none.
    pub fn examples(self, synthetic: [usize; 2]) -> [usize; 2] {
        match self {
            Set::Mnist | Set::FashionMnist => mnist::EXAMPLES,
            Set::Cifar10 => cifar::EXAMPLES,
            Set::ImageNet => records::EXAMPLES,
            Set::Synthetic | Set::Null => synthetic,
        }
    }

    /// Whether its files are where they should be, by their names; those that would be fetched are not looked for.
    ///
    /// # Errors
    /// A folder that is not there, or without a file of the set.
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

    /// One part of it, in the form that a network takes as far as there is one. Files come from `dir`, or from the cache
    /// when that is empty, into which they are fetched where that is possible.
    ///
    /// # Errors
    /// Files that cannot be had or read.
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

    /// The folder with its files: `dir`, or one in the cache when that is empty.
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
        // In no package that we know of, so someone has to put it there.
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
        // What can be fetched is among them.
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
