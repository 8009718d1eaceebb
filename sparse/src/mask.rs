//! Random masks with exactly the budgeted zeros (reference 1.2).

use std::{fmt, str::FromStr};

use super::{Budget, error::Error, numpy_rng::NumpyRng};
use crate::rng::{BoundedRng, stream};

/// Generator of the initial masks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaskSeedCompat {
    /// A stream per layer, by its name.
    #[default]
    Native,
    /// NumPy's legacy generator, one for all layers in order. Gives the masks of the original's MNIST program.
    Numpy,
}

impl FromStr for MaskSeedCompat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "native" => Ok(Self::Native),
            "numpy" => Ok(Self::Numpy),
            _ => Err(Error::unknown("mask-seed compatibility", name, ["native", "numpy"])),
        }
    }
}

impl fmt::Display for MaskSeedCompat {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Self::Native => "native",
            Self::Numpy => "numpy",
        })
    }
}

/// Returns a random mask of `n` entries with exactly `zeros` (at most `n`) false ones.
pub fn random_mask(n: usize, zeros: usize, rng: &mut impl BoundedRng) -> Vec<bool> {
    let mut mask = vec![true; n];
    mask[..zeros.min(n)].fill(false);
    rng.shuffle(&mut mask);
    mask
}

/// Random initial masks, in the order of `budgets`.
///
/// # Errors
/// [`Error::Value`] for a seed of more than 32 bits with [`MaskSeedCompat::Numpy`]; NumPy refuses it too.
pub fn initial_masks(budgets: &[Budget], seed: u64, compat: MaskSeedCompat) -> Result<Vec<Vec<bool>>, Error> {
    match compat {
        MaskSeedCompat::Native => Ok(budgets
            .iter()
            .map(|b| draw(b, &mut stream(seed, "mask", &b.name, 0)))
            .collect()),
        MaskSeedCompat::Numpy => {
            let mut rng = NumpyRng::new(u32::try_from(seed).map_err(|_| Error::Value {
                name: "--seed".into(),
                found: seed.to_string(),
                expected: "at most 4294967295 with --mask-seed-compat numpy",
            })?);
            Ok(budgets.iter().map(|b| draw(b, &mut rng)).collect())
        }
    }
}

fn draw(budget: &Budget, rng: &mut impl BoundedRng) -> Vec<bool> {
    random_mask(budget.zeros + budget.nonzeros, budget.zeros, rng)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{BudgetOptions, Distribution, Layer, budgets};

    #[test]
    fn native_masks_depend_only_on_seed_and_name() {
        let layers = [Layer::new("a", [20, 30]), Layer::new("b", [20, 30])];
        let options = BudgetOptions::new(Distribution::Uniform, 0.5);
        let forward = initial_masks(&budgets(&layers, &options).unwrap(), 1, MaskSeedCompat::Native).unwrap();
        let reversed = [layers[1].clone(), layers[0].clone()];
        let backward = initial_masks(&budgets(&reversed, &options).unwrap(), 1, MaskSeedCompat::Native).unwrap();
        assert_eq!(forward, [backward[1].clone(), backward[0].clone()]);
        assert_ne!(forward[0], forward[1]);
        let other = initial_masks(&budgets(&layers, &options).unwrap(), 2, MaskSeedCompat::Native).unwrap();
        assert_ne!(forward[0], other[0]);
        assert_eq!(forward[0].iter().filter(|&&m| m).count(), 300);
    }

    #[test]
    fn rejects_numpy_seeds_of_more_than_32_bits() {
        let error = initial_masks(&[], 1 << 32, MaskSeedCompat::Numpy).unwrap_err();
        assert!(error.to_string().contains("4294967296"), "{error}");
        assert!(initial_masks(&[], (1 << 32) - 1, MaskSeedCompat::Numpy).is_ok());
    }
}
