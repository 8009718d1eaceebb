//! Sparse training methods as rows of one table (reference 2.3-2.9), and the initial values of new connections.
//!
//! Every mask update keeps some entries by one score and grows others by a second score. A row names the scores, the number
//! of entries to keep, and the time of the update relative to the gradient step. To add a method, add a row, and a variant
//! if its score is new. One-shot pruning is an update that happens once, at step 0, instead of a gradient step.

use std::{fmt, str::FromStr};

use super::error::Error;
use super::schedule::UpdateTiming;
use super::{join_number, split_number};
use crate::names::{Unknown, nearest};

/// Masks before the first iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialMask {
    /// Random, with the budgeted zeros (reference 1.2).
    Random,
    /// All ones.
    Ones,
}

/// Score by which an update keeps entries; the largest are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropScore {
    /// No update.
    None,
    /// `|mask * weight|` plus normal noise of standard deviation [`super::reference::DROP_NOISE_STD`] on every entry.
    NoisyMagnitude,
    /// `|weight|`, inactive weights included, without noise.
    Magnitude,
    /// `|g * weight|`, with `g` the gradient of the whole loss, L2 term included (SNIP, reference 2.7).
    Saliency,
    /// `weight * Hg`: how much the gradient's norm shrinks when the weight is removed (GraSP, arXiv 2002.07376, equation 8,
    /// which removes the largest `-weight * Hg`).
    GradientFlow,
}

/// How many entries an update keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepCount {
    /// All connections except the drop fraction. As many grow, so the number of ones stays the same.
    Connections,
    /// The number of ones in the layer's budget; nothing grows.
    Budget,
    /// The number of ones in all budgets together, ranked across layers; nothing grows.
    TotalBudget,
    /// The number that the schedule of gradual pruning gives for this step. All ties at the threshold are kept; nothing grows
    /// (reference 2.9).
    Gradual,
}

/// Score by which connections grow; the largest among all entries not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrowScore {
    /// Nothing grows.
    None,
    /// Uniform random numbers in `[0, 1)`.
    Uniform,
    /// `|G|`, with `G` the gradient of the loss with respect to the masked kernel: dense, and free of weight decay.
    Gradient,
    /// `-|G|`: where the gradient is smallest (reference 2.11).
    InvertedGradient,
    /// `|E|`, with `E` the moving average of `G` (reference 2.5).
    Momentum,
    /// The mask, so that exactly the dropped connections grow back (reference 2.6).
    Mask,
}

/// Initial value of the optimizer slots of new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotReset {
    /// 0.
    Zero,
    /// `G * initial_acc_scale`, a scale of 0 by default.
    ScaledGradient,
}

/// One sparse training method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Name in flags, configurations and reports.
    pub name: &'static str,
    /// Other accepted names.
    pub aliases: &'static [&'static str],
    /// One line of description.
    pub summary: &'static str,
    /// Whether maskable layers have masks.
    pub masked: bool,
    /// Masks before the first iteration.
    pub initial_mask: InitialMask,
    /// When updates happen relative to the gradient step.
    pub timing: UpdateTiming,
    /// Score by which an update keeps entries.
    pub drop: DropScore,
    /// How many entries it keeps.
    pub keep: KeepCount,
    /// Score by which it grows connections.
    pub grow: GrowScore,
    /// Initial value of the slots of new connections.
    pub slots: SlotReset,
    /// Whether weights are trained by the dense gradient, straight through the mask and without weight decay (reference 2.8).
    pub straight_through: bool,
    /// Whether the share of weights that were ever active is tracked (ITOP, arXiv 2102.02887).
    pub tracks_exploration: bool,
}

/// Random masks, fixed for the whole run; the other rows start from this one.
const FIXED: Method = Method {
    name: "scratch",
    aliases: &[],
    summary: "random masks, fixed for the whole run",
    masked: true,
    initial_mask: InitialMask::Random,
    timing: UpdateTiming::None,
    drop: DropScore::None,
    keep: KeepCount::Connections,
    grow: GrowScore::None,
    slots: SlotReset::Zero,
    straight_through: false,
    tracks_exploration: false,
};

const SET: Method = Method {
    name: "set",
    summary: "drops the smallest weights and grows random connections, after a gradient step",
    timing: UpdateTiming::After,
    drop: DropScore::NoisyMagnitude,
    grow: GrowScore::Uniform,
    ..FIXED
};

const RIGL: Method = Method {
    name: "rigl",
    summary: "drops the smallest weights and grows where the dense gradient is largest, instead of a gradient step",
    timing: UpdateTiming::Replaces,
    drop: DropScore::NoisyMagnitude,
    grow: GrowScore::Gradient,
    slots: SlotReset::ScaledGradient,
    ..FIXED
};

const SNIP: Method = Method {
    name: "snip",
    summary: "keeps the weights with the largest |gradient * weight| of the first batch, layer by layer",
    initial_mask: InitialMask::Ones,
    timing: UpdateTiming::Once,
    drop: DropScore::Saliency,
    keep: KeepCount::Budget,
    ..FIXED
};

/// Every method.
pub static METHODS: &[Method] = &[
    Method {
        name: "dense",
        aliases: &["baseline"],
        summary: "no masks: every weight is trained",
        masked: false,
        ..FIXED
    },
    FIXED,
    Method {
        name: "static",
        summary: "fixed random masks; periodically re-initialises the weakest weights",
        grow: GrowScore::Mask,
        ..SET
    },
    SET,
    Method {
        name: "snfs",
        aliases: &["momentum"],
        summary: "as set, but grows where a moving average of the dense gradient is largest",
        grow: GrowScore::Momentum,
        ..SET
    },
    RIGL,
    Method {
        name: "rigl-inverted",
        aliases: &["rigl_inverted"],
        summary: "as rigl, but grows where the dense gradient is smallest: a control",
        grow: GrowScore::InvertedGradient,
        slots: SlotReset::Zero,
        ..RIGL
    },
    SNIP,
    Method {
        name: "grasp",
        summary: "keeps the weights that the gradient's norm needs most on the first batch, over all layers",
        drop: DropScore::GradientFlow,
        keep: KeepCount::TotalBudget,
        ..SNIP
    },
    Method {
        name: "dnw",
        summary: "keeps the largest weights after every step and trains all of them by the dense gradient",
        initial_mask: InitialMask::Ones,
        timing: UpdateTiming::Every,
        drop: DropScore::Magnitude,
        keep: KeepCount::Budget,
        straight_through: true,
        ..FIXED
    },
    Method {
        name: "prune",
        aliases: &["gradual", "gmp"],
        summary: "gradual magnitude pruning: dense at first, then ever fewer of the largest weights",
        initial_mask: InitialMask::Ones,
        timing: UpdateTiming::AfterInterval,
        drop: DropScore::Magnitude,
        keep: KeepCount::Gradual,
        ..FIXED
    },
    Method {
        name: "set-itop",
        summary: "set, and the share of weights ever active; meant for long intervals",
        tracks_exploration: true,
        ..SET
    },
    Method {
        name: "rigl-itop",
        summary: "rigl, and the share of weights ever active; meant for long intervals",
        tracks_exploration: true,
        ..RIGL
    },
];

impl Method {
    /// The method of this name or alias.
    ///
    /// # Errors
    /// [`Error::Unknown`] with the nearest names.
    pub fn find(name: &str) -> Result<&'static Self, Error> {
        let found = METHODS.iter().find(|m| m.name == name || m.aliases.contains(&name));
        found.ok_or_else(|| Error::unknown("method", name, METHODS.iter().flat_map(Self::names)))
    }

    /// The name, then the aliases.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// Whether masks change during training.
    pub fn updates_masks(&self) -> bool {
        self.timing != UpdateTiming::None
    }

    /// Whether an update replaces a fraction of the connections, instead of pruning.
    pub fn replaces_connections(&self) -> bool {
        self.updates_masks() && self.keep == KeepCount::Connections
    }

    /// Whether connections grow by the dense gradient of the update's batch.
    pub fn grows_by_gradient(&self) -> bool {
        matches!(self.grow, GrowScore::Gradient | GrowScore::InvertedGradient)
    }

    /// Whether an update also changes layers without zeros: it re-initialises weights, or prunes them.
    pub fn updates_dense_layers(&self) -> bool {
        self.grow == GrowScore::Mask || self.keep == KeepCount::Gradual
    }

    /// Checks that new connections can start from `init` under this method.
    ///
    /// # Errors
    /// [`Error::GrowInit`] when `init` needs the dense gradient and the method does not compute it.
    pub fn check_grow_init(&self, init: GrowInit) -> Result<(), Error> {
        if init.needs_gradient() && self.slots != SlotReset::ScaledGradient {
            return Err(Error::GrowInit {
                method: self.name,
                grow_init: init.to_string(),
            });
        }
        Ok(())
    }
}

/// Initial weights of new connections. The number is a divisor, 1 by default (reference 2.3).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum GrowInit {
    /// 0.
    #[default]
    Zeros,
    /// A fresh, shuffled sample of the layer's initialiser.
    InitialDist(f64),
    /// Normal with the standard deviation of all raw weights of the layer, active and inactive.
    RandomNormal(f64),
    /// Uniform in plus or minus the mean absolute raw weight of the layer, active and inactive.
    RandomUniform(f64),
    /// The dense gradient. Only for methods that reset slots by it, such as RigL.
    GradScale(f64),
    /// The sign of the dense gradient, for the same methods.
    GradSign(f64),
}

impl GrowInit {
    /// Whether it needs the dense gradient.
    pub fn needs_gradient(self) -> bool {
        matches!(self, Self::GradScale(_) | Self::GradSign(_))
    }
}

impl FromStr for GrowInit {
    type Err = Error;

    /// `zeros`, or one of the other names with an optional `_<divisor>`: `grad_scale_10`.
    fn from_str(name: &str) -> Result<Self, Error> {
        const NAMES: [&str; 6] = [
            "zeros",
            "initial_dist",
            "random_normal",
            "random_uniform",
            "grad_scale",
            "grad_sign",
        ];
        let (stem, number) = split_number(name)?;
        let divisor = number.unwrap_or(1.0);
        if divisor == 0.0 {
            let name = format!("divisor of grow-init `{name}`");
            return Err(Error::Value {
                name,
                found: "0".into(),
                expected: "a number above 0",
            });
        }
        match stem {
            "zeros" if number.is_none() => Ok(Self::Zeros),
            "initial_dist" => Ok(Self::InitialDist(divisor)),
            "random_normal" => Ok(Self::RandomNormal(divisor)),
            "random_uniform" => Ok(Self::RandomUniform(divisor)),
            "grad_scale" => Ok(Self::GradScale(divisor)),
            "grad_sign" => Ok(Self::GradSign(divisor)),
            _ => Err(Error::Unknown(Unknown {
                what: "grow-init",
                found: name.to_owned(),
                near: nearest(stem, NAMES),
                known: NAMES
                    .map(|n| {
                        if n == "zeros" {
                            n.into()
                        } else {
                            format!("{n}[_<divisor>]")
                        }
                    })
                    .into(),
            })),
        }
    }
}

impl fmt::Display for GrowInit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (stem, divisor) = match *self {
            Self::Zeros => ("zeros", 1.0),
            Self::InitialDist(d) => ("initial_dist", d),
            Self::RandomNormal(d) => ("random_normal", d),
            Self::RandomUniform(d) => ("random_uniform", d),
            Self::GradScale(d) => ("grad_scale", d),
            Self::GradSign(d) => ("grad_sign", d),
        };
        f.pad(&join_number(stem, divisor))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_found_by_name_and_alias() {
        assert_eq!(Method::find("baseline").unwrap().name, "dense");
        for method in METHODS {
            assert_eq!(Method::find(method.name).unwrap(), method);
            assert_eq!(
                method.updates_masks(),
                method.drop != DropScore::None,
                "{}",
                method.name
            );
            assert_eq!(
                method.replaces_connections(),
                method.grow != GrowScore::None,
                "{}",
                method.name
            );
        }
        assert!(
            Method::find("rilg")
                .unwrap_err()
                .to_string()
                .contains("did you mean 'rigl'?")
        );
    }

    #[test]
    fn names_of_grow_init_parse_and_print() {
        for (name, want) in [
            ("zeros", GrowInit::Zeros),
            ("initial_dist", GrowInit::InitialDist(1.0)),
            ("random_normal_2", GrowInit::RandomNormal(2.0)),
            ("random_uniform_0.5", GrowInit::RandomUniform(0.5)),
            ("grad_scale_10", GrowInit::GradScale(10.0)),
            ("grad_sign", GrowInit::GradSign(1.0)),
        ] {
            assert_eq!(name.parse::<GrowInit>().unwrap(), want);
            assert_eq!(want.to_string(), name);
        }
        for name in [
            "ones",
            "zero",
            "",
            "0",
            "zeros_2",
            "initial_value",
            "grad_scale_x",
            "grad_scale_",
            "grad_sign_0",
        ] {
            assert!(name.parse::<GrowInit>().is_err(), "{name}");
        }
    }

    #[test]
    fn gradient_growth_values_are_for_rigl_only() {
        let gradient = GrowInit::GradScale(1.0);
        assert!(Method::find("rigl").unwrap().check_grow_init(gradient).is_ok());
        assert!(Method::find("set").unwrap().check_grow_init(gradient).is_err());
        assert!(
            Method::find("set")
                .unwrap()
                .check_grow_init(GrowInit::RandomNormal(1.0))
                .is_ok()
        );
    }
}
