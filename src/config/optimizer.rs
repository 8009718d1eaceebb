//! The optimizers by name, and what each keeps per parameter (reference 2.10).

use crate::sparse;

/// Rule of the gradient step. Slots and scalars have the names that TensorFlow gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optimizer {
    /// `V <- m V + g`, `W <- W - lr (g + m V)` with Nesterov's form, `W <- W - lr V` without.
    Momentum,
    /// `W <- W - lr g`.
    Sgd,
    /// Adam (arXiv 1412.6980) as TensorFlow computes it: the bias correction is in the rate.
    Adam,
}

impl Optimizer {
    /// Every optimizer with its name.
    pub const ALL: [(&str, Optimizer); 3] = [
        ("momentum", Optimizer::Momentum),
        ("sgd", Optimizer::Sgd),
        ("adam", Optimizer::Adam),
    ];

    /// The optimizer of this name.
    ///
    /// # Errors
    /// [`sparse::Error::Unknown`] with the nearest names.
    pub fn find(name: &str) -> Result<Self, sparse::Error> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        let names = Self::ALL.iter().map(|(known, _)| *known);
        found
            .map(|(_, rule)| *rule)
            .ok_or_else(|| sparse::Error::unknown("optimizer", name, names))
    }

    /// What follows a parameter's name in the names of its slots.
    pub fn slots(self) -> &'static [&'static str] {
        match self {
            Optimizer::Momentum => &["Momentum"],
            Optimizer::Sgd => &[],
            Optimizer::Adam => &["Adam", "Adam_1"],
        }
    }

    /// Names of the slots of a parameter.
    pub fn slots_of(self, param: &str) -> Vec<String> {
        self.slots().iter().map(|slot| format!("{param}/{slot}")).collect()
    }

    /// Names of the scalars that all parameters share.
    pub fn scalars(self) -> &'static [&'static str] {
        match self {
            Optimizer::Momentum | Optimizer::Sgd => &[],
            Optimizer::Adam => &["beta1_power", "beta2_power"],
        }
    }
}
