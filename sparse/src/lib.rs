//! Sparse training methods such as RigL, SET, SNFS and SNIP: layer budgets, masks, schedules and mask updates, on plain
//! arrays and as [`hlo`] graphs.
//!
//! A [`Method`] is a row of [`METHODS`]. It combines choices that have their own modules; the numbers refer to
//! `docs/reference.md`:
//!
//! | module | content | reference |
//! |---|---|---|
//! | [`distribution`] | how many zeros each layer gets | 1.1, 1.3-1.5 |
//! | [`mask`] | random initial masks | 1.2 |
//! | [`schedule`] | at which iterations masks change, and by what fraction | 2.2, 2.9 |
//! | [`method`] | by which scores connections are kept and grown, and when | 2.3-2.9 |
//! | [`reference`](mod@reference) | selection and mask updates on arrays; tests compare the graphs with it | 2.3-2.9 |
//! | [`select`], [`update`], [`bucketed`] | the same as graphs, for compiled training programs | 2.3-2.9 |
//! | [`dead_units`] | units without connections, and the network without them | 3.6 |
//! | [`rng`] | random numbers by seed, purpose, name and step | |
//! | [`names`] | "did you mean" suggestions | |
//!
//! Everything is pure: the same arguments give the same result on every machine and with every number of threads.
//!
//! # A mask update, step by step
//!
//! ```
//! use sparse::*;
//!
//! // How many connections: 8x6 and 4x3, Erdős–Rényi at 70 % zeros.
//! let layers = [Layer::new("first", [8, 6]), Layer::new("second", [4, 3])];
//! let kept = budgets(&layers, &BudgetOptions::new(Distribution::ErdosRenyi, 0.7))?;
//! assert_eq!([kept[0].zeros, kept[1].zeros], [35, 5]);
//!
//! // When: RigL every 3 steps, from step 0 to 8.
//! let schedule = Schedule { begin_step: 0, end_step: 8, frequency_steps: 3, drop_fraction: 0.3, anneal: Anneal::Cosine };
//! let updates: Vec<i64> = simulate(UpdateTiming::Replaces, &schedule, 20).filter_map(|tick| tick.update_at).collect();
//! assert_eq!(updates, [0, 3, 6]);
//!
//! // Which: the weakest active connection makes room for the entry with the largest gradient.
//! let (mut weights, mut mask, mut slots) = ([0.5, -0.1, 7.0], [true, true, false], [vec![1.0, 2.0, 3.0]]);
//! let layer = LayerState { weights: &mut weights, mask: &mut mask, slots: &mut slots };
//! let inputs = UpdateInputs { drop_fraction: 0.5, gradient: Some(&[0.0, 0.2, -0.9]), ..Default::default() };
//! let report = mask_update(Method::find("rigl")?, layer, &inputs)?;
//! assert_eq!((report.n_prune, report.n_grown), (1, 1));
//! assert_eq!((mask, weights), ([true, false, true], [0.5, -0.1, 0.0]));
//! assert_eq!(slots, [vec![1.0, 2.0, 0.0]]);
//!
//! // Pruning, too: SNIP keeps the two weights with the largest |gradient * weight|.
//! let (mut weights, mut mask) = ([0.5, -0.1, 7.0], [true; 3]);
//! let layer = LayerState { weights: &mut weights, mask: &mut mask, slots: &mut [] };
//! let inputs = UpdateInputs { loss_gradient: Some(&[0.1, 4.0, 0.2]), keep: Some(2), ..Default::default() };
//! mask_update(Method::find("snip")?, layer, &inputs)?;
//! assert_eq!(mask, [false, true, true]);
//!
//! // And how far gradual pruning has come.
//! let gradual = GradualPruning { begin_step: 0, end_step: 20, initial_sparsity: 0.0, target_sparsity: 0.8, exponent: 3.0 };
//! assert_eq!(GradualPruning::kept(100, gradual.density_at(10, 0.8)), 30);
//! # Ok::<(), sparse::Error>(())
//! ```
//!
//! # Masks of a whole network
//!
//! ```
#![doc = include_str!("../examples/on_arrays.rs")]
//! ```
#![forbid(unsafe_code)]

pub mod bucketed;
pub mod dead_units;
pub mod distribution;
mod error;
pub mod mask;
pub mod method;
pub mod names;
pub mod numpy_rng;
pub mod reference;
pub mod rng;
pub mod schedule;
pub mod select;
mod str_table;
pub mod update;

pub use distribution::{Budget, BudgetOptions, Distribution, Layer, Rounding, budgets, n_zeros};
pub use error::Error;
pub use mask::{MaskSeedCompat, initial_masks, random_mask};
pub use method::{DropScore, GrowInit, GrowScore, InitialMask, KeepCount, METHODS, Method, SlotReset};
pub use reference::{
    LayerState, UpdateInputs, UpdateReport, mask_update, sort_key, top_k, top_k_across_layers, update_average,
};
pub use schedule::{Anneal, Counters, GradualPruning, Schedule, Tick, UpdateTiming, simulate};

/// Number after the last underscore of `name`, when that tail is digits with an optional point; 1 without such a tail.
///
/// `foo_4`, `foo_0.5`, `foo_.5` and `foo_5.` carry a number, `foo` and `random_normal` do not (reference 2.2).
///
/// # Errors
/// [`Error::Suffix`] when the name ends in `_` or `_.`, which the original cannot convert to a number either.
pub fn trailing_number(name: &str) -> Result<f64, Error> {
    Ok(split_number(name)?.1.unwrap_or(1.0))
}

/// Splits `stem_<number>` into stem and number; a name without a number is all stem.
fn split_number(name: &str) -> Result<(&str, Option<f64>), Error> {
    let Some((stem, tail)) = name.rsplit_once('_') else {
        return Ok((name, None));
    };
    let numeric = tail.bytes().all(|b| b.is_ascii_digit() || b == b'.') && tail.matches('.').count() <= 1;
    if !numeric {
        return Ok((name, None));
    }
    match tail.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok((stem, Some(number))),
        _ => Err(Error::Suffix { name: name.to_owned() }),
    }
}

/// `stem` or, for a number other than 1, `stem_<number>`: the inverse of [`split_number`].
fn join_number(stem: &str, number: f64) -> String {
    if number == 1.0 {
        stem.to_owned()
    } else {
        format!("{stem}_{number}")
    }
}

/// Serialises a type by its `Display` and `FromStr`, so that files spell choices as flags do.
macro_rules! serde_by_name {
    ($($type:ty),+) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <String as serde::Deserialize>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}
serde_by_name!(Distribution, Rounding, Anneal, MaskSeedCompat, GrowInit);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn trailing_numbers_follow_the_original() {
        for (name, want) in [
            ("foo_.5", 0.5),
            ("foo_foo_0.5", 0.5),
            ("foo_4", 4.0),
            ("foo_5.", 5.0),
            ("a_1_2", 2.0),
            ("foo", 1.0),
            ("random_normal", 1.0),
            ("foo_-3", 1.0),
            ("foo_1e3", 1.0),
            ("foo_1.2.3", 1.0),
            ("", 1.0),
        ] {
            assert_eq!(trailing_number(name).unwrap(), want, "{name}");
        }
        for name in ["foo_", "foo_.", "_"] {
            assert!(matches!(trailing_number(name), Err(Error::Suffix { .. })), "{name}");
        }
    }

    #[test]
    fn names_survive_serialisation() {
        let all = r#"["erdos_renyi_kernel","ceil","exponential_0.5","numpy","grad_scale_10"]"#;
        let parsed: (Distribution, Rounding, Anneal, MaskSeedCompat, GrowInit) = serde_json::from_str(all).unwrap();
        assert_eq!(serde_json::to_string(&parsed).unwrap(), all);
        assert!(
            serde_json::from_str::<Anneal>("\"cosin\"")
                .unwrap_err()
                .to_string()
                .contains("'cosine'")
        );
    }
}
