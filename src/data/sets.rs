//! The data sets by name.

use std::path::{Path, PathBuf};

use super::{Dataset, Error, Result, Split, cifar, fetch, mnist, resize, synthetic};
use crate::cache;
use crate::names::nearest;

/// A data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// MNIST.
    Mnist,
    /// Fashion-MNIST.
    FashionMnist,
    /// CIFAR-10.
    Cifar10,
    /// ImageNet, which cannot be read yet.
    ImageNet,
    /// Random examples in the network's form.
    Synthetic,
}

/// How a network wants its examples.
#[derive(Clone, Copy, Debug)]
pub struct Form<'a> {
    /// Dimensions of an example.
    pub dims: &'a [usize],
    /// Number of classes.
    pub classes: usize,
    /// How many examples [`Set::Synthetic`] has, for training and for testing.
    pub examples: [usize; 2],
    /// Seed of [`Set::Synthetic`].
    pub seed: u64,
}

impl Set {
    /// Every data set with its name.
    pub const ALL: [(&'static str, Set); 5] = [
        ("mnist", Set::Mnist),
        ("fashion-mnist", Set::FashionMnist),
        ("cifar10", Set::Cifar10),
        ("imagenet", Set::ImageNet),
        ("synthetic", Set::Synthetic),
    ];

    /// The data set of this name.
    ///
    /// # Errors
    /// [`Error::UnknownName`], which offers the nearest.
    pub fn find(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, set)| *set).ok_or_else(|| {
            let known = Self::ALL.map(|(known, _)| known);
            Error::UnknownName {
                found: name.into(),
                nearest: nearest(name, known),
                known: known.to_vec(),
            }
        })
    }

    /// The data set that a folder holds, by its files: CIFAR-10, or one in IDX form.
    pub fn in_folder(dir: &Path) -> Self {
        match cifar::folder(dir).join(cifar::TEST_FILE).is_file() {
            true => Set::Cifar10,
            false => Set::Mnist,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        let named = Self::ALL.iter().find(|(_, set)| *set == self);
        named.map_or("", |(name, _)| name)
    }

    /// Published numbers of training and test examples; `synthetic` where there are none.
    pub fn examples(self, synthetic: [usize; 2]) -> [usize; 2] {
        match self {
            Set::Mnist | Set::FashionMnist => mnist::EXAMPLES,
            Set::Cifar10 => cifar::EXAMPLES,
            Set::ImageNet => [1_281_167, 50_000],
            Set::Synthetic => synthetic,
        }
    }

    /// One part of it, in the form that a network takes as far as there is one. Files come from `dir`, or from the cache
    /// when that is empty, into which they are fetched where that is possible.
    ///
    /// # Errors
    /// Files that cannot be had or read, or a data set that cannot be read at all.
    pub fn load(self, dir: &str, split: Split, form: &Form) -> Result<Dataset> {
        let set = match self {
            Set::Mnist | Set::FashionMnist => mnist::load(&self.folder(dir)?, split)?,
            Set::Cifar10 => cifar::load(&self.folder(dir)?, split)?,
            Set::ImageNet => return Err(Error::NoReader { name: self.name() }),
            Set::Synthetic => {
                let [train, test] = form.examples;
                let examples = if split == Split::Train { train } else { test };
                synthetic::generate(form.dims, form.classes, examples, split, form.seed)
            }
        };
        Ok(resize::fit(set, form.dims))
    }

    /// The folder with its files.
    fn folder(self, dir: &str) -> Result<PathBuf> {
        if !dir.is_empty() {
            return Ok(dir.into());
        }
        if self != Set::Cifar10 {
            return fetch::ensure(self.name());
        }
        // In no package that we know of, so someone has to put it there.
        let folder = cache::dir().map_err(Error::Cache)?.join("data").join(self.name());
        match folder.is_dir() {
            true => Ok(folder),
            false => Err(Error::NotFetched {
                name: self.name(),
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
        assert!(message.ends_with("did you mean 'cifar10'?"), "{message}");
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
        };
        let load = |set: Set, dir: &str| set.load(dir, Split::Train, &form);
        let message = load(Set::ImageNet, "").unwrap_err().to_string();
        assert!(
            message.starts_with("imagenet: ") && message.contains("synthetic"),
            "{message}"
        );
        let message = load(Set::Cifar10, "no/such/folder").unwrap_err().to_string();
        assert!(
            message.starts_with("no/such/folder: found none of data_batch_1.bin"),
            "{message}"
        );
        let synthetic = load(Set::Synthetic, "").unwrap();
        assert_eq!(synthetic.images.dims(), [3, 2, 2, 3]);
        assert_eq!(Set::Synthetic.load("", Split::Test, &form).unwrap().len(), 1);
    }
}
