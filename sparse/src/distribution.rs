//! How many zeros each layer gets: uniform, Erdős–Rényi and Erdős–Rényi-Kernel (reference 1.1, 1.3-1.5).
//!
//! Every figure is IEEE double arithmetic in the original's order, so that budgets agree to the last connection.

use std::collections::{BTreeMap, BTreeSet};
use std::{fmt, str::FromStr};

use super::error::Error;
use crate::names::nearest;

/// How the sparsity of the network is distributed over its layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distribution {
    /// Every layer gets the network's sparsity.
    #[default]
    Uniform,
    /// Density proportional to `(n_in + n_out) / (n_in * n_out)`, the last two dimensions.
    ErdosRenyi,
    /// Density proportional to `(sum(dims) / product(dims))^power_scale`.
    Erk,
    /// The sparsities that STR learned for the layers of ResNet-50, at 16 levels.
    Str,
}

/// Accepted spellings; the first of each distribution is the original's and the one printed.
const NAMES: [(&str, Distribution); 7] = [
    ("random", Distribution::Uniform),
    ("uniform", Distribution::Uniform),
    ("erdos_renyi", Distribution::ErdosRenyi),
    ("er", Distribution::ErdosRenyi),
    ("erdos_renyi_kernel", Distribution::Erk),
    ("erk", Distribution::Erk),
    ("str", Distribution::Str),
];

impl FromStr for Distribution {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let named = NAMES.iter().find(|(known, _)| *known == name);
        named
            .map(|(_, distribution)| *distribution)
            .ok_or_else(|| Error::unknown("distribution", name, NAMES.map(|(known, _)| known)))
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Self::Uniform => "uniform",
            Self::ErdosRenyi => "erdos_renyi",
            Self::Erk => "erdos_renyi_kernel",
            Self::Str => "str",
        })
    }
}

/// Rounding of the number of zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// Down, the original's rule since October 2020.
    #[default]
    Floor,
    /// Up, the rule behind the published tables and checkpoints.
    Ceil,
}

impl FromStr for Rounding {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "floor" => Ok(Self::Floor),
            "ceil" => Ok(Self::Ceil),
            _ => Err(Error::unknown("rounding", name, ["floor", "ceil"])),
        }
    }
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Self::Floor => "floor",
            Self::Ceil => "ceil",
        })
    }
}

/// Number of zeros among `n` weights at `sparsity` (share of zeros, in `[0, 1]`): the product in double precision,
/// rounded, at most `n` (reference 1.1).
pub fn n_zeros(n: usize, sparsity: f64, rounding: Rounding) -> usize {
    let zeros = sparsity * n as f64;
    let whole = match rounding {
        Rounding::Floor => zeros.floor(),
        Rounding::Ceil => zeros.ceil(),
    };
    (whole as usize).min(n)
}

/// One maskable layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Name of the mask variable without its `/mask` ending, e.g. `layer1`.
    pub name: String,
    /// Kernel shape: `[.., n_in, n_out]`.
    pub dims: Vec<usize>,
}

impl Layer {
    /// A layer of this name and shape.
    pub fn new(name: impl Into<String>, dims: impl Into<Vec<usize>>) -> Self {
        Self {
            name: name.into(),
            dims: dims.into(),
        }
    }

    /// Number of weights.
    ///
    /// # Errors
    /// [`Error::LayerShape`] when the product of the dimensions does not fit.
    fn elements(&self) -> Result<usize, Error> {
        let product = self.dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        product
            .filter(|&n| i64::try_from(n).is_ok())
            .ok_or_else(|| self.misshapen("fewer than 2^63 weights"))
    }

    fn misshapen(&self, expected: &'static str) -> Error {
        Error::LayerShape {
            name: self.name.clone(),
            dims: self.dims.clone(),
            expected,
        }
    }
}

/// Settings of [`budgets`].
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetOptions {
    /// How sparsity is distributed.
    pub distribution: Distribution,
    /// Share of zeros over the layers without a custom sparsity, in `[0, 1)`.
    pub sparsity: f64,
    /// Sparsities of single layers by name, in `[0, 1)`. STR ignores them, as in the original.
    pub custom: BTreeMap<String, f64>,
    /// Exponent of the ERK factor; 1 is the published rule, 0 gives all layers the same density. ER ignores it.
    pub power_scale: f64,
    /// Rounding of the number of zeros.
    pub rounding: Rounding,
}

impl BudgetOptions {
    /// The published rule for `distribution` at `sparsity`: no custom sparsities, power 1, rounding down.
    pub fn new(distribution: Distribution, sparsity: f64) -> Self {
        Self {
            distribution,
            sparsity,
            custom: BTreeMap::new(),
            power_scale: 1.0,
            rounding: Rounding::Floor,
        }
    }
}

/// Sparsity of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// Layer name.
    pub name: String,
    /// Kernel shape.
    pub dims: Vec<usize>,
    /// Requested share of zeros, before rounding.
    pub sparsity: f64,
    /// Number of zeros.
    pub zeros: usize,
    /// Number of ones; `zeros + nonzeros` is the number of weights.
    pub nonzeros: usize,
    /// Whether the layer is dense because its Erdős–Rényi density would exceed 1.
    pub saturated: bool,
    /// Whether the sparsity comes from [`BudgetOptions::custom`].
    pub custom: bool,
}

/// Sparsity and number of zeros of every layer, in the order given (reference 1.3, 1.4).
///
/// # Errors
/// A sparsity outside `[0, 1)` or a power that is not finite ([`Error::Value`]), a custom name that no layer has
/// ([`Error::MissingLayers`]), or a repeated layer name. STR: a sparsity or layer that its table lacks. ER and ERK: a layer
/// without weights, no layer left to scale ([`Error::NothingToScale`]), and for ER a layer with fewer than two dimensions
/// ([`Error::LayerShape`]).
pub fn budgets(layers: &[Layer], options: &BudgetOptions) -> Result<Vec<Budget>, Error> {
    check(layers, options)?;
    let shares = match options.distribution {
        Distribution::Uniform => layers.iter().map(|l| uniform(l, options)).collect(),
        Distribution::ErdosRenyi | Distribution::Erk => erdos_renyi(layers, options)?,
        Distribution::Str => super::str_table::shares(layers, options.sparsity)?
            .into_iter()
            .map(Share::Scaled)
            .collect(),
    };
    let budget = |(layer, share): (&Layer, Share)| {
        let n = layer.elements()?;
        let sparsity = match share {
            Share::Custom(sparsity) | Share::Scaled(sparsity) => sparsity,
            Share::Dense => 0.0,
        };
        let zeros = n_zeros(n, sparsity, options.rounding);
        Ok(Budget {
            name: layer.name.clone(),
            dims: layer.dims.clone(),
            sparsity,
            zeros,
            nonzeros: n - zeros,
            saturated: share == Share::Dense,
            custom: matches!(share, Share::Custom(_)),
        })
    };
    layers.iter().zip(shares).map(budget).collect()
}

/// Source of a layer's sparsity.
#[derive(Clone, Copy, PartialEq)]
enum Share {
    /// From [`BudgetOptions::custom`].
    Custom(f64),
    /// Dense, because scaling would give a density above 1.
    Dense,
    /// From the distribution: during Erdős–Rényi scaling the raw density, afterwards the sparsity.
    Scaled(f64),
}

fn uniform(layer: &Layer, options: &BudgetOptions) -> Share {
    options
        .custom
        .get(&layer.name)
        .map_or(Share::Scaled(options.sparsity), |&sparsity| Share::Custom(sparsity))
}

/// Reference 1.4: scales the raw densities to the budget of the network. While the largest density would exceed 1, makes the
/// layers that have it dense.
fn erdos_renyi(layers: &[Layer], options: &BudgetOptions) -> Result<Vec<Share>, Error> {
    let raw_share = |layer: &Layer| match options.custom.get(&layer.name) {
        Some(&sparsity) => Ok(Share::Custom(sparsity)),
        None => raw_density(layer, options).map(Share::Scaled),
    };
    let mut shares = layers.iter().map(raw_share).collect::<Result<Vec<_>, _>>()?;
    loop {
        let (mut ones, mut divisor, mut densest) = (0i64, 0.0, None::<f64>);
        for (layer, share) in layers.iter().zip(&shares) {
            let n = layer.elements()?;
            let zeros = n_zeros(n, options.sparsity, options.rounding);
            match *share {
                Share::Custom(_) => {}
                Share::Dense => ones -= zeros as i64,
                Share::Scaled(raw) => {
                    ones += (n - zeros) as i64;
                    divisor += raw * n as f64;
                    densest = Some(densest.map_or(raw, |d| d.max(raw)));
                }
            }
        }
        let densest = densest.ok_or_else(|| nothing_to_scale(&shares, options))?;
        let epsilon = ones as f64 / divisor;
        if !(densest * epsilon).is_finite() {
            return Err(power_error(options));
        }
        if densest * epsilon <= 1.0 {
            return Ok(map_scaled(shares, |raw| Share::Scaled(1.0 - epsilon * raw)));
        }
        shares = map_scaled(shares, |raw| {
            if raw == densest {
                Share::Dense
            } else {
                Share::Scaled(raw)
            }
        });
    }
}

fn map_scaled(shares: Vec<Share>, f: impl Fn(f64) -> Share) -> Vec<Share> {
    let map = |share| {
        if let Share::Scaled(value) = share {
            f(value)
        } else {
            share
        }
    };
    shares.into_iter().map(map).collect()
}

/// Density of a layer before scaling.
fn raw_density(layer: &Layer, options: &BudgetOptions) -> Result<f64, Error> {
    let n = layer.elements()?;
    if n == 0 {
        return Err(layer.misshapen("at least one weight for an Erdős–Rényi distribution"));
    }
    if options.distribution == Distribution::Erk {
        let sum: usize = layer.dims.iter().sum();
        return Ok((sum as f64 / n as f64).powf(options.power_scale));
    }
    match layer.dims[..] {
        [.., n_in, n_out] => Ok((n_in + n_out) as f64 / (n_in * n_out) as f64),
        _ => Err(layer.misshapen("at least two dimensions for the Erdős–Rényi distribution")),
    }
}

fn nothing_to_scale(shares: &[Share], options: &BudgetOptions) -> Error {
    let count = |is: fn(&Share) -> bool| shares.iter().filter(|s| is(s)).count();
    Error::NothingToScale {
        distribution: options.distribution.to_string(),
        layers: shares.len(),
        custom: count(|s| matches!(s, Share::Custom(_))),
        dense: count(|s| matches!(s, Share::Dense)),
    }
}

fn power_error(options: &BudgetOptions) -> Error {
    let expected = "a finite number for which every layer's density is one too";
    Error::Value {
        name: "power_scale".into(),
        found: options.power_scale.to_string(),
        expected,
    }
}

fn check(layers: &[Layer], options: &BudgetOptions) -> Result<(), Error> {
    check_sparsity("--sparsity".into(), options.sparsity)?;
    let names: BTreeSet<&str> = layers.iter().map(|l| l.name.as_str()).collect();
    let mut seen = BTreeSet::new();
    if let Some(twice) = layers.iter().find(|l| !seen.insert(&l.name)) {
        return Err(Error::DuplicateLayer {
            name: twice.name.clone(),
        });
    }
    let missing: Vec<String> = options
        .custom
        .keys()
        .filter(|k| !names.contains(k.as_str()))
        .cloned()
        .collect();
    if !missing.is_empty() {
        let near = missing.iter().flat_map(|name| nearest(name, names.iter().copied()));
        let near = near.collect::<BTreeSet<_>>().into_iter().collect();
        return Err(Error::MissingLayers {
            near,
            known: layers.iter().map(|layer| layer.name.clone()).collect(),
            names: missing,
        });
    }
    options
        .custom
        .iter()
        .try_for_each(|(name, &s)| check_sparsity(format!("custom sparsity of layer `{name}`"), s))?;
    if options.power_scale.is_finite() {
        Ok(())
    } else {
        Err(power_error(options))
    }
}

fn check_sparsity(name: String, sparsity: f64) -> Result<(), Error> {
    let expected = "a share of zeros in [0, 1)";
    if (0.0..1.0).contains(&sparsity) {
        Ok(())
    } else {
        Err(Error::Value {
            name,
            found: sparsity.to_string(),
            expected,
        })
    }
}
